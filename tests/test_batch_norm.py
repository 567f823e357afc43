"""batch_norm with given and with computed statistics: values, gradients, what it refuses."""

from __future__ import annotations

import doctest
import sys

import hypothesis
import numpy as np
import op_checks
import pytest
from hypothesis import strategies as st
from reference import OPS, cases
from tolerances import EPS, assert_close

from lamella import ops

NAME = "batch_norm"
REFERENCE = OPS[NAME]


def make_arrays(shape, rng, gamma=True, beta=True, given=False, offset=0.0):
    channels = shape[-1]

    def vector(present):
        return rng.standard_normal(channels).astype(np.float32) if present else None

    x = rng.standard_normal(shape) * rng.uniform(0.5, 3.0, channels) + offset
    variance = rng.uniform(0.2, 2.0, channels).astype(np.float32) if given else None
    return [x.astype(np.float32), vector(gamma), vector(beta), vector(given), variance]


def check(arrays, options, statistics_gradients=False):
    x, gamma, *_, variance = arrays
    rows = max(1, x.size // x.shape[-1])
    results, pullback = ops.batch_norm.vjp(*arrays, **options)
    given = variance is not None
    results = op_checks.as_tuple(results)
    expected = op_checks.as_tuple(REFERENCE.forward(*arrays, **options))
    assert len(results) == (1 if given else 3)
    mean, spread = (arrays[3], variance) if given else results[1:]
    # y is (x - mean) / deviation: both terms count, and gamma scales them.
    deviation = np.sqrt(spread + np.float32(1e-9))
    largest = np.max(np.abs(mean) / deviation, initial=1.0)
    factor = 1.0 if gamma is None else np.max(np.abs(gamma), initial=1.0)
    beta = 0.0 if arrays[2] is None else np.max(np.abs(arrays[2]), initial=0.0)
    scale = max(np.max(np.abs(expected[0]), initial=0.0), largest * factor + beta)
    assert_close(results[0], expected[0], NAME, "forward", rows, scale)
    for result, right in zip(results[1:], expected[1:], strict=True):
        assert_close(result, right, NAME, "forward", rows)

    dy = op_checks.gradient_like(results[0])
    dys = (dy,)
    if not given:
        others = [op_checks.gradient_like(v) if statistics_gradients else None for v in results[1:]]
        dys = (dy, *others)
    gradients = pullback(*dys)
    right = REFERENCE.backward(dys if not given else dy, *arrays, **options)
    # The mean is rounded, which counts as |mean| / deviation in dx as it does in y.
    rounded = 1.0 if given else largest
    slope = factor * rounded / np.sqrt(np.min(spread) + options.get("epsilon", 1e-3))
    for i, (gradient, wanted) in enumerate(zip(gradients, right, strict=True)):
        assert (gradient is None) == (wanted is None)
        if wanted is not None:
            scale = gradient_scale(i, dy, wanted, rows, slope)
            assert_close(gradient, wanted, NAME, "backward", rows, scale)
    return results, gradients


def gradient_scale(i, dy, wanted, rows, slope=1.0):
    """The magnitude of what was summed: dx is slope * dy less its mean, the others a term a row."""
    largest = np.max(np.abs(wanted), initial=0.0)
    terms = max(1.0, slope) * np.max(np.abs(dy), initial=0.0)
    return max(largest, terms if i == 0 else np.sqrt(rows) * terms)


REFERENCE_CASES = [case for case in cases.CASES if case[0] == NAME]


@pytest.mark.parametrize(("name", "shapes", "options"), REFERENCE_CASES, ids=str)
def test_the_references_cases(name, shapes, options, backend, rng):
    arrays = cases.make_arrays(name, shapes, options, rng)
    arrays = [None if a is None else a.astype(np.float32) for a in arrays]
    check(arrays, options)
    check(arrays, options, statistics_gradients=True)


# Folded rows where there are fewer channels than lanes, whole and partial vectors and groups.
CHANNELS = [1, 2, 3, 4, 5, 7, 8, 9, 15, 16, 17, 31, 33, 63, 64, 65, 100, 257, 1000]


@pytest.mark.parametrize("given", [False, True], ids=["computed", "given"])
@pytest.mark.parametrize("channels", CHANNELS)
def test_numbers_of_channels(channels, given, backend, rng):
    for rows in (1, 2, 3, 15, 16, 17, 64, 131):
        arrays = make_arrays((rows, channels), rng, given=given)
        check(arrays, {}, statistics_gradients=True)


@pytest.mark.parametrize("given", [False, True], ids=["computed", "given"])
@pytest.mark.parametrize(
    "shape", [(32, 13, 13, 32), (8, 11, 11, 64), (20_003, 3), (70_001, 1), (300, 700)], ids=str
)
def test_sizes_that_are_cut_into_tasks(shape, given, backend, rng):
    arrays = make_arrays(shape, rng, given=given, offset=1.0)
    check(arrays, {})
    op_checks.check_thread_counts(NAME, arrays, {})


@hypothesis.settings(
    max_examples=60,
    deadline=None,
    suppress_health_check=[hypothesis.HealthCheck.function_scoped_fixture],
)
@hypothesis.given(
    lead=st.lists(st.integers(1, 7), max_size=3),
    channels=st.integers(1, 40),
    gamma=st.booleans(),
    beta=st.booleans(),
    given=st.booleans(),
    statistics_gradients=st.booleans(),
    epsilon=st.sampled_from([1e-3, 1e-5, 0.5]),
    seed=st.integers(0, 2**32),
)
def test_any_shape(
    backend, lead, channels, gamma, beta, given, statistics_gradients, epsilon, seed
):
    rng = np.random.default_rng(seed)
    arrays = make_arrays((*lead, channels), rng, gamma, beta, given)
    check(arrays, {"epsilon": epsilon}, statistics_gradients)


@pytest.mark.parametrize("shape", [(500, 20), (30_000, 3), (7, 16), (64, 1)], ids=str)
def test_a_mean_much_larger_than_the_deviation(shape, backend, rng):
    deviation = rng.uniform(0.5, 2.0, shape[-1])
    x = (rng.standard_normal(shape) * deviation + 20_000).astype(np.float32)
    y, mean, variance = ops.batch_norm(x, epsilon=1e-6)
    right_y, right_mean, right_variance = REFERENCE.forward(x, epsilon=1e-6)
    # Computed in float64 from the float32 data: as good as a rounding of the result.
    np.testing.assert_allclose(mean, right_mean, rtol=EPS / 2)
    np.testing.assert_allclose(variance, right_variance, rtol=1e-5)
    # y's mean is off by the rounding of the mean alone.
    assert np.max(np.abs(y - right_y)) <= EPS / 2 * 20_000 / np.sqrt(right_variance.min()) * 1.1


def test_outliers_do_not_spoil_the_variance(backend, rng):
    x = rng.standard_normal((1000, 18)).astype(np.float32)
    x[0] = 1e4
    _, _, variance = ops.batch_norm(x)
    np.testing.assert_allclose(variance, REFERENCE.forward(x)[2], rtol=1e-6)


def test_equal_rows_have_no_variance(backend):
    for value in (0.1, 12345.678, -3e15):
        x = np.full((300, 21), value, np.float32)
        beta = np.arange(21, dtype=np.float32)
        y, mean, variance = ops.batch_norm(x, None, beta)
        np.testing.assert_array_equal(mean, x[0])
        np.testing.assert_array_equal(variance, np.zeros(21))
        np.testing.assert_array_equal(y, np.broadcast_to(beta, x.shape))


def test_one_row(backend, rng):
    x = rng.standard_normal((1, 1, 19)).astype(np.float32)
    (y, mean, variance), pullback = ops.batch_norm.vjp(x)
    np.testing.assert_array_equal(mean, x[0, 0])
    assert not np.any(variance)
    assert not np.any(y)
    assert np.max(np.abs(pullback(np.ones_like(x))[0])) < 1e-5


def test_the_variance_is_the_biased_one(backend):
    _, mean, variance = ops.batch_norm(np.float32([[1], [2], [6]]))
    np.testing.assert_allclose([mean[0], variance[0]], [3, 14 / 3], rtol=1e-6)


def test_nan_and_infinity_stay_in_their_channel(backend, rng):
    x = rng.standard_normal((100, 37)).astype(np.float32)
    clean = ops.batch_norm(x)
    x[7, 3], x[9, 20], x[11, 36] = np.nan, np.inf, -np.inf
    y, mean, variance = ops.batch_norm(x)
    touched = [3, 20, 36]
    assert np.isnan(variance[touched]).all()
    assert np.isnan(mean[3])
    np.testing.assert_array_equal(mean[[20, 36]], [np.inf, -np.inf])
    assert np.isnan(y[:, touched]).all()
    for result, before in zip((y, mean, variance), clean, strict=True):
        np.testing.assert_array_equal(
            np.delete(result, touched, -1), np.delete(before, touched, -1)
        )


def test_changing_the_returned_statistics_does_not_change_gradients(backend, rng):
    arrays = make_arrays((40, 18), rng)
    (y, mean, variance), pullback = ops.batch_norm.vjp(*arrays)
    dy = op_checks.gradient_like(y)
    expected = pullback(dy)
    mean[:], variance[:], y[:] = 7, 7, 7
    op_checks.assert_same_bits(pullback(dy), expected)


def test_gradients_of_the_statistics_alone(backend, rng):
    x = rng.standard_normal((50, 18)).astype(np.float32)
    (_, mean, variance), pullback = ops.batch_norm.vjp(x)
    for dys in ((None, np.ones_like(mean), None), (None, None, np.ones_like(variance))):
        dx, *nothing = pullback(*dys)
        assert nothing == [None] * 4
        right = REFERENCE.backward(dys, x)[0]
        assert_close(dx, right, NAME, "backward", 50)


@pytest.mark.parametrize("shape", [(0, 5), (2, 0, 3, 17), (0, 1)], ids=str)
def test_no_rows(shape, backend, rng):
    arrays = make_arrays(shape, rng, given=True)
    y, pullback = ops.batch_norm.vjp(*arrays)
    assert y.shape == shape
    dx, *others = pullback(y)
    assert dx.shape == shape
    for gradient in others:
        np.testing.assert_array_equal(gradient, np.zeros(shape[-1]))
    with pytest.raises(ValueError, match="batch_norm: the statistics of an empty batch do not"):
        ops.batch_norm(arrays[0])


@pytest.mark.parametrize("given", [False, True], ids=["computed", "given"])
def test_parity_with_torch(given, backend, rng):
    torch = pytest.importorskip("torch")
    from reference import torch_peer

    arrays = make_arrays((6, 5, 4, 19), rng, given=given)
    results, pullback = ops.batch_norm.vjp(*arrays)
    results = op_checks.as_tuple(results)
    dys = tuple(op_checks.gradient_like(v) for v in results)
    wide = [None if a is None else a.astype(np.float64) for a in arrays]
    theirs, right = torch_peer.values_and_gradients(
        NAME, wide, tuple(d.astype(np.float64) for d in dys), {}
    )
    for result, expected in zip(results, theirs, strict=True):
        assert_close(result, expected, NAME, "forward", 120)
    for i, (gradient, expected) in enumerate(zip(pullback(*dys), right, strict=True)):
        if expected is not None:
            scale = gradient_scale(i, dys[0], expected, 120)
            assert_close(gradient, expected, NAME, "backward", 120, scale)
    if not given:
        norm = torch.nn.functional.batch_norm(
            torch.from_numpy(wide[0]).permute(0, 3, 1, 2), None, None, training=True, eps=1e-3,
            weight=torch.from_numpy(wide[1]), bias=torch.from_numpy(wide[2]),
        )  # fmt: skip
        assert_close(results[0], norm.permute(0, 2, 3, 1).numpy(), NAME, "forward", 120)


@pytest.mark.parametrize("given", [False, True], ids=["computed", "given"])
@pytest.mark.parametrize("channels", [3, 19])
def test_calling(given, channels, backend, rng):
    arrays = make_arrays((6, 5, channels), rng, given=given)
    op_checks.check_forward_alone_is_the_same(NAME, arrays, {})
    op_checks.check_nothing_is_changed_or_shared(NAME, arrays, {})
    op_checks.check_layouts(NAME, arrays, {})
    op_checks.check_pullback(NAME, arrays, {})


@pytest.mark.parametrize("given", [False, True], ids=["computed", "given"])
def test_refused_gradients(given, rng):
    arrays = make_arrays((5, 7), rng, given=given)
    op_checks.check_pullback_refuses(NAME, arrays, {})
    _, pullback = ops.batch_norm.vjp(*arrays)
    dy = np.ones((5, 7), np.float32)
    both = np.zeros(7, np.float32)
    with pytest.raises(ValueError, match="batch_norm: out is written and must not overlap another"):
        pullback(dy, out=(None, both, both, None, None))
    if not given:
        for name, wrong in (("dmean", np.ones(6)), ("dvariance", np.ones((7, 1)))):
            position = 1 if name == "dmean" else 2
            dys = [dy, None, None]
            dys[position] = wrong.astype(np.float32)
            with pytest.raises(ValueError, match=rf"batch_norm: {name} must have shape \(7,\)"):
                pullback(*dys)
            dys[position] = np.ones(7)
            with pytest.raises(TypeError, match=f"batch_norm: {name} must be float32"):
                pullback(*dys)


@pytest.mark.parametrize(
    ("position", "argument"), list(enumerate(["x", "gamma", "beta", "mean", "variance"]))
)
def test_only_float32_arrays(position, argument, rng):
    arrays = make_arrays((5, 7), rng, given=True)
    op_checks.check_only_float32_arrays(NAME, arrays, {}, position, argument, position > 0)
    if position > 0:
        for shape in ((6,), (8,), (7, 1), ()):
            wrong = [*arrays[:position], np.ones(shape, np.float32), *arrays[position + 1 :]]
            with pytest.raises(ValueError, match=rf"^batch_norm: {argument} must have shape \(7,"):
                ops.batch_norm(*wrong)


def test_refused_calls(rng):
    x, gamma, beta, mean, variance = make_arrays((5, 7), rng, given=True)
    for shape in ((), (5, 0), (0,)):
        with pytest.raises(ValueError, match=r"^batch_norm: x must have a last axis of at least"):
            ops.batch_norm(np.zeros(shape, np.float32))
    with pytest.raises(ValueError, match="must be given both or neither, got only mean"):
        ops.batch_norm(x, gamma, beta, mean)
    with pytest.raises(ValueError, match="must be given both or neither, got only variance"):
        ops.batch_norm(x, gamma, beta, None, variance)
    for epsilon in (0.0, -1e-3, np.nan, np.inf, "1e-3", None):
        with pytest.raises(ValueError, match=r"^batch_norm: epsilon must be"):
            ops.batch_norm(x, epsilon=epsilon)


def test_examples():
    assert doctest.testmod(sys.modules["lamella.ops.batch_norm"]).failed == 0
