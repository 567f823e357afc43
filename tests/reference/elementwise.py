"""add, multiply (both with NumPy broadcasting) and concatenate."""

from __future__ import annotations

import numpy as np


def sum_to_shape(gradient, shape):
    """The gradient of an array that was broadcast from `shape`: summed over every repetition."""
    gradient = gradient.sum(axis=tuple(range(gradient.ndim - len(shape))))
    repeated = tuple(axis for axis, size in enumerate(shape) if size == 1)
    return gradient.sum(axis=repeated, keepdims=True)


def add_forward(a, b):
    """y = a + b."""
    return np.asarray(a, np.float64) + np.asarray(b, np.float64)


def add_backward(dy, a, b):
    dy = np.asarray(dy, np.float64)
    return sum_to_shape(dy, np.shape(a)), sum_to_shape(dy, np.shape(b))


def multiply_forward(a, b):
    """y = a * b, element by element."""
    return np.asarray(a, np.float64) * np.asarray(b, np.float64)


def multiply_backward(dy, a, b):
    dy, a, b = (np.asarray(array, np.float64) for array in (dy, a, b))
    return sum_to_shape(dy * b, a.shape), sum_to_shape(dy * a, b.shape)


def concatenate_forward(*arrays, axis=-1):
    """The arrays one after another along `axis`."""
    return np.concatenate([np.asarray(array, np.float64) for array in arrays], axis=axis)


def concatenate_backward(dy, *arrays, axis=-1):
    ends = np.cumsum([array.shape[axis] for array in arrays])
    return tuple(np.split(np.asarray(dy, np.float64), ends[:-1], axis=axis))
