"""avg_pool2d: the mean of each window, channel by channel.

The sum over a window is divided by the number of its positions inside the image, or, with
`count_include_pad`, inside the image and its padding. What ceil_mode lets hang over the padded
image is never counted. A window with nothing to count gives 0.
"""

from __future__ import annotations

import numpy as np

from .geometry import crop_rows_columns, pad_rows_columns, pool_windows
from .precision import as_float64


def _windows(x_shape, pool_size, strides, padding, dilation, ceil_mode, count_include_pad):
    """(padding with the overhang, taps, each window's 1 / count (1,OH,OW,1))."""
    padding, overhang, outputs, taps = pool_windows(
        x_shape, pool_size, strides, padding, dilation, ceil_mode
    )
    image = np.ones((1, *x_shape[1:3], 1))
    counted = pad_rows_columns(image, padding, value=1.0 if count_include_pad else 0.0)
    counted = pad_rows_columns(counted, overhang)
    count = np.zeros((1, *outputs, 1))
    for _, _, rows, columns in taps:
        count += counted[:, rows, columns]
    share = np.where(count > 0, 1.0 / np.maximum(count, 1.0), 0.0)
    padding = tuple((p[0], p[1] + o[1]) for p, o in zip(padding, overhang, strict=True))
    return padding, taps, share


def forward(
    x,
    *,
    pool_size=2,
    strides=None,
    padding="valid",
    dilation=1,
    ceil_mode=False,
    count_include_pad=False,
):
    """x (N,H,W,C) -> y (N,OH,OW,C)."""
    (x,) = as_float64(x)
    padding, taps, share = _windows(
        x.shape, pool_size, strides, padding, dilation, ceil_mode, count_include_pad
    )
    padded = pad_rows_columns(x, padding)
    return sum(padded[:, rows, columns] for _, _, rows, columns in taps) * share


def backward(
    dy,
    x,
    *,
    pool_size=2,
    strides=None,
    padding="valid",
    dilation=1,
    ceil_mode=False,
    count_include_pad=False,
):
    """dy (N,OH,OW,C) -> (dx (N,H,W,C),)."""
    dy, x = as_float64(dy, x)
    padding, taps, share = _windows(
        x.shape, pool_size, strides, padding, dilation, ceil_mode, count_include_pad
    )
    dpadded = pad_rows_columns(np.zeros(x.shape), padding)
    for _, _, rows, columns in taps:
        dpadded[:, rows, columns] += dy * share
    return (crop_rows_columns(dpadded, padding),)
