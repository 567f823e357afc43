"""Attention layers: several inputs, masks, options of a call, graphs and files.

What every layer owes is checked in tests/test_layers.py, values against Keras in
tests/test_attention_layers_keras.py.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from layer_cases import randomize

from lamella import layers, ops
from lamella.layers import Attention, GroupedQueryAttention, Input, MultiHeadAttention
from lamella.models import Model, Sequential, clone_model, load_model
from lamella.utils import set_random_seed

N, S, L, D = 3, 4, 5, 6
PADDED = np.arange(L) < np.array([[5], [3], [1]])
SCATTERED = np.array([[1, 0, 1, 1, 0], [0, 1, 0, 0, 1], [1, 1, 1, 1, 1]], bool)
QUERIES = np.array([[1, 1, 1, 1], [1, 1, 0, 0], [0, 1, 1, 0]], bool)
CLOSE = {"rtol": 1e-5, "atol": 1e-6}
# Finite differences of float32 sums with steps of 1e-2.
STEP = 1e-2


def draw(rng: np.random.Generator, *shape: int) -> np.ndarray:
    return rng.standard_normal(shape).astype(np.float32)


def make(kind: str, **more: Any) -> Any:
    arguments: dict[str, Any] = {
        "Attention": {},
        "concat": {"score_mode": "concat", "use_scale": True},
        "MultiHeadAttention": {"num_heads": 2},
        "GroupedQueryAttention": {"head_dim": 3, "num_query_heads": 4, "num_key_value_heads": 2},
    }[kind]
    name = "Attention" if kind == "concat" else kind
    return getattr(layers, name)(**{**arguments, **more})


WITHOUT_HEADS = ("Attention", "concat")
each_kind = pytest.mark.parametrize(
    "kind", ["Attention", "concat", "MultiHeadAttention", "GroupedQueryAttention"]
)
each_projected = pytest.mark.parametrize("kind", ["MultiHeadAttention", "GroupedQueryAttention"])


def apply(layer: Any, query: Any, value: Any, key: Any = None, **more: Any) -> Any:
    """Call a layer of either kind on arrays or symbols."""
    if isinstance(layer, Attention):
        if "query_mask" in more or "value_mask" in more:
            more["mask"] = [more.pop("query_mask", None), more.pop("value_mask", None)]
        return layer([query, value] if key is None else [query, value, key], **more)
    return layer(query, value, key, **more)


# -- values ---------------------------------------------------------------------------------------


def test_attention_is_the_op_with_one_head(rng: np.random.Generator) -> None:
    query, key, value = draw(rng, N, S, D), draw(rng, N, L, D), draw(rng, N, L, 2)
    y, weights = Attention()([query, value, key], return_attention_scores=True)
    scores = np.einsum("nsd,nld->nsl", query, key)
    expected = np.exp(scores) / np.exp(scores).sum(axis=2, keepdims=True)
    np.testing.assert_allclose(weights, expected, **CLOSE)
    np.testing.assert_allclose(y, expected @ value, **CLOSE)

    layer = Attention(use_scale=True)
    layer([query, key])
    assert [(w.path, w.shape) for w in layer.weights] == [(f"{layer.name}/scale", ())]
    layer.scale.assign(0.25)
    other = Attention()([0.25 * query, value, key])
    np.testing.assert_allclose(layer([query, value, key]), other, **CLOSE)


def test_causal_counts_from_the_first_key(rng: np.random.Generator) -> None:
    """As in Keras, where the op itself would let the last query stand at the last key."""
    query, value = draw(rng, N, S, D), draw(rng, N, L, D)
    for kind in ("Attention", "concat", "MultiHeadAttention"):
        layer = make(kind)
        _, weights = apply(layer, query, value, return_attention_scores=True, use_causal_mask=True)
        seen = np.broadcast_to(np.tri(S, L, dtype=bool), weights.shape)
        assert (weights[seen] > 0).all() and not weights[~seen].any()


def test_sliding_window(rng: np.random.Generator) -> None:
    query, value = draw(rng, N, S, D), draw(rng, N, L, D)
    distance = np.abs(np.arange(S)[:, np.newaxis] - np.arange(L))
    for options, seen in (
        ({}, distance < 2),
        ({"use_causal_mask": True}, (distance < 2) & np.tri(S, L, dtype=bool)),
    ):
        layer = make("MultiHeadAttention", sliding_window=2)
        _, weights = layer(query, value, return_attention_scores=True, **options)
        np.testing.assert_array_equal(weights > 0, np.broadcast_to(seen, weights.shape))


@each_kind
def test_self_attention_is_that_of_three_equal_inputs(kind: str, rng: np.random.Generator) -> None:
    x = draw(rng, N, S, D)
    layer = make(kind)
    y = layer(x)
    np.testing.assert_array_equal(apply(layer, x, x, x), y)
    np.testing.assert_array_equal(apply(layer, x, x), y)
    assert y.shape == (N, S, D)


@each_kind
def test_gradients_of_three_inputs(kind: str, rng: np.random.Generator) -> None:
    layer = make(kind)
    x = [draw(rng, N, S, D), draw(rng, N, L, D), draw(rng, N, L, D)]
    apply(layer, *x)
    y, pull = layer.forward(x, True)
    dy = draw(rng, *y.shape)
    gradients = pull(dy)
    for position, (array, gradient) in enumerate(zip(x, gradients, strict=True)):
        direction = rng.choice([-1.0, 1.0], array.shape).astype(np.float32)
        sides = []
        for sign in (STEP, -STEP):
            moved = list(x)
            moved[position] = array + np.float32(sign) * direction
            sides.append(float(np.sum(layer.call(moved).astype(np.float64) * dy)))
        terms = gradient.astype(np.float64) * direction
        numeric = (sides[0] - sides[1]) / (2 * STEP)
        assert abs(numeric - terms.sum()) <= 1e-2 * np.sqrt(np.sum(terms**2)) + 2e-3
    together = make(kind) if kind in WITHOUT_HEADS else layer
    one = x[0]
    _, pull = together.forward(one, True)
    separate = together.forward([one, one, one], True)[1](dy)
    np.testing.assert_allclose(pull(dy), sum(separate), **CLOSE)


@pytest.mark.parametrize("kind", ["Attention", "concat"])
def test_gradients_of_the_numbers(kind: str, rng: np.random.Generator) -> None:
    layer = make(kind, use_scale=True)
    query, value = draw(rng, N, S, D), draw(rng, N, L, D)
    layer([query, value])
    for first, weight in zip((0.5, 0.7), layer.weights, strict=False):
        weight.assign(first)
    y, pull = layer.forward([query, value], True)
    dy = draw(rng, *y.shape)
    d_query, d_value = pull(dy)
    assert d_query.shape == query.shape and d_value.shape == value.shape
    for weight in layer.weights:
        sides = []
        before = float(weight.value)
        for move in (0.01, -0.01):
            weight.assign(before + move)
            sides.append(float(np.sum(layer.call([query, value]).astype(np.float64) * dy)))
        weight.assign(before)
        slope = (sides[0] - sides[1]) / 0.02
        np.testing.assert_allclose(float(weight.gradient), slope, rtol=5e-3, atol=5e-3)
        assert weight.gradient.shape == ()
    # The numbers are trained where nothing before the layer is.
    gradients = [float(weight.gradient) for weight in layer.weights]
    layer.needs_input_gradient = False
    for weight in layer.weights:
        weight.reset_gradient()
    assert layer.forward([query, value], True)[1](dy) == (None, None)
    np.testing.assert_allclose([float(w.gradient) for w in layer.weights], gradients, rtol=1e-5)
    layer.needs_input_gradient, layer.trainable = True, False
    for weight in layer.weights:
        weight.reset_gradient()
    for again, right in zip(
        layer.forward([query, value], True)[1](dy), (d_query, d_value), strict=True
    ):
        np.testing.assert_array_equal(again, right)
    assert all(weight.gradient is None for weight in layer.weights)


@each_kind
def test_gradients_through_the_weights_of_the_values(kind: str, rng: np.random.Generator) -> None:
    """What return_attention_scores returns has a gradient too, and either may be None."""
    layer = make(kind)
    x = [draw(rng, N, S, D), draw(rng, N, L, D), draw(rng, N, L, D)]
    apply(layer, *x)
    (y, weights), pull = layer.forward(x, True, return_attention_scores=True)
    dy, d_weights = draw(rng, *y.shape), draw(rng, *weights.shape)
    plain = layer.forward(x, True)[1](dy)
    for gradient, expected in zip(pull((dy, None)), plain, strict=True):
        np.testing.assert_allclose(gradient, expected, **CLOSE)
    direction = rng.choice([-1.0, 1.0], x[2].shape).astype(np.float32)
    sides = []
    for sign in (STEP, -STEP):
        moved = [x[0], x[1], x[2] + np.float32(sign) * direction]
        result = layer.call(moved, return_attention_scores=True)[1]
        sides.append(float(np.sum(result.astype(np.float64) * d_weights)))
    terms = pull((None, d_weights))[2].astype(np.float64) * direction
    numeric = (sides[0] - sides[1]) / (2 * STEP)
    assert abs(numeric - terms.sum()) <= 1e-2 * np.sqrt(np.sum(terms**2)) + 2e-3


# -- masks ----------------------------------------------------------------------------------------


@each_kind
@pytest.mark.parametrize("keys", [PADDED, SCATTERED], ids=["padded", "scattered"])
def test_masked_keys_count_for_nothing(
    kind: str, keys: np.ndarray, rng: np.random.Generator
) -> None:
    layer = make(kind)
    query, value = draw(rng, N, S, D), draw(rng, N, L, D)
    y, weights = apply(layer, query, value, value_mask=keys, return_attention_scores=True)
    hidden = ~keys[:, np.newaxis] if kind in WITHOUT_HEADS else ~keys[:, np.newaxis, np.newaxis]
    assert not weights[np.broadcast_to(hidden, weights.shape)].any()
    for n in range(N):
        short = np.ascontiguousarray(value[n : n + 1, keys[n]])
        np.testing.assert_allclose(y[n : n + 1], apply(layer, query[n : n + 1], short), **CLOSE)


@each_kind
def test_nothing_behind_a_mask_matters(kind: str, rng: np.random.Generator) -> None:
    layer = make(kind)
    query, value = draw(rng, N, S, D), draw(rng, N, L, D)
    masks = {"query_mask": QUERIES, "value_mask": SCATTERED}
    y = apply(layer, query, value, **masks)
    spoiled = np.where(SCATTERED[..., np.newaxis], value, np.float32(np.nan))
    spoiled_query = np.where(QUERIES[..., np.newaxis], query, np.float32(np.nan))
    # additive_attention takes tanh itself near what is not finite: not bitwise the same.
    close = CLOSE if kind == "concat" else {"rtol": 0, "atol": 0}
    np.testing.assert_allclose(apply(layer, spoiled_query, spoiled, **masks), y, **close)
    alone = np.zeros(D, np.float32) if kind in WITHOUT_HEADS else layer._op_weights[-1].value
    np.testing.assert_array_equal(y[~QUERIES], np.broadcast_to(alone, y[~QUERIES].shape))

    x = [query, value, value]
    mask = [QUERIES, SCATTERED, None]
    dy = draw(rng, *y.shape)
    clean = layer.forward(x, True, mask=mask)[1](dy)
    dirty = layer.forward([spoiled_query, spoiled, spoiled], True, mask=mask)[1](dy)
    for gradient, expected in zip(dirty, clean, strict=True):
        np.testing.assert_allclose(gradient, expected, **close)
    assert not clean[1][~SCATTERED].any() and not clean[0][~QUERIES].any()


@each_projected
def test_masks_are_joined(kind: str, rng: np.random.Generator) -> None:
    layer = make(kind)
    query, value, key = draw(rng, N, S, D), draw(rng, N, L, D), draw(rng, N, L, D)
    layer(query, value, key)
    attention_mask = rng.random((N, S, L)) < 0.7
    masks = {"query_mask": QUERIES, "value_mask": PADDED, "key_mask": SCATTERED}
    seen = QUERIES[:, :, np.newaxis] & (PADDED & SCATTERED)[:, np.newaxis] & attention_mask
    _, weights = layer(
        query, value, key, **masks, attention_mask=attention_mask, return_attention_scores=True
    )
    np.testing.assert_array_equal(weights > 0, np.broadcast_to(seen[:, np.newaxis], weights.shape))
    expected = layer(query, value, key, attention_mask=seen)
    y = layer(query, value, key, **masks, attention_mask=attention_mask)
    np.testing.assert_allclose(y, expected, **CLOSE)
    causal = layer(query, value, key, **masks, use_causal_mask=True)
    seen = masks["query_mask"][:, :, np.newaxis] & (PADDED & SCATTERED)[:, np.newaxis]
    expected = layer(query, value, key, attention_mask=seen & np.tri(S, L, dtype=bool))
    np.testing.assert_allclose(causal, expected, **CLOSE)


@each_projected
@pytest.mark.parametrize("shape", [(S, L), (1, S, L), (N, 1, L), (N, 1, S, L), (1, 0, 1, L)])
def test_forms_of_an_attention_mask(kind: str, shape: Any, rng: np.random.Generator) -> None:
    layer = make(kind)
    shape = tuple(layer.num_heads if size == 0 else size for size in shape)
    query, value = draw(rng, N, S, D), draw(rng, N, L, D)
    mask = rng.random(shape) < 0.6
    _, weights = layer(query, value, attention_mask=mask, return_attention_scores=True)
    whole = mask[:, np.newaxis] if len(shape) == 3 else mask
    np.testing.assert_array_equal(weights > 0, np.broadcast_to(whole, weights.shape))
    as_numbers = layer(query, value, attention_mask=mask.astype(np.float32))
    np.testing.assert_array_equal(as_numbers, layer(query, value, attention_mask=mask))


def test_wrong_masks() -> None:
    query, value = np.ones((N, S, D)), np.ones((N, L, D))
    layer = MultiHeadAttention(2, name="m")
    for name, shape in (
        ("query_mask", (N, L)),
        ("value_mask", (N, S)),
        ("key_mask", (N, L, 1)),
        ("attention_mask", (N, L, S)),
        ("attention_mask", (N, 3, S, L)),
        ("attention_mask", (N,)),
    ):
        with pytest.raises(ValueError, match=f"MultiHeadAttention layer 'm': {name} expects"):
            layer(query, value, **{name: np.ones(shape, bool)})
    with pytest.raises(TypeError, match=r"MultiHeadAttention layer 'm': key_mask expects .* bools"):
        layer(query, value, key_mask=np.full((N, L), "a"))
    layer = Attention(name="a")
    for mask, message in (
        (QUERIES, r"mask expects a list \[query_mask, value_mask\]"),
        ([QUERIES], r"mask expects a list \[query_mask, value_mask\]"),
        ([QUERIES, QUERIES], r"value_mask expects a bool array of shape \(3, 5\), got bool of"),
        ([QUERIES.astype(int), None], "query_mask expects a bool array of shape"),
    ):
        with pytest.raises(ValueError, match=f"Attention layer 'a': {message}"):
            layer([query, value], mask=mask)
    with pytest.raises(ValueError, match="Attention layer 'a': mask expects a bool array"):
        layer(query, mask=PADDED)


# -- dropout --------------------------------------------------------------------------------------


@each_kind
def test_dropout(kind: str, rng: np.random.Generator) -> None:
    x = draw(rng, 8, 9, D)
    layer, again = (make(kind, dropout=0.3, seed=7) for _ in range(2))
    plain, whole = layer(x, return_attention_scores=True)
    again(x)
    again.set_weights(layer.get_weights())
    y, weights = layer(x, training=True, return_attention_scores=True)
    kept = weights != 0
    assert 0.6 < kept.mean() < 0.8
    np.testing.assert_allclose(weights, np.where(kept, whole / np.float32(0.7), 0), **CLOSE)
    assert not np.allclose(y, plain)
    np.testing.assert_array_equal(again.call(x if kind in WITHOUT_HEADS else [x] * 3, True), y)
    assert not np.array_equal(layer(x, training=True), y)
    np.testing.assert_allclose(layer(x), plain, rtol=1e-5, atol=1e-6)


# -- graphs and files -----------------------------------------------------------------------------


@each_kind
def test_in_a_graph(kind: str, tmp_path: Path, rng: np.random.Generator) -> None:
    query, value = Input((S, D)), Input((None, D))
    layer = make(kind)
    y, weights = apply(layer, query, value, return_attention_scores=True)
    heads = () if kind in WITHOUT_HEADS else (layer.num_heads,)
    assert y.shape == (None, S, D) and weights.shape == (None, *heads, S, None)
    causal = apply(layer, y, value, use_causal_mask=True)
    model = Model([query, value], [causal, weights])
    randomize(layer, rng)
    x = [draw(rng, N, S, D), draw(rng, N, L, D)]
    first, scores = apply(layer, *x, return_attention_scores=True)
    expected = [apply(layer, first, x[1], use_causal_mask=True), scores]
    path = tmp_path / "m.safetensors"
    model.save(path)
    clone = clone_model(model)
    clone.set_weights(model.get_weights())
    for each in (model, load_model(path), clone):
        for result, right in zip(each.predict(x, verbose=0), expected, strict=True):
            np.testing.assert_array_equal(result, right)
    json.dumps(model.get_config())

    _, pull = model.forward(x, True)
    dy = [draw(rng, *a.shape) for a in expected]
    d_query, d_value = pull(tuple(dy))
    for position, gradient in enumerate((d_query, d_value)):
        direction = rng.choice([-1.0, 1.0], gradient.shape).astype(np.float32)
        sides = []
        for sign in (STEP, -STEP):
            moved = list(x)
            moved[position] = x[position] + np.float32(sign) * direction
            results = model.predict(moved, verbose=0)
            sides.append(
                sum(
                    float(np.sum(r.astype(np.float64) * d))
                    for r, d in zip(results, dy, strict=True)
                )
            )
        terms = gradient.astype(np.float64) * direction
        numeric = (sides[0] - sides[1]) / (2 * STEP)
        assert abs(numeric - terms.sum()) <= 2e-2 * np.sqrt(np.sum(terms**2)) + 5e-3


@each_projected
def test_masks_as_inputs_of_a_model(kind: str, rng: np.random.Generator) -> None:
    query, value = Input((S, D)), Input((L, D))
    padding, visible = Input((L,), dtype="bool"), Input((S, L))
    layer = make(kind)
    model = Model(
        [query, value, padding, visible],
        layer(query, value, value_mask=padding, attention_mask=visible),
    )
    mask = rng.random((N, S, L)) < 0.7
    x = [draw(rng, N, S, D), draw(rng, N, L, D), PADDED, mask.astype(np.float32)]
    expected = layer(x[0], x[1], value_mask=PADDED, attention_mask=mask)
    np.testing.assert_array_equal(model.predict(x, verbose=0), expected)
    d_query, d_value, *others = model.forward(x, True)[1](np.ones_like(expected))
    assert d_query.any() and d_value.any() and others == [None, None]


@each_kind
def test_masks_flow_through_a_graph(kind: str, rng: np.random.Generator) -> None:
    words = rng.integers(1, 9, (N, L))
    words[~PADDED] = 0
    source, target = Input((L,), dtype="int32"), Input((S,), dtype="int32")
    embed = layers.Embedding(9, D, mask_zero=True)
    layer = make(kind)
    y = apply(layer, embed(target), embed(source))
    model = Model([source, target], [y, layers.LSTM(3)(y)])
    others = rng.integers(1, 9, (N, S))
    others[~QUERIES] = 0
    masks = {"query_mask": QUERIES, "value_mask": PADDED}
    expected = apply(layer, embed(others), embed(words), **masks)
    result, last = model.predict([words, others], verbose=0)
    np.testing.assert_array_equal(result, expected)
    lstm = model.layers[-1]
    np.testing.assert_array_equal(last, lstm(expected, mask=QUERIES))

    # One tensor: its mask is that of the queries and of the keys.
    chain = Sequential(
        [Input((None,)), layers.Embedding(9, D, mask_zero=True), make(kind), layers.LSTM(3)]
    )
    chain.predict(words, verbose=0)
    short = chain.predict(words[1:2, :3], verbose=0)
    np.testing.assert_allclose(chain.predict(words, verbose=0)[1:2], short, **CLOSE)
    chain.compile("adam", "mse")
    chain.fit(words, np.zeros((N, 3)), verbose=0)
    for weight in chain.weights:
        assert np.isfinite(weight.value).all()


@each_kind
def test_within_time_distributed(kind: str, rng: np.random.Generator) -> None:
    x = draw(rng, 2, N, S, D)
    layer = make(kind)
    outer = layers.TimeDistributed(layer)
    np.testing.assert_array_equal(outer(x)[1], layer(x[1]))
    y, pull = outer.forward(x, True)
    np.testing.assert_allclose(pull(y)[1], layer.forward(x[1], True)[1](y[1]), **CLOSE)


@each_kind
def test_trains_alone_in_a_sequential(kind: str, rng: np.random.Generator) -> None:
    set_random_seed(1)
    x = draw(rng, 16, S, D)
    options = {"use_scale": True} if kind in WITHOUT_HEADS else {}
    model = Sequential([Input((S, D)), make(kind, **options), layers.Flatten(), layers.Dense(1)])
    model.compile("adam", "mse")
    history = model.fit(x, x.sum(axis=(1, 2)), epochs=30, verbose=0).history["loss"]
    assert history[-1] < history[0]


# -- arguments ------------------------------------------------------------------------------------


def test_heads_that_do_not_divide_the_width() -> None:
    layer = MultiHeadAttention(4, name="m")
    with pytest.raises(ValueError, match="'m': num_heads=4 does not divide the query's width 6"):
        layer(np.ones((1, 2, 6)))
    assert not layer.weights
    assert MultiHeadAttention(4, key_dim=5)(np.ones((1, 2, 6))).shape == (1, 2, 6)
    with pytest.raises(ValueError, match="num_key_value_heads=2 does not divide num_query_heads=3"):
        GroupedQueryAttention(4, 3, 2)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_heads": 0}, "num_heads expects an integer >= 1"),
        ({"key_dim": 2.5}, "key_dim expects an integer >= 1"),
        ({"value_dim": 0}, "value_dim expects an integer >= 1"),
        ({"dropout": 1.0}, "dropout expects a number in"),
        ({"output_shape": (2, 3)}, "output_shape=.* is not supported: only one axis"),
        ({"output_shape": 0}, "output_shape expects an integer >= 1"),
        ({"attention_axes": (1, 2)}, "attention_axes=.* is not supported"),
        ({"attention_axes": 2}, "attention_axes=2 is not supported"),
        ({"sliding_window": 0}, "sliding_window expects an integer >= 1"),
        ({"flash_attention": True}, "flash_attention is not supported"),
        ({"use_gate": True}, "use_gate is not supported"),
        ({"activity_regularizer": "l2"}, "activity_regularizer is not supported"),
        ({"kernel_constraint": "unit_norm"}, "kernel_constraint is not supported"),
        ({"seed": -1}, ".*seed expects an int"),
        ({"kernel_initializer": "unknown"}, "unknown initializer"),
    ],
)
def test_wrong_arguments(arguments: Any, message: str) -> None:
    with pytest.raises(ValueError, match=f"MultiHeadAttention layer 'm': {message}"):
        MultiHeadAttention(**{"num_heads": 2, "name": "m", **arguments})


def test_wrong_arguments_of_attention() -> None:
    for arguments, message in (
        ({"use_scale": 1}, "use_scale expects True or False"),
        ({"score_mode": "cosine"}, "score_mode expects one of 'dot', 'concat'"),
        ({"dropout": -0.1}, "dropout expects a number in"),
    ):
        with pytest.raises(ValueError, match=f"Attention layer 'a': {message}"):
            Attention(name="a", **arguments)


@each_kind
def test_inputs_that_do_not_fit(kind: str) -> None:
    def ones(*shape: int) -> np.ndarray:
        return np.ones(shape, np.float32)

    layer = make(kind, name="a")
    label = f"{type(layer).__name__} layer 'a'"
    apply(layer, ones(N, S, D), ones(N, L, D))
    for arrays, message in (
        ((ones(N, D), ones(N, L, D)), "expects a query of shape"),
        ((ones(N, S, D), ones(N, L)), "expects a value of shape"),
        ((ones(N, S, D), ones(N, L, D), ones(N, S, D)), "expects as many steps of value"),
        ((ones(N, S, D), ones(2, L, D)), "the inputs differ in batch size"),
        ((ones(N, S, D + 1), ones(N, L, D)), "expects "),
        ((ones(N, S, D), ones(N, L, D), ones(N, L, D + 1)), "expects "),
    ):
        with pytest.raises(ValueError, match=f"{label}: {message}"):
            apply(layer, *arrays)
    with pytest.raises(TypeError, match="cannot mix symbolic tensors"):
        apply(layer, Input((S, D)), ones(N, L, D))
    if kind in WITHOUT_HEADS:
        with pytest.raises(ValueError, match=r"expects one input, .* got a list of 4"):
            layer([ones(N, S, D)] * 4)
    else:
        with pytest.raises(ValueError, match="as arguments of their own, got a list of 2"):
            layer([ones(N, S, D)] * 2)


def test_regularizers_and_initializers() -> None:
    layer = MultiHeadAttention(
        2,
        kernel_regularizer="l2",
        bias_regularizer="l1",
        kernel_initializer="ones",
        bias_initializer="ones",
    )
    layer(np.ones((1, 3, 4)))
    assert layer.losses == pytest.approx([0.01 * 16, 0.01 * 4] * 4)
    assert MultiHeadAttention.from_config(layer.get_config()).get_config() == layer.get_config()


def test_the_op_gets_lengths_not_a_mask_for_padding(monkeypatch: Any) -> None:
    """Padding costs no mask of S x L, and what lies behind it is not visited."""
    seen: list[Any] = []
    layer = MultiHeadAttention(2)
    x = np.ones((N, L, D), np.float32)
    layer(x)

    def spy(*arrays: Any, **options: Any) -> Any:
        seen.append((arrays[11], options["key_lengths"]))
        return arrays[0]

    monkeypatch.setattr(ops, "multi_head_attention", spy)
    layer.call([x] * 3, mask=[PADDED] * 3)
    mask, lengths = seen.pop()
    assert mask.shape == (N, 1, L, 1)
    np.testing.assert_array_equal(lengths, [5, 3, 1])
    layer.call([x] * 3, mask=[None, SCATTERED, SCATTERED])
    mask, lengths = seen.pop()
    assert mask.shape == (N, 1, 1, L) and lengths is None
    layer.call([x] * 3, use_causal_mask=True)
    assert seen.pop() == (None, None)
