"""Recurrent layers against Keras: values, weights, masks, training, arguments."""

from __future__ import annotations

import inspect
from typing import Any

import numpy as np
import pytest
from keras_peer import import_keras
from layer_cases import randomize
from recurrent_layer_cases import (
    MASK,
    TOLERANCE,
    D,
    N,
    T,
    U,
    as_list,
    assert_alike,
    each_kind,
    make,
    sequences,
)

import lamella
from lamella import layers
from lamella.layers import GRU, LSTM, RNN, Bidirectional, Input


@pytest.fixture(scope="module")
def keras() -> Any:
    return import_keras()


@each_kind
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"return_sequences": True},
        {"return_state": True},
        {"return_sequences": True, "return_state": True, "go_backwards": True},
        {"use_bias": False, "activation": "relu", "return_sequences": True},
        {"activation": None, "go_backwards": True},
        {"return_sequences": True, "zero_output_for_mask": True},
    ],
    ids=str,
)
def test_values_against_keras(
    keras: Any, kind: str, options: Any, rng: np.random.Generator
) -> None:
    ours, theirs = make(kind, **options), make(kind, module=keras.layers, **options)
    x = sequences(rng)
    ours(x)
    theirs(x)
    assert [(w.name, w.shape) for w in ours.weights] == [(w.name, w.shape) for w in theirs.weights]
    randomize(ours, rng)
    theirs.set_weights(ours.get_weights())
    assert_alike(ours(x), theirs(x))
    assert_alike(ours(x, mask=MASK), theirs(x, mask=MASK))
    states = [sequences(rng, (N, U)) for _ in ours.state_size]
    assert_alike(ours(x, initial_state=states), theirs(x, initial_state=states))
    shapes = [y.shape for y in as_list(ours(Input((None, D))))]
    assert shapes == [tuple(y.shape) for y in as_list(theirs(keras.Input((None, D))))]


@pytest.mark.parametrize("backwards", [False, True])
@pytest.mark.parametrize("options", [{"reset_after": False}, {"recurrent_activation": "relu"}])
def test_gru_options_against_keras(
    keras: Any, options: Any, backwards: bool, rng: np.random.Generator
) -> None:
    ours = GRU(U, go_backwards=backwards, **options)
    theirs = keras.layers.GRU(U, go_backwards=backwards, **options)
    x = sequences(rng)
    ours(x)
    theirs(x)
    randomize(ours, rng)
    theirs.set_weights(ours.get_weights())
    assert_alike(ours(x, mask=MASK), theirs(x, mask=MASK))


@each_kind
def test_signature_and_config_against_keras(keras: Any, kind: str) -> None:
    for name in (kind, f"{kind}Cell"):
        ours = inspect.signature(getattr(layers, name)).parameters
        theirs = inspect.signature(getattr(keras.layers, name).__init__).parameters
        expected = [p for p in theirs.values() if p.name not in ("self", "kwargs")]
        assert list(ours)[: len(expected)] == [p.name for p in expected]
        for parameter in expected:
            assert ours[parameter.name].default == parameter.default, parameter.name
        mine = getattr(layers, name)(3, name="n").get_config()
        other = getattr(keras.layers, name)(3, name="n").get_config()
        for key, value in other.items():
            if key in mine and key != "dtype" and not isinstance(value, dict):
                assert mine[key] == value, key
        assert not {
            key
            for key in set(other) - set(mine)
            if not key.endswith("_constraint") and key != "activity_regularizer"
        }
        getattr(layers, name).from_config(other)
    assert getattr(layers, kind)(2).name.startswith(
        getattr(keras.layers, kind)(2).name.rstrip("_0123456789")
    )


@each_kind
@pytest.mark.parametrize("options", [{"return_sequences": True}, {}])
def test_training_with_masks_against_keras(
    keras: Any, kind: str, options: Any, rng: np.random.Generator
) -> None:
    def model(module: Any) -> Any:
        return module.Sequential(
            [
                module.layers.Embedding(7, 4, mask_zero=True),
                getattr(module.layers, kind)(5, return_sequences=True),
                module.layers.Bidirectional(getattr(module.layers, kind)(3, **options)),
                module.layers.Dense(2),
            ]
        )

    x = rng.integers(1, 7, (4, 6))
    x[0, 3:] = x[1, 5:] = x[2, 2] = 0
    y = rng.standard_normal((4, 6, 2) if options else (4, 2)).astype(np.float32)
    ours, theirs = model(lamella), model(keras)
    ours.predict(x, verbose=0)
    theirs.predict(x, verbose=0)
    theirs.set_weights(ours.get_weights())
    for module, each in ((lamella, ours), (keras, theirs)):
        each.compile(module.optimizers.SGD(0.1), "mse")
    for _ in range(2):
        mine, other = ours.train_on_batch(x, y), theirs.train_on_batch(x, y)
        np.testing.assert_allclose(mine, float(np.asarray(other)), rtol=1e-4)
    for mine, other in zip(ours.get_weights(), theirs.get_weights(), strict=True):
        np.testing.assert_allclose(mine, other, **TOLERANCE)


@pytest.mark.parametrize("mode", ["concat", "sum", "mul", "ave", None])
@pytest.mark.parametrize("options", [{}, {"return_sequences": True}, {"return_state": True}])
def test_bidirectional_against_keras(
    keras: Any, mode: Any, options: Any, rng: np.random.Generator
) -> None:
    ours = Bidirectional(LSTM(U, **options), merge_mode=mode)
    theirs = keras.layers.Bidirectional(keras.layers.LSTM(U, **options), merge_mode=mode)
    x = sequences(rng)
    ours(x)
    theirs(x)
    assert [w.shape for w in ours.weights] == [w.shape for w in theirs.weights]
    randomize(ours, rng)
    theirs.set_weights(ours.get_weights())
    if mode is None and options.get("return_state"):
        # Keras' own cast of the two outputs fails where each comes with states.
        assert len(ours(x)) == 6
    else:
        assert_alike(ours(x), theirs(x))
        assert_alike(ours(x, mask=MASK), theirs(x, mask=MASK))
        states = [sequences(rng, (N, U)) for _ in range(4)]
        assert_alike(ours(x, initial_state=states), theirs(x, initial_state=states))
    made = as_list(ours(Input((T, D))))
    assert [y.shape[1:] for y in made] == [y.shape[1:] for y in as_list(ours(x))]


def test_stacked_cells_against_keras(keras: Any, rng: np.random.Generator) -> None:
    def make(module: Any, **options: Any) -> Any:
        cells = [
            module.layers.LSTMCell(4),
            module.layers.GRUCell(3),
            module.layers.SimpleRNNCell(5),
        ]
        return module.layers.RNN(cells, **options)

    x = sequences(rng)
    for options in (
        {},
        {"return_sequences": True},
        {"return_sequences": True, "go_backwards": True},
    ):
        ours, theirs = make(lamella, **options), make(keras, **options)
        ours(x)
        theirs(x)
        randomize(ours, rng)
        theirs.set_weights(ours.get_weights())
        assert_alike(ours(x), theirs(x))
        assert_alike(ours(x, mask=MASK), theirs(x, mask=MASK))


@each_kind
def test_cells_against_keras(keras: Any, kind: str, rng: np.random.Generator) -> None:
    ours, theirs = make(f"{kind}Cell"), make(f"{kind}Cell", module=keras.layers)
    x = sequences(rng, (N, D))
    states = [sequences(rng, (N, U)) for _ in ours.state_sizes]
    ours(x, states)
    theirs.build((N, D))
    theirs.set_weights(ours.get_weights())
    y, after = ours(x, states)
    other, others = theirs(x, states)
    assert_alike(y, other)
    assert_alike(after, others)
    assert_alike(RNN(ours)(x[:, None], initial_state=states), y)
