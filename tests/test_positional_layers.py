"""PositionalEncoding and RotaryEmbedding: formulas, any length and start, graphs and files."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lamella.layers import (
    Dense,
    Embedding,
    GlobalAveragePooling1D,
    Input,
    PositionalEncoding,
    RotaryEmbedding,
)
from lamella.models import Model, Sequential, clone_model, load_model
from lamella.optimizers import Adam

EACH = [PositionalEncoding, RotaryEmbedding]
each_layer = pytest.mark.parametrize("cls", EACH)


def encoding(steps: Any, width: int, max_wavelength: float = 10000.0) -> np.ndarray:
    """The article's formula, number by number."""
    rows = [
        [
            (np.cos if channel % 2 else np.sin)(t / max_wavelength ** (2 * (channel // 2) / width))
            for channel in range(width)
        ]
        for t in steps
    ]
    return np.array(rows).reshape(-1, width)


def turned(x: np.ndarray, steps: Any, max_wavelength: float = 10000.0) -> np.ndarray:
    """Pairs as complex numbers; x (N, S, A, E)."""
    half = x.shape[-1] // 2
    z = x[..., :half] + 1j * x[..., half:].astype(np.float64)
    frequency = max_wavelength ** -(2 * np.arange(half) / x.shape[-1])
    z = z * np.exp(1j * np.asarray(steps)[:, None] * frequency)[:, None]
    return np.concatenate([z.real, z.imag], axis=-1)


# -- PositionalEncoding ---------------------------------------------------------------------------


@pytest.mark.parametrize("width", [1, 2, 5, 8, 33])
@pytest.mark.parametrize("options", [{}, {"max_wavelength": 30.0}])
def test_the_articles_sinusoids(width: int, options: Any, rng: np.random.Generator) -> None:
    layer = PositionalEncoding(**options)
    for steps in (7, 3, 300, 1):  # longer than the first, too
        x = rng.standard_normal((2, steps, width)).astype(np.float32)
        expected = x + encoding(range(steps), width, **options)
        np.testing.assert_allclose(layer(x), expected, rtol=0, atol=5e-7)
    assert layer.weights == [] and layer.count_params() == 0
    _, pullback = layer.forward(x, True)
    dy = rng.standard_normal(x.shape).astype(np.float32)
    np.testing.assert_array_equal(pullback(dy), dy)


def test_far_positions_are_as_exact(rng: np.random.Generator) -> None:
    x = np.zeros((1, 3, 6), np.float32)
    for start in (0, 5, 60, 63, 64, 4094, 4096, 5000, 10**6, 2**40):
        expected = encoding(range(start, start + 3), 6)[None]
        y = PositionalEncoding()(x, start_index=start)
        np.testing.assert_allclose(y, expected, rtol=0, atol=3e-7)


# -- RotaryEmbedding ------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [{}, {"max_wavelength": 30.0}])
def test_rotation_of_pairs(options: Any, rng: np.random.Generator) -> None:
    layer = RotaryEmbedding(**options)
    for steps in (5, 2, 200):
        x = rng.standard_normal((2, steps, 3, 8)).astype(np.float32)
        expected = turned(x, np.arange(steps), **options)
        np.testing.assert_allclose(layer(x), expected, rtol=0, atol=2e-6)
        np.testing.assert_array_equal(layer(x)[:, :, 1], layer(x[:, :, 1]))
    y, pullback = layer.forward(x, True)
    np.testing.assert_allclose(pullback(y), x, rtol=0, atol=2e-6)
    scaled = RotaryEmbedding(scaling_factor=4.0, **options)
    expected = turned(x, np.arange(200) / 4, **options)
    np.testing.assert_allclose(scaled(x), expected, rtol=0, atol=2e-6)


def test_products_depend_on_the_distance_alone(rng: np.random.Generator) -> None:
    layer = RotaryEmbedding()
    query, key = rng.standard_normal((2, 1, 1, 16))
    steps = np.broadcast_to(query, (1, 40, 16)), np.broadcast_to(key, (1, 40, 16))
    products = np.einsum("nie,nje->ij", layer(steps[0]), layer(steps[1]))
    for distance in (-30, -1, 0, 7):
        diagonal = np.diagonal(products, distance)
        np.testing.assert_allclose(diagonal, diagonal[0], rtol=0, atol=3e-5)


@pytest.mark.parametrize(
    ("shape", "axes"),
    [
        ((2, 3, 5, 6), {"sequence_axis": 2}),
        ((2, 3, 5, 6), {"sequence_axis": -2, "feature_axis": 3}),
        ((2, 6, 5), {"sequence_axis": 2, "feature_axis": 1}),
        ((2, 6, 3, 5), {"sequence_axis": -1, "feature_axis": 1}),
        ((2, 5, 3, 2, 6), {}),
    ],
    ids=str,
)
def test_axes_elsewhere(shape: Any, axes: Any, rng: np.random.Generator) -> None:
    layer = RotaryEmbedding(**axes)
    x = rng.standard_normal(shape).astype(np.float32)
    places = axes.get("sequence_axis", 1), axes.get("feature_axis", -1)
    moved = np.moveaxis(x, places, (1, -1))
    expected = turned(moved.reshape(2, 5, -1, 6), np.arange(5)).reshape(moved.shape)
    expected = np.moveaxis(expected, (1, -1), places)
    y, pullback = layer.forward(x, False)
    np.testing.assert_allclose(y, expected, rtol=0, atol=1e-6)
    assert y.flags.c_contiguous and y.shape == shape
    np.testing.assert_allclose(pullback(y), x, rtol=0, atol=1e-6)


# -- both -----------------------------------------------------------------------------------------


@each_layer
def test_a_sequence_step_by_step_is_the_whole(cls: type, rng: np.random.Generator) -> None:
    x = rng.standard_normal((2, 70, 6)).astype(np.float32)
    whole = cls()(x)
    layer = cls()
    for t in range(70):
        np.testing.assert_array_equal(layer(x[:, t : t + 1], start_index=t), whole[:, t : t + 1])
    np.testing.assert_array_equal(layer(x[:, 9:20], start_index=9), whole[:, 9:20])
    # Far out, where only the steps around are kept.
    far = cls()(x, start_index=10**5)
    for t in (0, 1, 63, 64, 69):
        step = layer(x[:, t : t + 1], start_index=10**5 + t)
        np.testing.assert_array_equal(step, far[:, t : t + 1])


@each_layer
def test_memory_is_that_of_the_steps(cls: type) -> None:
    layer = cls()
    x = np.zeros((1, 1, 4), np.float32)
    for start in (0, 1, 4000, 10**6, 10**9, 2**52):
        layer(x, start_index=start)
        (table,) = layer._tables.values()
        assert all(len(rows) <= 8192 for rows in table._kept[1])
    layer(np.zeros((1, 20_000, 4), np.float32))
    assert all(20_000 <= len(rows) <= 2**15 for rows in table._kept[1])


@each_layer
def test_a_graph_keeps_the_start(cls: type, tmp_path: Path, rng: np.random.Generator) -> None:
    x = rng.standard_normal((2, 5, 6)).astype(np.float32)
    inputs = Input((None, 6))
    layer = cls(name="p")
    model = Model(inputs, layer(layer(inputs), start_index=40))
    assert model.output_shape == (None, None, 6)
    expected = layer(layer(x), start_index=40)
    path = tmp_path / "m.safetensors"
    model.save(path)
    for each in (model, load_model(path), clone_model(model)):
        np.testing.assert_array_equal(each.predict(x, verbose=0), expected)
    assert model.get_config()["calls"][1]["options"] == {"start_index": 40}


@each_layer
def test_it_trains_within_a_model_and_masks_go_through(cls: type, rng: np.random.Generator) -> None:
    x = rng.integers(1, 4, (64, 6))
    x[:, 4:] *= rng.random((64, 2)) < 0.5
    model = Sequential([Embedding(4, 8, mask_zero=True), cls(), Dense(16, activation="relu")])
    model.add(GlobalAveragePooling1D())
    model.add(Dense(1))
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # the mask does not end at the layer
        model.compile(Adam(0.05), "mse")
        losses = model.fit(x, x[:, :1], epochs=40, verbose=0).history["loss"]
    assert losses[-1] < losses[0] / 2
    mask = np.ones((2, 3), bool)
    assert cls().compute_mask(np.zeros((2, 3, 4)), mask) is mask


@each_layer
def test_config(cls: type) -> None:
    arguments: dict[str, Any] = {"max_wavelength": 77.5}
    if cls is RotaryEmbedding:
        arguments.update(scaling_factor=2.0, sequence_axis=2, feature_axis=-2)
    layer = cls(**arguments, name="p")
    config = json.loads(json.dumps(layer.get_config()))
    assert {**config, **arguments} == config
    assert json.loads(json.dumps(cls.from_config(config).get_config())) == config


@each_layer
@pytest.mark.parametrize("value", [0, -1.0, np.inf, np.nan, "10", None, True])
def test_wavelengths_it_refuses(cls: type, value: Any) -> None:
    message = f"{cls.__name__} layer 'p': max_wavelength expects a finite number > 0"
    with pytest.raises(ValueError, match=message):
        cls(max_wavelength=value, name="p")


@each_layer
@pytest.mark.parametrize("value", [-1, 1.5, "2", None, True, 2**52 + 1])
def test_starts_it_refuses(cls: type, value: Any) -> None:
    for x in (np.ones((1, 2, 4)), Input((2, 4))):
        with pytest.raises(ValueError, match=f"{cls.__name__} layer 'p': start_index expects"):
            cls(name="p")(x, start_index=value)


@pytest.mark.parametrize(
    ("cls", "arguments", "shape", "message"),
    [
        (PositionalEncoding, {}, (2, 3), r"expects an input of shape \(batch, steps, features\)"),
        (PositionalEncoding, {}, (2, 3, 4, 5), "expects an input of shape"),
        (RotaryEmbedding, {}, (2, 3, 5), "expects an even number of features, got an input of"),
        (RotaryEmbedding, {}, (2, 3, 0), "expects an even number of features"),
        (RotaryEmbedding, {}, (2, 4), "sequence_axis=1 and feature_axis=-1 are not two axes of an"),
        (RotaryEmbedding, {"sequence_axis": 3}, (2, 3, 4), "sequence_axis=3 and feature_axis=-1"),
        (RotaryEmbedding, {"sequence_axis": -3}, (2, 3, 4), "sequence_axis=-3 and feature_axis=-1"),
        (RotaryEmbedding, {"sequence_axis": 0}, None, "sequence_axis expects an integer other"),
        (RotaryEmbedding, {"feature_axis": 1.0}, None, "feature_axis expects an integer other"),
        (RotaryEmbedding, {"feature_axis": True}, None, "feature_axis expects an integer other"),
        (RotaryEmbedding, {"scaling_factor": 0}, None, "scaling_factor expects a finite number >"),
    ],
    ids=str,
)
def test_what_they_refuse(cls: Any, arguments: Any, shape: Any, message: str) -> None:
    with pytest.raises(ValueError, match=f"{cls.__name__} layer 'p': {message}"):
        layer = cls(**arguments, name="p")
        layer(np.ones(shape))
    if shape is not None:
        with pytest.raises(ValueError, match=f"{cls.__name__} layer 'p': {message}"):
            cls(**arguments, name="p")(Input(shape[1:]))
