"""Damaged and hostile model files: `ModelFileError`, nothing else, and no large allocation."""

from __future__ import annotations

import copy
import functools
import json
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lamella import ModelFileError
from lamella.layers import Add, Dense, Input
from lamella.models import Model, Sequential, load_model
from lamella.models.model_file import MAX_HEADER_BYTES


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "model.safetensors"


def assert_same(first: list[np.ndarray], second: list[np.ndarray]) -> None:
    for a, b in zip(first, second, strict=True):
        np.testing.assert_array_equal(a, b)


def split(data: bytes) -> tuple[dict[str, Any], bytes]:
    length = int.from_bytes(data[:8], "little")
    return json.loads(data[8 : 8 + length]), data[8 + length :]


def join(header: Any, tensors: bytes) -> bytes:
    encoded = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(encoded).to_bytes(8, "little") + encoded + tensors


@pytest.fixture(scope="module")
def intact(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("intact") / "model.safetensors"
    model = Sequential([Dense(3, activation="relu", input_shape=(4,)), Dense(2)], name="small")
    model.compile("adam", "mse", metrics=["mae"])
    model.fit(np.ones((4, 4)), np.ones((4, 2)), verbose=0)
    model.save(path)
    return path.read_bytes()


@functools.cache
def bytes_of_a_layer() -> float:
    """What a small layer takes in this interpreter, its place in a graph and its JSON included."""
    count = 200
    model = Sequential([Input((4,)), *(Dense(1) for _ in range(count))])
    text = json.dumps(model.get_config())
    tracemalloc.start()
    try:
        Sequential.from_config(json.loads(text))
        return tracemalloc.get_traced_memory()[1] / count
    finally:
        tracemalloc.stop()


def memory_bound(data: bytes) -> float:
    """Bytes that loading a file may take: in proportion to it, and to the layers it describes.

    How large Python's objects are depends on its version and NumPy's; arrays are what a hostile
    file could make of any size, and no layer's share leaves room for them.
    """
    return 20 * len(data) + 4 * 2**20 + data.count(b"class_name") * bytes_of_a_layer()


def load_bytes(path: Path, data: bytes) -> None:
    """Loading must succeed, or raise ModelFileError without a large allocation."""
    path.write_bytes(data)
    model = Sequential([Dense(3, input_shape=(4,)), Dense(2)])
    before = model.get_weights()
    bound = memory_bound(data)
    tracemalloc.start()
    try:
        load_model(path)
    finally:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < bound
        try:
            model.load_weights(path)
        except (ModelFileError, ValueError):
            assert_same(before, model.get_weights())


def test_the_memory_bound_notices_arrays(intact: bytes) -> None:
    """It is no more than a few megabytes where few layers are described, in any interpreter."""
    assert 500 < bytes_of_a_layer() < 20_000
    assert memory_bound(intact) < 5 * 2**20


def test_every_flipped_tensor_byte_is_noticed(file: Path, intact: bytes) -> None:
    _, tensors = split(intact)
    offset = len(intact) - len(tensors)
    for position in range(0, len(tensors), 7):
        damaged = bytearray(intact)
        damaged[offset + position] ^= 1 << (position % 8)
        with pytest.raises(ModelFileError, match="SHA-256"):
            load_bytes(file, bytes(damaged))


def test_random_damage(file: Path, intact: bytes, rng: np.random.Generator) -> None:
    """Flip, cut, insert, repeat: ModelFileError, or (a name changed, say) a model all the same."""
    for _ in range(400):
        data = bytearray(intact)
        for _ in range(int(rng.integers(1, 4))):
            place = int(rng.integers(0, len(data)))
            match int(rng.integers(0, 5)):
                case 0:
                    data[place] ^= 1 << int(rng.integers(0, 8))
                case 1:
                    del data[place : place + int(rng.integers(1, 40))]
                case 2:
                    data[place:place] = rng.bytes(int(rng.integers(1, 20)))
                case 3:
                    other = int(rng.integers(0, len(data)))
                    data[place:place] = data[other : other + 30]
                case _:
                    data[place] = int(rng.choice(list(b'0123456789-"[]{},:eE.\\ntf')))
            if not data:
                break
        try:
            load_bytes(file, bytes(data))
        except ModelFileError as error:
            assert "model.safetensors" in str(error)


@pytest.mark.parametrize("length", [0, 1, 7, 8, 9, 100])
def test_short_files(file: Path, intact: bytes, length: int) -> None:
    with pytest.raises(ModelFileError):
        load_bytes(file, intact[:length])


def edit(function: Callable[[dict[str, Any]], Any]) -> Callable[[bytes], bytes]:
    def apply(data: bytes) -> bytes:
        header, tensors = split(data)
        return join(function(header) or header, tensors)

    return apply


def entry(key: str, value: Any) -> Callable[[bytes], bytes]:
    return edit(lambda h: h["layers/dense/kernel"].__setitem__(key, value))


HOSTILE_HEADERS: dict[str, Callable[[bytes], bytes]] = {
    "huge length": lambda d: (2**64 - 1).to_bytes(8, "little") + d[8:],
    "length past the limit": lambda d: (MAX_HEADER_BYTES + 1).to_bytes(8, "little") + d[8:],
    "length past the file": lambda d: len(d).to_bytes(8, "little") + d[8:],
    "length of nothing": lambda d: bytes(8) + d[8:],
    "not json": lambda d: join(b"{nonsense}", b""),
    "a list": lambda d: join([], b""),
    "a number": lambda d: join(b"17", b""),
    "leading space": lambda d: join(b" {}", b""),
    "not utf-8": lambda d: join(b'{"\xff\xfe": 1}', b""),
    "lone surrogate": lambda d: join(
        b'{"\\ud800": {"dtype": "F32", "shape": [], "data_offsets": [0, 4]}}', bytes(4)
    ),
    "deep lists": lambda d: join(b"[" * 100_000 + b"]" * 100_000, b""),
    "deep objects": lambda d: join(b'{"a":' * 5000 + b"1" + b"}" * 5000, b""),
    "unclosed depth": lambda d: join(b'{"a":' + b"[" * 200_000, b""),
    "depth behind a string": lambda d: join(
        b'{"]]]\\"[[": ' + b"[" * 5000 + b"]" * 5000 + b"}", b""
    ),
    "huge integer": lambda d: join(b'{"a": ' + b"9" * 10_000 + b"}", b""),
    "duplicate keys": lambda d: join(
        b'{"a": {"dtype": "F32", "shape": [], "data_offsets": [0, 4]},'
        b' "a": {"dtype": "F32", "shape": [], "data_offsets": [0, 4]}}',
        bytes(4),
    ),
    "NaN": lambda d: join(b'{"a": NaN}', b""),
    "infinite": lambda d: join(b'{"a": 1e999}', b""),
    "metadata a list": edit(lambda h: h.__setitem__("__metadata__", [])),
    "metadata of numbers": edit(lambda h: h["__metadata__"].__setitem__("sha256", 5)),
    "no metadata": edit(lambda h: h.__delitem__("__metadata__")),
    "other version": edit(lambda h: h["__metadata__"].__setitem__("format_version", "2")),
    "no digest": edit(lambda h: h["__metadata__"].__delitem__("sha256")),
    "entry a string": edit(lambda h: h.__setitem__("layers/dense/kernel", "F32")),
    "entry incomplete": edit(lambda h: h["layers/dense/kernel"].__delitem__("shape")),
    "entry with more": entry("more", 1),
    "unknown dtype": entry("dtype", "F31"),
    "dtype a list": entry("dtype", ["F32"]),
    "dtype of other size": entry("dtype", "F64"),
    "dtype of the same size": entry("dtype", "I32"),
    "shape a number": entry("shape", 12),
    "shape of strings": entry("shape", ["4", "3"]),
    "shape of booleans": entry("shape", [True, True]),
    "shape of floats": entry("shape", [4.0, 3.0]),
    "negative shape": entry("shape", [-4, -3]),
    "huge shape": entry("shape", [2**40, 2**40]),
    "shape past 64 bits": entry("shape", [2**70]),
    "empty but huge": entry("shape", [0, 2**62, 2**62]),
    "wrong shape": entry("shape", [3, 4]),
    "too many axes": entry("shape", [1] * 100),
    "negative offsets": entry("data_offsets", [-48, 0]),
    "reversed offsets": entry("data_offsets", [48, 0]),
    "three offsets": entry("data_offsets", [0, 24, 48]),
    "offsets past the end": entry("data_offsets", [10**9, 10**9 + 48]),
    "offsets past 64 bits": entry("data_offsets", [2**64, 2**64 + 48]),
    "overlap": edit(
        lambda h: h["layers/dense/kernel"].__setitem__(
            "data_offsets", h["layers/dense_1/kernel"]["data_offsets"]
        )
    ),
    "a gap": edit(lambda h: h.__delitem__("layers/dense/bias")),
    "something appended": lambda d: d + b"more",
    "cut short": lambda d: d[:-4],
    "unknown tensor": edit(lambda h: h.__setitem__("evil", h.pop("layers/dense/kernel"))),
    "renamed tensor": edit(lambda h: h.__setitem__("layers/x", h.pop("layers/dense/kernel"))),
    "renamed state": edit(lambda h: h.__setitem__("optimizer/x", h.pop("optimizer/iterations"))),
    "config no json": edit(lambda h: h["__metadata__"].__setitem__("config", "{")),
    "config a list": edit(lambda h: h["__metadata__"].__setitem__("config", "[]")),
    "config deep": edit(lambda h: h["__metadata__"].__setitem__("config", "[" * 5000 + "]" * 5000)),
}


@pytest.mark.parametrize("name", HOSTILE_HEADERS)
def test_hostile_headers(name: str, file: Path, intact: bytes) -> None:
    with pytest.raises(ModelFileError, match=r"model\.safetensors"):
        load_bytes(file, HOSTILE_HEADERS[name](intact))


def configured(data: bytes, change: Callable[[dict[str, Any]], Any]) -> bytes:
    """Replace the configuration by what `change` makes of it."""
    header, tensors = split(data)
    config = json.loads(header["__metadata__"]["config"])
    changed = change(config)
    header["__metadata__"]["config"] = json.dumps(config if changed is None else changed)
    return join(header, tensors)


def dense(config: dict[str, Any]) -> dict[str, Any]:
    return config["config"]["layers"][1]


HOSTILE_CONFIGS: dict[str, Callable[[dict[str, Any]], Any]] = {
    "unknown layer": lambda c: dense(c).__setitem__("class_name", "Evil"),
    "a module's name": lambda c: dense(c).__setitem__("class_name", "os.system"),
    "a builtin": lambda c: dense(c).__setitem__("class_name", "eval"),
    "class a list": lambda c: dense(c).__setitem__("class_name", ["Dense"]),
    "not a model": lambda c: {"class_name": "Dense", "config": {"units": 3}, "compile": None},
    "an unbuilt model": lambda c: {
        "class_name": "Sequential",
        "config": {"name": "s", "layers": []},
        "compile": None,
    },
    "units enormous": lambda c: dense(c)["config"].__setitem__("units", 2**40),
    "units past 64 bits": lambda c: dense(c)["config"].__setitem__("units", 2**80),
    "units negative": lambda c: dense(c)["config"].__setitem__("units", -3),
    "units a string": lambda c: dense(c)["config"].__setitem__("units", "3"),
    "units true": lambda c: dense(c)["config"].__setitem__("units", True),
    "units a float": lambda c: dense(c)["config"].__setitem__("units", 3.5),
    "units null": lambda c: dense(c)["config"].__setitem__("units", None),
    "unknown argument": lambda c: dense(c)["config"].__setitem__("__class__", "x"),
    "config a list": lambda c: dense(c).__setitem__("config", []),
    "layers a string": lambda c: c["config"].__setitem__("layers", "Dense"),
    "layer null": lambda c: c["config"]["layers"].append(None),
    "name a number": lambda c: dense(c)["config"].__setitem__("name", 5),
    "name a path": lambda c: dense(c)["config"].__setitem__("name", "../../etc"),
    "two of one name": lambda c: c["config"]["layers"].append(copy.deepcopy(dense(c))),
    "input enormous": lambda c: c["config"]["layers"][0]["config"].__setitem__(
        "batch_shape", [None, 2**50]
    ),
    "input negative": lambda c: c["config"]["layers"][0]["config"].__setitem__(
        "batch_shape", [None, -4]
    ),
    "input of strings": lambda c: c["config"]["layers"][0]["config"].__setitem__(
        "batch_shape", "abc"
    ),
    "unknown activation": lambda c: dense(c)["config"].__setitem__("activation", "__import__"),
    "activation a dict": lambda c: dense(c)["config"].__setitem__("activation", {"a": 1}),
    "unknown initializer": lambda c: dense(c)["config"].__setitem__("kernel_initializer", "evil"),
    "initializer of layers": lambda c: dense(c)["config"].__setitem__(
        "kernel_initializer", {"class_name": "Dense", "config": {"units": 1}}
    ),
    "many layers": lambda c: c["config"]["layers"].extend(
        {"class_name": "Dense", "config": {"units": 1, "name": f"d{i}"}} for i in range(2000)
    ),
    "a huge convolution": lambda c: c["config"].__setitem__(
        "layers",
        [
            {
                "class_name": "InputLayer",
                "config": {"batch_shape": [None, 999, 999, 9], "name": "i"},
            },
            {"class_name": "Conv2D", "config": {"filters": 9999, "kernel_size": 999}},
        ],
    ),
    "trainable a string": lambda c: c["config"].__setitem__("trainable", "yes"),
    "unknown optimizer": lambda c: c["compile"].__setitem__("optimizer", "evil"),
    "optimizer null": lambda c: c["compile"].__setitem__("optimizer", None),
    "other optimizer": lambda c: c["compile"].__setitem__(
        "optimizer", {"class_name": "SGD", "config": {"momentum": 0.9}}
    ),
    "optimizer of strings": lambda c: c["compile"]["optimizer"]["config"].__setitem__(
        "learning_rate", "fast"
    ),
    "loss a number": lambda c: c["compile"].__setitem__("loss", 5),
    "loss a class path": lambda c: c["compile"].__setitem__(
        "loss", {"class_name": "subprocess.Popen", "config": {"args": "id"}}
    ),
    "loss a function": lambda c: c["compile"].__setitem__(
        "loss", {"class_name": "function", "config": {"name": "eval"}}
    ),
    "loss a nameless function": lambda c: c["compile"].__setitem__(
        "loss", {"class_name": "function", "config": [[]]}
    ),
    "metrics deep": lambda c: c["compile"].__setitem__("metrics", [[[[["mae"]]]]]),
    "loss weights of strings": lambda c: c["compile"].__setitem__("loss_weights", "many"),
    "compile a list": lambda c: c.__setitem__("compile", []),
    "compile with more": lambda c: c["compile"].__setitem__("more", 1),
    "compile with less": lambda c: c["compile"].__delitem__("loss"),
    "more at the top": lambda c: c.__setitem__("more", 1),
}


@pytest.mark.parametrize("name", HOSTILE_CONFIGS)
def test_hostile_configs(name: str, file: Path, intact: bytes) -> None:
    with pytest.raises(ModelFileError, match=r"model\.safetensors"):
        load_bytes(file, configured(intact, HOSTILE_CONFIGS[name]))


def test_hostile_values_everywhere(file: Path, intact: bytes, rng: np.random.Generator) -> None:
    """Put odd values at every place of the configuration, one at a time."""
    odd = [None, True, -1, 0, 2**63, 1e300, "", "x", [], {}, [[]], {"class_name": "Dense"}]
    header, _ = split(intact)
    config = json.loads(header["__metadata__"]["config"])
    places = list(_places(config))
    assert len(places) > 60
    for path in places:
        for value in rng.permutation(len(odd))[:3]:
            changed = copy.deepcopy(config)
            _put(changed, path, odd[value])
            try:
                load_bytes(file, configured(intact, lambda c, new=changed: new))
            except ModelFileError:
                continue


def _places(value: Any, path: tuple = ()) -> Any:
    if path:
        yield path
    items = value.items() if isinstance(value, dict) else enumerate(value)
    if isinstance(value, (dict, list)):
        for key, item in items:
            yield from (
                _places(item, (*path, key)) if isinstance(item, (dict, list)) else [(*path, key)]
            )


def _put(value: Any, path: tuple, new: Any) -> None:
    for key in path[:-1]:
        value = value[key]
    value[path[-1]] = new


def functional_config() -> dict[str, Any]:
    x = Input((4,), name="x")
    d = Dense(4, name="d")
    return Model(x, Add(name="add")([d(d(x)), x]), name="m").get_config()


@pytest.mark.parametrize(
    "change",
    [
        lambda c: c["calls"].reverse(),
        lambda c: c["calls"][0].__setitem__("layer", "nothing"),
        lambda c: c["calls"][0].__setitem__("inputs", []),
        lambda c: c["calls"][0].__setitem__("inputs", [["d", 0, 0]]),
        lambda c: c["calls"][0].__setitem__("inputs", [["x", 0, 5]]),
        lambda c: c["calls"][0].__setitem__("inputs", [[{}, 0, 0]]),
        lambda c: c["calls"][0].__setitem__("inputs", "x"),
        lambda c: c["calls"][0].__setitem__("inputs", [["x", 0, 0]] * 50),
        lambda c: c["calls"].append(7),
        lambda c: c.__setitem__("calls", {}),
        lambda c: c.__setitem__("input_layers", []),
        lambda c: c.__setitem__("output_layers", [["add", -1, 0]]),
        lambda c: c.__setitem__("output_layers", [["add", True, 0]]),
        lambda c: c.__setitem__("input_layers", [["x", 0, 0], ["x", 0, 0]]),
        lambda c: c.__setitem__("output_keys", ["a", "b"]),
        lambda c: c.__setitem__("input_keys", 3),
        lambda c: c.__delitem__("calls"),
    ],
)
def test_hostile_graphs(change: Any, file: Path) -> None:
    model = Model.from_config(functional_config())
    model.save(file)
    with pytest.raises(ModelFileError, match=r"model\.safetensors"):
        load_bytes(file, configured(file.read_bytes(), lambda c: change(c["config"]) and None))


def test_models_multiplied_by_nesting(file: Path) -> None:
    """32 levels that call the level below twice each: a few kilobytes, 2**32 steps."""
    Model.from_config(functional_config()).save(file)

    def nest(config: dict[str, Any]) -> dict[str, Any]:
        inner = {
            "class_name": "Sequential",
            "config": {
                "name": "core",
                "layers": [
                    {"class_name": "InputLayer", "config": {"batch_shape": [None, 2], "name": "i"}},
                    {"class_name": "ReLU", "config": {"name": "r"}},
                ],
            },
        }
        for level in range(28):
            name = inner["config"]["name"]
            inner = {
                "class_name": "Model",
                "config": {
                    "name": f"level{level}",
                    "layers": [
                        {
                            "class_name": "InputLayer",
                            "config": {"batch_shape": [None, 2], "name": "i"},
                        },
                        inner,
                    ],
                    "calls": [
                        {"layer": name, "inputs": [["i", 0, 0]], "takes_list": False},
                        {"layer": name, "inputs": [[name, 0, 0]], "takes_list": False},
                    ],
                    "input_layers": [["i", 0, 0]],
                    "output_layers": [[name, 1, 0]],
                },
            }
        return {**inner, "compile": None}

    with pytest.raises(ModelFileError, match=r"layer calls|nested deeper"):
        file.write_bytes(configured(file.read_bytes(), nest))
        load_model(file)


def test_a_tensor_that_is_not_there_in_full(tmp_path: Path) -> None:
    """A file may claim terabytes by being sparse; its header must still describe them."""
    path = tmp_path / "sparse.safetensors"
    with open(path, "wb") as file:
        file.write(join({}, b""))
        file.truncate(2**40)
    with pytest.raises(ModelFileError, match="the tensors take 0 bytes"):
        load_model(path)
