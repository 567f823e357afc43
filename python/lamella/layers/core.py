"""`Dense`."""

from __future__ import annotations

from typing import Any

from lamella import ops
from lamella.layers.arguments import integer, reject
from lamella.layers.kernel_layer import KernelLayer
from lamella.layers.shapes import Shape
from lamella.registry import register


@register("layer")
class Dense(KernelLayer):
    """Affine map of the last axis: ``y = activation(x @ kernel + bias)``.

    x (N, ..., D), kernel (D, units), bias (units,), y (N, ..., units).

    Parameters
    ----------
    units : int
    activation : str or function, optional
    use_bias : bool
    kernel_initializer, bias_initializer : str or Initializer
    kernel_regularizer, bias_regularizer, activity_regularizer : optional
    kernel_constraint, bias_constraint, lora_rank, lora_alpha, quantization_config
        Not supported.
    **kwargs
        name, trainable, input_shape and so on: see `Layer`.

    Raises
    ------
    ValueError
        If an argument is not what it should be.

    Examples
    --------
    >>> import numpy as np
    >>> Dense(3, activation="relu")(np.ones((2, 5))).shape
    (2, 3)
    """

    input_axes = ("batch", ..., "features")
    supports_masking = True
    _op = staticmethod(ops.dense)
    _vjp = staticmethod(ops.dense.vjp)

    def __init__(
        self,
        units: int,
        activation: Any = None,
        use_bias: bool = True,
        kernel_initializer: Any = "glorot_uniform",
        bias_initializer: Any = "zeros",
        kernel_regularizer: Any = None,
        bias_regularizer: Any = None,
        activity_regularizer: Any = None,
        kernel_constraint: Any = None,
        bias_constraint: Any = None,
        lora_rank: Any = None,
        lora_alpha: Any = None,
        quantization_config: Any = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(
            activation=activation,
            use_bias=use_bias,
            kernel_initializer=kernel_initializer,
            bias_initializer=bias_initializer,
            kernel_regularizer=kernel_regularizer,
            bias_regularizer=bias_regularizer,
            activity_regularizer=activity_regularizer,
            kernel_constraint=kernel_constraint,
            bias_constraint=bias_constraint,
            **kwargs,
        )
        reject(
            self,
            lora_rank=lora_rank,
            lora_alpha=lora_alpha,
            quantization_config=quantization_config,
        )
        self.units = integer(self, "units", units)

    def build(self, input_shape: Shape) -> None:
        self._make_weights((self.known_channels(input_shape), self.units), self.units)

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        return (*input_shape[:-1], self.units)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "units": self.units}
