"""max_pool2d: the largest element of each window, channel by channel.

The gradient goes to the position that gave the maximum. Among equal ones that is the first in
row-major order of the window. A NaN counts as larger than everything, the first one wins. Padding
never wins, not against -inf either; a window that holds padding only (possible with dilation) gives
-inf and no gradient.
"""

from __future__ import annotations

import numpy as np

from .geometry import crop_rows_columns, pad_rows_columns, pool_windows
from .precision import as_float64


def _windows(x_shape, *options):
    """(padding with the overhang, (OH, OW), taps): what hangs over the end is padding too."""
    padding, overhang, outputs, taps = pool_windows(x_shape, *options)
    padding = tuple((p[0], p[1] + o[1]) for p, o in zip(padding, overhang, strict=True))
    return padding, outputs, taps


def _winners(x, padding, outputs, taps):
    """(maxima, number of the tap that gave each: -1 where the window holds padding only)."""
    padded = pad_rows_columns(x, padding)
    inside = pad_rows_columns(np.ones(x.shape, bool), padding, value=False)
    best = np.full((x.shape[0], *outputs, x.shape[3]), -np.inf)
    winner = np.full(best.shape, -1)
    for number, (_, _, rows, columns) in enumerate(taps):
        value = padded[:, rows, columns]
        larger = (value > best) | (winner < 0) | (np.isnan(value) & ~np.isnan(best))
        wins = inside[:, rows, columns] & larger
        best = np.where(wins, value, best)
        winner = np.where(wins, number, winner)
    return best, winner


def forward(x, *, pool_size=2, strides=None, padding="valid", dilation=1, ceil_mode=False):
    """x (N,H,W,C) -> y (N,OH,OW,C)."""
    (x,) = as_float64(x)
    y, _ = _winners(x, *_windows(x.shape, pool_size, strides, padding, dilation, ceil_mode))
    return y


def backward(dy, x, *, pool_size=2, strides=None, padding="valid", dilation=1, ceil_mode=False):
    """dy (N,OH,OW,C) -> (dx (N,H,W,C),)."""
    dy, x = as_float64(dy, x)
    padding, outputs, taps = _windows(x.shape, pool_size, strides, padding, dilation, ceil_mode)
    _, winner = _winners(x, padding, outputs, taps)
    dpadded = pad_rows_columns(np.zeros(x.shape), padding)
    for number, (_, _, rows, columns) in enumerate(taps):
        dpadded[:, rows, columns] += np.where(winner == number, dy, 0.0)
    return (crop_rows_columns(dpadded, padding),)
