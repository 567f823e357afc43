"""Checks of constructor arguments; every message names the layer and the argument."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from lamella.layers.weighted import Weighted


def integer(layer: Weighted, name: str, value: Any, minimum: int = 1) -> int:
    """Return ``value`` as an int of at least ``minimum``."""
    if not _is_integer(value) or value < minimum:
        raise layer.error(f"{name} expects an integer >= {minimum}, got {value!r}")
    return operator.index(value)


def integers(
    layer: Weighted, name: str, value: Any, count: int, minimum: int = 1
) -> tuple[int, ...]:
    """Return an integer, or a sequence of ``count`` integers, as a tuple of ``count``."""
    values = (value,) * count if _is_integer(value) else value
    if (
        isinstance(values, str)
        or not hasattr(values, "__iter__")
        or len(values := tuple(values)) != count
        or not all(_is_integer(v) and v >= minimum for v in values)
    ):
        plural = f" or {count} of them" if count > 1 else ""
        raise layer.error(f"{name} expects an integer >= {minimum}{plural}, got {value!r}")
    return tuple(operator.index(v) for v in values)


def flag(layer: Weighted, name: str, value: Any) -> bool:
    """Return a bool."""
    if not isinstance(value, (bool, np.bool_)):
        raise layer.error(f"{name} expects True or False, got {value!r}")
    return bool(value)


def choice(layer: Weighted, name: str, value: Any, choices: Sequence[str]) -> str:
    """Return one of the strings; case does not matter, as in Keras."""
    if not isinstance(value, str) or value.lower() not in choices:
        listed = ", ".join(repr(c) for c in choices)
        raise layer.error(f"{name} expects one of {listed}, got {value!r}")
    return value.lower()


def channels_last(layer: Weighted, data_format: Any) -> str:
    """Return "channels_last", the only layout there is."""
    if data_format not in (None, "channels_last"):
        raise layer.error(
            f"data_format={data_format!r} is not supported: use 'channels_last' "
            "(the channels are the last axis) and transpose the data once"
        )
    return "channels_last"


def reject(layer: Weighted, **arguments: Any) -> None:
    """Raise if an argument that Keras has and lamella does not is anything but None or False."""
    for name, value in arguments.items():
        if value is not None and value is not False:
            raise layer.error(f"{name} is not supported: leave it out, got {value!r}")


def _is_integer(value: Any) -> bool:
    return hasattr(value, "__index__") and not isinstance(value, (bool, np.bool_, np.ndarray))


def is_float32(dtype: Any) -> bool:
    """Return whether a ``dtype`` argument asks for float32; None does."""
    if isinstance(dtype, dict):  # Keras writes {"class_name": "DTypePolicy", "config": {...}}
        dtype = dtype.get("config", {}).get("name")
    try:
        return dtype is None or np.dtype(dtype) == np.float32
    except TypeError:
        return False
