"""LSTM and LSTMCell with layer normalization and projection."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from recurrent_layer_cases import MASK, D, N, T, U, check_gradients, sequences

from lamella import _cpu, ops
from lamella.layers import (
    GRU,
    LSTM,
    RNN,
    Bidirectional,
    Dense,
    GRUCell,
    Input,
    LSTMCell,
)
from lamella.models import Model, Sequential, clone_model, load_model

P = 2
VARIANTS: list[dict[str, Any]] = [
    {"layer_norm": True},
    {"projection": P},
    {"layer_norm": True, "layer_norm_epsilon": 0.25, "projection": P},
]
each_variant = pytest.mark.parametrize("variant", VARIANTS, ids=str)


def randomize(layer: Any, rng: np.random.Generator) -> None:
    """Weights that differ from one another, gammas around a half."""
    for weight in layer.weights:
        gamma = "gamma" in weight.name
        weight.assign(rng.standard_normal(weight.shape) * (0.2 if gamma else 0.4) + 0.5 * gamma)


def made(rng: np.random.Generator, **options: Any) -> Any:
    layer = LSTM(U, **options)
    layer.build((None, T, D))
    randomize(layer, rng)
    return layer


@each_variant
def test_weights_and_shapes(variant: Any, rng: np.random.Generator) -> None:
    layer = LSTM(U, return_sequences=True, return_state=True, **variant)
    x = sequences(rng)
    width = variant.get("projection", U)
    y, h, c = layer(x)
    assert y.shape == (N, T, width) and h.shape == (N, width) and c.shape == (N, U)
    np.testing.assert_array_equal(h, y[:, -1])
    assert [part.shape for part in layer(Input((T, D)))] == [
        (None, T, width),
        (None, width),
        (None, U),
    ]
    assert layer.state_size == [width, U] == layer.cell.state_size
    assert [state.shape for state in layer.get_initial_state(N)] == [(N, width), (N, U)]
    expected = {
        "kernel": (D, 4 * U),
        "recurrent_kernel": (width, 4 * U),
        "bias": (4 * U,),
    }
    if "projection" in variant:
        expected["projection_kernel"] = (U, P)
    if "layer_norm" in variant:
        expected |= {"gamma_x": (4 * U,), "gamma_h": (4 * U,), "gamma_c": (U,), "beta_c": (U,)}
    assert [(weight.name, weight.shape) for weight in layer.weights] == list(expected.items())
    for weight in layer.weights:
        if weight.name.startswith(("gamma", "beta")):
            np.testing.assert_array_equal(weight.numpy(), float(weight.name.startswith("gamma")))


@pytest.mark.parametrize("use_bias", [True, False])
def test_is_the_op(use_bias: bool, rng: np.random.Generator) -> None:
    layer = made(rng, use_bias=use_bias, return_state=True, **VARIANTS[2])
    x, h, c = sequences(rng), sequences(rng, (N, P)), sequences(rng, (N, U))
    kernel, recurrent, *rest = layer.get_weights()
    bias = rest.pop(0) if use_bias else None
    _, *expected = ops.lstm(x, kernel, recurrent, bias, h, c, *rest, mask=MASK, epsilon=0.25)
    for result, right in zip(layer(x, [h, c], MASK)[1:], expected, strict=True):
        np.testing.assert_array_equal(result, right)


def test_epsilon_as_the_op_has_it(rng: np.random.Generator) -> None:
    layer = made(rng, layer_norm=True)
    x = sequences(rng)
    kernel, recurrent, bias, *rest = layer.get_weights()
    expected, *_ = ops.lstm(x, kernel, recurrent, bias, None, None, None, *rest)
    np.testing.assert_array_equal(layer(x), expected[:, -1])
    assert layer.get_config()["layer_norm_epsilon"] == 1e-3


def layers_to_differentiate() -> list[Any]:
    sequence = {"return_sequences": True, "return_state": True}
    both = VARIANTS[2]
    return [
        *(LSTM(U, **sequence, **variant) for variant in VARIANTS),
        LSTM(U, go_backwards=True, zoneout=(0.2, 0.3), return_sequences=True, **both),
        LSTM(U, return_state=True, use_bias=False, activation="silu", **both),
        RNN([LSTMCell(4, **both), GRUCell(3), LSTMCell(3, projection=5)], **sequence),
        Bidirectional(LSTM(U, **sequence, **both), merge_mode="sum"),
        Bidirectional(LSTM(U, return_sequences=True, **both)),
    ]


@pytest.mark.parametrize("number", range(len(layers_to_differentiate())))
def test_gradients(number: int, rng: np.random.Generator) -> None:
    layer = layers_to_differentiate()[number]
    x = sequences(rng)
    layer(x)
    randomize(layer, rng)
    # Quotients of what deviates little are far from straight.
    width = 3e-4
    check_gradients(layer, x, rng, width)
    check_gradients(layer, x, rng, width, mask=MASK)
    sizes = layer.state_size if isinstance(layer, RNN) else layer.forward_layer.state_size * 2
    check_gradients(layer, [x, *(sequences(rng, (N, size)) for size in sizes)], rng, width)


# -- streams --------------------------------------------------------------------------------------


@each_variant
def test_step(variant: Any, rng: np.random.Generator) -> None:
    layer = made(rng, return_sequences=True, **variant)
    x = sequences(rng)
    whole, state = layer(x), None
    for t in range(T):
        y, state = layer.step(x[:, t], state)
        np.testing.assert_array_equal(y, whole[:, t])
        assert [part.shape for part in state] == [(N, variant.get("projection", U)), (N, U)]
    with pytest.raises(ValueError, match=r"state expects arrays of shapes"):
        layer.step(x[:, 0], [np.zeros((N, U + 1)), np.zeros((N, U))])


def test_a_cell_takes_one_step(rng: np.random.Generator) -> None:
    cell = LSTMCell(U, **VARIANTS[2])
    x = sequences(rng, (N, D))
    y, states = cell(x)
    assert y.shape == (N, P) and [state.shape for state in states] == [(N, P), (N, U)]
    layer = LSTM(U, **VARIANTS[2])
    layer.build((None, T, D))
    layer.set_weights(cell.get_weights())
    np.testing.assert_array_equal(layer(x[:, None]), y)
    np.testing.assert_array_equal(layer(x[:, None], states), cell(x, states)[0])


@each_variant
def test_stateful(variant: Any, rng: np.random.Generator) -> None:
    x = sequences(rng)
    plain = made(rng, return_sequences=True, **variant)
    layer = LSTM(U, stateful=True, return_sequences=True, **variant)
    model = Sequential([Input((None, D)), layer])
    layer.set_weights(plain.get_weights())
    whole = plain(x)
    parts = [model.predict_on_batch(x[:, :2]), model.predict_on_batch(x[:, 2:])]
    np.testing.assert_array_equal(np.concatenate(parts, axis=1), whole)
    assert [state.shape for state in layer.states] == [(N, size) for size in layer.state_size]
    model.reset_state()
    np.testing.assert_array_equal(model.predict_on_batch(x), whole)


def test_streaming_does_not_allocate(rng: np.random.Generator) -> None:
    model = Sequential([Input((1, D)), LSTM(U, stateful=True, **VARIANTS[2]), Dense(1)])
    x = sequences(rng, (N, 1, D))
    state = None
    for _ in range(3):
        model.predict_on_batch(x)
        _, state = model.layers[0].step(x[:, 0], state)
    before = _cpu.memory_stats()["system_allocations"]
    for _ in range(50):
        model.predict_on_batch(x)
        _, state = model.layers[0].step(x[:, 0], state)
    assert _cpu.memory_stats()["system_allocations"] == before


def test_states_in_a_graph(rng: np.random.Generator) -> None:
    """An encoder's states begin a decoder of the same widths, and of no others."""
    source, target = Input((T, D)), Input((None, 2))
    _, h, c = LSTM(U, return_state=True, name="encoder", **VARIANTS[2])(source)
    decoder = LSTM(U, return_sequences=True, **VARIANTS[2])
    model = Model([source, target], Dense(1)(decoder(target, initial_state=[h, c])))
    model.compile("sgd", "mse")
    x, z = sequences(rng), sequences(rng, (N, 7, 2))
    before = model.get_layer("encoder").get_weights()
    model.train_on_batch([x, z], sequences(rng, (N, 7, 1)))
    for old, new in zip(before, model.get_layer("encoder").get_weights(), strict=True):
        assert (old != new).any()
    with pytest.raises(ValueError, match="initial_state expects shapes"):
        LSTM(U, projection=P + 1)(target, initial_state=[h, c])
    with pytest.raises(ValueError, match="initial_state expects shapes"):
        LSTM(U)(target, initial_state=[h, c])


# -- noise, wrappers, files, arguments ------------------------------------------------------------


def test_noise_is_as_wide_as_the_states(rng: np.random.Generator) -> None:
    x = sequences(rng, (40, T, D))
    options = {**VARIANTS[2], "return_sequences": True, "return_state": True}
    layer = LSTM(U, zoneout=(0.4, 0.2), dropout=0.3, recurrent_dropout=0.3, seed=1, **options)
    y, _, c = layer(x, training=True)
    assert y.shape == (40, T, P) and c.shape == (40, U)
    assert 0.3 < (y[:, 1:] == y[:, :-1]).mean() < 0.5
    assert (layer(x)[0][:, 1:] != layer(x)[0][:, :-1]).all()
    _, pullback = layer.forward(x, True)
    assert np.isfinite(pullback((y, None, c))).all()


def test_bidirectional(rng: np.random.Generator) -> None:
    x = sequences(rng)
    layer = Bidirectional(LSTM(U, return_sequences=True, return_state=True, **VARIANTS[2]))
    y, *states = layer(x, mask=MASK)
    assert y.shape == (N, T, 2 * P)
    assert [state.shape for state in states] == [(N, P), (N, U)] * 2
    ahead, back = layer.forward_layer, layer.backward_layer
    assert ahead.cell.layer_norm and back.cell.projection == P
    expected = [ahead(x, mask=MASK)[0], back(x, mask=MASK)[0][:, ::-1]]
    np.testing.assert_array_equal(y, np.concatenate(expected, axis=-1))
    with pytest.raises(ValueError, match="cannot merge outputs"):
        Bidirectional(
            LSTM(U, projection=P), merge_mode="ave", backward_layer=GRU(U, go_backwards=True)
        )(x)


@each_variant
def test_config_and_clone(variant: Any, rng: np.random.Generator) -> None:
    layer = made(rng, **variant)
    config = json.loads(json.dumps(layer.get_config()))
    assert {key: config[key] for key in variant} == variant
    again = LSTM.from_config(config)
    assert again.get_config() == layer.get_config()
    x = sequences(rng)
    again(x)
    again.set_weights(layer.get_weights())
    np.testing.assert_array_equal(again(x), layer(x))
    plain = LSTM(U).get_config()
    assert plain.keys().isdisjoint({"layer_norm", "layer_norm_epsilon", "projection"})


def test_in_a_file(tmp_path: Any, rng: np.random.Generator) -> None:
    both = VARIANTS[2]
    model = Sequential(
        [
            LSTM(U, input_shape=(T, D), return_sequences=True, **both),
            Bidirectional(LSTM(3, return_sequences=True, **both)),
            RNN([LSTMCell(4, **both), LSTMCell(2, layer_norm=True)]),
            Dense(2, activation="softmax"),
        ]
    )
    model.compile("adam", "sparse_categorical_crossentropy")
    x, y = sequences(rng, (8, T, D)), rng.integers(0, 2, 8)
    before = model.get_weights()
    model.fit(x, y, epochs=2, verbose=0)
    for weight, old in zip(model.weights, before, strict=True):
        assert (weight.numpy() != old).any(), weight.name
    model.save(tmp_path / "m.safetensors")
    again = load_model(tmp_path / "m.safetensors")
    np.testing.assert_array_equal(again.predict(x, verbose=0), model.predict(x, verbose=0))
    assert again.train_on_batch(x, y) == model.train_on_batch(x, y)
    copy = clone_model(model)
    copy.set_weights(model.get_weights())
    np.testing.assert_array_equal(copy.predict(x, verbose=0), model.predict(x, verbose=0))


def test_frozen_and_penalized(rng: np.random.Generator) -> None:
    x = sequences(rng)
    layer = LSTM(U, kernel_regularizer="l2", **VARIANTS[2])
    model = Sequential([Input((T, D)), layer, Dense(1)])
    model.compile("sgd", "mse")
    loss = model.test_on_batch(x, np.zeros((N, 1)))
    errors = np.mean(model.predict(x, verbose=0) ** 2)
    kernel, _, _, projection_kernel, *_ = layer.get_weights()
    penalty = 0.01 * (np.sum(kernel**2) + np.sum(projection_kernel**2))
    assert loss == pytest.approx(errors + penalty, rel=1e-4)
    layer.trainable = False
    model.compile("sgd", "mse")
    before = layer.get_weights()
    model.train_on_batch(x, np.ones((N, 1)))
    for old, new in zip(before, layer.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)


def test_bad_arguments() -> None:
    for make in (LSTM, LSTMCell):
        label = f"^{make.__name__} layer '.*': "
        for wrong in (0, -1, 2.5, "3", True):
            with pytest.raises(ValueError, match=f"{label}projection expects an integer >= 1"):
                make(U, projection=wrong)
        for wrong in (1, None, "yes"):
            with pytest.raises(ValueError, match=f"{label}layer_norm expects"):
                make(U, layer_norm=wrong)
        for wrong in (0, -1e-3, float("nan"), float("inf"), "small"):
            with pytest.raises(ValueError, match=f"{label}layer_norm_epsilon expects"):
                make(U, layer_norm_epsilon=wrong)
