"""What the tests of recurrent layers share: sizes, data, a mask, comparisons."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from lamella import layers

TOLERANCE = {"rtol": 1e-4, "atol": 2e-5}
KINDS = ("SimpleRNN", "LSTM", "GRU")
each_kind = pytest.mark.parametrize("kind", KINDS)
N, T, D, U = 3, 5, 4, 6
MASK = np.array([[1, 1, 1, 0, 0], [0, 1, 0, 1, 1], [0, 0, 0, 0, 0]], bool)


def make(kind: str, units: int = U, module: Any = layers, **options: Any) -> Any:
    return getattr(module, kind)(units, **options)


def sequences(rng: np.random.Generator, shape: Any = (N, T, D)) -> np.ndarray:
    return rng.standard_normal(shape).astype(np.float32)


def as_list(value: Any) -> list[Any]:
    return list(value) if isinstance(value, (list, tuple)) else [value]


def assert_alike(mine: Any, other: Any) -> None:
    mine, other = as_list(mine), as_list(other)
    assert len(mine) == len(other)
    for a, b in zip(mine, other, strict=True):
        np.testing.assert_allclose(a, np.asarray(b), **TOLERANCE)
