"""Dropout and SpatialDropout2D."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from typing import Any

import numpy as np

from lamella import ops
from lamella.arguments import number
from lamella.arrays import like
from lamella.layers.arguments import channels_last
from lamella.layers.base import Layer, Pullback
from lamella.layers.shapes import Shape, Shapes
from lamella.random import SeedGenerator
from lamella.registry import register


@register("layer")
class Dropout(Layer):
    """In training ``y = x * kept / (1 - rate)`` with random kept in {0, 1}; otherwise ``y = x``.

    Parameters
    ----------
    rate : float
        Probability of a value to be dropped, in [0, 1).
    noise_shape : tuple of int or None, optional
        Shape of ``kept``, which broadcasts to x: 1 where an axis is kept or dropped as a whole,
        None for the input's size.
    seed : int, optional
        Starts a stream of masks of the layer's own; by default they come from the global seed
        (`lamella.utils.set_random_seed`).

    Raises
    ------
    ValueError
        If ``rate`` is not in [0, 1), or ``noise_shape`` does not fit the input.

    Examples
    --------
    >>> import numpy as np
    >>> x = np.ones((1, 4))
    >>> bool((Dropout(0.5)(x) == x).all())
    True
    >>> sorted(set(Dropout(0.5, seed=1)(np.ones((9, 9)), training=True).ravel().tolist()))
    [0.0, 2.0]
    """

    input_axes: tuple[Any, ...] | None = ("batch", ...)
    supports_masking = True

    def __init__(
        self,
        rate: float,
        noise_shape: Sequence[int | None] | None = None,
        seed: int | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.rate = number(self.label, "rate", rate, 0, 1, exclude=[1])
        self.noise_shape = self._checked(noise_shape)
        self.seed = seed
        try:
            self._seeds = SeedGenerator(seed)
        except (TypeError, ValueError) as error:
            raise self.error(str(error)) from None

    def _checked(self, noise_shape: Any) -> Shape | None:
        if noise_shape is None:
            return None
        try:
            shape = tuple(None if size is None else operator.index(size) for size in noise_shape)
        except TypeError:
            shape = (0,)
        if any(size is not None and size < 1 for size in shape):
            raise self.error(
                f"noise_shape expects a tuple of integers >= 1 and None, got {noise_shape!r}"
            )
        return shape

    def check_input_shape(self, input_shape: Shapes) -> None:
        super().check_input_shape(input_shape)
        noise = self.noise_shape
        if noise is None:
            return
        fits = len(noise) == len(input_shape) and all(
            size in (None, 1, known) or known is None
            for size, known in zip(noise, input_shape, strict=True)
        )
        if not fits:
            raise self.error(f"noise_shape={noise} does not broadcast to input {input_shape}")

    def forward(self, x: np.ndarray, training: bool) -> tuple[np.ndarray, Pullback]:
        if not training or not self.rate:
            return x, _unchanged
        if self.noise_shape is None:
            y, pull = ops.dropout.vjp(x, rate=self.rate, seed=self._seeds.next())
        else:
            y, pull = ops.multiply.vjp(x, self._noise(x), needs=(True, False))
        return y, lambda dy: pull(dy)[0]

    def call(self, x: np.ndarray, training: bool = False) -> np.ndarray:
        if not training or not self.rate:
            return x
        if self.noise_shape is None:
            return ops.dropout(x, rate=self.rate, seed=self._seeds.next())
        return ops.multiply(x, self._noise(x))

    def _noise(self, x: np.ndarray) -> np.ndarray:
        """Return 0 or 1 / (1 - rate) in the noise's shape."""
        assert self.noise_shape is not None
        shape = [
            known if size is None else size
            for size, known in zip(self.noise_shape, x.shape, strict=True)
        ]
        ones = like(x, np.ones(shape, np.float32))
        return ops.dropout(ones, rate=self.rate, seed=self._seeds.next())

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        return input_shape

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "rate": self.rate,
            "noise_shape": self.noise_shape,
            "seed": self.seed,
        }


def _unchanged(dy: np.ndarray) -> np.ndarray:
    return dy


@register("layer")
class SpatialDropout2D(Dropout):
    """`Dropout` of whole channels of x (N, H, W, C): one decision for all positions.

    Parameters
    ----------
    rate : float
        Probability of a channel to be dropped, in [0, 1).
    data_format : {"channels_last"}, optional
    seed : int, optional
        As in `Dropout`.

    Raises
    ------
    ValueError
        If ``rate`` is not in [0, 1).

    Examples
    --------
    >>> import numpy as np
    >>> y = SpatialDropout2D(0.5, seed=0)(np.ones((1, 3, 3, 8)), training=True)
    >>> bool((y == y[:, :1, :1]).all())
    True
    """

    input_axes = ("batch", "height", "width", "channels")

    def __init__(
        self,
        rate: float,
        data_format: str | None = None,
        seed: int | None = None,
        name: str | None = None,
        dtype: Any = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(
            rate, noise_shape=(None, 1, 1, None), seed=seed, name=name, dtype=dtype, **kwargs
        )
        self.data_format = channels_last(self, data_format)

    def get_config(self) -> dict[str, Any]:
        config = {**super().get_config(), "data_format": self.data_format}
        del config["noise_shape"]  # not an argument of this layer
        return config
