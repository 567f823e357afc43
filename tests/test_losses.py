"""Losses: values by hand and as Keras, gradients by differences, weights, reductions, errors."""

from __future__ import annotations

import numpy as np
import pytest
from keras_peer import import_keras

from lamella import losses

REDUCTIONS = ["sum_over_batch_size", "mean", "sum", "mean_with_sample_weight"]

# (class, config, shape of y_pred, what y_true is)
CASES = [
    ("MeanSquaredError", {}, (6, 3), "numbers"),
    ("MeanSquaredError", {}, (6, 1), "column"),
    ("MeanAbsoluteError", {}, (6, 3), "numbers"),
    ("Huber", {}, (6, 3), "numbers"),
    ("Huber", {"delta": 0.4}, (4, 2, 3), "numbers"),
    ("BinaryCrossentropy", {}, (6, 3), "binary"),
    ("BinaryCrossentropy", {"from_logits": True}, (6, 1), "binary column"),
    ("BinaryCrossentropy", {"label_smoothing": 0.2}, (4, 2, 3), "binary"),
    ("CategoricalCrossentropy", {}, (6, 4), "one-hot"),
    ("CategoricalCrossentropy", {"from_logits": True}, (3, 2, 4), "one-hot"),
    ("CategoricalCrossentropy", {"label_smoothing": 0.1, "from_logits": True}, (6, 4), "one-hot"),
    ("SparseCategoricalCrossentropy", {}, (6, 4), "classes"),
    ("SparseCategoricalCrossentropy", {"from_logits": True}, (3, 2, 4), "classes"),
    ("SparseCategoricalCrossentropy", {"ignore_class": 2}, (12, 4), "classes"),
    ("SparseCategoricalCrossentropy", {"ignore_class": -1, "from_logits": True}, (6, 4), "classes"),
]


def make_data(config, shape, target, seed=1):
    """Return y_true, y_pred and one weight a row."""
    rng = np.random.default_rng(seed)
    y_pred = rng.standard_normal(shape).astype(np.float32)
    probabilities = target in ("binary", "one-hot", "classes") and not config.get("from_logits")
    if probabilities:
        y_pred = np.exp(y_pred)
        y_pred /= y_pred.sum(-1, keepdims=True)
    rows = shape[:-1]
    y_true = {
        "numbers": lambda: rng.standard_normal(shape).astype(np.float32),
        "column": lambda: rng.standard_normal(rows).astype(np.float32),
        "binary": lambda: rng.integers(0, 2, shape).astype(np.float32),
        "binary column": lambda: rng.integers(0, 2, rows),
        "one-hot": lambda: np.eye(shape[-1], dtype=np.float32)[rng.integers(0, shape[-1], rows)],
        "classes": lambda: rng.integers(0, shape[-1], rows),
    }[target]()
    if config.get("ignore_class") == -1:
        y_true[:2] = -1
    return y_true, y_pred, rng.uniform(0.5, 2, rows).astype(np.float32)


@pytest.mark.parametrize("reduction", [*REDUCTIONS, "none"])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize(("name", "config", "shape", "target"), CASES)
def test_against_keras(name, config, shape, target, weighted, reduction):
    keras = import_keras()
    y_true, y_pred, weight = make_data(config, shape, target)
    weight = weight if weighted else None
    theirs = getattr(keras.losses, name)(**config, reduction=reduction)
    ours = getattr(losses, name)(**config, reduction=reduction)
    expected = np.asarray(theirs(y_true, y_pred, sample_weight=weight))
    value = ours(y_true, y_pred, sample_weight=weight)
    np.testing.assert_allclose(value, expected, rtol=2e-5, atol=1e-6)
    assert isinstance(value, float) == (reduction != "none")


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize(("name", "config", "shape", "target"), CASES)
def test_gradient(name, config, shape, target, weighted, reduction):
    y_true, y_pred, weight = make_data(config, shape, target, seed=2)
    weight = weight if weighted else None
    loss = getattr(losses, name)(**config, reduction=reduction)
    value, gradient = loss.value_and_gradient(y_true, y_pred, weight)
    assert value == pytest.approx(loss(y_true, y_pred, weight))
    assert gradient.shape == y_pred.shape and gradient.dtype == np.float32
    step = 2e-3
    for place in list(np.ndindex(shape))[:: max(1, y_pred.size // 8)]:
        shifted = y_pred.copy()
        shifted[place] += step
        above = loss(y_true, shifted, weight)
        shifted[place] -= 2 * step
        slope = (above - loss(y_true, shifted, weight)) / (2 * step)
        assert gradient[place] == pytest.approx(slope, rel=2e-2, abs=2e-3)


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize(
    ("name", "config", "target"),
    [
        ("SparseCategoricalCrossentropy", {}, "classes"),
        ("SparseCategoricalCrossentropy", {"ignore_class": 1}, "classes"),
        ("CategoricalCrossentropy", {"label_smoothing": 0.1}, "one-hot"),
    ],
)
def test_logits_in_place_of_a_softmax(name, config, target, weighted):
    shape = (5, 2, 4)
    y_true, logits, weight = make_data({"from_logits": True, **config}, shape, target)
    weight = weight if weighted else None
    loss = getattr(losses, name)(**config)
    assert loss.accepts_softmax_logits
    softmax = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    value, d_logits = loss.value_and_gradient_from_logits(y_true, logits, weight)
    expected, d_softmax = loss.value_and_gradient(y_true, softmax, weight)
    assert value == pytest.approx(expected, rel=1e-5)
    inner = (d_softmax * softmax).sum(-1, keepdims=True)
    np.testing.assert_allclose(d_logits, softmax * (d_softmax - inner), atol=2e-6)


def test_logits_are_refused_where_they_are_not_meant():
    loss = losses.CategoricalCrossentropy(from_logits=True)
    assert not loss.accepts_softmax_logits
    with pytest.raises(ValueError, match="no logits"):
        loss.value_and_gradient_from_logits([[1.0, 0.0]], [[1.0, 2.0]])
    assert not losses.MeanSquaredError().accepts_softmax_logits


def test_by_hand():
    y_pred = [[0.2, 0.8], [0.5, 0.5], [0.9, 0.1]]
    rows = -np.log([0.8, 0.5, 0.9])
    loss = losses.SparseCategoricalCrossentropy()
    assert loss([1, 0, 0], y_pred) == pytest.approx(rows.mean(), rel=1e-6)
    weighted = loss([1, 0, 0], y_pred, sample_weight=[1, 2, 0])
    assert weighted == pytest.approx((rows[0] + 2 * rows[1]) / 3, rel=1e-6)
    ignoring = losses.SparseCategoricalCrossentropy(ignore_class=0)
    assert ignoring([1, 0, 0], y_pred) == pytest.approx(rows[0], rel=1e-6)
    assert ignoring([0, 0, 0], y_pred) == 0.0  # nothing counts


LABELS = [0, 2, 1]
PROBABILITIES = np.float32([[0.7, 0.2, 0.1], [0.1, 0.2, 0.7], [0.3, 0.3, 0.4]])


@pytest.mark.parametrize(
    "labels",
    [
        np.array(LABELS, dtype)
        for dtype in ("int64", "int32", "uint8", "int8", "uint16", "float32", "float64")
    ]
    + [np.array(LABELS)[:, None], np.array(LABELS, np.float32)[:, None], LABELS],
)
def test_labels_of_every_kind(labels):
    expected = -np.log([0.7, 0.7, 0.3]).mean()
    loss = losses.get("sparse_categorical_crossentropy")
    assert loss(labels, PROBABILITIES) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize(
    ("labels", "error", "message"),
    [
        ([0.5, 1, 2], ValueError, "class numbers, got .*0.5"),
        ([float("nan"), 1, 2], ValueError, "class numbers"),
        ([1e300, 1, 2], ValueError, "class numbers"),
        (["a", "b", "c"], ValueError, "dtype"),
        ([0, 1], ValueError, r"shape \(3,\)"),
        (np.eye(3), ValueError, "one-hot targets use categorical_crossentropy"),
        ([0, 1, 3], IndexError, "3"),
        ([0, 1, -1], IndexError, "-1"),
    ],
)
def test_labels_that_are_refused(labels, error, message):
    with pytest.raises(error, match=message):
        losses.SparseCategoricalCrossentropy().value_and_gradient(labels, PROBABILITIES)


@pytest.mark.parametrize(
    "name",
    [
        "categorical_crossentropy",
        "binary_crossentropy",
        "mean_squared_error",
        "mean_absolute_error",
        "huber",
    ],
)
def test_shapes_that_are_refused(name):
    # (4, 1) against (4, 3) would broadcast: a mistake that trains, and learns nothing.
    with pytest.raises(ValueError, match=r"\(4, 3\), got shape \(4, 1\)"):
        losses.get(name)(np.zeros((4, 1)), np.full((4, 3), 0.5))
    with pytest.raises(ValueError, match="sparse_categorical_crossentropy"):
        losses.get(name)(np.zeros(4), np.full((4, 3), 0.5))


@pytest.mark.parametrize("shapes", [((4,), (4, 1)), ((4, 1), (4,)), ((4, 1), (4, 1))])
def test_a_last_axis_of_one(shapes):
    true, pred = np.float32([1, 2, 3, 4]), np.float32([1, 1, 1, 2])
    loss = losses.MeanSquaredError()
    value, gradient = loss.value_and_gradient(true.reshape(shapes[0]), pred.reshape(shapes[1]))
    assert value == pytest.approx((0 + 1 + 4 + 4) / 4)
    assert gradient.shape == shapes[1]
    np.testing.assert_allclose(gradient.ravel(), [0, -0.5, -1, -1])


def test_sample_weights():
    loss = losses.MeanSquaredError()
    true, pred = np.zeros((2, 3, 1)), np.float32([[[1], [2], [3]], [[1], [1], [1]]])
    by_sample = loss(true, pred, sample_weight=[1, 0])
    by_step = loss(true, pred, sample_weight=[[1, 1, 1], [0, 0, 0]])
    assert by_sample == by_step == pytest.approx(14 / 6)
    assert loss(true, pred, sample_weight=[[1], [0]]) == by_sample
    with pytest.raises(ValueError, match=r"sample_weight expects shape \(2, 3\)"):
        loss(true, pred, sample_weight=[1, 2, 3])


def test_empty_batch():
    value, gradient = losses.MeanSquaredError().value_and_gradient(
        np.zeros((0, 3)), np.zeros((0, 3), np.float32)
    )
    assert value == 0.0 and gradient.shape == (0, 3)


def test_batches_of_changing_sizes():
    loss = losses.MeanSquaredError()
    for size in [*range(1, 20), 5]:
        value, gradient = loss.value_and_gradient(np.zeros((size, 2)), np.ones((size, 2)))
        assert value == pytest.approx(1.0)
        np.testing.assert_allclose(gradient, 1 / size, rtol=1e-6)


@pytest.mark.parametrize(("name", "config", "shape", "target"), CASES)
def test_round_trip(name, config, shape, target):
    first = getattr(losses, name)(**config, reduction="sum", name="own")
    again = losses.deserialize(losses.serialize(first))
    assert type(again) is type(first) and again.get_config() == first.get_config()


def test_get():
    assert losses.get(None) is None
    assert isinstance(losses.get("mse"), losses.MeanSquaredError)
    assert isinstance(losses.get("MAE"), losses.MeanAbsoluteError)
    assert isinstance(losses.get("bce"), losses.BinaryCrossentropy)
    assert isinstance(losses.get(losses.Huber), losses.Huber)
    assert isinstance(losses.get(losses.mean_squared_error), losses.MeanSquaredError)
    own = losses.Huber(0.5)
    assert losses.get(own) is own


def test_functions_give_rows():
    np.testing.assert_allclose(
        losses.mean_squared_error([[0, 0], [1, 1]], [[1, 0], [1, 3]]), [0.5, 2]
    )
    np.testing.assert_allclose(losses.mean_absolute_error([[0, 0]], [[1, -3]]), [2])
    np.testing.assert_allclose(losses.huber([[0, 0]], [[1, -3]]), [1.5])
    np.testing.assert_allclose(
        losses.sparse_categorical_crossentropy(LABELS, PROBABILITIES),
        -np.log([0.7, 0.7, 0.3]),
        rtol=1e-6,
    )
    np.testing.assert_allclose(
        losses.categorical_crossentropy(np.eye(3)[LABELS], PROBABILITIES),
        -np.log([0.7, 0.7, 0.3]),
        rtol=1e-6,
    )
    np.testing.assert_allclose(
        losses.binary_crossentropy([[1.0, 0.0]], [[0.5, 0.5]]), [np.log(2)], rtol=1e-6
    )


class Cubic(losses.Loss):
    def rows_and_gradient(self, y_true, y_pred):
        error = y_pred - y_true
        rows = (np.abs(error) ** 3).mean(axis=-1)
        return rows, 3 * error * np.abs(error) / error.shape[-1]


def test_a_loss_of_ones_own():
    loss = losses.get(Cubic())
    assert loss.name == "cubic"
    true, pred = np.zeros((2, 2)), np.float32([[1, 2], [-1, 0]])
    value, gradient = loss.value_and_gradient(true, pred, sample_weight=[1, 3])
    assert value == pytest.approx((4.5 + 3 * 0.5) / 2)
    np.testing.assert_allclose(gradient, [[0.75, 3], [-2.25, 0]])
    again = losses.get(losses.serialize(loss), custom_objects={"Cubic": Cubic})
    assert isinstance(again, Cubic)


def test_a_loss_of_ones_own_that_is_incomplete():
    class OnlyValues(losses.Loss):
        def call(self, y_true, y_pred):
            return np.zeros(len(y_pred))

    class WrongShape(losses.Loss):
        def rows_and_gradient(self, y_true, y_pred):
            return np.zeros(3), np.zeros(3)

    with pytest.raises(ValueError, match="rows_and_gradient"):
        losses.get(OnlyValues())
    with pytest.raises(ValueError, match=r"shape of y_pred, \(2, 2\)"):
        WrongShape().value_and_gradient(np.zeros((2, 2)), np.zeros((2, 2)))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: losses.get(lambda y_true, y_pred: 0.0), "rows_and_gradient"),
        (lambda: losses.get("mean_square_error"), "Did you mean 'MeanSquaredError'"),
        (lambda: losses.MeanSquaredError(reduction="average"), "reduction"),
        (lambda: losses.MeanSquaredError(dtype="float16"), "float32"),
        (lambda: losses.CategoricalCrossentropy(label_smoothing=2), "label_smoothing"),
        (lambda: losses.CategoricalCrossentropy(axis=1), "axis"),
        (lambda: losses.SparseCategoricalCrossentropy(ignore_class=0.5), "ignore_class"),
        (lambda: losses.Huber(delta=0), "delta"),
        (
            lambda: losses.MeanSquaredError(reduction="none").value_and_gradient([[1]], [[2]]),
            "no single number",
        ),
    ],
)
def test_errors(call, message):
    with pytest.raises(ValueError, match=message):
        call()
