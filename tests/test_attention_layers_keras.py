"""Attention layers against Keras: values, weights, masks, training, arguments."""

from __future__ import annotations

import inspect
from typing import Any

import numpy as np
import pytest
from keras_peer import import_keras
from layer_cases import randomize

import lamella
from lamella import layers

# Float32 in another order of summation, on sums of at most 100 terms of size 1.
TOLERANCE = {"rtol": 2e-5, "atol": 1e-5}
# After steps of training, whose gradients are sums over a batch.
TRAINED = {"rtol": 1e-4, "atol": 2e-5}
N, S, L, D = 3, 4, 5, 6
KEYS = np.array([[1, 0, 1, 1, 0], [1, 1, 0, 0, 0], [1, 1, 1, 1, 1]], bool)
QUERIES = np.array([[1, 1, 1, 1], [1, 1, 0, 0], [0, 1, 1, 0]], bool)
REQUIRED: dict[str, dict[str, Any]] = {
    "Attention": {},
    "MultiHeadAttention": {"num_heads": 2, "key_dim": 3},
    "GroupedQueryAttention": {"head_dim": 3, "num_query_heads": 4, "num_key_value_heads": 2},
}
each_kind = pytest.mark.parametrize("kind", list(REQUIRED))
each_projected = pytest.mark.parametrize("kind", ["MultiHeadAttention", "GroupedQueryAttention"])


@pytest.fixture(scope="module")
def keras() -> Any:
    return import_keras()


def theirs_of(keras: Any, kind: str) -> Any:
    return getattr(keras.layers, kind.replace("Grouped", "Group"))


def draw(rng: np.random.Generator, *shape: int) -> np.ndarray:
    return rng.standard_normal(shape).astype(np.float32)


def pair(keras: Any, kind: str, rng: np.random.Generator, **options: Any) -> tuple[Any, Any]:
    """Both layers, built for width D, with the same random weights."""
    ours = getattr(layers, kind)(**{**REQUIRED[kind], **options}, name="x")
    theirs = theirs_of(keras, kind)(**{**REQUIRED[kind], **options}, name="x")
    x = np.ones((1, 2, D), np.float32)
    arguments = ([x, x],) if kind == "Attention" else (x, x)
    ours(*arguments)
    theirs(*arguments)
    assert [(w.path, w.shape) for w in ours.weights] == [(w.path, w.shape) for w in theirs.weights]
    randomize(ours, rng)
    theirs.set_weights(ours.get_weights())
    return ours, theirs


def assert_alike(mine: Any, other: Any, where: Any = None) -> None:
    """Equal, tuples part by part; `where`: the rows of the first part that count."""
    mine, other = (v if isinstance(v, tuple) else (v,) for v in (mine, other))
    assert len(mine) == len(other)
    for a, b in zip(mine, map(np.asarray, other), strict=True):
        if where is not None:
            rows = where if a.ndim == 3 else np.broadcast_to(where[:, np.newaxis], a.shape[:3])
            a, b = a[rows], b[rows]
        np.testing.assert_allclose(a, b, **TOLERANCE)


@each_kind
def test_signature_and_config(keras: Any, kind: str) -> None:
    ours = inspect.signature(getattr(layers, kind)).parameters
    theirs = inspect.signature(theirs_of(keras, kind).__init__).parameters
    expected = [p for p in theirs.values() if p.name not in ("self", "kwargs")]
    assert list(ours)[: len(expected)] == [p.name for p in expected]
    for parameter in expected:
        default = None if parameter.name == "key_dim" else parameter.default
        assert ours[parameter.name].default == default, parameter.name
    mine = getattr(layers, kind)(**REQUIRED[kind], name="n").get_config()
    other = theirs_of(keras, kind)(**REQUIRED[kind], name="n").get_config()
    for key, value in other.items():
        # Keras puts a default in the place of None: value_dim.
        if key in mine and key not in ("dtype", "value_dim") and not isinstance(value, dict):
            assert mine[key] == value, key
    left_out = {"activity_regularizer", "kernel_constraint", "bias_constraint", "flash_attention"}
    assert set(other) - set(mine) <= left_out
    getattr(layers, kind).from_config(other)
    call = list(inspect.signature(theirs_of(keras, kind).call).parameters)
    if kind != "Attention":
        assert list(inspect.signature(getattr(layers, kind).__call__).parameters) == call
    assert getattr(layers, kind)(**REQUIRED[kind]).name.startswith(
        theirs_of(keras, kind)(**REQUIRED[kind]).name.rstrip("_0123456789")
    )


@pytest.mark.parametrize("score_mode", ["dot", "concat"])
@pytest.mark.parametrize("use_scale", [False, True])
def test_attention(keras: Any, use_scale: bool, score_mode: str, rng: np.random.Generator) -> None:
    ours, theirs = pair(keras, "Attention", rng, use_scale=use_scale, score_mode=score_mode)
    query, value, key = draw(rng, N, S, D), draw(rng, N, L, 2), draw(rng, N, L, D)
    both = {"return_attention_scores": True}
    assert_alike(ours([query, key]), theirs([query, key]))
    assert_alike(ours([query, value, key], **both), theirs([query, value, key], **both))
    masks = [QUERIES, KEYS]
    assert_alike(ours([query, value, key], mask=masks), theirs([query, value, key], mask=masks))
    only_keys = {"mask": [None, KEYS], **both}
    assert_alike(ours([query, key], **only_keys), theirs([query, key], **only_keys))
    causal = {"mask": [QUERIES, KEYS], "use_causal_mask": True}
    assert_alike(ours([query, key], **causal), theirs([query, key], **causal))
    assert_alike(ours(query), theirs([query, query]))
    shapes = [(S, D), (None, 2), (None, D)]
    mine = ours([layers.Input(shape) for shape in shapes], **both)
    other = theirs([keras.Input(shape) for shape in shapes], **both)
    assert [t.shape for t in mine] == [tuple(t.shape) for t in other]


@each_projected
@pytest.mark.parametrize(
    "options", [{}, {"use_bias": False}, {"sliding_window": 2}, {"dropout": 0.5}], ids=str
)
def test_projected(keras: Any, kind: str, options: Any, rng: np.random.Generator) -> None:
    ours, theirs = pair(keras, kind, rng, **options)
    query, value, key = draw(rng, N, S, D), draw(rng, N, L, D), draw(rng, N, L, D)
    assert_alike(ours(query), theirs(query, query))
    assert_alike(ours(query, value), theirs(query, value))
    both = {"return_attention_scores": True}
    assert_alike(ours(query, value, key, **both), theirs(query, value, key, **both))
    causal = {"use_causal_mask": True}
    assert_alike(ours(query, value, **causal), theirs(query, value, **causal))
    # Where a query sees no key Keras lets it see all.
    visible = rng.random((N, S, L)) < 0.6
    visible[..., 0] = True
    seen = {"attention_mask": visible, **both}
    assert_alike(ours(query, value, key, **seen), theirs(query, value, key, **seen))
    masks = {"value_mask": KEYS, "key_mask": KEYS, "attention_mask": visible | ~KEYS[:, np.newaxis]}
    inside = None
    if "sliding_window" in options:
        distance = np.abs(np.arange(S)[:, np.newaxis] - np.arange(L))
        inside = ((distance < 2) & KEYS[:, np.newaxis] & masks["attention_mask"]).any(axis=2)
    assert_alike(ours(query, value, key, **masks), theirs(query, value, key, **masks), where=inside)


@pytest.mark.parametrize("options", [{"value_dim": 5}, {"output_shape": 7}], ids=str)
def test_sizes(keras: Any, options: Any, rng: np.random.Generator) -> None:
    ours = layers.MultiHeadAttention(2, 3, **options)
    theirs = keras.layers.MultiHeadAttention(2, 3, **options)
    x = draw(rng, N, S, D), draw(rng, N, L, D + 1), draw(rng, N, L, D + 2)
    # Without scores Keras takes another way, which fails where value_dim differs from key_dim.
    both = {"return_attention_scores": True}
    ours(*x)
    theirs(*x, **both)
    assert [w.shape for w in ours.weights] == [w.shape for w in theirs.weights]
    randomize(ours, rng)
    theirs.set_weights(ours.get_weights())
    assert_alike(ours(*x, **both), theirs(*x, **both))
    shapes = [(None, a.shape[2]) for a in x]
    other = theirs(*map(keras.Input, shapes)).shape
    assert ours(*map(layers.Input, shapes)).shape == tuple(other)


@each_projected
def test_first_values_are_spread_alike(keras: Any, kind: str) -> None:
    arguments = {
        "MultiHeadAttention": {"num_heads": 8, "key_dim": 16},
        "GroupedQueryAttention": {"head_dim": 16, "num_query_heads": 8, "num_key_value_heads": 4},
    }[kind]
    ours = getattr(layers, kind)(**arguments)
    theirs = theirs_of(keras, kind)(**arguments)
    x = np.ones((1, 2, 64), np.float32)
    ours(x)
    theirs(x, x)
    for mine, other in zip(ours.get_weights(), theirs.get_weights(), strict=True):
        if mine.ndim == 3:
            np.testing.assert_allclose(np.abs(mine).max(), np.abs(other).max(), rtol=0.02)


@pytest.mark.filterwarnings("ignore:.*does not support masking")  # Keras' GroupQueryAttention
@pytest.mark.parametrize("mask_zero", [False, True])
@pytest.mark.parametrize(
    ("kind", "score_mode"), [*((kind, "dot") for kind in REQUIRED), ("Attention", "concat")]
)
def test_training(
    keras: Any, kind: str, score_mode: str, mask_zero: bool, rng: np.random.Generator
) -> None:
    """Self-attention between two LSTM layers, as in the article."""

    def model(module: Any) -> Any:
        layer = getattr(layers, kind) if module is lamella else theirs_of(keras, kind)
        options = {"use_scale": True, "score_mode": score_mode} if kind == "Attention" else {}
        attend = layer(**REQUIRED[kind], **options)
        x = module.layers.Input((6,), dtype="int32")
        y = module.layers.Embedding(7, 4, mask_zero=mask_zero)(x)
        y = module.layers.LSTM(D, return_sequences=True)(y)
        y = attend([y, y]) if kind == "Attention" else attend(y, y)
        y = module.layers.LSTM(5)(y)
        return module.models.Model(x, module.layers.Dense(3, activation="softmax")(y))

    x = rng.integers(1, 7, (4, 6)).astype(np.int32)
    x[0, 3:] = x[1, 5:] = x[2, 2] = 0
    labels = np.array([0, 2, 1, 1])
    ours, theirs = model(lamella), model(keras)
    theirs.set_weights(ours.get_weights())
    assert_alike(ours.predict(x, verbose=0), theirs.predict(x, verbose=0))
    for module, each in ((lamella, ours), (keras, theirs)):
        each.compile(module.optimizers.SGD(0.1), "sparse_categorical_crossentropy")
    for _ in range(3):
        mine, other = ours.train_on_batch(x, labels), theirs.train_on_batch(x, labels)
        np.testing.assert_allclose(mine, float(np.asarray(other)), rtol=1e-4)
    for mine, other in zip(ours.get_weights(), theirs.get_weights(), strict=True):
        np.testing.assert_allclose(mine, other, **TRAINED)
