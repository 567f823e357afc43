"""Reads MNIST from the IDX files a person has on disk."""

from __future__ import annotations

import gzip
import math
import os
import zlib
from io import BufferedIOBase
from pathlib import Path
from typing import TypeAlias

import numpy as np

Part: TypeAlias = tuple[np.ndarray, np.ndarray]

# What the four files are called; ".idx3-ubyte" for "-idx3-ubyte", and ".gz" after it, are known.
_NAMES = {
    "train images": "train-images-idx3-ubyte",
    "train labels": "train-labels-idx1-ubyte",
    "test images": "t10k-images-idx3-ubyte",
    "test labels": "t10k-labels-idx1-ubyte",
}
_SOURCE = (
    "the four files train-images-idx3-ubyte.gz, train-labels-idx1-ubyte.gz, "
    "t10k-images-idx3-ubyte.gz and t10k-labels-idx1-ubyte.gz are at "
    "https://ossci-datasets.s3.amazonaws.com/mnist/ and at http://yann.lecun.com/exdb/mnist/"
)
_UNSIGNED_BYTES = 0x08
_IMAGE_SIZE = (28, 28)
# DEFLATE makes a file at most 1032 times smaller: what claims more is not what it says.
_LARGEST_COMPRESSION = 1032
_CHUNK = 1 << 20


def load_mnist(path: str | os.PathLike[str]) -> tuple[Part, Part]:
    """Read MNIST, or a data set in its format such as Fashion-MNIST, from a folder.

    Parameters
    ----------
    path : str or path
        The folder that holds the four IDX files, as they are distributed (``.gz``) or unpacked.
        Nothing is downloaded.

    Returns
    -------
    (x_train, y_train), (x_test, y_test) : pairs of uint8 arrays
        x : (n, 28, 28) from 0 to 255; y : (n,), from 0 to 9. Divide x by 255 and add an axis
        before training: ``x_train[..., None] / 255``.

    Raises
    ------
    FileNotFoundError
        If the folder or one of the files is missing; the message says where to get them.
    ValueError
        If a file is damaged or holds something else; the message says which and what.

    Examples
    --------
    >>> load_mnist("no/such/folder")  # doctest: +IGNORE_EXCEPTION_DETAIL
    Traceback (most recent call last):
        ...
    FileNotFoundError: load_mnist: there is no folder no/such/folder; the four files ...
    """
    folder = Path(path)
    if not folder.is_dir():
        raise FileNotFoundError(f"load_mnist: there is no folder {folder}; {_SOURCE}")
    files = {part: _find(folder, name) for part, name in _NAMES.items()}
    return (
        _read_part(files["train images"], files["train labels"]),
        _read_part(files["test images"], files["test labels"]),
    )


def _find(folder: Path, name: str) -> Path:
    for stem in (name, name.replace("-idx", ".idx")):
        for file in (folder / stem, folder / f"{stem}.gz"):
            if file.is_file():
                return file
    raise FileNotFoundError(f"load_mnist: {folder} has no {name} or {name}.gz; {_SOURCE}")


def _read_part(images_file: Path, labels_file: Path) -> Part:
    images = _read_idx(images_file, axes=3)
    labels = _read_idx(labels_file, axes=1)
    if images.shape[1:] != _IMAGE_SIZE:
        raise ValueError(
            f"load_mnist: {images_file} expects images of 28 x 28, "
            f"got {images.shape[1]} x {images.shape[2]}"
        )
    if len(images) != len(labels):
        raise ValueError(
            f"load_mnist: {images_file} has {len(images)} images, "
            f"{labels_file} has {len(labels)} labels"
        )
    if labels.size and labels.max() > 9:
        raise ValueError(
            f"load_mnist: {labels_file} expects labels from 0 to 9, got {labels.max()}"
        )
    return images, labels


def _read_idx(file: Path, axes: int) -> np.ndarray:
    """Read an IDX file of unsigned bytes with the given number of axes.

    The format: two zero bytes, the code of the type, the number of axes, the sizes as big-endian
    32-bit integers, then the entries.
    """
    packed = file.suffix == ".gz"
    try:
        with gzip.open(file, "rb") if packed else open(file, "rb") as stream:
            return _read_entries(stream, file, axes, packed)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise ValueError(f"load_mnist: {file} is a damaged gzip file: {error}") from error


def _read_entries(stream: BufferedIOBase, file: Path, axes: int, packed: bool) -> np.ndarray:
    header = stream.read(4)
    expected = bytes((0, 0, _UNSIGNED_BYTES, axes))
    if header != expected:
        hint = ""
        if header[:2] == b"\x1f\x8b":
            hint = "; it is a gzip file: give its name the ending .gz"
        elif len(header) == 4 and header[:2] == b"\0\0" and header[2] != _UNSIGNED_BYTES:
            hint = f"; its entries have type code {header[2]:#04x}, not unsigned bytes"
        raise ValueError(
            f"load_mnist: {file} is not an IDX file of {axes} axes of bytes: it expects to begin "
            f"with {expected.hex(' ')}, got {header.hex(' ') or 'nothing'}{hint}"
        )
    sizes = stream.read(4 * axes)
    if len(sizes) != 4 * axes:
        raise ValueError(f"load_mnist: {file} ends within its header")
    shape = tuple(int(size) for size in np.frombuffer(sizes, ">u4"))
    count = math.prod(shape)
    # Held against the file before anything of that size is read.
    available = file.stat().st_size - 4 - 4 * axes
    if packed:
        available = file.stat().st_size * _LARGEST_COMPRESSION
    if count > available:
        raise ValueError(
            f"load_mnist: {file} announces {count} bytes, shape {shape}, but its "
            f"{file.stat().st_size} bytes cannot hold them"
        )
    data = _read_at_most(stream, count + 1)
    if len(data) != count:
        found = "more" if len(data) > count else str(len(data))
        raise ValueError(
            f"load_mnist: {file} announces {count} bytes, shape {shape}, and holds {found}"
        )
    return np.frombuffer(data, np.uint8).reshape(shape)


def _read_at_most(stream: BufferedIOBase, count: int) -> bytearray:
    """Read up to ``count`` bytes; memory grows with what is there, not with what is asked for."""
    data = bytearray()
    while len(data) < count:
        chunk = stream.read(min(count - len(data), _CHUNK))
        if not chunk:
            break
        data += chunk
    return data
