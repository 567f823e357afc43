"""What every op that turns one float array (and perhaps more) into another has to do alike."""

from __future__ import annotations

import threading
import tracemalloc

import awkward_arrays
import numpy as np
import pytest

from lamella import ops, utils


def as_tuple(y):
    return y if isinstance(y, tuple) else (y,)


def forward_and_backward(name, arrays, options, dy=None):
    """The results and the gradients, in one list.

    `dy` is the gradient of the only result, or a tuple with one of each; drawn where it is not
    given.
    """
    y, pullback = getattr(ops, name).vjp(*arrays, **options)
    dys = gradients_like(y) if dy is None else as_tuple(dy)
    return [*as_tuple(y), *pullback(*dys)]


def gradient_like(y):
    return np.random.default_rng(y.size).standard_normal(y.shape).astype(np.float32)


def gradients_like(results):
    """One for each result, unequal."""
    return tuple(
        np.random.default_rng([y.size, i]).standard_normal(y.shape).astype(np.float32)
        for i, y in enumerate(as_tuple(results))
    )


def assert_same_bits(results, expected):
    for result, right in zip(results, expected, strict=True):
        assert (result is None) == (right is None)
        if right is not None:
            assert result.shape == right.shape
            assert result.tobytes() == right.tobytes()


def assert_same_gradients(name, gradients, expected, needs):
    """Bitwise, whatever else is asked for, with one exception.

    A convolution's bias gradient is a by-product of its kernel's; asked for without the kernel's it
    is a sum of its own, in another order.
    """
    for i, (gradient, right, need) in enumerate(zip(gradients, expected, needs, strict=True)):
        own_sum = i == 2 and name.startswith("conv") and not needs[1]
        if need and right is not None and own_sum:
            scale = np.abs(right).max()
            np.testing.assert_allclose(gradient, right, rtol=1e-5, atol=1e-5 * scale)
        else:
            assert_same_bits([gradient], [right if need else None])


def check_forward_alone_is_the_same(name, arrays, options):
    y, _ = getattr(ops, name).vjp(*arrays, **options)
    assert_same_bits(as_tuple(getattr(ops, name)(*arrays, **options)), as_tuple(y))


def check_nothing_is_changed_or_shared(name, arrays, options):
    before = [None if a is None else a.copy() for a in arrays]
    results = forward_and_backward(name, arrays, options)
    for array, old in zip(arrays, before, strict=True):
        if array is not None:
            np.testing.assert_array_equal(array, old)
            assert not any(np.shares_memory(array, r) for r in results if r is not None)


def check_layouts(name, arrays, options):
    """Arrays in odd layouts give what contiguous ones give, and so does an odd dy."""
    dys = gradients_like(getattr(ops, name)(*arrays, **options))
    expected = forward_and_backward(name, arrays, options, dys)
    for layout in awkward_arrays.LAYOUTS.values():
        with np.errstate(invalid="ignore"):  # gaps are filled with NaN, between integers too
            odd = [None if a is None else layout(a) for a in arrays]
        odd_dys = tuple(layout(dy) for dy in dys)
        assert_same_bits(forward_and_backward(name, odd, options, odd_dys), expected)


def check_thread_counts(name, arrays, options):
    expected = None
    for threads in (1, 2, 5):
        utils.set_num_threads(threads)
        results = forward_and_backward(name, arrays, options)
        expected = expected or results
        assert_same_bits(results, expected)


def check_pullback(name, arrays, options):
    """Called again, from another thread, with `out`, with None, with too few `needs`."""
    count = len(arrays)
    y, pullback = getattr(ops, name).vjp(*arrays, **options)
    dys = gradients_like(y)
    expected = pullback(*dys)
    assert_same_bits(pullback(*dys), expected)

    found = []
    thread = threading.Thread(target=lambda: found.append(pullback(*dys)))
    thread.start()
    thread.join()
    assert_same_bits(found[0], expected)

    out = [None if g is None else np.full_like(g, np.nan) for g in expected]
    for gradient, place in zip(pullback(*dys, out=out), out, strict=True):
        assert gradient is place
    assert_same_bits(out, expected)
    assert_same_bits(pullback(*dys, out=[None] * count), expected)

    for gradient in pullback(*[None] * len(dys)):
        assert gradient is None or not np.any(gradient)
    for wanted in range(count):
        needs = tuple(i == wanted for i in range(count))
        _, one = getattr(ops, name).vjp(*arrays, **options, needs=needs)
        assert_same_gradients(name, one(*dys), expected, needs)


def check_pullback_refuses(name, arrays, options):
    count = len(arrays)
    y, pullback = getattr(ops, name).vjp(*arrays, **options)
    dys = gradients_like(y)
    dy, *others = dys
    for wrong in ((), [dy] * (len(dys) + 1)):
        with pytest.raises(ValueError, match=f"{name}: the pullback takes"):
            pullback(*wrong)
    for wrong in (dy[None], dy[..., :-1], np.concatenate([dy, dy])):
        with pytest.raises(ValueError, match=f"{name}: dy must have shape"):
            pullback(wrong, *others)
    for wrong in awkward_arrays.NOT_FLOAT32_ARRAYS.values():
        if wrong is not None:
            with pytest.raises(TypeError, match=f"{name}: dy must be"):
                pullback(wrong, *others)
    with pytest.raises(ValueError, match=f"{name}: out must have {count} entries"):
        pullback(*dys, out=[None] * (count + 1))
    with pytest.raises(ValueError, match=f"{name}: needs must have {count} entries"):
        getattr(ops, name).vjp(*arrays, **options, needs=[True] * (count + 1))

    def with_first(out):
        return pullback(*dys, out=[out, *[None] * (count - 1)])

    x = arrays[0]
    with pytest.raises(ValueError, match=f"{name}: out must have shape"):
        with_first(np.zeros((*x.shape, 1), np.float32))
    with pytest.raises(TypeError, match=f"{name}: out must be float32"):
        with_first(np.zeros(x.shape))
    for layout in ("with gaps", "backwards", "misaligned", "read-only"):
        with pytest.raises(ValueError, match=f"{name}: out is written in place"):
            with_first(awkward_arrays.LAYOUTS[layout](np.zeros(x.shape, np.float32)))
    memory = np.zeros(x.size + dy.size, np.float32)
    memory[: dy.size] = dy.ravel()
    with pytest.raises(ValueError, match=f"{name}: out is written and must not overlap dy"):
        pullback(memory[: dy.size].reshape(dy.shape), *others, out=[
            memory[dy.size - 1 : dy.size - 1 + x.size].reshape(x.shape), *[None] * (count - 1)
        ])  # fmt: skip


def check_only_float32_arrays(name, arrays, options, position=0, argument="x", optional=False):
    """The argument at `position` is refused in every other form, in both directions."""
    for kind, wrong in awkward_arrays.NOT_FLOAT32_ARRAYS.items():
        if optional and wrong is None:
            continue
        changed = [*arrays[:position], wrong, *arrays[position + 1 :]]
        for function in (getattr(ops, name), getattr(ops, name).vjp):
            with pytest.raises(TypeError, match=f"^{name}: {argument} must be"):
                function(*changed, **options)
                pytest.fail(kind)


def check_refused_before_allocating(name, arrays, options, error, message):
    """The options are refused, in both directions, without memory of the size they ask for."""
    for function in (getattr(ops, name), getattr(ops, name).vjp):
        tracemalloc.start()
        try:
            with pytest.raises(error, match=message):
                function(*arrays, **options)
            assert tracemalloc.get_traced_memory()[1] < 1 << 20
        finally:
            tracemalloc.stop()
