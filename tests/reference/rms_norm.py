"""rms_norm: each sample divided by the root of its mean square (Zhang and Sennrich 2019).

    y = gamma x / sqrt(mean(x^2) + epsilon)

The mean is taken over `axis`, an int or a tuple; gamma has the shape of those axes, in the order
they have in x.
"""

from __future__ import annotations

import numpy as np

from .normalization import axes_of, mean, other_axes
from .precision import as_float64


def forward(x, gamma=None, *, axis=-1, epsilon=1e-6):
    """x (...), gamma (x's sizes along axis)? -> y like x."""
    x, gamma = as_float64(x, gamma)
    axes = axes_of(axis, x.ndim)
    y = x / np.sqrt(mean(x**2, axes) + epsilon)
    return y if gamma is None else y * np.expand_dims(gamma, other_axes(axes, x.ndim))


def backward(dy, x, gamma=None, *, axis=-1, epsilon=1e-6):
    """-> dx, dgamma?."""
    dy, x, gamma = as_float64(dy, x, gamma)
    axes = axes_of(axis, x.ndim)
    others = other_axes(axes, x.ndim)
    inverse_rms = 1.0 / np.sqrt(mean(x**2, axes) + epsilon)
    unit = x * inverse_rms
    d_gamma = None
    if gamma is not None:
        d_gamma = (dy * unit).sum(axis=others)
        dy = dy * np.expand_dims(gamma, others)
    return inverse_rms * (dy - unit * mean(dy * unit, axes)), d_gamma
