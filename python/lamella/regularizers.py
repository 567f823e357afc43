"""Penalties on weights, added to the loss: L1, L2 and both.

A regularizer gives its penalty when called and the penalty's gradient from ``gradient``; the
trainer adds the first to the loss and the second to the weight's gradient.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from lamella import arguments, registry

__all__ = ["L1", "L1L2", "L2", "Regularizer", "deserialize", "get", "serialize"]


class Regularizer:
    """Base class; a regularizer of your own overrides the three methods.

    Examples
    --------
    >>> class Quartic(Regularizer):
    ...     def __call__(self, w):
    ...         return float(np.sum(w**4))
    ...     def gradient(self, w):
    ...         return 4 * w**3
    >>> Quartic()(np.float32([1, 2]))
    17.0
    """

    def __call__(self, w: np.ndarray) -> float:
        """Return the penalty of the weight ``w`` (any shape, float32)."""
        raise NotImplementedError(f"{type(self).__name__} must override __call__(self, w)")

    def gradient(self, w: np.ndarray) -> np.ndarray:
        """Return the gradient of the penalty, in the shape and dtype of ``w``."""
        raise NotImplementedError(f"{type(self).__name__} must override gradient(self, w)")

    def get_config(self) -> dict[str, Any]:
        """Return the constructor's arguments."""
        return {}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Regularizer:
        """Build it from :meth:`get_config`'s result."""
        return cls(**config)


@registry.register("regularizer")
class L1L2(Regularizer):
    """``l1 * sum(|w|) + l2 * sum(w**2)``; at 0 the slope of ``|w|`` is taken as 0.

    Parameters
    ----------
    l1, l2 : float
        The factors, finite and not negative, 0 by default. The string ``"l1_l2"`` stands for
        0.01 each, as Keras documents.

    Examples
    --------
    >>> penalty = L1L2(l1=0.5, l2=2.0)
    >>> w = np.float32([-1, 0, 3])
    >>> penalty(w)
    22.0
    >>> penalty.gradient(w)
    array([-4.5,  0. , 12.5], dtype=float32)
    """

    def __init__(self, l1: float = 0.0, l2: float = 0.0) -> None:
        self.l1 = arguments.number(type(self).__name__, "l1", 0.0 if l1 is None else l1, 0)
        self.l2 = arguments.number(type(self).__name__, "l2", 0.0 if l2 is None else l2, 0)

    def __call__(self, w: np.ndarray) -> float:
        # float64 sums: the penalty of a large layer must not depend on how NumPy blocks the sum.
        penalty = 0.0
        if self.l1:
            penalty += self.l1 * float(np.sum(np.abs(w), dtype=np.float64))
        if self.l2:
            penalty += self.l2 * float(np.sum(np.square(w), dtype=np.float64))
        return penalty

    def gradient(self, w: np.ndarray) -> np.ndarray:
        gradient = np.multiply(w, np.float32(2 * self.l2))
        if self.l1:
            gradient += np.float32(self.l1) * np.sign(w)
        return gradient

    def get_config(self) -> dict[str, Any]:
        return {"l1": self.l1, "l2": self.l2}


@registry.register("regularizer")
class L1(L1L2):
    """``l1 * sum(|w|)``.

    Parameters
    ----------
    l1 : float
        The factor, finite and not negative.

    Examples
    --------
    >>> L1(0.5)(np.float32([-1, 3]))
    2.0
    """

    def __init__(self, l1: float = 0.01) -> None:
        super().__init__(l1=0.01 if l1 is None else l1)

    def get_config(self) -> dict[str, Any]:
        return {"l1": self.l1}


@registry.register("regularizer")
class L2(L1L2):
    """``l2 * sum(w**2)``.

    Parameters
    ----------
    l2 : float
        The factor, finite and not negative.

    Examples
    --------
    >>> L2(0.5)(np.float32([-1, 3]))
    5.0
    """

    def __init__(self, l2: float = 0.01) -> None:
        super().__init__(l2=0.01 if l2 is None else l2)

    def get_config(self) -> dict[str, Any]:
        return {"l2": self.l2}


def get(
    identifier: Any, custom_objects: registry.CustomObjects | None = None
) -> Regularizer | None:
    """Return the regularizer that a name, a config dict, a class or an object stands for.

    ``None`` stays ``None``: no penalty.

    Raises
    ------
    ValueError
        If the identifier is not one of these, or names none that there is.

    Examples
    --------
    >>> get("l2").l2
    0.01
    """
    if identifier is None:
        return None
    if isinstance(identifier, str) and identifier.lower() in ("l1_l2", "l1l2"):
        return L1L2(l1=0.01, l2=0.01)  # a penalty of 0, L1L2's own default, is never what is meant
    return registry.resolve("regularizer", identifier, Regularizer, custom_objects)


def serialize(regularizer: Regularizer) -> dict[str, Any]:
    """Return the regularizer as ``{"class_name": ..., "config": ...}``."""
    return registry.serialize(regularizer)


def deserialize(
    config: dict[str, Any], custom_objects: registry.CustomObjects | None = None
) -> Regularizer:
    """Build the regularizer that :func:`serialize` described."""
    return registry.deserialize("regularizer", config, custom_objects)
