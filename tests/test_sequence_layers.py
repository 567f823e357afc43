"""Layers around sequences that take indices or other layers: Embedding, TimeDistributed."""

from __future__ import annotations

import inspect
import json
from typing import Any

import numpy as np
import pytest
from keras_peer import import_keras

import lamella
from lamella import layers, ops
from lamella.layers import Dense, Embedding, Flatten, Input, TimeDistributed
from lamella.models import Model, Sequential, clone_model, load_model
from lamella.optimizers import Adam

TOLERANCE = {"rtol": 2e-5, "atol": 1e-5}


@pytest.fixture(scope="module")
def keras() -> Any:
    return import_keras()


# -- Embedding ------------------------------------------------------------------------------------


def test_embedding_values_gradients_and_config(rng: np.random.Generator) -> None:
    layer = Embedding(7, 3, embeddings_regularizer="l2", mask_zero=True, name="words")
    x = rng.integers(7, size=(4, 5))
    y = layer(x)
    table = layer.get_weights()[0]
    assert [w.path for w in layer.weights] == ["words/embeddings"]
    assert layer.count_params() == 21
    np.testing.assert_array_equal(y, table[x])
    y, pullback = layer.forward(x, True)
    dy = rng.standard_normal(y.shape).astype(np.float32)
    assert pullback(dy) is None
    expected = np.zeros_like(table)
    np.add.at(expected, x, dy)
    np.testing.assert_allclose(layer.embeddings.gradient, expected, rtol=1e-5, atol=1e-5)
    layer.trainable = False
    layer.embeddings.reset_gradient()
    assert layer.forward(x, True)[1](dy) is None
    assert layer.embeddings.gradient is None

    config = json.loads(json.dumps(layer.get_config()))
    again = Embedding.from_config(config)
    assert json.loads(json.dumps(again.get_config())) == config
    assert again.mask_zero and again.embeddings_regularizer.l2 == pytest.approx(0.01)
    assert layer.compute_output_shape((None, 5)) == (None, 5, 3)


@pytest.mark.parametrize("dtype", [np.int32, np.int64, np.uint8, np.int16, np.float32, np.float64])
def test_embedding_takes_whole_numbers(dtype: Any) -> None:
    layer = Embedding(5, 2)
    x = np.array([[0, 4], [2, 1]])
    expected = layer(x)
    np.testing.assert_array_equal(layer(x.astype(dtype)), expected)
    np.testing.assert_array_equal(layer(x.tolist()), expected)
    model = Sequential([layer])
    np.testing.assert_array_equal(model.predict(x.astype(dtype), verbose=0), expected)


@pytest.mark.parametrize("wrong", [0.5, np.nan, np.inf, 1e19])
def test_embedding_refuses_other_numbers(wrong: float) -> None:
    layer = Embedding(5, 2, name="e")
    with pytest.raises(ValueError, match=r"Embedding layer 'e': .*expects whole numbers"):
        layer(np.array([[1.0, wrong]]))
    model = Sequential([layer], name="m")
    with pytest.raises(ValueError, match="model 'm': x expects whole numbers"):
        model.predict(np.array([[1.0, wrong]]), verbose=0)
    with pytest.raises(TypeError, match=r"Embedding layer 'e': .*expects whole numbers"):
        layer(np.array([["a"]]))


def test_embedding_indices_out_of_range(rng: np.random.Generator) -> None:
    model = Sequential([Embedding(5, 2, name="e", input_length=3), Flatten(), Dense(1)])
    model.compile("adam", "mse")
    before = model.get_weights()
    message = r"^Embedding layer 'e': embedding: indices must lie in \[0, 5\), got 5 at .*\(1, 2\)"
    x = np.array([[0, 1, 2], [3, 4, 5]])
    for call in (
        lambda: model.predict(x, verbose=0),
        lambda: model.train_on_batch(x, np.zeros((2, 1))),
        lambda: model.layers[0](x),
    ):
        with pytest.raises(IndexError, match=message):
            call()
    # The data is checked as a whole before the first step.
    many = np.zeros((100, 3), np.int64)
    many[99, 1] = 5
    whole = r"x expects indices in \[0, 5\), received values from 0 to 5"
    for options in ({}, {"validation_split": 0.1}):
        with pytest.raises(IndexError, match=whole):
            model.fit(many, np.zeros((100, 1)), batch_size=4, shuffle=False, verbose=0, **options)
    for old, new in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)


def test_embedding_arguments() -> None:
    for wrong in (0, -1, 2.5, "3", None):
        with pytest.raises(ValueError, match="input_dim expects an integer >= 1"):
            Embedding(wrong, 2)
        with pytest.raises(ValueError, match="output_dim expects an integer >= 1"):
            Embedding(2, wrong)
    with pytest.raises(ValueError, match="mask_zero expects True or False"):
        Embedding(2, 2, mask_zero="yes")
    for name in ("embeddings_constraint", "lora_rank", "quantization_config"):
        with pytest.raises(ValueError, match=f"{name} is not supported"):
            Embedding(2, 2, **{name: 4})
    with pytest.raises(ValueError, match=r"weights expects numbers of shape \(2, 3\)"):
        Embedding(2, 3, weights=np.ones((3, 2)))
    table = np.arange(6.0).reshape(2, 3)
    np.testing.assert_array_equal(Embedding(2, 3, weights=[table])([1, 0]), table[[1, 0]])
    assert Embedding(9, 4, input_length=6).batch_input_shape == (None, 6)
    assert Sequential([Embedding(9, 4, input_length=6)]).output_shape == (None, 6, 4)


def test_integers_reach_embedding_unconverted(monkeypatch: pytest.MonkeyPatch) -> None:
    """2**24 + 1 is no float32: a detour over floats would give another row, or none."""
    seen = []
    original = ops.embedding

    def spy(indices: np.ndarray, table: np.ndarray) -> np.ndarray:
        seen.append(indices)
        return original(indices, table)

    monkeypatch.setattr(ops, "embedding", spy)
    model = Sequential([Embedding(2**24 + 3, 1, "zeros", input_length=2)])
    x = np.array([[2**24 + 1, 1]])
    assert model.predict_on_batch(x).shape == (1, 2, 1)
    assert seen[0] is x  # not even copied
    model.predict_on_batch(x.astype(np.int32))
    assert seen[1].dtype == np.int32
    model.predict(np.concatenate([x, x]), batch_size=1, verbose=0)
    assert seen[2].dtype == np.int64 and (seen[2] == x).all()


def test_which_inputs_are_indices() -> None:
    x = Input((6,))
    embed = Embedding(5, 2)
    assert Model(x, embed(layers.Reshape((2, 3))(x)))._input_dtypes == ["indices"]
    assert Model(x, [embed(x), Dense(1)(x)])._input_dtypes == ["float32"]
    assert Model(x, [embed(x), x])._input_dtypes == ["float32"]
    inner = Model(x, Flatten()(embed(x)))
    assert Model(x, inner(x))._input_dtypes == ["indices"]
    y = Input((6,), dtype="int32")
    assert Model(y, embed(y))._input_dtypes == ["int32"]
    z = Input((4, 6))
    assert Model(z, TimeDistributed(embed)(z))._input_dtypes == ["indices"]
    assert Model(z, TimeDistributed(inner)(z))._input_dtypes == ["indices"]
    both = Model(x, [embed(x), Dense(1)(x)])
    y1, _ = both(np.full((1, 6), 3))
    np.testing.assert_array_equal(y1, embed(np.full((1, 6), 3)))
    with pytest.raises(TypeError, match="expects integers"):
        Model(y, embed(y)).predict(np.ones((1, 6)), verbose=0)


def test_embedding_trains_and_is_saved(tmp_path: Any, rng: np.random.Generator) -> None:
    model = Sequential(
        [Embedding(20, 4, mask_zero=True), layers.GlobalAveragePooling1D(), Dense(2)], name="m"
    )
    model.compile(Adam(0.05), lamella.losses.SparseCategoricalCrossentropy(from_logits=True))
    x = rng.integers(20, size=(64, 7))
    y = (x == 3).any(axis=1).astype(np.int64)
    history = model.fit(x, y, epochs=40, verbose=0, batch_size=16).history["loss"]
    assert history[-1] < 0.5 * history[0]
    text: list[str] = []
    model.summary(print_fn=text.append)
    assert "embedding" in text[0] and "80" in text[0]
    model.save(tmp_path / "m.safetensors")
    again = load_model(tmp_path / "m.safetensors")
    np.testing.assert_array_equal(again.predict(x, verbose=0), model.predict(x, verbose=0))
    assert again.train_on_batch(x, y) == model.train_on_batch(x, y)
    clone = clone_model(model)
    assert [w.shape for w in clone.weights] == [w.shape for w in model.weights]


def test_embedding_against_keras(keras: Any, rng: np.random.Generator) -> None:
    theirs = keras.layers.Embedding(6, 3, embeddings_regularizer="l2", mask_zero=True, name="n")
    ours = Embedding.from_config(theirs.get_config())
    x = rng.integers(6, size=(4, 5))
    theirs(x)
    ours(x)
    assert [(w.name, w.shape) for w in ours.weights] == [(w.name, w.shape) for w in theirs.weights]
    theirs.set_weights(ours.get_weights())
    np.testing.assert_allclose(ours(x), np.asarray(theirs(x)), **TOLERANCE)
    np.testing.assert_array_equal(ours.compute_mask(x), np.asarray(theirs.compute_mask(x)))
    parameters = inspect.signature(Embedding).parameters
    for name, parameter in inspect.signature(keras.layers.Embedding.__init__).parameters.items():
        if name not in ("self", "kwargs"):
            assert parameters[name].default == parameter.default
    mine, other = Embedding(3, 2, name="n").get_config(), keras.layers.Embedding(3, 2, name="n")
    for key, value in other.get_config().items():
        if key in mine and key != "dtype" and not isinstance(value, dict):
            assert mine[key] == value, key


# -- TimeDistributed ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "shape"),
    [
        (lambda m: m.layers.Dense(4, activation="softmax"), (5, 3)),
        (lambda m: m.layers.Conv2D(2, 3), (3, 6, 5, 2)),
        (lambda m: m.layers.BatchNormalization(), (3, 4)),
        (lambda m: m.layers.Flatten(), (3, 4, 2)),
    ],
)
def test_time_distributed_against_keras(
    keras: Any, make: Any, shape: Any, rng: np.random.Generator
) -> None:
    ours, theirs = TimeDistributed(make(lamella)), keras.layers.TimeDistributed(make(keras))
    x = rng.standard_normal((2, *shape)).astype(np.float32)
    y = ours(x)
    theirs(x)
    assert [w.shape for w in ours.weights] == [w.shape for w in theirs.weights]
    theirs.set_weights(ours.get_weights())
    np.testing.assert_allclose(y, np.asarray(theirs(x)), **TOLERANCE)
    assert ours.compute_output_shape((None, *shape)) == (None, *y.shape[1:])
    assert ours(Input(shape)).shape == tuple(theirs(keras.Input(shape)).shape)
    assert ours(Input((None, *shape[1:]))).shape == (None, None, *y.shape[2:])


def test_time_distributed_is_the_layer_at_each_step(rng: np.random.Generator) -> None:
    inner = Dense(4, activation="tanh", activity_regularizer="l2")
    layer = TimeDistributed(inner, name="td")
    x = rng.standard_normal((2, 5, 3)).astype(np.float32)
    y, pullback = layer(x), None
    np.testing.assert_allclose(y, np.stack([inner.call(x[:, t]) for t in range(5)], axis=1))
    y, pullback = layer.forward(x, True)
    dx = pullback(np.ones_like(y))
    plain = Dense(4, activation="tanh", activity_regularizer="l2")
    plain(x)
    plain.set_weights(inner.get_weights())
    plain_dx = plain.forward(x, True)[1](np.ones_like(y))
    np.testing.assert_allclose(dx, plain_dx, rtol=0.1, atol=0.1)
    assert layer.trainable_weights == inner.trainable_weights
    layer.trainable = False
    assert not layer.trainable_weights and not inner.trainable
    assert len(layer.non_trainable_weights) == 2 and layer.count_params() == 16
    assert layer.forward(x[:0], True)[0].shape == (0, 5, 4)


def test_time_distributed_in_a_model(tmp_path: Any, rng: np.random.Generator) -> None:
    model = Sequential(
        [
            TimeDistributed(
                Dense(6, activation="relu", kernel_regularizer="l2"), input_shape=(4, 3)
            ),
            TimeDistributed(Dense(3, activation="softmax")),
        ]
    )
    plain = Sequential(
        [Dense(6, activation="relu", kernel_regularizer="l2", input_shape=(4, 3)),
         Dense(3, activation="softmax")]
    )  # fmt: skip
    plain.set_weights(model.get_weights())
    x, y = rng.standard_normal((8, 4, 3)), rng.integers(3, size=(8, 4))
    for each in (model, plain):
        each.compile("sgd", "sparse_categorical_crossentropy", metrics=["accuracy"])
        each.fit(x, y, epochs=2, verbose=0, shuffle=False)
    for mine, other in zip(model.get_weights(), plain.get_weights(), strict=True):
        np.testing.assert_allclose(mine, other, rtol=1e-5, atol=1e-6)
    assert model._ready_state().logits == {0}
    model.save(tmp_path / "m.safetensors")
    again = load_model(tmp_path / "m.safetensors")
    np.testing.assert_array_equal(again.predict(x, verbose=0), model.predict(x, verbose=0))
    assert clone_model(model).count_params() == model.count_params()


def test_penalties_on_the_output_of_a_layer_inside() -> None:
    inner = Dense(2, activity_regularizer="l1", kernel_initializer="ones", use_bias=False)
    model = Sequential([TimeDistributed(inner, input_shape=(3, 1))])
    model.compile("sgd", "mse")
    x = np.ones((2, 3, 1), np.float32)
    # l1 of 12 outputs of 1, 0.01 each, over the 6 rows the layer saw.
    assert model.test_on_batch(x, np.ones((2, 3, 2))) == pytest.approx(0.02)
    assert model.train_on_batch(x, np.ones((2, 3, 2))) == pytest.approx(0.02)


def test_time_distributed_arguments() -> None:
    for wrong in (Dense, "dense", None):
        with pytest.raises(TypeError, match="layer expects a layer"):
            TimeDistributed(wrong)
    with pytest.raises(ValueError, match=r"expects an input of shape \(batch, steps, features"):
        TimeDistributed(Dense(2))(np.ones((2, 3)))
    layer = TimeDistributed(Dense(2))
    layer(np.ones((2, 4, 3)))
    with pytest.raises(ValueError, match="expects 3 features"):
        layer(np.ones((2, 4, 5)))
