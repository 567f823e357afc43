"""`Masking`."""

from __future__ import annotations

from typing import Any

import numpy as np

from lamella.arguments import number
from lamella.arrays import to_numpy, with_zeros
from lamella.layers.base import Layer, Pullback
from lamella.layers.shapes import Shape
from lamella.registry import register


@register("layer")
class Masking(Layer):
    """Mask the steps of x (N, T, ..., D) whose D values all equal ``mask_value``.

    In y, of x's shape, they are 0; the mask (N, T, ...) goes with y to the layers that follow, as
    far as each of them supports masks.

    Parameters
    ----------
    mask_value : float

    Raises
    ------
    ValueError
        If ``mask_value`` is not a finite number.

    Examples
    --------
    >>> import numpy as np
    >>> layer = Masking(9.0)
    >>> x = np.array([[[1.0, 9.0], [9.0, 9.0]]])
    >>> layer(x)
    array([[[1., 9.],
            [0., 0.]]], dtype=float32)
    >>> layer.compute_mask(x)
    array([[ True, False]])
    """

    input_axes = ("batch", ..., "features")
    supports_masking = True

    def __init__(self, mask_value: float = 0.0, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.mask_value = number(self.label, "mask_value", mask_value)

    @property
    def makes_mask(self) -> bool:
        return True

    def compute_mask(self, inputs: Any, mask: Any = None) -> np.ndarray:
        # As float32: 0.1 must be what the data's 0.1 became.
        counts: np.ndarray = (to_numpy(inputs) != np.float32(self.mask_value)).any(axis=-1)
        return counts

    def forward(self, x: np.ndarray, training: bool) -> tuple[np.ndarray, Pullback]:
        counts = self.compute_mask(x)[..., np.newaxis]
        return with_zeros(x, counts), lambda dy: with_zeros(dy, counts)

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        return input_shape

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "mask_value": self.mask_value}
