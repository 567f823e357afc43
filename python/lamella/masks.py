"""Masks: bool arrays of an array's leading axes, False where an entry does not count."""

from __future__ import annotations

import numpy as np


def spread(mask: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Return `mask`, of leading axes of `shape`, as a view of that shape.

    Examples
    --------
    >>> spread(np.array([True, False]), (2, 3)).tolist()
    [[True, True, True], [False, False, False]]
    """
    return np.broadcast_to(mask.reshape(mask.shape + (1,) * (len(shape) - mask.ndim)), shape)
