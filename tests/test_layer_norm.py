"""layer_norm and rms_norm: values, gradients, residuals, what they refuse."""

from __future__ import annotations

import doctest
import sys

import hypothesis
import numpy as np
import op_checks
import pytest
from hypothesis import strategies as st
from reference import OPS, cases
from reference.normalization import axes_of
from tolerances import EPS, assert_close

from lamella import ops

NAMES = ("layer_norm", "rms_norm")
each_op = pytest.mark.parametrize("name", NAMES)
with_or_without_residual = pytest.mark.parametrize(
    "residual", [False, True], ids=["alone", "residual"]
)


def make_arrays(name, shape, rng, axis=-1, gamma=True, beta=True, residual=False, offset=0.0):
    """x, gamma, beta of layer_norm, residual."""
    sizes = [shape[a] for a in axes_of(axis, len(shape))]

    def draw(present, shape):
        return rng.standard_normal(shape).astype(np.float32) if present else None

    x = (rng.standard_normal(shape) * 2 + offset).astype(np.float32)
    parameters = [draw(gamma, sizes), draw(beta, sizes)][: 2 if name == "layer_norm" else 1]
    return [x, *parameters, draw(residual, shape)]


def check(name, arrays, options):
    *arrays, residual = arrays
    x, gamma = arrays[0], arrays[1]
    s = x if residual is None else x + residual
    axes = axes_of(options.get("axis", -1), x.ndim)
    terms = int(np.prod([x.shape[a] for a in axes]))
    results, pullback = getattr(ops, name).vjp(*arrays, residual, **options)
    results = op_checks.as_tuple(results)
    right = OPS[name].forward(s, *arrays[1:], **options)
    assert_close(results[0], right, name, "forward", terms)
    if residual is not None:
        op_checks.assert_same_bits(results[1:], [s])

    dys = op_checks.gradients_like(results)
    *gradients, dresidual = pullback(*dys)
    right = list(OPS[name].backward(dys[0], s, *arrays[1:], **options))
    if residual is not None:
        assert dresidual is gradients[0]
        right[0] = right[0] + dys[1]
    else:
        assert dresidual is None
    # dx is scale * gamma dy less its means; the others are sums over the rest of the array.
    center = s.astype(np.float64)
    if name == "layer_norm":
        center = center - center.mean(axis=axes, keepdims=True)
    spread = (center**2).mean(axis=axes) + options.get("epsilon", 1e-6)
    steepest = 1.0 / np.sqrt(np.min(spread, initial=1.0))
    largest = np.max(np.abs(dys[0]), initial=0.0)
    factor = 1.0 if gamma is None else np.max(np.abs(gamma))
    rows = x.size // terms
    scales = [max(1.0, steepest * factor) * largest] + [np.sqrt(rows) * largest] * 2
    for gradient, wanted, scale in zip(gradients, right, scales, strict=False):
        assert (gradient is None) == (wanted is None)
        if wanted is not None:
            scale = max(scale, np.max(np.abs(wanted), initial=0.0))
            assert_close(gradient, wanted, name, "backward", max(rows, terms), scale)
    return results, gradients


REFERENCE_CASES = [case for case in cases.CASES if case[0] in NAMES]


@pytest.mark.parametrize(("name", "shapes", "options"), REFERENCE_CASES, ids=str)
def test_the_references_cases(name, shapes, options, backend, rng):
    arrays = cases.make_arrays(name, shapes, options, rng)
    arrays = [None if a is None else a.astype(np.float32) for a in arrays]
    check(name, [*arrays, None], options)
    check(name, [*arrays, rng.standard_normal(shapes[0]).astype(np.float32)], options)


# Rows in registers, rows that take turns in fours and in twos, rows alone; tails of each.
SIZES = [1, 2, 3, 4, 5, 7, 8, 9, 15, 16, 17, 31, 32, 33, 48, 63, 64, 65, 100, 127, 128, 129, 200]
SIZES += [511, 512, 513, 767, 768, 769, 1030, 2048, 2049, 5000]


@each_op
@with_or_without_residual
@pytest.mark.parametrize("size", SIZES)
def test_sizes(name, residual, size, backend, rng):
    for rows in (1, 2, 3, 4, 5, 7, 9):
        check(name, make_arrays(name, (rows, size), rng, residual=residual), {})


# The last two: rows that all threads share.
TASKS = [(20_000, 3), (3000, 33), (700, 500), (40, 9000), (9, 70_000), (2, 70_001), (1, 200_000)]


@each_op
@with_or_without_residual
@pytest.mark.parametrize("shape", TASKS, ids=str)
def test_sizes_that_are_cut_into_tasks(name, residual, shape, backend, rng):
    arrays = make_arrays(name, shape, rng, residual=residual, offset=1.0)
    check(name, arrays, {})
    op_checks.check_thread_counts(name, arrays, {})


@each_op
@hypothesis.settings(
    max_examples=60,
    deadline=None,
    suppress_health_check=[hypothesis.HealthCheck.function_scoped_fixture],
)
@hypothesis.given(data=st.data())
def test_any_axes(name, backend, data):
    shape = tuple(data.draw(st.lists(st.integers(1, 7), min_size=1, max_size=4), "shape"))
    rank = len(shape)
    axis = data.draw(st.sets(st.integers(0, rank - 1), min_size=1), "axis")
    axis = tuple(a - rank * data.draw(st.integers(0, 1)) for a in axis)
    axis = axis[0] if len(axis) == 1 and data.draw(st.booleans()) else axis
    options = {"axis": axis, "epsilon": data.draw(st.sampled_from([1e-3, 0.5]))}
    present = {each: data.draw(st.booleans(), each) for each in ("gamma", "beta", "residual")}
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32), "seed"))
    arrays = make_arrays(name, shape, rng, axis, **present)
    check(name, arrays, options)
    as_list = {**options, "axis": list(axis) if isinstance(axis, tuple) else np.int64(axis)}
    expected = op_checks.as_tuple(getattr(ops, name)(*arrays, **options))
    op_checks.assert_same_bits(op_checks.as_tuple(getattr(ops, name)(*arrays, **as_list)), expected)


@each_op
@with_or_without_residual
@pytest.mark.parametrize("size", [64, 513, 1024, 3000])
def test_rows_do_not_depend_on_their_place(name, residual, size, backend, rng):
    """Alone or with others, whatever comes after: the same bits, in dx too."""
    arrays = make_arrays(name, (11, size), rng, residual=residual)
    y, pullback = getattr(ops, name).vjp(*arrays)
    dys = op_checks.gradients_like(y)
    dx = pullback(*dys)[0]
    for row in (0, 5, 10):
        one = [None if a is None or a.ndim == 1 else a[row] for a in arrays]
        one = [a if b is None else b for a, b in zip(arrays, one, strict=True)]
        y_one, pull_one = getattr(ops, name).vjp(*one)
        op_checks.assert_same_bits(
            op_checks.as_tuple(y_one), [a[row] for a in op_checks.as_tuple(y)]
        )
        op_checks.assert_same_bits(pull_one(*(dy[row] for dy in dys))[:1], [dx[row]])


@each_op
@with_or_without_residual
@pytest.mark.parametrize("size", [64, 512, 2048, 2056])
def test_results_larger_than_the_caches(name, residual, size, backend, rng):
    """Written past them, where rows are whole vectors: with the same bits."""
    rows = (48 << 20) // (4 * size)
    few = make_arrays(name, (50, size), rng, residual=residual)
    arrays = [np.resize(a, (rows, size)) if a is not None and a.ndim == 2 else a for a in few]
    for pick in (few, arrays):
        y, pullback = getattr(ops, name).vjp(*pick)
        y = op_checks.as_tuple(y)
        dys = [np.resize(dy, y[0].shape) for dy in op_checks.gradients_like(few[0])] * len(y)
        results = [*y, pullback(*dys)[0]]
        if pick is few:
            expected = results
    for result, right in zip(results, expected, strict=True):
        assert result.tobytes() == np.resize(right, result.shape).tobytes()


def test_a_mean_much_larger_than_the_deviation(backend, rng):
    """x is exact in float32; what follows is as good as without the mean."""
    for size in (5, 40, 700, 3000, 70_001):
        deviation = rng.uniform(0.5, 2.0)
        x = (rng.standard_normal((3, size)) * deviation + 200_000).astype(np.float32)
        gamma, beta = rng.standard_normal((2, size)).astype(np.float32)
        for epsilon in (1e-3, 1e-6):
            check("layer_norm", [x, gamma, beta, None], {"epsilon": epsilon})


def test_outliers_do_not_spoil_the_variance(backend, rng):
    for size in (60, 1000):
        x = rng.standard_normal((4, size)).astype(np.float32)
        x[:, 0] = [1e4, -1e4, 1e6, 1e7]
        check("layer_norm", [x, None, None, None], {"epsilon": 1e-6})


def test_equal_elements_have_no_deviation(backend):
    for size in (1, 21, 300, 3000, 70_000):
        beta = np.arange(size, dtype=np.float32)
        for value in (0.1, -12345.678):
            x = np.full((5, size), value, np.float32)
            y, pullback = ops.layer_norm.vjp(x, None, beta)
            np.testing.assert_allclose(y, np.broadcast_to(beta, x.shape), atol=1e-5)
            dx = pullback(np.ones_like(x))[0]
            assert np.max(np.abs(dx)) < 1e-3


def test_the_smallest_epsilon(backend):
    x = np.zeros((3, 40), np.float32)
    for name in NAMES:
        for epsilon in (1e-300, 5e-324, 1e-45):
            np.testing.assert_array_equal(getattr(ops, name)(x, epsilon=epsilon), x)


def test_by_hand(backend):
    y = ops.layer_norm(np.float32([[1, 2, 6]]), epsilon=4 / 3)
    np.testing.assert_allclose(y, np.float32([[-2, -1, 3]]) / np.sqrt(6), rtol=4 * EPS)
    y = ops.rms_norm(np.float32([[3, 4]]), np.float32([2, -1]), epsilon=12.5)
    np.testing.assert_allclose(y, np.float32([[6, -4]]) / 5, rtol=4 * EPS)


@each_op
@pytest.mark.parametrize("size", [3, 20, 64, 70, 600, 1100, 3000, 66_000])
def test_nan_and_infinity_stay_in_their_row(name, size, backend, rng):
    arrays = make_arrays(name, (7, size), rng)
    clean, pullback = getattr(ops, name).vjp(*arrays)
    dy = op_checks.gradient_like(clean)
    clean_dx = pullback(dy)[0]
    for column in (0, size // 2, size - 1):
        x = arrays[0].copy()
        x[1, column], x[3, column], x[6, column] = np.nan, np.inf, -np.inf
        y, pullback = getattr(ops, name).vjp(x, *arrays[1:])
        dx = pullback(dy)[0]
        with np.errstate(invalid="ignore"):
            right = OPS[name].forward(x, *arrays[1:-1])
            right_dx = OPS[name].backward(dy, x, *arrays[1:-1])[0]
        np.testing.assert_array_equal(np.isnan(y), np.isnan(right))
        np.testing.assert_array_equal(np.isnan(dx), np.isnan(right_dx))
        touched = [1, 3, 6]
        for result, before in ((y, clean), (dx, clean_dx)):
            np.testing.assert_array_equal(
                np.delete(result, touched, 0), np.delete(before, touched, 0)
            )
        if name == "rms_norm":
            assert not np.any(np.delete(y[3], column))


@each_op
@pytest.mark.parametrize("size", [33, 600])
def test_the_residual(name, size, backend, rng):
    x, *parameters, residual = make_arrays(name, (9, size), rng, residual=True)
    (y, s), pullback = getattr(ops, name).vjp(x, *parameters, residual)
    op_checks.assert_same_bits([s], [x + residual])
    alone, pull_alone = getattr(ops, name).vjp(s, *parameters)
    op_checks.assert_same_bits([y], [alone])

    dy, ds = op_checks.gradients_like((y, s))
    expected = pull_alone(dy)
    for none, only in ((pullback(dy, None), expected[0]), (pullback(None, ds), ds)):
        op_checks.assert_same_bits(none[:1], [only])
        assert none[-1] is none[0]
    both = pullback(dy, ds)
    np.testing.assert_array_equal(both[0], expected[0] + ds)
    op_checks.assert_same_bits(both[1:-1], expected[1:-1])

    # With places of their own, or alone.
    count = len(both)
    places = [np.full_like(x, np.nan), *[None] * (count - 2), np.full_like(x, np.nan)]
    apart = pullback(dy, ds, out=places)
    assert apart[0] is places[0] and apart[-1] is places[-1]
    op_checks.assert_same_bits(apart, both)
    op_checks.assert_same_bits(pullback(dy, ds, out=[None] * (count - 1) + [places[-1]]), both)
    op_checks.assert_same_bits(pullback(dy, ds, out=[places[0]] + [None] * (count - 1)), both)
    with pytest.raises(ValueError, match="overlap another entry of out"):
        pullback(dy, ds, out=[places[0], *[None] * (count - 2), places[0]])
    for wrong in ((dy,), (dy, ds, ds)):
        with pytest.raises(ValueError, match=f"{name}: the pullback takes 2 gradients"):
            pullback(*wrong)
    with pytest.raises(ValueError, match=rf"{name}: ds must have shape \(9, {size}\)"):
        pullback(dy, ds[:-1])
    with pytest.raises(TypeError, match=f"{name}: ds must be float32"):
        pullback(dy, ds.astype(np.float64))


@each_op
@pytest.mark.parametrize("shape", [(0, 5), (2, 0, 7), (0, 70_000)], ids=str)
@with_or_without_residual
def test_no_rows(name, residual, shape, backend, rng):
    arrays = make_arrays(name, shape, rng, residual=residual)
    y, pullback = getattr(ops, name).vjp(*arrays)
    y = op_checks.as_tuple(y)
    assert all(each.shape == shape for each in y)
    dx, *others = pullback(*y)
    assert dx.shape == shape
    for gradient in others[:-1]:
        np.testing.assert_array_equal(gradient, np.zeros(shape[-1]))


@each_op
@pytest.mark.parametrize("axis", [-1, (0, 2), (1, 2)], ids=str)
def test_parity_with_torch(name, axis, backend, rng):
    pytest.importorskip("torch")
    from reference import torch_peer

    x, *parameters, _ = make_arrays(name, (6, 5, 19), rng, axis)
    y, pullback = getattr(ops, name).vjp(x, *parameters, axis=axis)
    dy = op_checks.gradient_like(y)
    wide = [a.astype(np.float64) for a in (x, *parameters)]
    (their_y,), right = torch_peer.values_and_gradients(
        name, wide, (dy.astype(np.float64),), {"axis": axis}
    )
    assert_close(y, their_y, name, "forward", 114)
    for gradient, expected in zip(pullback(dy), right, strict=False):
        assert_close(gradient, expected, name, "backward", 114)


@each_op
@with_or_without_residual
@pytest.mark.parametrize("axis", [-1, 1, (0, 2)], ids=str)
def test_calling(name, residual, axis, backend, rng):
    arrays = make_arrays(name, (5, 6, 19), rng, axis, residual=residual)
    options = {"axis": axis}
    op_checks.check_forward_alone_is_the_same(name, arrays, options)
    op_checks.check_nothing_is_changed_or_shared(name, arrays, options)
    op_checks.check_layouts(name, arrays, options)
    op_checks.check_pullback(name, arrays, options)


@each_op
@with_or_without_residual
def test_refused_gradients(name, residual, rng):
    arrays = make_arrays(name, (5, 7), rng, residual=residual)
    op_checks.check_pullback_refuses(name, arrays, {})


@each_op
def test_only_float32_arrays(name, rng):
    arrays = make_arrays(name, (5, 7), rng, residual=True)
    arguments = (
        ["x", "gamma", "beta", "residual"] if len(arrays) == 4 else ["x", "gamma", "residual"]
    )
    for position, argument in enumerate(arguments):
        op_checks.check_only_float32_arrays(name, arrays, {}, position, argument, position > 0)


@each_op
def test_refused_calls(name, rng):
    arrays = make_arrays(name, (4, 5, 7), rng, residual=True)
    function = getattr(ops, name)
    count = len(arrays)
    for shape in ((6,), (8,), (7, 1), (1, 7), ()):
        for position in range(1, count - 1):
            wrong = [*arrays[:position], np.ones(shape, np.float32), *arrays[position + 1 :]]
            with pytest.raises(ValueError, match=rf"^{name}: (gamma|beta) must have shape \(7,\) "):
                function(*wrong)
    with pytest.raises(ValueError, match=r"gamma must have shape \(4, 7\) \(x's sizes along axis"):
        function(*arrays, axis=(-1, 0))
    for shape in ((4, 5, 8), (5, 7), (1, 5, 7), (4, 5, 7, 1)):
        with pytest.raises(ValueError, match=rf"^{name}: residual must have shape \(4, 5, 7\)"):
            function(*arrays[:-1], np.ones(shape, np.float32))
    for axis in (3, -4, (0, 3), [-4]):
        with pytest.raises(
            ValueError, match=rf"^{name}: axis must lie in \[-3, 3\) .* \(4, 5, 7\)"
        ):
            function(arrays[0], axis=axis)
    for axis in ((0, 0), (-1, 2), [1, 0, -2]):
        with pytest.raises(ValueError, match=rf"^{name}: axis must not name an axis twice, got"):
            function(arrays[0], axis=axis)
    for axis in (None, 1.0, "last", True, (), [], {0}, np.array([0, 1]), np.array([])):
        with pytest.raises(ValueError, match=rf"^{name}: axis must be an integer or a tuple of"):
            function(arrays[0], axis=axis)
    for axis in ((1.0,), (True,), ("a", 0), ((0, 1),)):
        with pytest.raises(ValueError, match=rf"^{name}: axis must be an integer, got"):
            function(arrays[0], axis=axis)
    with pytest.raises(ValueError, match=rf"^{name}: axis must lie in .* shape \(\), got -1"):
        function(np.zeros((), np.float32))
    for shape, axis in (((3, 0), -1), ((0,), 0), ((0, 3), (0, 1)), ((2, 0, 3), 1)):
        with pytest.raises(ValueError, match=rf"^{name}: x must not be empty along the axes to"):
            function(np.zeros(shape, np.float32), axis=axis)
    for epsilon in (0.0, -1e-3, np.nan, np.inf, "1e-3", None):
        with pytest.raises(ValueError, match=rf"^{name}: epsilon must be"):
            function(arrays[0], epsilon=epsilon)


def test_examples():
    assert doctest.testmod(sys.modules["lamella.ops.layer_norm"]).failed == 0
