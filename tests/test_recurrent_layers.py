"""Recurrent layers: gradients, states, noise, configurations, files, errors."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from recurrent_layer_cases import (
    KINDS,
    MASK,
    TOLERANCE,
    D,
    N,
    T,
    U,
    assert_alike,
    check_gradients,
    each_kind,
    make,
    sequences,
)

from lamella import _cpu, layers
from lamella import random as lamella_random
from lamella.layers import (
    GRU,
    LSTM,
    RNN,
    Bidirectional,
    Dense,
    Embedding,
    GRUCell,
    Input,
    Layer,
    LSTMCell,
    SimpleRNN,
    SimpleRNNCell,
)
from lamella.models import Model, Sequential, clone_model, load_model

# -- gradients ------------------------------------------------------------------------------------


def layer_variants() -> list[Any]:
    made: list[Any] = [
        make(kind, return_sequences=True, return_state=True, go_backwards=back)
        for kind in KINDS
        for back in (False, True)
    ]
    made += [GRU(U, reset_after=False), LSTM(U, return_state=True), SimpleRNN(U)]
    made += [LSTM(U, zoneout=(0.2, 0.3), return_sequences=True, zero_output_for_mask=True)]
    made += [RNN([LSTMCell(4), GRUCell(3)], return_sequences=True, return_state=True)]
    made += [
        Bidirectional(GRU(U, return_sequences=True, return_state=state), merge_mode=mode)
        for mode in ("concat", "sum", "mul", "ave", None)
        for state in (False, True)
    ]
    return made


@pytest.mark.parametrize("number", range(len(layer_variants())))
def test_gradients(number: int, rng: np.random.Generator) -> None:
    layer = layer_variants()[number]
    x = sequences(rng)
    layer(x)
    for weight in layer.weights:
        weight.assign(rng.standard_normal(weight.shape) * 0.4)
    check_gradients(layer, x, rng)
    check_gradients(layer, x, rng, mask=MASK)
    sizes = layer.state_size if isinstance(layer, RNN) else layer.forward_layer.state_size * 2
    check_gradients(layer, [x, *(sequences(rng, (N, size)) for size in sizes)], rng)


def test_zoneout_in_shapes_gradients_and_files(rng: np.random.Generator, tmp_path: Any) -> None:
    layer = LSTM(U, return_sequences=True, return_state=True, zoneout=0.1)
    x = sequences(rng)
    y, h, c = layer(x)
    assert y.shape == (N, T, U) and h.shape == c.shape == (N, U)
    assert [part.shape for part in layer(Input((T, D)))] == [(None, T, U), (None, U), (None, U)]
    np.testing.assert_array_equal(layer.step(x[:, 0])[0], y[:, 0])
    for weight in layer.weights:
        weight.assign(rng.standard_normal(weight.shape) * 0.4)
    check_gradients(layer, x, rng, 1e-3, mask=MASK)
    model = Sequential([LSTM(U, input_shape=(T, D), zoneout=0.1), Dense(1)])
    model.compile("sgd", "mse")
    model.fit(x, np.ones((N, 1)), verbose=0)
    model.save(tmp_path / "m.safetensors")
    again = load_model(tmp_path / "m.safetensors")
    np.testing.assert_array_equal(again.predict(x, verbose=0), model.predict(x, verbose=0))


# -- states ---------------------------------------------------------------------------------------


@each_kind
def test_stateful_goes_on(kind: str, rng: np.random.Generator) -> None:
    layer = make(kind, stateful=True, return_sequences=True)
    plain = make(kind, return_sequences=True)
    x = sequences(rng)
    plain(x)
    model = Sequential([Input((None, D)), layer])
    layer.set_weights(plain.get_weights())
    whole = plain(x)
    parts = [model.predict_on_batch(x[:, :2]), model.predict_on_batch(x[:, 2:])]
    np.testing.assert_allclose(np.concatenate(parts, axis=1), whole, **TOLERANCE)
    layer.reset_state()
    each = [model.predict_on_batch(x[:, t : t + 1]) for t in range(T)]
    np.testing.assert_allclose(np.concatenate(each, axis=1), whole, **TOLERANCE)
    kept = [state.copy() for state in layer.states]
    each[-1][...] = 0  # what was returned is the caller's
    for before, after in zip(kept, layer.states, strict=True):
        np.testing.assert_array_equal(before, after)
    model.reset_state()
    np.testing.assert_allclose(model.predict_on_batch(x), whole, **TOLERANCE)
    layer.reset_states([state * 0 for state in kept])
    np.testing.assert_allclose(model.predict_on_batch(x), whole, **TOLERANCE)


@each_kind
def test_streaming_does_not_allocate(kind: str, rng: np.random.Generator) -> None:
    model = Sequential([Input((1, D)), make(kind, stateful=True), Dense(1)])
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


@each_kind
def test_step(kind: str, rng: np.random.Generator) -> None:
    layer = make(kind, return_sequences=True, go_backwards=True)
    forwards = make(kind, return_sequences=True)
    x = sequences(rng)
    whole = forwards(x)
    layer(x)
    layer.set_weights(forwards.get_weights())
    state = None
    for t in range(T):
        y, state = layer.step(x[:, t], state)
        np.testing.assert_allclose(y, whole[:, t], **TOLERANCE)
    first = make(kind)
    assert first.step(x[:, 0])[0].shape == (N, U)
    with pytest.raises(ValueError, match=r"step expects an input of shape \(batch, features\)"):
        layer.step(x)
    with pytest.raises(ValueError, match="state expects arrays of shapes"):
        layer.step(x[:, 0], [np.zeros((N, U + 1))])
    with pytest.raises(ValueError, match="expects 4 features"):
        layer.step(x[:, 0, :2])


def test_step_of_stacked_cells(rng: np.random.Generator) -> None:
    layer = RNN([LSTMCell(4), GRUCell(3)], return_sequences=True)
    x = sequences(rng)
    whole, state = layer(x), None
    for t in range(T):
        y, state = layer.step(x[:, t], state)
        np.testing.assert_allclose(y, whole[:, t], **TOLERANCE)


def test_changed_batch_size_and_failures(rng: np.random.Generator) -> None:
    layer = LSTM(U, stateful=True, name="s")
    model = Sequential([Input((None, D)), layer, Dense(1)])
    model.compile("sgd", "mse")
    x, y = sequences(rng), np.ones((N, 1))
    model.predict_on_batch(x)
    kept = [state.copy() for state in layer.states]
    message = "LSTM layer 's': is stateful and has states for batches of 3, got one of 2"
    for call in (
        lambda: model.predict_on_batch(x[:2]),
        lambda: model.train_on_batch(x[:2], y[:2]),
        lambda: layer(x[:2]),
    ):
        with pytest.raises(ValueError, match=message):
            call()
        for before, after in zip(kept, layer.states, strict=True):
            np.testing.assert_array_equal(before, after)
    layer.reset_state()
    model.predict_on_batch(x[:2])
    with pytest.raises(ValueError, match="not stateful"):
        LSTM(2).reset_state()


def test_a_failed_call_leaves_the_state(rng: np.random.Generator) -> None:
    class Fails(Layer):
        active = False

        def forward(self, x: Any, training: bool) -> Any:
            if self.active:
                raise RuntimeError("later")
            return x, lambda dy: dy

        def compute_output_shape(self, input_shape: Any) -> Any:
            return input_shape

    for kind in (GRU(U, stateful=True), Bidirectional(GRU(U, stateful=True))):
        fails = Fails()
        model = Sequential([Input((None, D)), kind, fails, Dense(1)])
        model.compile("sgd", "mse")
        x, y = sequences(rng), np.ones((N, 1))
        fails.active = True
        with pytest.raises(RuntimeError, match="later"):
            model.predict_on_batch(x)
        assert kind.states is None
        fails.active = False
        model.train_on_batch(x, y)
        kept = [state.copy() for state in kind.states]
        fails.active = True
        for method, data in ((model.predict_on_batch, (x,)), (model.train_on_batch, (x, y))):
            with pytest.raises(RuntimeError, match="later"):
                method(*data)
            for before, after in zip(kept, kind.states, strict=True):
                np.testing.assert_array_equal(before, after)


def test_stateful_training(rng: np.random.Generator) -> None:
    """Each step begins with the states of the one before; no gradient flows into them."""
    model = Sequential([Input(batch_shape=(N, T, D)), GRU(U, stateful=True), Dense(1)])
    plain = Sequential([Input(batch_shape=(N, T, D)), GRU(U), Dense(1)])
    model.compile("sgd", "mse")
    x, y = sequences(rng), rng.random((N, 1))
    model.train_on_batch(x, y)
    gru, dense = model.layers
    states = [state.copy() for state in gru.states]
    plain.set_weights(model.get_weights())
    source, h = Input((T, D)), Input((U,))
    given = Model([source, h], plain.layers[1](plain.layers[0](source, initial_state=h)))
    given.compile("sgd", "mse")
    for _ in range(2):
        expected = given.train_on_batch([x, states[0]], y)
        assert model.train_on_batch(x, y) == pytest.approx(expected, rel=1e-5)
        for mine, other in zip(model.get_weights(), given.get_weights(), strict=True):
            np.testing.assert_allclose(mine, other, **TOLERANCE)
        states = [state.copy() for state in gru.states]
    with pytest.raises(ValueError, match="has states for batches of 3, got one of 2"):
        model.train_on_batch(x[:2], y[:2])
    model.reset_state()
    with pytest.raises(ValueError, match="is stateful and made for batches of 3, got one of 2"):
        model.train_on_batch(x[:2], y[:2])
    assert dense.built and gru.states is None


def test_stateful_models_cut_data_into_equal_batches(rng: np.random.Generator) -> None:
    model = Sequential([Input(batch_shape=(N, T, D)), LSTM(U, stateful=True), Dense(1)])
    model.compile("sgd", "mse")
    x = sequences(rng, (2 * N, T, D))
    whole = model.predict(x, verbose=0)  # in batches of N
    model.reset_state()
    parts = [model.predict_on_batch(x[:N]), model.predict_on_batch(x[N:])]
    np.testing.assert_array_equal(whole, np.concatenate(parts))
    kept = [state.copy() for state in model.layers[0].states]
    y = np.ones((2 * N, 1))
    for call in (
        lambda: model.fit(x[1:], y[1:], batch_size=N, verbose=0),
        lambda: model.evaluate(x[1:], y[1:], verbose=0),
        lambda: model.predict(x[1:], verbose=0),
    ):
        with pytest.raises(ValueError, match="5 samples cannot be cut into batches of 3"):
            call()
    with pytest.raises(ValueError, match="has states for batches of 3, got one of 2"):
        model.predict(x, batch_size=2, verbose=0)
    for before, after in zip(kept, model.layers[0].states, strict=True):
        np.testing.assert_array_equal(before, after)
    model.fit(x, y, batch_size=N, shuffle=False, verbose=0)


def test_initial_state_in_a_graph(rng: np.random.Generator) -> None:
    """An encoder's states begin a decoder, and gradients flow back through them."""
    source, target = Input((T, D)), Input((None, 2))
    _, h, c = LSTM(U, return_state=True, name="encoder")(source)
    y = LSTM(U, return_sequences=True, name="decoder")(target, initial_state=[h, c])
    model = Model([source, target], Dense(1)(y))
    x, z = sequences(rng), sequences(rng, (N, 7, 2))
    decoder = model.get_layer("decoder")
    encoder = model.get_layer("encoder")
    _, h_value, c_value = encoder(x)
    expected = decoder(z, initial_state=[h_value, c_value])
    np.testing.assert_allclose(
        model.predict([x, z], verbose=0), model.layers[-1](expected), **TOLERANCE
    )
    model.compile("sgd", "mse")
    before = encoder.get_weights()
    model.train_on_batch([x, z], np.ones((N, 7, 1)))
    assert all((a != b).any() for a, b in zip(before, encoder.get_weights(), strict=True))
    again = clone_model(model)
    again.set_weights(model.get_weights())
    np.testing.assert_array_equal(
        again.predict([x, z], verbose=0), model.predict([x, z], verbose=0)
    )


def test_masks_of_sequences_of_sequences(rng: np.random.Generator) -> None:
    """Words make sentences, sentences a text; both may be padded."""
    words, sentences = LSTM(4), GRU(3)
    model = Sequential(
        [Input((3, 5)), Embedding(9, 2, mask_zero=True), layers.TimeDistributed(Dense(2)),
         layers.TimeDistributed(words), sentences]
    )  # fmt: skip
    x = rng.integers(1, 9, (2, 3, 5))
    x[0, 0, 3:] = x[0, 2] = x[1, 1:] = 0
    y = model.predict(x, verbose=0)
    embedding, dense = model.layers[0], model.layers[1].layer
    for n, count in ((0, 2), (1, 1)):
        rows = [words(dense(embedding(x[n, s][x[n, s] > 0][None]))) for s in range(count)]
        expected = sentences(np.stack(rows, axis=1))
        np.testing.assert_allclose(y[n : n + 1], expected, **TOLERANCE)


# -- noise ----------------------------------------------------------------------------------------


@each_kind
def test_dropout(kind: str, rng: np.random.Generator) -> None:
    x = sequences(rng)
    layer = make(kind, dropout=0.5, recurrent_dropout=0.3, seed=4, return_sequences=True)
    plain = make(kind, return_sequences=True)
    plain(x)
    y = layer(x)
    layer.set_weights(plain.get_weights())
    np.testing.assert_array_equal(layer(x), plain(x))
    first, second = layer(x, training=True), layer(x, training=True)
    assert (first != second).any() and (first != plain(x)).any()
    again = make(kind, dropout=0.5, recurrent_dropout=0.3, seed=4, return_sequences=True)
    again(x)
    again.set_weights(plain.get_weights())
    np.testing.assert_array_equal(again(x, training=True), first)
    assert y.shape == first.shape
    only_x = make(kind, dropout=0.5, return_sequences=True)
    lamella_random.set_seed(3)
    only_x(x)
    only_x.set_weights(plain.get_weights())
    y, pullback = only_x.forward(x, True)
    dx = pullback(np.ones_like(y))
    # A feature is dropped at all steps of a sample or at none.
    dropped = (dx == 0).all(axis=1)
    assert dropped.any() and not dropped.all()
    assert ((dx == 0).any(axis=1) == dropped).all()


def test_zoneout(rng: np.random.Generator) -> None:
    x = sequences(rng, (40, T, D))
    layer = LSTM(U, zoneout=(0.4, 0.0), return_sequences=True, seed=1)
    y = layer(x, training=True)
    kept = (y[:, 1:] == y[:, :-1]).mean()
    assert 0.3 < kept < 0.5
    assert (layer(x)[:, 1:] != layer(x)[:, :-1]).all()
    with pytest.raises(ValueError, match="zoneout expects one number or two"):
        LSTM(2, zoneout=(0.1, 0.2, 0.3))
    for wrong in (1.0, -0.1, "a"):
        with pytest.raises(ValueError, match="zoneout expects a number in"):
            LSTM(2, zoneout=wrong)


# -- arguments, files, errors ---------------------------------------------------------------------


@pytest.mark.parametrize("number", range(len(layer_variants())))
def test_config_and_clone(number: int, rng: np.random.Generator) -> None:
    layer = layer_variants()[number]
    config = json.loads(json.dumps(layer.get_config()))
    again = type(layer).from_config(config)
    assert json.loads(json.dumps(again.get_config())) == config
    x = sequences(rng)
    y = layer(x)
    again(x)
    again.set_weights(layer.get_weights())
    assert_alike(again(x), y)


def test_in_a_file(tmp_path: Any, rng: np.random.Generator) -> None:
    model = Sequential(
        [
            Embedding(9, 4, mask_zero=True, input_length=T),
            Bidirectional(LSTM(3, return_sequences=True)),
            RNN([GRUCell(4), SimpleRNNCell(2)], return_sequences=True),
            layers.TimeDistributed(Dense(2)),
            GRU(3),
            Dense(2, activation="softmax"),
        ]
    )
    model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
    x, y = rng.integers(0, 9, (8, T)), rng.integers(0, 2, 8)
    model.fit(x, y, epochs=2, verbose=0)
    text: list[str] = []
    model.summary(print_fn=text.append)
    assert "bidirectional" in text[0]
    model.save(tmp_path / "m.safetensors")
    again = load_model(tmp_path / "m.safetensors")
    np.testing.assert_array_equal(again.predict(x, verbose=0), model.predict(x, verbose=0))
    assert again.train_on_batch(x, y) == model.train_on_batch(x, y)


def test_initial_weights() -> None:
    layer = LSTM(4)
    layer.build((None, 3, 2))
    kernel, recurrent, bias = layer.get_weights()
    np.testing.assert_array_equal(bias, np.repeat([0, 1, 0, 0], 4))
    np.testing.assert_allclose(recurrent @ recurrent.T, np.eye(4), atol=1e-5)
    assert np.abs(kernel).max() <= np.sqrt(6 / (2 + 16))
    plain = LSTM(4, unit_forget_bias=False, bias_initializer="ones")
    plain.build((None, 3, 2))
    np.testing.assert_array_equal(plain.get_weights()[2], np.ones(16))


@each_kind
def test_bad_input(kind: str, rng: np.random.Generator) -> None:
    for wrong in (0, -1, 2.5, None, "3"):
        with pytest.raises(ValueError, match=f"^{kind} layer '.*': units expects an integer >= 1"):
            make(kind, wrong)
    for name, value in (
        ("activation", "softmax"),
        ("activation", "nonsense"),
        ("dropout", 1.0),
        ("recurrent_dropout", -0.1),
        ("return_sequences", 1),
        ("kernel_constraint", "x"),
        ("seed", "a"),
        ("name", "a/b"),
    ):
        with pytest.raises(ValueError, match=f"^{kind} layer.*{name}"):
            make(kind, 3, **{name: value})
    layer = make(kind, name="r")
    x = sequences(rng)
    with pytest.raises(
        ValueError, match=rf"^{kind} layer 'r': expects an input of shape \(batch, steps"
    ):
        layer(x[0])
    with pytest.raises(ValueError, match=f"^{kind} layer 'r': expects at least one step"):
        layer(x[:, :0])
    with pytest.raises(ValueError, match=f"^{kind} layer 'r': .*known last axis of at least 1"):
        layer(x[..., :0])
    y = layer(x.astype(np.float64))  # converted once, as everywhere
    assert y.dtype == np.float32
    with pytest.raises(TypeError, match=f"^{kind} layer 'r': "):
        layer(x.astype(str))
    with pytest.raises(ValueError, match=f"^{kind} layer 'r': expects 4 features"):
        layer(x[..., :3])
    with pytest.raises(ValueError, match=f"^{kind} layer 'r': expects 4 features"):
        layer(Input((T, 3)))
    for states in ([np.zeros((N, U))] * 3, [np.zeros((N, U + 1))], [np.zeros((N - 1, U))]):
        with pytest.raises(ValueError, match=f"^{kind} layer 'r': initial_state expects arrays"):
            layer(x, initial_state=states)
    with pytest.raises(ValueError, match=f"^{kind} layer 'r': initial_state expects shapes"):
        layer(Input((T, D)), initial_state=[Input((U + 1,))])
    with pytest.raises(ValueError, match=f"^{kind} layer 'r': mask expects"):
        layer(x, mask=MASK[:, :2])
    with pytest.raises(ValueError, match=f"^{kind} layer 'r': mask expects"):
        layer(x, mask=MASK[:, 0])
    assert layer(x[:0]).shape == (0, U)


def test_arguments_of_wrappers() -> None:
    for wrong in (Dense(2), "lstm", None, [LSTMCell(2), 3]):
        with pytest.raises(TypeError, match="cell expects"):
            RNN(wrong)
    with pytest.raises(ValueError, match="at least one cell"):
        RNN([])
    for wrong in (Dense(2), LSTMCell(3), None):
        with pytest.raises(TypeError, match="Bidirectional: expects a recurrent layer"):
            Bidirectional(wrong)
    with pytest.raises(ValueError, match="merge_mode expects one of"):
        Bidirectional(LSTM(2), merge_mode="max")
    with pytest.raises(ValueError, match="different directions"):
        Bidirectional(LSTM(2), backward_layer=LSTM(2))
    with pytest.raises(ValueError, match="differ in return_sequences"):
        back = LSTM(2, go_backwards=True, return_sequences=True)
        Bidirectional(LSTM(2), backward_layer=back)
    with pytest.raises(ValueError, match="cannot merge outputs"):
        Bidirectional(LSTM(2), merge_mode="sum", backward_layer=GRU(3, go_backwards=True))(
            np.ones((1, 2, 3))
        )
    y = Bidirectional(LSTM(2), backward_layer=GRU(3, go_backwards=True))(np.ones((1, 2, 3)))
    assert y.shape == (1, 5)
    with pytest.raises(ValueError, match="use_cudnn"):
        LSTM(2, use_cudnn=True)
    with pytest.raises(ValueError, match="together with return_state"):
        LSTM(2, return_state=True, activity_regularizer="l2")
    assert LSTM(2, unroll=True, use_cudnn=False, implementation=1).unroll


def test_frozen_layers_and_penalties(rng: np.random.Generator) -> None:
    x = sequences(rng)
    layer = LSTM(U, kernel_regularizer="l2", activity_regularizer="l1")
    model = Sequential([Input((T, D)), layer, Dense(1)])
    model.compile("sgd", "mse")
    loss = model.test_on_batch(x, np.zeros((N, 1)))
    errors = np.mean(model.predict(x, verbose=0) ** 2)
    penalty = 0.01 * np.sum(layer.get_weights()[0] ** 2) + 0.01 * np.abs(layer(x)).sum() / N
    assert loss == pytest.approx(errors + penalty, rel=1e-4)
    layer.trainable = False
    model.compile("sgd", "mse")
    before = layer.get_weights()
    model.train_on_batch(x, np.ones((N, 1)))
    for old, new in zip(before, layer.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)
    assert len(model.trainable_weights) == 2
