"""The errors of the elementary functions in ulp, measured through the ops that expose them.

The claims are those of csrc/simd/math.h, with half an ulp for each further operation of the op.
simd_test.cpp measures the functions themselves, those that no op exposes among them.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import pytest

from lamella import ops

SMALLEST_NORMAL = 2.0**-126
STRIDE = 10007  # between the bit patterns of the sweep: 429,000 numbers of every magnitude

erfc = np.vectorize(math.erfc, otypes=[np.float64])


def sweep(low=-np.inf, high=np.inf):
    """Finite float32 numbers of every magnitude in [low, high], and many where functions bend."""
    with np.errstate(invalid="ignore"):
        everywhere = np.arange(0, 2**32, STRIDE, dtype=np.uint32).view(np.float32)
    near = np.linspace(-110, 110, 200001, dtype=np.float32)
    near_zero = np.linspace(-2, 2, 100003, dtype=np.float32)
    x = np.concatenate([everywhere, near, near_zero, np.float32([0.0, -0.0])])
    with np.errstate(invalid="ignore"):
        return x[np.isfinite(x) & (x >= low) & (x <= high)]


def ulp_errors(actual, exact):
    """The error of each element in units of the last place of the exact result, at least normal."""
    _, exponent = np.frexp(np.maximum(np.abs(exact), SMALLEST_NORMAL))
    return np.abs(actual - exact) / np.ldexp(1.0, exponent - 24)


def slope(op, **options):
    """The op's derivative."""
    return lambda x: op.vjp(x, **options)[1](np.ones_like(x))[0]


def sigmoid(x):
    return np.exp(-np.logaddexp(0.0, -x))


def twice_inner(x):
    """What the sigmoid form of gelu's approximation takes the sigmoid of."""
    return 2.0 * math.sqrt(2.0 / math.pi) * (x + 0.044715 * x**3)


class Claim(NamedTuple):
    actual: Callable
    exact: Callable
    ulps: float
    low: float = -np.inf
    high: float = np.inf
    growth: Callable = np.zeros_like  # further ulps, by x


CLAIMS = {
    # elu's derivative is exp itself for x <= 0, and elu is 2 tanh(x / 2) (exp(x) + 1) / 2.
    "exp": Claim(slope(ops.elu), np.exp, 2, high=0.0),
    "expm1": Claim(ops.elu, np.expm1, 4, high=0.0),
    "tanh": Claim(ops.tanh, np.tanh, 2),
    "sigmoid": Claim(ops.sigmoid, sigmoid, 3),
    "softplus": Claim(ops.softplus, lambda x: np.logaddexp(0.0, x), 4),
    "sigmoid as a slope": Claim(slope(ops.softplus), sigmoid, 3.5),
    # Below -87 sigmoid is not a normal number.
    "silu": Claim(ops.silu, lambda x: x * sigmoid(x), 3.5, low=-87.0),
    "gelu by erf": Claim(
        lambda x: ops.gelu(x, approximate=False),
        lambda x: x * 0.5 * erfc(-x / math.sqrt(2.0)),
        8.5,
        low=-12.0,
        growth=lambda x: np.minimum(x**2, 200.0) / 2,
    ),
    # The rounding of the sigmoid's argument enters as its magnitude.
    "gelu by tanh": Claim(
        ops.gelu,
        lambda x: x * sigmoid(twice_inner(x)),
        3.5,
        low=-9.0,
        growth=lambda x: 4.0 * np.minimum(np.abs(twice_inner(x)), 100.0),
    ),
}


@pytest.mark.parametrize("name", CLAIMS)
def test_claimed_errors(name, backend):
    claim = CLAIMS[name]
    x = sweep(claim.low, claim.high)
    with np.errstate(all="ignore"):
        exact = claim.exact(x.astype(np.float64))
        errors = ulp_errors(claim.actual(x), exact) - claim.growth(x.astype(np.float64))
    worst = np.argmax(errors)
    print(f"{name} on {backend}: {errors[worst]:.2f} ulp at {x[worst]:.9g}, claim {claim.ulps}")
    assert errors[worst] <= claim.ulps


@pytest.mark.parametrize("name", CLAIMS)
def test_claims_are_not_far_above_what_is_measured(name):
    # On whichever instruction set is in use: a claim twice the error would hide a regression.
    claim = CLAIMS[name]
    x = sweep(claim.low, claim.high)
    with np.errstate(all="ignore"):
        exact = claim.exact(x.astype(np.float64))
        errors = ulp_errors(claim.actual(x), exact) / (claim.ulps + claim.growth(np.float64(x)))
    assert errors.max() > 0.5


def test_exact_values(backend):
    x = np.float32([0.0, -0.0])
    np.testing.assert_array_equal(ops.sigmoid(x), np.float32([0.5, 0.5]))
    np.testing.assert_array_equal(slope(ops.elu)(x), np.float32([1.0, 1.0]))
    for op in (ops.tanh, ops.elu, ops.gelu, ops.silu):
        np.testing.assert_array_equal(op(x), x)
    large = np.float32([100.0, 3e38, np.inf])
    np.testing.assert_array_equal(ops.softplus(large), large)
    np.testing.assert_array_equal(ops.sigmoid(large), np.ones(3))
    np.testing.assert_array_equal(ops.tanh(large), np.ones(3))
    np.testing.assert_array_equal(ops.tanh(-large), -np.ones(3))
    np.testing.assert_array_equal(ops.elu(-large), -np.ones(3))
    np.testing.assert_array_equal(ops.sigmoid(np.float32([-110.0, -3e38, -np.inf])), np.zeros(3))


def test_denormal_results(backend):
    # exp keeps its last bits down to the smallest number, unless the CPU is told to flush them.
    x = np.linspace(-103, -87.5, 10001, dtype=np.float32)
    exact = np.exp(x.astype(np.float64))
    assert np.all(np.abs(slope(ops.elu)(x) - exact) <= 2.0**-126)
    assert np.all(np.abs(ops.sigmoid(x) - exact) <= 2.0**-126)


@pytest.mark.parametrize("op", [ops.sigmoid, ops.tanh, ops.softplus], ids=lambda op: op.__name__)
def test_odd_and_even_parts(op, backend):
    # tanh(-x) = -tanh(x); sigmoid(-x) = 1 - sigmoid(x); softplus(-x) = softplus(x) - x.
    x = sweep(0.0, 20.0)
    positive, negative = op(x).astype(np.float64), op(-x).astype(np.float64)
    expected = {"tanh": -positive, "sigmoid": 1 - positive, "softplus": positive - x}[op.__name__]
    np.testing.assert_allclose(negative, expected, rtol=0, atol=3e-6)
