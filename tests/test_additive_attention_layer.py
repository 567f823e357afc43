"""AdditiveAttention: Keras' calls and values, masks given and flowing, graphs and files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from keras_peer import import_keras
from reference import OPS

import lamella
from lamella import layers
from lamella.layers import AdditiveAttention, Dense, Embedding, GlobalAveragePooling1D, Input
from lamella.models import Model, Sequential, clone_model, load_model

TOLERANCE = {"rtol": 2e-5, "atol": 1e-5}
reference = OPS["additive_attention"]


@pytest.fixture(scope="module")
def keras() -> Any:
    return import_keras()


def draw(rng: np.random.Generator) -> tuple[np.ndarray, ...]:
    shapes = (3, 4, 5), (3, 6, 2), (3, 6, 5)
    query, value, key = (rng.standard_normal(s).astype(np.float32) for s in shapes)
    return query, value, key


def draw_masks(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    query_mask, value_mask = rng.random((3, 4)) < 0.6, rng.random((3, 6)) < 0.6
    value_mask[:, 0] = True  # Keras has no answer for queries that see nothing
    return query_mask, value_mask


# -- values ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("use_scale", [True, False])
@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("masks", ["none", "query", "value", "both"])
def test_values_are_those_of_keras(
    keras: Any, use_scale: bool, causal: bool, masks: str, rng: np.random.Generator
) -> None:
    query, value, key = draw(rng)
    query_mask, value_mask = draw_masks(rng)
    mask = None
    if masks != "none":
        given = query_mask if masks != "value" else None
        mask = [given, value_mask if masks != "query" else None]
    ours = AdditiveAttention(use_scale=use_scale)
    theirs = keras.layers.AdditiveAttention(use_scale=use_scale)
    options = {"mask": mask, "use_causal_mask": causal, "return_attention_scores": True}
    results = ours([query, value, key], **options)
    theirs.build([query.shape, value.shape, key.shape])
    assert [(w.name, w.shape) for w in ours.weights] == [(w.name, w.shape) for w in theirs.weights]
    if use_scale:
        assert -1.1 < ours.scale.value.min() < ours.scale.value.max() < 1.1
        ours.set_weights([rng.standard_normal(5)])
        theirs.set_weights(ours.get_weights())
        results = ours([query, value, key], **options)
    expected = [np.asarray(each) for each in theirs([query, value, key], **options)]
    np.testing.assert_allclose(results[0], expected[0], **TOLERANCE)
    # The weights of queries that do not count are 0; Keras keeps them.
    count = np.ones((3, 4), bool) if masks in ("none", "value") else query_mask
    np.testing.assert_allclose(results[1][count], expected[1][count], **TOLERANCE)
    assert not results[1][~count].any()
    options["return_attention_scores"] = False
    np.testing.assert_array_equal(ours([query, value, key], **options), results[0])
    np.testing.assert_array_equal(ours([query, value, key], training=True, **options), results[0])


def test_the_key_is_the_value_and_one_tensor_is_all(keras: Any, rng: np.random.Generator) -> None:
    query, _, key = draw(rng)
    ours, theirs = AdditiveAttention(), keras.layers.AdditiveAttention()
    y = ours([query, key])
    theirs.build([query.shape, key.shape])
    theirs.set_weights(ours.get_weights())
    np.testing.assert_allclose(y, np.asarray(theirs([query, key])), **TOLERANCE)
    np.testing.assert_array_equal(y, ours([query, key, key]))
    np.testing.assert_array_equal(ours(query), ours([query, query]))
    mask = np.array([[1, 1, 0, 1], [1, 0, 0, 0], [1, 1, 1, 1]], bool)
    np.testing.assert_array_equal(ours(query, mask=mask), ours([query, query], mask=[mask, mask]))


def test_queries_that_see_nothing_give_0(rng: np.random.Generator) -> None:
    query, value, key = draw(rng)
    value[0] = np.nan
    mask = np.arange(6) < np.array([0, 3, 6])[:, None]
    y, weights = AdditiveAttention()(
        [query, value, key], mask=[None, mask], return_attention_scores=True
    )
    assert not y[0].any() and not weights[0].any()
    np.testing.assert_allclose(weights[1:].sum(axis=-1), 1, rtol=1e-5)


def test_dropout(rng: np.random.Generator) -> None:
    query, value, key = draw(rng)
    layer = AdditiveAttention(dropout=0.5, seed=7)
    plain, weights = layer([query, value, key], return_attention_scores=True)
    first, dropped = layer([query, value, key], training=True, return_attention_scores=True)
    assert not np.allclose(first, plain)
    kept = dropped != 0
    assert 0.2 < kept.mean() < 0.8
    np.testing.assert_allclose(dropped[kept], 2 * weights[kept], rtol=1e-5)
    # A stream: the next call drops others, and it starts again with a new layer.
    assert not np.array_equal(layer([query, value, key], training=True), first)
    again = AdditiveAttention(dropout=0.5, seed=7)
    again([query, value, key])
    again.set_weights(layer.get_weights())
    np.testing.assert_array_equal(again([query, value, key], training=True), first)
    lamella.utils.set_random_seed(3)
    one = AdditiveAttention(use_scale=False, dropout=0.5)([query, value, key], training=True)
    lamella.utils.set_random_seed(3)
    two = AdditiveAttention(use_scale=False, dropout=0.5)([query, value, key], training=True)
    np.testing.assert_array_equal(one, two)


# -- gradients ------------------------------------------------------------------------------------


@pytest.mark.parametrize("scores", [False, True])
@pytest.mark.parametrize("causal", [False, True])
def test_gradients(scores: bool, causal: bool, rng: np.random.Generator) -> None:
    query, value, key = draw(rng)
    query_mask, value_mask = draw_masks(rng)
    layer = AdditiveAttention()
    layer.build([query.shape, value.shape, key.shape])
    layer.set_weights([rng.standard_normal(5)])
    scale = layer.scale.value
    _, pullback = layer.forward(
        [query, value, key],
        True,
        mask=[query_mask, value_mask, None],
        return_attention_scores=scores,
        use_causal_mask=causal,
    )
    dy = rng.standard_normal((3, 4, 2)).astype(np.float32)
    d_scores = rng.standard_normal((3, 4, 6)).astype(np.float32)
    layer.scale.reset_gradient()
    gradients = pullback((dy, d_scores) if scores else dy)
    expected = reference.backward(
        (dy, d_scores) if scores else dy,
        query,
        value,
        key,
        scale,
        query_mask[:, :, None] & value_mask[:, None],
        causal=causal,
        query_offset=0,
        return_weights=scores,
    )
    for gradient, right in zip(gradients, expected[:3], strict=True):
        np.testing.assert_allclose(gradient, right, **TOLERANCE)
    np.testing.assert_allclose(layer.scale.gradient, expected[3], **TOLERANCE)
    if scores:  # of which the loss may look at one only
        for whole, *parts in zip(
            gradients, pullback((dy, None)), pullback((None, d_scores)), strict=True
        ):
            np.testing.assert_allclose(whole, sum(parts), **TOLERANCE)


def test_gradients_of_tensors_with_several_parts(rng: np.random.Generator) -> None:
    query, _, key = draw(rng)
    layer = AdditiveAttention()
    layer([query, key])
    y, pullback = layer.forward([query, key], True)
    dy = rng.standard_normal(y.shape).astype(np.float32)
    d_query, d_key = pullback(dy)
    three = layer.forward([query, key, key], True)[1](dy)
    np.testing.assert_array_equal(d_query, three[0])
    np.testing.assert_allclose(d_key, three[1] + three[2], **TOLERANCE)
    y, pullback = layer.forward(query, True)
    dy = rng.standard_normal(y.shape).astype(np.float32)
    three = layer.forward([query, query, query], True)[1](dy)
    np.testing.assert_allclose(pullback(dy), sum(three), **TOLERANCE)


def test_gradients_that_nobody_needs(rng: np.random.Generator) -> None:
    inputs = list(draw(rng))
    layer = AdditiveAttention()
    layer(inputs)
    layer.needs_input_gradient = False
    y, pullback = layer.forward(inputs, True)
    assert pullback(np.ones_like(y)) == (None, None, None)
    y, pullback = layer.forward(inputs[0], True)
    assert pullback(np.ones_like(y)) is None
    assert layer.scale.gradient_written


# -- graphs ---------------------------------------------------------------------------------------


def attention_model() -> Model:
    query, value = Input((4,), name="query"), Input((6,), name="value")
    words = Embedding(6, 5, mask_zero=True, name="words")
    y, weights = AdditiveAttention(name="attend")(
        [words(query), words(value)], return_attention_scores=True, use_causal_mask=True
    )
    return Model([query, value], [Dense(1, name="out")(y), weights])


def test_symbolic_use_and_files(tmp_path: Path, rng: np.random.Generator) -> None:
    query, value = rng.integers(6, size=(3, 4)), rng.integers(6, size=(3, 6))
    model = attention_model()
    assert [tensor.shape for tensor in model.outputs] == [(None, 4, 1), (None, 4, 6)]
    layer, words = model.get_layer("attend"), model.get_layer("words")
    model.set_weights([rng.standard_normal(w.shape) for w in model.weights])
    y, weights = layer(
        [words(query), words(value)],
        mask=[query != 0, value != 0],
        return_attention_scores=True,
        use_causal_mask=True,
    )
    path = tmp_path / "m.safetensors"
    model.save(path)
    cloned = clone_model(model)
    cloned.set_weights(model.get_weights())
    for each in (model, load_model(path), cloned):
        results = each.predict([query, value], verbose=0)
        np.testing.assert_array_equal(results[1], weights)
        np.testing.assert_allclose(results[0], each.get_layer("out")(y), rtol=1e-6)
    (call,) = (call for call in model.get_config()["calls"] if call["layer"] == "attend")
    assert call["options"] == {"return_attention_scores": True, "use_causal_mask": True}
    model.compile("sgd", ["mse", None])
    before = layer.get_weights()[0]
    model.fit([query, value], [np.zeros((3, 4, 1)), np.zeros((3, 4, 6))], verbose=0)
    assert not np.array_equal(layer.get_weights()[0], before)


def test_masks_flow(keras: Any, rng: np.random.Generator) -> None:
    """A mask of each input, that of the query goes on; values are Keras' own."""
    first = rng.integers(1, 6, (3, 4))
    second = rng.integers(1, 6, (3, 6))
    first[0, 2:] = second[1, 4:] = 0

    def network(module: Any, model: Any) -> Any:
        a, b = module.Input((4,), name="a"), module.Input((6,), name="b")
        query = module.layers.Embedding(6, 5, mask_zero=True, name="words")(a)
        value = module.layers.Embedding(6, 5, mask_zero=True, name="keys")(b)
        y = module.layers.AdditiveAttention(name="attend")([query, value])
        return model([a, b], module.layers.GlobalAveragePooling1D(name="pool")(y))

    ours, theirs = network(lamella, Model), network(keras, keras.Model)
    theirs.set_weights(ours.get_weights())
    expected = np.asarray(theirs([first, second]))
    np.testing.assert_allclose(ours.predict([first, second], verbose=0), expected, **TOLERANCE)
    # It is what masks make of it: the same by hand.
    layer = ours.get_layer("attend")
    query, value = ours.get_layer("words")(first), ours.get_layer("keys")(second)
    y = layer([query, value], mask=[first != 0, second != 0])
    count = (first != 0).sum(axis=1, keepdims=True)
    np.testing.assert_allclose(y.sum(axis=1) / count, expected, **TOLERANCE)


def test_self_attention_in_a_sequential(rng: np.random.Generator) -> None:
    x = rng.integers(0, 6, (8, 4))
    x[:, 0] = 1
    model = Sequential(
        [Embedding(6, 5, mask_zero=True), AdditiveAttention(dropout=0.1), GlobalAveragePooling1D()]
    )
    model.add(Dense(1))
    model.compile(lamella.optimizers.Adam(0.05), "mse")
    history = model.fit(x, x.mean(axis=1, keepdims=True), epochs=30, verbose=0)
    assert history.history["loss"][-1] < history.history["loss"][0] / 2


def test_training_learns_which_step_counts(rng: np.random.Generator) -> None:
    """The target is the value whose key resembles the query: attention can find it."""
    key = rng.standard_normal((256, 6, 4)).astype(np.float32)
    value = rng.standard_normal((256, 6, 1)).astype(np.float32)
    which = rng.integers(6, size=256)
    query = key[np.arange(256), which][:, None]
    target = value[np.arange(256), which][:, None]
    lamella.utils.set_random_seed(1)
    inputs = Input((1, 4)), Input((6, 1)), Input((6, 4))
    hidden = Dense(32)(inputs[0]), Dense(32)(inputs[2])
    y = AdditiveAttention()([hidden[0], inputs[1], hidden[1]])
    model = Model(list(inputs), y)
    model.compile(lamella.optimizers.Adam(0.02), "mse")
    losses = model.fit([query, value, key], target, epochs=60, verbose=0).history["loss"]
    assert losses[-1] < losses[0] / 4


# -- arguments ------------------------------------------------------------------------------------


def test_config() -> None:
    layer = AdditiveAttention(use_scale=False, dropout=0.3, seed=5, name="a")
    config = json.loads(json.dumps(layer.get_config()))
    again = AdditiveAttention.from_config(config)
    assert json.loads(json.dumps(again.get_config())) == config
    assert (again.use_scale, again.dropout, again.seed) == (False, 0.3, 5)
    for arguments, message in (
        ({"use_scale": 1}, "use_scale expects True or False"),
        ({"dropout": 1.0}, r"dropout expects a number in \[0, 1\)"),
        ({"dropout": "a"}, "dropout expects"),
        ({"seed": -1}, "seed expects an int"),
        ({"score_mode": "dot"}, "unknown arguments score_mode"),
    ):
        with pytest.raises(ValueError, match=f"AdditiveAttention layer 'a': .*{message}"):
            AdditiveAttention(**arguments, name="a")


Q, V, K = (3, 4, 5), (3, 6, 2), (3, 6, 5)


@pytest.mark.parametrize(
    ("shapes", "options", "message"),
    [
        ([Q], {}, r"expects one input, \[query, value\] or \[query, value, key\], got a list of 1"),
        ([Q, V, K, K], {}, ".*got a list of 4"),
        ([(3, 4), V, K], {}, r"expects a query of shape \(batch, steps, features\), with at least"),
        ([Q, (3, 6, 2, 1), K], {}, r"expects a value of shape \(batch, steps, features\)"),
        ([(3, 4, 0), V, (3, 6, 0)], {}, "expects a query of .* with at least one feature, got"),
        ([Q, (3, 6, 0), K], {}, "expects a value of .* with at least one feature, got"),
        ([Q, V], {}, "expects equal features of query"),
        ([Q, (3, 5, 2), K], {}, "expects as many steps of value"),
        ([Q, (2, 6, 2), (2, 6, 5)], {}, "the inputs differ in batch size"),
        ([Q, V, K], {"mask": np.ones((3, 6), bool)}, r"mask expects a list \[query_mask, value_"),
        ([Q, V, K], {"mask": [None]}, r"mask expects a list \[query_mask, value_mask\]"),
        ([Q, V, K], {"mask": [None, np.ones((3, 4), bool)]}, r"value_mask .* shape \(3, 6\), got"),
        ([Q, V, K], {"mask": [np.ones((3, 6), bool), None]}, r"query_mask .* shape \(3, 4\), got"),
        ([Q, V, K], {"mask": [np.ones((3, 4)), None]}, "query_mask expects a bool .* float64"),
        ([Q, V, K], {"return_attention_scores": 1}, "return_attention_scores expects True or"),
        ([Q, V, K], {"use_causal_mask": None}, "use_causal_mask expects True or False"),
    ],
    ids=str,
)
def test_what_it_refuses(shapes: Any, options: Any, message: str) -> None:
    for built in (False, True):
        layer = AdditiveAttention(name="a")
        if built:
            layer.build([Q, V, K])
        with pytest.raises(ValueError, match=f"AdditiveAttention layer 'a': {message}"):
            layer([np.ones(shape) for shape in shapes], **options)
    if "mask" not in options and 0 not in (*shapes[0], *shapes[-1]):
        with pytest.raises(ValueError, match=f"AdditiveAttention layer 'a': {message}"):
            symbols = [Input(batch_shape=shape) for shape in shapes]
            AdditiveAttention(name="a")(symbols, **options)


def test_the_scale_fits_one_number_of_features() -> None:
    layer = AdditiveAttention(name="a")
    layer([np.ones(Q), np.ones(V), np.ones(K)])
    with pytest.raises(ValueError, match="expects 5 features in the last axis, as it was"):
        layer([np.ones((3, 4, 7)), np.ones(V), np.ones((3, 6, 7))])
    with pytest.raises(ValueError, match="needs a known last axis"):
        AdditiveAttention()(Input((4, None)))
    free = AdditiveAttention(use_scale=False)
    free([np.ones(Q), np.ones(V), np.ones(K)])
    assert free(np.ones((3, 4, 7))).shape == (3, 4, 7)
    assert free.weights == []


def test_it_is_a_layer_by_name() -> None:
    config = {"class_name": "AdditiveAttention", "config": {"name": "a"}}
    assert isinstance(lamella.registry.deserialize("layer", config), layers.AdditiveAttention)
