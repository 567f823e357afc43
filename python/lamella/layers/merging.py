"""Layers that merge a list of inputs: Add, Multiply, Average, Concatenate."""

from __future__ import annotations

import functools
import operator
from typing import Any

import numpy as np

from lamella import masks, ops
from lamella.arrays import like
from lamella.layers.base import Layer, Pullback
from lamella.layers.shapes import Shape, Shapes, broadcast, common_batch
from lamella.registry import register


class _Merging(Layer):
    """Called on a list; the pullback returns a tuple."""

    supports_masking = True

    @property
    def makes_mask(self) -> bool:
        return False

    def compute_mask(self, inputs: Any, mask: Any = None) -> Any:
        """Return the steps that count in any input, as Keras does: all if one has no mask."""
        if mask is None or any(one is None for one in mask):
            return None
        return functools.reduce(np.logical_or, mask)

    def check_input_shape(self, input_shape: Shapes) -> None:
        if not isinstance(input_shape, list) or not input_shape:
            raise self.error(f"expects a list of inputs, got shape {input_shape}")
        if any(not shape for shape in input_shape):
            raise self.error(f"expects inputs with a batch axis, got {input_shape}")
        self.compute_output_shape(input_shape)


class _Elementwise(_Merging):
    """Inputs broadcast: one with fewer axes gets axes of size 1 after its batch axis."""

    def compute_output_shape(self, input_shape: list[Shape]) -> Shape:
        try:
            rest = functools.reduce(broadcast, [tuple(shape[1:]) for shape in input_shape])
            return (common_batch(input_shape), *rest)
        except ValueError as error:
            raise self.error(f"cannot merge shapes {list(input_shape)}: {error}") from None

    def forward(self, x: list[np.ndarray], training: bool) -> tuple[np.ndarray, Pullback]:
        shapes = [array.shape for array in x]
        y, pull = self._merge_vjp(_of_one_rank(x))

        def pullback(dy: np.ndarray) -> tuple[np.ndarray, ...]:
            gradients = zip(pull(dy), shapes, strict=True)
            return tuple(dx.reshape(shape) for dx, shape in gradients)

        return y, pullback

    def call(self, x: list[np.ndarray], training: bool = False) -> np.ndarray:
        return self._merge(_of_one_rank(x))

    def _merge(self, x: list[np.ndarray]) -> np.ndarray:
        raise NotImplementedError

    def _merge_vjp(self, x: list[np.ndarray]) -> tuple[np.ndarray, Pullback]:
        raise NotImplementedError


def _of_one_rank(x: list[np.ndarray]) -> list[np.ndarray]:
    rank = max(array.ndim for array in x)
    return [
        array
        if array.ndim == rank
        else array.reshape(array.shape[0], *(1,) * (rank - array.ndim), *array.shape[1:])
        for array in x
    ]


def _folded_vjp(op: Any, x: list[np.ndarray]) -> tuple[np.ndarray, Pullback]:
    """Return ``op(op(x[0], x[1]), x[2])...`` and its pullback."""
    y, pulls = x[0], []
    for array in x[1:]:
        y, pull = op.vjp(y, array)
        pulls.append(pull)

    def pullback(dy: np.ndarray) -> tuple[np.ndarray, ...]:
        gradients = []
        for pull in reversed(pulls):
            dy, dx = pull(dy)
            gradients.append(dx)
        return (dy, *reversed(gradients))

    return y, pullback


def _sum_vjp(x: list[np.ndarray]) -> tuple[np.ndarray, Pullback]:
    if all(array.shape == x[0].shape for array in x):
        # Each input's gradient is dy itself: nothing to compute.
        return functools.reduce(ops.add, x), lambda dy: (dy,) * len(x)
    return _folded_vjp(ops.add, x)


@register("layer")
class Add(_Elementwise):
    """``y = x[0] + x[1] + ...``

    Called on a list of arrays (N, ...) whose shapes broadcast; the batch sizes are equal.

    Raises
    ------
    ValueError
        If it is not called on a list, or the shapes do not broadcast.

    Examples
    --------
    >>> import numpy as np
    >>> Add()([np.ones((1, 2)), np.ones((1, 2))])
    array([[2., 2.]], dtype=float32)
    """

    def _merge(self, x: list[np.ndarray]) -> np.ndarray:
        return functools.reduce(ops.add, x)

    def _merge_vjp(self, x: list[np.ndarray]) -> tuple[np.ndarray, Pullback]:
        return _sum_vjp(x)


@register("layer")
class Multiply(_Elementwise):
    """``y = x[0] * x[1] * ...``

    Called on a list of arrays (N, ...) whose shapes broadcast; the batch sizes are equal.

    Raises
    ------
    ValueError
        If it is not called on a list, or the shapes do not broadcast.

    Examples
    --------
    >>> import numpy as np
    >>> Multiply()([np.full((1, 2), 3.0), np.full((1, 2), 2.0)])
    array([[6., 6.]], dtype=float32)
    """

    def _merge(self, x: list[np.ndarray]) -> np.ndarray:
        return functools.reduce(ops.multiply, x)

    def _merge_vjp(self, x: list[np.ndarray]) -> tuple[np.ndarray, Pullback]:
        return _folded_vjp(ops.multiply, x)


@register("layer")
class Average(_Elementwise):
    """``y = (x[0] + x[1] + ...) / number of inputs``

    Called on a list of arrays (N, ...) whose shapes broadcast; the batch sizes are equal.

    Raises
    ------
    ValueError
        If it is not called on a list, or the shapes do not broadcast.

    Examples
    --------
    >>> import numpy as np
    >>> Average()([np.zeros((1, 2)), np.full((1, 2), 3.0)])
    array([[1.5, 1.5]], dtype=float32)
    """

    def _merge(self, x: list[np.ndarray]) -> np.ndarray:
        return ops.multiply(functools.reduce(ops.add, x), _share(x))

    def _merge_vjp(self, x: list[np.ndarray]) -> tuple[np.ndarray, Pullback]:
        total, pull = _sum_vjp(x)
        share = _share(x)
        return ops.multiply(total, share), lambda dy: pull(ops.multiply(dy, share))


def _share(x: list[np.ndarray]) -> np.ndarray:
    return like(x[0], np.full(1, 1 / len(x), np.float32))


@register("layer")
class Concatenate(_Merging):
    """The inputs one after the other along an axis.

    Parameters
    ----------
    axis : int
        Not the batch axis.

    Raises
    ------
    ValueError
        If it is not called on a list, or the shapes differ on another axis.

    Examples
    --------
    >>> import numpy as np
    >>> Concatenate()([np.ones((2, 3)), np.ones((2, 5))]).shape
    (2, 8)
    """

    def __init__(self, axis: int = -1, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if isinstance(axis, bool) or not hasattr(axis, "__index__") or axis == 0:
            raise self.error(f"axis expects an integer other than 0 (the batch axis), got {axis!r}")
        self.axis = operator.index(axis)

    def compute_output_shape(self, input_shape: list[Shape]) -> Shape:
        first = input_shape[0]
        rank = len(first)
        axis = self.axis + rank if self.axis < 0 else self.axis
        if not 0 < axis < rank:
            raise self.error(f"axis {self.axis} cannot join inputs of shapes {list(input_shape)}")
        if any(len(shape) != rank for shape in input_shape):
            raise self.error(f"the inputs differ in their number of axes: {list(input_shape)}")
        sizes: list[int | None] = []
        for position, column in enumerate(zip(*input_shape, strict=True)):
            known = [size for size in column if size is not None]
            if position == axis:
                sizes.append(sum(known) if len(known) == len(column) else None)
            elif len(set(known)) > 1:
                raise self.error(
                    f"the inputs differ in axis {position}, not only in axis {axis}: "
                    f"{list(input_shape)}"
                )
            else:
                sizes.append(known[0] if known else None)
        return tuple(sizes)

    def forward(self, x: list[np.ndarray], training: bool) -> tuple[np.ndarray, Pullback]:
        return ops.concatenate.vjp(*x, axis=self.axis)

    def call(self, x: list[np.ndarray], training: bool = False) -> np.ndarray:
        return ops.concatenate(*x, axis=self.axis)

    def compute_mask(self, inputs: Any, mask: Any = None) -> Any:
        """Return the inputs' masks joined along the axis, all True for an input without one.

        Joined along the last axis, which masks do not have, steps that count in any input count.
        """
        if mask is None or all(one is None for one in mask):
            return None
        parts = [
            np.ones(x.shape[:-1], np.bool_) if one is None else masks.spread(one, x.shape[:-1])
            for x, one in zip(inputs, mask, strict=True)
        ]
        if self.axis in (-1, inputs[0].ndim - 1):
            return functools.reduce(np.logical_or, parts)
        return np.concatenate(parts, axis=self.axis + 1 if self.axis < 0 else self.axis)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "axis": self.axis}
