"""softmax and log_softmax: values, gradients, what they refuse."""

from __future__ import annotations

import doctest
import sys

import hypothesis
import numpy as np
import op_checks
import pytest
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from reference import OPS
from tolerances import assert_close

from lamella import ops

NAMES = ("softmax", "log_softmax")
each_op = pytest.mark.parametrize("name", NAMES)


def check(name, x, axis, dy=None):
    terms = x.shape[axis]
    y, pullback = getattr(ops, name).vjp(x, axis=axis)
    with np.errstate(all="ignore"):
        assert_close(y, OPS[name].forward(x, axis=axis), name, "forward", terms)
    if dy is None:
        dy = op_checks.gradient_like(y)
    (dx,) = pullback(dy)
    (expected,) = OPS[name].backward(dy, x, axis=axis)
    # What was summed: dy y of softmax, which may be large where the differences are not.
    scale = np.max(np.abs(dy * y), initial=0.0) if name == "softmax" else None
    assert_close(dx, expected, name, "backward", terms, scale)


# Along the last axis: one to four vectors of each instruction set and beyond, with tails.
LENGTHS = [1, 2, 3, 4, 5, 8, 9, 10, 15, 16, 17, 24, 31, 32, 33, 48, 63, 64, 65, 100, 127, 513, 5000]


@each_op
@pytest.mark.parametrize("length", LENGTHS)
def test_last_axis(name, length, backend, rng):
    x = rng.standard_normal((7, length)).astype(np.float32) * 4
    check(name, x, -1)
    check(name, x - 1000, 1)


@each_op
@pytest.mark.parametrize("inner", [1, 2, 3, 4, 7, 15, 16, 17, 32, 63, 64, 65, 200])
def test_other_axes(name, inner, backend, rng):
    for size in (1, 2, 31, 33, 100):
        x = rng.standard_normal((3, size, inner)).astype(np.float32) * 4
        check(name, x, 1)
    check(name, x, 0)


@each_op
@pytest.mark.parametrize(
    ("shape", "axis"),
    [((1, 200_001), -1), ((2, 70_000), 1), ((40, 3000), 1), ((5, 1000, 130), 1), ((1, 1, 99), 0)],
    ids=str,
)
def test_sizes_that_are_cut_into_tasks(name, shape, axis, backend, rng):
    check(name, rng.standard_normal(shape).astype(np.float32), axis)


@each_op
@hypothesis.settings(
    max_examples=40,
    deadline=None,
    suppress_health_check=[hypothesis.HealthCheck.function_scoped_fixture],
)
@hypothesis.given(
    shape=hnp.array_shapes(min_dims=1, max_dims=5, min_side=1, max_side=9),
    axis=st.integers(-5, 4),
    seed=st.integers(0, 2**32),
)
def test_any_axis(name, backend, shape, axis, seed):
    x = np.random.default_rng(seed).standard_normal(shape).astype(np.float32) * 3
    if -len(shape) <= axis < len(shape):
        check(name, x, axis)
    else:
        with pytest.raises(ValueError, match=rf"^{name}: axis must lie in \[-{len(shape)}"):
            getattr(ops, name)(x, axis=axis)


@each_op
@pytest.mark.parametrize("shape", [(0, 5), (5, 0), (0,), (2, 0, 3), (0, 0)], ids=str)
def test_empty(name, shape, backend):
    for axis in range(len(shape)):
        y, pullback = getattr(ops, name).vjp(np.zeros(shape, np.float32), axis=axis)
        assert y.shape == shape
        assert pullback(y)[0].shape == shape


@each_op
def test_large_differences(name, backend):
    x = np.float32([[0, -87, -88, -104, -200, -1e30], [1e38, -1e38, 0, 1, 2, 3]])
    for axis in (0, 1):
        check(name, x, axis, np.float32([[1, 2, 3, 4, 5, 6], [6, 5, 4, 3, 2, 1]]))
    many = np.concatenate([x[0], np.full(100, -90, np.float32)])
    check(name, many, 0)


@each_op
@pytest.mark.parametrize("length", [3, 20, 64, 70, 300])
def test_infinity_and_nan(name, length, backend, rng):
    rows = rng.standard_normal((7, length)).astype(np.float32)
    rows[0, 1:] = -np.inf
    rows[1, :] = -np.inf
    rows[2, length // 2] = np.nan
    rows[3, -1] = np.inf
    rows[4, 0] = np.nan
    rows[5, ::2] = -np.inf
    for x, axis in ((rows, 1), (np.ascontiguousarray(rows.T), 0)):
        y = getattr(ops, name)(x, axis=axis)
        assert_close(y, OPS[name].forward(x, axis=axis), name, "forward", length)
        by_row = y if axis == 1 else y.T
        assert np.isnan(by_row[1:5]).all()
        assert by_row[0, 0] == (1.0 if name == "softmax" else 0.0)
        assert np.all(by_row[0, 1:] == (0.0 if name == "softmax" else -np.inf))


@each_op
def test_shifting_by_a_power_of_two_changes_nothing(name, backend, rng):
    # The maximum is subtracted exactly: multiples of 1/64 below 2^17 are exact in float32.
    x = (rng.integers(-500, 500, (9, 77)) / 64).astype(np.float32)
    shifted = x + np.float32(65536)
    assert getattr(ops, name)(shifted).tobytes() == getattr(ops, name)(x).tobytes()


@each_op
def test_rows_do_not_depend_on_their_place(name, backend, rng):
    x = rng.standard_normal((50, 33)).astype(np.float32)
    y = getattr(ops, name)(x)
    for row in (0, 17, 49):
        np.testing.assert_array_equal(getattr(ops, name)(x[row]), y[row])


@each_op
@pytest.mark.parametrize(
    ("shape", "axis"), [((6, 50), -1), ((4, 9, 20), 1), ((300, 5), 0)], ids=str
)
def test_parity_with_torch(name, shape, axis, backend, rng):
    pytest.importorskip("torch")
    from reference import torch_peer

    x = rng.standard_normal(shape).astype(np.float32)
    y, pullback = getattr(ops, name).vjp(x, axis=axis)
    dy = op_checks.gradient_like(y)
    (their_y,), (their_dx,) = torch_peer.values_and_gradients(
        name, [x.astype(np.float64)], (dy.astype(np.float64),), {"axis": axis}
    )
    assert_close(y, their_y, name, "forward", shape[axis])
    scale = np.max(np.abs(dy * y)) if name == "softmax" else None
    assert_close(pullback(dy)[0], their_dx, name, "backward", shape[axis], scale)


@each_op
@pytest.mark.parametrize("axis", [-1, 0, 1])
def test_calling(name, axis, backend, rng):
    arrays = [rng.standard_normal((5, 6, 19)).astype(np.float32)]
    options = {"axis": axis}
    op_checks.check_forward_alone_is_the_same(name, arrays, options)
    op_checks.check_nothing_is_changed_or_shared(name, arrays, options)
    op_checks.check_layouts(name, arrays, options)
    op_checks.check_pullback(name, arrays, options)


@each_op
@pytest.mark.parametrize(
    ("shape", "axis"), [((3000, 33), 1), ((1, 150_001), 1), ((9, 70, 301), 1)], ids=str
)
def test_same_bits_for_any_number_of_threads(name, shape, axis, backend, rng):
    arrays = [rng.standard_normal(shape).astype(np.float32)]
    op_checks.check_thread_counts(name, arrays, {"axis": axis})


@each_op
def test_refused_calls(name, rng):
    arrays = [rng.standard_normal((4, 6)).astype(np.float32)]
    op_checks.check_pullback_refuses(name, arrays, {})
    op_checks.check_only_float32_arrays(name, arrays, {})
    for axis in (2, -3, 2**70):
        with pytest.raises(ValueError, match=f"^{name}: axis"):
            getattr(ops, name)(arrays[0], axis=axis)
    for axis in (None, 1.0, (0, 1), "last", True):
        with pytest.raises(ValueError, match=f"^{name}: axis must be an integer"):
            getattr(ops, name)(arrays[0], axis=axis)
    with pytest.raises(ValueError, match=rf"^{name}: axis must lie in .* shape \(\), got -1"):
        getattr(ops, name)(np.zeros((), np.float32))


def test_examples():
    assert doctest.testmod(sys.modules["lamella.ops.softmax"]).failed == 0
