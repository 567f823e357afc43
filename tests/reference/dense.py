"""dense: y = activation(x kernel + bias), over the last axis of x."""

from __future__ import annotations

import numpy as np

from .activations import FUSED


def _preactivation(x, kernel, bias):
    z = np.asarray(x, np.float64) @ np.asarray(kernel, np.float64)
    return z if bias is None else z + np.asarray(bias, np.float64)


def forward(x, kernel, bias=None, *, activation=None):
    """x (..., D), kernel (D, U), bias (U)? -> y (..., U)."""
    return FUSED[activation].forward(_preactivation(x, kernel, bias))


def backward(dy, x, kernel, bias=None, *, activation=None):
    """dy (..., U) -> dx (..., D), dkernel (D, U), dbias (U)?."""
    (dz,) = FUSED[activation].backward(dy, _preactivation(x, kernel, bias))
    dx = dz @ np.asarray(kernel, np.float64).T
    features, units = np.shape(kernel)
    rows = np.asarray(x, np.float64).reshape(-1, features)
    dz_rows = dz.reshape(-1, units)
    return dx, rows.T @ dz_rows, None if bias is None else dz_rows.sum(axis=0)
