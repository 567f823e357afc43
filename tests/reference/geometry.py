"""Where windows lie: padding, output sizes and taps, shared by convolutions and pools.

One axis at a time, 0-based. A window of `size` taps with `dilation` d covers
`(size - 1) * d + 1` positions, its *extent*. Output o reads, through tap k, the padded position
`o * stride + k * d`, that is the input position `o * stride + k * d - before`.
"""

from __future__ import annotations

import numpy as np


def pair(value):
    """An int stands for both axes; a pair is one value an axis."""
    if np.ndim(value) == 0:
        return int(value), int(value)
    first, second = value
    return int(first), int(second)


def window_extent(size, dilation):
    """Positions from a window's first tap to its last, both included."""
    return (size - 1) * dilation + 1


def same_padding(length, size, stride, dilation):
    """TensorFlow's "same": ceil(length / stride) outputs; an odd total has its extra at the end."""
    outputs = -(-length // stride)
    total = max((outputs - 1) * stride + window_extent(size, dilation) - length, 0)
    return total // 2, total - total // 2


def explicit_padding(padding, lengths, sizes, strides, dilations):
    """Every form of `padding` as ((top, bottom), (left, right)).

    "valid", "same", p, (ph, pw) or ((top, bottom), (left, right)).
    """
    if padding == "valid":
        return (0, 0), (0, 0)
    if padding == "same":
        rows, columns = (
            same_padding(*axis) for axis in zip(lengths, sizes, strides, dilations, strict=True)
        )
        return rows, columns
    if np.ndim(padding) == 2:
        return pair(padding[0]), pair(padding[1])
    height, width = pair(padding)
    return (height, height), (width, width)


def output_size(length, size, stride, dilation, before_after, ceil_mode=False):
    """Number of windows: they start every `stride` positions of the padded axis and lie inside it.

    With `ceil_mode` one more window may hang over the end, provided that it starts before the end
    padding does (PyTorch's rule), so that no window lies wholly beyond the input.
    """
    before, after = before_after
    room = before + length + after - window_extent(size, dilation)
    if room < 0:
        raise ValueError(f"a window of {size} taps does not fit in {length} + {before_after}")
    if not ceil_mode:
        return room // stride + 1
    outputs = -(-room // stride) + 1
    if (outputs - 1) * stride >= before + length:
        outputs -= 1
    return outputs


def tap(k, outputs, stride, dilation):
    """The slice of the padded axis that tap k of every window reads: one position an output."""
    first = k * dilation
    return slice(first, first + (outputs - 1) * stride + 1, stride)


def window_taps(outputs, sizes, strides, dilations):
    """Every tap of a two-dimensional window, in row-major order: (kh, kw, rows, columns).

    `rows` and `columns` are the slices that tap reads, as in `tap`.
    """
    for kh in range(sizes[0]):
        for kw in range(sizes[1]):
            rows = tap(kh, outputs[0], strides[0], dilations[0])
            columns = tap(kw, outputs[1], strides[1], dilations[1])
            yield kh, kw, rows, columns


def pool_windows(x_shape, pool_size, strides, padding, dilation, ceil_mode):
    """(padding, overhang, (OH, OW), taps) of a pool over x_shape (N,H,W,C).

    `overhang` is what ceil_mode lets the last windows reach beyond the padded image, in the form
    of a padding.
    """
    lengths, sizes, dilations = x_shape[1:3], pair(pool_size), pair(dilation)
    strides = sizes if strides is None else pair(strides)
    padding = explicit_padding(padding, lengths, sizes, strides, dilations)
    outputs, overhang = [], []
    for length, size, stride, d, (before, after) in zip(
        lengths, sizes, strides, dilations, padding, strict=True
    ):
        count = output_size(length, size, stride, d, (before, after), ceil_mode)
        reach = (count - 1) * stride + window_extent(size, d)
        outputs.append(count)
        overhang.append((0, max(reach - (before + length + after), 0)))
    return padding, tuple(overhang), outputs, list(window_taps(outputs, sizes, strides, dilations))


def pad_rows_columns(x, padding, value=0.0):
    """x (N,H,W,C) with `value` around it."""
    return np.pad(x, ((0, 0), *padding, (0, 0)), constant_values=value)


def crop_rows_columns(x, padding):
    """Undo `pad_rows_columns`: x without its border."""
    (top, bottom), (left, right) = padding
    return x[:, top : x.shape[1] - bottom, left : x.shape[2] - right, :]


def split_groups(a, groups):
    """(..., groups * c) -> (groups, ..., c): channel g * c + i becomes channel i of group g."""
    return np.moveaxis(a.reshape(*a.shape[:-1], groups, a.shape[-1] // groups), -2, 0)


def merge_groups(a):
    """(groups, ..., c) -> (..., groups * c), the inverse of `split_groups`."""
    a = np.moveaxis(a, 0, -2)
    return a.reshape(*a.shape[:-2], a.shape[-2] * a.shape[-1])
