"""The three cross-entropies: values, gradients, what they refuse."""

from __future__ import annotations

import doctest

import awkward_arrays
import hypothesis
import numpy as np
import op_checks
import pytest
from hypothesis import strategies as st
from reference import OPS, cases
from tolerances import assert_close

from lamella import ops
from lamella.ops import crossentropy

SPARSE = "sparse_categorical_crossentropy"
CATEGORICAL = "categorical_crossentropy"
BINARY = "binary_crossentropy"
NAMES = (SPARSE, CATEGORICAL, BINARY)

each_op = pytest.mark.parametrize("name", NAMES)
each_input = pytest.mark.parametrize("from_logits", [False, True], ids=["probabilities", "logits"])


def make_arrays(name, rows, classes, from_logits, rng):
    """Predictions and labels: distributions where the loss is over the classes."""
    y_pred = rng.standard_normal((rows, classes)) * 3
    if not from_logits:
        y_pred = rng.uniform(0.02, 0.98, (rows, classes))
    if name == SPARSE:
        return y_pred.astype(np.float32), rng.integers(0, classes, rows)
    labels = rng.uniform(0, 1, (rows, classes))
    if name == CATEGORICAL:
        labels /= labels.sum(axis=1, keepdims=True)
    return y_pred.astype(np.float32), labels.astype(np.float32)


def check(name, arrays, options):
    y_pred, labels = arrays
    loss, pullback = getattr(ops, name).vjp(y_pred, labels, **options)
    classes = y_pred.shape[1]
    reference = OPS[name]
    assert_close(loss, reference.forward(y_pred, labels, **options), name, "forward", classes)
    op_checks.assert_same_bits([getattr(ops, name)(y_pred, labels, **options)], [loss])
    dy = op_checks.gradient_like(loss)
    gradient, none = pullback(dy)
    assert none is None
    expected, _ = reference.backward(dy, y_pred, labels, **options)
    scale = None
    if options.get("from_logits"):
        # dy (p - t), in the binary loss over the classes: p and t are up to 1 and may cancel.
        terms = np.max(np.abs(dy), initial=0.0) / (classes if name == BINARY else 1)
        scale = max(np.max(np.abs(expected), initial=0.0), terms)
    assert_close(gradient, expected, name, "backward", classes, scale)


REFERENCE_CASES = [case for case in cases.CASES if case[0] in NAMES]


@pytest.mark.parametrize(("name", "shapes", "options"), REFERENCE_CASES, ids=str)
def test_the_references_cases(name, shapes, options, backend, rng):
    options = dict(options)
    if options.get("class_weights") is not None:
        options["class_weights"] = options["class_weights"].astype(np.float32)
    y_pred, labels = cases.make_arrays(name, shapes, options, rng)
    labels = labels if name == SPARSE else labels.astype(np.float32)
    check(name, (y_pred.astype(np.float32), labels), options)


@each_op
@each_input
@pytest.mark.parametrize("label_smoothing", [0.0, 0.1, 1.0])
@pytest.mark.parametrize("classes", [1, 2, 3, 7, 8, 10, 16, 17, 31, 100, 513, 1000])
def test_numbers_of_classes(name, from_logits, label_smoothing, classes, backend, rng):
    arrays = make_arrays(name, 9, classes, from_logits, rng)
    check(name, arrays, {"from_logits": from_logits, "label_smoothing": label_smoothing})


@hypothesis.settings(
    max_examples=40,
    deadline=None,
    suppress_health_check=[hypothesis.HealthCheck.function_scoped_fixture],
)
@each_op
@hypothesis.given(
    rows=st.integers(0, 40),
    classes=st.integers(1, 40),
    from_logits=st.booleans(),
    label_smoothing=st.floats(0, 1),
    weighted=st.booleans(),
    ignored=st.booleans(),
    seed=st.integers(0, 2**32),
)
def test_any_options(
    name, backend, rows, classes, from_logits, label_smoothing, weighted, ignored, seed
):
    rng = np.random.default_rng(seed)
    arrays = make_arrays(name, rows, classes, from_logits, rng)
    options = {"from_logits": from_logits, "label_smoothing": label_smoothing}
    if weighted and name != BINARY:
        options["class_weights"] = rng.uniform(0, 2, classes).astype(np.float32)
    if ignored and name == SPARSE:
        options["ignore_index"] = -100
        arrays[1][rng.random(rows) < 0.3] = -100
    check(name, arrays, options)


@each_op
@each_input
@pytest.mark.parametrize(("rows", "classes"), [(5000, 10), (70001, 1), (64, 3000)], ids=str)
def test_sizes_that_are_cut_into_tasks(name, from_logits, rows, classes, backend, rng):
    arrays = make_arrays(name, rows, classes, from_logits, rng)
    check(name, arrays, {"from_logits": from_logits})
    op_checks.check_thread_counts(name, arrays, {"from_logits": from_logits})


@each_op
@pytest.mark.parametrize("offset", [-3e4, 1e4])
def test_large_logits(name, offset, backend, rng):
    y_pred, labels = make_arrays(name, 6, 20, True, rng)
    spread = np.round(y_pred * 30)
    if name != BINARY:
        spread += np.float32(offset)
    check(name, (spread, labels), {"from_logits": True})


def test_certain_predictions_have_exact_losses(backend):
    logits = np.float32([[200, 0, 0], [0, 0, 200]])
    loss, pullback = ops.sparse_categorical_crossentropy.vjp(
        logits, np.array([0, 0]), from_logits=True
    )
    np.testing.assert_array_equal(loss, np.float32([0, 200]))
    np.testing.assert_array_equal(pullback(np.float32([1, 1]))[0], [[0, 0, 0], [-1, 0, 1]])
    loss = ops.binary_crossentropy(logits, np.float32([[1, 0, 0], [1, 0, 1]]), from_logits=True)
    np.testing.assert_allclose(loss, np.log(2) * np.float32([2, 2]) / 3, rtol=1e-6)


@pytest.mark.parametrize("name", [SPARSE, CATEGORICAL])
def test_clipping_of_probabilities(name, backend):
    # The first class lies below the lower bound, the second row's above the upper one.
    y_pred = np.float32([[1e-9, 0.5, 0.5], [1.0, 1e-9, 1e-9], [0.0, 0.0, 2.0]])
    labels = np.array([0, 0, 2])
    if name == CATEGORICAL:
        labels = np.eye(3, dtype=np.float32)[labels]
    loss, pullback = getattr(ops, name).vjp(y_pred, labels)
    low = -np.log(1e-7)
    np.testing.assert_allclose(loss, [low, 1.19e-7, 1.19e-7], rtol=0.01)
    (gradient, _) = pullback(np.ones(3, np.float32))
    np.testing.assert_array_equal(gradient, np.zeros((3, 3)))


def test_clipping_of_binary_probabilities(backend):
    y_pred = np.float32([[0.0, 1.0, -3.0, 7.0, 0.25]])
    labels = np.float32([[1, 0, 1, 0, 1]])
    loss, pullback = ops.binary_crossentropy.vjp(y_pred, labels)
    low = -np.log(1e-7)
    high = -np.log(1.0 - float(np.float32(1 - 1e-7)))
    np.testing.assert_allclose(loss, [(2 * low + 2 * high + np.log(4)) / 5], rtol=1e-6)
    np.testing.assert_allclose(pullback(np.float32([1]))[0], [[0, 0, 0, 0, -0.8]], rtol=1e-6)


@each_input
@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_ignored_rows_may_hold_anything(from_logits, smoothing, backend, rng):
    y_pred, labels = make_arrays(SPARSE, 8, 19, from_logits, rng)
    labels[[1, 4, 7]] = 255
    y_pred[1], y_pred[4], y_pred[7] = np.nan, np.inf, -np.inf
    options = {"from_logits": from_logits, "label_smoothing": smoothing, "ignore_index": 255}
    check(SPARSE, (y_pred, labels), options)
    loss, pullback = ops.sparse_categorical_crossentropy.vjp(y_pred, labels, **options)
    assert np.all(loss[[1, 4, 7]] == 0.0)
    assert np.all(pullback(np.ones(8, np.float32))[0][[1, 4, 7]] == 0.0)
    # An index that is a class is ignored as well.
    check(SPARSE, (y_pred[[0, 2, 3]], labels[[0, 2, 3]]), {**options, "ignore_index": labels[2]})


@each_op
@each_input
def test_nan_and_infinity(name, from_logits, backend, rng):
    for value in (np.nan, np.inf, -np.inf):
        for where in (0, 3, 18):
            y_pred, labels = make_arrays(name, 3, 19, from_logits, rng)
            y_pred[1, where] = value
            options = {"from_logits": from_logits}
            loss, pullback = getattr(ops, name).vjp(y_pred, labels, **options)
            with np.errstate(all="ignore"):
                right = OPS[name].forward(y_pred, labels, **options)
                assert_close(loss, right, name, "forward", 19)
            dy = np.ones(3, np.float32)
            right, _ = OPS[name].backward(dy, y_pred, labels, **options)
            assert_close(pullback(dy)[0], right, name, "backward", 19)


def test_a_masked_class_that_is_not_the_label(backend):
    logits = np.float32([[1, -np.inf, 2, -np.inf] * 5])
    check(SPARSE, (logits, np.array([2])), {"from_logits": True})
    assert np.isinf(ops.sparse_categorical_crossentropy(logits, np.array([1]), from_logits=True))


@each_input
def test_int32_labels_are_labels(from_logits, backend, rng):
    y_pred, labels = make_arrays(SPARSE, 30, 7, from_logits, rng)
    options = {"from_logits": from_logits}
    expected = op_checks.forward_and_backward(SPARSE, (y_pred, labels), options)
    narrow = (y_pred, labels.astype(np.int32))
    op_checks.assert_same_bits(op_checks.forward_and_backward(SPARSE, narrow, options), expected)


@each_op
@each_input
def test_parity_with_torch(name, from_logits, backend, rng):
    pytest.importorskip("torch")
    from reference import torch_peer

    for label_smoothing in (0.0, 0.2):
        y_pred, labels = make_arrays(name, 12, 21, from_logits, rng)
        options = {"from_logits": from_logits, "label_smoothing": label_smoothing}
        loss, pullback = getattr(ops, name).vjp(y_pred, labels, **options)
        dy = op_checks.gradient_like(loss)
        wide = labels if name == SPARSE else labels.astype(np.float64)
        (theirs,), (gradient, *_) = torch_peer.values_and_gradients(
            name, [y_pred.astype(np.float64), wide], (dy.astype(np.float64),), options
        )
        assert_close(loss, theirs, name, "forward", 21)
        assert_close(pullback(dy)[0], gradient, name, "backward", 21)


@each_op
@each_input
def test_calling(name, from_logits, backend, rng):
    arrays = make_arrays(name, 6, 19, from_logits, rng)
    options = {"from_logits": from_logits, "label_smoothing": 0.1}
    if name != BINARY:
        options["class_weights"] = rng.uniform(0, 2, 19).astype(np.float32)
    op_checks.check_nothing_is_changed_or_shared(name, arrays, options)
    op_checks.check_layouts(name, arrays, options)
    op_checks.check_pullback(name, arrays, options)


def test_a_changed_prediction_gives_the_gradient_there(backend, rng):
    y_pred, labels = make_arrays(SPARSE, 6, 19, True, rng)
    _, pullback = ops.sparse_categorical_crossentropy.vjp(y_pred, labels, from_logits=True)
    y_pred += rng.standard_normal(y_pred.shape).astype(np.float32)
    dy = np.ones(6, np.float32)
    expected, _ = OPS[SPARSE].backward(dy, y_pred, labels, from_logits=True)
    assert_close(pullback(dy)[0], expected, SPARSE, "backward", 19)
    labels[2] = 19
    with pytest.raises(IndexError, match=r"labels must lie in .* got 19 in row 2"):
        pullback(dy)


@each_op
def test_refused_calls(name, rng):
    arrays = make_arrays(name, 5, 6, True, rng)
    op_checks.check_pullback_refuses(name, arrays, {})
    op_checks.check_only_float32_arrays(name, arrays, {}, 0, "y_pred")
    function = getattr(ops, name)
    for shape in ((), (6,), (5, 6, 1)):
        with pytest.raises(ValueError, match=rf"^{name}: y_pred must have 2 axes \(batch, classes"):
            function(np.zeros(shape, np.float32), arrays[1])
    with pytest.raises(ValueError, match=rf"^{name}: y_pred must have at least one class"):
        function(np.zeros((5, 0), np.float32), arrays[1])
    for wrong in (arrays[1][:-1], arrays[1][None], arrays[1][..., None]):
        with pytest.raises(ValueError, match=rf"^{name}: labels must have shape \(5,"):
            function(arrays[0], wrong)
    for value in (-0.1, 1.5, np.nan, np.inf, "0.1", None, True):
        with pytest.raises(ValueError, match=rf"^{name}: label_smoothing must"):
            function(*arrays, label_smoothing=value)
    for value in (1, 0, None, "yes"):
        with pytest.raises(ValueError, match=rf"^{name}: from_logits must be True or False"):
            function(*arrays, from_logits=value)


@pytest.mark.parametrize("name", [CATEGORICAL, BINARY])
def test_refused_soft_labels(name, rng):
    arrays = make_arrays(name, 5, 6, True, rng)
    op_checks.check_only_float32_arrays(name, arrays, {}, 1, "labels")


@pytest.mark.parametrize("name", [CATEGORICAL, SPARSE])
def test_refused_class_weights(name, rng):
    arrays = make_arrays(name, 5, 6, True, rng)
    for kind, wrong in awkward_arrays.NOT_FLOAT32_ARRAYS.items():
        if wrong is not None:
            with pytest.raises(TypeError, match=f"^{name}: class_weights must be"):
                getattr(ops, name)(*arrays, class_weights=wrong)
                pytest.fail(kind)
    for shape in ((5,), (7,), (6, 1), ()):
        with pytest.raises(ValueError, match=rf"^{name}: class_weights must have shape \(6,\)"):
            getattr(ops, name)(*arrays, class_weights=np.ones(shape, np.float32))


def test_refused_sparse_labels(rng):
    function = ops.sparse_categorical_crossentropy
    y_pred, labels = make_arrays(SPARSE, 5, 6, True, rng)
    for wrong in (-1, 6, 2**40, -(2**62)):
        labels[3] = wrong
        with pytest.raises(
            IndexError, match=rf"{SPARSE}: labels must lie in \[0, 6\), got {wrong}"
        ):
            function(y_pred, labels)
        with pytest.raises(IndexError, match="in row 3"):
            function.vjp(y_pred, labels, ignore_index=-2)
    labels[3] = 0
    kinds = ("float32", "uint8", "uint64", "int16", "bool", "object", ">i8")
    for wrong in (*(labels.astype(kind) for kind in kinds), list(labels), 3, None):
        with pytest.raises(TypeError, match=f"^{SPARSE}: labels must be"):
            function(y_pred, wrong)
    for wrong in (1.0, "1", True, [1]):
        with pytest.raises(ValueError, match=f"^{SPARSE}: ignore_index must be an integer"):
            function(y_pred, labels, ignore_index=wrong)


def test_examples():
    assert doctest.testmod(crossentropy).failed == 0
