"""`Conv2DTranspose`."""

from __future__ import annotations

from typing import Any

from lamella import ops
from lamella.layers.arguments import integer, integers
from lamella.layers.convolutional import Convolution
from lamella.layers.shapes import Shape, transposed_output
from lamella.registry import register


@register("layer")
class Conv2DTranspose(Convolution):
    """The transpose of `Conv2D` as a linear map: each input position adds a scaled kernel.

    ``y[n, i*s + p, j*s + q, f] += x[n,i,j,c] kernel[p,q,f,c]``, cropped or extended to the output.
    x (N, H, W, C), kernel (KH, KW, filters, C), bias (filters,). "same" gives H' = H * stride,
    "valid" H' = H * stride + max(KH - stride, 0).

    Parameters
    ----------
    filters : int
    kernel_size, strides, dilation_rate : int or tuple of two ints
    padding : {"valid", "same"}
    output_padding : int or tuple of two ints, optional
        Below the stride; chooses H' = (H - 1) * stride + KH + output_padding ("valid") or
        (H - 1) * stride + KH % 2 + output_padding ("same").
    data_format : {"channels_last"}, optional
    activation, use_bias, kernel_initializer, bias_initializer, kernel_regularizer, \
bias_regularizer, activity_regularizer
        As in `Dense`.
    kernel_constraint, bias_constraint
        Not supported.

    Raises
    ------
    ValueError
        If an argument is not what it should be, or strides and dilation are both above 1.

    Examples
    --------
    >>> import numpy as np
    >>> Conv2DTranspose(2, 3, strides=2, padding="same")(np.ones((1, 4, 4, 3))).shape
    (1, 8, 8, 2)
    """

    input_axes = ("batch", "height", "width", "channels")
    _op = staticmethod(ops.conv2d_transpose)
    _vjp = staticmethod(ops.conv2d_transpose.vjp)

    def __init__(
        self,
        filters: int,
        kernel_size: Any,
        strides: Any = (1, 1),
        padding: str = "valid",
        output_padding: Any = None,
        data_format: str | None = None,
        dilation_rate: Any = (1, 1),
        activation: Any = None,
        use_bias: bool = True,
        kernel_initializer: Any = "glorot_uniform",
        bias_initializer: Any = "zeros",
        kernel_regularizer: Any = None,
        bias_regularizer: Any = None,
        activity_regularizer: Any = None,
        kernel_constraint: Any = None,
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
            kernel_initializer=kernel_initializer,
            bias_initializer=bias_initializer,
            kernel_regularizer=kernel_regularizer,
            bias_regularizer=bias_regularizer,
            activity_regularizer=activity_regularizer,
            kernel_constraint=kernel_constraint,
            bias_constraint=bias_constraint,
            **kwargs,
        )
        self.filters = integer(self, "filters", filters)
        if output_padding is not None:
            output_padding = integers(self, "output_padding", output_padding, 2, minimum=0)
            if any(p >= s for p, s in zip(output_padding, self.strides, strict=True)):
                raise self.error(
                    "output_padding must be below the stride on each axis, "
                    f"got output_padding={output_padding}, strides={self.strides}"
                )
        self.output_padding = output_padding
        self._options["output_padding"] = output_padding

    def build(self, input_shape: Shape) -> None:
        self.compute_output_shape(input_shape)
        channels = self.known_channels(input_shape)
        self._make_weights((*self.kernel_size, self.filters, channels), self.filters)

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        self.check_input_shape(input_shape)
        extra = self.output_padding or (None, None)
        sizes = tuple(
            transposed_output(input_shape[axis + 1], window, stride, self.padding, more, dilation)
            for axis, (window, stride, more, dilation) in enumerate(
                zip(self.kernel_size, self.strides, extra, self.dilation_rate, strict=True)
            )
        )
        return (input_shape[0], *sizes, self.filters)

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "filters": self.filters,
            "output_padding": self.output_padding,
        }
