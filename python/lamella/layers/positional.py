"""Where a step stands in its sequence: PositionalEncoding and RotaryEmbedding."""

from __future__ import annotations

import operator
from collections.abc import Callable
from functools import partial
from typing import Any, ClassVar

import numpy as np

from lamella import ops
from lamella.arguments import number
from lamella.arrays import like, transposed
from lamella.layers.arguments import integer
from lamella.layers.base import Layer, Pullback
from lamella.layers.shapes import Shape, Shapes
from lamella.registry import register

Rows = tuple[np.ndarray, ...]


def angles(positions: np.ndarray, pairs: int, width: int, max_wavelength: float) -> np.ndarray:
    """Return ``position / max_wavelength ** (2 i / width)`` for each position and pair i.

    Examples
    --------
    >>> angles(np.arange(2), 2, 4, 100.0).tolist()
    [[0.0, 0.0], [1.0, 0.1]]
    """
    exponents = 2 * np.arange(pairs) / width
    return positions[:, np.newaxis] / max_wavelength**exponents


class _Table:
    """Rows of arrays, one a position, made once and kept for the positions around.

    Parameters
    ----------
    make : callable
        ``make(positions)`` gives arrays of one row a position.
    """

    def __init__(self, make: Callable[[np.ndarray], Rows]) -> None:
        self._make = make
        self._kept: tuple[int, Rows] = (0, ())

    def rows(self, start: int, count: int) -> Rows:
        """Return the rows of `count` positions from `start` on."""
        first, arrays = self._kept
        end = start + count
        if not arrays or not first <= start <= end <= first + len(arrays[0]):
            # What a sequence generated step by step comes to; far from 0, the next steps only.
            first = 0 if end <= max(4 * count, 4096) else start
            size = max(64, 1 << (end - first - 1).bit_length())
            arrays = self._make(np.arange(first, first + size, dtype=np.float64))
            self._kept = first, arrays
        return tuple(array[start - first : end - first] for array in arrays)


# Sums with the length of a sequence stay exact in float64.
_LARGEST_START = 2**52


def _start_index(layer: Layer, name: str, value: Any) -> int:
    start = integer(layer, name, value, minimum=0)
    if start > _LARGEST_START:
        raise layer.error(f"{name} expects at most 2**52, got {value!r}")
    return start


@register("layer")
class PositionalEncoding(Layer):
    """Add sines and cosines of the position to x (N, S, D) (Vaswani et al. 2017).

    Channel 2i has ``sin(t / max_wavelength ** (2 i / D))`` added at step t, channel 2i + 1 the
    cosine of the same angle. There are no weights, and sequences may have any length.

    Parameters
    ----------
    max_wavelength : float
        Of the slowest sine, over 2 pi; > 0.

    Raises
    ------
    ValueError
        If ``max_wavelength`` is not a positive number, or the input has another number of axes.

    Notes
    -----
    ``layer(x, start_index=n)`` takes the first step to be the n-th, as for the steps of a sequence
    that is generated one by one.

    Examples
    --------
    >>> import numpy as np
    >>> layer = PositionalEncoding()
    >>> layer(np.zeros((1, 2, 4))).round(2)
    array([[[0.  , 1.  , 0.  , 1.  ],
            [0.84, 0.54, 0.01, 1.  ]]], dtype=float32)
    >>> layer(np.zeros((1, 1, 4)), start_index=1).round(2)
    array([[[0.84, 0.54, 0.01, 1.  ]]], dtype=float32)
    """

    input_axes = ("batch", "steps", "features")
    supports_masking = True
    call_options: ClassVar = {"start_index": _start_index}

    def __init__(self, max_wavelength: float = 10000, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.max_wavelength = number(self.label, "max_wavelength", max_wavelength, 0, exclude=[0])
        # One table a width: a layer without weights may be called on several.
        self._tables: dict[int, _Table] = {}

    def _encoding(self, steps: int, width: int, start: int) -> np.ndarray:
        if width not in self._tables:
            self._tables[width] = _Table(partial(self._make, width))
        (encoding,) = self._tables[width].rows(start, steps)
        return encoding

    def _make(self, width: int, positions: np.ndarray) -> Rows:
        found = angles(positions, (width + 1) // 2, width, self.max_wavelength)
        encoding = np.empty((len(positions), width), np.float32)
        encoding[:, 0::2] = np.sin(found)
        encoding[:, 1::2] = np.cos(found[:, : width // 2])
        return (encoding,)

    def forward(
        self, x: np.ndarray, training: bool, start_index: int = 0
    ) -> tuple[np.ndarray, Pullback]:
        return self.call(x, training, start_index), lambda dy: dy

    def call(self, x: np.ndarray, training: bool = False, start_index: int = 0) -> np.ndarray:
        steps, width = x.shape[1:]
        return ops.add(x, like(x, self._encoding(steps, width, start_index)))

    def compute_output_shape(self, input_shape: Shape, start_index: int = 0) -> Shape:
        return input_shape

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "max_wavelength": self.max_wavelength}


@register("layer")
class RotaryEmbedding(Layer):
    """Turn pairs of features by angles that grow with the position (Su et al. 2021).

    With x1 and x2 the first and second half of the E features, ``y1 = x1 cos - x2 sin`` and
    ``y2 = x2 cos + x1 sin``; at step t pair i turns by
    ``t / scaling_factor / max_wavelength ** (2 i / E)``. The product of a query and a key so turned
    depends on the distance of their steps.

    Called on (N, S, A, E), (N, S, E) or other shapes. Axes in another place than the default's are
    moved there and back, which copies.

    Parameters
    ----------
    max_wavelength : float
        Of the slowest turn, over 2 pi; > 0.
    scaling_factor : float
        What positions are divided by; > 0.
    sequence_axis, feature_axis : int
        Where S and E are, not the batch axis.

    Raises
    ------
    ValueError
        If an argument is not what it should be, or E is odd.

    Notes
    -----
    ``layer(x, start_index=n)`` takes the first step to be the n-th, as for the steps of a sequence
    that is generated one by one.

    Examples
    --------
    >>> import numpy as np
    >>> x = np.array([[[1.0, 0.0], [1.0, 0.0]]])
    >>> RotaryEmbedding()(x).round(2)
    array([[[1.  , 0.  ],
            [0.54, 0.84]]], dtype=float32)
    """

    input_axes = ("batch", ..., "features")
    supports_masking = True
    call_options: ClassVar = {"start_index": _start_index}

    def __init__(
        self,
        max_wavelength: float = 10000,
        scaling_factor: float = 1.0,
        sequence_axis: int = 1,
        feature_axis: int = -1,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.max_wavelength = number(self.label, "max_wavelength", max_wavelength, 0, exclude=[0])
        self.scaling_factor = number(self.label, "scaling_factor", scaling_factor, 0, exclude=[0])
        self.sequence_axis = self._axis("sequence_axis", sequence_axis)
        self.feature_axis = self._axis("feature_axis", feature_axis)
        # One table a width: a layer without weights may be called on several.
        self._tables: dict[int, _Table] = {}

    def _axis(self, name: str, value: Any) -> int:
        if isinstance(value, (bool, np.bool_)) or not hasattr(value, "__index__") or value == 0:
            raise self.error(
                f"{name} expects an integer other than 0 (the batch axis), got {value!r}"
            )
        return operator.index(value)

    def _axes(self, rank: int) -> tuple[int, int]:
        """Return the axes of steps and features, counted from the first."""
        places = [
            axis + rank if axis < 0 else axis for axis in (self.sequence_axis, self.feature_axis)
        ]
        if not all(0 < place < rank for place in places) or places[0] == places[1]:
            raise self.error(
                f"sequence_axis={self.sequence_axis} and feature_axis={self.feature_axis} are not "
                f"two axes of an input of {rank} axes"
            )
        return places[0], places[1]

    def check_input_shape(self, input_shape: Shapes) -> None:
        super().check_input_shape(input_shape)
        assert isinstance(input_shape, tuple)
        width = input_shape[self._axes(len(input_shape))[1]]
        if width is not None and (width < 2 or width % 2):
            raise self.error(f"expects an even number of features, got an input of {input_shape}")

    def _turns(self, steps: int, width: int, start: int) -> Rows:
        """Return cos and sin of each step's angles."""
        if width not in self._tables:
            self._tables[width] = _Table(partial(self._make, width))
        return self._tables[width].rows(start, steps)

    def _make(self, width: int, positions: np.ndarray) -> Rows:
        found = angles(positions / self.scaling_factor, width // 2, width, self.max_wavelength)
        return np.cos(found).astype(np.float32), np.sin(found).astype(np.float32)

    def _as_heads(self, x: np.ndarray) -> np.ndarray:
        """Return x as (N, S, A, E)."""
        moved = transposed(x, self._order(x.ndim))
        heads = int(np.prod(moved.shape[2:-1]))
        return moved.reshape(*moved.shape[:2], heads, moved.shape[-1])

    def _order(self, rank: int) -> list[int]:
        """Return the axes of x in the order N, S, others, E."""
        steps, features = self._axes(rank)
        others = [axis for axis in range(1, rank) if axis not in (steps, features)]
        return [0, steps, *others, features]

    def _like(self, y: np.ndarray, x: np.ndarray) -> np.ndarray:
        """Return y (N, S, A, E) in the form of x."""
        order = self._order(x.ndim)
        moved = y.reshape(*(x.shape[axis] for axis in order))
        return transposed(moved, [order.index(axis) for axis in range(x.ndim)])

    def forward(
        self, x: np.ndarray, training: bool, start_index: int = 0
    ) -> tuple[np.ndarray, Pullback]:
        heads = self._as_heads(x)
        turns = self._turns(heads.shape[1], heads.shape[3], start_index)
        y, pull = ops.rotary_embedding.vjp(heads, *(like(x, turn) for turn in turns))

        def pullback(dy: np.ndarray) -> np.ndarray:
            d_heads, _, _ = pull(self._as_heads(dy))
            assert d_heads is not None
            return self._like(d_heads, dy)

        return self._like(y, x), pullback

    def call(self, x: np.ndarray, training: bool = False, start_index: int = 0) -> np.ndarray:
        heads = self._as_heads(x)
        turns = self._turns(heads.shape[1], heads.shape[3], start_index)
        return self._like(ops.rotary_embedding(heads, *(like(x, turn) for turn in turns)), x)

    def compute_output_shape(self, input_shape: Shape, start_index: int = 0) -> Shape:
        return input_shape

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "max_wavelength": self.max_wavelength,
            "scaling_factor": self.scaling_factor,
            "sequence_axis": self.sequence_axis,
            "feature_axis": self.feature_axis,
        }
