"""Losses as metrics: mean errors and cross-entropies over an epoch."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from lamella import losses, registry
from lamella.losses.base import align
from lamella.metrics.base import MeanOfRows


class _MeanLoss(MeanOfRows):
    """The mean of a loss over samples."""

    direction = "down"

    def __init__(self, loss: losses.Loss, name: str, dtype: Any) -> None:
        super().__init__(name, dtype)
        loss.name = name  # its errors are this metric's errors
        self._loss = loss

    def update_state(self, y_true: Any, y_pred: Any, sample_weight: Any = None) -> None:
        self._add(self._loss.call(y_true, y_pred), sample_weight)

    def get_config(self) -> dict[str, Any]:
        config = self._loss.get_config()
        del config["reduction"]
        return config


@registry.register("metric", "mse")
class MeanSquaredError(_MeanLoss):
    """The mean of ``(y_pred - y_true)**2``.

    Examples
    --------
    >>> MeanSquaredError()([[0, 1], [0, 0]], [[1, 1], [0, 0]])
    0.25
    """

    def __init__(self, name: str = "mean_squared_error", dtype: Any = None) -> None:
        super().__init__(losses.MeanSquaredError(), name, dtype)


@registry.register("metric", "mae")
class MeanAbsoluteError(_MeanLoss):
    """The mean of ``|y_pred - y_true|``.

    Examples
    --------
    >>> MeanAbsoluteError()([[0, 1], [0, 0]], [[1, 3], [0, 0]])
    0.75
    """

    def __init__(self, name: str = "mean_absolute_error", dtype: Any = None) -> None:
        super().__init__(losses.MeanAbsoluteError(), name, dtype)


@registry.register("metric", "rmse")
class RootMeanSquaredError(MeanOfRows):
    """The root of the mean of ``(y_pred - y_true)**2``.

    Examples
    --------
    >>> RootMeanSquaredError()([[0, 1], [0, 0]], [[1, 1], [0, 0]])
    0.5
    """

    direction = "down"
    leaves_out_masked = False

    def __init__(self, name: str = "root_mean_squared_error", dtype: Any = None) -> None:
        super().__init__(name, dtype)

    def update_state(self, y_true: Any, y_pred: Any, sample_weight: Any = None) -> None:
        true, pred = align(self.name, np.asarray(y_true), np.asarray(y_pred, np.float32))
        self._add(np.square(pred - true), sample_weight)

    def result(self) -> float:
        return math.sqrt(super().result())


@registry.register("metric")
class SparseCategoricalCrossentropy(_MeanLoss):
    """The mean of :class:`lamella.losses.SparseCategoricalCrossentropy`, for class numbers.

    Parameters
    ----------
    name, dtype
        See :class:`Metric`.
    from_logits : bool
        Whether predictions are logits.
    axis : int
        Only -1.
    """

    def __init__(
        self,
        name: str = "sparse_categorical_crossentropy",
        dtype: Any = None,
        from_logits: bool = False,
        axis: int = -1,
    ) -> None:
        super().__init__(losses.SparseCategoricalCrossentropy(from_logits, axis=axis), name, dtype)

    def get_config(self) -> dict[str, Any]:
        config = super().get_config()
        del config["ignore_class"]
        return config


@registry.register("metric")
class CategoricalCrossentropy(_MeanLoss):
    """The mean of :class:`lamella.losses.CategoricalCrossentropy`, for one-hot targets.

    Parameters
    ----------
    name, dtype
        See :class:`Metric`.
    from_logits : bool
        Whether predictions are logits.
    label_smoothing : float
        In [0, 1].
    axis : int
        Only -1.
    """

    def __init__(
        self,
        name: str = "categorical_crossentropy",
        dtype: Any = None,
        from_logits: bool = False,
        label_smoothing: float = 0.0,
        axis: int = -1,
    ) -> None:
        super().__init__(
            losses.CategoricalCrossentropy(from_logits, label_smoothing, axis), name, dtype
        )


@registry.register("metric", "bce")
class BinaryCrossentropy(_MeanLoss):
    """The mean of :class:`lamella.losses.BinaryCrossentropy`.

    Parameters
    ----------
    name, dtype
        See :class:`Metric`.
    from_logits : bool
        Whether predictions are logits.
    label_smoothing : float
        In [0, 1].
    """

    def __init__(
        self,
        name: str = "binary_crossentropy",
        dtype: Any = None,
        from_logits: bool = False,
        label_smoothing: float = 0.0,
    ) -> None:
        super().__init__(losses.BinaryCrossentropy(from_logits, label_smoothing), name, dtype)
