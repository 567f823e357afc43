"""group_norm: values, gradients, what it refuses."""

from __future__ import annotations

import doctest
import sys

import hypothesis
import numpy as np
import op_checks
import pytest
from hypothesis import strategies as st
from reference import OPS, cases
from tolerances import assert_close

from lamella import ops

NAME = "group_norm"
REFERENCE = OPS[NAME]


def make_arrays(shape, rng, gamma=True, beta=True, offset=0.0):
    channels = shape[-1]

    def vector(present):
        return rng.standard_normal(channels).astype(np.float32) if present else None

    x = rng.standard_normal(shape) * rng.uniform(0.5, 3.0, channels) + offset
    return [x.astype(np.float32), vector(gamma), vector(beta)]


def check(arrays, options):
    x, gamma, _ = arrays
    groups = options["groups"]
    images, channels = len(x), x.shape[-1]
    terms = x[0].size // groups if images else 1
    y, pullback = ops.group_norm.vjp(*arrays, **options)
    assert_close(y, REFERENCE.forward(*arrays, **options), NAME, "forward", max(1, terms))

    dy = op_checks.gradient_like(y)
    gradients = pullback(dy)
    right = REFERENCE.backward(dy, *arrays, **options)
    # dx is scale * gamma dy less its means; the others are sums over images and positions.
    variance = np.ones(1)
    if x.size:
        by_group = x.reshape(images, -1, groups, channels // groups).astype(np.float64)
        variance = by_group.var(axis=(1, 3))
    steepest = 1.0 / np.sqrt(np.min(variance) + options.get("epsilon", 1e-3))
    largest = np.max(np.abs(dy), initial=0.0)
    factor = 1.0 if gamma is None else np.max(np.abs(gamma))
    rows = max(1, x.size // channels)
    scales = [max(1.0, steepest * factor) * largest] + [np.sqrt(rows) * largest] * 2
    for gradient, wanted, scale in zip(gradients, right, scales, strict=True):
        assert (gradient is None) == (wanted is None)
        if wanted is not None:
            scale = max(scale, np.max(np.abs(wanted), initial=0.0))
            assert_close(gradient, wanted, NAME, "backward", max(rows, terms), scale)


REFERENCE_CASES = [case for case in cases.CASES if case[0] == NAME]


@pytest.mark.parametrize(("name", "shapes", "options"), REFERENCE_CASES, ids=str)
def test_the_references_cases(name, shapes, options, backend, rng):
    arrays = cases.make_arrays(name, shapes, options, rng)
    check([None if a is None else a.astype(np.float32) for a in arrays], options)


# Folded rows where there are fewer channels than lanes, whole and partial vectors and groups.
CHANNELS = [1, 2, 3, 4, 6, 7, 8, 9, 15, 16, 17, 31, 33, 48, 63, 64, 65, 100, 257, 1000]


@pytest.mark.parametrize("channels", CHANNELS)
def test_numbers_of_channels(channels, backend, rng):
    divisors = [g for g in range(1, channels + 1) if channels % g == 0]
    for rows in (1, 2, 3, 15, 16, 17, 64, 131):
        for groups in {divisors[0], divisors[len(divisors) // 2], divisors[-1]}:
            check(make_arrays((2, rows, channels), rng), {"groups": groups})


# Images that are one thread's work, several of them a task; images in chunks, at once and in waves;
# with rows left over after folding.
TASKS = [
    ((300, 9, 9, 8), 4),
    ((7, 60, 60, 16), 8),
    ((20, 41, 50, 33), 3),
    ((3, 80, 80, 48), 6),
    ((2, 300_001, 3), 3),
    ((1, 300, 700), 7),
    ((5, 70, 70, 64), 64),
    ((9, 130, 260, 10), 5),
    ((400, 96), 12),
]


@pytest.mark.parametrize(("shape", "groups"), TASKS, ids=str)
def test_sizes_that_are_cut_into_tasks(shape, groups, backend, rng):
    arrays = make_arrays(shape, rng, offset=1.0)
    check(arrays, {"groups": groups})
    op_checks.check_thread_counts(NAME, arrays, {"groups": groups})


@hypothesis.settings(
    max_examples=60,
    deadline=None,
    suppress_health_check=[hypothesis.HealthCheck.function_scoped_fixture],
)
@hypothesis.given(
    lead=st.lists(st.integers(1, 7), min_size=1, max_size=3),
    groups=st.integers(1, 9),
    size=st.integers(1, 9),
    gamma=st.booleans(),
    beta=st.booleans(),
    epsilon=st.sampled_from([1e-3, 0.5]),
    seed=st.integers(0, 2**32),
)
def test_any_shape(backend, lead, groups, size, gamma, beta, epsilon, seed):
    rng = np.random.default_rng(seed)
    arrays = make_arrays((*lead, groups * size), rng, gamma, beta)
    check(arrays, {"groups": groups, "epsilon": epsilon})


@pytest.mark.parametrize("channels", [8, 64])
def test_results_larger_than_the_caches(channels, backend, rng):
    """Written past them, where images are whole vectors: with the same bits."""
    for rows in (512, 515):
        few = make_arrays((16, rows, channels), rng)
        repeats = (48 << 20) // few[0].nbytes
        many = [np.concatenate([few[0]] * repeats), *few[1:]]
        y, pullback = ops.group_norm.vjp(*few, groups=4)
        dy = op_checks.gradient_like(y)
        dx = pullback(dy)[0]
        y_many, pullback = ops.group_norm.vjp(*many, groups=4)
        dx_many = pullback(np.concatenate([dy] * repeats))[0]
        for result, right in ((y_many, y), (dx_many, dx)):
            assert result.tobytes() == right.tobytes() * repeats


@pytest.mark.parametrize("shape", [(2, 500, 20), (1, 30_000, 4), (3, 7, 16), (2, 64, 2)], ids=str)
def test_a_mean_much_larger_than_the_deviation(shape, backend, rng):
    """x is exact in float32; what follows is as good as without the mean."""
    arrays = make_arrays(shape, rng, offset=200_000.0)
    for groups in (1, 2, shape[-1]):
        check(arrays, {"groups": groups, "epsilon": 1e-5})


def test_groups_of_very_different_means(backend, rng):
    x = rng.standard_normal((2, 90, 24)).astype(np.float32) + np.repeat([0, 1e5, -3e6], 8)
    check([x.astype(np.float32), None, None], {"groups": 3})
    check([x.astype(np.float32), None, None], {"groups": 1, "epsilon": 1e-6})


def test_equal_elements_have_no_deviation(backend):
    for shape in ((2, 300, 20), (2, 31, 4), (1, 1, 8)):
        beta = np.arange(shape[-1], dtype=np.float32)
        for value in (0.1, 12345.678):
            x = np.full(shape, value, np.float32)
            y, pullback = ops.group_norm.vjp(x, None, beta, groups=4)
            np.testing.assert_allclose(y, np.broadcast_to(beta, shape), atol=1e-5)
            assert np.max(np.abs(pullback(np.ones_like(x))[0])) < 1e-3


def test_special_numbers_of_groups(backend, rng):
    """One group is layer_norm over all but the batch; one a channel, instance normalization."""
    x, gamma, beta = make_arrays((3, 5, 6, 8), rng)
    one = ops.group_norm(x, groups=1)
    assert_close(one, ops.layer_norm(x, axis=(1, 2, 3)), NAME, "forward", 240)
    instance = ops.group_norm(x, gamma, beta, groups=8)
    expected = ops.layer_norm(x, axis=(1, 2)) * gamma + beta
    assert_close(instance, expected, NAME, "forward", 30)


@pytest.mark.parametrize("shape", [(3, 40, 24), (3, 37, 6), (2, 70, 80, 24)], ids=str)
def test_nan_and_infinity_stay_in_their_group(shape, backend, rng):
    arrays = make_arrays(shape, rng)
    clean, pullback = ops.group_norm.vjp(*arrays, groups=3)
    dy = op_checks.gradient_like(clean)
    clean_dx = pullback(dy)[0]
    for value in (np.nan, np.inf, -np.inf):
        x = arrays[0].copy()
        x[1, ..., -1, 3] = value
        y, pullback = ops.group_norm.vjp(x, *arrays[1:], groups=3)
        dx = pullback(dy)[0]
        touched = np.zeros(shape, bool)
        group = 3 // (shape[-1] // 3)
        touched[1, ..., group * shape[-1] // 3 : (group + 1) * shape[-1] // 3] = True
        assert np.isnan(y[touched]).all()
        assert np.isnan(dx[touched]).all()
        np.testing.assert_array_equal(y[~touched], clean[~touched])
        np.testing.assert_array_equal(dx[~touched], clean_dx[~touched])


@pytest.mark.parametrize("shape", [(0, 5, 4), (2, 0, 4), (0, 4), (3, 0, 2, 4)], ids=str)
def test_no_elements(shape, backend, rng):
    arrays = make_arrays(shape, rng)
    y, pullback = ops.group_norm.vjp(*arrays, groups=2)
    assert y.shape == shape
    dx, *others = pullback(y)
    assert dx.shape == shape
    for gradient in others:
        np.testing.assert_array_equal(gradient, np.zeros(4))


def test_parity_with_torch(backend, rng):
    pytest.importorskip("torch")
    from reference import torch_peer

    arrays = make_arrays((6, 5, 4, 18), rng)
    y, pullback = ops.group_norm.vjp(*arrays, groups=3)
    dy = op_checks.gradient_like(y)
    wide = [a.astype(np.float64) for a in arrays]
    (their_y,), right = torch_peer.values_and_gradients(
        NAME, wide, (dy.astype(np.float64),), {"groups": 3}
    )
    assert_close(y, their_y, NAME, "forward", 120)
    for gradient, expected in zip(pullback(dy), right, strict=True):
        assert_close(gradient, expected, NAME, "backward", 120)


@pytest.mark.parametrize("channels", [6, 18])
def test_calling(channels, backend, rng):
    arrays = make_arrays((6, 5, channels), rng)
    options = {"groups": 3}
    op_checks.check_forward_alone_is_the_same(NAME, arrays, options)
    op_checks.check_nothing_is_changed_or_shared(NAME, arrays, options)
    op_checks.check_layouts(NAME, arrays, options)
    op_checks.check_pullback(NAME, arrays, options)


def test_refused_gradients(rng):
    arrays = make_arrays((5, 3, 6), rng)
    op_checks.check_pullback_refuses(NAME, arrays, {"groups": 2})
    _, pullback = ops.group_norm.vjp(*arrays, groups=2)
    both = np.zeros(6, np.float32)
    with pytest.raises(ValueError, match="group_norm: out is written and must not overlap another"):
        pullback(np.ones_like(arrays[0]), out=(None, both, both))


@pytest.mark.parametrize(("position", "argument"), list(enumerate(["x", "gamma", "beta"])))
def test_only_float32_arrays(position, argument, rng):
    arrays = make_arrays((5, 3, 6), rng)
    op_checks.check_only_float32_arrays(
        NAME, arrays, {"groups": 2}, position, argument, position > 0
    )
    if position > 0:
        for shape in ((5,), (3, 2), (6, 1), ()):
            wrong = [*arrays[:position], np.ones(shape, np.float32), *arrays[position + 1 :]]
            with pytest.raises(ValueError, match=rf"^group_norm: {argument} must have shape \(6,"):
                ops.group_norm(*wrong, groups=2)


def test_refused_calls(rng):
    x = np.ones((5, 3, 6), np.float32)
    for shape in ((), (6,), (5, 3, 0), (0, 0)):
        with pytest.raises(ValueError, match=r"^group_norm: x must have shape \(N, ..., C\) with"):
            ops.group_norm(np.zeros(shape, np.float32), groups=1)
    for groups in (4, 5, 7, 12, 2**40):
        with pytest.raises(
            ValueError, match=rf"^group_norm: groups must divide .* groups={groups} for 6 channels"
        ):
            ops.group_norm(x, groups=groups)
    for groups in (0, -1, 2.0, None, "2", True, (2,)):
        with pytest.raises(ValueError, match=r"^group_norm: groups must be"):
            ops.group_norm(x, groups=groups)
    for epsilon in (0.0, -1e-3, np.nan, np.inf, "1e-3", None):
        with pytest.raises(ValueError, match=r"^group_norm: epsilon must be"):
            ops.group_norm(x, groups=2, epsilon=epsilon)
    with pytest.raises(TypeError, match="groups"):
        ops.group_norm(x)


def test_examples():
    assert doctest.testmod(sys.modules["lamella.ops.group_norm"]).failed == 0
