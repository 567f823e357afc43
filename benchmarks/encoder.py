"""What all sides of the encoder network share: its weights by layer, its positions, its options."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeVar

import numpy as np

# With relu a product that rounds to the other side of 0 would turn a gradient on or off, which
# among 2^24 hidden features happens; gelu's derivative has no step.
ACTIVATION = "gelu"
EPSILON = 1e-5

T = TypeVar("T")


def by_layer(arguments: Mapping[str, T]) -> list[dict[str, T]]:
    """What belongs to each layer of those that have numbers: query_kernel_2 to the second, say."""
    layers: dict[str, dict[str, T]] = {}
    for name, value in arguments.items():
        kind, _, number = name.rpartition("_")
        if number.isdigit():
            layers.setdefault(number, {})[kind] = value
    return list(layers.values())


def positions(steps: int, width: int) -> np.ndarray:
    """The sines and cosines (steps, width) that are added to embedded words (Vaswani et al. 2017).

    In channels 2 i and 2 i + 1 those of ``t / 10000 ** (2 i / width)`` at step t.
    """
    angles = np.arange(steps)[:, np.newaxis] / 10000 ** (np.arange(0, width, 2) / width)
    pairs = np.stack([np.sin(angles), np.cos(angles)], axis=-1)
    return pairs.reshape(steps, -1)[:, :width].astype(np.float32)
