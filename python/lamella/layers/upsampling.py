"""`UpSampling2D`: larger images, by repetition or by linear interpolation. Computed by NumPy."""

from __future__ import annotations

from typing import Any

import numpy as np

from lamella import ops
from lamella.arrays import is_on_device, like
from lamella.layers.arguments import channels_last, choice, integers
from lamella.layers.base import Layer, Pullback
from lamella.layers.shapes import Shape
from lamella.registry import register


@register("layer")
class UpSampling2D(Layer):
    """x (N, H, W, C) enlarged to y (N, H * size[0], W * size[1], C).

    "nearest": ``y[n,i,j,c] = x[n, i // s0, j // s1, c]``. "bilinear": y at i is x at the position
    ``(i + 1/2) / s0 - 1/2`` (columns alike), linear between neighbours, constant beyond the border.

    Parameters
    ----------
    size : int or tuple of two ints
    data_format : {"channels_last"}, optional
    interpolation : {"nearest", "bilinear"}

    Raises
    ------
    ValueError
        If an argument is not what it should be.

    Examples
    --------
    >>> import numpy as np
    >>> x = np.array([0.0, 4.0]).reshape(1, 1, 2, 1)
    >>> UpSampling2D((1, 2))(x).ravel()
    array([0., 0., 4., 4.], dtype=float32)
    >>> UpSampling2D((1, 2), interpolation="bilinear")(x).ravel()
    array([0., 1., 3., 4.], dtype=float32)
    """

    input_axes = ("batch", "height", "width", "channels")

    def __init__(
        self,
        size: Any = (2, 2),
        data_format: str | None = None,
        interpolation: str = "nearest",
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.size = integers(self, "size", size, 2)
        self.data_format = channels_last(self, data_format)
        self.interpolation = choice(self, "interpolation", interpolation, ("nearest", "bilinear"))

    def forward(self, x: np.ndarray, training: bool) -> tuple[np.ndarray, Pullback]:
        if is_on_device(x):
            self._expect_nearest()
            return self._repeated_vjp(x)
        rows, columns = self.size
        pull = _pull_linear if self.interpolation == "bilinear" else _pull_repeated
        return self.call(x), lambda dy: pull(pull(dy, 2, columns), 1, rows)

    def call(self, x: np.ndarray, training: bool = False) -> np.ndarray:
        if is_on_device(x):
            self._expect_nearest()
            return self._repeated_vjp(x)[0]
        rows, columns = self.size
        if self.interpolation == "bilinear":
            return _linear(_linear(x, 1, rows), 2, columns)
        return x.repeat(rows, axis=1).repeat(columns, axis=2)

    def _expect_nearest(self) -> None:
        if self.interpolation != "nearest":
            raise self.error("interpolation='bilinear' is computed on the CPU only")

    def _repeated_vjp(self, x: Any) -> tuple[Any, Pullback]:
        """Repeat pixels by a product with ones, which the device has a kernel for."""
        batch, height, width, channels = x.shape
        rows, columns = self.size
        ones = like(x, np.ones((1, 1, rows, 1, columns, 1), np.float32))
        split = x.reshape(batch, height, 1, width, 1, channels)
        y, pull = ops.multiply.vjp(split, ones, needs=(True, False))
        shape = y.shape

        def pullback(dy: Any) -> Any:
            dx: Any = pull(dy.reshape(*shape))[0]
            return dx.reshape(batch, height, width, channels)

        return y.reshape(batch, height * rows, width * columns, channels), pullback

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        batch, *sizes, channels = input_shape
        larger = (
            None if size is None else size * factor
            for size, factor in zip(sizes, self.size, strict=True)
        )
        return (batch, *larger, channels)

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "size": self.size,
            "data_format": self.data_format,
            "interpolation": self.interpolation,
        }


def _pull_repeated(dy: np.ndarray, axis: int, factor: int) -> np.ndarray:
    shape = dy.shape
    split = (*shape[:axis], shape[axis] // factor, factor, *shape[axis + 1 :])
    return dy.reshape(split).sum(axis=axis + 1)


def _taps(factor: int) -> list[tuple[np.float32, np.float32, int]]:
    """Return, for each phase p of ``factor`` outputs an input, what output i * factor + p is.

    (weight, weight, j): the weights of inputs i + j - 1 and i + j. Phase p lies at the offset
    ``(p + 1/2) / factor - 1/2`` from input i, between -1/2 and 1/2.
    """
    taps = []
    for phase in range(factor):
        offset = (phase + 0.5) / factor - 0.5
        fraction = offset + 1 if offset < 0 else offset
        taps.append((np.float32(1 - fraction), np.float32(fraction), 0 if offset < 0 else 1))
    return taps


def _along(axis: int, where: slice) -> tuple[slice, ...]:
    return (slice(None),) * axis + (where,)


def _linear(x: np.ndarray, axis: int, factor: int) -> np.ndarray:
    if factor == 1 or x.size == 0:
        return x.repeat(factor, axis=axis)
    length = x.shape[axis]
    # One more input on each side, equal to the border: beyond it the result is constant.
    bordered = np.concatenate(
        [x[_along(axis, slice(0, 1))], x, x[_along(axis, slice(length - 1, length))]], axis=axis
    )
    y = np.empty((*x.shape[:axis], length * factor, *x.shape[axis + 1 :]), np.float32)
    for phase, (before, after, shift) in enumerate(_taps(factor)):
        lower = bordered[_along(axis, slice(shift, shift + length))]
        upper = bordered[_along(axis, slice(shift + 1, shift + 1 + length))]
        y[_along(axis, slice(phase, None, factor))] = before * lower + after * upper
    return y


def _pull_linear(dy: np.ndarray, axis: int, factor: int) -> np.ndarray:
    if factor == 1 or dy.size == 0:
        return _pull_repeated(dy, axis, factor)
    length = dy.shape[axis] // factor
    bordered = np.zeros((*dy.shape[:axis], length + 2, *dy.shape[axis + 1 :]), np.float32)
    for phase, (before, after, shift) in enumerate(_taps(factor)):
        part = dy[_along(axis, slice(phase, None, factor))]
        bordered[_along(axis, slice(shift, shift + length))] += before * part
        bordered[_along(axis, slice(shift + 1, shift + 1 + length))] += after * part
    dx = bordered[_along(axis, slice(1, length + 1))]
    dx[_along(axis, slice(0, 1))] += bordered[_along(axis, slice(0, 1))]
    dx[_along(axis, slice(length - 1, length))] += bordered[_along(axis, slice(length + 1, None))]
    return np.ascontiguousarray(dx)
