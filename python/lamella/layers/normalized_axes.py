"""The argument ``axis`` of layers that normalize over one axis or several."""

from __future__ import annotations

import operator
from typing import Any

from lamella.layers.base import Layer
from lamella.layers.shapes import Shape, Shapes


class NormalizedAxes:
    """An axis, or a list of them, as the caller named them, and where they lie in an input.

    Parameters
    ----------
    layer : Layer
        For error messages.
    axis : int, or list or tuple of int
    """

    def __init__(self, layer: Layer, axis: Any) -> None:
        self._layer = layer
        several = isinstance(axis, (list, tuple))
        axes = list(axis) if several else [axis]
        if not axes or any(isinstance(a, bool) or not hasattr(a, "__index__") for a in axes):
            raise layer.error(f"axis expects an integer or a list of integers, got {axis!r}")
        axes = [operator.index(a) for a in axes]
        # For get_config.
        self.given: int | list[int] = axes if several else axes[0]
        # For an op.
        self.option: int | tuple[int, ...] = tuple(axes) if several else axes[0]
        # The sizes along them that the weights were made for, ascending by axis.
        self.sizes: tuple[int, ...] | None = None
        self._axes = axes

    def positions(self, input_shape: Shapes) -> list[int]:
        """Return them ascending, counted from the front.

        Raises
        ------
        ValueError
            If one of them is the batch axis or not an axis at all, or one is named twice.
        """
        rank = len(input_shape)
        found = sorted(a % rank for a in self._axes if -rank <= a < rank)
        if len(found) < len(self._axes) or 0 in found:
            raise self._layer.error(
                f"axis={self.given} expects axes of input shape {input_shape} other than the "
                "batch axis"
            )
        if len(set(found)) < len(found):
            raise self._layer.error(
                f"axis={self.given} names an axis of input shape {input_shape} twice"
            )
        return found

    def known_sizes(self, input_shape: Shape) -> tuple[int, ...]:
        """Return the input's sizes along them.

        Raises
        ------
        ValueError
            If one of them is not known, or 0.
        """
        sizes = []
        for position in self.positions(input_shape):
            size = input_shape[position]
            if not size:
                raise self._layer.error(
                    f"needs a known size of at least 1 along axis {position} to make its weights, "
                    f"got an input of shape {input_shape}"
                )
            sizes.append(size)
        return tuple(sizes)

    def check(self, input_shape: Shapes) -> None:
        """Raise unless the input has these axes, with the sizes that the weights were made for."""
        positions = self.positions(input_shape)
        for position, size in zip(positions, self.sizes or (), strict=False):
            if input_shape[position] not in (size, None):
                raise self._layer.error(
                    f"expects {size} elements along axis {position}, as it was built for, got an "
                    f"input of shape {input_shape}"
                )
