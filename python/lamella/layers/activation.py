"""Activations as layers: Activation, ReLU, LeakyReLU, ELU, Softmax."""

from __future__ import annotations

import operator
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np

from lamella import activations
from lamella.arguments import number
from lamella.layers.base import Layer, Pullback
from lamella.layers.shapes import Shape, Shapes
from lamella.registry import register


class _ActivationLayer(Layer):
    """Applies ``self._function`` with ``self._options``; the output has the input's shape."""

    input_axes = ("batch", ...)
    supports_masking = True

    _function: Any
    _options: dict[str, Any]

    def forward(self, x: np.ndarray, training: bool) -> tuple[np.ndarray, Pullback]:
        y, pull = self._function.vjp(x, **self._options)
        return y, lambda dy: pull(dy)[0]

    def call(self, x: np.ndarray, training: bool = False) -> np.ndarray:
        return self._function(x, **self._options)

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        return input_shape

    def _ends_in_softmax(self) -> bool:
        return False

    @property
    def forward_logits(self) -> Callable[[Any, bool], tuple[Any, Pullback]] | None:
        """The identity, if the layer is a softmax over the last axis."""
        is_last = self._ends_in_softmax() and self.activity_regularizer is None
        return _identity if is_last else None


def _identity(x: np.ndarray, training: bool) -> tuple[np.ndarray, Pullback]:
    return x, lambda dy: dy


@register("layer")
class Activation(_ActivationLayer):
    """``y = activation(x)``.

    Parameters
    ----------
    activation : str or function with ``.vjp``
        See `lamella.activations.get`.

    Examples
    --------
    >>> import numpy as np
    >>> Activation("relu")(np.array([[-1.0, 2.0]]))
    array([[0., 2.]], dtype=float32)
    """

    def __init__(self, activation: Any, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        try:
            self.activation = self._function = activations.get(activation)
        except ValueError as error:
            raise self.error(str(error)) from None
        self._options = {}

    def _ends_in_softmax(self) -> bool:
        return self.activation is activations.softmax

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "activation": activations.serialize(self.activation)}


@register("layer")
class ReLU(_ActivationLayer):
    """``y = min(x, max_value)`` where ``x > threshold``, else ``slope * (x - threshold)``.

    With ``max_value`` or ``threshold`` it is computed by NumPy, not by a kernel.

    Parameters
    ----------
    max_value : float, optional
        At least 0.
    negative_slope, threshold : float
        At least 0.

    Raises
    ------
    ValueError
        If one of them is negative or not finite.

    Examples
    --------
    >>> import numpy as np
    >>> ReLU(max_value=6)(np.array([[-1.0, 2.0, 9.0]]))
    array([[0., 2., 6.]], dtype=float32)
    """

    def __init__(
        self,
        max_value: float | None = None,
        negative_slope: float = 0.0,
        threshold: float = 0.0,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        if max_value is not None:
            max_value = number(self.label, "max_value", max_value, 0)
        self.max_value = max_value
        self.negative_slope = number(self.label, "negative_slope", negative_slope, 0)
        self.threshold = number(self.label, "threshold", threshold, 0)
        self._function = activations.relu
        self._options = {
            "max_value": self.max_value,
            "negative_slope": self.negative_slope,
            "threshold": self.threshold,
        }

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), **self._options}


@register("layer")
class LeakyReLU(_ActivationLayer):
    """``y = x`` where ``x >= 0``, else ``negative_slope * x``.

    Parameters
    ----------
    negative_slope : float
        At least 0. Keras' former name ``alpha`` is understood, with a DeprecationWarning.

    Examples
    --------
    >>> import numpy as np
    >>> LeakyReLU(0.5)(np.array([[-2.0, 3.0]]))
    array([[-1.,  3.]], dtype=float32)
    """

    def __init__(self, negative_slope: float = 0.3, **kwargs: Any) -> None:
        if "alpha" in kwargs:
            warnings.warn(
                "LeakyReLU: alpha is called negative_slope now", DeprecationWarning, stacklevel=2
            )
            negative_slope = kwargs.pop("alpha")
        super().__init__(**kwargs)
        self.negative_slope = number(self.label, "negative_slope", negative_slope, 0)
        self._function = activations.leaky_relu
        self._options = {"negative_slope": self.negative_slope}

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), **self._options}


@register("layer")
class ELU(_ActivationLayer):
    """``y = x`` where ``x > 0``, else ``alpha * (exp(x) - 1)``.

    Parameters
    ----------
    alpha : float

    Examples
    --------
    >>> import numpy as np
    >>> ELU()(np.array([[0.0, 3.0]]))
    array([[0., 3.]], dtype=float32)
    """

    def __init__(self, alpha: float = 1.0, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.alpha = number(self.label, "alpha", alpha)
        self._function = activations.elu
        self._options = {"alpha": self.alpha}

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), **self._options}


@register("layer")
class Softmax(_ActivationLayer):
    """``y = exp(x - max(x)) / sum(exp(x - max(x)))`` along one axis.

    Parameters
    ----------
    axis : int

    Raises
    ------
    ValueError
        If ``axis`` is not an integer, or not an axis of the input.

    Examples
    --------
    >>> import numpy as np
    >>> Softmax()(np.zeros((1, 4)))
    array([[0.25, 0.25, 0.25, 0.25]], dtype=float32)
    """

    def __init__(self, axis: int = -1, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if isinstance(axis, bool) or not hasattr(axis, "__index__"):
            raise self.error(f"axis expects one integer, got {axis!r}")
        self.axis = operator.index(axis)
        self._function = activations.softmax
        self._options = {"axis": self.axis}

    def check_input_shape(self, input_shape: Shapes) -> None:
        super().check_input_shape(input_shape)
        if not -len(input_shape) <= self.axis < len(input_shape):
            raise self.error(f"axis {self.axis} is not an axis of the input shape {input_shape}")

    def _ends_in_softmax(self) -> bool:
        shape = self.build_input_shape
        return self.axis == -1 or (shape is not None and self.axis == len(shape) - 1)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "axis": self.axis}
