"""Layers: every one put through `run_layer_test`, then what is special about each."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from layer_cases import CASES, IDS, STEP, Case, randomize

from lamella import activations, layers, ops
from lamella import random as lamella_random


@pytest.fixture(params=CASES, ids=IDS)
def case(request: pytest.FixtureRequest) -> Case:
    return request.param


def as_list(value: Any) -> list[Any]:
    return list(value) if isinstance(value, (list, tuple)) else [value]


def loss(layer: Any, x: Any, dy: np.ndarray, training: bool) -> float:
    return float(np.sum(layer.forward(x, training)[0].astype(np.float64) * dy))


def assert_slope(numeric: float, gradient: np.ndarray, direction: np.ndarray, what: str) -> None:
    terms = gradient.astype(np.float64) * direction
    assert abs(numeric - terms.sum()) <= 5e-3 * np.sqrt(np.sum(terms**2)) + 1e-3, what


def check_gradients(layer: Any, x: Any, training: bool, rng: np.random.Generator) -> None:
    """Finite differences along random directions, for the inputs and for each weight."""
    y, pullback = layer.forward(x, training)
    dy = rng.standard_normal(y.shape).astype(np.float32)
    for weight in layer.weights:
        weight.reset_gradient()
    result = pullback(dy)
    assert isinstance(result, tuple) == isinstance(x, list)
    gradients, inputs = as_list(result), as_list(x)
    assert len(gradients) == len(inputs)
    for position, (array, gradient) in enumerate(zip(inputs, gradients, strict=True)):
        assert gradient.dtype == np.float32 and gradient.shape == array.shape
        for _ in range(3):
            direction = rng.choice([-1.0, 1.0], array.shape).astype(np.float32)
            sides = []
            for sign in (STEP, -STEP):
                moved = list(inputs)
                moved[position] = array + np.float32(sign) * direction
                sides.append(loss(layer, moved if isinstance(x, list) else moved[0], dy, training))
            numeric = (sides[0] - sides[1]) / (2 * STEP)
            assert_slope(numeric, gradient, direction, f"input {position}")
    for weight in layer.trainable_weights:
        assert weight.gradient_written and weight.gradient.shape == weight.shape
        value = weight.numpy()
        for _ in range(3):
            direction = rng.choice([-1.0, 1.0], weight.shape).astype(np.float32)
            sides = []
            for sign in (STEP, -STEP):
                weight.assign(value + np.float32(sign) * direction)
                sides.append(loss(layer, x, dy, training))
            weight.assign(value)
            numeric = (sides[0] - sides[1]) / (2 * STEP)
            assert_slope(numeric, weight.gradient, direction, weight.name)


def check_weight_ownership(layer: Any, x: Any, rng: np.random.Generator) -> None:
    """In an owner's memory gradients are written in place the first time, then summed."""
    y, pullback = layer.forward(x, False)
    dy = rng.standard_normal(y.shape).astype(np.float32)
    for weight in layer.weights:
        weight.reset_gradient()
    pullback(dy)
    alone = [weight.gradient.copy() for weight in layer.trainable_weights]
    for weight in layer.trainable_weights:
        before = weight.numpy()
        weight.bind(np.zeros(weight.shape, np.float32), np.full(weight.shape, 9, np.float32))
        np.testing.assert_array_equal(weight.value, before)
    views = [weight.gradient for weight in layer.trainable_weights]
    np.testing.assert_array_equal(layer.call(x), y)
    for sign, total in ((1, 1), (-3, -2)):
        layer.forward(x, False)[1](np.float32(sign) * dy)
        for weight, view, expected in zip(layer.trainable_weights, views, alone, strict=True):
            assert weight.gradient is view
            np.testing.assert_allclose(view, total * expected, rtol=1e-4, atol=1e-5)
    layer.trainable = False
    for weight in layer.weights:
        weight.reset_gradient()
    layer.forward(x, False)[1](dy)
    assert not any(weight.gradient_written for weight in layer.weights)
    layer.trainable = True
    if not isinstance(x, list):
        layer.needs_input_gradient = False
        dx = layer.forward(x, False)[1](dy)
        assert all(weight.gradient_written for weight in layer.trainable_weights)
        if layer.weights:
            assert dx is None
        layer.needs_input_gradient = True


def check_errors(case: Case, layer: Any) -> None:
    label = f"{case.name} layer '{layer.name}'"
    if case.is_merging:
        with pytest.raises(ValueError, match=label):
            layer(np.ones((2, 3)))
        return
    wrong_rank = np.ones((2,) * (len(case.shapes[0]) + 2) if layer.input_axes[1] is not ... else ())
    with pytest.raises(ValueError, match=label):
        layer(wrong_rank)
    with pytest.raises(ValueError, match=label):
        layer([np.ones((2, 3)), np.ones((2, 3))])
    with pytest.raises(TypeError, match=label):
        layer(np.full((2, *case.shapes[0]), "a"))
    if layer.weights:
        channels = case.shapes[0][-1]
        wrong = (*case.shapes[0][:-1], channels + 1)
        with pytest.raises(ValueError, match=f"{label}.*expects {channels} "):
            layer(np.ones((2, *wrong)))
        with pytest.raises(ValueError, match=f"{label}.*expects {channels} "):
            layer(layers.Input(wrong))


def run_layer_test(case: Case, rng: np.random.Generator) -> None:
    """What every layer owes: config, shapes, dtypes, gradients, errors."""
    layer = case.layer(name="tested")
    config = json.loads(json.dumps(layer.get_config()))
    again = type(layer).from_config(config)
    assert json.loads(json.dumps(again.get_config())) == config
    assert config["name"] == "tested"

    output = symbols(case, layer)
    assert output.shape == (None, *case.output)
    assert layer.output is output and layer.built
    eager = case.layer()
    x = case.inputs(rng)
    y = eager(x, training=False)
    assert y.shape == (2, *case.output) and y.dtype == np.float32
    assert [(w.name, w.shape) for w in eager.weights] == [(w.name, w.shape) for w in layer.weights]
    assert layer.count_params() == sum(array.size for array in layer.get_weights())

    randomize(layer, rng)
    eager.set_weights(layer.get_weights())
    y = layer(x)
    np.testing.assert_array_equal(eager(x), y)
    as_float64 = [a.astype(np.float64) for a in as_list(x)]
    np.testing.assert_array_equal(layer(as_float64 if case.is_merging else as_float64[0]), y)
    np.testing.assert_array_equal(layer.forward(x, False)[0], y)

    empty = [a[:0] for a in as_list(x)]
    result, pullback = layer.forward(empty if case.is_merging else empty[0], False)
    assert result.shape == (0, *case.output)
    gradients = as_list(pullback(np.zeros_like(result)))
    assert [g.shape for g in gradients] == [a.shape for a in empty]

    check_gradients(layer, x, case.training, rng)
    check_weight_ownership(layer, x, rng)
    check_errors(case, layer)


def test_layer(case: Case, rng: np.random.Generator) -> None:
    run_layer_test(case, rng)


def test_layer_infers_unknown_sizes(case: Case) -> None:
    """With None for all sizes but the channels, what is known agrees with the real output."""
    if case.name in {"Flatten", "Dense", "ReLU", "LeakyReLU", "ELU"} or len(case.shapes[0]) < 2:
        pytest.skip("no axes between batch and channels")
    shapes = [(None,) * len(shape[:-1]) + shape[-1:] for shape in case.shapes]
    tensors = [layers.Input(shape) for shape in shapes]
    inferred = case.layer()(tensors if case.is_merging else tensors[0]).shape
    assert len(inferred) == len(case.output) + 1 and inferred[0] is None
    for size, real in zip(inferred[1:], case.output, strict=True):
        assert size in (None, real)


def test_every_layer_is_tested_alike() -> None:
    classes = {
        value.__name__
        for value in vars(layers).values()
        if isinstance(value, type) and issubclass(value, layers.Layer)
    }
    # Those that take indices or layers, or have states: tests/test_sequence_layers.py and
    # tests/test_recurrent_layers.py.
    elsewhere = {"Embedding", "TimeDistributed", "RNN", "Bidirectional"}
    elsewhere |= {f"{kind}{end}" for kind in ("SimpleRNN", "LSTM", "GRU") for end in ("", "Cell")}
    assert classes - {case.name for case in CASES} == {"Layer", "InputLayer"} | elsewhere


def symbols(case: Case, layer: Any) -> Any:
    tensors = [layers.Input(shape) for shape in case.shapes]
    return layer(tensors if case.is_merging else tensors[0])


# -- behaviour of single layers -------------------------------------------------------------------


def test_zero_padding_forms() -> None:
    x = np.ones((1, 2, 3, 1))
    assert layers.ZeroPadding2D(2)(x).shape == (1, 6, 7, 1)
    assert layers.ZeroPadding2D((1, 2))(x).shape == (1, 4, 7, 1)
    y = layers.ZeroPadding2D(((1, 0), (3, 2)))(x)[0, :, :, 0]
    np.testing.assert_array_equal(y, np.pad(np.ones((2, 3)), ((1, 0), (3, 2))))


@pytest.mark.parametrize("factor", [2, 3, 4])
def test_bilinear_upsampling_interpolates(factor: int, rng: np.random.Generator) -> None:
    x = rng.standard_normal((1, 1, 5, 1)).astype(np.float32)
    positions = (np.arange(5 * factor) + 0.5) / factor - 0.5
    expected = np.interp(positions, np.arange(5), x.ravel())
    along_width = layers.UpSampling2D((1, factor), interpolation="bilinear")(x)
    np.testing.assert_allclose(along_width.ravel(), expected, rtol=1e-5, atol=1e-6)
    along_height = layers.UpSampling2D((factor, 1), interpolation="bilinear")(x[:, 0, :, None])
    np.testing.assert_array_equal(along_height.ravel(), along_width.ravel())


def test_layers_pass_their_options_to_the_op(rng: np.random.Generator) -> None:
    x = rng.standard_normal((2, 9, 8, 4)).astype(np.float32)
    common = {"padding": "same", "activation": "tanh"}
    windows = {"kernel_size": (3, 2), "dilation_rate": (2, 3), **common}
    layer = layers.Conv2D(6, groups=2, **windows)
    y = layer(x)
    kernel, bias = layer.get_weights()
    expected = ops.conv2d(x, kernel, bias, dilation=(2, 3), groups=2, **common)
    np.testing.assert_array_equal(y, expected)
    layer = layers.Conv1D(6, 3, dilation_rate=2, groups=2, padding="causal", activation="tanh")
    y = layer(x[:, :, 0])
    kernel, bias = layer.get_weights()
    options = {"dilation": 2, "groups": 2, "padding": "causal", "activation": "tanh"}
    expected = ops.conv1d(np.ascontiguousarray(x[:, :, 0]), kernel, bias, **options)
    np.testing.assert_array_equal(y, expected)
    layer = layers.DepthwiseConv2D(depth_multiplier=3, **windows)
    y = layer(x)
    kernel, bias = layer.get_weights()
    expected = ops.conv2d(x, kernel.reshape(3, 2, 1, 12), bias, dilation=(2, 3), groups=4, **common)
    np.testing.assert_array_equal(y, expected)
    layer = layers.Conv2DTranspose(2, (2, 3), strides=(2, 4), output_padding=(1, 0), **common)
    y = layer(x)
    kernel, bias = layer.get_weights()
    expected = ops.conv2d_transpose(
        x, kernel, bias, strides=(2, 4), output_padding=(1, 0), **common
    )
    np.testing.assert_array_equal(y, expected)
    layer = layers.MaxPooling2D((3, 2), strides=(2, 1), padding="same")
    expected = ops.max_pool2d(x, pool_size=(3, 2), strides=(2, 1), padding="same")
    np.testing.assert_array_equal(layer(x), expected)


def test_batch_normalization_moves_its_statistics(rng: np.random.Generator) -> None:
    layer = layers.BatchNormalization(momentum=0.9)
    x = (rng.standard_normal((6, 5, 3)) * 3 + 1).astype(np.float32)
    y = layer(x, training=True)
    np.testing.assert_allclose(y.mean((0, 1)), 0, atol=1e-5)
    np.testing.assert_allclose(layer.moving_mean.value, 0.1 * x.mean((0, 1)), rtol=1e-4)
    variance = 0.9 + 0.1 * x.var((0, 1))
    np.testing.assert_allclose(layer.moving_variance.value, variance, rtol=1e-5)
    before = layer.get_weights()
    y = layer(x)
    expected = (x - before[2]) / np.sqrt(before[3] + 1e-3)
    np.testing.assert_allclose(y, expected, rtol=1e-4, atol=1e-5)
    layer.trainable = False
    np.testing.assert_array_equal(layer(x, training=True), y)
    np.testing.assert_array_equal(layer.call(x, True), y)
    for old, new in zip(before, layer.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)
    layer.trainable = True
    layer.call(x, True)
    assert not np.array_equal(layer.moving_mean.value, before[2])


def test_batch_normalization_refuses_an_empty_training_batch() -> None:
    layer = layers.BatchNormalization(name="bn")
    with pytest.raises(ValueError, match="BatchNormalization layer 'bn'"):
        layer(np.ones((0, 3)), training=True)


def test_dropout_masks(rng: np.random.Generator) -> None:
    x = rng.standard_normal((50, 40)).astype(np.float32)
    layer = layers.Dropout(0.25, seed=7)
    y, pullback = layer.forward(x, True)
    kept = y != 0
    assert 0.7 < kept.mean() < 0.8
    np.testing.assert_allclose(y[kept], x[kept] / 0.75, rtol=1e-6)
    dy = rng.standard_normal(x.shape).astype(np.float32)
    np.testing.assert_allclose(pullback(dy), np.where(kept, dy / 0.75, 0), rtol=1e-6)
    second = layer(x, training=True)
    assert not np.array_equal(second, y)
    again = layers.Dropout(0.25, seed=7)
    np.testing.assert_array_equal(again(x, training=True), y)
    np.testing.assert_array_equal(again.call(x, True), second)
    assert layer(x) is x

    lamella_random.set_seed(5)
    first = layers.Dropout(0.5)(x, training=True)
    lamella_random.set_seed(5)
    np.testing.assert_array_equal(layers.Dropout(0.5)(x, training=True), first)


def test_spatial_dropout_drops_whole_channels(rng: np.random.Generator) -> None:
    x = rng.random((20, 3, 4, 30)).astype(np.float32) + 1
    layer = layers.SpatialDropout2D(0.4, seed=1)
    y, pullback = layer.forward(x, True)
    kept = y[:, 0, 0] != 0
    assert 0.5 < kept.mean() < 0.7
    assert (kept != kept[0]).any()
    mask = kept[:, None, None] / np.float32(0.6)
    np.testing.assert_allclose(y, x * mask, rtol=1e-6)
    np.testing.assert_allclose(pullback(x), x * mask, rtol=1e-6)
    assert not np.array_equal(layer.call(x, True), y)


def test_softmax_layers_offer_their_logits(rng: np.random.Generator) -> None:
    x = rng.standard_normal((3, 4)).astype(np.float32)
    dense = layers.Dense(5, activation="softmax")
    y = dense(x)
    logits, pullback = dense.forward_logits(x, True)
    np.testing.assert_array_equal(ops.softmax(logits), y)
    dz = rng.standard_normal(logits.shape).astype(np.float32)
    np.testing.assert_allclose(pullback(dz), dz @ dense.kernel.value.T, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(dense.kernel.gradient, x.T @ dz, rtol=1e-5, atol=1e-6)
    for layer in (layers.Activation("softmax"), layers.Softmax(), layers.Softmax(axis=1)):
        layer.build((None, 4))
        assert layer.forward_logits(x, True)[0] is x
    last = layers.Softmax(axis=1)
    last.build((None, 3, 4))
    for layer in (last, layers.Dense(5), layers.Activation("relu"), layers.Flatten()):
        assert layer.forward_logits is None


def test_errors_of_ops_carry_the_layer() -> None:
    layer = layers.Conv2D(2, 5, name="c")
    layer.build((None, None, None, 3))
    with pytest.raises(ValueError, match=r"^Conv2D layer 'c': conv2d: "):
        layer(np.ones((1, 3, 3, 3)))


def test_a_layer_of_ones_own(rng: np.random.Generator) -> None:
    class Scale(layers.Layer):
        def build(self, input_shape: Any) -> None:
            self.scale = self.add_weight(shape=(input_shape[-1],), initializer="ones", name="scale")
            super().build(input_shape)

        def forward(self, x: Any, training: bool) -> Any:
            def pullback(dy: Any) -> Any:
                self.scale.add_gradient((dy * x).sum(axis=0))
                return dy * self.scale.value

            return x * self.scale.value, pullback

    layer = Scale()
    x = rng.standard_normal((4, 3)).astype(np.float32)
    np.testing.assert_array_equal(layer(x.tolist()), x)
    randomize(layer, rng)
    check_gradients(layer, x, True, rng)
    assert layer.built and layer.build_input_shape == (None, 3)
    with pytest.raises(NotImplementedError, match="must define compute_output_shape"):
        Scale()(layers.Input((3,)))
    with pytest.raises(NotImplementedError, match="must define forward"):
        layers.Layer()(x)


# -- activations ----------------------------------------------------------------------------------


def test_activation_identifiers() -> None:
    assert activations.get(None) is activations.linear
    assert activations.get("swish") is activations.silu
    assert activations.get(ops.relu) is activations.relu
    assert activations.get(ops.gelu) is activations.gelu_tanh
    assert activations.serialize(activations.gelu) == "gelu"
    with pytest.raises(ValueError, match="a name or a function"):
        activations.get(3)

    def double(x: Any) -> Any:
        return 2 * x

    double.vjp = lambda x: (2 * x, lambda dy: (2 * dy,))  # type: ignore[attr-defined]
    layer = layers.Dense(2, activation=double)
    x = np.ones((1, 3), np.float32)
    np.testing.assert_allclose(layer(x), 2 * (x @ layer.kernel.value), rtol=1e-6)
    config = layer.get_config()
    assert config["activation"] == "double"
    again = layers.Dense.from_config(config, custom_objects={"double": double})
    assert again.activation is double


def test_gelu_is_exact_unless_asked() -> None:
    x = np.float32([1.5])
    np.testing.assert_array_equal(activations.gelu(x), ops.gelu(x, approximate=False))
    assert activations.gelu(x) != activations.gelu_tanh(x)
