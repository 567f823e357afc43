"""What dense, matmul and the convolutions promise alike, apart from their values."""

from __future__ import annotations

import itertools
import threading

import awkward_arrays
import numpy as np
import op_checks
import products
import pytest

from lamella import ops

# name of the case: (op, shapes of its arrays, options)
CASES = {
    "dense": ("dense", [(4, 3, 9), (9, 18), (18,)], {"activation": "tanh"}),
    "dense, linear": ("dense", [(40, 33), (33, 17), (17,)], {}),
    "dense, z kept": ("dense", [(7, 9), (9, 20), (20,)], {"activation": "gelu"}),
    "conv1d": (
        "conv1d",
        [(2, 11, 6), (3, 2, 9), (9,)],
        {"groups": 3, "padding": "causal", "activation": "relu"},
    ),
    "conv2d": (
        "conv2d",
        [(2, 7, 6, 5), (3, 2, 5, 17), (17,)],
        {"padding": "same", "strides": 2, "activation": "elu"},
    ),
    "conv2d, z kept": ("conv2d", [(1, 5, 6, 4), (2, 2, 4, 9), (9,)], {"activation": "silu"}),
    "depthwise": ("conv2d", [(2, 7, 6, 5), (3, 2, 1, 10), (10,)], {"groups": 5, "padding": 1}),
    "conv2d_transpose": (
        "conv2d_transpose",
        [(2, 4, 5, 6), (3, 3, 7, 6), (7,)],
        {"strides": 2, "padding": "same", "activation": "sigmoid"},
    ),
}
MATMUL = ("matmul", [(3, 1, 9, 5), (4, 9, 17)], {"transpose_a": True})

each_case = pytest.mark.parametrize("case", CASES)
each_case_and_matmul = pytest.mark.parametrize("case", [*CASES, "matmul"])


def arrays_of(case, rng):
    """(op, arrays, options)"""
    name, shapes, options = MATMUL if case == "matmul" else CASES[case]
    return name, [products.normal(rng, shape, 0.5) for shape in shapes], options


@each_case_and_matmul
def test_arrays_of_any_layout(case, backend, rng):
    op_checks.check_layouts(*arrays_of(case, rng))


@each_case_and_matmul
def test_each_array_alone_of_any_layout(case, rng):
    name, arrays, options = arrays_of(case, rng)
    expected = op_checks.forward_and_backward(name, arrays, options)
    for i, layout in itertools.product(range(len(arrays)), awkward_arrays.LAYOUTS.values()):
        odd = [layout(a) if i == j else a for j, a in enumerate(arrays)]
        op_checks.assert_same_bits(op_checks.forward_and_backward(name, odd, options), expected)


@each_case_and_matmul
def test_nothing_is_changed_or_shared(case, backend, rng):
    op_checks.check_forward_alone_is_the_same(*arrays_of(case, rng))
    op_checks.check_nothing_is_changed_or_shared(*arrays_of(case, rng))


@each_case_and_matmul
def test_pullback(case, backend, rng):
    op_checks.check_pullback(*arrays_of(case, rng))
    name, (x, kernel, *bias), options = arrays_of(case, rng)
    if bias:
        op_checks.check_pullback(name, [x, kernel, None], options)


@pytest.mark.parametrize("shapes", [[(0, 2, 3), (3, 4)], [(2, 3), (3, 0)]], ids=str)
def test_gradients_of_an_empty_product_are_zeros_in_the_callers_arrays(shapes, backend):
    a, b = (np.ones(shape, np.float32) for shape in shapes)
    y, pullback = ops.matmul.vjp(a, b)
    into = [np.full_like(a, np.nan), np.full_like(b, np.nan)]
    for gradient, place in zip(pullback(y, out=into), into, strict=True):
        assert gradient is place
        assert not np.any(place)


@each_case_and_matmul
def test_every_combination_of_gradients(case, backend, rng):
    name, arrays, options = arrays_of(case, rng)
    y, pullback = getattr(ops, name).vjp(*arrays, **options)
    dy = op_checks.gradient_like(y)
    expected = pullback(dy)
    for needs in itertools.product((False, True), repeat=len(arrays)):
        _, some = getattr(ops, name).vjp(*arrays, **options, needs=needs)
        into = [np.full_like(a, np.nan) for a in arrays]
        results = some(dy, out=into)
        op_checks.assert_same_gradients(name, results, expected, needs)
        for result, place, need in zip(results, into, needs, strict=True):
            if need:
                assert result is place
            else:
                assert np.isnan(place).all()


@each_case_and_matmul
def test_pullback_refuses(case, rng):
    name, arrays, options = arrays_of(case, rng)
    names = ("a", "b") if name == "matmul" else ("x", "kernel")
    y, pullback = getattr(ops, name).vjp(*arrays, **options)
    dy = op_checks.gradient_like(y)
    for wrong in ((), (dy, dy)):
        with pytest.raises(ValueError, match=f"^{name}: the pullback takes 1 gradient, got"):
            pullback(*wrong)
    for wrong in (dy[None], dy[..., :-1], np.concatenate([dy, dy])):
        with pytest.raises(ValueError, match=f"^{name}: dy must have shape .*, got"):
            pullback(wrong)
    for wrong in awkward_arrays.NOT_FLOAT32_ARRAYS.values():
        if wrong is not None:
            with pytest.raises(TypeError, match=f"^{name}: dy must be"):
                pullback(wrong)
    right = len(arrays)
    for count in (0, right - 1, right + 1):
        entries = f"must have {right} entries, got {count}"
        with pytest.raises(ValueError, match=f"^{name}: out {entries}"):
            pullback(dy, out=[None] * count)
        with pytest.raises(ValueError, match=f"^{name}: needs {entries}"):
            getattr(ops, name).vjp(*arrays, **options, needs=[True] * count)
    for i, array in enumerate(arrays):
        place = rf"^{name}: out\[{i}\]"
        into = [None] * right

        def refused(error, message, wrong, i=i, into=into, place=place):
            into[i] = wrong
            with pytest.raises(error, match=f"{place} {message}"):
                pullback(dy, out=into)

        refused(ValueError, "must have shape", np.zeros((*array.shape, 1), np.float32))
        refused(ValueError, "must have shape", np.zeros(array.size + 1, np.float32))
        refused(TypeError, "must be float32", np.zeros(array.shape))
        refused(TypeError, "must be a NumPy array, got list", array.tolist())
        for layout in ("with gaps", "backwards", "misaligned", "read-only"):
            odd = awkward_arrays.LAYOUTS[layout](array)
            refused(ValueError, "is written in place", odd)
        # Memory that is read while the gradients are written.
        for source, text in zip((*arrays[:2], dy), (*names, "dy"), strict=True):
            if source.size >= array.size:
                overlapping = source.reshape(-1)[source.size - array.size :].reshape(array.shape)
                before = source.copy()
                refused(ValueError, f"is written and must not overlap {text}", overlapping)
                np.testing.assert_array_equal(source, before)
    first, second = arrays[-2:]
    memory = np.zeros(first.size + second.size - 1, np.float32)
    both = [None] * right
    both[-2] = memory[: first.size].reshape(first.shape)
    both[-1] = memory[first.size - 1 :].reshape(second.shape)
    overlap = rf"out\[{right - 2}\] .* must not overlap out\[{right - 1}\]"
    with pytest.raises(ValueError, match=f"^{name}: {overlap}"):
        pullback(dy, out=both)
    assert not np.any(memory)


@each_case_and_matmul
def test_only_float32_arrays(case, rng):
    name, arrays, options = arrays_of(case, rng)
    names = ("a", "b") if name == "matmul" else ("x", "kernel", "bias")
    for position, argument in enumerate(names):
        op_checks.check_only_float32_arrays(
            name, arrays, options, position, argument, optional=argument == "bias"
        )


@each_case_and_matmul
def test_calls_from_many_threads(case, backend, rng):
    name, arrays, options = arrays_of(case, rng)
    expected = op_checks.forward_and_backward(name, arrays, options)
    found = []

    def call():
        found.extend(op_checks.forward_and_backward(name, arrays, options) for _ in range(10))

    threads = [threading.Thread(target=call) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 40
    for results in found:
        op_checks.assert_same_bits(results, expected)


@each_case
def test_inputs_changed_after_forward(case, rng):
    """Gradients of the old or of the new values, nothing else; a changed shape is refused."""
    name, (x, kernel, bias), options = arrays_of(case, rng)
    y, pullback = getattr(ops, name).vjp(x, kernel, bias, **options)
    dy = op_checks.gradient_like(y)
    kernel *= 2
    dx = pullback(dy)[0]
    with_new = getattr(ops, name).vjp(x, kernel, bias, **options)
    if options.get("activation") is None:
        op_checks.assert_same_bits([dx], [with_new[1](dy)[0]])
    assert np.isfinite(dx).all()
    x.resize((*x.shape[:-1], x.shape[-1] + 1), refcheck=False)
    with pytest.raises(ValueError, match=f"^{name}: (kernel must have|groups must divide)"):
        pullback(dy)
