"""`BatchNormalization`."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import numpy as np

from lamella import initializers, masks, ops, regularizers
from lamella.arguments import number
from lamella.layers.arguments import flag, reject
from lamella.layers.base import Layer, Pullback
from lamella.layers.shapes import Shape, Shapes
from lamella.layers.weight import Weight
from lamella.registry import register


@register("layer")
class BatchNormalization(Layer):
    """``y = gamma * (x - mean) / sqrt(variance + epsilon) + beta``, a channel at a time.

    x (N, ..., C); gamma, beta, moving_mean, moving_variance (C,). In training the mean and the
    (biased) variance are the batch's, over all axes but the last, and move the moving ones:
    ``moving = moving * momentum + batch * (1 - momentum)``. Otherwise, and in a layer with
    ``trainable=False``, they are the moving ones. Masked steps take no part in the statistics.

    Parameters
    ----------
    axis : int
        The channels: the last axis.
    momentum : float
        In [0, 1].
    epsilon : float
        Above 0.
    center, scale : bool
        Whether there is a beta, a gamma.
    beta_initializer, gamma_initializer, moving_mean_initializer, moving_variance_initializer : \
str or Initializer
    beta_regularizer, gamma_regularizer : optional
    beta_constraint, gamma_constraint, renorm, renorm_clipping, renorm_momentum, synchronized
        Not supported.

    Raises
    ------
    ValueError
        If an argument is not what it should be, ``axis`` is not the last axis, or a training batch
        is empty.

    Examples
    --------
    >>> import numpy as np
    >>> layer = BatchNormalization()
    >>> layer(np.array([[1.0], [3.0]]), training=True).round(2).ravel()
    array([-1.,  1.], dtype=float32)
    >>> layer.moving_mean.numpy().round(4)
    array([0.02], dtype=float32)
    """

    input_axes = ("batch", ..., "channels")
    supports_masking = True
    uses_mask = True

    gamma: Weight | None
    beta: Weight | None
    moving_mean: Weight
    moving_variance: Weight

    def __init__(
        self,
        axis: int = -1,
        momentum: float = 0.99,
        epsilon: float = 1e-3,
        center: bool = True,
        scale: bool = True,
        beta_initializer: Any = "zeros",
        gamma_initializer: Any = "ones",
        moving_mean_initializer: Any = "zeros",
        moving_variance_initializer: Any = "ones",
        beta_regularizer: Any = None,
        gamma_regularizer: Any = None,
        beta_constraint: Any = None,
        gamma_constraint: Any = None,
        renorm: bool = False,
        renorm_clipping: Any = None,
        renorm_momentum: float = 0.99,
        synchronized: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        reject(
            self,
            beta_constraint=beta_constraint,
            gamma_constraint=gamma_constraint,
            renorm=renorm,
            renorm_clipping=renorm_clipping,
            renorm_momentum=None if renorm_momentum == 0.99 else renorm_momentum,
            synchronized=synchronized,
        )
        if isinstance(axis, bool) or not hasattr(axis, "__index__"):
            raise self.error(f"axis expects an integer, got {axis!r}")
        self.axis = operator.index(axis)
        self.momentum = number(self.label, "momentum", momentum, 0, 1)
        self.epsilon = number(self.label, "epsilon", epsilon, 0, exclude=[0])
        self.center = flag(self, "center", center)
        self.scale = flag(self, "scale", scale)
        try:
            self.beta_initializer = initializers.get(beta_initializer)
            self.gamma_initializer = initializers.get(gamma_initializer)
            self.moving_mean_initializer = initializers.get(moving_mean_initializer)
            self.moving_variance_initializer = initializers.get(moving_variance_initializer)
            self.beta_regularizer = regularizers.get(beta_regularizer)
            self.gamma_regularizer = regularizers.get(gamma_regularizer)
        except ValueError as error:
            raise self.error(str(error)) from None

    def check_input_shape(self, input_shape: Shapes) -> None:
        super().check_input_shape(input_shape)
        if self.axis not in (-1, len(input_shape) - 1):
            raise self.error(
                f"axis={self.axis} of input shape {input_shape} is not supported: the channels "
                "must be the last axis"
            )

    def build(self, input_shape: Shape) -> None:
        shape = (self.known_channels(input_shape),)
        self.gamma = self.beta = None
        if self.scale:
            self.gamma = self.add_weight(
                "gamma", shape, self.gamma_initializer, self.gamma_regularizer
            )
        if self.center:
            self.beta = self.add_weight("beta", shape, self.beta_initializer, self.beta_regularizer)
        self.moving_mean = self.add_weight(
            "moving_mean", shape, self.moving_mean_initializer, trainable=False
        )
        self.moving_variance = self.add_weight(
            "moving_variance", shape, self.moving_variance_initializer, trainable=False
        )

    def forward(
        self, x: np.ndarray, training: bool, mask: np.ndarray | None = None
    ) -> tuple[np.ndarray, Pullback]:
        gamma, beta, trained = self.gamma, self.beta, self._trainable
        scale = None if gamma is None else gamma.value
        shift = None if beta is None else beta.value
        needs = (
            self.needs_input_gradient,
            trained and gamma is not None,
            trained and beta is not None,
            False,
            False,
        )
        statistics: tuple[None, ...] = ()
        if training and trained:
            vjp = ops.batch_norm.vjp if mask is None else _counting(mask)
            (y, mean, variance), pull = vjp(
                x, scale, shift, None, None, needs=needs, epsilon=self.epsilon
            )
            self._move(mean, variance)
            # The statistics leave the layer only through the moving ones: no gradient.
            statistics = (None, None)
        else:
            mean, variance = self.moving_mean.value, self.moving_variance.value
            y, pull = ops.batch_norm.vjp(
                x, scale, shift, mean, variance, needs=needs, epsilon=self.epsilon
            )

        def pullback(dy: np.ndarray) -> np.ndarray | None:
            if not trained:
                return pull(dy)[0]
            out = (
                None,
                None if gamma is None else gamma.gradient_out(),
                None if beta is None else beta.gradient_out(),
                None,
                None,
            )
            dx, dgamma, dbeta, _, _ = pull(dy, *statistics, out=out)
            if gamma is not None:
                gamma.add_gradient(dgamma)
            if beta is not None:
                beta.add_gradient(dbeta)
            return dx

        return y, pullback

    def call(
        self, x: np.ndarray, training: bool = False, mask: np.ndarray | None = None
    ) -> np.ndarray:
        if training and mask is not None:
            return self.forward(x, training, mask)[0]
        gamma = None if self.gamma is None else self.gamma.value
        beta = None if self.beta is None else self.beta.value
        if training and self._trainable:
            normalized, mean, variance = ops.batch_norm(x, gamma, beta, epsilon=self.epsilon)
            self._move(mean, variance)
            return normalized
        mean, variance = self.moving_mean.value, self.moving_variance.value
        y: Any = ops.batch_norm(x, gamma, beta, mean, variance, epsilon=self.epsilon)
        return y

    def _move(self, mean: np.ndarray, variance: np.ndarray) -> None:
        keep, take = np.float32(self.momentum), np.float32(1 - self.momentum)
        for moving, batch in (
            (self.moving_mean.value, mean),
            (self.moving_variance.value, variance),
        ):
            moving *= keep
            moving += batch * take

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        return input_shape

    def get_config(self) -> dict[str, Any]:
        beta, gamma = self.beta_regularizer, self.gamma_regularizer
        serialize = initializers.serialize
        return {
            **super().get_config(),
            "axis": self.axis,
            "momentum": self.momentum,
            "epsilon": self.epsilon,
            "center": self.center,
            "scale": self.scale,
            "beta_initializer": serialize(self.beta_initializer),
            "gamma_initializer": serialize(self.gamma_initializer),
            "moving_mean_initializer": serialize(self.moving_mean_initializer),
            "moving_variance_initializer": serialize(self.moving_variance_initializer),
            "beta_regularizer": None if beta is None else regularizers.serialize(beta),
            "gamma_regularizer": None if gamma is None else regularizers.serialize(gamma),
        }


def _counting(mask: np.ndarray) -> Callable[..., Any]:
    """Return ``ops.batch_norm.vjp`` with the statistics of the rows that count.

    Those take part as a batch of their own; the others are normalized by its statistics, and their
    gradients reach it through these.
    """

    def vjp(
        x: np.ndarray, gamma: Any, beta: Any, *_: None, needs: Any, epsilon: float
    ) -> tuple[Any, Callable[..., Any]]:
        rows = masks.spread(mask, x.shape[:-1])
        if not rows.any():
            raise ValueError("every step is masked: there is nothing to take statistics of")
        wanted = (*needs[:3], True, True)
        (counted, mean, variance), pull = ops.batch_norm.vjp(
            x[rows], gamma, beta, None, None, needs=needs, epsilon=epsilon
        )
        others, pull_others = ops.batch_norm.vjp(
            x[~rows], gamma, beta, mean, variance, needs=wanted, epsilon=epsilon
        )
        y = np.empty_like(x)
        y[rows], y[~rows] = counted, others

        def pullback(dy: np.ndarray, *_: None, out: Any) -> tuple[Any, ...]:
            *late, dmean, dvariance = pull_others(dy[~rows])
            early = pull(dy[rows], dmean, dvariance)[:3]
            dx = None
            if early[0] is not None:
                dx = np.empty_like(x)
                dx[rows], dx[~rows] = early[0], late[0]
            sums = [None if a is None else a + b for a, b in zip(early[1:], late[1:], strict=True)]
            return (dx, *sums, None, None)

        return (y, mean, variance), pullback

    return vjp
