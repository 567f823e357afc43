"""Small tools around training: seeds, one-hot labels, the number of threads."""

from __future__ import annotations

import operator
from typing import Any

import numpy as np

from lamella import random

__all__ = ["get_num_threads", "set_num_threads", "set_random_seed", "to_categorical"]


def set_random_seed(seed: int) -> None:
    """Make everything random that follows repeatable: initial weights, shuffling, dropout.

    Unlike Keras' function of this name it leaves Python's and NumPy's own global generators alone:
    lamella does not draw from them.

    Parameters
    ----------
    seed : int
        In [0, 2**64).

    Raises
    ------
    TypeError
        `seed` is not an integer.
    ValueError
        `seed` is out of range.

    Examples
    --------
    >>> import lamella
    >>> lamella.utils.set_random_seed(1)
    """
    random.set_seed(seed)


def to_categorical(x: Any, num_classes: int | None = None) -> np.ndarray:
    """Turn class numbers into one-hot rows.

    Parameters
    ----------
    x : array_like of int, shape (...) or (..., 1)
        Class numbers, each in [0, num_classes). A last axis of size 1 is dropped if it is not the
        only one.
    num_classes : int, optional
        Number of classes; default ``max(x) + 1``.

    Returns
    -------
    np.ndarray
        float32, shape (..., num_classes).

    Raises
    ------
    TypeError
        `x` does not hold integers.
    ValueError
        `num_classes` is not positive, or absent while `x` is empty.
    IndexError
        A class number is outside [0, num_classes).

    Examples
    --------
    >>> to_categorical([0, 2], num_classes=3)
    array([[1., 0., 0.],
           [0., 0., 1.]], dtype=float32)
    """
    labels = np.asarray(x)
    if labels.dtype.kind == "f" and np.array_equal(labels, np.trunc(labels)):
        labels = labels.astype(np.int64)
    if labels.dtype.kind not in "iu":
        raise TypeError(f"to_categorical: x expects integers, received dtype {labels.dtype}")
    if labels.ndim > 1 and labels.shape[-1] == 1:
        labels = labels[..., 0]
    if num_classes is None:
        if labels.size == 0:
            raise ValueError("to_categorical: num_classes is needed for an empty x")
        num_classes = int(labels.max()) + 1
    num_classes = operator.index(num_classes)
    if num_classes < 1:
        raise ValueError(f"to_categorical: num_classes expects at least 1, received {num_classes}")
    if labels.size and not (labels.min() >= 0 and labels.max() < num_classes):
        raise IndexError(
            f"to_categorical: x expects class numbers in [0, {num_classes}), received values "
            f"from {labels.min()} to {labels.max()}"
        )
    result = np.zeros((labels.size, num_classes), np.float32)
    result[np.arange(labels.size), labels.reshape(-1)] = 1
    return result.reshape(*labels.shape, num_classes)


def set_num_threads(count: int) -> None:
    """Set how many threads the CPU kernels use; results do not depend on it.

    Parameters
    ----------
    count : int
        At least 1.

    Examples
    --------
    >>> import lamella
    >>> lamella.utils.set_num_threads(2)
    >>> lamella.utils.get_num_threads()
    2
    """
    from lamella import _cpu

    _cpu.set_num_threads(count)


def get_num_threads() -> int:
    """Return how many threads the CPU kernels use."""
    from lamella import _cpu

    return int(_cpu.num_threads())
