"""LayerNormalization, RMSNormalization, GroupNormalization and UnitNormalization, beside what
`run_layer_test` asks of all layers."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import numpy as np
import pytest
from keras_peer import import_keras
from layer_cases import randomize

from lamella import layers, ops
from lamella.layers import (
    Dense,
    Flatten,
    GroupNormalization,
    Input,
    LayerNormalization,
    RMSNormalization,
    UnitNormalization,
)
from lamella.models import Model, Sequential, load_model
from lamella.optimizers import Adam

# Float32 in another order of summation, on sums of at most 120 terms of size 1.
TOLERANCE = {"rtol": 2e-5, "atol": 1e-5}
SHAPE = (3, 5, 4, 6)
AXES = [-1, 3, 1, (1, 2, 3), [2, 3], (3, 1), [-2, -1]]


def draw(rng: np.random.Generator, shape: tuple[int, ...] = SHAPE) -> np.ndarray:
    return (rng.standard_normal(shape) * 2 + 1).astype(np.float32)


@pytest.fixture(scope="module")
def keras() -> ModuleType:
    return import_keras()


@pytest.mark.parametrize("axis", AXES, ids=str)
def test_axes(axis: Any, rng: np.random.Generator) -> None:
    """The weights have the sizes of x along the axes, in their order there."""
    x = draw(rng)
    positions = sorted(a % 4 for a in ([axis] if isinstance(axis, int) else axis))
    sizes = tuple(SHAPE[a] for a in positions)
    layer = LayerNormalization(axis=axis, epsilon=0.01)
    layer.build((None, *SHAPE[1:]))
    assert [(w.name, w.shape) for w in layer.weights] == [("gamma", sizes), ("beta", sizes)]
    randomize(layer, rng)
    option = axis if isinstance(axis, int) else tuple(axis)
    expected = ops.layer_norm(x, *layer.get_weights(), axis=option, epsilon=0.01)
    np.testing.assert_array_equal(layer(x), expected)
    np.testing.assert_array_equal(layer(x, training=True), expected)

    layer = RMSNormalization(axis=axis)
    layer.build((None, *SHAPE[1:]))
    assert [(w.name, w.shape) for w in layer.weights] == [("scale", sizes)]
    randomize(layer, rng)
    np.testing.assert_array_equal(layer(x), ops.rms_norm(x, *layer.get_weights(), axis=option))

    lengths = np.sqrt((UnitNormalization(axis=axis)(x) ** 2).sum(axis=tuple(positions)))
    np.testing.assert_allclose(lengths, 1.0, rtol=1e-6)


def test_a_built_layer_refuses_other_sizes() -> None:
    layer = LayerNormalization(axis=1)
    layer.build((None, 5, 6))
    assert layer(np.ones((2, 5, 9))).shape == (2, 5, 9)
    for tensor in (np.ones((2, 4, 6)), Input((4, 6))):
        with pytest.raises(ValueError, match="expects 5 elements along axis 1, as it was built"):
            layer(tensor)
    assert layer(Input((None, 6))).shape == (None, None, 6)


def test_groups(rng: np.random.Generator) -> None:
    x = draw(rng)
    for groups, used in ((2, 2), (1, 1), (6, 6), (-1, 6)):
        layer = GroupNormalization(groups, epsilon=0.01)
        layer.build(x.shape)
        randomize(layer, rng)
        expected = ops.group_norm(x, *layer.get_weights(), groups=used, epsilon=0.01)
        np.testing.assert_array_equal(layer(x), expected)
        assert layer.get_config()["groups"] == groups


def test_unit_normalization_of_small_and_large_vectors(rng: np.random.Generator) -> None:
    x = draw(rng, (4, 7)) * np.float32([[1e-9], [1], [1e9], [0]])
    y, pullback = UnitNormalization().forward(x, True)
    length = np.sqrt((x.astype(np.float64) ** 2).sum(axis=-1, keepdims=True))
    expected = x / np.where(length > 0, length, 1.0)
    np.testing.assert_allclose(y, expected, rtol=1e-6, atol=1e-7)
    dy = draw(rng, (4, 7))
    projected = dy - expected * (dy * expected).sum(axis=-1, keepdims=True)
    with np.errstate(divide="ignore"):
        right = (projected / length)[:3]
    np.testing.assert_allclose(pullback(dy)[:3], right, rtol=1e-4, atol=1e-6 / length[:3].min())


def test_penalties(rng: np.random.Generator) -> None:
    layer = LayerNormalization(gamma_regularizer="l2", beta_regularizer="l1")
    layer.build((None, 3))
    randomize(layer, rng)
    gamma, beta = layer.get_weights()
    expected = [0.01 * (gamma**2).sum(), 0.01 * np.abs(beta).sum()]
    assert layer.losses == pytest.approx(expected, rel=1e-5)


def build_model() -> Model:
    x = Input((6, 8))
    y = LayerNormalization(axis=(1, 2))(Dense(8, activation="tanh")(x))
    y = GroupNormalization(4)(RMSNormalization()(y))
    y = UnitNormalization()(y)
    return Model(x, Dense(1)(Flatten()(y)))


def test_training_and_saving(tmp_path: Any, rng: np.random.Generator) -> None:
    model = build_model()
    x = rng.standard_normal((64, 6, 8)).astype(np.float32)
    target = x[:, :, :4].sum(axis=(1, 2), keepdims=False)[:, None] / 5
    model.compile(Adam(0.02), "mse")
    before = model.get_weights()
    history = model.fit(x, target, epochs=30, batch_size=16, verbose=0).history["loss"]
    assert history[-1] < 0.5 * history[0]
    assert all(not np.array_equal(a, b) for a, b in zip(before, model.get_weights(), strict=True))
    path = tmp_path / "model.safetensors"
    model.save(path)
    again = load_model(path)
    np.testing.assert_array_equal(again.predict(x, verbose=0), model.predict(x, verbose=0))


def test_frozen_below(rng: np.random.Generator) -> None:
    """A normalization that is not trained passes gradients on, and keeps its weights."""
    model = Sequential([Dense(4, input_shape=(3,)), LayerNormalization(), Dense(1)])
    model.layers[1].trainable = False
    model.compile("sgd", "mse")
    before = model.get_weights()
    model.train_on_batch(draw(rng, (5, 3)), draw(rng, (5, 1)))
    changed = [not np.array_equal(a, b) for a, b in zip(before, model.get_weights(), strict=True)]
    assert changed == [True, True, False, False, True, True]


# -- Keras ------------------------------------------------------------------------------------


# Keras' RMSNormalization raises unless the axes are the last ones.
TRAILING = [-1, (1, 2, 3), [2, 3]]
KERAS_AXES = [("RMSNormalization", axis) for axis in TRAILING] + [
    (name, axis)
    for name in ("LayerNormalization", "UnitNormalization")
    for axis in (*TRAILING, 1, [1, 3])
]


@pytest.mark.parametrize(("name", "axis"), KERAS_AXES, ids=str)
def test_axes_as_keras(keras: ModuleType, name: str, axis: Any, rng: np.random.Generator) -> None:
    x = draw(rng)
    ours, theirs = (getattr(module, name)(axis=axis) for module in (layers, keras.layers))
    ours(x)
    theirs(x)
    assert [(w.name, w.shape) for w in ours.weights] == [(w.name, w.shape) for w in theirs.weights]
    randomize(ours, rng)
    theirs.set_weights(ours.get_weights())
    np.testing.assert_allclose(ours(x), np.asarray(theirs(x)), **TOLERANCE)


def test_gradients_as_keras(keras: ModuleType, rng: np.random.Generator) -> None:
    import jax

    x = draw(rng)
    dy = draw(rng)
    for name, arguments in (
        ("LayerNormalization", {"axis": [1, 3]}),
        ("LayerNormalization", {}),
        ("RMSNormalization", {"axis": (2, 3)}),
        ("GroupNormalization", {"groups": 3}),
        ("GroupNormalization", {"groups": -1}),
        ("UnitNormalization", {"axis": 1}),
    ):
        ours, theirs = (getattr(m, name)(**arguments) for m in (layers, keras.layers))
        ours(x)
        theirs(x)
        randomize(ours, rng)

        def loss(x: Any, weights: Any, layer: Any = theirs) -> Any:
            y, _ = layer.stateless_call(weights, [], x)
            return (y * dy).sum()

        right_dx, right = jax.grad(loss, argnums=(0, 1))(x, ours.get_weights())
        dx = ours.forward(x, True)[1](dy)
        np.testing.assert_allclose(dx, right_dx, rtol=1e-4, atol=1e-5, err_msg=name)
        for weight, expected in zip(ours.weights, right, strict=True):
            np.testing.assert_allclose(
                weight.gradient, expected, rtol=1e-4, atol=1e-4, err_msg=weight.path
            )


def test_their_configs_make_our_layers(keras: ModuleType) -> None:
    for name, arguments in (
        ("LayerNormalization", {"axis": [1, 2], "epsilon": 0.5, "gamma_regularizer": "l2"}),
        ("RMSNormalization", {"axis": -1, "epsilon": 0.5}),
        ("GroupNormalization", {"groups": -1, "scale": False}),
        ("UnitNormalization", {"axis": [2]}),
    ):
        config = getattr(keras.layers, name)(**arguments, name="n").get_config()
        ours = getattr(layers, name).from_config(config)
        assert ours.name == "n"
        for argument, value in arguments.items():
            if argument != "gamma_regularizer":
                assert getattr(ours, argument) == value
