"""The activations and their derivatives; also by name, as dense and the convolutions fuse them.

At the kinks: relu'(0) = 0, leaky_relu'(0) = 1, elu'(0) = alpha.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import numpy as np


class Activation(NamedTuple):
    """y = function(x), applied to each element, and dy/dx = derivative(x)."""

    function: Callable
    derivative: Callable

    def forward(self, x, **options):
        return self.function(np.asarray(x, np.float64), **options)

    def backward(self, dy, x, **options):
        return (np.asarray(dy, np.float64) * self.derivative(np.asarray(x, np.float64), **options),)


def _softplus(x):
    # log(1 + exp(x)) without overflow for large x.
    return np.maximum(x, 0.0) + np.log1p(np.exp(-np.abs(x)))


def _sigmoid(x):
    # 1 / (1 + exp(-x)) without overflow for very negative x.
    return np.exp(-_softplus(-x))


def _sigmoid_derivative(x):
    return _sigmoid(x) * _sigmoid(-x)


def _tanh(x):
    return np.tanh(x)


def _tanh_derivative(x):
    # 1 - tanh(x)^2 = 4 sigmoid(2x) sigmoid(-2x), without cancellation for large |x|.
    return 4.0 * _sigmoid_derivative(2.0 * x)


def _relu(x):
    return np.where(x <= 0, 0.0, x)  # NaN is not <= 0, so it passes through


def _relu_derivative(x):
    return np.where(x > 0, 1.0, 0.0)


def _leaky_relu(x, negative_slope=0.2):
    return np.where(x < 0, negative_slope * x, x)


def _leaky_relu_derivative(x, negative_slope=0.2):
    return np.where(x < 0, negative_slope, 1.0)


def _elu(x, alpha=1.0):
    return np.where(x > 0, x, alpha * np.expm1(np.minimum(x, 0.0)))


def _elu_derivative(x, alpha=1.0):
    return np.where(x > 0, 1.0, alpha * np.exp(np.minimum(x, 0.0)))


def _silu(x):
    return x * _sigmoid(x)


def _silu_derivative(x):
    return _sigmoid(x) * (1.0 + x * _sigmoid(-x))


_erfc = np.vectorize(math.erfc, otypes=[np.float64])
_SQRT_2_OVER_PI = math.sqrt(2.0 / math.pi)


def _normal_cdf(x):
    return 0.5 * _erfc(-x / math.sqrt(2.0))


def _normal_pdf(x):
    return np.exp(-0.5 * x * x) / math.sqrt(2.0 * math.pi)


def _gelu(x, approximate=True):
    """x times the normal distribution function; `approximate`: that by tanh.

    Equations: Hendrycks and Gimpel 2016.
    """
    if not approximate:
        return x * _normal_cdf(x)
    # 0.5 (1 + tanh(z)) = sigmoid(2 z)
    return x * _sigmoid(2.0 * _SQRT_2_OVER_PI * (x + 0.044715 * x**3))


def _gelu_derivative(x, approximate=True):
    if not approximate:
        return _normal_cdf(x) + x * _normal_pdf(x)
    z = 2.0 * _SQRT_2_OVER_PI * (x + 0.044715 * x**3)
    dz = 2.0 * _SQRT_2_OVER_PI * (1.0 + 3.0 * 0.044715 * x**2)
    return _sigmoid(z) + x * _sigmoid_derivative(z) * dz


relu = Activation(_relu, _relu_derivative)
leaky_relu = Activation(_leaky_relu, _leaky_relu_derivative)
elu = Activation(_elu, _elu_derivative)
gelu = Activation(_gelu, _gelu_derivative)
silu = Activation(_silu, _silu_derivative)
sigmoid = Activation(_sigmoid, _sigmoid_derivative)
tanh = Activation(_tanh, _tanh_derivative)
softplus = Activation(_softplus, _sigmoid)
_linear = Activation(lambda x: x, np.ones_like)

FUSED = {
    None: _linear,
    "linear": _linear,
    "relu": relu,
    "gelu": Activation(
        partial(_gelu, approximate=False), partial(_gelu_derivative, approximate=False)
    ),
    "gelu_tanh": gelu,
    "silu": silu,
    "sigmoid": sigmoid,
    "tanh": tanh,
    "elu": elu,
    "leaky_relu": leaky_relu,
    "softplus": softplus,
}
