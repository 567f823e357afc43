"""layer_norm: each sample normalised over some of its own axes (Ba et al. 2016).

    y = gamma (x - mean) / sqrt(variance + epsilon) + beta

mean and the biased variance are taken over `axis`, an int or a tuple; gamma and beta have the shape
of those axes, in the order they have in x, whatever their order in `axis`.
"""

from __future__ import annotations

import numpy as np

from .normalization import axes_of, other_axes, standardized, standardized_backward
from .precision import as_float64


def forward(x, gamma=None, beta=None, *, axis=-1, epsilon=1e-3):
    """x (...), gamma and beta (x's sizes along axis)? -> y like x."""
    x, gamma, beta = as_float64(x, gamma, beta)
    axes = axes_of(axis, x.ndim)
    others = other_axes(axes, x.ndim)
    y = standardized(x, axes, epsilon)
    if gamma is not None:
        y = y * np.expand_dims(gamma, others)
    if beta is not None:
        y = y + np.expand_dims(beta, others)
    return y


def backward(dy, x, gamma=None, beta=None, *, axis=-1, epsilon=1e-3):
    """-> dx, dgamma?, dbeta?."""
    dy, x, gamma = as_float64(dy, x, gamma)
    axes = axes_of(axis, x.ndim)
    others = other_axes(axes, x.ndim)
    d_beta = None if beta is None else dy.sum(axis=others)
    d_gamma = None
    if gamma is not None:
        d_gamma = (dy * standardized(x, axes, epsilon)).sum(axis=others)
        dy = dy * np.expand_dims(gamma, others)
    return standardized_backward(dy, x, axes, epsilon), d_gamma, d_beta
