"""The article's listings with attention, as printed but for their import lines."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from lamella.layers import LSTM, Attention, Dense, Embedding, MultiHeadAttention
from lamella.models import Sequential, load_model
from lamella.utils import set_random_seed

input_dim, max_length, output_dim = 50, 12, 3


def passages(rng: np.random.Generator, count: int = 96) -> tuple[np.ndarray, np.ndarray]:
    """Sequences padded with 0, and which of three words each has first."""
    x = rng.integers(4, input_dim, (count, max_length))
    y = rng.integers(output_dim, size=count)
    x[:, 0] = 1 + y
    x[np.arange(max_length) >= rng.integers(3, max_length + 1, (count, 1))] = 0
    return x, y


def attention_network() -> Sequential:
    return Sequential([
        Embedding(input_dim, output_dim, input_length=max_length),
        LSTM(64, return_sequences=True),
        Attention(),
        LSTM(64),
        Dense(output_dim, activation='softmax')
    ])  # fmt: skip


def transformer_network() -> Sequential:
    return Sequential([
        Embedding(input_dim, output_dim, input_length=max_length),
        LSTM(64, return_sequences=True),
        MultiHeadAttention(num_heads=8),
        LSTM(64),
        Dense(output_dim, activation='softmax')
    ])  # fmt: skip


def masked(network: Sequential) -> Sequential:
    """The same with mask_zero=True."""
    first, *others = network.layers
    config = {**first.get_config(), "mask_zero": True}
    return Sequential([Embedding.from_config(config), *others])


@pytest.mark.parametrize("mask_zero", [False, True])
@pytest.mark.parametrize("network", [attention_network, transformer_network])
def test_listing(network: Any, mask_zero: bool, tmp_path: Any, rng: np.random.Generator) -> None:
    set_random_seed(1)
    model = masked(network()) if mask_zero else network()
    model.compile(optimizer='adam',
                  loss='sparse_categorical_crossentropy',
                  metrics=['accuracy'])  # fmt: skip
    x, y = passages(rng)
    history = model.fit(x, y, epochs=12, batch_size=32, verbose=0).history
    assert history["loss"][-1] < history["loss"][0]
    assert history["accuracy"][-1] > history["accuracy"][0]
    expected = model.predict(x, verbose=0)
    assert expected.shape == (len(x), output_dim)
    np.testing.assert_allclose(expected.sum(axis=1), 1, rtol=1e-5)
    path = tmp_path / "listing.safetensors"
    model.save(path)
    np.testing.assert_array_equal(load_model(path).predict(x, verbose=0), expected)
    if mask_zero:
        # Padding changes nothing: a batch of short sequences gives what it gives among long ones.
        few = np.count_nonzero(x, axis=1) < 6
        shorter = model.predict_on_batch(np.ascontiguousarray(x[few]))
        np.testing.assert_allclose(shorter, expected[few], rtol=1e-4, atol=1e-6)
