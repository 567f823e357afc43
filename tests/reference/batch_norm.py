"""batch_norm over every axis but the last.

    y = gamma (x - mean) / sqrt(variance + epsilon) + beta

With `mean` and `variance` given (inference) y is the result. Without, they are the batch's own, the
variance being the biased one (divided by the number of rows M), and the result is
(y, mean, variance).
"""

from __future__ import annotations

import numpy as np

from .precision import as_float64


def _statistics(rows):
    mean = rows.mean(axis=0)
    return mean, ((rows - mean) ** 2).mean(axis=0)


def forward(x, gamma=None, beta=None, mean=None, variance=None, *, epsilon=1e-3):
    """x (..., C), the others (C)? -> y (..., C), or (y, mean (C), variance (C))."""
    x, gamma, beta, mean, variance = as_float64(x, gamma, beta, mean, variance)
    from_batch = mean is None
    if from_batch:
        mean, variance = _statistics(x.reshape(-1, x.shape[-1]))
    y = (x - mean) / np.sqrt(variance + epsilon)
    if gamma is not None:
        y = y * gamma
    if beta is not None:
        y = y + beta
    return (y, mean, variance) if from_batch else y


def backward(dy, x, gamma=None, beta=None, mean=None, variance=None, *, epsilon=1e-3):
    """-> dx, dgamma?, dbeta?, dmean?, dvariance?.

    `dy` has the structure of forward's result: one array with statistics given, else the tuple
    (dy, dmean, dvariance), of which any may be None for zeros.
    """
    from_batch = mean is None
    d_mean_out = d_variance_out = None
    if from_batch:
        dy, d_mean_out, d_variance_out = dy
    x, gamma, beta, mean, variance = as_float64(x, gamma, beta, mean, variance)
    channels = x.shape[-1]
    rows = x.reshape(-1, channels)
    dy = np.zeros(rows.shape) if dy is None else np.asarray(dy, np.float64).reshape(rows.shape)
    if from_batch:
        mean, variance = _statistics(rows)

    centered = rows - mean
    inverse_deviation = 1.0 / np.sqrt(variance + epsilon)
    normalized = centered * inverse_deviation
    d_gamma = None if gamma is None else (dy * normalized).sum(axis=0)
    d_beta = None if beta is None else dy.sum(axis=0)
    d_normalized = dy if gamma is None else dy * gamma

    # normalized = (x - mean) * inverse_deviation(variance): its three inputs in turn
    dx = d_normalized * inverse_deviation
    d_mean = -(d_normalized * inverse_deviation).sum(axis=0)
    d_variance = (d_normalized * centered).sum(axis=0) * -0.5 * inverse_deviation**3
    if not from_batch:
        return dx.reshape(x.shape), d_gamma, d_beta, d_mean, d_variance

    # mean and variance are functions of x: dmean/dx = 1/M, dvariance/dx = 2 (x - mean)/M
    if d_mean_out is not None:
        d_mean = d_mean + d_mean_out
    if d_variance_out is not None:
        d_variance = d_variance + d_variance_out
    dx = dx + (d_mean + 2.0 * centered * d_variance) / rows.shape[0]
    return dx.reshape(x.shape), d_gamma, d_beta, None, None
