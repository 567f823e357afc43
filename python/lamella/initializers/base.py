"""The initializer interface, its argument checks, and the initializers without randomness."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from lamella import arguments, registry

Shape = Sequence[int]


def _check_shape(shape: Shape, owner: str) -> tuple[int, ...]:
    try:
        sizes = tuple(int(size) for size in shape)
    except TypeError:
        sizes = (-1,)
    if any(size < 0 for size in sizes):
        raise ValueError(f"{owner}: shape expects a tuple of sizes >= 0, got {shape!r}")
    return sizes


class Initializer:
    """Base class; an initializer of your own overrides ``__call__``.

    Examples
    --------
    >>> class Eye(Initializer):
    ...     def __call__(self, shape, dtype=np.float32):
    ...         return np.eye(*shape, dtype=dtype)
    >>> Eye()((1, 2))
    array([[1., 0.]], dtype=float32)
    """

    def __call__(self, shape: Shape, dtype: Any = np.float32) -> np.ndarray:
        """Return a new float32 array of ``shape``."""
        name = type(self).__name__
        arguments.float32(name, dtype)
        values = self._values(_check_shape(shape, name))
        return np.asarray(values, dtype=np.float32, order="C")

    def _values(self, shape: tuple[int, ...]) -> np.ndarray:
        raise NotImplementedError(f"{type(self).__name__} must override __call__(shape, dtype)")

    def get_config(self) -> dict[str, Any]:
        """Return the constructor's arguments."""
        return {}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Initializer:
        """Build it from :meth:`get_config`'s result."""
        return cls(**config)


@registry.register("initializer", "zero")
class Zeros(Initializer):
    """All 0."""

    def _values(self, shape: tuple[int, ...]) -> np.ndarray:
        return np.zeros(shape, np.float32)


@registry.register("initializer", "one")
class Ones(Initializer):
    """All 1."""

    def _values(self, shape: tuple[int, ...]) -> np.ndarray:
        return np.ones(shape, np.float32)


@registry.register("initializer")
class Constant(Initializer):
    """All ``value``, a finite number.

    Examples
    --------
    >>> Constant(0.5)((2,))
    array([0.5, 0.5], dtype=float32)
    """

    def __init__(self, value: float = 0.0) -> None:
        self.value = arguments.number("Constant", "value", value)

    def _values(self, shape: tuple[int, ...]) -> np.ndarray:
        return np.full(shape, self.value, np.float32)

    def get_config(self) -> dict[str, Any]:
        return {"value": self.value}


@registry.register("initializer", "IdentityInitializer")
class Identity(Initializer):
    """``gain`` on the diagonal, 0 elsewhere; for matrices only.

    Raises
    ------
    ValueError
        If called with a shape that has not two axes.
    """

    def __init__(self, gain: float = 1.0) -> None:
        self.gain = arguments.number("Identity", "gain", gain)

    def _values(self, shape: tuple[int, ...]) -> np.ndarray:
        if len(shape) != 2:
            raise ValueError(f"Identity: shape expects two axes, got {shape}")
        return np.float32(self.gain) * np.eye(*shape, dtype=np.float32)

    def get_config(self) -> dict[str, Any]:
        return {"gain": self.gain}
