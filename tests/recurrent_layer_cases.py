"""What the tests of recurrent layers share: sizes, data, a mask, comparisons, differences."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from lamella import layers

TOLERANCE = {"rtol": 1e-4, "atol": 2e-5}
KINDS = ("SimpleRNN", "LSTM", "GRU")
each_kind = pytest.mark.parametrize("kind", KINDS)
N, T, D, U = 3, 5, 4, 6
STEP = 1e-2
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


def check_gradients(
    layer: Any, x: Any, rng: np.random.Generator, width: float = STEP, **options: Any
) -> None:
    """Finite differences along random directions, for inputs, states and weights."""
    y, pullback = layer.forward(x, False, **options)
    dy = [rng.standard_normal(each.shape).astype(np.float32) for each in as_list(y)]

    def loss(inputs: Any) -> float:
        results = as_list(layer.forward(inputs, False, **options)[0])
        return sum(
            float(np.sum(a.astype(np.float64) * b)) for a, b in zip(results, dy, strict=True)
        )

    for weight in layer.weights:
        weight.reset_gradient()
    result = pullback(tuple(dy) if isinstance(y, tuple) else dy[0])
    inputs = as_list(x)
    pairs = list(zip(inputs, as_list(result), strict=True))
    for position, (array, gradient) in enumerate(pairs):
        direction = rng.choice([-1.0, 1.0], array.shape).astype(np.float32)
        sides = []
        for sign in (width, -width):
            moved = list(inputs)
            moved[position] = array + np.float32(sign) * direction
            sides.append(loss(moved if isinstance(x, list) else moved[0]))
        slope = (sides[0] - sides[1]) / (2 * width)
        assert slope == pytest.approx(float((gradient * direction).sum()), rel=1e-2, abs=2e-2)
    for weight in layer.trainable_weights:
        value = weight.numpy()
        direction = rng.choice([-1.0, 1.0], weight.shape).astype(np.float32)
        sides = []
        for sign in (width, -width):
            weight.assign(value + np.float32(sign) * direction)
            sides.append(loss(x))
        weight.assign(value)
        slope = (sides[0] - sides[1]) / (2 * width)
        expected = float((weight.gradient * direction).sum())
        assert slope == pytest.approx(expected, rel=1e-2, abs=2e-2), weight.name
