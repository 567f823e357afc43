"""`ScaleAndCenter`: what the normalizations with a gamma and a beta have in common."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import numpy as np

from lamella import initializers, regularizers
from lamella.arguments import number
from lamella.layers.arguments import flag, reject
from lamella.layers.base import Layer
from lamella.layers.shapes import Shape, Shapes
from lamella.layers.weight import Weight


class ScaleAndCenter(Layer):
    """Base of layers that compute ``gamma * n + beta``, n having mean 0 and deviation 1.

    Parameters
    ----------
    epsilon : float
        Above 0.
    center, scale : bool
        Whether there is a beta, a gamma.
    beta_initializer, gamma_initializer : str or Initializer
    beta_regularizer, gamma_regularizer : optional
    beta_constraint, gamma_constraint
        Not supported.
    """

    gamma: Weight | None
    beta: Weight | None

    def __init__(
        self,
        epsilon: float,
        center: bool,
        scale: bool,
        beta_initializer: Any,
        gamma_initializer: Any,
        beta_regularizer: Any,
        gamma_regularizer: Any,
        beta_constraint: Any,
        gamma_constraint: Any,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        reject(self, beta_constraint=beta_constraint, gamma_constraint=gamma_constraint)
        self.epsilon = number(self.label, "epsilon", epsilon, 0, exclude=[0])
        self.center = flag(self, "center", center)
        self.scale = flag(self, "scale", scale)
        try:
            self.beta_initializer = initializers.get(beta_initializer)
            self.gamma_initializer = initializers.get(gamma_initializer)
            self.beta_regularizer = regularizers.get(beta_regularizer)
            self.gamma_regularizer = regularizers.get(gamma_regularizer)
        except ValueError as error:
            raise self.error(str(error)) from None

    def integer_axis(self, axis: Any) -> int:
        """Return the argument ``axis`` of a layer that normalizes channels."""
        if isinstance(axis, bool) or not hasattr(axis, "__index__"):
            raise self.error(f"axis expects an integer, got {axis!r}")
        return operator.index(axis)

    def expect_last_axis(self, axis: int, input_shape: Shapes) -> None:
        """Raise unless ``axis`` is the last one."""
        if axis not in (-1, len(input_shape) - 1):
            raise self.error(
                f"axis={axis} of input shape {input_shape} is not supported: the channels "
                "must be the last axis"
            )

    def add_gamma_and_beta(self, shape: tuple[int, ...]) -> None:
        """Make the two weights, or those that are wanted; for use in ``build``."""
        self.gamma = self.beta = None
        if self.scale:
            self.gamma = self.add_weight(
                "gamma", shape, self.gamma_initializer, self.gamma_regularizer
            )
        if self.center:
            self.beta = self.add_weight("beta", shape, self.beta_initializer, self.beta_regularizer)

    def gamma_and_beta(self) -> tuple[np.ndarray | None, np.ndarray | None]:
        """Return their values, as arguments of an op."""
        return (
            None if self.gamma is None else self.gamma.value,
            None if self.beta is None else self.beta.value,
        )

    def wanted_gradients(self) -> tuple[bool, bool, bool]:
        """Return whether the gradients of x, gamma and beta are needed."""
        trained = self._trainable
        return (
            self.needs_input_gradient,
            trained and self.gamma is not None,
            trained and self.beta is not None,
        )

    def pullback_of(
        self, pull: Callable[..., Any], results: int = 1, others: int = 0
    ) -> Callable[[np.ndarray], np.ndarray | None]:
        """Return a pullback that gives gamma and beta their gradients and returns that of x.

        Parameters
        ----------
        pull : callable
            The pullback of an op of x, gamma, beta and `others` further arrays, with as many
            results; only the first result has a gradient.
        """
        trained, gamma, beta = self._trainable, self.gamma, self.beta
        rest = (None,) * (results - 1)

        def pullback(dy: np.ndarray) -> np.ndarray | None:
            dx: np.ndarray | None
            if not trained:
                dx = pull(dy, *rest)[0]
                return dx
            out = (
                None,
                None if gamma is None else gamma.gradient_out(),
                None if beta is None else beta.gradient_out(),
                *[None] * others,
            )
            dx, dgamma, dbeta, *_ = pull(dy, *rest, out=out)
            if gamma is not None:
                gamma.add_gradient(dgamma)
            if beta is not None:
                beta.add_gradient(dbeta)
            return dx

        return pullback

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        return input_shape

    def get_config(self) -> dict[str, Any]:
        beta, gamma = self.beta_regularizer, self.gamma_regularizer
        return {
            **super().get_config(),
            "epsilon": self.epsilon,
            "center": self.center,
            "scale": self.scale,
            "beta_initializer": initializers.serialize(self.beta_initializer),
            "gamma_initializer": initializers.serialize(self.gamma_initializer),
            "beta_regularizer": None if beta is None else regularizers.serialize(beta),
            "gamma_regularizer": None if gamma is None else regularizers.serialize(gamma),
        }
