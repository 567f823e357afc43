"""What fit, evaluate, predict and the single-batch methods take, return and refuse."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import pytest

from lamella import callbacks, losses, metrics, optimizers, utils
from lamella.layers import BatchNormalization, Conv2D, Dense, Flatten, Input, Layer, MaxPooling2D
from lamella.models import Sequential


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


def images(rng: np.random.Generator, count: int, classes: int = 5) -> tuple:
    return rng.random((count, 12, 12, 1)).astype(np.float32), rng.integers(0, classes, count)


def regression(**options: object) -> Sequential:
    model = Sequential([Dense(4, activation="tanh", input_shape=(3,)), Dense(2)])
    model.compile(**{"optimizer": optimizers.SGD(0.1), "loss": "mse", **options})
    return model


def assert_same(first: list[np.ndarray], second: list[np.ndarray]) -> None:
    for a, b in zip(first, second, strict=True):
        np.testing.assert_array_equal(a, b)


# -- fit's arguments ------------------------------------------------------------------------------


def test_history_and_epoch_loss_is_averaged_by_samples(rng: np.random.Generator) -> None:
    model = regression(optimizer=optimizers.SGD(0.0), metrics=["mae", "mse"])
    x, y = rng.random((10, 3)), rng.random((10, 2))
    history = model.fit(x, y, batch_size=4, epochs=2, verbose=0, validation_data=(x, y))
    assert history is model.history and history.epoch == [0, 1]
    assert list(history.history) == ["loss", "mae", "mse", "val_loss", "val_mae", "val_mse"]
    expected = ((model.predict(x, verbose=0) - y) ** 2).mean()
    assert history.history["loss"][1] == pytest.approx(expected, rel=1e-5)
    assert history.history["val_loss"][1] == pytest.approx(expected, rel=1e-5)
    assert model.metrics_names == ["loss", "mae", "mse"]


def test_validation_split_takes_the_end_before_shuffling(rng: np.random.Generator) -> None:
    x, y = rng.random((10, 3)), rng.random((10, 2))
    model = regression(optimizer=optimizers.SGD(0.0))
    history = model.fit(x, y, validation_split=0.3, verbose=0, epochs=1).history
    rows = ((model.predict(x, verbose=0) - y) ** 2).mean(axis=1)
    assert history["loss"][0] == pytest.approx(rows[:7].mean(), rel=1e-5)
    assert history["val_loss"][0] == pytest.approx(rows[7:].mean(), rel=1e-5)
    with pytest.raises(ValueError, match="leaves none"):
        model.fit(x[:1], y[:1], validation_split=0.5, verbose=0)


def test_validation_schedule_and_initial_epoch(rng: np.random.Generator) -> None:
    x, y = rng.random((8, 3)), rng.random((8, 2))
    model = regression()
    history = model.fit(
        x, y, epochs=6, initial_epoch=1, validation_data=(x, y), validation_freq=2, verbose=0
    )
    assert history.epoch == [1, 2, 3, 4, 5]
    assert len(history.history["loss"]) == 5 and len(history.history["val_loss"]) == 3
    history = model.fit(x, y, epochs=3, validation_data=(x, y), validation_freq=[3], verbose=0)
    assert len(history.history["val_loss"]) == 1


def test_shuffle_is_seeded_and_visits_every_sample(rng: np.random.Generator) -> None:
    seen: list[np.ndarray] = []

    class Watch(Layer):
        def forward(self, x: np.ndarray, training: bool) -> tuple:
            if training:
                seen.append(x[:, 0].copy())
            return x, lambda dy: dy

        def compute_output_shape(self, input_shape: tuple) -> tuple:
            return input_shape

    model = Sequential([Input((1,)), Dense(1), Watch()])
    model.layers[0].set_weights([np.ones((1, 1)), np.zeros(1)])
    model.compile(optimizers.SGD(0.0), "mse")
    x = np.arange(10, dtype=np.float32)[:, None]

    def order(**options: object) -> list[float]:
        seen.clear()
        model.fit(x, x, batch_size=3, verbose=0, **options)
        return list(np.concatenate(seen))

    utils.set_random_seed(5)
    first = order(epochs=2)
    assert [len(part) for part in seen] == [3, 3, 3, 1] * 2
    assert sorted(first[:10]) == sorted(first[10:]) == list(range(10))
    assert first[:10] != first[10:]
    utils.set_random_seed(5)
    assert order(epochs=2) == first
    assert order(shuffle=False) == list(range(10))
    assert order(shuffle=False, steps_per_epoch=2, epochs=3) == [*range(10), *range(6)]


def test_generators_and_iterables(rng: np.random.Generator) -> None:
    x, y = rng.random((12, 3)), rng.random((12, 2))

    def endless() -> Iterator[tuple]:
        while True:
            for start in range(0, 12, 4):
                yield x[start : start + 4], y[start : start + 4]

    class Repeatable:
        def __iter__(self) -> Iterator[tuple]:
            return (batch for batch, _ in zip(endless(), range(3), strict=False))

    arrays, generator, repeatable = regression(), regression(), regression()
    for model in (generator, repeatable):
        model.set_weights(arrays.get_weights())
    a = arrays.fit(x, y, batch_size=4, epochs=3, shuffle=False, verbose=0)
    b = generator.fit(endless(), steps_per_epoch=3, epochs=3, verbose=0)
    c = repeatable.fit(Repeatable(), epochs=3, verbose=0, validation_data=Repeatable())
    assert a.history["loss"] == b.history["loss"] == c.history["loss"]
    assert len(c.history["val_loss"]) == 3
    assert repeatable.evaluate(Repeatable(), verbose=0) == pytest.approx(
        arrays.evaluate(x, y, verbose=0), rel=1e-6
    )
    np.testing.assert_array_equal(
        generator.predict(endless(), steps=3, verbose=0), generator.predict(x, verbose=0)
    )
    weighted = ((x, y, np.ones(12)) for _ in range(1))
    assert len(arrays.fit(weighted, verbose=0).history["loss"]) == 1
    with pytest.raises(ValueError, match="takes no y"):
        arrays.fit(endless(), y, verbose=0)
    with pytest.warns(UserWarning, match="ended after 2 batches"):
        short = (batch for batch, _ in zip(endless(), range(2), strict=False))
        history = arrays.fit(short, steps_per_epoch=5, epochs=4, verbose=0)
    assert len(history.history["loss"]) == 1


def test_a_deferred_model_is_built_by_the_first_batch_of_a_generator(
    rng: np.random.Generator,
) -> None:
    model = Sequential([Dense(2)])
    model.compile("sgd", "mse")
    model.fit(((rng.random((4, 3)), rng.random((4, 2))) for _ in range(2)), verbose=0)
    assert model.input_shape == (None, 3)


def test_callbacks_see_what_happens_and_may_stop(rng: np.random.Generator) -> None:
    events: list[str] = []

    class Log(callbacks.Callback):
        def on_train_begin(self, logs: object = None) -> None:
            events.append("train")

        def on_epoch_end(self, epoch: int, logs: dict | None = None) -> None:
            events.append(f"epoch {epoch} {sorted(logs or {})}")

        def on_train_batch_end(self, batch: int, logs: dict | None = None) -> None:
            events.append(f"batch {batch} {sorted(logs or {})}")
            self.model.stop_training = batch == 1

        def on_test_end(self, logs: dict | None = None) -> None:
            events.append("test")

        def on_train_end(self, logs: object = None) -> None:
            events.append("end")

    model = regression()
    x, y = rng.random((12, 3)), rng.random((12, 2))
    history = model.fit(
        x, y, batch_size=4, epochs=5, verbose=0, callbacks=[Log()], validation_data=(x, y)
    )
    assert events == [
        "train", "batch 0 ['loss']", "batch 1 ['loss']", "test",
        "epoch 0 ['loss', 'val_loss']", "end",
    ]  # fmt: skip
    assert history.epoch == [0]


def test_nan_loss_propagates_and_terminate_on_nan_stops(rng: np.random.Generator) -> None:
    model = regression()
    x, y = rng.random((12, 3)), rng.random((12, 2))
    y[5] = np.nan
    history = model.fit(x, y, batch_size=4, epochs=2, verbose=0, shuffle=False)
    assert all(math.isnan(value) for value in history.history["loss"])
    stopped = regression()
    history = stopped.fit(x, y, epochs=9, verbose=0, callbacks=[callbacks.TerminateOnNaN()])
    assert history.epoch == [0]


def test_custom_metric_objects_and_functions(rng: np.random.Generator) -> None:
    def largest_error(y_true: np.ndarray, y_pred: np.ndarray) -> np.ndarray:
        return np.abs(y_pred - y_true).max(axis=-1)

    model = regression(metrics=[largest_error, metrics.MeanAbsoluteError(name="mine"), "mae"])
    x, y = rng.random((6, 3)), rng.random((6, 2))
    result = model.evaluate(x, y, verbose=0, return_dict=True)
    assert list(result) == ["loss", "largest_error", "mine", "mae"]
    error = np.abs(model.predict(x, verbose=0) - y)
    assert result["largest_error"] == pytest.approx(error.max(axis=1).mean(), rel=1e-5)
    assert result["mine"] == result["mae"] == pytest.approx(error.mean(), rel=1e-5)


# -- one batch ------------------------------------------------------------------------------------


def test_return_values_of_single_batches(rng: np.random.Generator) -> None:
    x, y = rng.random((4, 3)), rng.random((4, 2))
    plain, measured = regression(), regression(metrics=["mae"])
    assert isinstance(plain.train_on_batch(x, y), float)
    assert isinstance(plain.test_on_batch(x, y), float)
    assert plain.predict_on_batch(x).shape == (4, 2)
    values = measured.train_on_batch(x, y)
    assert isinstance(values, list) and len(values) == 2
    named = measured.test_on_batch(x, y, return_dict=True)
    assert list(named) == ["loss", "mae"]
    # As in Keras, what went before does not count.
    first = measured.test_on_batch(x, y)
    assert measured.test_on_batch(x, np.zeros((4, 2))) != first
    assert measured.test_on_batch(x, y) == first


def test_predict_in_batches_equals_predict_at_once(rng: np.random.Generator) -> None:
    model = small_cnn()
    x, _ = images(rng, 37)
    whole = model.predict(x, batch_size=64, verbose=0)
    np.testing.assert_allclose(
        model.predict(x, batch_size=8, verbose=0), whole, rtol=1e-5, atol=1e-6
    )
    assert model.predict(x[:0], verbose=0).shape == (0, 5)
    assert model.predict(x, batch_size=8, steps=2, verbose=0).shape == (16, 5)
    np.testing.assert_array_equal(model.predict(x[..., 0], batch_size=64, verbose=0), whole)
    np.testing.assert_array_equal(
        model.predict(np.asfortranarray(x.astype(np.float64)), batch_size=64, verbose=0), whole
    )


# -- failing without a trace ----------------------------------------------------------------------


class Failing(Layer):
    armed = False

    def forward(self, x: np.ndarray, training: bool) -> tuple:
        if self.armed:
            raise ValueError("no")
        return x, lambda dy: dy

    def compute_output_shape(self, input_shape: tuple) -> tuple:
        return input_shape


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (lambda x, y: (x, y + 3), IndexError, r"y expects class numbers in \[0, 4\)"),
        (lambda x, y: (x, y - 1), IndexError, "class numbers"),
        (lambda x, y: (x, y + 0.5), ValueError, "class numbers, received"),
        (lambda x, y: (x, y[:-1]), ValueError, "expects 8 samples"),
        (lambda x, y: (x, np.eye(4)[y]), ValueError, "one-hot"),
        (lambda x, y: (x[:, :2], y), ValueError, r"x expects shape \(None, 3\), received \(8, 2\)"),
        (lambda x, y: (x.astype(str), y), TypeError, "real numbers"),
        (lambda x, y: (x, None), ValueError, "y is missing"),
        (lambda x, y: (None, y), ValueError, "x is missing"),
        (lambda x, y: (x, y), ValueError, "Failing layer"),
    ],
)
@pytest.mark.parametrize("method", ["fit", "train_on_batch"])
def test_a_failed_call_changes_nothing(
    method: str, change: object, error: type, message: str, rng: np.random.Generator
) -> None:
    model = Sequential(
        [
            Input((3,)),
            Dense(5, activation="relu"),
            BatchNormalization(),
            Dense(3),
            Failing(),
            Dense(4, activation="softmax"),
        ]
    )
    model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
    x, y = rng.random((8, 3)), np.array([0, 1, 2, 3, 0, 1, 2, 3])
    model.train_on_batch(x, y)
    model.layers[3].armed = message == "Failing layer"
    weights = model.get_weights()
    variables = {key: value.copy() for key, value in model.optimizer.variables().items()}
    results = model.get_metrics_result()
    with pytest.raises(error, match=message) as caught:
        if method == "fit":
            model.fit(*change(x, y), verbose=0)
        else:
            model.train_on_batch(*change(x, y))
    if message != "Failing layer":
        assert model.name in str(caught.value)
    assert_same(weights, model.get_weights())
    for key, value in model.optimizer.variables().items():
        np.testing.assert_array_equal(value, variables[key])
    if method == "train_on_batch" or message != "Failing layer":
        assert model.get_metrics_result() == results


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"epochs": -1}, "epochs expects"),
        ({"batch_size": 0}, "batch_size expects"),
        ({"validation_split": 1.0}, "validation_split expects"),
        ({"validation_data": 3}, "validation_data expects"),
        ({"shuffle": "batch"}, "shuffle=True or False"),
        ({"validation_freq": 0}, "validation_freq expects"),
        ({"steps_per_epoch": 0}, "steps_per_epoch expects"),
        ({"sample_weight": np.ones(3)}, "sample_weight expects 8 samples"),
        ({"class_weight": [1.0]}, "class_weight expects a dict"),
    ],
)
def test_bad_arguments_of_fit(options: dict, message: str, rng: np.random.Generator) -> None:
    model = regression()
    weights = model.get_weights()
    with pytest.raises(ValueError, match=message):
        model.fit(rng.random((8, 3)), rng.random((8, 2)), verbose=0, **options)
    assert_same(weights, model.get_weights())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"optimizer": "nothing"}, "unknown optimizer 'nothing'"),
        ({"loss": "nothing"}, "unknown loss 'nothing'"),
        ({"loss": ["mse", "mse"]}, "loss expects 1 entries"),
        ({"loss": {"other": "mse"}}, "loss names outputs"),
        ({"loss": lambda y, p: 0.0}, "no gradient"),
        ({"loss": losses.MeanSquaredError(reduction="none")}, "reduction"),
        ({"loss": "mse", "loss_weights": "big"}, "loss_weights expects numbers"),
        ({"loss": "mse", "metrics": ["nothing"]}, "unknown metric"),
        ({"loss": "mse", "steps_per_execution": 8}, "steps_per_execution=1"),
    ],
)
def test_bad_arguments_of_compile(options: dict, message: str) -> None:
    model = Sequential([Dense(2, input_shape=(3,))])
    with pytest.raises(ValueError, match=message):
        model.compile(**options)
    assert not model.compiled
    with pytest.raises(ValueError, match=r"call compile\(\) before fit"):
        model.fit(np.ones((2, 3)), np.ones((2, 2)))


def test_training_needs_a_loss() -> None:
    model = Sequential([Dense(2, input_shape=(3,))])
    model.compile("sgd")
    with pytest.raises(ValueError, match=r"fit\(\) needs a loss"):
        model.fit(np.ones((2, 3)), np.ones((2, 2)))
    assert model.predict(np.ones((2, 3)), verbose=0).shape == (2, 2)


def test_outputs_never_alias_inputs(rng: np.random.Generator) -> None:
    model = Sequential([Flatten(input_shape=(2, 3))])
    x = rng.random((4, 2, 3)).astype(np.float32)
    for y in (model.predict(x, verbose=0), model.predict_on_batch(x), model(x)):
        np.testing.assert_array_equal(y, x.reshape(4, 6))
        assert not np.shares_memory(x, y)


def test_no_samples() -> None:
    model = regression()
    with pytest.raises(ValueError, match="at least one sample"):
        model.fit(np.ones((0, 3)), np.ones((0, 2)), verbose=0)
    with pytest.raises(ValueError, match="at least one sample"):
        model.evaluate(np.ones((0, 3)), np.ones((0, 2)), verbose=0)
