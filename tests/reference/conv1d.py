"""conv1d: conv2d over a sequence, seen as an image one column wide.

`padding` is "valid", "same", "causal", an int for both ends, or (before, after). "causal" pads
(K - 1) * dilation zeros before the sequence and none after, so that output t depends on no input
later than t * stride.
"""

from __future__ import annotations

import numpy as np

from . import conv2d
from .geometry import pair, window_extent


def _image_options(kernel, strides, padding, dilation, groups, activation):
    if padding == "causal":
        padding = (window_extent(np.shape(kernel)[0], dilation) - 1, 0)
    if padding not in ("valid", "same"):
        padding = (pair(padding), (0, 0))
    return {
        "strides": (strides, 1),
        "padding": padding,
        "dilation": (dilation, 1),
        "groups": groups,
        "activation": activation,
    }


def forward(
    x, kernel, bias=None, *, strides=1, padding="valid", dilation=1, groups=1, activation=None
):
    """x (N,T,C), kernel (K,C/groups,F), bias (F)? -> y (N,OT,F)."""
    options = _image_options(kernel, strides, padding, dilation, groups, activation)
    y = conv2d.forward(x[:, :, None], kernel[:, None], bias, **options)
    return y[:, :, 0]


def backward(
    dy, x, kernel, bias=None, *, strides=1, padding="valid", dilation=1, groups=1, activation=None
):
    """dy (N,OT,F) -> dx, dkernel, dbias?."""
    options = _image_options(kernel, strides, padding, dilation, groups, activation)
    dx, dkernel, dbias = conv2d.backward(
        dy[:, :, None], x[:, :, None], kernel[:, None], bias, **options
    )
    return dx[:, :, 0], dkernel[:, 0], dbias
