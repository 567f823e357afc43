"""Layers that arrange values: Flatten, Reshape, Permute, RepeatVector, ZeroPadding2D."""

from __future__ import annotations

import math
import operator
from collections.abc import Sequence
from typing import Any

import numpy as np

from lamella import ops
from lamella.arrays import contiguous, expand_dims, is_on_device, like, squeeze, transposed, zeros
from lamella.layers.arguments import channels_last, integer, integers
from lamella.layers.base import Layer, Pullback
from lamella.layers.shapes import Shape, Shapes
from lamella.registry import register


class _Rearranging(Layer):
    """Views an array in another shape: nothing is copied, gradients are reshaped back."""

    input_axes = ("batch", ...)
    keeps_dtype = True

    def forward(self, x: np.ndarray, training: bool) -> tuple[np.ndarray, Pullback]:
        shape = x.shape
        return x.reshape(self._shape_of(x)), lambda dy: dy.reshape(shape)

    def call(self, x: np.ndarray, training: bool = False) -> np.ndarray:
        return x.reshape(self._shape_of(x))

    def _shape_of(self, x: np.ndarray) -> tuple[int, ...]:
        """Return the shape of the output, without -1: an empty batch leaves that undecided."""
        raise NotImplementedError


@register("layer")
class Flatten(_Rearranging):
    """x (N, ...) as y (N, product of the other axes); a view.

    Parameters
    ----------
    data_format : {"channels_last"}, optional

    Examples
    --------
    >>> import numpy as np
    >>> Flatten()(np.ones((2, 3, 4))).shape
    (2, 12)
    """

    def __init__(self, data_format: str | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.data_format = channels_last(self, data_format)

    def _shape_of(self, x: np.ndarray) -> tuple[int, ...]:
        return (x.shape[0], math.prod(x.shape[1:]))

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        rest = input_shape[1:]
        known = [size for size in rest if size is not None]
        return (input_shape[0], math.prod(known) if len(known) == len(rest) else None)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "data_format": self.data_format}


@register("layer")
class Reshape(_Rearranging):
    """x (N, ...) as y (N, *target_shape); a view.

    Parameters
    ----------
    target_shape : tuple of int
        Without the batch axis; one entry may be -1, for what the others leave.

    Raises
    ------
    ValueError
        If there is more than one -1, or the number of values differs.

    Examples
    --------
    >>> import numpy as np
    >>> Reshape((-1, 2))(np.ones((2, 6))).shape
    (2, 3, 2)
    """

    def __init__(self, target_shape: Sequence[int], **kwargs: Any) -> None:
        super().__init__(**kwargs)
        try:
            self.target_shape = tuple(operator.index(size) for size in target_shape)
        except TypeError:
            raise self.error(f"target_shape expects integers, got {target_shape!r}") from None
        unknown = self.target_shape.count(-1)
        if unknown > 1 or any(size < 1 and size != -1 for size in self.target_shape):
            raise self.error(
                f"target_shape expects sizes >= 1 and at most one -1, got {self.target_shape}"
            )

    def _shape_of(self, x: np.ndarray) -> tuple[int, ...]:
        return (x.shape[0], *self._target(x.shape))

    def _target(self, input_shape: Shape) -> Shape:
        target, sizes = self.target_shape, input_shape[1:]
        if None in sizes:
            return tuple(None if size == -1 else size for size in target)
        total = math.prod(size for size in sizes if size is not None)
        known = math.prod(size for size in target if size != -1)
        missing, remainder = divmod(total, known)
        if remainder or (missing != 1 and -1 not in target):
            raise self.error(f"cannot reshape {input_shape} to (batch, *{target})")
        return tuple(missing if size == -1 else size for size in target)

    def build(self, input_shape: Shape) -> None:
        self._target(input_shape)

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        return (input_shape[0], *self._target(input_shape))

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "target_shape": self.target_shape}


@register("layer")
class Permute(Layer):
    """``y = transpose(x, (0, *dims))``, copied into C order.

    Parameters
    ----------
    dims : tuple of int
        A permutation of 1, 2, ..., the axes after the batch axis.

    Raises
    ------
    ValueError
        If ``dims`` is no such permutation, or the input has another number of axes.

    Examples
    --------
    >>> import numpy as np
    >>> Permute((2, 1))(np.ones((5, 3, 4))).shape
    (5, 4, 3)
    """

    input_axes = ("batch", ...)
    keeps_dtype = True

    def __init__(self, dims: Sequence[int], **kwargs: Any) -> None:
        super().__init__(**kwargs)
        try:
            self.dims = tuple(operator.index(axis) for axis in dims)
        except TypeError:
            raise self.error(f"dims expects integers, got {dims!r}") from None
        if sorted(self.dims) != list(range(1, len(self.dims) + 1)):
            raise self.error(f"dims expects a permutation of 1, 2, ..., got {self.dims}")
        self._order = (0, *self.dims)
        self._inverse = tuple(self._order.index(axis) for axis in range(len(self._order)))

    def check_input_shape(self, input_shape: Shapes) -> None:
        super().check_input_shape(input_shape)
        if len(input_shape) != len(self._order):
            raise self.error(
                f"dims={self.dims} expects an input of {len(self._order)} axes, "
                f"got shape {input_shape}"
            )

    def forward(self, x: np.ndarray, training: bool) -> tuple[np.ndarray, Pullback]:
        inverse = self._inverse
        return self.call(x), lambda dy: transposed(dy, inverse)

    def call(self, x: np.ndarray, training: bool = False) -> np.ndarray:
        return transposed(x, self._order)

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        return tuple(input_shape[axis] for axis in self._order)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "dims": self.dims}


@register("layer")
class RepeatVector(Layer):
    """x (N, D) as y (N, n, D): ``y[:, t] = x`` at each of n steps.

    Parameters
    ----------
    n : int

    Raises
    ------
    ValueError
        If ``n`` is less than 1, or the input does not have two axes.

    Examples
    --------
    >>> import numpy as np
    >>> RepeatVector(2)(np.array([[1.0, 3.0]]))
    array([[[1., 3.],
            [1., 3.]]], dtype=float32)
    """

    input_axes = ("batch", "features")
    keeps_dtype = True

    def __init__(self, n: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.n = integer(self, "n", n)

    def forward(self, x: np.ndarray, training: bool) -> tuple[np.ndarray, Pullback]:
        if is_on_device(x):
            y, pull = ops.multiply.vjp(expand_dims(x, 1), self._ones(x), needs=(True, False))
            return y, lambda dy: squeeze(pull(dy)[0], 1)
        return self.call(x), lambda dy: dy.sum(axis=1)

    def call(self, x: np.ndarray, training: bool = False) -> np.ndarray:
        if is_on_device(x):
            return ops.multiply(expand_dims(x, 1), self._ones(x))
        return np.repeat(x[:, np.newaxis], self.n, axis=1)

    def _ones(self, x: Any) -> Any:
        return like(x, np.ones((1, self.n, 1), np.float32))

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        return (input_shape[0], self.n, input_shape[1])

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "n": self.n}


@register("layer")
class ZeroPadding2D(Layer):
    """x (N, H, W, C) with rows and columns of zeros around it.

    Parameters
    ----------
    padding : int, (int, int) or ((int, int), (int, int))
        On all sides; (rows, columns); ((top, bottom), (left, right)).
    data_format : {"channels_last"}, optional

    Raises
    ------
    ValueError
        If ``padding`` is none of these.

    Examples
    --------
    >>> import numpy as np
    >>> ZeroPadding2D(((1, 0), (2, 2)))(np.ones((1, 3, 3, 1))).shape
    (1, 4, 7, 1)
    """

    input_axes = ("batch", "height", "width", "channels")
    keeps_dtype = True

    def __init__(
        self, padding: Any = (1, 1), data_format: str | None = None, **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        if isinstance(padding, (tuple, list)) and len(padding) == 2:
            rows = integers(self, "padding", padding[0], 2, minimum=0)
            columns = integers(self, "padding", padding[1], 2, minimum=0)
        else:
            rows = columns = integers(self, "padding", padding, 2, minimum=0)
        self.padding = (rows, columns)
        self.data_format = channels_last(self, data_format)

    def forward(self, x: np.ndarray, training: bool) -> tuple[np.ndarray, Pullback]:
        inside = self._inside(x.shape)
        return self.call(x), lambda dy: contiguous(dy[inside])

    def call(self, x: np.ndarray, training: bool = False) -> np.ndarray:
        (top, bottom), (left, right) = self.padding
        batch, height, width, channels = x.shape
        shape = (batch, top + height + bottom, left + width + right, channels)
        y = zeros(x, shape) if is_on_device(x) else np.zeros(shape, x.dtype)
        y[self._inside(x.shape)] = x
        return y

    def _inside(self, shape: tuple[int, ...]) -> tuple[slice, ...]:
        top, left = self.padding[0][0], self.padding[1][0]
        return (slice(None), slice(top, top + shape[1]), slice(left, left + shape[2]))

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        batch, *sizes, channels = input_shape
        padded = (
            None if size is None else size + sum(around)
            for size, around in zip(sizes, self.padding, strict=True)
        )
        return (batch, *padded, channels)

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "padding": self.padding,
            "data_format": self.data_format,
        }
