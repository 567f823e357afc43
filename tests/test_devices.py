"""Models on a device compute what they compute on the CPU."""

from __future__ import annotations

import numpy as np
import pytest

import lamella
from lamella import devices, utils
from lamella.layers import (
    LSTM,
    Attention,
    Conv2D,
    Dense,
    Dropout,
    Embedding,
    Flatten,
    Input,
    MaxPooling2D,
    MultiHeadAttention,
)  # fmt: skip
from lamella.models import Sequential, load_model

NAMES = [
    pytest.param(name, marks=[pytest.mark.cuda] if name == "cuda" else [])
    for name in ("simt", "cuda")
    if not devices.why_unusable(name)
]


def cnn():
    x = np.random.default_rng(0).random((20, 12, 12, 1)).astype(np.float32)
    return [
        Input((12, 12, 1)),
        Conv2D(8, 3, activation="relu"),
        MaxPooling2D(2),
        Conv2D(4, 3, activation="relu"),
        Flatten(),
        Dense(16, activation="relu"),
        Dropout(0.25, seed=3),
        Dense(5, activation="softmax"),
    ], x


def rnn():
    x = np.random.default_rng(1).standard_normal((20, 6, 5)).astype(np.float32)
    return [
        Input((6, 5)),
        LSTM(8, return_sequences=True),
        LSTM(8),
        Dense(5, activation="softmax"),
    ], x


def text(layer):
    def make():
        x = np.random.default_rng(2).integers(0, 11, (20, 7))
        x[:, 4:][::2] = 0
        return [
            Input((7,)),
            Embedding(11, 8, mask_zero=True),
            LSTM(8, return_sequences=True),
            layer(),
            LSTM(8),
            Dense(5, activation="softmax"),
        ], x

    return make


MODELS = {
    "cnn": cnn,
    "rnn": rnn,
    "attention": text(Attention),
    "transformer": text(lambda: MultiHeadAttention(num_heads=2)),
}
LABELS = np.arange(20) % 5


def trained(make, device, optimizer="adam"):
    """Return the model after two epochs, what fit reported, and predictions."""
    utils.set_random_seed(5)
    layers, x = make()
    model = Sequential(layers)
    model.compile(optimizer, "sparse_categorical_crossentropy", metrics=["accuracy"])
    model.to(device)
    # 20 samples in batches of 8: the last one is smaller.
    history = model.fit(x, LABELS, epochs=2, batch_size=8, verbose=0, shuffle=False).history
    return model, history, model.predict(x, verbose=0)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("make", MODELS.values(), ids=MODELS.keys())
def test_training_is_that_of_the_cpu(name, make):
    expected_model, expected_history, expected = trained(make, "cpu")
    model, history, y = trained(make, name)
    assert model.device == name
    for key, values in expected_history.items():
        np.testing.assert_allclose(history[key], values, rtol=2e-4, err_msg=key)
    assert type(y) is np.ndarray
    np.testing.assert_allclose(y, expected, rtol=2e-3, atol=2e-4)
    for weight, right in zip(model.get_weights(), expected_model.get_weights(), strict=True):
        assert type(weight) is np.ndarray
        np.testing.assert_allclose(weight, right, rtol=5e-3, atol=5e-4)


@pytest.mark.parametrize("name", NAMES)
def test_a_model_moves_in_the_middle_of_training(name, tmp_path):
    _, x = cnn()
    whole, _, _ = trained(cnn, "cpu")
    utils.set_random_seed(5)
    model = Sequential(cnn()[0])
    model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
    model.fit(x, LABELS, epochs=1, batch_size=8, verbose=0, shuffle=False)
    assert model.to(name) is model
    model.fit(x, LABELS, epochs=1, batch_size=8, verbose=0, shuffle=False)
    for weight, right in zip(model.get_weights(), whole.get_weights(), strict=True):
        np.testing.assert_allclose(weight, right, rtol=5e-3, atol=5e-4)
    path = tmp_path / "model.safetensors"
    model.save(path)
    before = model.predict(x, verbose=0)
    back = load_model(path)
    np.testing.assert_allclose(back.predict(x, verbose=0), before, rtol=1e-4, atol=1e-6)
    model.to("cpu")
    np.testing.assert_allclose(model.predict(x, verbose=0), before, rtol=1e-4, atol=1e-6)
    model.set_weights([0 * weight for weight in model.get_weights()])
    model.to(name)
    np.testing.assert_allclose(model.predict(x, verbose=0), 0.2)


@pytest.mark.parametrize("name", NAMES)
def test_models_compute_where_they_are_told(name, monkeypatch):
    def first_device():
        model = Sequential([Input((3,)), Dense(2)])
        model.predict(np.ones((1, 3)), verbose=0)
        return model.device, type(model.weights[0].value).__module__

    with lamella.device(name):
        device, module = first_device()
        assert device == name and module == f"lamella._{name}"
    monkeypatch.setenv("LAMELLA_DEVICE", name)
    assert first_device()[0] == name
    monkeypatch.setenv("LAMELLA_DEVICE", "cpu")
    assert first_device() == ("cpu", "numpy")


@pytest.mark.parametrize("name", NAMES)
def test_a_failed_step_changes_nothing(name):
    layers, x = text(Attention)()
    model = Sequential(layers)
    model.compile("adam", "sparse_categorical_crossentropy")
    model.to(name)
    model.fit(x, LABELS, epochs=1, verbose=0)
    before = model.get_weights()
    with pytest.raises(IndexError, match="embedding"):
        model.train_on_batch(np.full((2, 7), 11), LABELS[:2])
    with pytest.raises(IndexError):
        model.train_on_batch(x[:2], np.array([0, 5]))
    for weight, right in zip(model.get_weights(), before, strict=True):
        np.testing.assert_array_equal(weight, right)
    model.train_on_batch(x, LABELS)


def test_unknown_devices():
    model = Sequential([Input((3,)), Dense(2)])
    with pytest.raises(ValueError, match="a device is 'cpu' or 'cuda', got 'gpu'"):
        model.to("gpu")
    assert model.to("cpu").device == "cpu"
