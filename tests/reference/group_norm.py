"""group_norm: each sample normalised over space and the channels of a group (Wu and He 2018).

    y = gamma (x - mean) / sqrt(variance + epsilon) + beta

The C channels are cut into `groups` runs of C / groups; mean and the biased variance are those of
one sample's run, over all axes between the first and the last. gamma and beta are per channel.
"""

from __future__ import annotations

import numpy as np

from .normalization import standardized, standardized_backward
from .precision import as_float64

SHARED = (1, 3)  # of (N, space, groups, C / groups)


def _grouped(x, groups):
    """x (N,...,C) as (N, space, groups, C / groups)."""
    batch, *space, channels = x.shape
    return x.reshape(batch, int(np.prod(space)), groups, channels // groups)


def forward(x, gamma=None, beta=None, *, groups, epsilon=1e-3):
    """x (N,...,C), gamma (C)?, beta (C)? -> y (N,...,C); C is a multiple of groups."""
    x, gamma, beta = as_float64(x, gamma, beta)
    y = standardized(_grouped(x, groups), SHARED, epsilon).reshape(x.shape)
    if gamma is not None:
        y = y * gamma
    if beta is not None:
        y = y + beta
    return y


def backward(dy, x, gamma=None, beta=None, *, groups, epsilon=1e-3):
    """-> dx (N,...,C), dgamma (C)?, dbeta (C)?."""
    dy, x, gamma = as_float64(dy, x, gamma)
    but_channels = tuple(range(x.ndim - 1))
    d_beta = None if beta is None else dy.sum(axis=but_channels)
    d_gamma = None
    if gamma is not None:
        unit = standardized(_grouped(x, groups), SHARED, epsilon).reshape(x.shape)
        d_gamma = (dy * unit).sum(axis=but_channels)
        dy = dy * gamma
    dx = standardized_backward(_grouped(dy, groups), _grouped(x, groups), SHARED, epsilon)
    return dx.reshape(x.shape), d_gamma, d_beta
