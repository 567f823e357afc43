"""Normalization of each sample over some of its axes: LayerNormalization, RMSNormalization,
UnitNormalization."""

from __future__ import annotations

from typing import Any

import numpy as np

from lamella import ops
from lamella.arguments import number
from lamella.arrays import like
from lamella.layers.arguments import reject
from lamella.layers.base import Layer, Pullback
from lamella.layers.normalized_axes import NormalizedAxes
from lamella.layers.scale_and_center import ScaleAndCenter
from lamella.layers.shapes import Shape, Shapes
from lamella.layers.weight import Weight
from lamella.registry import register


@register("layer")
class LayerNormalization(ScaleAndCenter):
    """``y = gamma * (x - mean) / sqrt(variance + epsilon) + beta``, over some axes of a sample.

    x (N, ...); gamma and beta have the sizes of x along ``axis``, in the order of its axes. Mean
    and (biased) variance are those of each sample's elements along ``axis``, in training and
    otherwise.

    Parameters
    ----------
    axis : int or list of int
        Other than the batch axis. The last ones are the fastest: for any others x is copied.
    epsilon : float
        Above 0.
    center, scale : bool
        Whether there is a beta, a gamma.
    beta_initializer, gamma_initializer : str or Initializer
    beta_regularizer, gamma_regularizer : optional
    beta_constraint, gamma_constraint, rms_scaling
        Not supported; for `rms_scaling` there is `RMSNormalization`.

    Raises
    ------
    ValueError
        If an argument is not what it should be, or the input has no such axes.

    Examples
    --------
    >>> import numpy as np
    >>> LayerNormalization()(np.array([[1.0, 3.0], [20.0, 40.0]])).round(2)
    array([[-1.,  1.],
           [-1.,  1.]], dtype=float32)
    """

    input_axes = ("batch", ..., "features")
    supports_masking = True

    def __init__(
        self,
        axis: Any = -1,
        epsilon: float = 1e-3,
        center: bool = True,
        scale: bool = True,
        beta_initializer: Any = "zeros",
        gamma_initializer: Any = "ones",
        beta_regularizer: Any = None,
        gamma_regularizer: Any = None,
        beta_constraint: Any = None,
        gamma_constraint: Any = None,
        *,
        rms_scaling: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(
            epsilon,
            center,
            scale,
            beta_initializer,
            gamma_initializer,
            beta_regularizer,
            gamma_regularizer,
            beta_constraint,
            gamma_constraint,
            **kwargs,
        )
        reject(self, rms_scaling=rms_scaling)
        self._axes = NormalizedAxes(self, axis)
        self.axis = self._axes.given
        self._options: dict[str, Any] = {"axis": self._axes.option, "epsilon": self.epsilon}

    def check_input_shape(self, input_shape: Shapes) -> None:
        super().check_input_shape(input_shape)
        self._axes.check(input_shape)

    def build(self, input_shape: Shape) -> None:
        sizes = self._axes.known_sizes(input_shape)
        self.add_gamma_and_beta(sizes)
        self._axes.sizes = sizes

    def forward(self, x: np.ndarray, training: bool) -> tuple[np.ndarray, Pullback]:
        gamma, beta = self.gamma_and_beta()
        needs = (*self.wanted_gradients(), False)
        y: Any
        y, pull = ops.layer_norm.vjp(x, gamma, beta, needs=needs, **self._options)
        return y, self.pullback_of(pull, others=1)

    def call(self, x: np.ndarray, training: bool = False) -> np.ndarray:
        y: Any = ops.layer_norm(x, *self.gamma_and_beta(), **self._options)
        return y

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "axis": self.axis, "rms_scaling": False}


@register("layer")
class RMSNormalization(Layer):
    """``y = scale * x / sqrt(mean(x**2) + epsilon)``, the mean over some axes of a sample.

    x (N, ...); scale has the sizes of x along ``axis``, in the order of its axes.

    Parameters
    ----------
    axis : int or list of int
        Other than the batch axis. The last ones are the fastest: for any others x is copied.
    epsilon : float
        Above 0.

    Raises
    ------
    ValueError
        If an argument is not what it should be, or the input has no such axes.

    Examples
    --------
    >>> import numpy as np
    >>> RMSNormalization()(np.array([[3.0, 4.0]])).round(4)
    array([[0.8485, 1.1314]], dtype=float32)
    """

    input_axes = ("batch", ..., "features")
    supports_masking = True

    scale: Weight

    def __init__(self, axis: Any = -1, epsilon: float = 1e-6, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._axes = NormalizedAxes(self, axis)
        self.axis = self._axes.given
        self.epsilon = number(self.label, "epsilon", epsilon, 0, exclude=[0])
        self._options: dict[str, Any] = {"axis": self._axes.option, "epsilon": self.epsilon}

    def check_input_shape(self, input_shape: Shapes) -> None:
        super().check_input_shape(input_shape)
        self._axes.check(input_shape)

    def build(self, input_shape: Shape) -> None:
        sizes = self._axes.known_sizes(input_shape)
        self.scale = self.add_weight("scale", sizes, "ones")
        self._axes.sizes = sizes

    def forward(self, x: np.ndarray, training: bool) -> tuple[np.ndarray, Pullback]:
        scale, trained = self.scale, self._trainable
        needs = (self.needs_input_gradient, trained, False)
        y: Any
        y, pull = ops.rms_norm.vjp(x, scale.value, needs=needs, **self._options)

        def pullback(dy: np.ndarray) -> Any:
            out = (None, scale.gradient_out() if trained else None, None)
            dx, dscale, _ = pull(dy, out=out)
            scale.add_gradient(dscale)
            return dx

        return y, pullback

    def call(self, x: np.ndarray, training: bool = False) -> np.ndarray:
        y: Any = ops.rms_norm(x, self.scale.value, **self._options)
        return y

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        return input_shape

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "axis": self.axis, "epsilon": self.epsilon}


@register("layer")
class UnitNormalization(Layer):
    """``y = x / sqrt(sum(x**2) + 1e-24)``, the sum over some axes of a sample: length 1.

    x (N, ...). Samples of length 0 stay 0; only those shorter than 1e-11 become noticeably shorter
    than 1.

    Parameters
    ----------
    axis : int or list of int
        Other than the batch axis. The last ones are the fastest: for any others x is copied.

    Raises
    ------
    ValueError
        If ``axis`` is not what it should be, or the input has no such axes.

    Examples
    --------
    >>> import numpy as np
    >>> UnitNormalization()(np.array([[3.0, 4.0], [0.0, 0.0]])).round(4)
    array([[0.6, 0.8],
           [0. , 0. ]], dtype=float32)
    """

    input_axes = ("batch", ..., "features")
    supports_masking = True

    def __init__(self, axis: Any = -1, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._axes = NormalizedAxes(self, axis)
        self.axis = self._axes.given

    def check_input_shape(self, input_shape: Shapes) -> None:
        super().check_input_shape(input_shape)
        self._axes.check(input_shape)

    def _rms_arguments(self, x: np.ndarray) -> tuple[np.ndarray, dict[str, Any]]:
        """Return gamma and options for ``rms_norm``: a length of 1 is a mean square of 1 / n."""
        positions = self._axes.positions(x.shape)
        sizes = [x.shape[position] for position in positions]
        count = max(1, int(np.prod(sizes)))
        gamma = like(x, np.full(sizes, 1 / np.sqrt(count), np.float32))
        return gamma, {"axis": tuple(positions), "epsilon": 1e-24 / count}

    def forward(self, x: np.ndarray, training: bool) -> tuple[np.ndarray, Pullback]:
        gamma, options = self._rms_arguments(x)
        y: Any
        y, pull = ops.rms_norm.vjp(x, gamma, needs=(True, False, False), **options)
        return y, lambda dy: pull(dy)[0]

    def call(self, x: np.ndarray, training: bool = False) -> np.ndarray:
        gamma, options = self._rms_arguments(x)
        y: Any = ops.rms_norm(x, gamma, **options)
        return y

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        return input_shape

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "axis": self.axis}
