"""Metrics: values as Keras', over several batches and with weights; the name "accuracy"."""

from __future__ import annotations

import numpy as np
import pytest
from keras_peer import import_keras

from lamella import losses, metrics

# (class, config, shape of y_pred, what y_true is)
CASES = [
    ("Accuracy", {}, (8, 1), "classes column"),
    ("BinaryAccuracy", {}, (8, 1), "binary"),
    ("BinaryAccuracy", {"threshold": 0.3}, (8, 3), "binary"),
    ("SparseCategoricalAccuracy", {}, (8, 4), "classes"),
    ("SparseCategoricalAccuracy", {}, (8, 5, 4), "classes"),
    ("CategoricalAccuracy", {}, (8, 4), "one-hot"),
    ("TopKCategoricalAccuracy", {"k": 2}, (8, 4), "one-hot"),
    ("SparseTopKCategoricalAccuracy", {"k": 2}, (8, 4), "classes"),
    ("SparseTopKCategoricalAccuracy", {}, (8, 4), "classes"),
    ("MeanSquaredError", {}, (8, 3), "numbers"),
    ("MeanAbsoluteError", {}, (8, 3), "numbers"),
    ("RootMeanSquaredError", {}, (8, 3), "numbers"),
    ("BinaryCrossentropy", {"label_smoothing": 0.1}, (8, 3), "binary"),
    ("CategoricalCrossentropy", {"from_logits": True}, (8, 4), "one-hot"),
    ("SparseCategoricalCrossentropy", {}, (8, 4), "classes"),
    ("Precision", {}, (8, 3), "binary"),
    ("Precision", {"thresholds": 0.3, "class_id": 1}, (8, 3), "binary"),
    ("Recall", {}, (8, 3), "binary"),
    ("Recall", {"class_id": 2}, (8, 3), "binary"),
]


def make_batch(rng, shape, target):
    y_pred = rng.uniform(0.05, 0.95, shape).astype(np.float32)
    rows = shape[:-1]
    if target == "classes column":
        y_pred = rng.integers(0, 3, shape).astype(np.float32)
    elif target in ("classes", "one-hot"):
        y_pred /= y_pred.sum(-1, keepdims=True)
    y_true = {
        "numbers": lambda: rng.standard_normal(shape).astype(np.float32),
        "binary": lambda: rng.integers(0, 2, shape).astype(np.float32),
        "one-hot": lambda: np.eye(shape[-1], dtype=np.float32)[rng.integers(0, shape[-1], rows)],
        "classes": lambda: rng.integers(0, shape[-1], rows),
        "classes column": lambda: rng.integers(0, 3, shape).astype(np.float32),
    }[target]()
    return y_true, y_pred, rng.uniform(0.5, 2, shape[:1]).astype(np.float32)


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize(("name", "config", "shape", "target"), CASES)
def test_against_keras(name, config, shape, target, weighted):
    keras = import_keras()
    rng = np.random.default_rng(3)
    theirs = getattr(keras.metrics, name)(**config)
    ours = getattr(metrics, name)(**config)
    assert ours.name == theirs.name or name in ("Precision", "Recall")
    assert ours.result() == 0
    for rows in (8, 3):
        y_true, y_pred, weight = make_batch(rng, (rows, *shape[1:]), target)
        weight = weight if weighted else None
        theirs.update_state(y_true, y_pred, sample_weight=weight)
        ours.update_state(y_true, y_pred, sample_weight=weight)
        assert ours.result() == pytest.approx(float(theirs.result()), rel=1e-5)
    ours.reset_state()
    assert ours.result() == 0


@pytest.mark.parametrize(("name", "config", "shape", "target"), CASES)
def test_round_trip(name, config, shape, target):
    first = getattr(metrics, name)(**config, name="own")
    again = metrics.deserialize(metrics.serialize(first))
    assert type(again) is type(first) and again.get_config() == first.get_config()
    assert again.name == "own"


def test_mean():
    mean = metrics.Mean()
    mean.update_state(2.0)
    mean.update_state(5.0, sample_weight=2)
    assert mean.result() == 4.0
    mean.update_state([1, 3], sample_weight=[1, 0])
    assert mean.result() == pytest.approx(13 / 4)
    mean.update_state(float("nan"))
    assert np.isnan(mean.result())


def test_weights_of_zero_mask():
    metric = metrics.SparseCategoricalAccuracy()
    metric.update_state([0, 1], [[0.9, 0.1], [0.9, 0.1]], sample_weight=[1, 0])
    assert metric.result() == 1.0
    # A weight for each step of a sequence.
    metric = metrics.SparseCategoricalAccuracy()
    steps = [[[0.9, 0.1], [0.9, 0.1]]]
    metric.update_state([[0, 1]], steps, sample_weight=[[1, 0]])
    assert metric.result() == 1.0


def test_ties_and_nan_in_top_k():
    metric = metrics.SparseTopKCategoricalAccuracy(k=2)
    assert metric([0], [[0.2, 0.2, 0.2, 0.4]]) == 1.0  # nothing but one is larger
    metric.reset_state()
    assert metric([0], [[np.nan, 0.2, 0.2, 0.4]]) == 0.0


@pytest.mark.parametrize(
    ("y_true", "y_pred", "expected"),
    [
        ([[1], [0], [1]], [[0.9], [0.8], [0.7]], 2 / 3),
        ([0, 1, 1], [[0.9, 0.1], [0.8, 0.2], [0.3, 0.7]], 2 / 3),
        ([[0], [1], [1]], [[0.9, 0.1], [0.8, 0.2], [0.3, 0.7]], 2 / 3),
        ([[1, 0], [0, 1], [0, 1]], [[0.9, 0.1], [0.8, 0.2], [0.3, 0.7]], 2 / 3),
    ],
)
@pytest.mark.parametrize("name", ["accuracy", "acc"])
def test_accuracy_fits_the_first_batch(name, y_true, y_pred, expected):
    metric = metrics.get(name)
    assert metric.name == name and metric.direction == "up" and metric.result() == 0
    metric.update_state(np.asarray(y_true), np.asarray(y_pred))
    assert metric.result() == pytest.approx(expected)
    metric.reset_state()
    assert metric.result() == 0


@pytest.mark.parametrize(
    ("loss", "output_shape", "kind"),
    [
        ("sparse_categorical_crossentropy", (None, 10), metrics.SparseCategoricalAccuracy),
        ("categorical_crossentropy", (None, 10), metrics.CategoricalAccuracy),
        ("binary_crossentropy", (None, 1), metrics.BinaryAccuracy),
        ("mse", (None, 1), metrics.BinaryAccuracy),
    ],
)
def test_accuracy_fits_the_model(loss, output_shape, kind):
    metric = metrics.get("accuracy", loss=losses.get(loss), output_shape=output_shape)
    assert type(metric) is kind and metric.name == "accuracy"


def test_get():
    assert type(metrics.get("mse")) is metrics.MeanSquaredError
    assert metrics.get("mse").name == "mse"
    assert metrics.get(metrics.Recall).name == "recall"
    own = metrics.Mean(name="own")
    assert metrics.get(own) is own

    def spread(y_true, y_pred):
        return np.ptp(y_pred, axis=-1)

    metric = metrics.get(spread)
    metric.update_state([[0, 0]], [[1.0, 4.0]])
    assert metric.name == "spread" and metric.result() == 3.0


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: metrics.get("accuracies"), ValueError, "Did you mean 'Accuracy'"),
        (lambda: metrics.get(3), ValueError, "expects a name"),
        (lambda: metrics.BinaryAccuracy(threshold=1), ValueError, "threshold"),
        (lambda: metrics.Precision(thresholds=[0.1, 0.2]), ValueError, "thresholds"),
        (lambda: metrics.Precision(top_k=2), ValueError, "top_k is not supported"),
        (
            lambda: metrics.SparseTopKCategoricalAccuracy(from_sorted_ids=True),
            ValueError,
            "from_sorted_ids",
        ),
        (lambda: metrics.Mean(dtype="float16"), ValueError, "float32"),
        (
            lambda: metrics.SparseCategoricalAccuracy()([0, 1, 2], np.zeros((2, 3))),
            ValueError,
            r"shape \(2,\)",
        ),
        (lambda: metrics.CategoricalAccuracy()([0, 1], np.zeros((2, 3))), ValueError, "one-hot"),
        (
            lambda: metrics.SparseTopKCategoricalAccuracy()([3], np.zeros((1, 3))),
            IndexError,
            r"\[0, 3\)",
        ),
        (
            lambda: metrics.MeanSquaredError()(np.zeros((2, 1)), np.zeros((2, 3))),
            ValueError,
            "y_true",
        ),
    ],
)
def test_errors(call, error, message):
    with pytest.raises(error, match=message):
        call()
