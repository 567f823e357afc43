"""Checks of arguments: each returns the value, or raises naming the owner and the argument."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np


def number(
    owner: str,
    name: str,
    value: Any,
    low: float = -math.inf,
    high: float = math.inf,
    *,
    exclude: Sequence[float] = (),
) -> float:
    """Return ``value`` as a finite float in [low, high] that is none of ``exclude``.

    Raises
    ------
    ValueError
        If it is anything else; True and False are no numbers here.

    Examples
    --------
    >>> number("Adam", "beta_1", 1.0, 0, 1, exclude=[1])
    Traceback (most recent call last):
        ...
    ValueError: Adam: beta_1 expects a number in [0, 1), got 1.0
    """
    is_number = isinstance(value, (int, float, np.integer, np.floating))
    if (
        is_number
        and not isinstance(value, bool)
        and math.isfinite(value)
        and low <= value <= high
        and value not in exclude
    ):
        return float(value)
    left = "(" if low in exclude else "["
    right = ")" if high in exclude else "]"
    if math.isinf(low) and math.isinf(high):
        span = "a finite number"
    elif math.isinf(high):
        span = f"a finite number {'>' if low in exclude else '>='} {low:g}"
    else:
        span = f"a number in {left}{low:g}, {high:g}{right}"
    raise ValueError(f"{owner}: {name} expects {span}, got {value!r}")


def choice(owner: str, name: str, value: Any, choices: Sequence[Any]) -> Any:
    """Return ``value``, one of ``choices``.

    Raises
    ------
    ValueError
        If it is none of them.
    """
    for known in choices:
        if type(value) is type(known) and value == known:
            return known
    listed = ", ".join(repr(c) for c in choices)
    raise ValueError(f"{owner}: {name} expects one of {listed}, got {value!r}")


def float32(owner: str, dtype: Any) -> None:
    """Accept float32, or None for it, as a ``dtype`` argument.

    Raises
    ------
    ValueError
        If it is another dtype.
    """
    try:
        known = dtype is None or np.dtype(dtype) == np.float32
    except TypeError:
        known = False
    if not known:
        raise ValueError(f"{owner}: dtype expects 'float32', got {dtype!r}")
