"""Data sets: the digits that come with the package, and MNIST's files, whole and damaged."""

from __future__ import annotations

import gzip
import hashlib
import struct

import numpy as np
import pytest

from lamella import datasets
from lamella.datasets import digits


def test_digits_are_those_of_scikit_learn():
    sklearn_datasets = pytest.importorskip("sklearn.datasets")
    theirs = sklearn_datasets.load_digits()
    x, y = datasets.load_digits(split=False)
    np.testing.assert_array_equal(x[..., 0] * 16, theirs.images)
    np.testing.assert_array_equal(y, theirs.target)


def test_digits():
    (x_train, y_train), (x_test, y_test) = datasets.load_digits()
    assert x_train.shape == (1438, 8, 8, 1) and x_test.shape == (359, 8, 8, 1)
    assert x_train.dtype == x_test.dtype == np.float32
    assert y_train.dtype == y_test.dtype == np.int64
    assert y_train.shape == (1438,) and y_test.shape == (359,)
    assert x_train.min() == 0 and x_train.max() == 1
    for x in (x_train, y_train, x_test, y_test):
        assert x.flags.c_contiguous and x.flags.writeable
    share = np.bincount(y_test) / np.bincount(np.concatenate([y_train, y_test]))
    np.testing.assert_allclose(share, 0.2, atol=0.01)


def test_the_parts_hold_each_image_once():
    x, _ = datasets.load_digits(split=False)
    (x_train, _), (x_test, _) = datasets.load_digits(test_fraction=0.3)

    def as_rows(images):
        return sorted(image.tobytes() for image in images)

    assert as_rows(np.concatenate([x_train, x_test])) == as_rows(x)


def test_splits_repeat():
    def test_labels(**options):
        return datasets.load_digits(**options)[1][0].tobytes()

    assert test_labels(seed=1) == test_labels(seed=1)
    assert len({test_labels(seed=seed) for seed in range(4)}) == 4


@pytest.mark.parametrize(("size", "border"), [(28, 4), (10, 1), (32, 4), (56, 8)])
def test_enlarged(size, border):
    x, _ = datasets.load_digits(size, split=False)
    assert x.shape == (1797, size, size, 1) and x.flags.c_contiguous
    inner = x[:, border:-border, border:-border]
    outer = x.copy()
    outer[:, border:-border, border:-border] = 0
    assert not outer.any() and inner.min() >= 0 and inner.max() <= 1
    # Interpolation keeps the mean of the ink, up to what happens at the rim.
    small, _ = datasets.load_digits(split=False)
    np.testing.assert_allclose(inner.mean(axis=(1, 2, 3)), small.mean(axis=(1, 2, 3)), atol=0.03)


def test_interpolation_goes_through_parabolas():
    weights = digits._cubic_weights(40)
    np.testing.assert_allclose(weights.sum(axis=1), 1, atol=1e-12)
    pixels, place = np.arange(8.0), (np.arange(40) + 0.5) / 5 - 0.5
    inside = (place >= 1) & (place <= 6)  # where all four neighbours exist
    np.testing.assert_allclose((weights @ pixels**2)[inside], place[inside] ** 2, atol=1e-12)
    np.testing.assert_array_equal(digits._cubic_weights(8), np.eye(8))


def test_a_damaged_digits_file_is_noticed(monkeypatch):
    monkeypatch.setattr(digits, "_SHA256", hashlib.sha256(b"").hexdigest())
    with pytest.raises(ValueError, match=r"digits\.npz is damaged"):
        datasets.load_digits()


@pytest.mark.parametrize(
    "options",
    [{"size": 9}, {"size": 4}, {"size": 300}, {"size": 28.0}, {"test_fraction": 0}, {"seed": -1}],
)
def test_digits_refuse(options):
    with pytest.raises(ValueError, match=next(iter(options))):
        datasets.load_digits(**options)


NAMES = {
    "x_train": "train-images-idx3-ubyte",
    "y_train": "train-labels-idx1-ubyte",
    "x_test": "t10k-images-idx3-ubyte",
    "y_test": "t10k-labels-idx1-ubyte",
}


def idx(array, code=8):
    """Return an array as IDX."""
    header = struct.pack(">BBBB", 0, 0, code, array.ndim)
    return header + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()


@pytest.fixture
def arrays():
    rng = np.random.default_rng(1)
    return {
        "x_train": rng.integers(0, 256, (7, 28, 28), dtype=np.uint8),
        "y_train": rng.integers(0, 10, 7, dtype=np.uint8),
        "x_test": rng.integers(0, 256, (3, 28, 28), dtype=np.uint8),
        "y_test": rng.integers(0, 10, 3, dtype=np.uint8),
    }


def write(folder, arrays, packed=False, dotted=False):
    for part, array in arrays.items():
        name = NAMES[part].replace("-idx", ".idx") if dotted else NAMES[part]
        data = array if isinstance(array, bytes) else idx(array)
        if packed:
            (folder / f"{name}.gz").write_bytes(gzip.compress(data))
        else:
            (folder / name).write_bytes(data)


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("dotted", [False, True])
def test_mnist(tmp_path, arrays, packed, dotted):
    write(tmp_path, arrays, packed, dotted)
    (x_train, y_train), (x_test, y_test) = datasets.load_mnist(tmp_path)
    for part, array in zip(NAMES, (x_train, y_train, x_test, y_test), strict=True):
        assert array.dtype == np.uint8 and array.flags.writeable
        np.testing.assert_array_equal(array, arrays[part])


def test_mnist_is_not_there(tmp_path, arrays):
    with pytest.raises(FileNotFoundError, match=r"no folder .*https://"):
        datasets.load_mnist(tmp_path / "nowhere")
    write(tmp_path, arrays)
    (tmp_path / NAMES["y_test"]).unlink()
    with pytest.raises(FileNotFoundError, match=r"t10k-labels-idx1-ubyte.*https://"):
        datasets.load_mnist(tmp_path)


IMAGES = np.zeros((7, 28, 28), np.uint8)


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize(
    ("part", "data", "message"),
    [
        ("x_train", b"", "got nothing"),
        ("x_train", b"\0\0", "got 00 00"),
        ("x_train", b"PNG\0 and so on", "50 4e 47"),
        ("x_train", idx(IMAGES, code=0x0D), "type code 0x0d"),
        ("x_train", idx(np.zeros(7, np.uint8)), "3 axes"),
        ("x_train", idx(IMAGES)[:9], "within its header"),
        ("x_train", idx(IMAGES)[:-1], "5488 bytes, shape"),
        ("x_train", idx(IMAGES) + b"\0", "and holds more"),
        ("x_train", idx(IMAGES[:6]), "6 images"),
        ("x_train", idx(np.zeros((7, 27, 28), np.uint8)), "27 x 28"),
        ("x_train", struct.pack(">4B3I", 0, 0, 8, 3, 2**32 - 1, 2**32 - 1, 2**32 - 1), "announces"),
        ("y_train", idx(np.full(7, 10, np.uint8)), "labels from 0 to 9, got 10"),
    ],
)
def test_damaged_mnist(tmp_path, arrays, part, data, message, packed):
    write(tmp_path, {**arrays, part: data}, packed)
    with pytest.raises(ValueError, match=message) as caught:
        datasets.load_mnist(tmp_path)
    assert NAMES[part] in str(caught.value)


def test_gzip_under_the_wrong_name(tmp_path, arrays):
    write(tmp_path, arrays)
    (tmp_path / NAMES["x_train"]).write_bytes(gzip.compress(idx(IMAGES)))
    with pytest.raises(ValueError, match=r"ending \.gz"):
        datasets.load_mnist(tmp_path)


@pytest.mark.parametrize("damage", ["cut", "flipped", "trailing"])
def test_damaged_gzip(tmp_path, arrays, damage):
    write(tmp_path, arrays, packed=True)
    file = tmp_path / f"{NAMES['x_train']}.gz"
    data = bytearray(file.read_bytes())
    if damage == "cut":
        data = data[:-20]
    elif damage == "flipped":
        data[-6] ^= 0xFF  # in the checksum
    else:
        data += b"garbage"
    file.write_bytes(data)
    with pytest.raises(ValueError, match="damaged gzip"):
        datasets.load_mnist(tmp_path)


def test_a_gzip_bomb_is_not_unpacked(tmp_path, arrays, monkeypatch):
    write(tmp_path, arrays, packed=True)
    file = tmp_path / f"{NAMES['x_train']}.gz"
    file.write_bytes(gzip.compress(idx(IMAGES) + bytes(50_000_000)))
    read = 0
    original = gzip.GzipFile.read

    def counted(self, size=-1):
        nonlocal read
        data = original(self, size)
        read += len(data)
        return data

    monkeypatch.setattr(gzip.GzipFile, "read", counted)
    with pytest.raises(ValueError, match="holds more"):
        datasets.load_mnist(tmp_path)
    assert read == 16 + IMAGES.size + 1


def test_documentation():
    (x_train, y_train), (x_test, y_test), words, groups = datasets.load_documentation()
    assert x_train.dtype == x_test.dtype == np.int32 and y_train.dtype == y_test.dtype == np.int64
    assert len(x_train) == len(y_train) > 800 and 0.15 < len(x_test) / len(x_train) < 0.3
    assert x_train.shape[1] == x_test.shape[1] == 60
    assert len(set(words)) == len(words) == 2000 and words[:2] == ("", "[unknown]")
    assert set(y_train) == set(range(len(groups)))
    for x in (x_train, x_test):
        lengths = (x > 0).sum(axis=1)
        assert lengths.min() >= 20 and len(set(lengths)) > 20
        np.testing.assert_array_equal(x > 0, np.arange(60) < lengths[:, None])
        assert x.max() < len(words)
    # No passage is in both parts.
    rows = {row.tobytes() for row in x_train}
    assert sum(row.tobytes() in rows for row in x_test) < 5  # rare words look alike


def test_documentation_split():
    def loaded(**options):
        return datasets.load_documentation(**options)

    np.testing.assert_array_equal(loaded(seed=3).train[0], loaded(seed=3).train[0])
    assert not np.array_equal(loaded(seed=3).train[0], loaded(seed=4).train[0])
    small = loaded(max_words=25, vocabulary=50, test_share=0.5)
    assert small.train[0].shape[1] == 25 and small.train[0].max() == 49
    assert abs(len(small.train[0]) - len(small.test[0])) <= 1


@pytest.mark.parametrize(
    "options", [{"max_words": 5}, {"vocabulary": 2}, {"test_share": 0}, {"test_share": 1.0}]
)
def test_documentation_refuses(options):
    with pytest.raises(ValueError, match=f"load_documentation: {next(iter(options))} must"):
        datasets.load_documentation(**options)
