"""Transformer blocks against blocks composed of Keras' layers; masks, files, and steps by cache."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from keras_peer import import_keras
from layer_cases import randomize

from lamella import layers
from lamella.layers import (
    GroupedQueryAttention,
    Input,
    MultiHeadAttention,
    TransformerDecoder,
    TransformerEncoder,
)
from lamella.models import Model, Sequential, clone_model, load_model
from lamella.utils import set_random_seed

N, T, L, D = 3, 5, 4, 6
TOLERANCE = {"rtol": 1e-4, "atol": 2e-5}
PADDED = np.arange(T) < np.array([[5], [3], [1]])
SOURCE = np.array([[1, 0, 1, 1], [1, 1, 0, 0], [0, 1, 0, 1]], bool)
BLOCK: dict[str, Any] = {"intermediate_dim": 8, "num_heads": 2}
either = pytest.mark.parametrize("normalize_first", [False, True])


def draw(rng: np.random.Generator, *shape: int) -> np.ndarray:
    return rng.standard_normal(shape).astype(np.float32)


def keras_block(keras: Any, ours: Any, x: Any, z: Any = None, **masks: Any) -> Any:
    """What Keras' layers, put together as the block, give with its weights."""
    weights = iter(ours.get_weights())

    def load(layer: Any, *inputs: Any, **options: Any) -> Any:
        layer(*inputs, **options)
        layer.set_weights([next(weights) for _ in layer.get_weights()])
        return layer

    k = keras.layers
    size = D // ours.num_heads
    attend = load(k.MultiHeadAttention(ours.num_heads, size), x, x)
    norms = [load(k.LayerNormalization(epsilon=ours.layer_norm_epsilon), x)]
    decodes = isinstance(ours, TransformerDecoder)
    options = {"use_causal_mask": True} if decodes else {}
    itself = lambda a: attend(a, a, attention_mask=masks.get("own"), **options)  # noqa: E731
    branches = [itself]
    if z is not None:
        cross = load(k.MultiHeadAttention(ours.num_heads, size), x, z)
        branches.append(lambda a: cross(a, z, attention_mask=masks.get("other")))
        norms.append(load(k.LayerNormalization(epsilon=ours.layer_norm_epsilon), x))
    if not decodes:
        norms.append(load(k.LayerNormalization(epsilon=ours.layer_norm_epsilon), x))
    inner = load(k.Dense(ours.intermediate_dim, activation="relu"), x)
    outer = load(k.Dense(D), inner(x))
    if decodes:
        norms.append(load(k.LayerNormalization(epsilon=ours.layer_norm_epsilon), x))
    branches.append(lambda a: outer(inner(a)))
    for branch, norm in zip(branches, norms, strict=True):
        x = branch(norm(x)) + x if ours.normalize_first else norm(branch(x) + x)
    return np.asarray(x)


@either
def test_values_against_keras(normalize_first: bool, rng: np.random.Generator) -> None:
    keras = import_keras()
    x, z = draw(rng, N, T, D), draw(rng, N, L, D + 1)
    seen = rng.random((N, T, T)) < 0.6
    seen[..., 0] = True
    encoder = TransformerEncoder(**BLOCK, normalize_first=normalize_first)
    encoder(x)
    randomize(encoder, rng)
    np.testing.assert_allclose(encoder(x), keras_block(keras, encoder, x), **TOLERANCE)
    expected = keras_block(keras, encoder, x, own=seen & PADDED[:, np.newaxis])
    y = encoder(x, padding_mask=PADDED, attention_mask=seen)
    np.testing.assert_allclose(y, expected, **TOLERANCE)

    decoder = TransformerDecoder(**BLOCK, normalize_first=normalize_first)
    decoder(x)
    randomize(decoder, rng)
    np.testing.assert_allclose(decoder(x), keras_block(keras, decoder, x), **TOLERANCE)
    decoder = TransformerDecoder(**BLOCK, normalize_first=normalize_first)
    decoder(x, z)
    randomize(decoder, rng)
    np.testing.assert_allclose(decoder(x, z), keras_block(keras, decoder, x, z), **TOLERANCE)
    other = np.broadcast_to(SOURCE[:, np.newaxis], (N, T, L))
    expected = keras_block(keras, decoder, x, z, own=seen, other=other)
    y = decoder(x, z, decoder_attention_mask=seen, encoder_padding_mask=SOURCE)
    np.testing.assert_allclose(y, expected, **TOLERANCE)
    y = decoder(x, z, decoder_attention_mask=seen, encoder_attention_mask=other)
    np.testing.assert_allclose(y, expected, **TOLERANCE)
    assert not np.allclose(decoder(x, z), decoder(x, z, use_causal_mask=False))


@either
def test_gradients_with_an_encoder(normalize_first: bool, rng: np.random.Generator) -> None:
    layer = TransformerDecoder(**BLOCK, activation="tanh", normalize_first=normalize_first)
    inputs = [draw(rng, N, T, D), draw(rng, N, L, D)]
    layer(*inputs)
    randomize(layer, rng)
    given = ("encoder_sequence", "encoder_padding_mask")
    y, pull = layer.forward([*inputs, SOURCE], True, given=given)
    dy = draw(rng, *y.shape)
    gradients = pull(dy)
    assert gradients[2] is None
    assert not gradients[1][~SOURCE].any()

    def loss(values: list[np.ndarray]) -> float:
        result = layer.forward([*values, SOURCE], False, given=given)[0]
        return float(np.sum(result.astype(np.float64) * dy))

    for position in (0, 1):
        direction = rng.choice([-1.0, 1.0], inputs[position].shape).astype(np.float32)
        sides = []
        for sign in (1e-2, -1e-2):
            moved = list(inputs)
            moved[position] = inputs[position] + np.float32(sign) * direction
            sides.append(loss(moved))
        terms = gradients[position].astype(np.float64) * direction
        numeric = (sides[0] - sides[1]) / 2e-2
        assert abs(numeric - terms.sum()) <= 1e-2 * np.sqrt(np.sum(terms**2)) + 5e-3
    for weight in layer.trainable_weights:
        value = weight.numpy()
        direction = rng.choice([-1.0, 1.0], weight.shape).astype(np.float32)
        sides = []
        for sign in (5e-3, -5e-3):
            weight.assign(value + np.float32(sign) * direction)
            sides.append(loss(inputs))
        weight.assign(value)
        terms = weight.gradient.astype(np.float64) * direction
        numeric = (sides[0] - sides[1]) / 1e-2
        assert abs(numeric - terms.sum()) <= 1e-2 * np.sqrt(np.sum(terms**2)) + 5e-3, weight.path
    layer.trainable = False
    for weight in layer.weights:
        weight.reset_gradient()
    again = layer.forward([*inputs, SOURCE], True, given=given)[1](dy)
    for first, second in zip(again, gradients, strict=True):
        np.testing.assert_array_equal(first, second)
    assert not any(weight.gradient_written for weight in layer.weights)


@either
def test_scores_of_the_encoder(normalize_first: bool, rng: np.random.Generator) -> None:
    x = draw(rng, N, T, D)
    layer = TransformerEncoder(**BLOCK, normalize_first=normalize_first)
    y, scores = layer(x, padding_mask=PADDED, return_attention_scores=True)
    assert scores.shape == (N, 2, T, T)
    np.testing.assert_array_equal(
        scores > 0, np.broadcast_to(PADDED[:, np.newaxis, np.newaxis], scores.shape)
    )
    np.testing.assert_array_equal(layer(x, padding_mask=PADDED), y)
    (y, _), pull = layer.forward([x], True, return_attention_scores=True)
    plain = layer.forward([x], True)[1](y)[0]
    np.testing.assert_allclose(pull((y, None))[0], plain, **TOLERANCE)
    assert pull((None, scores))[0].any()


@either
@pytest.mark.parametrize("kind", [TransformerEncoder, TransformerDecoder])
def test_masks_flow(kind: Any, normalize_first: bool, rng: np.random.Generator) -> None:
    """Sequences of a batch are what they are alone, without padding."""
    words = rng.integers(1, 9, (N, T))
    words[~PADDED] = 0
    x = Input((None,), dtype="int32")
    embedded = layers.Embedding(9, D, mask_zero=True)(x)
    block = kind(**BLOCK, normalize_first=normalize_first)
    y = block(embedded)
    model = Model(x, [y, layers.LSTM(2)(y)])
    whole, last = model.predict(words, verbose=0)
    alone, last_alone = model.predict(words[1:2, :3], verbose=0)
    np.testing.assert_allclose(whole[1:2, :3], alone, **TOLERANCE)
    np.testing.assert_allclose(last[1:2], last_alone, **TOLERANCE)


def test_encoder_and_decoder_in_a_model(tmp_path: Path, rng: np.random.Generator) -> None:
    set_random_seed(1)
    words, others = rng.integers(1, 9, (N, L)), rng.integers(1, 9, (N, T))
    words[~SOURCE] = 0
    source, target = Input((L,), dtype="int32"), Input((T,), dtype="int32")
    embed = layers.Embedding(9, D, mask_zero=True)
    z = TransformerEncoder(**BLOCK, dropout=0.1)(embed(source))
    y = TransformerDecoder(**BLOCK, dropout=0.1)(embed(target), z)
    model = Model([source, target], layers.Dense(9, activation="softmax")(y))
    expected = model.predict([words, others], verbose=0)
    path = tmp_path / "m.safetensors"
    model.save(path)
    clone = clone_model(model)
    clone.set_weights(model.get_weights())
    for each in (load_model(path), clone):
        np.testing.assert_array_equal(each.predict([words, others], verbose=0), expected)
    # The mask of the encoder's words reached the decoder.
    hidden = np.where(SOURCE, words, 0)
    hidden[0, 1] = 7
    assert not np.allclose(model.predict([hidden, others], verbose=0), expected)
    model.compile("adam", "sparse_categorical_crossentropy")
    losses = model.fit([words, others], others, epochs=90, verbose=0).history["loss"]
    assert losses[-1] < 0.7 * losses[0]
    assert len(model.layers) == 6


def test_trainable_and_losses() -> None:
    layer = TransformerEncoder(**BLOCK, kernel_regularizer="l2", trainable=False)
    layer(np.ones((1, 2, D)))
    assert not layer.trainable_weights and len(layer.weights) == 16
    layer.trainable = True
    assert len(layer.trainable_weights) == 16 and len(layer.losses) == 6
    assert layer.count_params() == sum(w.size for w in layer.weights)


def test_dropout_in_training_only(rng: np.random.Generator) -> None:
    x = draw(rng, N, T, D)
    layer = TransformerDecoder(**BLOCK, dropout=0.4)
    y = layer(x)
    np.testing.assert_array_equal(layer(x), y)
    assert not np.array_equal(layer(x, training=True), y)


@pytest.mark.parametrize("kind", ["TransformerEncoder", "TransformerDecoder"])
def test_wrong_arguments(kind: str) -> None:
    make = getattr(layers, kind)
    for arguments, message in (
        ({"intermediate_dim": 0}, "intermediate_dim expects an integer >= 1"),
        ({"num_heads": 1.5}, "num_heads expects an integer >= 1"),
        ({"dropout": 1}, "dropout expects a number in"),
        ({"layer_norm_epsilon": 0}, "layer_norm_epsilon expects"),
        ({"normalize_first": 1}, "normalize_first expects True or False"),
        ({"activation": "unknown"}, "unknown"),
    ):
        with pytest.raises(ValueError, match=f"{kind} layer 'b': .*{message}"):
            make(**{**BLOCK, **arguments}, name="b")
    with pytest.raises(ValueError, match="num_heads=4 does not divide the query's width 6"):
        make(8, 4)(np.ones((N, T, D)))


def test_inputs_that_do_not_fit() -> None:
    x, z = np.ones((N, T, D)), np.ones((N, L, D))
    encoder = TransformerEncoder(**BLOCK, name="e")
    encoder(x)
    with pytest.raises(ValueError, match="'e': padding_mask expects shape"):
        encoder(x, padding_mask=np.ones((N, L), bool))
    with pytest.raises(ValueError, match="'e': attention_mask expects shape"):
        encoder(x, attention_mask=np.ones((N, T, L), bool))
    alone, crossing = (TransformerDecoder(**BLOCK, name="d") for _ in range(2))
    alone(x)
    crossing(x, z)
    with pytest.raises(ValueError, match="'d': was built without an encoder_sequence, and is"):
        alone(x, z)
    with pytest.raises(ValueError, match="'d': was built with an encoder_sequence, and is"):
        crossing(x)
    with pytest.raises(ValueError, match="'d': takes no mask of the encoder's"):
        alone(x, encoder_padding_mask=SOURCE)
    with pytest.raises(ValueError, match="'d': encoder_padding_mask expects shape"):
        crossing(x, z, encoder_padding_mask=PADDED)
    with pytest.raises(ValueError, match="expects 6 features"):
        crossing(x, np.ones((N, L, D + 1)))


# -- step by step ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "layer",
    [
        lambda: MultiHeadAttention(2),
        lambda: MultiHeadAttention(2, key_dim=4, value_dim=5, output_shape=7, use_bias=False),
        lambda: MultiHeadAttention(2, sliding_window=2),
        lambda: GroupedQueryAttention(4, 4, 2),
    ],
)
def test_steps_of_attention(layer: Any, rng: np.random.Generator) -> None:
    layer = layer()
    x = draw(rng, N, T, D)
    layer(x)
    randomize(layer, rng)
    expected = layer(x, use_causal_mask=True)
    cache = layer.make_cache(N, T + 2)
    cache.keys[:] = cache.values[:] = np.nan  # nobody reads behind the length
    by_step = np.stack([layer.step(x[:, t], cache) for t in range(T)], axis=1)
    np.testing.assert_allclose(by_step, expected, **TOLERANCE)
    assert cache.length == T
    cache.length = 1
    rest = layer.step(x[:, 1:], cache)
    np.testing.assert_allclose(rest, expected[:, 1:], **TOLERANCE)
    label = f"{type(layer).__name__} layer"
    with pytest.raises(ValueError, match=f"{label}.*room for 7 steps and holds 5, got 3 more"):
        layer.step(x[:, :3], cache)
    with pytest.raises(ValueError, match=f"{label}.*expects a batch of 3, got 1"):
        layer.step(x[:1, 0], cache)
    with pytest.raises(ValueError, match=f"{label}.*6 features"):
        layer.step(np.ones((N, D + 1)), cache)
    assert cache.length == T
    with pytest.raises(ValueError, match="max_length expects an integer >= 1"):
        layer.make_cache(N, 0)
    with pytest.raises(ValueError, match="has no cache before it is built"):
        MultiHeadAttention(2).make_cache(1, 1)


@either
def test_steps_of_a_decoder(normalize_first: bool, rng: np.random.Generator) -> None:
    x = draw(rng, N, T, D)
    layer = TransformerDecoder(**BLOCK, normalize_first=normalize_first, dropout=0.2)
    layer(x)
    randomize(layer, rng)
    expected = layer(x)
    cache = layer.make_cache(N, T)
    first = layer.step(x[:, :2], cache)
    rest = [layer.step(x[:, t], cache) for t in range(2, T)]
    np.testing.assert_allclose(first, expected[:, :2], **TOLERANCE)
    np.testing.assert_allclose(np.stack(rest, axis=1), expected[:, 2:], **TOLERANCE)
    assert cache.length == T
    with pytest.raises(ValueError, match="make_cache expects no encoder_sequence"):
        layer.make_cache(N, T, draw(rng, N, L, D))


@either
@pytest.mark.parametrize("padding", [None, SOURCE, PADDED[:, :L]], ids=["all", "some", "first"])
def test_steps_with_an_encoder(
    normalize_first: bool, padding: Any, rng: np.random.Generator
) -> None:
    x, z = draw(rng, N, T, D), draw(rng, N, L, D)
    layer = TransformerDecoder(**BLOCK, normalize_first=normalize_first)
    layer(x, z)
    randomize(layer, rng)
    expected = layer(x, z, encoder_padding_mask=padding)
    cache = layer.make_cache(N, T, z, padding)
    steps = [layer.step(x[:, t], cache) for t in range(T)]
    np.testing.assert_allclose(np.stack(steps, axis=1), expected, **TOLERANCE)
    with pytest.raises(ValueError, match="make_cache expects the encoder_sequence"):
        layer.make_cache(N, T)


def test_in_a_sequential(rng: np.random.Generator) -> None:
    model = Sequential([Input((T, D)), TransformerEncoder(**BLOCK), TransformerDecoder(**BLOCK)])
    x = draw(rng, N, T, D)
    y = model.predict(x, verbose=0)
    assert y.shape == x.shape
    outer = layers.TimeDistributed(model.layers[0])
    np.testing.assert_array_equal(outer(np.stack([x, x]))[1], model.layers[0](x))
