"""First values of the weights: Keras 3's initializers, by Keras' names.

An initializer is called with a shape and returns a new float32 array. With an integer ``seed`` it
returns the same values at every call; without one it draws from the global generator, which
``lamella.utils.set_random_seed`` restarts.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from lamella import registry
from lamella.initializers.base import Constant, Identity, Initializer, Ones, Zeros
from lamella.initializers.random import (
    GlorotNormal,
    GlorotUniform,
    HeNormal,
    HeUniform,
    LecunNormal,
    LecunUniform,
    Orthogonal,
    RandomNormal,
    RandomUniform,
    TruncatedNormal,
    VarianceScaling,
    compute_fans,
)

__all__ = [
    "Constant",
    "GlorotNormal",
    "GlorotUniform",
    "HeNormal",
    "HeUniform",
    "Identity",
    "Initializer",
    "LecunNormal",
    "LecunUniform",
    "Ones",
    "Orthogonal",
    "RandomNormal",
    "RandomUniform",
    "TruncatedNormal",
    "VarianceScaling",
    "Zeros",
    "compute_fans",
    "deserialize",
    "get",
    "serialize",
]


def get(identifier: Any, custom_objects: registry.CustomObjects | None = None) -> Any:
    """Return the initializer that a name, config dict, class, object or function stands for.

    A function ``f(shape, dtype) -> array`` serves as it is, but cannot be saved with a model.
    ``None`` stays ``None``.

    Raises
    ------
    ValueError
        If the identifier is none of these, or names none that there is.

    Examples
    --------
    >>> get("he_normal").get_config()
    {'seed': None, 'input_axes': None, 'output_axes': None}
    """
    plain_function = callable(identifier) and not isinstance(identifier, type)
    if identifier is None or plain_function:
        return identifier
    return registry.resolve("initializer", identifier, Initializer, custom_objects)


def serialize(initializer: Initializer) -> dict[str, Any]:
    """Return the initializer as ``{"class_name": ..., "config": ...}``."""
    return registry.serialize(initializer)


def deserialize(
    config: dict[str, Any], custom_objects: registry.CustomObjects | None = None
) -> Callable[..., np.ndarray]:
    """Build the initializer that :func:`serialize` described."""
    return registry.deserialize("initializer", config, custom_objects)
