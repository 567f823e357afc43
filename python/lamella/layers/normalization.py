"""`BatchNormalization`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from lamella import initializers, masks, ops
from lamella.arguments import number
from lamella.arrays import is_on_device
from lamella.layers.arguments import reject
from lamella.layers.base import Pullback
from lamella.layers.scale_and_center import ScaleAndCenter
from lamella.layers.shapes import Shape, Shapes
from lamella.layers.weight import Weight
from lamella.registry import register


@register("layer")
class BatchNormalization(ScaleAndCenter):
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
        reject(
            self,
            renorm=renorm,
            renorm_clipping=renorm_clipping,
            renorm_momentum=None if renorm_momentum == 0.99 else renorm_momentum,
            synchronized=synchronized,
        )
        self.axis = self.integer_axis(axis)
        self.momentum = number(self.label, "momentum", momentum, 0, 1)
        try:
            self.moving_mean_initializer = initializers.get(moving_mean_initializer)
            self.moving_variance_initializer = initializers.get(moving_variance_initializer)
        except ValueError as error:
            raise self.error(str(error)) from None

    def check_input_shape(self, input_shape: Shapes) -> None:
        super().check_input_shape(input_shape)
        self.expect_last_axis(self.axis, input_shape)

    def build(self, input_shape: Shape) -> None:
        shape = (self.known_channels(input_shape),)
        self.add_gamma_and_beta(shape)
        self.moving_mean = self.add_weight(
            "moving_mean", shape, self.moving_mean_initializer, trainable=False
        )
        self.moving_variance = self.add_weight(
            "moving_variance", shape, self.moving_variance_initializer, trainable=False
        )

    def forward(
        self, x: np.ndarray, training: bool, mask: np.ndarray | None = None
    ) -> tuple[np.ndarray, Pullback]:
        y: Any
        gamma, beta = self.gamma_and_beta()
        needs = (*self.wanted_gradients(), False, False)
        if training and self._trainable:
            vjp = ops.batch_norm.vjp if mask is None else _counting(mask)
            (y, mean, variance), pull = vjp(
                x, gamma, beta, None, None, needs=needs, epsilon=self.epsilon
            )
            self._move(mean, variance)
            # The statistics leave the layer only through the moving ones: no gradient.
            return y, self.pullback_of(pull, results=3, others=2)
        mean, variance = self.moving_mean.value, self.moving_variance.value
        y, pull = ops.batch_norm.vjp(
            x, gamma, beta, mean, variance, needs=needs, epsilon=self.epsilon
        )
        return y, self.pullback_of(pull, others=2)

    def call(
        self, x: np.ndarray, training: bool = False, mask: np.ndarray | None = None
    ) -> np.ndarray:
        if training and mask is not None:
            return self.forward(x, training, mask)[0]
        gamma, beta = self.gamma_and_beta()
        if training and self._trainable:
            normalized, mean, variance = ops.batch_norm(x, gamma, beta, epsilon=self.epsilon)
            self._move(mean, variance)
            return normalized
        mean, variance = self.moving_mean.value, self.moving_variance.value
        y: Any = ops.batch_norm(x, gamma, beta, mean, variance, epsilon=self.epsilon)
        return y

    def _move(self, mean: np.ndarray, variance: np.ndarray) -> None:
        keep, take = np.float32(self.momentum), np.float32(1 - self.momentum)
        if is_on_device(mean):
            self._move_on_device(mean, variance, float(keep), float(take))
            return
        for moving, batch in (
            (self.moving_mean.value, mean),
            (self.moving_variance.value, variance),
        ):
            moving *= keep
            moving += batch * take

    def _move_on_device(self, mean: Any, variance: Any, keep: float, take: float) -> None:
        for weight, batch in ((self.moving_mean, mean), (self.moving_variance, variance)):
            share = batch.copy()
            ops.scale_(share, take)
            ops.scale_(weight.value, keep)
            ops.accumulate_(weight.value, share)

    def get_config(self) -> dict[str, Any]:
        serialize = initializers.serialize
        return {
            **super().get_config(),
            "axis": self.axis,
            "momentum": self.momentum,
            "moving_mean_initializer": serialize(self.moving_mean_initializer),
            "moving_variance_initializer": serialize(self.moving_variance_initializer),
        }


def _counting(mask: np.ndarray) -> Callable[..., Any]:
    """Return ``ops.batch_norm.vjp`` with the statistics of the rows that count.

    Those take part as a batch of their own; the others are normalized by its statistics, and their
    gradients reach it through these.
    """

    def vjp(
        x: np.ndarray, gamma: Any, beta: Any, *_: None, needs: Any, epsilon: float
    ) -> tuple[Any, Callable[..., Any]]:
        if is_on_device(x):
            raise ValueError("statistics of a masked batch are computed on the CPU only")
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
