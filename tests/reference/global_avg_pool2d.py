"""global_avg_pool2d: the mean of each channel over the image."""

from __future__ import annotations

import numpy as np

from .precision import as_float64


def forward(x):
    """x (N,H,W,C) -> y (N,C)."""
    (x,) = as_float64(x)
    return x.mean(axis=(1, 2))


def backward(dy, x):
    """dy (N,C) -> (dx (N,H,W,C),): every pixel has the same share."""
    (dy,) = as_float64(dy)
    _, height, width, _ = x.shape
    return (np.broadcast_to(dy[:, None, None, :] / (height * width), x.shape).copy(),)
