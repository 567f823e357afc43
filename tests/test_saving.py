"""Model files: what is kept, and how files are written."""

from __future__ import annotations

import hashlib
import json
import os
import stat
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import lamella
from lamella import ModelFileError, losses, metrics, optimizers, schedules, utils
from lamella.layers import (
    Activation,
    Add,
    BatchNormalization,
    Conv2D,
    Dense,
    Dropout,
    Flatten,
    Input,
    Layer,
    MaxPooling2D,
)
from lamella.models import Model, Sequential, load_model
from lamella.models.model_file import read_model_file, write_model_file


def cnn() -> Sequential:
    return Sequential(
        [
            Conv2D(3, 3, activation="relu", input_shape=(8, 8, 1)),
            BatchNormalization(),
            MaxPooling2D(2),
            Flatten(),
            Dropout(0.2),
            Dense(4, activation="softmax", kernel_regularizer="l2"),
        ]
    )


def graph() -> Model:
    x = Input((6,), name="x")
    inner = Sequential([Dense(6, activation="relu", input_shape=(6,)), Dense(6)], name="inner")
    shared = Dense(6, name="shared")
    h = Add()([inner(x), shared(x)])
    return Model(x, [Dense(2, name="a")(shared(h)), Activation("tanh", name="b")(h)], name="graph")


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "model.safetensors"


def assert_same(first: list[np.ndarray], second: list[np.ndarray]) -> None:
    assert len(first) == len(second)
    for a, b in zip(first, second, strict=True):
        np.testing.assert_array_equal(a, b)


def trained(rng: np.random.Generator) -> tuple[Sequential, np.ndarray, np.ndarray]:
    model = cnn()
    model.compile(
        optimizers.Adam(schedules.ExponentialDecay(0.01, 10, 0.9), clipnorm=1.0),
        losses.SparseCategoricalCrossentropy(),
        metrics=["accuracy", metrics.SparseTopKCategoricalAccuracy(2)],
    )
    x, y = rng.random((24, 8, 8, 1)), rng.integers(0, 4, 24)
    model.fit(x, y, epochs=2, batch_size=8, verbose=0)
    return model, x, y


# -- round trips ----------------------------------------------------------------------------------


def test_training_goes_on_as_if_never_interrupted(file: Path, rng: np.random.Generator) -> None:
    model, x, y = trained(rng)
    model.save(file)
    loaded = load_model(file)
    assert loaded.name == model.name and type(loaded) is Sequential
    assert loaded.get_config() == model.get_config()
    assert_same(loaded.get_weights(), model.get_weights())
    np.testing.assert_array_equal(loaded.predict(x, verbose=0), model.predict(x, verbose=0))
    assert loaded.evaluate(x, y, verbose=0) == model.evaluate(x, y, verbose=0)
    histories = []
    for each in (model, loaded):
        utils.set_random_seed(9)
        histories.append(each.fit(x, y, epochs=2, batch_size=8, verbose=0).history)
    assert histories[0] == histories[1]
    assert_same(loaded.get_weights(), model.get_weights())
    assert loaded.optimizer.iterations == model.optimizer.iterations == 12


def test_without_the_optimizer_and_without_compiling(file: Path, rng: np.random.Generator) -> None:
    model, _, _ = trained(rng)
    model.save(file, include_optimizer=False)
    loaded = load_model(file)
    assert loaded.optimizer.iterations == 0
    assert type(loaded.optimizer) is optimizers.Adam and loaded.optimizer.clipnorm == 1.0
    assert load_model(file, compile=False).compiled is False
    assert not any(name.startswith("optimizer") for name in read_model_file(file).tensors)


def test_functional_graph_round_trip(file: Path, rng: np.random.Generator) -> None:
    model = graph()
    model.compile("sgd", {"a": "mse", "b": "mae"}, metrics={"a": ["mae"]}, loss_weights=[1, 0.5])
    x, y = rng.random((6, 6)), [rng.random((6, 2)), rng.random((6, 6))]
    model.fit(x, y, verbose=0)
    model.get_layer("inner").trainable = False
    model.save(file)
    loaded = load_model(file)
    assert loaded.evaluate(x, y, verbose=0) == model.evaluate(x, y, verbose=0)
    assert loaded.metrics_names == model.metrics_names
    assert loaded.get_layer("inner").trainable is False and loaded.trainable is True
    assert len(loaded.trainable_weights) == len(model.trainable_weights) == 4
    assert sorted(read_model_file(file).tensors) == [
        "layers/dense/bias", "layers/dense/kernel",
        "layers/dense_1/bias", "layers/dense_1/kernel",
        "layers/sequential/dense/bias", "layers/sequential/dense/kernel",
        "layers/sequential/dense_1/bias", "layers/sequential/dense_1/kernel",
        "optimizer/iterations",
    ]  # fmt: skip


def test_deferred_model(file: Path, rng: np.random.Generator) -> None:
    model = Sequential([Dense(3)])
    with pytest.raises(ValueError, match="save needs a built model"):
        model.save(file)
    assert not file.exists()
    x = rng.random((4, 5))
    expected = model.predict(x, verbose=0)
    model.save(file)
    np.testing.assert_array_equal(load_model(file).predict(x, verbose=0), expected)


class Scale(Layer):
    def __init__(self, factor: float = 1.0, **options: Any) -> None:
        super().__init__(**options)
        self.factor = factor

    def build(self, input_shape: Any) -> None:
        self.scale = self.add_weight("scale", (input_shape[-1],), "ones")

    def forward(self, x: Any, training: bool) -> Any:
        factor = np.float32(self.factor) * self.scale.value
        return x * factor, lambda dy: dy * factor

    def compute_output_shape(self, input_shape: Any) -> Any:
        return input_shape

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "factor": self.factor}


def worst(y_true: np.ndarray, y_pred: np.ndarray) -> np.ndarray:
    return np.abs(y_true - y_pred).max(axis=-1)


def test_classes_of_the_caller(file: Path, rng: np.random.Generator) -> None:
    model = Sequential([Input((3,)), Scale(2.5)])
    model.compile("sgd", losses.mean_squared_error, metrics=[worst])
    model.save(file)
    with pytest.raises(ModelFileError, match="unknown layer 'Scale'"):
        load_model(file)
    with pytest.raises(ModelFileError, match="pass it in custom_objects"):
        load_model(file, {"Scale": Scale})
    loaded = load_model(file, {"Scale": Scale, "worst": worst})
    assert loaded.layers[0].factor == 2.5
    assert "add_weight" not in vars(loaded.layers[0])
    assert loaded.metrics_names == ["loss", "worst"]


def test_weights_alone(file: Path, rng: np.random.Generator) -> None:
    model, other = graph(), graph()
    model.save_weights(file)
    assert any(
        (a != b).any() for a, b in zip(model.get_weights(), other.get_weights(), strict=True)
    )
    other.load_weights(file)
    assert_same(model.get_weights(), other.get_weights())
    with pytest.raises(ModelFileError, match="holds weights only"):
        load_model(file)
    whole = file.with_name("whole.safetensors")
    model.save(whole)
    graph().load_weights(whole)
    stranger = Sequential([Dense(3, input_shape=(6,))])
    before = stranger.get_weights()
    with pytest.raises(ValueError, match="holds other weights"):
        stranger.load_weights(file)
    narrow = Sequential([Dense(6, activation="relu", input_shape=(5,))])
    Sequential([Dense(6, input_shape=(6,))]).save_weights(file)
    with pytest.raises(ValueError, match=r"layers/dense/kernel expects float32 of shape \(5, 6\)"):
        narrow.load_weights(file)
    assert_same(before, stranger.get_weights())


def test_get_and_set_weights_in_keras_order() -> None:
    model = cnn()
    assert [w.name for w in model.weights] == [
        "kernel", "bias", "gamma", "beta", "moving_mean", "moving_variance", "kernel", "bias",
    ]  # fmt: skip
    weights = model.get_weights()
    with pytest.raises(ValueError):
        model.set_weights(weights[:-1])
    changed = [w + 1 for w in weights]
    changed[-1] = np.zeros(7)
    with pytest.raises(ValueError, match=r"expects shape \(4,\)"):
        model.set_weights(changed)
    assert_same(weights, model.get_weights())


# -- the file -------------------------------------------------------------------------------------


def test_the_safetensors_package_reads_it(file: Path, rng: np.random.Generator) -> None:
    safetensors = pytest.importorskip("safetensors")
    from safetensors.numpy import load_file, save_file

    model, _, _ = trained(rng)
    model.save(file)
    tensors = load_file(file)
    np.testing.assert_array_equal(tensors["layers/conv2d/kernel"], model.get_weights()[0])
    assert tensors["optimizer/iterations"] == 6
    with safetensors.safe_open(file, "numpy") as opened:
        metadata = opened.metadata()
    assert metadata["format"] == "lamella"
    assert json.loads(metadata["config"])["class_name"] == "Sequential"
    save_file(tensors, file, metadata)  # its own writer: another order of the tensors
    with pytest.raises(ModelFileError, match="SHA-256"):
        load_model(file)
    foreign = {"layers/a": rng.random((2, 3)).astype(np.float32), "b": np.arange(3, dtype=np.int8)}
    save_file(foreign, file)
    read = read_model_file(file)
    np.testing.assert_array_equal(read.tensors["layers/a"], foreign["layers/a"])
    np.testing.assert_array_equal(read.tensors["b"], foreign["b"])
    with pytest.raises(ModelFileError, match="not written by lamella"):
        load_model(file)


def test_endings(tmp_path: Path) -> None:
    model = graph()
    for name in ("m.keras", "m.h5", "m.weights.h5", "m"):
        with pytest.raises(ValueError, match="safetensors"):
            model.save(tmp_path / name)
        with pytest.raises(ValueError, match="safetensors"):
            model.save_weights(tmp_path / name)
    with pytest.raises(ValueError, match="Keras' file formats"):
        load_model(tmp_path / "m.keras")
    with pytest.raises(FileNotFoundError):
        load_model(tmp_path / "absent.safetensors")
    with pytest.raises(FileNotFoundError):
        model.load_weights(tmp_path / "absent.safetensors")
    (tmp_path / "d.safetensors").mkdir()
    with pytest.raises(ModelFileError, match="is a directory"):
        load_model(tmp_path / "d.safetensors")
    with pytest.raises(IsADirectoryError):
        model.save(tmp_path / "d.safetensors")
    assert sorted(os.listdir(tmp_path)) == ["d.safetensors"]


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_a_named_pipe_does_not_hang(file: Path) -> None:
    os.mkfifo(file)
    with pytest.raises(ModelFileError, match="not a regular file"):
        load_model(file)


def test_overwrite(file: Path) -> None:
    model = graph()
    model.save(file, overwrite=False)
    before = file.read_bytes()
    with pytest.raises(FileExistsError, match="overwrite=True"):
        model.save(file, overwrite=False)
    assert file.read_bytes() == before
    model.save(file)


@pytest.mark.skipif(os.name != "posix", reason="POSIX permissions and links")
def test_permissions_and_links(tmp_path: Path) -> None:
    model = graph()
    old = os.umask(0o027)
    try:
        fresh = tmp_path / "fresh.safetensors"
        model.save(fresh)
        assert stat.S_IMODE(fresh.stat().st_mode) == 0o640
        fresh.chmod(0o604)
        model.save(fresh)
        assert stat.S_IMODE(fresh.stat().st_mode) == 0o604
    finally:
        os.umask(old)
    target = tmp_path / "target"
    target.write_text("precious")
    link = tmp_path / "link.safetensors"
    link.symlink_to(target)
    model.save(link)
    assert target.read_text() == "precious" and not link.is_symlink()
    read_link = tmp_path / "read.safetensors"
    read_link.symlink_to(link)
    assert_same(load_model(read_link).get_weights(), model.get_weights())


def test_a_failed_write_leaves_the_old_file(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = graph()
    model.save(file)
    before = file.read_bytes()

    def fail(descriptor: int) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="disk full"):
        model.save(file)
    assert file.read_bytes() == before and os.listdir(file.parent) == [file.name]


def test_a_config_that_json_cannot_hold(file: Path) -> None:
    class Odd(Scale):
        def get_config(self) -> dict[str, Any]:
            return {**super().get_config(), "factor": object()}

    with pytest.raises(TypeError, match="cannot be written as JSON"):
        Sequential([Input((2,)), Odd()]).save(file)
    assert not file.exists()


def test_container_round_trip(file: Path, rng: np.random.Generator) -> None:
    tensors = {
        "half": rng.random((3, 1)).astype(np.float16),
        "bytes": np.arange(5, dtype=np.uint8),
        "wide": rng.random((2, 2)),
        "big-endian": np.arange(3, dtype=">i4"),
        "scalar": np.array(7, np.int64),
        "empty": np.zeros((0, 4), np.float32),
        "strided": np.arange(12, dtype=np.float32).reshape(3, 4)[:, ::2],
        "ünïcode ∑": np.ones(1, np.float32),
    }
    write_model_file(file, tensors, {"key": "välue"})
    read = read_model_file(file)
    assert read.metadata == {"key": "välue", "sha256": read.digest}
    assert set(read.tensors) == set(tensors)
    for name, array in tensors.items():
        got = read.tensors[name]
        assert got.shape == array.shape and got.dtype == array.dtype.newbyteorder("=")
        np.testing.assert_array_equal(got, array)
        assert not got.flags.writeable
    data = file.read_bytes()
    tensors_start = 8 + int.from_bytes(data[:8], "little")
    assert tensors_start % 8 == 0
    assert hashlib.sha256(data[tensors_start:]).hexdigest() == read.digest
    assert lamella.ModelFileError is ModelFileError
