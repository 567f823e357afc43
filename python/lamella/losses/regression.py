"""Losses for numbers: squared, absolute and Huber's error, averaged over the last axis."""

from __future__ import annotations

from typing import Any

import numpy as np

from lamella import arguments, registry
from lamella.losses.base import Loss, Pullback, align


class _ElementwiseLoss(Loss):
    """The mean over the last axis of a function of ``error = y_pred - y_true``."""

    def _values_and_slopes(self, error: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the function and its derivative, both in the shape of ``error``."""
        raise NotImplementedError

    def _rows(
        self, y_true: np.ndarray, y_pred: np.ndarray
    ) -> tuple[np.ndarray, Pullback, np.ndarray | None]:
        shape = y_pred.shape
        y_true, y_pred = align(self.name, y_true, y_pred)
        values, slopes = self._values_and_slopes(y_pred - y_true)
        scale = np.float32(1 / max(1, y_pred.shape[-1]))
        return (
            values.mean(axis=-1),
            lambda d_rows: (slopes * (d_rows * scale)[..., None]).reshape(shape),
            None,
        )


@registry.register("loss", "mse")
class MeanSquaredError(_ElementwiseLoss):
    """``mean((y_pred - y_true)**2)`` over the last axis.

    ``y_true`` and ``y_pred`` have one shape, up to a last axis of size 1.

    Parameters
    ----------
    reduction, name, dtype
        See :class:`Loss`.

    Examples
    --------
    >>> MeanSquaredError()([[0.0, 1.0]], [[1.0, 3.0]])
    2.5
    """

    def __init__(
        self,
        reduction: str | None = "sum_over_batch_size",
        name: str | None = "mean_squared_error",
        dtype: Any = None,
    ) -> None:
        super().__init__(name, reduction, dtype)

    def _values_and_slopes(self, error: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return np.square(error), 2 * error


@registry.register("loss", "mae")
class MeanAbsoluteError(_ElementwiseLoss):
    """``mean(|y_pred - y_true|)`` over the last axis; at 0 the slope is taken as 0.

    ``y_true`` and ``y_pred`` have one shape, up to a last axis of size 1.

    Parameters
    ----------
    reduction, name, dtype
        See :class:`Loss`.

    Examples
    --------
    >>> MeanAbsoluteError()([[0.0, 1.0]], [[1.0, 3.0]])
    1.5
    """

    def __init__(
        self,
        reduction: str | None = "sum_over_batch_size",
        name: str | None = "mean_absolute_error",
        dtype: Any = None,
    ) -> None:
        super().__init__(name, reduction, dtype)

    def _values_and_slopes(self, error: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return np.abs(error), np.sign(error)


@registry.register("loss")
class Huber(_ElementwiseLoss):
    """Squared near 0, absolute far away (Huber 1964), averaged over the last axis.

    ``e**2 / 2`` for ``|e| <= delta``, else ``delta * |e| - delta**2 / 2``. ``y_true`` and
    ``y_pred`` have one shape, up to a last axis of size 1.

    Parameters
    ----------
    delta : float
        Positive.
    reduction, name, dtype
        See :class:`Loss`.

    Examples
    --------
    >>> Huber()([[0.0, 1.0]], [[1.0, 3.0]])
    1.0
    """

    def __init__(
        self,
        delta: float = 1.0,
        reduction: str | None = "sum_over_batch_size",
        name: str | None = "huber_loss",
        dtype: Any = None,
    ) -> None:
        super().__init__(name, reduction, dtype)
        self.delta = arguments.number(type(self).__name__, "delta", delta, 0, exclude=[0])

    def _values_and_slopes(self, error: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        delta = np.float32(self.delta)
        size = np.abs(error)
        values = np.where(size <= delta, np.square(error) / 2, delta * size - delta * delta / 2)
        return values, np.clip(error, -delta, delta)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "delta": self.delta}
