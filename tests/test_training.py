"""Training: models learn, gradients are right, and the numbers are the same every time."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from keras_peer import import_keras

import lamella
from lamella import layers, losses, optimizers, regularizers, utils
from lamella.layers import (
    Activation,
    Add,
    BatchNormalization,
    Conv2D,
    Dense,
    Dropout,
    Flatten,
    GlobalAveragePooling2D,
    Input,
    Layer,
    MaxPooling2D,
)
from lamella.models import Model, Sequential


def small_cnn() -> Sequential:
    return Sequential(
        [
            Conv2D(6, 3, activation="relu", input_shape=(12, 12, 1)),
            MaxPooling2D(2),
            Conv2D(8, 3, activation="relu"),
            Flatten(),
            Dense(16, activation="relu"),
            Dense(5, activation="softmax"),
        ]
    )


def residual_model() -> Model:
    x = Input((8, 8, 3))
    h = Conv2D(6, 3, padding="same", use_bias=False)(x)
    h = BatchNormalization()(h)
    h = Activation("relu")(h)
    skip = h
    h = Conv2D(6, 3, padding="same", activation="relu")(h)
    h = Add()([h, skip])
    return Model(x, Dense(4, activation="softmax")(GlobalAveragePooling2D()(h)))


def images(rng: np.random.Generator, count: int, classes: int = 5) -> tuple:
    return rng.random((count, 12, 12, 1)).astype(np.float32), rng.integers(0, classes, count)


def regression(**options: object) -> Sequential:
    model = Sequential([Dense(4, activation="tanh", input_shape=(3,)), Dense(2)])
    model.compile(**{"optimizer": optimizers.SGD(0.1), "loss": "mse", **options})
    return model


def copy_of(arrays: list[np.ndarray]) -> list[np.ndarray]:
    return [array.copy() for array in arrays]


def assert_same(first: list[np.ndarray], second: list[np.ndarray]) -> None:
    for a, b in zip(first, second, strict=True):
        np.testing.assert_array_equal(a, b)


# -- the article's program ------------------------------------------------------------------------


def test_the_article_cnn_as_printed(rng: np.random.Generator) -> None:
    x_train = rng.random((64, 28, 28, 1))
    y_train = rng.integers(0, 10, 64)
    from lamella.layers import Conv2D, Dense, Flatten, MaxPooling2D
    from lamella.models import Sequential

    # fmt: off
    model = Sequential([
        Conv2D(32, (3, 3), activation='relu', input_shape=(28, 28, 1)),
        MaxPooling2D((2, 2)),
        Conv2D(64, (3, 3), activation='relu'),
        MaxPooling2D((2, 2)),
        Flatten(),
        Dense(64, activation='relu'),
        Dense(10, activation='softmax')
    ])

    model.compile(optimizer='adam',
                  loss='sparse_categorical_crossentropy',
                  metrics=['accuracy'])

    model.fit(x_train, y_train, epochs=10, batch_size=32)
    # fmt: on
    assert model.count_params() == 121_930
    assert list(model.history.history) == ["loss", "accuracy"]
    assert len(model.history.history["loss"]) == 10
    assert model.history.history["loss"][-1] < model.history.history["loss"][0]


# -- learning -------------------------------------------------------------------------------------


@pytest.mark.parametrize("build", [small_cnn, residual_model])
def test_overfits_one_batch(build: object, rng: np.random.Generator) -> None:
    utils.set_random_seed(11)
    model = build()
    shape, classes = model.input_shape[1:], model.output_shape[-1]
    x, y = rng.random((16, *shape)), rng.integers(0, classes, 16)
    model.compile(optimizers.Adam(0.01), "sparse_categorical_crossentropy", metrics=["accuracy"])
    history = model.fit(x, y, batch_size=16, epochs=150, verbose=0).history
    assert history["accuracy"][-1] == 1.0
    assert history["loss"][-1] < 0.1 * history["loss"][0]


def test_gradient_of_a_whole_model_against_finite_differences(rng: np.random.Generator) -> None:
    utils.set_random_seed(4)
    x = Input((5, 5, 2))
    shared = Dense(3, activation="tanh")
    h = BatchNormalization()(Conv2D(3, 2, activation="tanh", padding="same")(x))
    h = Add()([shared(h), shared(shared(h))])
    pooled = GlobalAveragePooling2D()(h)
    inner = Sequential([Dense(4, activation="silu", input_shape=(3,)), Dense(3)])
    out = Dense(3, activation="softmax")(layers.Concatenate()([inner(pooled), pooled]))
    model = Model(x, out)
    model.compile(optimizers.SGD(1.0), losses.CategoricalCrossentropy(label_smoothing=0.1))
    data = rng.normal(size=(6, 5, 5, 2)).astype(np.float32)
    target = np.eye(3, dtype=np.float32)[rng.integers(0, 3, 6)]
    start = model.get_weights()
    model.train_on_batch(data, target)
    gradients = {
        weight.path: before - weight.value
        for weight, before in zip(model.weights, start, strict=True)
        if weight.trainable
    }

    def loss_at(weights: list[np.ndarray]) -> float:
        model.set_weights(weights)
        p = model(data, training=True).astype(np.float64)
        smooth = target * 0.9 + 0.1 / 3
        return float(-(smooth * np.log(p)).sum(axis=1).mean())

    for position, weight in enumerate(model.weights):
        if not weight.trainable:
            continue
        direction = rng.normal(size=weight.shape).astype(np.float32)
        direction /= np.linalg.norm(direction)
        ends = []
        for sign in (1, -1):
            moved = copy_of(start)
            moved[position] += np.float32(sign * 1e-2) * direction
            ends.append(loss_at(moved))
        expected = (ends[0] - ends[1]) / 2e-2
        got = float((gradients[weight.path] * direction).sum(dtype=np.float64))
        assert got == pytest.approx(expected, rel=2e-2, abs=3e-4), weight.path


def test_residual_gradients_are_summed(rng: np.random.Generator) -> None:
    """y = W x + x trained on mse: dW = x^T d, whatever the second path carries."""
    x = Input((3,))
    model = Model(x, Add()([Dense(3, use_bias=False)(x), x]))
    model.compile(optimizers.SGD(1.0), "mse")
    data, target = rng.normal(size=(4, 3)), rng.normal(size=(4, 3))
    (kernel,) = model.get_weights()
    model.train_on_batch(data, target)
    d = 2 * (data @ kernel + data - target) / target.size
    np.testing.assert_allclose(kernel - model.get_weights()[0], data.T @ d, rtol=1e-4, atol=1e-5)


class Scale(Layer):
    """A user's layer in plain NumPy."""

    def build(self, input_shape: tuple) -> None:
        self.scale = self.add_weight("scale", (input_shape[-1],), "ones")

    def forward(self, x: np.ndarray, training: bool) -> tuple:
        def pullback(dy: np.ndarray) -> np.ndarray:
            self.scale.add_gradient((dy * x).sum(axis=0))
            return dy * self.scale.value

        return x * self.scale.value, pullback

    def compute_output_shape(self, input_shape: tuple) -> tuple:
        return input_shape


def test_a_users_layer_in_numpy_takes_part(rng: np.random.Generator) -> None:
    model = Sequential([Input((3,)), Scale(), Dense(2), Scale()])
    model.compile(optimizers.SGD(0.1), "mse")
    x, y = rng.random((32, 3)), rng.random((32, 2))
    before = model.evaluate(x, y, verbose=0)
    model.fit(x, y, epochs=30, verbose=0)
    assert model.evaluate(x, y, verbose=0) < 0.5 * before
    assert (model.layers[0].scale.value != 1).all()


def test_penalties_count_in_loss_and_gradient(rng: np.random.Generator) -> None:
    penalty = regularizers.L2(0.1)
    layer = Dense(2, input_shape=(3,), kernel_regularizer=penalty, activity_regularizer="l2")
    model = Sequential([layer])
    model.compile(optimizers.SGD(1.0), "mse")
    x, y = rng.normal(size=(4, 3)), rng.normal(size=(4, 2))
    kernel, _ = model.get_weights()
    out = x @ kernel
    expected = ((out - y) ** 2).mean() + 0.1 * (kernel**2).sum() + 0.01 * (out**2).sum() / 4
    assert model.evaluate(x, y, verbose=0) == pytest.approx(expected, rel=1e-5)
    model.reset_metrics()
    assert model.train_on_batch(x, y) == pytest.approx(expected, rel=1e-5)
    d = 2 * (out - y) / y.size + 0.02 * out / 4
    np.testing.assert_allclose(
        kernel - model.get_weights()[0], x.T @ d + 0.2 * kernel, rtol=1e-4, atol=1e-5
    )
    model.predict(x, verbose=0)
    assert len(layer.activity_losses) == 1


def test_a_weight_no_gradient_reaches_counts_as_zero(rng: np.random.Generator) -> None:
    x = Input((3,))
    used, unused = Dense(2, name="used"), Dense(2, name="unused")
    model = Model(x, [used(x), unused(x)])
    model.compile(optimizers.SGD(0.5, momentum=0.9), loss=["mse", None])
    x_data, y = rng.random((8, 3)), rng.random((8, 2))
    before = unused.get_weights()
    for _ in range(3):
        model.train_on_batch(x_data, [y, None])
    assert_same(before, unused.get_weights())


# -- weights of samples ---------------------------------------------------------------------------


def test_sample_weight_by_hand(rng: np.random.Generator) -> None:
    model = regression(weighted_metrics=["mae"], metrics=["mae"])
    x, y, w = rng.random((5, 3)), rng.random((5, 2)), np.array([1.0, 0.0, 2.0, 0.5, 3.0])
    rows = ((model.predict(x, verbose=0) - y) ** 2).mean(axis=1)
    absolute = np.abs(model.predict(x, verbose=0) - y).mean(axis=1)
    result = model.evaluate(x, y, sample_weight=w, verbose=0, return_dict=True)
    assert list(result) == ["loss", "mae", "weighted_mae"]
    assert result["loss"] == pytest.approx((rows * w).sum() / 5, rel=1e-5)
    assert result["mae"] == pytest.approx(absolute.mean(), rel=1e-5)
    assert result["weighted_mae"] == pytest.approx((absolute * w).sum() / w.sum(), rel=1e-5)
    twice = regression()
    twice.set_weights(model.get_weights())
    repeated = np.repeat(np.arange(5), [1, 0, 2, 0, 3])
    model.train_on_batch(x, y, sample_weight=[1, 0, 2, 0, 3])
    model_loss_scale = 5 / len(repeated)
    twice.optimizer.learning_rate = 0.1 / model_loss_scale
    twice.train_on_batch(x[repeated], y[repeated])
    for a, b in zip(model.get_weights(), twice.get_weights(), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("form", ["sparse", "column", "one_hot"])
def test_class_weight_equals_sample_weight(form: str, rng: np.random.Generator) -> None:
    x, labels = images(rng, 12)
    y = {"sparse": labels, "column": labels[:, None], "one_hot": utils.to_categorical(labels, 5)}
    loss = "categorical_crossentropy" if form == "one_hot" else "sparse_categorical_crossentropy"
    by_class = {0: 2.0, 3: 0.25}
    weights = [by_class.get(int(label), 1.0) for label in labels]
    first, second = small_cnn(), small_cnn()
    second.set_weights(first.get_weights())
    for model in (first, second):
        model.compile("sgd", loss)
    a = first.fit(x, y[form], epochs=2, verbose=0, shuffle=False, class_weight=by_class)
    b = second.fit(x, y[form], epochs=2, verbose=0, shuffle=False, sample_weight=weights)
    assert a.history == b.history
    assert_same(first.get_weights(), second.get_weights())
    third = small_cnn()
    third.set_weights(first.get_weights())
    third.compile("sgd", loss)
    with pytest.raises(ValueError, match="not both"):
        third.fit(x, y[form], class_weight=by_class, sample_weight=weights, verbose=0)


# -- several outputs ------------------------------------------------------------------------------


def two_headed() -> Model:
    x = Input((3,))
    h = Dense(4, activation="tanh")(x)
    return Model(x, [Dense(2, name="number")(h), Dense(3, activation="softmax", name="kind")(h)])


@pytest.mark.parametrize("form", ["list", "dict"])
def test_losses_per_output(form: str, rng: np.random.Generator) -> None:
    x, numbers, kinds = rng.random((9, 3)), rng.random((9, 2)), rng.integers(0, 3, 9)
    model = two_headed()
    spec = {
        "loss": ["mse", "sparse_categorical_crossentropy"],
        "loss_weights": [0.5, 2.0],
        "metrics": [["mae"], ["accuracy"]],
    }
    y: object = [numbers, kinds]
    if form == "dict":
        spec = {
            key: dict(zip(["number", "kind"], value, strict=True)) for key, value in spec.items()
        }
        y = {"kind": kinds, "number": numbers}
    model.compile("sgd", **spec)
    result = model.evaluate(x, y, verbose=0, return_dict=True)
    assert list(result) == ["loss", "number_loss", "kind_loss", "number_mae", "kind_accuracy"]
    p_number, p_kind = model.predict(x, verbose=0)
    mse = ((p_number - numbers) ** 2).mean()
    ce = -np.log(p_kind[np.arange(9), kinds]).mean()
    assert result["number_loss"] == pytest.approx(mse, rel=1e-5)
    assert result["kind_loss"] == pytest.approx(ce, rel=1e-5)
    assert result["loss"] == pytest.approx(0.5 * mse + 2 * ce, rel=1e-5)
    assert result["kind_accuracy"] == (p_kind.argmax(axis=1) == kinds).mean()
    before = model.get_weights()
    history = model.fit(x, y, epochs=40, verbose=0).history
    assert history["loss"][-1] < history["loss"][0]
    assert all((a != b).any() for a, b in zip(before, model.get_weights(), strict=True))


def test_a_loss_weight_scales_the_gradient(rng: np.random.Generator) -> None:
    x, y = rng.random((4, 3)), rng.random((4, 2))
    plain, scaled = regression(optimizer=optimizers.SGD(0.3)), regression(loss_weights=3.0)
    scaled.set_weights(plain.get_weights())
    plain.train_on_batch(x, y)
    scaled.train_on_batch(x, y)
    for a, b in zip(plain.get_weights(), scaled.get_weights(), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


def test_softmax_and_cross_entropy_stay_stable(rng: np.random.Generator) -> None:
    """Through the logits a hopelessly wrong sample still has its gradient."""
    model = Sequential([Dense(3, activation="softmax", input_shape=(2,))])
    model.set_weights([np.float32([[200, 0, 0], [0, 0, 0]]), np.zeros(3, np.float32)])
    model.compile(optimizers.SGD(1.0), "sparse_categorical_crossentropy", metrics=["accuracy"])
    loss, accuracy = model.train_on_batch(np.float32([[1, 0]]), np.array([1]))
    assert loss == pytest.approx(200.0) and accuracy == 0.0
    np.testing.assert_allclose(model.get_weights()[1], [-1, 1, 0], atol=1e-6)


# -- memory shared by models ----------------------------------------------------------------------


def test_two_models_that_share_layers_train_in_turn(rng: np.random.Generator) -> None:
    """Weights move between the models' buffers; neither loses what the other has learned."""
    x = Input((3,))
    body = Dense(4, activation="tanh", name="body")
    first, second = Model(x, Dense(2)(body(x))), Model(x, Dense(1)(body(x)))
    for model in (first, second):
        model.compile(optimizers.SGD(0.1, momentum=0.9), "mse")
    data = rng.random((8, 3))
    for _ in range(3):
        before = body.get_weights()[0]
        first.train_on_batch(data, rng.random((8, 2)))
        between = body.get_weights()[0]
        second.train_on_batch(data, rng.random((8, 1)))
        after = body.get_weights()[0]
        assert (before != between).any() and (between != after).any()
        assert body.weights[0].value.base is second._state.buffer.values.base
    np.testing.assert_array_equal(first.layers[1].get_weights()[0], after)


def test_trained_parameters_are_one_flat_buffer(rng: np.random.Generator) -> None:
    model = small_cnn()
    model.compile("adam", "sparse_categorical_crossentropy")
    model.fit(*images(rng, 4), verbose=0)
    buffer = model._state.buffer
    assert buffer.values.ctypes.data % 64 == 0 and buffer.gradients.ctypes.data % 64 == 0
    covered = np.zeros(buffer.values.size, bool)
    for weight, (start, stop, _) in zip(
        model.trainable_weights, model._state.segments, strict=True
    ):
        assert start % 16 == 0 and not covered[start:stop].any()
        covered[start:stop] = True
        np.testing.assert_array_equal(buffer.values[start:stop], weight.value.ravel())
        assert np.shares_memory(buffer.gradients, weight.gradient)
    assert not buffer.values[~covered].any()


def test_recompiling_after_freezing(rng: np.random.Generator) -> None:
    model = regression()
    x, y = rng.random((8, 3)), rng.random((8, 2))
    model.train_on_batch(x, y)
    model.layers[0].trainable = False
    model.compile(optimizers.SGD(0.1), "mse")
    before = model.get_weights()
    model.train_on_batch(x, y)
    after = model.get_weights()
    assert_same(before[:2], after[:2])
    assert (before[2] != after[2]).any()


# -- the same answer every time -------------------------------------------------------------------


def test_training_is_bitwise_the_same_for_any_number_of_threads(
    rng: np.random.Generator,
) -> None:
    x, y = images(rng, 40)
    results = []
    for threads in (1, 2, 5, 1):
        utils.set_num_threads(threads)
        assert utils.get_num_threads() == threads
        utils.set_random_seed(2)
        model = Sequential([*small_cnn().layers[:4], Dropout(0.3), BatchNormalization()])
        model = Sequential([Input((12, 12, 1)), model, Dense(5, activation="softmax")])
        model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
        history = model.fit(x, y, batch_size=16, epochs=2, verbose=0).history
        results.append((history, model.get_weights(), model.predict(x, verbose=0)))
    for history, weights, prediction in results[1:]:
        assert history == results[0][0]
        assert_same(weights, results[0][1])
        np.testing.assert_array_equal(prediction, results[0][2])


def test_no_memory_is_asked_of_the_system_after_the_first_steps(
    rng: np.random.Generator,
) -> None:
    from lamella import _cpu

    model = small_cnn()
    model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
    x, y = images(rng, 32)
    for _ in range(3):
        model.train_on_batch(x, y)
        model.predict_on_batch(x)
    before = _cpu.memory_stats()["system_allocations"]
    for _ in range(20):
        model.train_on_batch(x, y)
        model.predict_on_batch(x)
    assert _cpu.memory_stats()["system_allocations"] == before


# -- Keras as an oracle ---------------------------------------------------------------------------


@pytest.mark.parametrize("optimizer", ["SGD", "Adam"])
def test_parity_with_keras(optimizer: str, rng: np.random.Generator) -> None:
    keras = import_keras()
    x = rng.random((24, 8, 8, 2)).astype(np.float32)
    y = rng.integers(0, 3, 24)
    weights = rng.random(24).astype(np.float32)

    def build(module: object) -> object:
        layer = module.layers
        start = module.Input((8, 8, 2))
        # No bias before a normalization: its gradient is rounding noise, which Adam blows up.
        h = layer.Conv2D(4, 3, padding="same", use_bias=False)(start)
        h = layer.BatchNormalization()(h)
        skip = layer.Activation("relu")(h)
        h = layer.Conv2D(4, 3, padding="same", activation="relu")(skip)
        h = layer.MaxPooling2D(2)(layer.Add()([h, skip]))
        h = layer.Dense(6, activation="tanh", kernel_regularizer="l2")(layer.Flatten()(h))
        model = module.Model(start, layer.Dense(3, activation="softmax")(h))
        rate = 0.05 if optimizer == "SGD" else 0.01
        model.compile(
            optimizer=getattr(module.optimizers, optimizer)(rate),
            loss="sparse_categorical_crossentropy",
            metrics=["accuracy"],
        )
        return model

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        keras.utils.set_random_seed(1)
        theirs = build(keras)
        ours = build(lamella)
        ours.set_weights(theirs.get_weights())
        options = {"batch_size": 8, "epochs": 3, "shuffle": False, "verbose": 0}
        options["sample_weight"] = weights
        expected = theirs.fit(x, y, **options).history
        got = ours.fit(x, y, **options).history
        assert set(got) == set(expected)
        np.testing.assert_allclose(got["loss"], expected["loss"], rtol=2e-4)
        np.testing.assert_allclose(got["accuracy"], expected["accuracy"], atol=0.05)
        for a, b in zip(ours.get_weights(), theirs.get_weights(), strict=True):
            np.testing.assert_allclose(a, b, rtol=2e-2, atol=2e-3)
        np.testing.assert_allclose(
            ours.evaluate(x, y, verbose=0), theirs.evaluate(x, y, verbose=0), rtol=5e-3
        )
        # A single batch does not add to what evaluate counted, there as here.
        theirs_batch = theirs.train_on_batch(x[:8], y[:8])
        np.testing.assert_allclose(
            ours.train_on_batch(x[:8], y[:8]), [float(v) for v in theirs_batch], rtol=5e-3
        )
