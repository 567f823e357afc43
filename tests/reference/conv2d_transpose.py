"""conv2d_transpose: every input pixel adds its multiple of the kernel to the output.

    full[n, h * sh + kh * dh, w * sw + kw * dw, f] += x[n, h, w, c] kernel[kh, kw, f, c]

over a full output of (H - 1) * sh + extent rows, extent = (KH - 1) * dh + 1 (columns alike), of
which `padding` crops the border; the result is y = activation(full cropped + bias). It is the
input gradient of a conv2d, from an image of the output's size, with the same kernel, strides,
padding, dilation and groups.

Output rows (columns alike), as in Keras for "valid" and "same" and as in PyTorch for numbers:

    "valid"        max(extent, sh) + (H - 1) sh,  with output_padding  full + output_padding
    "same"         H sh,                          with output_padding  full - 2 (extent // 2)
                                                                       + output_padding
    (top, bottom)                                                      full - top - bottom
                                                                       + output_padding

output_padding counts as 0 with numbers when it is None, and always adds rows at the end. "same"
crops floor(cropped / 2) rows at the top, none where the output is the larger. Rows beyond the full
output are zero before the bias.
"""

from __future__ import annotations

import numpy as np

from .activations import FUSED
from .geometry import merge_groups, pair, split_groups, window_extent, window_taps
from .precision import as_float64


def _output_length_and_top(length, size, stride, dilation, padding, output_padding):
    """(rows of the output, rows of the full output that lie before it)."""
    extent = window_extent(size, dilation)
    full = (length - 1) * stride + extent
    if padding == "valid":
        return full + (max(stride - extent, 0) if output_padding is None else output_padding), 0
    if padding == "same":
        if output_padding is None:
            output = length * stride
        else:
            output = full - 2 * (extent // 2) + output_padding
        return output, max((full - output) // 2, 0)
    top, bottom = padding
    return full - top - bottom + (output_padding or 0), top


def _plan(x_shape, kernel_shape, strides, padding, output_padding, dilation):
    """(full rows and columns, output rows and columns, crop at top and left, taps).

    The taps are those of conv2d with input and output exchanged: windows of the full output.
    """
    lengths, sizes = x_shape[1:3], kernel_shape[:2]
    strides, dilations = pair(strides), pair(dilation)
    if padding in ("valid", "same"):
        paddings = (padding, padding)
    else:
        paddings = tuple(pair(p) for p in (padding if np.ndim(padding) else pair(padding)))
    output_paddings = (None, None) if output_padding is None else pair(output_padding)
    outputs, crops = zip(
        *map(_output_length_and_top, lengths, sizes, strides, dilations, paddings, output_paddings),
        strict=True,
    )
    if min(outputs) < 1:
        raise ValueError(f"the padding {padding!r} crops the whole output")
    full = tuple(
        (length - 1) * stride + window_extent(size, dilation)
        for length, size, stride, dilation in zip(lengths, sizes, strides, dilations, strict=True)
    )
    taps = list(window_taps(lengths, sizes, strides, dilations))
    return full, outputs, crops, taps


def _overlap(full, outputs, crops):
    """Slices of the full output and of the output that hold the same rows and columns."""
    (full_rows, full_columns), (rows, columns), (top, left) = full, outputs, crops
    rows = max(min(rows, full_rows - top), 0)
    columns = max(min(columns, full_columns - left), 0)
    in_full = (slice(None), slice(top, top + rows), slice(left, left + columns))
    in_output = (slice(None), slice(0, rows), slice(0, columns))
    return in_full, in_output


def _preactivation(x, kernel, bias, plan, groups):
    full, outputs, crops, taps = plan
    grouped_x = split_groups(x, groups)  # (G, N, H, W, C/G)
    grouped_kernel = split_groups(kernel, groups)  # (G, KH, KW, F/G, C/G)
    filters = kernel.shape[2]
    z_full = np.zeros((groups, x.shape[0], *full, filters))
    for kh, kw, rows, columns in taps:
        k = grouped_kernel[:, None, None, kh, kw]
        z_full[:, :, rows, columns] += grouped_x @ np.swapaxes(k, -1, -2)
    in_full, in_output = _overlap(full, outputs, crops)
    z = np.zeros((x.shape[0], *outputs, groups * filters))
    z[in_output] = merge_groups(z_full)[in_full]
    return z if bias is None else z + bias


def forward(
    x,
    kernel,
    bias=None,
    *,
    strides=1,
    padding="valid",
    output_padding=None,
    dilation=1,
    groups=1,
    activation=None,
):
    """x (N,H,W,C), kernel (KH,KW,F/groups,C), bias (F)? -> y (N,OH,OW,F)."""
    x, kernel, bias = as_float64(x, kernel, bias)
    plan = _plan(x.shape, kernel.shape, strides, padding, output_padding, dilation)
    return FUSED[activation].forward(_preactivation(x, kernel, bias, plan, groups))


def backward(
    dy,
    x,
    kernel,
    bias=None,
    *,
    strides=1,
    padding="valid",
    output_padding=None,
    dilation=1,
    groups=1,
    activation=None,
):
    """dy (N,OH,OW,F) -> dx, dkernel, dbias?.

    Each tap is full_tap += x k^T, so dx += dfull_tap k and dk = dfull_tap^T x.
    """
    x, kernel, bias = as_float64(x, kernel, bias)
    plan = _plan(x.shape, kernel.shape, strides, padding, output_padding, dilation)
    full, outputs, crops, taps = plan
    z = _preactivation(x, kernel, bias, plan, groups)
    (dz,) = FUSED[activation].backward(dy, z)
    dbias = None if bias is None else dz.sum(axis=(0, 1, 2))

    in_full, in_output = _overlap(full, outputs, crops)
    dz_full = np.zeros((x.shape[0], *full, dz.shape[-1]))
    dz_full[in_full] = dz[in_output]
    dz_full = split_groups(dz_full, groups)
    grouped_x = split_groups(x, groups)
    grouped_kernel = split_groups(kernel, groups)
    filters, channels = grouped_kernel.shape[-2:]
    x_rows = grouped_x.reshape(groups, -1, channels)
    dx = np.zeros_like(grouped_x)
    dkernel = np.zeros_like(grouped_kernel)
    for kh, kw, rows, columns in taps:
        dz_tap = dz_full[:, :, rows, columns]
        dx += dz_tap @ grouped_kernel[:, None, None, kh, kw]
        dkernel[:, kh, kw] = np.swapaxes(dz_tap.reshape(groups, -1, filters), 1, 2) @ x_rows
    return merge_groups(dx), merge_groups(dkernel), dbias
