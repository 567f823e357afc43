"""softmax and log_softmax along one axis.

softmax(x)_i     = exp(x_i) / sum_j exp(x_j)
log_softmax(x)_i = x_i - log sum_j exp(x_j)
"""

from __future__ import annotations

import numpy as np

from .precision import as_float64


def forward(x, *, axis=-1):
    """y = exp(x - max) / sum exp(x - max): the maximum cancels and keeps exp from overflowing."""
    (x,) = as_float64(x)
    exponentials = np.exp(x - x.max(axis=axis, keepdims=True))
    return exponentials / exponentials.sum(axis=axis, keepdims=True)


def backward(dy, x, *, axis=-1):
    """dx = y (dy - sum(dy y))."""
    (dy,) = as_float64(dy)
    y = forward(x, axis=axis)
    return (y * (dy - (dy * y).sum(axis=axis, keepdims=True)),)


def log_forward(x, *, axis=-1):
    """y = (x - max) - log sum exp(x - max)."""
    (x,) = as_float64(x)
    shifted = x - x.max(axis=axis, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=axis, keepdims=True))


def log_backward(dy, x, *, axis=-1):
    """dx = dy - softmax(x) sum(dy)."""
    (dy,) = as_float64(dy)
    return (dy - forward(x, axis=axis) * dy.sum(axis=axis, keepdims=True),)
