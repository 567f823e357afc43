"""`GroupNormalization`."""

from __future__ import annotations

from typing import Any

import numpy as np

from lamella import ops
from lamella.layers.arguments import integer
from lamella.layers.base import Pullback
from lamella.layers.scale_and_center import ScaleAndCenter
from lamella.layers.shapes import Shape, Shapes
from lamella.registry import register


@register("layer")
class GroupNormalization(ScaleAndCenter):
    """``y = gamma * (x - mean) / sqrt(variance + epsilon) + beta``, a group of channels at a time.

    x (N, ..., C); gamma, beta (C,). The channels are cut into groups of neighbours; mean and
    (biased) variance are those of one sample's group over all axes between, in training and
    otherwise.

    Parameters
    ----------
    groups : int
        A divisor of the number of channels, or -1 for a group a channel (instance normalization).
    axis : int
        The channels: the last axis.
    epsilon : float
        Above 0.
    center, scale : bool
        Whether there is a beta, a gamma.
    beta_initializer, gamma_initializer : str or Initializer
    beta_regularizer, gamma_regularizer : optional
    beta_constraint, gamma_constraint
        Not supported.

    Raises
    ------
    ValueError
        If an argument is not what it should be, ``axis`` is not the last axis, or the channels
        cannot be cut into so many groups.

    Examples
    --------
    >>> import numpy as np
    >>> GroupNormalization(groups=2)(np.array([[1.0, 3.0, 20.0, 40.0]])).round(2)
    array([[-1.,  1., -1.,  1.]], dtype=float32)
    """

    input_axes = ("batch", ..., "channels")
    supports_masking = True

    def __init__(
        self,
        groups: int = 32,
        axis: int = -1,
        epsilon: float = 1e-3,
        center: bool = True,
        scale: bool = True,
        beta_initializer: Any = "zeros",
        gamma_initializer: Any = "ones",
        beta_regularizer: Any = None,
        gamma_regularizer: Any = None,
        beta_constraint: Any = None,
        gamma_constraint: Any = None,
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
        self.groups = integer(self, "groups", groups, minimum=-1)
        if self.groups == 0:
            raise self.error("groups expects an integer >= 1, or -1 for a group a channel, got 0")
        self.axis = self.integer_axis(axis)

    def check_input_shape(self, input_shape: Shapes) -> None:
        super().check_input_shape(input_shape)
        self.expect_last_axis(self.axis, input_shape)

    def build(self, input_shape: Shape) -> None:
        channels = self.known_channels(input_shape)
        if self.groups > 0 and channels % self.groups:
            raise self.error(
                f"groups={self.groups} must divide the {channels} channels of input shape "
                f"{input_shape}"
            )
        self.add_gamma_and_beta((channels,))
        self._options: dict[str, Any] = {
            "groups": channels if self.groups == -1 else self.groups,
            "epsilon": self.epsilon,
        }

    def forward(self, x: np.ndarray, training: bool) -> tuple[np.ndarray, Pullback]:
        needs = self.wanted_gradients()
        y, pull = ops.group_norm.vjp(x, *self.gamma_and_beta(), needs=needs, **self._options)
        return y, self.pullback_of(pull)

    def call(self, x: np.ndarray, training: bool = False) -> np.ndarray:
        gamma, beta = self.gamma_and_beta()
        return ops.group_norm(x, gamma, beta, **self._options)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "groups": self.groups, "axis": self.axis}
