"""Losses, by Keras 3's names, and as functions that return one loss a row.

A loss gives its value, and with ``value_and_gradient`` its gradient to the predictions too; the
cross-entropies come from the kernels of ``lamella.ops``. For a loss of your own see :class:`Loss`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from lamella import registry
from lamella.losses.base import Loss
from lamella.losses.crossentropy import (
    BinaryCrossentropy,
    CategoricalCrossentropy,
    SparseCategoricalCrossentropy,
)
from lamella.losses.regression import Huber, MeanAbsoluteError, MeanSquaredError

__all__ = [
    "BinaryCrossentropy",
    "CategoricalCrossentropy",
    "Huber",
    "Loss",
    "MeanAbsoluteError",
    "MeanSquaredError",
    "SparseCategoricalCrossentropy",
    "binary_crossentropy",
    "categorical_crossentropy",
    "deserialize",
    "get",
    "huber",
    "mean_absolute_error",
    "mean_squared_error",
    "serialize",
    "sparse_categorical_crossentropy",
]


def sparse_categorical_crossentropy(
    y_true: Any,
    y_pred: Any,
    from_logits: bool = False,
    ignore_class: int | None = None,
    axis: int = -1,
) -> np.ndarray:
    """Return :class:`SparseCategoricalCrossentropy`'s losses, one a row.

    Examples
    --------
    >>> sparse_categorical_crossentropy([1, 2], [[0.1, 0.9, 0.0], [0.1, 0.8, 0.1]]).round(3)
    array([0.105, 2.303], dtype=float32)
    """
    return SparseCategoricalCrossentropy(from_logits, ignore_class, axis=axis).call(y_true, y_pred)


def categorical_crossentropy(
    y_true: Any,
    y_pred: Any,
    from_logits: bool = False,
    label_smoothing: float = 0.0,
    axis: int = -1,
) -> np.ndarray:
    """Return :class:`CategoricalCrossentropy`'s losses, one a row."""
    return CategoricalCrossentropy(from_logits, label_smoothing, axis).call(y_true, y_pred)


def binary_crossentropy(
    y_true: Any,
    y_pred: Any,
    from_logits: bool = False,
    label_smoothing: float = 0.0,
    axis: int = -1,
) -> np.ndarray:
    """Return :class:`BinaryCrossentropy`'s losses, one a row."""
    return BinaryCrossentropy(from_logits, label_smoothing, axis).call(y_true, y_pred)


def mean_squared_error(y_true: Any, y_pred: Any) -> np.ndarray:
    """Return :class:`MeanSquaredError`'s losses, one a row."""
    return MeanSquaredError().call(y_true, y_pred)


def mean_absolute_error(y_true: Any, y_pred: Any) -> np.ndarray:
    """Return :class:`MeanAbsoluteError`'s losses, one a row."""
    return MeanAbsoluteError().call(y_true, y_pred)


def huber(y_true: Any, y_pred: Any, delta: float = 1.0) -> np.ndarray:
    """Return :class:`Huber`'s losses, one a row."""
    return Huber(delta).call(y_true, y_pred)


_CLASSES: dict[Callable[..., np.ndarray], type[Loss]] = {
    sparse_categorical_crossentropy: SparseCategoricalCrossentropy,
    categorical_crossentropy: CategoricalCrossentropy,
    binary_crossentropy: BinaryCrossentropy,
    mean_squared_error: MeanSquaredError,
    mean_absolute_error: MeanAbsoluteError,
    huber: Huber,
}


def get(identifier: Any, custom_objects: registry.CustomObjects | None = None) -> Loss | None:
    """Return the loss that a name, a config dict, a class, an object or a function stands for.

    Of functions only those of this module serve: any other has no gradient. ``None`` stays
    ``None``.

    Raises
    ------
    ValueError
        If the identifier is none of these, or names none that there is.

    Examples
    --------
    >>> type(get("mse")).__name__
    'MeanSquaredError'
    """
    if identifier is None:
        return None
    is_function = callable(identifier) and not isinstance(identifier, (type, Loss))
    if is_function and identifier not in _CLASSES:
        raise ValueError(
            f"a plain function has no gradient, so {identifier!r} cannot be a loss; subclass "
            "lamella.losses.Loss and override rows_and_gradient(self, y_true, y_pred) -> "
            "(one loss a row, its gradient in the shape of y_pred)"
        )
    loss = registry.resolve(
        "loss", _CLASSES[identifier] if is_function else identifier, Loss, custom_objects
    )
    kind = type(loss)
    if kind.rows_and_gradient is Loss.rows_and_gradient and kind._rows is Loss._rows:
        raise ValueError(
            f"{kind.__name__} must override rows_and_gradient(self, y_true, y_pred) -> "
            "(one loss a row, its gradient in the shape of y_pred)"
        )
    return loss


def serialize(loss: Loss) -> dict[str, Any]:
    """Return the loss as ``{"class_name": ..., "config": ...}``."""
    return registry.serialize(loss)


def deserialize(
    config: dict[str, Any], custom_objects: registry.CustomObjects | None = None
) -> Loss:
    """Build the loss that :func:`serialize` described."""
    return registry.resolve("loss", config, Loss, custom_objects)
