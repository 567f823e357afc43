"""`TimeDistributed`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from lamella import registry
from lamella.layers.base import Layer, Pullback
from lamella.layers.shapes import Shape, Shapes, is_shape
from lamella.layers.wrapper import Wrapper, layer_argument, layer_from_config
from lamella.registry import register


@register("layer")
class TimeDistributed(Wrapper):
    """Apply a layer to each step of x (N, T, ...): ``y[:, t] = layer(x[:, t])``.

    The layer is called once, on the steps of all samples as one batch of N T. So a
    BatchNormalization inside takes its statistics over all steps (Keras: step by step), and
    dropout draws a mask for each.

    Parameters
    ----------
    layer : Layer
        With one input and one output. It is used as it is, not copied.
    **kwargs
        name, trainable, input_shape and so on: see `Layer`.

    Raises
    ------
    TypeError
        If ``layer`` is not a layer.
    ValueError
        If the input has no axis of steps, or the layer inside has several outputs.

    Examples
    --------
    >>> import numpy as np
    >>> from lamella.layers import Conv2D
    >>> TimeDistributed(Conv2D(4, 3))(np.ones((2, 5, 8, 8, 1))).shape
    (2, 5, 6, 6, 4)
    """

    input_axes = ("batch", "steps", "features", ...)
    supports_masking = True

    def __init__(self, layer: Layer, **kwargs: Any) -> None:
        super().__init__(*([layer] if isinstance(layer, Layer) else []), **kwargs)
        self.layer = layer_argument(self, "layer", layer)

    @property
    def keeps_dtype(self) -> bool:  # type: ignore[override]
        """Whether integers stay integers: as in the layer inside."""
        return self.layer.keeps_dtype

    @property
    def takes_indices(self) -> bool:  # type: ignore[override]
        """Whether the input is indices: as in the layer inside."""
        return self.layer.takes_indices

    @property
    def index_limit(self) -> int | None:  # type: ignore[override]
        """What indices lie below: as in the layer inside."""
        return self.layer.index_limit

    @property
    def uses_mask(self) -> bool:  # type: ignore[override]
        """Whether the layer inside does."""
        return self.layer.uses_mask

    def _convert(self, array: Any) -> np.ndarray:
        return self.layer._convert(array)

    def check_input_shape(self, input_shape: Shapes) -> None:
        super().check_input_shape(input_shape)
        if self.built:
            self.layer.check_input_shape(_step(input_shape))

    def build(self, input_shape: Shape) -> None:
        inner = (None, *input_shape[2:])
        if not self.layer.built:
            self.layer.build(inner)
        self.compute_output_shape(input_shape)

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        inner = self.layer.compute_output_shape(_step(input_shape))
        if not is_shape(inner):
            raise self.error(f"layer {self.layer.name!r} has several outputs")
        return (*input_shape[:2], *inner[1:])

    @property
    def makes_mask(self) -> bool:
        return False

    def compute_mask(self, inputs: Any, mask: Any = None) -> Any:
        """Return the steps' mask (N, T).

        A mask with more axes, of sequences at each step, stays where the layer inside keeps it;
        where it takes the sequences in, a step counts if anything in it does.
        """
        if mask is None or mask.ndim < 3:
            return mask
        inner = self.layer.compute_mask(_merged(inputs), _merged(mask))
        return mask.any(axis=tuple(range(2, mask.ndim))) if inner is None else mask

    def _options(self, mask: np.ndarray | None) -> dict[str, Any]:
        """Return the mask for the layer inside, where it has axes after the steps."""
        return {} if mask is None or mask.ndim < 3 else {"mask": _merged(mask)}

    def forward(
        self, x: np.ndarray, training: bool, mask: np.ndarray | None = None
    ) -> tuple[np.ndarray, Pullback]:
        return self._forward(self.layer.forward, x, training, mask)

    def _forward(
        self, inner: Callable[..., Any], x: np.ndarray, training: bool, mask: np.ndarray | None
    ) -> tuple[np.ndarray, Pullback]:
        self.layer.needs_input_gradient = self.needs_input_gradient
        shape = x.shape
        try:
            y, pull = inner(_merged(x), training, **self._options(mask))
        finally:
            self.layer.needs_input_gradient = True

        def pullback(dy: np.ndarray) -> np.ndarray | None:
            dx = pull(_merged(dy))
            return None if dx is None else dx.reshape(shape)

        return _split(y, shape), pullback

    def call(
        self, x: np.ndarray, training: bool = False, mask: np.ndarray | None = None
    ) -> np.ndarray:
        return _split(self.layer.call(_merged(x), training, **self._options(mask)), x.shape)

    @property
    def forward_logits(self) -> Callable[[Any, bool], tuple[Any, Pullback]] | None:
        """The layer inside without its softmax, applied to each step."""
        inner = self.layer.forward_logits
        if inner is None or self.activity_regularizer is not None:
            return None

        def forward(x: Any, training: bool, mask: Any = None) -> tuple[Any, Pullback]:
            return self._forward(inner, x, training, mask)

        return forward

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "layer": registry.serialize(self.layer)}

    @classmethod
    def from_config(
        cls, config: dict[str, Any], custom_objects: dict[str, Any] | None = None
    ) -> Any:
        config = {**config, "layer": layer_from_config(config.get("layer"), custom_objects)}
        return super().from_config(config, custom_objects)


def _step(shape: Shapes) -> Shape:
    return (None, *shape[2:])


def _merged(x: np.ndarray) -> np.ndarray:
    return x.reshape(x.shape[0] * x.shape[1], *x.shape[2:])


def _split(y: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    return y.reshape(*shape[:2], *y.shape[1:])
