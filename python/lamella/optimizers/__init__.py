"""Optimizers, by Keras 3's names: SGD, RMSprop, Adam, AdamW.

The arithmetic is in the kernels ``ops.sgd_``, ``ops.rmsprop_`` and ``ops.adam_``; here are the
arguments, clipping, learning-rate schedules and the state that is saved with a model.
"""

from __future__ import annotations

from typing import Any

from lamella import registry
from lamella.optimizers import schedules
from lamella.optimizers.adam import Adam, AdamW
from lamella.optimizers.base import Optimizer
from lamella.optimizers.rmsprop import RMSprop
from lamella.optimizers.sgd import SGD

__all__ = [
    "SGD",
    "Adam",
    "AdamW",
    "Optimizer",
    "RMSprop",
    "deserialize",
    "get",
    "schedules",
    "serialize",
]


def get(identifier: Any, custom_objects: registry.CustomObjects | None = None) -> Optimizer:
    """Return the optimizer that a name, a config dict, a class or an object stands for.

    Raises
    ------
    ValueError
        If the identifier is none of these, or names none that there is.

    Examples
    --------
    >>> get("adam").learning_rate
    0.001
    >>> get({"class_name": "SGD", "config": {"momentum": 0.9}}).momentum
    0.9
    """
    return registry.resolve("optimizer", identifier, Optimizer, custom_objects)


def serialize(optimizer: Optimizer) -> dict[str, Any]:
    """Return the optimizer as ``{"class_name": ..., "config": ...}``, without its state."""
    return registry.serialize(optimizer)


def deserialize(
    config: dict[str, Any], custom_objects: registry.CustomObjects | None = None
) -> Optimizer:
    """Build the optimizer that :func:`serialize` described."""
    return registry.resolve("optimizer", config, Optimizer, custom_objects)
