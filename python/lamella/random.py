"""The one source of randomness: initial weights, shuffling and dropout draw from here.

:func:`set_seed` (also ``lamella.utils.set_random_seed``) makes everything after it repeatable.
"""

from __future__ import annotations

import operator
from typing import Any

import numpy as np

SEED_LIMIT = 2**64

_generator = np.random.Generator(np.random.PCG64())


def check_seed(seed: Any, owner: str) -> int:
    """Return ``seed`` as an int in [0, 2**64), or raise naming ``owner``.

    Raises
    ------
    TypeError
        If it is not an integer.
    ValueError
        If it is out of range.
    """
    if isinstance(seed, (bool, np.bool_)) or not hasattr(seed, "__index__"):
        raise TypeError(f"{owner}: seed expects an int or None, got {seed!r}")
    value = operator.index(seed)
    if not 0 <= value < SEED_LIMIT:
        raise ValueError(f"{owner}: seed expects an int in [0, 2**64), got {value}")
    return value


def set_seed(seed: int) -> None:
    """Restart the global generator, so that what is drawn from now on can be drawn again.

    Parameters
    ----------
    seed : int
        In [0, 2**64).

    Examples
    --------
    >>> set_seed(7)
    >>> first = next_seed()
    >>> set_seed(7)
    >>> next_seed() == first
    True
    """
    global _generator
    _generator = np.random.Generator(np.random.PCG64(check_seed(seed, "set_seed")))


def generator() -> np.random.Generator:
    """Return the global NumPy generator."""
    return _generator


def next_seed() -> int:
    """Draw a seed in [0, 2**64) from the global generator, for one call of a random op."""
    return int(_generator.bit_generator.random_raw())


class SeedGenerator:
    """A stream of seeds of its own, for a layer or an initializer.

    Parameters
    ----------
    seed : int, optional
        Where the stream starts. Without it the seeds come from the global generator, so that
        :func:`set_seed` governs them.

    Examples
    --------
    >>> a, b = SeedGenerator(3), SeedGenerator(3)
    >>> a.next() == b.next()
    True
    >>> a.next() == a.next()
    False
    """

    def __init__(self, seed: int | None = None) -> None:
        self.seed = None if seed is None else check_seed(seed, "SeedGenerator")
        self._bits = None if self.seed is None else np.random.PCG64(self.seed)

    def next(self) -> int:
        """Return the next seed, an int in [0, 2**64)."""
        return next_seed() if self._bits is None else int(self._bits.random_raw())

    def get_config(self) -> dict[str, Any]:
        """Return ``{"seed": ...}``: the start of the stream, not its position."""
        return {"seed": self.seed}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> SeedGenerator:
        """Build it from :meth:`get_config`'s result."""
        return cls(**config)
