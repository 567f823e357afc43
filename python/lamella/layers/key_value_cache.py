"""`KeyValueCache`: keys and values of the steps that a layer of attention has seen."""

from __future__ import annotations

import numpy as np


class KeyValueCache:
    """Room for the keys and values of so many steps, filled from the front.

    Parameters
    ----------
    batch_size, max_length : int
    heads : int
        Of keys and values.
    key_size, value_size : int
        Of a head.

    Attributes
    ----------
    keys : np.ndarray (N, max_length, heads, key_size)
    values : np.ndarray (N, max_length, heads, value_size)
    length : int
        How many steps they hold; set it to a smaller number to take steps back.

    Examples
    --------
    >>> cache = KeyValueCache(1, 8, heads=2, key_size=4, value_size=4)
    >>> cache.append(np.ones((1, 3, 2, 4), np.float32), np.ones((1, 3, 2, 4), np.float32))
    >>> cache.length
    3
    """

    def __init__(
        self, batch_size: int, max_length: int, heads: int, key_size: int, value_size: int
    ) -> None:
        # Zeros: nobody reads behind the length, but no page holds what others left there.
        self.keys = np.zeros((batch_size, max_length, heads, key_size), np.float32)
        self.values = np.zeros((batch_size, max_length, heads, value_size), np.float32)
        self.length = 0

    @property
    def max_length(self) -> int:
        """How many steps there is room for."""
        return self.keys.shape[1]

    @property
    def lengths(self) -> np.ndarray:
        """`length` for each sequence of the batch, as `ops.attention` takes it."""
        return np.full(len(self.keys), self.length)

    def append(self, keys: np.ndarray, values: np.ndarray) -> None:
        """Add steps, (N, steps, heads, size) each.

        Raises
        ------
        ValueError
            There is no room for so many, or the batch size is another.
        """
        batch, steps = keys.shape[:2]
        if batch != len(self.keys):
            raise ValueError(f"cache expects a batch of {len(self.keys)}, got {batch}")
        end = self.length + steps
        if end > self.max_length:
            raise ValueError(
                f"cache has room for {self.max_length} steps and holds {self.length}, "
                f"got {steps} more"
            )
        self.keys[:, self.length : end] = keys
        self.values[:, self.length : end] = values
        self.length = end
