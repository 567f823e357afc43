"""conv2d: cross-correlation of channels-last images, y = activation(x * kernel + bias).

    z[n, h, w, f] = sum over kh, kw, c of
                    x[n, h * sh + kh * dh - top, w * sw + kw * dw - left, c] kernel[kh, kw, c, f]

with x zero outside the image. With groups, filter f sees only the channels of its group,
g = f // (F / groups); groups == C is the depthwise convolution. Written as one matrix product for
each kernel tap (kh, kw), summed over the taps. Group axis G = groups stands first throughout.
"""

from __future__ import annotations

import numpy as np

from .activations import FUSED
from .geometry import (
    crop_rows_columns,
    explicit_padding,
    merge_groups,
    output_size,
    pad_rows_columns,
    pair,
    split_groups,
    window_taps,
)
from .precision import as_float64


def _plan(x_shape, kernel_shape, strides, padding, dilation):
    """(padding as ((top, bottom), (left, right)), (OH, OW), the window's taps)."""
    lengths, sizes = x_shape[1:3], kernel_shape[:2]
    strides, dilations = pair(strides), pair(dilation)
    padding = explicit_padding(padding, lengths, sizes, strides, dilations)
    outputs = tuple(map(output_size, lengths, sizes, strides, dilations, padding))
    taps = list(window_taps(outputs, sizes, strides, dilations))
    return padding, outputs, taps


def _preactivation(x, kernel, bias, strides, padding, dilation, groups):
    padding, (rows_out, columns_out), taps = _plan(
        x.shape, kernel.shape, strides, padding, dilation
    )
    padded = split_groups(pad_rows_columns(x, padding), groups)  # (G, N, H, W, C/G)
    grouped_kernel = split_groups(kernel, groups)  # (G, KH, KW, C/G, F/G)
    filters = grouped_kernel.shape[-1]
    z = np.zeros((groups, x.shape[0], rows_out, columns_out, filters))
    for kh, kw, rows, columns in taps:
        z += padded[:, :, rows, columns] @ grouped_kernel[:, None, None, kh, kw]
    z = merge_groups(z)
    return z if bias is None else z + bias


def forward(
    x, kernel, bias=None, *, strides=1, padding="valid", dilation=1, groups=1, activation=None
):
    """x (N,H,W,C), kernel (KH,KW,C/groups,F), bias (F)? -> y (N,OH,OW,F)."""
    x, kernel, bias = as_float64(x, kernel, bias)
    z = _preactivation(x, kernel, bias, strides, padding, dilation, groups)
    return FUSED[activation].forward(z)


def backward(
    dy, x, kernel, bias=None, *, strides=1, padding="valid", dilation=1, groups=1, activation=None
):
    """dy (N,OH,OW,F) -> dx, dkernel, dbias?.

    Each tap is a matrix product z += x_tap k, so dx_tap += dz k^T and dk = x_tap^T dz.
    """
    x, kernel, bias = as_float64(x, kernel, bias)
    z = _preactivation(x, kernel, bias, strides, padding, dilation, groups)
    (dz,) = FUSED[activation].backward(dy, z)
    dbias = None if bias is None else dz.sum(axis=(0, 1, 2))

    padding, _, taps = _plan(x.shape, kernel.shape, strides, padding, dilation)
    padded = split_groups(pad_rows_columns(x, padding), groups)
    grouped_kernel = split_groups(kernel, groups)
    dz = split_groups(dz, groups)
    dpadded = np.zeros_like(padded)
    dkernel = np.zeros_like(grouped_kernel)
    for kh, kw, rows, columns in taps:
        k = grouped_kernel[:, None, None, kh, kw]
        dpadded[:, :, rows, columns] += dz @ np.swapaxes(k, -1, -2)
        x_tap = padded[:, :, rows, columns].reshape(groups, -1, k.shape[-2])
        dkernel[:, kh, kw] = np.swapaxes(x_tap, 1, 2) @ dz.reshape(groups, -1, k.shape[-1])
    dx = crop_rows_columns(merge_groups(dpadded), padding)
    return dx, merge_groups(dkernel), dbias
