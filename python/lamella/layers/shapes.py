"""Shape inference: sizes with None for "not known yet"."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lamella.layers.base import Layer

Shape = tuple[int | None, ...]
# One shape, or one for each input of a layer that takes several.
Shapes = Shape | list[Shape]


def is_shape(value: Any) -> bool:
    """Return whether ``value`` is one shape rather than a list of shapes."""
    return all(size is None or hasattr(size, "__index__") for size in value)


def as_shape(value: Any) -> Shape:
    """Return a tuple of int or None.

    Raises
    ------
    ValueError
        If an entry is neither None nor an integer >= 0.
    """
    try:
        shape = tuple(None if size is None else operator.index(size) for size in value)
    except TypeError:
        raise ValueError(f"a shape is a tuple of integers and None, got {value!r}") from None
    if any(size is not None and size < 0 for size in shape):
        raise ValueError(f"a shape has no negative sizes, got {shape}")
    return shape


def as_shapes(value: Any) -> Shapes:
    """Return one shape as a tuple, several as a list of tuples."""
    if not hasattr(value, "__iter__"):
        raise ValueError(f"a shape is a tuple of integers and None, got {value!r}")
    value = tuple(value)
    return as_shape(value) if is_shape(value) else [as_shape(shape) for shape in value]


def any_batch(shapes: Shapes) -> Shapes:
    """Return the shapes with the batch size forgotten."""
    if isinstance(shapes, list):
        return [(None, *shape[1:]) for shape in shapes]
    return (None, *shapes[1:])


def window_output(
    size: int | None, window: int, stride: int, padding: str, dilation: int = 1
) -> int | None:
    """Return how many positions a sliding window takes along one axis.

    "valid": floor((size - dilation * (window - 1) - 1) / stride) + 1, which is < 1 when the window
    does not fit; "same" and "causal": ceil(size / stride).

    Examples
    --------
    >>> window_output(7, 3, 2, "valid"), window_output(7, 3, 2, "same")
    (3, 4)
    """
    if size is None:
        return None
    if padding == "valid":
        return (size - dilation * (window - 1) - 1) // stride + 1
    return -(-size // stride)


def window_shape(
    layer: Layer,
    input_shape: Shape,
    window: tuple[int, ...],
    strides: tuple[int, ...],
    padding: str,
    dilation: tuple[int, ...],
) -> Shape:
    """Return the spatial sizes of a convolution's or a pool's output; raise if a window is too big.

    Raises
    ------
    ValueError
        Naming the layer, if the window does not fit into the input.
    """
    sizes = tuple(
        window_output(size, w, s, padding, d)
        for size, w, s, d in zip(input_shape[1:-1], window, strides, dilation, strict=True)
    )
    if any(size is not None and size < 1 for size in sizes):
        dilated = f" with dilation {dilation}" if max(dilation) > 1 else ""
        raise layer.error(f"a window of {window}{dilated} does not fit into {input_shape}")
    return sizes


def transposed_output(
    size: int | None,
    window: int,
    stride: int,
    padding: str,
    output_padding: int | None = None,
    dilation: int = 1,
) -> int | None:
    """Return the length of one axis after a transposed convolution, as Keras defines it.

    Examples
    --------
    >>> transposed_output(4, 3, 2, "same"), transposed_output(4, 3, 2, "valid")
    (8, 9)
    """
    if size is None:
        return None
    extent = dilation * (window - 1) + 1
    if padding == "valid":
        extra = max(stride - extent, 0) if output_padding is None else output_padding
        return (size - 1) * stride + extent + extra
    if output_padding is None:
        return size * stride
    return (size - 1) * stride + extent % 2 + output_padding


def broadcast(first: Shape, second: Shape) -> Shape:
    """Return the shape of an elementwise operation on two shapes, aligned at their ends.

    Raises
    ------
    ValueError
        If two known sizes differ and neither is 1.

    Examples
    --------
    >>> broadcast((8, 1, 3), (None, 3))
    (8, None, 3)
    """
    if len(first) < len(second):
        first, second = second, first
    lead = len(first) - len(second)
    return first[:lead] + tuple(
        _broadcast_size(a, b) for a, b in zip(first[lead:], second, strict=True)
    )


def _broadcast_size(a: int | None, b: int | None) -> int | None:
    if a is None or b is None:
        # Keras leaves the size open even where the other one is known.
        return None
    if a != b and a != 1 and b != 1:
        raise ValueError(f"sizes {a} and {b} do not broadcast")
    return b if a == 1 else a


def common_batch(shapes: Sequence[Shape]) -> int | None:
    """Return the batch size all shapes share, None where none of them knows it.

    Raises
    ------
    ValueError
        If two of them differ.
    """
    sizes = {shape[0] for shape in shapes} - {None}
    if len(sizes) > 1:
        raise ValueError(f"the inputs differ in batch size: {list(shapes)}")
    return sizes.pop() if sizes else None
