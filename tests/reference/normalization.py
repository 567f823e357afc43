"""What layer_norm and group_norm share: mean 0 and deviation 1, over some axes of x.

    standardized(x) = (x - mean) / sqrt(variance + epsilon)

The variance is the biased one: divided by the number of elements that share it.
"""

from __future__ import annotations

import numpy as np


def axes_of(axis, rank):
    """`axis`, an int or a tuple, as ascending axes counted from the front."""
    axes = axis if isinstance(axis, tuple) else (axis,)
    return tuple(sorted(a % rank for a in axes))


def other_axes(axes, rank):
    return tuple(a for a in range(rank) if a not in axes)


def mean(x, axes):
    """np.mean, whose warning of no elements np.errstate does not silence."""
    count = np.prod([x.shape[a] for a in axes])
    return x.sum(axis=axes, keepdims=True) / count


def _unit_and_inverse_deviation(x, axes, epsilon):
    centered = x - mean(x, axes)
    inverse_deviation = 1.0 / np.sqrt(mean(centered**2, axes) + epsilon)
    return centered * inverse_deviation, inverse_deviation


def standardized(x, axes, epsilon):
    unit, _ = _unit_and_inverse_deviation(x, axes, epsilon)
    return unit


def standardized_backward(dy, x, axes, epsilon):
    """dx. The mean and the variance of x take their part of every gradient back."""
    unit, inverse_deviation = _unit_and_inverse_deviation(x, axes, epsilon)
    dx = dy - mean(dy, axes) - unit * mean(dy * unit, axes)
    return dx * inverse_deviation
