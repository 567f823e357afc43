"""add, multiply, concatenate and accumulate_: values, gradients, what they refuse."""

from __future__ import annotations

import math
import threading

import awkward_arrays
import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from reference import OPS
from tolerances import assert_close

from lamella import _cpu, ops, utils

# Shapes for every path of the kernels: equal, scalars, short and long rows, repeated axes first,
# last, between and on both sides, sums over more than one block, sizes with tails.
SHAPES = [
    ((), ()),
    ((1,), ()),
    ((7,), (7,)),
    ((40001,), (40001,)),
    ((40001,), (1,)),
    ((), (3, 5)),
    ((3, 4, 5, 6), (6,)),
    ((3, 4, 5, 67), (67,)),
    ((5000, 3), (3,)),
    ((5000, 3), (5000, 1)),
    ((1, 9), (20011, 9)),
    ((2, 7, 5, 33), (2, 1, 1, 33)),
    ((2, 7, 5, 3), (2, 1, 1, 3)),
    ((2, 150, 150, 1), (2, 1, 1, 1)),
    ((3, 8, 40), (8, 1)),
    ((2, 3, 90, 80), (3, 1, 1)),
    ((2, 5000), (1, 5000)),
    ((200, 5000), (1, 5000)),
    ((70, 1), (1, 300)),
    ((2, 1, 4), (3, 1)),
    ((1, 5, 1, 6, 1, 2), (4, 1, 3, 1, 2, 1)),
    ((2, 1, 3, 1, 5, 1, 2), (2, 4, 3, 2, 5, 3, 2)),
    ((0,), (1,)),
    ((0,), ()),
    ((3, 0, 4), (3, 1, 4)),
    ((1, 4), (0, 4)),
    ((2, 1), (2, 0)),
]
OPERATIONS = ("add", "multiply")

each_operation = pytest.mark.parametrize("name", OPERATIONS)


def repeats(result_shape, shape):
    """How many elements of the result one element of an operand goes into."""
    return math.prod(result_shape) // max(1, math.prod(shape)) if math.prod(result_shape) else 1


def check_gradients(name, arrays, dy, gradients, reductions):
    expected = OPS[name].backward(dy, *arrays)
    for array, gradient, right, k in zip(arrays, gradients, expected, reductions, strict=True):
        assert gradient.shape == array.shape
        largest = max(np.max(np.abs(v), initial=0.0) for v in arrays) if name == "multiply" else 1.0
        scale = None if k == 1 else math.sqrt(k) * largest * np.max(np.abs(dy), initial=0.0)
        assert_close(gradient, right, name, "backward", k, scale)


def check(name, a, b, rng):
    y = getattr(ops, name)(a, b)
    assert_close(y, OPS[name].forward(a, b), name, "forward")
    same_y, pullback = getattr(ops, name).vjp(a, b)
    np.testing.assert_array_equal(same_y, y)
    dy = np.asarray(rng.standard_normal(y.shape), np.float32)
    gradients = pullback(dy)
    check_gradients(name, (a, b), dy, gradients, [repeats(y.shape, v.shape) for v in (a, b)])
    for result in (y, *gradients):
        assert not any(np.shares_memory(result, argument) for argument in (a, b, dy))


@each_operation
@pytest.mark.parametrize("swapped", [False, True])
@pytest.mark.parametrize("shapes", SHAPES, ids=str)
def test_broadcasting(name, shapes, swapped, backend, rng):
    a, b = (np.asarray(rng.standard_normal(shape), np.float32) for shape in shapes)
    check(name, *((b, a) if swapped else (a, b)), rng)


@each_operation
@hypothesis.settings(
    max_examples=80,
    deadline=None,
    suppress_health_check=[hypothesis.HealthCheck.function_scoped_fixture],
)
@hypothesis.given(
    shapes=hnp.mutually_broadcastable_shapes(num_shapes=2, min_side=0, max_side=5, max_dims=6),
    seed=st.integers(0, 2**32),
)
def test_any_shapes(name, backend, shapes, seed):
    rng = np.random.default_rng(seed)
    a, b = (np.asarray(rng.standard_normal(s), np.float32) for s in shapes.input_shapes)
    check(name, a, b, rng)


@each_operation
@pytest.mark.parametrize("shapes", [((50, 60, 7), (7,)), ((9, 8, 300), (9, 1, 300))], ids=str)
def test_sums_of_integers_are_exact(name, shapes, backend, rng):
    a, b = (rng.integers(-8, 9, shape).astype(np.float32) for shape in shapes)
    dy = rng.integers(-8, 9, a.shape).astype(np.float32)
    gradients = getattr(ops, name).vjp(a, b)[1](dy)
    for gradient, right in zip(gradients, OPS[name].backward(dy, a, b), strict=True):
        np.testing.assert_array_equal(gradient, right)


@each_operation
def test_64_axes(name, backend, rng):
    if np.lib.NumpyVersion(np.__version__) < "2.0.0":
        pytest.skip("arrays of 64 axes exist since NumPy 2")
    alternating = [2 if axis % 8 == 0 else 1 for axis in range(64)]
    shifted = [3 if axis % 32 == 4 else 1 for axis in range(64)]
    check(name, np.ones(alternating, np.float32), np.ones(shifted, np.float32) * 2, rng)


@each_operation
def test_nan_infinity_and_denormals(name, backend):
    values = np.float32([np.nan, np.inf, -np.inf, 0.0, -0.0, 1e-45, -1e-40, 3e38, 1.5] * 3)
    a, b = values[:, None], values[None, :]
    with np.errstate(all="ignore"):
        expected = a + b if name == "add" else a * b
    y = getattr(ops, name)(a, b)
    np.testing.assert_array_equal(y, expected)
    np.testing.assert_array_equal(np.signbit(y[expected == 0]), np.signbit(expected[expected == 0]))


@each_operation
@pytest.mark.parametrize("shapes", [SHAPES[6], SHAPES[11], SHAPES[13], SHAPES[21]], ids=str)
def test_parity_with_torch(name, shapes, backend, rng):
    torch = pytest.importorskip("torch")
    a, b = (rng.standard_normal(shape).astype(np.float32) for shape in shapes)
    leaves = [torch.from_numpy(v).double().requires_grad_() for v in (a, b)]
    their_y = leaves[0] + leaves[1] if name == "add" else leaves[0] * leaves[1]
    y, pullback = getattr(ops, name).vjp(a, b)
    assert_close(y, their_y.detach().numpy(), name, "forward")
    dy = rng.standard_normal(y.shape).astype(np.float32)
    their_y.backward(torch.from_numpy(dy).double())
    for v, gradient, leaf in zip((a, b), pullback(dy), leaves, strict=True):
        k = repeats(y.shape, v.shape)
        scale = None if k == 1 else math.sqrt(k) * 16
        assert_close(gradient, leaf.grad.numpy(), name, "backward", k, scale)


@each_operation
@pytest.mark.parametrize("layout", awkward_arrays.LAYOUTS)
def test_layouts(name, layout, rng):
    odd = awkward_arrays.LAYOUTS[layout]
    a, b = (rng.standard_normal(shape).astype(np.float32) for shape in ((4, 5, 7), (5, 1)))
    dy = rng.standard_normal((4, 5, 7)).astype(np.float32)
    y, pullback = getattr(ops, name).vjp(a, b)
    odd_y, odd_pullback = getattr(ops, name).vjp(odd(a), odd(b))
    np.testing.assert_array_equal(odd_y, y)
    for gradient, same in zip(odd_pullback(odd(dy)), pullback(dy), strict=True):
        np.testing.assert_array_equal(gradient, same)


@each_operation
def test_one_array_twice(name, rng):
    a = rng.standard_normal(9).astype(np.float32)
    y, pullback = getattr(ops, name).vjp(a, a)
    np.testing.assert_array_equal(y, a + a if name == "add" else a * a)
    da, db = pullback(np.ones_like(a))
    np.testing.assert_array_equal(da, db)
    assert not np.shares_memory(da, db)


@each_operation
@pytest.mark.parametrize(
    "shapes",
    [((40001,), (40001,)), ((900, 70), (70,)), ((90000, 3), (3,)), ((1,), (90001,))],
    ids=str,
)
def test_same_bits_for_any_number_of_threads(name, shapes, backend, rng):
    a, b = (rng.standard_normal(shape).astype(np.float32) for shape in shapes)
    dy = rng.standard_normal(np.broadcast_shapes(*shapes)).astype(np.float32)
    results = []
    for threads in (1, 2, 5):
        utils.set_num_threads(threads)
        y, pullback = getattr(ops, name).vjp(a, b)
        results.append([part.tobytes() for part in (y, *pullback(dy))])
    assert results[0] == results[1] == results[2]


@each_operation
def test_pullback_options(name, rng):
    a, b = rng.standard_normal((4, 6)).astype(np.float32), rng.standard_normal(6).astype(np.float32)
    dy = rng.standard_normal((4, 6)).astype(np.float32)
    _, pullback = getattr(ops, name).vjp(a, b)
    da, db = pullback(dy)
    for again, first in zip(pullback(dy), (da, db), strict=True):
        np.testing.assert_array_equal(again, first)
    into = np.full(6, np.nan, np.float32)
    results = pullback(dy, out=(None, into))
    assert results[1] is into
    np.testing.assert_array_equal(into, db)
    np.testing.assert_array_equal(results[0], da)
    assert all(not np.any(gradient) for gradient in pullback(None))
    only_b = getattr(ops, name).vjp(a, b, needs=(False, True))[1](dy)
    assert only_b[0] is None
    np.testing.assert_array_equal(only_b[1], db)
    assert getattr(ops, name).vjp(a, b, needs=(False, False))[1](dy) == (None, None)
    found = []
    thread = threading.Thread(target=lambda: found.append(pullback(dy)[0]))
    thread.start()
    thread.join()
    np.testing.assert_array_equal(found[0], da)


@each_operation
def test_pullback_refuses(name, rng):
    a, b = rng.standard_normal((1, 6)).astype(np.float32), np.ones(6, np.float32)
    dy = np.ones((1, 6), np.float32)
    _, pullback = getattr(ops, name).vjp(a, b)
    for wrong in ((), (dy, dy)):
        with pytest.raises(ValueError, match=rf"{name}: the pullback takes 1 gradient"):
            pullback(*wrong)
    for wrong in (dy[0], dy[:, :5], dy.T):
        with pytest.raises(ValueError, match=rf"{name}: dy must have shape \(1, 6\), got"):
            pullback(wrong)
    with pytest.raises(TypeError, match=rf"{name}: dy must be float32"):
        pullback(dy.astype(np.float64))
    for wrong in ((None,), (None, None, None)):
        with pytest.raises(ValueError, match=rf"{name}: out must have 2 entries"):
            pullback(dy, out=wrong)
    with pytest.raises(ValueError, match=rf"{name}: needs must have 2 entries"):
        getattr(ops, name).vjp(a, b, needs=(True,))
    with pytest.raises(ValueError, match=rf"{name}: out\[0\] must have shape \(1, 6\)"):
        pullback(dy, out=(np.zeros(6, np.float32), None))
    for wrong in awkward_arrays.NOT_WRITABLE_IN_PLACE.values():
        with pytest.raises(ValueError, match=rf"{name}: out\[1\] is written in place"):
            pullback(dy, out=(None, wrong))
    arguments = (dy, a, b) if name == "multiply" else (dy,)
    for wrong in arguments:
        with pytest.raises(ValueError, match=rf"{name}: out\[1\] is written and must not overlap"):
            pullback(dy, out=(None, wrong.reshape(6)))
    both = np.zeros(9, np.float32)
    with pytest.raises(ValueError, match=rf"{name}: out\[0\] is written and must not overlap out"):
        pullback(dy, out=(both[None, :6], both[3:]))
    assert not np.any(both)


@each_operation
@pytest.mark.parametrize("kind", awkward_arrays.NOT_FLOAT32_ARRAYS)
def test_only_float32_arrays(name, kind):
    wrong, right = awkward_arrays.NOT_FLOAT32_ARRAYS[kind], np.ones(3, np.float32)
    for function in (getattr(ops, name), getattr(ops, name).vjp):
        with pytest.raises(TypeError, match=rf"^{name}: a must be"):
            function(wrong, right)
        with pytest.raises(TypeError, match=rf"^{name}: b must be"):
            function(right, wrong)


@each_operation
def test_shapes_that_do_not_broadcast(name):
    for a, b in (((3,), (4,)), ((2, 3), (2,)), ((0,), (2,)), ((2, 3, 4), (3, 3, 1))):
        with pytest.raises(ValueError, match=rf"{name}: a and b must have shapes that broadcast"):
            getattr(ops, name)(np.ones(a, np.float32), np.ones(b, np.float32))


@each_operation
def test_results_that_are_too_large(name):
    empty = [np.ones(shape, np.float32) for shape in ((0, 2**40, 1), (0, 1, 2**40))]
    with pytest.raises(ValueError, match=f"{name}: the size of the result overflows"):
        getattr(ops, name)(*empty)
    wide = np.ones((2**20, 1), np.float32)
    with pytest.raises(MemoryError, match=rf"{name}: out of memory.* {2**42} bytes"):
        getattr(ops, name)(wide, wide.T)


def test_accumulate(backend, rng):
    for shape in ((), (0,), (5,), (3, 7), (40001,)):
        target, source = (np.asarray(rng.standard_normal(shape), np.float32) for _ in range(2))
        expected = target + source
        assert ops.accumulate_(target, source) is None
        np.testing.assert_array_equal(target, expected)


def test_accumulate_refuses_and_changes_nothing(rng):
    memory = rng.standard_normal(12).astype(np.float32)
    before = memory.copy()
    for target, source in (
        (memory[:6], memory[3:9]),
        (memory, memory),
        (memory[:6], np.ones((6, 1), np.float32)),
        (memory[:6], np.ones(1, np.float32)),
        *((wrong, memory[6:]) for wrong in awkward_arrays.NOT_WRITABLE_IN_PLACE.values()),
    ):
        kept = target.copy()
        with pytest.raises(ValueError, match="accumulate_: "):
            ops.accumulate_(target, source)
        np.testing.assert_array_equal(target, kept)
    np.testing.assert_array_equal(memory, before)
    for wrong in awkward_arrays.NOT_FLOAT32_ARRAYS.values():
        with pytest.raises(TypeError, match="accumulate_: target must be"):
            ops.accumulate_(wrong, np.ones(3, np.float32))
        with pytest.raises(TypeError, match="accumulate_: source must be"):
            ops.accumulate_(np.ones(3, np.float32), wrong)


CONCATENATIONS = [
    ([(5,)], -1),
    ([(5,), (0,), (3,)], 0),
    ([(2, 3), (2, 1), (2, 4)], -1),
    ([(2, 3), (4, 3)], 0),
    ([(4, 7, 5, 33), (4, 7, 5, 31)], 3),
    ([(4, 7, 5, 3), (4, 2, 5, 3), (4, 1, 5, 3)], 1),
    ([(3, 40001), (3, 17)], 1),
    ([(40001, 1), (40001, 2)], -1),
    ([(2, 0, 3), (2, 0, 4)], 2),
    ([(0, 3), (0, 2)], 1),
]


@pytest.mark.parametrize(("shapes", "axis"), CONCATENATIONS, ids=str)
def test_concatenate(shapes, axis, backend, rng):
    arrays = [rng.standard_normal(shape).astype(np.float32) for shape in shapes]
    y, pullback = ops.concatenate.vjp(*arrays, axis=axis)
    np.testing.assert_array_equal(y, OPS["concatenate"].forward(*arrays, axis=axis))
    np.testing.assert_array_equal(ops.concatenate(*arrays, axis=axis), y)
    dy = rng.standard_normal(y.shape).astype(np.float32)
    gradients = pullback(dy)
    expected = OPS["concatenate"].backward(dy, *arrays, axis=axis)
    for gradient, right, array in zip(gradients, expected, arrays, strict=True):
        np.testing.assert_array_equal(gradient, right)
        assert gradient.shape == array.shape
    assert not any(np.shares_memory(y, array) for array in arrays)
    assert not any(np.shares_memory(gradient, dy) for gradient in gradients)


@hypothesis.settings(
    max_examples=50,
    deadline=None,
    suppress_health_check=[hypothesis.HealthCheck.function_scoped_fixture],
)
@hypothesis.given(data=st.data())
def test_concatenate_any_shapes(backend, data):
    shape = data.draw(hnp.array_shapes(min_dims=1, max_dims=5, min_side=0, max_side=6))
    axis = data.draw(st.integers(-len(shape), len(shape) - 1))
    sizes = data.draw(st.lists(st.integers(0, 9), min_size=1, max_size=5))
    shapes = [[n if i == axis % len(shape) else s for i, s in enumerate(shape)] for n in sizes]
    arrays = [np.random.default_rng(i).random(s, np.float32) for i, s in enumerate(shapes)]
    y, pullback = ops.concatenate.vjp(*arrays, axis=axis)
    np.testing.assert_array_equal(y, np.concatenate(arrays, axis))
    for gradient, array in zip(pullback(y), arrays, strict=True):
        np.testing.assert_array_equal(gradient, array)


@pytest.mark.parametrize("layout", awkward_arrays.LAYOUTS)
def test_concatenate_layouts(layout, rng):
    odd = awkward_arrays.LAYOUTS[layout]
    arrays = [rng.standard_normal((4, n)).astype(np.float32) for n in (3, 5)]
    y, pullback = ops.concatenate.vjp(*map(odd, arrays))
    np.testing.assert_array_equal(y, np.concatenate(arrays, -1))
    for gradient, array in zip(pullback(odd(y)), arrays, strict=True):
        np.testing.assert_array_equal(gradient, array)


def test_concatenate_pullback_options(rng):
    arrays = [rng.standard_normal((4, n)).astype(np.float32) for n in (3, 5, 2)]
    y, pullback = ops.concatenate.vjp(*arrays, needs=(True, False, True))
    into = np.zeros((4, 2), np.float32)
    first, second, third = pullback(y, out=(None, None, into))
    np.testing.assert_array_equal(first, arrays[0])
    assert second is None
    assert third is into
    np.testing.assert_array_equal(into, arrays[2])
    assert not np.any(pullback(None)[0])
    for wrong in (y[:, :9], y[0], y.T):
        with pytest.raises(ValueError, match=r"concatenate: dy must have shape \(4, 10\)"):
            pullback(wrong)
    with pytest.raises(ValueError, match="concatenate: the pullback takes 1 gradient"):
        pullback(y, y)
    with pytest.raises(ValueError, match="concatenate: out must have 3 entries"):
        pullback(y, out=(None, None))
    with pytest.raises(ValueError, match=r"concatenate: out\[2\] must have shape \(4, 2\)"):
        pullback(y, out=(None, None, np.zeros((4, 3), np.float32)))
    with pytest.raises(ValueError, match=r"out\[2\] is written and must not overlap out\[0\]"):
        shared = np.zeros(14, np.float32)
        pullback(y, out=(shared[:12].reshape(4, 3), None, shared[6:].reshape(4, 2)))


def test_concatenate_refuses():
    a = np.ones((2, 3), np.float32)
    for function in (ops.concatenate, ops.concatenate.vjp):
        with pytest.raises(ValueError, match="concatenate: at least one array"):
            function()
        with pytest.raises(ValueError, match="must have at least one axis"):
            function(np.ones((), np.float32))
        for axis in (2, -3, 2**62, 2**70):
            with pytest.raises(ValueError, match="concatenate: axis"):
                function(a, a, axis=axis)
        for axis in (1.0, "1", None, True):
            with pytest.raises(ValueError, match="concatenate: axis must be an integer"):
                function(a, a, axis=axis)
        for wrong in (np.ones((3, 3), np.float32), np.ones(3, np.float32)):
            with pytest.raises(ValueError, match=r"concatenate: arrays\[1\] must have the shape"):
                function(a, wrong)
        for wrong in awkward_arrays.NOT_FLOAT32_ARRAYS.values():
            with pytest.raises(TypeError, match=r"concatenate: arrays\[1\] must be"):
                function(a, wrong)


def test_forward_keeps_nothing_that_the_gradients_do_not_need(rng):
    a = rng.standard_normal((50, 1000)).astype(np.float32)
    idle = _cpu.memory_stats()["bytes_in_use"]
    pullback = ops.add.vjp(a, a)[1]
    split = ops.concatenate.vjp(a, a)[1]
    assert _cpu.memory_stats()["bytes_in_use"] == idle
    del pullback, split
