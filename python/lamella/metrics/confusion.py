"""Precision and recall: shares of the positives that are right, and that are found."""

from __future__ import annotations

from typing import Any

import numpy as np

from lamella import arguments, registry
from lamella.losses.base import align, fit_weights
from lamella.metrics.base import Metric


class _PositiveCounts(Metric):
    """Counts true positives, false positives and false negatives.

    Parameters
    ----------
    thresholds : float, optional
        Predictions above it are positive; 0.5 by default. A list is not supported.
    top_k
        Not supported.
    class_id : int, optional
        Count this entry of the last axis only; all entries by default.
    name, dtype
        See :class:`Metric`.
    """

    direction = "up"

    def __init__(
        self,
        thresholds: float | None = None,
        top_k: None = None,
        class_id: int | None = None,
        name: str | None = None,
        dtype: Any = None,
    ) -> None:
        super().__init__(name, dtype)
        owner = type(self).__name__
        if top_k is not None:
            raise ValueError(f"{owner}: top_k is not supported; leave it at None")
        self.thresholds = arguments.number(
            owner, "thresholds", 0.5 if thresholds is None else thresholds, 0, 1
        )
        self.class_id = class_id
        if class_id is not None:
            self.class_id = int(arguments.number(owner, "class_id", class_id, 0))

    def reset_state(self) -> None:
        self.true_positives = 0.0
        self.false_positives = 0.0
        self.false_negatives = 0.0

    def update_state(self, y_true: Any, y_pred: Any, sample_weight: Any = None) -> None:
        true, pred = align(self.name, np.asarray(y_true), np.asarray(y_pred, np.float32))
        weights: Any = 1.0
        if sample_weight is not None:
            weights = np.broadcast_to(fit_weights(self.name, sample_weight, pred.shape), pred.shape)
        if self.class_id is not None:
            if self.class_id >= pred.shape[-1]:
                raise IndexError(
                    f"{self.name}: class_id {self.class_id} is outside predictions of shape "
                    f"{pred.shape}"
                )
            true, pred = true[..., self.class_id], pred[..., self.class_id]
            weights = weights if sample_weight is None else weights[..., self.class_id]
        actual, claimed = true != 0, pred > self.thresholds
        self.true_positives += float(np.sum((actual & claimed) * weights, dtype=np.float64))
        self.false_positives += float(np.sum((~actual & claimed) * weights, dtype=np.float64))
        self.false_negatives += float(np.sum((actual & ~claimed) * weights, dtype=np.float64))

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "thresholds": self.thresholds,
            "class_id": self.class_id,
        }


@registry.register("metric")
class Precision(_PositiveCounts):
    """Of what is predicted positive, the share that is: ``tp / (tp + fp)``, 0 for nothing.

    The arguments are those of Keras: ``thresholds`` (one number, 0.5 by default), ``class_id``,
    ``name``; ``top_k`` is not supported.

    Examples
    --------
    >>> Precision()([0, 1, 1, 1], [1, 0, 1, 1])
    0.6666666666666666
    """

    def result(self) -> float:
        found = self.true_positives + self.false_positives
        return self.true_positives / found if found else 0.0


@registry.register("metric")
class Recall(_PositiveCounts):
    """Of what is positive, the share that is predicted so: ``tp / (tp + fn)``, 0 for nothing.

    The arguments are those of Keras: ``thresholds`` (one number, 0.5 by default), ``class_id``,
    ``name``; ``top_k`` is not supported.

    Examples
    --------
    >>> Recall()([0, 1, 1, 1], [1, 0, 1, 1])
    0.6666666666666666
    """

    def result(self) -> float:
        there = self.true_positives + self.false_negatives
        return self.true_positives / there if there else 0.0
