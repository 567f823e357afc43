"""What finite differences cannot tell of the normalisations: what is shared, and in which order."""

from __future__ import annotations

import inspect

import numpy as np
import pytest
from reference import OPS

NORMS = ("layer_norm", "rms_norm", "group_norm")


@pytest.fixture
def rng():
    return np.random.default_rng(20251104)


@pytest.mark.parametrize("axis", [-1, 1, (1, 2), (-1, 0), (0, 1, 2)])
def test_layer_norm_has_the_statistics_asked_for(axis, rng):
    x = rng.standard_normal((5, 6, 7)) * 9.0 + 100.0
    y = OPS["layer_norm"].forward(x, axis=axis, epsilon=1e-12)
    np.testing.assert_allclose(y.mean(axis=axis), 0.0, atol=1e-12)
    np.testing.assert_allclose((y**2).mean(axis=axis), 1.0)  # biased: divided by the count
    rms = OPS["rms_norm"].forward(x, axis=axis, epsilon=1e-12)
    np.testing.assert_allclose((rms**2).mean(axis=axis), 1.0)
    np.testing.assert_allclose(rms * np.sqrt((x**2).mean(axis=axis, keepdims=True)), x)


@pytest.mark.parametrize("axis", [(1, 2), (2, 1), (-1, -2), (-2, 2)])
def test_the_order_of_the_axes_does_not_matter(axis, rng):
    x, gamma, beta = rng.standard_normal((3, 4, 5)), *rng.standard_normal((2, 4, 5))
    arrays = {"layer_norm": (x, gamma, beta), "rms_norm": (x, gamma)}
    for op, given in arrays.items():
        expected = OPS[op].forward(*given, axis=(1, 2))
        np.testing.assert_array_equal(OPS[op].forward(*given, axis=axis), expected)
        plain = OPS[op].forward(x, axis=axis)
        shift = beta if op == "layer_norm" else 0.0
        np.testing.assert_allclose(expected, plain * gamma + shift, rtol=1e-13)
        for gradient, array in zip(OPS[op].backward(x, *given, axis=axis), given, strict=True):
            assert gradient.shape == array.shape


def test_rms_norm_by_hand():
    y = OPS["rms_norm"].forward([[3.0, 4.0]], [2.0, -1.0], epsilon=12.5)
    np.testing.assert_allclose(y, [[6.0 / 5.0, -4.0 / 5.0]])  # mean square 12.5, epsilon inside


def test_epsilon_is_added_to_the_variance():
    expected = [-1.0, 1.0] / np.sqrt(1.0 + 3.0)
    np.testing.assert_allclose(OPS["layer_norm"].forward([4.0, 6.0], epsilon=3.0), expected)
    y = OPS["group_norm"].forward([[4.0, 6.0]], groups=1, epsilon=3.0)
    np.testing.assert_allclose(y, [expected])


def test_groups_are_runs_of_channels_of_one_sample(rng):
    x = rng.standard_normal((3, 5, 4, 6)) * [1.0, 2.0, 3.0, 4.0, 5.0, 6.0]
    y = OPS["group_norm"].forward(x, groups=3)
    for n in range(3):
        for first in (0, 2, 4):
            run = np.s_[n, :, :, first : first + 2]
            expected = OPS["layer_norm"].forward(x[run], axis=(0, 1, 2))
            np.testing.assert_allclose(y[run], expected, rtol=1e-12, atol=1e-12)
    # One group is layer_norm over all but the batch; as many as channels is instance norm.
    one = OPS["group_norm"].forward(x, groups=1)
    layer = OPS["layer_norm"].forward(x, axis=(1, 2, 3))
    np.testing.assert_allclose(one, layer, rtol=1e-12, atol=1e-12)
    every = OPS["group_norm"].forward(x, groups=6)
    layer = OPS["layer_norm"].forward(x, axis=(1, 2))
    np.testing.assert_allclose(every, layer, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("op", NORMS)
@pytest.mark.parametrize("poison", [np.nan, np.inf])
def test_nan_and_infinity_stay_in_their_sample(op, poison, rng):
    options = {"groups": 2} if op == "group_norm" else {}
    x, dy = rng.standard_normal((2, 5, 8))
    expected = OPS[op].forward(x, **options)
    (expected_dx, *_) = OPS[op].backward(dy, x, **options)
    bad = x.copy()
    bad[3, 1] = poison
    group = np.zeros(x.shape, bool)
    group[3, : 4 if op == "group_norm" else 8] = True
    y = OPS[op].forward(bad, **options)
    dx, *_ = OPS[op].backward(dy, bad, **options)
    np.testing.assert_array_equal(y[~group], expected[~group])
    np.testing.assert_array_equal(dx[~group], expected_dx[~group])
    assert np.isnan(y[3, 1])
    assert np.isnan(dx[3, 1])
    # An infinite root mean square makes 0 of every finite element; a mean makes NaN of all.
    if op == "rms_norm" and np.isinf(poison):
        assert not np.delete(y[3], 1).any()
    else:
        assert np.isnan(y[group]).all()


@pytest.mark.parametrize("op", NORMS)
def test_backward_takes_what_forward_takes(op):
    forward, backward = (inspect.signature(function).parameters for function in OPS[op])
    assert list(backward.values())[1:] == list(forward.values())
    assert next(iter(backward)) == "dy"
