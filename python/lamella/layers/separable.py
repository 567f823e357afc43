"""`SeparableConv2D`: a depthwise convolution, then a 1x1 convolution across channels."""

from __future__ import annotations

from typing import Any

import numpy as np

from lamella import initializers, ops, regularizers
from lamella.layers.arguments import integer, reject
from lamella.layers.base import Pullback
from lamella.layers.convolutional import Convolution
from lamella.layers.shapes import Shape
from lamella.layers.weight import Weight
from lamella.registry import register


@register("layer")
class SeparableConv2D(Convolution):
    """``z = depthwise_conv(x)``, then ``y = activation(z @ pointwise_kernel + bias)``.

    x (N, H, W, C), depthwise_kernel (KH, KW, C, M), pointwise_kernel (1, 1, C*M, filters),
    bias (filters,), y (N, H', W', filters).

    Parameters
    ----------
    filters : int
    kernel_size, strides, dilation_rate : int or tuple of two ints
        Of the depthwise convolution.
    padding : {"valid", "same"}
    data_format : {"channels_last"}, optional
    depth_multiplier : int
        M.
    activation, use_bias, depthwise_initializer, pointwise_initializer, bias_initializer, \
depthwise_regularizer, pointwise_regularizer, bias_regularizer, activity_regularizer
        As in `Dense`.
    depthwise_constraint, pointwise_constraint, bias_constraint
        Not supported.

    Raises
    ------
    ValueError
        If an argument is not what it should be, or strides and dilation are both above 1.

    Examples
    --------
    >>> import numpy as np
    >>> SeparableConv2D(6, 3, padding="same")(np.ones((1, 5, 5, 4))).shape
    (1, 5, 5, 6)
    """

    input_axes = ("batch", "height", "width", "channels")
    _kernel_prefix = "depthwise"

    depthwise_kernel: Weight
    pointwise_kernel: Weight

    def __init__(
        self,
        filters: int,
        kernel_size: Any,
        strides: Any = (1, 1),
        padding: str = "valid",
        data_format: str | None = None,
        dilation_rate: Any = (1, 1),
        depth_multiplier: int = 1,
        activation: Any = None,
        use_bias: bool = True,
        depthwise_initializer: Any = "glorot_uniform",
        pointwise_initializer: Any = "glorot_uniform",
        bias_initializer: Any = "zeros",
        depthwise_regularizer: Any = None,
        pointwise_regularizer: Any = None,
        bias_regularizer: Any = None,
        activity_regularizer: Any = None,
        depthwise_constraint: Any = None,
        pointwise_constraint: Any = None,
        bias_constraint: Any = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(
            kernel_size=kernel_size,
            strides=strides,
            padding=padding,
            data_format=data_format,
            dilation_rate=dilation_rate,
            activation=activation,
            use_bias=use_bias,
            kernel_initializer=depthwise_initializer,
            bias_initializer=bias_initializer,
            kernel_regularizer=depthwise_regularizer,
            bias_regularizer=bias_regularizer,
            activity_regularizer=activity_regularizer,
            kernel_constraint=depthwise_constraint,
            bias_constraint=bias_constraint,
            **kwargs,
        )
        reject(self, pointwise_constraint=pointwise_constraint)
        self.filters = integer(self, "filters", filters)
        self.depth_multiplier = integer(self, "depth_multiplier", depth_multiplier)
        try:
            self.pointwise_initializer = initializers.get(pointwise_initializer)
            self.pointwise_regularizer = regularizers.get(pointwise_regularizer)
        except ValueError as error:
            raise self.error(str(error)) from None
        # The window is the depthwise convolution's, the activation the pointwise one's.
        self._depthwise_options = self._options
        self._options = {"activation": self._depthwise_options.pop("activation")}

    def build(self, input_shape: Shape) -> None:
        self.compute_output_shape(input_shape)
        channels = self.known_channels(input_shape)
        inner = channels * self.depth_multiplier
        self._depthwise_options["groups"] = channels
        self._op_kernel_shape = (*self.kernel_size, 1, inner)
        self.depthwise_kernel = self.add_weight(
            "depthwise_kernel",
            (*self.kernel_size, channels, self.depth_multiplier),
            self.kernel_initializer,
            self.kernel_regularizer,
        )
        self.pointwise_kernel = self.add_weight(
            "pointwise_kernel",
            (1, 1, inner, self.filters),
            self.pointwise_initializer,
            self.pointwise_regularizer,
        )
        self.bias = None
        if self.use_bias:
            self.bias = self.add_weight(
                "bias", (self.filters,), self.bias_initializer, self.bias_regularizer
            )

    def call(self, x: np.ndarray, training: bool = False) -> np.ndarray:
        depthwise = self.depthwise_kernel.value.reshape(self._op_kernel_shape)
        z = ops.conv2d(x, depthwise, **self._depthwise_options)
        bias = None if self.bias is None else self.bias.value
        y = ops.conv2d(z, self.pointwise_kernel.value, bias, **self._options)
        return y if self._after is None else self._after(y)

    def _forward_op(self, x: np.ndarray, training: bool) -> tuple[np.ndarray, Pullback]:
        depthwise, pointwise, bias = self.depthwise_kernel, self.pointwise_kernel, self.bias
        trained, inner_needed = self._trainable, self._trainable or self.needs_input_gradient
        shape = self._op_kernel_shape
        z, pull_depthwise = ops.conv2d.vjp(
            x,
            depthwise.value.reshape(shape),
            None,
            needs=(self.needs_input_gradient, trained, False),
            **self._depthwise_options,
        )
        y, pull_pointwise = ops.conv2d.vjp(
            z,
            pointwise.value,
            None if bias is None else bias.value,
            needs=(inner_needed, trained, trained and bias is not None),
            **self._options,
        )

        def pullback(dy: np.ndarray) -> np.ndarray | None:
            if not trained:
                return pull_depthwise(pull_pointwise(dy)[0])[0]
            bias_out = None if bias is None else bias.gradient_out()
            dz, dpointwise, dbias = pull_pointwise(
                dy, out=(None, pointwise.gradient_out(), bias_out)
            )
            out = depthwise.gradient_out()
            view = None if out is None else out.reshape(shape)
            gradients: Any = pull_depthwise(dz, out=(None, view, None))
            dx, ddepthwise, _ = gradients
            pointwise.add_gradient(dpointwise)
            depthwise.add_gradient(ddepthwise.reshape(depthwise.shape) if out is None else out)
            if bias is not None:
                bias.add_gradient(dbias)
            return dx

        return y, pullback

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        return (input_shape[0], *self._windows(input_shape), self.filters)

    def get_config(self) -> dict[str, Any]:
        penalty = self.pointwise_regularizer
        return {
            **super().get_config(),
            "filters": self.filters,
            "depth_multiplier": self.depth_multiplier,
            "pointwise_initializer": initializers.serialize(self.pointwise_initializer),
            "pointwise_regularizer": None if penalty is None else regularizers.serialize(penalty),
        }
