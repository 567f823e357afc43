"""Metrics, by Keras 3's names: what is reported while a model trains and when it is evaluated."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from lamella import losses, registry
from lamella.metrics.accuracy import (
    Accuracy,
    BinaryAccuracy,
    CategoricalAccuracy,
    FittingAccuracy,
    SparseCategoricalAccuracy,
    SparseTopKCategoricalAccuracy,
    TopKCategoricalAccuracy,
)
from lamella.metrics.base import Mean, MeanMetricWrapper, Metric
from lamella.metrics.confusion import Precision, Recall
from lamella.metrics.errors import (
    BinaryCrossentropy,
    CategoricalCrossentropy,
    MeanAbsoluteError,
    MeanSquaredError,
    RootMeanSquaredError,
    SparseCategoricalCrossentropy,
)

__all__ = [
    "Accuracy",
    "BinaryAccuracy",
    "BinaryCrossentropy",
    "CategoricalAccuracy",
    "CategoricalCrossentropy",
    "Mean",
    "MeanAbsoluteError",
    "MeanMetricWrapper",
    "MeanSquaredError",
    "Metric",
    "Precision",
    "Recall",
    "RootMeanSquaredError",
    "SparseCategoricalAccuracy",
    "SparseCategoricalCrossentropy",
    "SparseTopKCategoricalAccuracy",
    "TopKCategoricalAccuracy",
    "deserialize",
    "get",
    "serialize",
]


def _fitting_accuracy(
    name: str, loss: losses.Loss | None, output_shape: Sequence[int | None] | None
) -> Metric:
    """Choose the accuracy by the model's output and loss, or leave it to the first batch."""
    kind: type[Metric] = FittingAccuracy
    if output_shape is not None and len(output_shape) and output_shape[-1] == 1:
        kind = BinaryAccuracy
    elif output_shape is not None and isinstance(loss, losses.SparseCategoricalCrossentropy):
        kind = SparseCategoricalAccuracy
    elif output_shape is not None and isinstance(loss, losses.CategoricalCrossentropy):
        kind = CategoricalAccuracy
    return kind(name=name)


def get(
    identifier: Any,
    loss: losses.Loss | None = None,
    output_shape: Sequence[int | None] | None = None,
    custom_objects: registry.CustomObjects | None = None,
) -> Metric:
    """Return the metric that a name, a config dict, a class, an object or a function stands for.

    Parameters
    ----------
    identifier
        A metric given by name carries that name in logs. ``"accuracy"`` and ``"acc"`` stand for
        the binary, sparse or categorical accuracy, whichever fits. A function
        ``f(y_true, y_pred)`` that returns one value a row is averaged.
    loss : Loss, optional
        The model's loss.
    output_shape : sequence, optional
        The shape of the model's output. With the loss it settles which accuracy fits; otherwise
        the first batch does.
    custom_objects : mapping of str to class, optional
        The caller's own classes, by name.

    Raises
    ------
    ValueError
        If the identifier is none of these, or names none that there is.

    Examples
    --------
    >>> metric = get("acc", loss=losses.get("sparse_categorical_crossentropy"), output_shape=(9, 3))
    >>> type(metric).__name__, metric.name
    ('SparseCategoricalAccuracy', 'acc')
    """
    if isinstance(identifier, str):
        if identifier.lower() in ("accuracy", "acc"):
            return _fitting_accuracy(identifier, loss, output_shape)
        metric = registry.resolve("metric", identifier, Metric, custom_objects)
        metric.name = identifier
        return metric
    if callable(identifier) and not isinstance(identifier, (type, Metric)):
        return MeanMetricWrapper(identifier)
    return registry.resolve("metric", identifier, Metric, custom_objects)


def serialize(metric: Metric) -> dict[str, Any]:
    """Return the metric as ``{"class_name": ..., "config": ...}``, without its state."""
    return registry.serialize(metric)


def deserialize(
    config: dict[str, Any], custom_objects: registry.CustomObjects | None = None
) -> Metric:
    """Build the metric that :func:`serialize` described."""
    return registry.resolve("metric", config, Metric, custom_objects)
