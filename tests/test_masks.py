"""Masks: where they begin, flow and end, what losses and metrics make of them."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pytest
from keras_peer import import_keras

import lamella
from lamella import layers
from lamella.layers import (
    Activation,
    Add,
    BatchNormalization,
    Concatenate,
    Dense,
    Dropout,
    Embedding,
    Flatten,
    GlobalAveragePooling1D,
    Input,
    Layer,
    Masking,
    TimeDistributed,
)
from lamella.models import Model, Sequential

TOLERANCE = {"rtol": 1e-4, "atol": 1e-5}
X = np.array([[1, 2, 0, 0], [3, 0, 2, 0], [1, 4, 2, 3]])


@pytest.fixture(scope="module")
def keras() -> Any:
    return import_keras()


class Seen(Layer):
    """The identity; remembers the masks it is given."""

    supports_masking = True
    uses_mask = True

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.masks: list[Any] = []

    def forward(self, x: Any, training: bool, mask: Any = None) -> Any:
        self.masks.append(mask)
        return x, lambda dy: dy

    def compute_output_shape(self, input_shape: Any) -> Any:
        return input_shape


def masks_after(*stack: Layer, x: Any = X) -> Any:
    """What reaches the end of a stack, in prediction and in training."""
    seen = Seen()
    model = Sequential([Embedding(5, 4, mask_zero=True), *stack, seen, Flatten(), Dense(1)])
    seen.warned_of_mask = model.layers[-2].warned_of_mask = True
    model.predict(x, verbose=0)
    model.compile("sgd", "mse")
    model.train_on_batch(x, np.zeros((len(x), 1)))
    first, second = seen.masks
    assert (first is None) == (second is None)
    if first is not None:
        np.testing.assert_array_equal(first, second)
    return first


@pytest.mark.parametrize(
    "stack",
    [
        (),
        (Activation("relu"),),
        (layers.ReLU(), layers.Softmax(), layers.LeakyReLU()),
        (Dropout(0.5),),
        (Dense(3), Dense(2, activation="softmax")),
        (BatchNormalization(),),
        (layers.LayerNormalization(), layers.RMSNormalization()),
        (layers.GroupNormalization(2), layers.UnitNormalization()),
        (TimeDistributed(Dense(3)),),
        (Sequential([Dense(3), Dense(2)]),),
    ],
    ids=str,
)
def test_layers_that_pass_masks_on(stack: Any) -> None:
    mask = masks_after(*stack)
    assert mask.dtype == np.bool_
    np.testing.assert_array_equal(mask, X != 0)


@pytest.mark.parametrize(
    "layer",
    [layers.Permute((2, 1)), layers.Reshape((2, 2, 4)), layers.Conv1D(2, 1)],
    ids=lambda layer: layer.name,
)
def test_layers_that_end_masks_say_so(layer: Layer) -> None:
    with pytest.warns(UserWarning, match=f"{layer.name}.* does not support masks"):
        assert masks_after(layer) is None
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # once a layer
        Model(layer.nodes[0].inputs[0].node.inputs[0], layer.output)


def test_no_masks_no_plan() -> None:
    model = Sequential([Embedding(5, 4), Dense(2), GlobalAveragePooling1D()])
    model.predict(X, verbose=0)
    assert model.graph.masks is None
    assert model._inference.run == model._inference._run_chain


def test_masking(rng: np.random.Generator) -> None:
    x = rng.standard_normal((2, 5, 3)).astype(np.float32)
    x[0, 1] = x[1, 3:] = 0.1
    x[1, 0, :2] = 0.1
    seen = Seen()
    model = Sequential([Masking(0.1), seen])
    y = model.predict(x, verbose=0)
    expected = np.ones((2, 5), bool)
    expected[0, 1] = expected[1, 3:] = False
    np.testing.assert_array_equal(seen.masks[0], expected)
    np.testing.assert_array_equal(y, np.where(expected[..., None], x, 0))
    for wrong in ("0", None, np.nan, [0]):
        with pytest.raises(ValueError, match="mask_value expects a finite number"):
            Masking(wrong)


def test_masking_against_keras(keras: Any, rng: np.random.Generator) -> None:
    x = rng.integers(0, 2, (3, 6, 2)).astype(np.float32)
    for value in (0.0, 1.0):
        ours, theirs = Masking(value), keras.layers.Masking(value)
        np.testing.assert_array_equal(ours(x), np.asarray(theirs(x)))
        np.testing.assert_array_equal(ours.compute_mask(x), np.asarray(theirs.compute_mask(x)))


@pytest.mark.parametrize("axis", [-1, 1, 2])
@pytest.mark.parametrize("masked", [(True, True), (True, False), (False, False)])
def test_merging_against_keras(keras: Any, axis: int, masked: Any) -> None:
    rng = np.random.default_rng(5)
    arrays = [rng.standard_normal((2, 3, 4)).astype(np.float32) for _ in range(2)]
    masks = [rng.integers(0, 2, (2, 3)).astype(bool) if has else None for has in masked]
    for ours, theirs in (
        (Concatenate(axis), keras.layers.Concatenate(axis)),
        (Add(), keras.layers.Add()),
        (layers.Multiply(), keras.layers.Multiply()),
    ):
        expected = theirs.compute_mask(arrays, masks)
        mine = ours.compute_mask(arrays, masks)
        if expected is None:
            assert mine is None
        else:
            np.testing.assert_array_equal(mine, np.asarray(expected))


def test_merging_in_a_graph() -> None:
    x, y = Input((4,)), Input((4,))
    seen = [Seen() for _ in range(4)]
    a, b = Embedding(5, 2, mask_zero=True)(x), Embedding(5, 2, mask_zero=True)(y)
    plain = Embedding(5, 2)(x)
    outputs = [
        seen[0](Add()([a, b])),
        seen[1](Concatenate(axis=1)([a, b])),
        seen[2](Add()([a, plain])),
        seen[3](Concatenate(axis=1)([plain, b])),
    ]
    model = Model([x, y], outputs)
    other = X[:, ::-1].copy()
    model.predict([X, other], verbose=0)
    first, second, third, fourth = (one.masks[0] for one in seen)
    np.testing.assert_array_equal(first, (X != 0) | (other != 0))
    np.testing.assert_array_equal(second, np.concatenate([X != 0, other != 0], axis=1))
    assert third is None
    np.testing.assert_array_equal(fourth, np.concatenate([X == X, other != 0], axis=1))


def test_a_layer_of_ones_own_makes_a_mask() -> None:
    class Short(Layer):
        supports_masking = True

        def forward(self, x: Any, training: bool) -> Any:
            return x, lambda dy: dy

        def compute_mask(self, inputs: Any, mask: Any = None) -> Any:
            return np.arange(inputs.shape[1]) < np.full((len(inputs), 1), 2)

        def compute_output_shape(self, input_shape: Any) -> Any:
            return input_shape

    seen = Seen()
    Sequential([Short(), seen])(np.ones((3, 4, 1)))
    np.testing.assert_array_equal(seen.masks[0], [[True, True, False, False]] * 3)

    class Plain(Layer):
        """Knows nothing of masks."""

        def forward(self, x: Any, training: bool) -> Any:
            return 2 * x, lambda dy: 2 * dy

        def compute_output_shape(self, input_shape: Any) -> Any:
            return input_shape

    with pytest.warns(UserWarning, match="does not support masks"):
        assert masks_after(Plain()) is None


def test_masks_given_to_a_layer() -> None:
    x = np.arange(6.0).reshape(1, 3, 2)
    layer = GlobalAveragePooling1D(name="g")
    mask = np.array([[True, False, True]])
    np.testing.assert_array_equal(layer(x, mask=mask), [[2.0, 3.0]])
    np.testing.assert_array_equal(layer(x, mask=mask & False), [[0.0, 0.0]])
    with pytest.raises(ValueError, match="'g': mask expects a bool array"):
        layer(x, mask=mask[:, :2])
    with pytest.raises(ValueError, match="'g': mask expects a bool array"):
        layer(x, mask=mask.astype(int))
    with pytest.raises(ValueError, match="'d': takes no mask"):
        Dense(2, name="d")(x, mask=mask)
    with pytest.raises(ValueError, match="masks flow there"):
        layer(Input((3, 2)), mask=mask)


def test_global_average_gradient(rng: np.random.Generator) -> None:
    x = rng.standard_normal((2, 4, 3)).astype(np.float32)
    mask = np.array([[True, False, True, True], [False, False, True, False]])
    for keepdims in (False, True):
        layer = GlobalAveragePooling1D(keepdims=keepdims)
        y, pullback = layer.forward(x, True, mask=mask)
        expected = np.stack([x[i][mask[i]].mean(axis=0) for i in range(2)])
        np.testing.assert_allclose(y.reshape(2, 3), expected, **TOLERANCE)
        np.testing.assert_array_equal(layer.call(x, mask=mask), y)
        damaged = np.where(mask[..., None], x, np.float32(np.nan))
        np.testing.assert_array_equal(layer.call(damaged, mask=mask), y)
        dx = pullback(np.ones_like(y))
        np.testing.assert_allclose(dx[:, :, 0], mask / mask.sum(1, keepdims=True), **TOLERANCE)


def test_batch_normalization_counts_unmasked_steps(rng: np.random.Generator) -> None:
    x = rng.standard_normal((3, 4, 2)).astype(np.float32) * 3
    mask = X != 0
    layer = BatchNormalization(momentum=0.5)
    layer.build(x.shape)
    layer.set_weights([rng.random(2) + 0.5, rng.random(2), np.zeros(2), np.ones(2)])
    y, pullback = layer.forward(x, True, mask=mask)
    mean, variance = x[mask].mean(axis=0), x[mask].var(axis=0)
    gamma, beta = layer.gamma.numpy(), layer.beta.numpy()
    expected = gamma * (x - mean) / np.sqrt(variance + 1e-3) + beta
    np.testing.assert_allclose(y, expected, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(layer.moving_mean.value, mean / 2, rtol=1e-4)
    dy = rng.standard_normal(x.shape).astype(np.float32)
    dx = pullback(dy)

    def loss(x: np.ndarray) -> float:
        mean, variance = x[mask].mean(axis=0), x[mask].var(axis=0)
        return float(((gamma * (x - mean) / np.sqrt(variance + 1e-3) + beta) * dy).sum())

    wide = x.astype(np.float64)
    for place in np.ndindex(x.shape):
        up, down = wide.copy(), wide.copy()
        up[place] += 1e-5
        down[place] -= 1e-5
        slope = (loss(up) - loss(down)) / 2e-5
        assert dx[place] == pytest.approx(slope, rel=1e-3, abs=1e-4)
    unit = (x - mean) / np.sqrt(variance + 1e-3)
    np.testing.assert_allclose(layer.gamma.gradient, (dy * unit).sum((0, 1)), **TOLERANCE)
    np.testing.assert_allclose(layer.beta.gradient, dy.sum((0, 1)), **TOLERANCE)
    with pytest.raises(ValueError, match="every step is masked"):
        layer(x, training=True, mask=mask & False)


# -- losses and metrics, against Keras ------------------------------------------------------------


def tagger(module: Any, units: int, activation: str | None) -> Any:
    return module.Sequential(
        [
            module.layers.Embedding(5, 4, mask_zero=True),
            module.layers.BatchNormalization(),
            module.layers.Dense(units, activation=activation),
        ]
    )


@pytest.mark.parametrize(
    ("loss", "units", "activation", "metrics"),
    [
        ("sparse_categorical_crossentropy", 3, "softmax", ["accuracy"]),
        ("binary_crossentropy", 1, "sigmoid", ["accuracy", "mse"]),
        ("mse", 2, None, ["mae", "RootMeanSquaredError"]),
        ("categorical_crossentropy", 3, "softmax", ["categorical_accuracy"]),
    ],
)
@pytest.mark.parametrize("weighted", [False, True])
def test_training_against_keras(
    keras: Any,
    loss: str,
    units: int,
    activation: str | None,
    metrics: list[str],
    weighted: bool,
    rng: np.random.Generator,
) -> None:
    x = rng.integers(0, 5, (6, 7))
    x[0] = 0  # nothing counts
    if loss == "sparse_categorical_crossentropy":
        y: Any = rng.integers(0, units, (6, 7))
    elif loss == "categorical_crossentropy":
        y = np.eye(units, dtype=np.float32)[rng.integers(0, units, (6, 7))]
    else:
        y = rng.integers(0, 2, (6, 7, units)).astype(np.float32)
    weight = rng.random((6, 7)).astype(np.float32) if weighted else None
    ours, theirs = tagger(lamella, units, activation), tagger(keras, units, activation)
    ours.predict(x, verbose=0)
    theirs.predict(x, verbose=0)
    ours.layers[1].set_weights([rng.random(4) + 0.5, rng.random(4), np.zeros(4), np.ones(4)])
    theirs.set_weights(ours.get_weights())
    for module, model in ((lamella, ours), (keras, theirs)):
        seen = {"weighted_metrics" if weighted else "metrics": metrics}
        model.compile(module.optimizers.SGD(0.1), loss, **seen)
    for method in ("test_on_batch", "train_on_batch", "test_on_batch"):
        mine = getattr(ours, method)(x, y, sample_weight=weight)
        other = getattr(theirs, method)(x, y, sample_weight=weight)
        if method == "train_on_batch":
            # On JAX the gradient's trace loses the mask before Keras' metrics see it.
            mine, other = mine[:1], other[:1]
        np.testing.assert_allclose(mine, np.asarray(other, np.float32), **TOLERANCE)
    for mine, other in zip(ours.get_weights(), theirs.get_weights(), strict=True):
        np.testing.assert_allclose(mine, other, **TOLERANCE)
    options = {"sample_weight": weight, "verbose": 0, "batch_size": 4}
    ours.fit(x, y, shuffle=False, **options)
    theirs.fit(x, y, shuffle=False, **options)
    mine, other = ours.evaluate(x, y, **options), theirs.evaluate(x, y, **options)
    np.testing.assert_allclose(mine, other, **TOLERANCE)


@pytest.mark.parametrize("reduction", ["sum_over_batch_size", "sum", "mean_with_sample_weight"])
def test_reductions_against_keras(keras: Any, reduction: str, rng: np.random.Generator) -> None:
    x, y = rng.integers(0, 5, (4, 6)), rng.integers(-1, 3, (4, 6))
    ours, theirs = tagger(lamella, 3, None), tagger(keras, 3, None)
    ours.predict(x, verbose=0)
    theirs.predict(x, verbose=0)
    theirs.set_weights(ours.get_weights())
    for module, model in ((lamella, ours), (keras, theirs)):
        loss = module.losses.SparseCategoricalCrossentropy(
            from_logits=True, ignore_class=-1, reduction=reduction
        )
        model.compile(module.optimizers.SGD(0.1), loss)
    for method in ("test_on_batch", "train_on_batch", "test_on_batch"):
        mine, other = (getattr(model, method)(x, y) for model in (ours, theirs))
        np.testing.assert_allclose(mine, np.asarray(other, np.float32), **TOLERANCE)


def test_weights_of_samples_with_a_mask(rng: np.random.Generator) -> None:
    """One weight a sample, which Keras cannot combine with a mask of steps."""
    model = tagger(lamella, 1, None)
    model.compile("sgd", "mse", weighted_metrics=["mse"])
    x, y = np.concatenate([X, X]), np.zeros((6, 4, 1))
    weight = np.array([1, 0, 2, 0.5, 1, 1])
    loss, metric = model.test_on_batch(x, y, sample_weight=weight)
    errors = model.predict(x, verbose=0)[..., 0] ** 2 * (x != 0) * weight[:, None]
    assert loss == pytest.approx(errors.sum() / (x != 0).sum(), rel=1e-5)
    assert metric == pytest.approx(errors.sum() / ((x != 0) * weight[:, None]).sum(), rel=1e-5)


def test_a_loss_and_a_metric_of_ones_own(rng: np.random.Generator) -> None:
    class Squares(lamella.losses.Loss):
        def rows_and_gradient(self, y_true: Any, y_pred: Any) -> Any:
            error = y_pred - y_true
            return (error**2).sum(axis=-1), 2 * error

    class Largest(lamella.metrics.Metric):
        def update_state(self, y_true: Any, y_pred: Any, sample_weight: Any = None) -> None:
            assert sample_weight is None
            self.value = max(self.value, float(np.max(y_pred)))

        def result(self) -> float:
            return self.value

        def reset_state(self) -> None:
            self.value = float("-inf")

    model = tagger(lamella, 1, None)
    model.compile("sgd", Squares(), metrics=[Largest()])
    loss, largest = model.test_on_batch(X, np.zeros((3, 4, 1)))
    y = model.predict(X, verbose=0)[..., 0]
    assert loss == pytest.approx((y[X != 0] ** 2).mean(), rel=1e-5)
    assert largest == pytest.approx(y.max())


def test_masked_steps_have_no_gradient(rng: np.random.Generator) -> None:
    model = Sequential([Masking(), Dense(3), Dense(1)])
    model.compile("sgd", "mse")
    x = rng.standard_normal((4, 5, 2)).astype(np.float32)
    x[:, 3:] = 0
    y = rng.standard_normal((4, 5, 1)).astype(np.float32)
    model.predict(x, verbose=0)
    start = model.get_weights()
    model.train_on_batch(x, y)
    after = model.get_weights()
    model.set_weights(start)
    y[:, 3:] = 1e6
    model.train_on_batch(x, y)
    for mine, other in zip(after, model.get_weights(), strict=True):
        np.testing.assert_array_equal(mine, other)


def test_a_mask_that_does_not_fit_the_loss() -> None:
    with pytest.raises(ValueError, match="mask of y_pred has shape"):
        lamella.losses.MeanSquaredError()(
            np.ones((2, 3)), np.ones((2, 3)), mask=np.ones((2, 3), bool)
        )
