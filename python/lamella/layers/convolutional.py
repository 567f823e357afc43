"""Convolutions: Conv1D, Conv2D and DepthwiseConv2D; the others are in files of their own."""

from __future__ import annotations

from typing import Any, ClassVar

from lamella import ops
from lamella.layers.arguments import channels_last, choice, integer, integers
from lamella.layers.kernel_layer import KernelLayer
from lamella.layers.shapes import Shape, window_shape
from lamella.registry import register


class Convolution(KernelLayer):
    """What all convolutions share: window arguments, their checks, their config."""

    _spatial: ClassVar[int] = 2
    _paddings: ClassVar[tuple[str, ...]] = ("valid", "same")

    def __init__(
        self,
        *,
        kernel_size: Any,
        strides: Any,
        padding: Any,
        data_format: Any,
        dilation_rate: Any,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        count = self._spatial
        self.kernel_size = integers(self, "kernel_size", kernel_size, count)
        self.strides = integers(self, "strides", strides, count)
        self.padding = choice(self, "padding", padding, self._paddings)
        self.data_format = channels_last(self, data_format)
        self.dilation_rate = integers(self, "dilation_rate", dilation_rate, count)
        if max(self.strides) > 1 and max(self.dilation_rate) > 1:
            raise self.error(
                "strides > 1 do not go with dilation_rate > 1, "
                f"got strides={self.strides}, dilation_rate={self.dilation_rate}"
            )
        single = count == 1
        self._options |= {
            "strides": self.strides[0] if single else self.strides,
            "padding": self.padding,
            "dilation": self.dilation_rate[0] if single else self.dilation_rate,
        }

    def _windows(self, input_shape: Shape) -> Shape:
        """Return the spatial part of the output's shape."""
        self.check_input_shape(input_shape)
        return window_shape(
            self, input_shape, self.kernel_size, self.strides, self.padding, self.dilation_rate
        )

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "kernel_size": self.kernel_size,
            "strides": self.strides,
            "padding": self.padding,
            "data_format": self.data_format,
            "dilation_rate": self.dilation_rate,
        }


class _GroupedConvolution(Convolution):
    """Conv1D and Conv2D: filters in groups."""

    def __init__(self, filters: int, groups: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.filters = integer(self, "filters", filters)
        self.groups = integer(self, "groups", groups)
        if self.filters % self.groups:
            raise self.error(
                f"filters must be a multiple of groups, got filters={filters}, groups={groups}"
            )
        self._options["groups"] = self.groups

    def build(self, input_shape: Shape) -> None:
        self.compute_output_shape(input_shape)
        channels = self.known_channels(input_shape)
        if channels % self.groups:
            raise self.error(
                f"the input's channels must be a multiple of groups={self.groups}, "
                f"got shape {input_shape}"
            )
        kernel_shape = (*self.kernel_size, channels // self.groups, self.filters)
        self._make_weights(kernel_shape, self.filters)

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        return (input_shape[0], *self._windows(input_shape), self.filters)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "filters": self.filters, "groups": self.groups}


@register("layer")
class Conv1D(_GroupedConvolution):
    """``y[n,t,f] = activation(sum_kc x[n, t*stride + k*dilation, c] kernel[k,c,f] + bias[f])``.

    x (N, T, C), kernel (kernel_size, C / groups, filters), bias (filters,), y (N, T', filters).

    Parameters
    ----------
    filters : int
    kernel_size, strides, dilation_rate : int or tuple of one int
    padding : {"valid", "same", "causal"}
        "causal" pads only before the first step, so that y[t] does not see x after t.
    data_format : {"channels_last"}, optional
    groups : int
        Divides C and ``filters``.
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
    >>> Conv1D(4, 3, padding="causal")(np.ones((2, 10, 3))).shape
    (2, 10, 4)
    """

    input_axes = ("batch", "steps", "channels")
    _spatial = 1
    _paddings = ("valid", "same", "causal")
    _op = staticmethod(ops.conv1d)
    _vjp = staticmethod(ops.conv1d.vjp)

    def __init__(
        self,
        filters: int,
        kernel_size: Any,
        strides: Any = 1,
        padding: str = "valid",
        data_format: str | None = None,
        dilation_rate: Any = 1,
        groups: int = 1,
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
            filters=filters,
            kernel_size=kernel_size,
            strides=strides,
            padding=padding,
            data_format=data_format,
            dilation_rate=dilation_rate,
            groups=groups,
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


@register("layer")
class Conv2D(_GroupedConvolution):
    """``y[n,i,j,f] = activation(sum_pqc x[n, i*s + p*d, j*s + q*d, c] kernel[p,q,c,f] + bias[f])``.

    x (N, H, W, C), kernel (KH, KW, C / groups, filters), bias (filters,), y (N, H', W', filters).

    Parameters
    ----------
    filters : int
    kernel_size, strides, dilation_rate : int or tuple of two ints
    padding : {"valid", "same"}
        "same" pads as TensorFlow does, to an output of ceil(size / stride).
    data_format : {"channels_last"}, optional
    groups : int
        Divides C and ``filters``.
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
    >>> Conv2D(8, 3, strides=2, padding="same")(np.ones((2, 7, 7, 3))).shape
    (2, 4, 4, 8)
    """

    input_axes = ("batch", "height", "width", "channels")
    _op = staticmethod(ops.conv2d)
    _vjp = staticmethod(ops.conv2d.vjp)

    def __init__(
        self,
        filters: int,
        kernel_size: Any,
        strides: Any = (1, 1),
        padding: str = "valid",
        data_format: str | None = None,
        dilation_rate: Any = (1, 1),
        groups: int = 1,
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
            filters=filters,
            kernel_size=kernel_size,
            strides=strides,
            padding=padding,
            data_format=data_format,
            dilation_rate=dilation_rate,
            groups=groups,
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


@register("layer")
class DepthwiseConv2D(Convolution):
    """A convolution of each channel by itself, with ``depth_multiplier`` filters a channel.

    ``y[n,i,j,c*M + m] = activation(sum_pq x[n,i+p,j+q,c] kernel[p,q,c,m] + bias[c*M + m])``.
    x (N, H, W, C), kernel (KH, KW, C, M), bias (C*M,), y (N, H', W', C*M).

    Parameters
    ----------
    kernel_size, strides, dilation_rate : int or tuple of two ints
    padding : {"valid", "same"}
    depth_multiplier : int
        M.
    data_format : {"channels_last"}, optional
    activation, use_bias, depthwise_initializer, bias_initializer, depthwise_regularizer, \
bias_regularizer, activity_regularizer
        As in `Dense`.
    depthwise_constraint, bias_constraint
        Not supported.

    Raises
    ------
    ValueError
        If an argument is not what it should be, or strides and dilation are both above 1.

    Examples
    --------
    >>> import numpy as np
    >>> DepthwiseConv2D(3, depth_multiplier=2)(np.ones((1, 5, 5, 4))).shape
    (1, 3, 3, 8)
    """

    input_axes = ("batch", "height", "width", "channels")
    _kernel_prefix = "depthwise"
    _op = staticmethod(ops.conv2d)
    _vjp = staticmethod(ops.conv2d.vjp)

    def __init__(
        self,
        kernel_size: Any,
        strides: Any = (1, 1),
        padding: str = "valid",
        depth_multiplier: int = 1,
        data_format: str | None = None,
        dilation_rate: Any = (1, 1),
        activation: Any = None,
        use_bias: bool = True,
        depthwise_initializer: Any = "glorot_uniform",
        bias_initializer: Any = "zeros",
        depthwise_regularizer: Any = None,
        bias_regularizer: Any = None,
        activity_regularizer: Any = None,
        depthwise_constraint: Any = None,
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
        self.depth_multiplier = integer(self, "depth_multiplier", depth_multiplier)

    def build(self, input_shape: Shape) -> None:
        self.compute_output_shape(input_shape)
        channels = self.known_channels(input_shape)
        outputs = channels * self.depth_multiplier
        self._options["groups"] = channels
        self._op_kernel_shape = (*self.kernel_size, 1, outputs)
        self._make_weights((*self.kernel_size, channels, self.depth_multiplier), outputs)

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        channels = input_shape[-1]
        outputs = None if channels is None else channels * self.depth_multiplier
        return (input_shape[0], *self._windows(input_shape), outputs)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "depth_multiplier": self.depth_multiplier}
