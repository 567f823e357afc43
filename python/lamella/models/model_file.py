"""The model file: one safetensors container, read with suspicion and written atomically.

Layout (https://github.com/huggingface/safetensors, "Format")::

    8 bytes       length H of the header, unsigned, little-endian
    H bytes       header: a JSON object in UTF-8, padded with spaces to a multiple of 8
                  {"__metadata__": {str: str}, name: {"dtype", "shape", "data_offsets"}, ...}
    the rest      the tensors, C order, little-endian, tiling the rest of the file exactly

What lamella puts into it (configuration, digest) is the business of `lamella.models.saving`; this
module knows the container only. Nothing sized by the file's own claims is allocated before those
claims have been compared with the size of the file.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import os
import re
import secrets
import stat
from collections.abc import Iterator, Mapping
from typing import Any, BinaryIO, NamedTuple, NoReturn

import numpy as np

from lamella.errors import ModelFileError

# A header holds names, shapes and the configuration: a thousand layers need less than 1 MiB.
MAX_HEADER_BYTES = 16 * 2**20
# Nested models cost four levels each in their configuration.
MAX_JSON_DEPTH = 128
MAX_RANK = 32

_DTYPES: dict[str, np.dtype[Any]] = {
    "F64": np.dtype("<f8"),
    "F32": np.dtype("<f4"),
    "F16": np.dtype("<f2"),
    "I64": np.dtype("<i8"),
    "I32": np.dtype("<i4"),
    "I16": np.dtype("<i2"),
    "I8": np.dtype("i1"),
    "U64": np.dtype("<u8"),
    "U32": np.dtype("<u4"),
    "U16": np.dtype("<u2"),
    "U8": np.dtype("u1"),
}
_DTYPE_NAMES = {dtype: name for name, dtype in _DTYPES.items()}
_STRING = re.compile(r'"[^"\\]*(?:\\.[^"\\]*)*"', re.DOTALL)
_BRACKET = re.compile(r"[\[\]{}]")


class TensorEntry(NamedTuple):
    """One tensor of the header; ``start`` and ``stop`` count bytes from the first tensor byte."""

    dtype: np.dtype
    shape: tuple[int, ...]
    start: int
    stop: int


class ModelFile(NamedTuple):
    """A checked file: its metadata and its tensors (views into one buffer) by name."""

    metadata: dict[str, str]
    tensors: dict[str, np.ndarray]
    digest: str


# -- writing --------------------------------------------------------------------------------------


def write_model_file(
    path: str | os.PathLike[str],
    tensors: Mapping[str, np.ndarray],
    metadata: Mapping[str, str],
    overwrite: bool = True,
) -> None:
    """Write `tensors` and `metadata` to `path`, with the tensors' digest as metadata "sha256".

    The bytes go to a new file in the same directory, which then takes the name `path`: a reader
    sees the old file or the new one, never a part. A symbolic link at `path` is replaced, not
    followed. An existing file's permissions are kept.

    Raises
    ------
    FileExistsError
        `overwrite` is False and `path` exists.
    ModelFileError
        The header would be larger than a reader accepts.
    """
    arrays = {
        name: np.ascontiguousarray(a, dtype=a.dtype.newbyteorder("<"))
        for name, a in tensors.items()
    }
    # Wide types first keeps every tensor aligned to its item size.
    order = sorted(arrays, key=lambda name: -arrays[name].itemsize)
    digest = hashlib.sha256()
    header: dict[str, Any] = {}
    offset = 0
    for name in order:
        array = arrays[name]
        digest.update(_bytes_of(array))
        header[name] = {
            "dtype": _DTYPE_NAMES[array.dtype],
            "shape": list(tensors[name].shape),
            "data_offsets": [offset, offset + array.nbytes],
        }
        offset += array.nbytes
    header = {"__metadata__": {**metadata, "sha256": digest.hexdigest()}, **header}
    encoded = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode()
    encoded += b" " * (-len(encoded) % 8)
    if len(encoded) > MAX_HEADER_BYTES:
        raise ModelFileError(
            f"{os.fspath(path)}: the header would take {len(encoded)} bytes; "
            f"at most {MAX_HEADER_BYTES} are allowed"
        )
    with _atomic_file(os.fspath(path), overwrite) as file:
        file.write(len(encoded).to_bytes(8, "little"))
        file.write(encoded)
        for name in order:
            file.write(_bytes_of(arrays[name]))


def _bytes_of(array: np.ndarray) -> memoryview:
    # reshape: a memoryview of a zero-size or zero-dimensional array cannot be cast to bytes.
    return array.reshape(-1).view(np.uint8).data


@contextlib.contextmanager
def _atomic_file(path: str, overwrite: bool) -> Iterator[BinaryIO]:
    """Open a temporary file beside `path`; on success it becomes `path`, else it disappears."""
    mode = _mode_to_keep(path)
    if not overwrite and os.path.lexists(path):
        raise FileExistsError(f"{path} exists; pass overwrite=True to replace it")
    directory, name = os.path.split(path)
    temporary = os.path.join(directory, f".{name}.{secrets.token_hex(8)}.tmp")
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0)
    # Mode 0o666 less the umask, as open() would give; O_EXCL never follows a planted link.
    descriptor = os.open(temporary, flags, 0o666)
    try:
        with os.fdopen(descriptor, "wb") as file:
            yield file
            file.flush()
            if mode is not None and hasattr(os, "fchmod"):
                os.fchmod(file.fileno(), mode)
            os.fsync(file.fileno())
        if not overwrite and os.path.lexists(path):
            raise FileExistsError(f"{path} exists; pass overwrite=True to replace it")
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)
        raise
    _sync_directory(directory or ".")


def _mode_to_keep(path: str) -> int | None:
    try:
        status = os.lstat(path)
    except FileNotFoundError:
        return None
    if stat.S_ISDIR(status.st_mode):
        raise IsADirectoryError(f"{path} is a directory, not a file to write")
    return stat.S_IMODE(status.st_mode) & 0o777 if stat.S_ISREG(status.st_mode) else None


def _sync_directory(directory: str) -> None:
    # Makes the rename itself durable; Windows cannot open a directory and needs no such step.
    if os.name == "posix":
        descriptor = os.open(directory, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


# -- reading --------------------------------------------------------------------------------------


def read_model_file(path: str | os.PathLike[str]) -> ModelFile:
    """Read and check a whole container.

    Returns
    -------
    ModelFile
        Metadata, the tensors by name (read-only views into one buffer of the file's size) and
        the SHA-256 of the tensor bytes, for the caller to compare.

    Raises
    ------
    FileNotFoundError
        There is no such file.
    ModelFileError
        It is not a well-formed safetensors file of the types NumPy has.
    """
    name = os.fspath(path)
    try:
        file = open(name, "rb", buffering=0, opener=_open_without_waiting)  # noqa: SIM115
    except IsADirectoryError:
        raise ModelFileError(f"{name}: is a directory, not a model file") from None
    with file:
        status = os.fstat(file.fileno())
        if not stat.S_ISREG(status.st_mode):
            raise ModelFileError(f"{name}: is not a regular file")
        header = _read_header(file, name, status.st_size)
        data = np.empty(status.st_size - 8 - header[2], np.uint8)
        _read_exactly(file, data.data, name)
    metadata, entries, _ = header
    data.flags.writeable = False
    tensors = {
        key: data[entry.start : entry.stop].view(entry.dtype).reshape(entry.shape)
        for key, entry in entries.items()
    }
    return ModelFile(metadata, tensors, hashlib.sha256(data.data).hexdigest())


def _open_without_waiting(path: str, flags: int) -> int:
    # Without O_NONBLOCK, opening a named pipe waits for a writer.
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))


def _read_header(
    file: Any, name: str, size: int
) -> tuple[dict[str, str], dict[str, TensorEntry], int]:
    if size < 8:
        raise ModelFileError(f"{name}: {size} bytes are too few for a model file")
    prefix = bytearray(8)
    _read_exactly(file, memoryview(prefix), name)
    length = int.from_bytes(prefix, "little")
    if length > MAX_HEADER_BYTES or length > size - 8:
        raise ModelFileError(
            f"{name}: not a safetensors file, or damaged: the header would take {length} bytes, "
            f"but the file has {size} and at most {MAX_HEADER_BYTES} are allowed"
        )
    encoded = bytearray(length)
    _read_exactly(file, memoryview(encoded), name)
    header = parse_json(bytes(encoded), f"{name}: header")
    if not isinstance(header, dict) or encoded[:1] != b"{":
        raise ModelFileError(f"{name}: the header is not a JSON object")
    metadata = _check_metadata(header.pop("__metadata__", {}), name)
    entries = {key: _check_entry(key, value, name) for key, value in header.items()}
    _check_tiling(entries, size - 8 - length, name)
    return metadata, entries, length


def _read_exactly(file: Any, target: memoryview, name: str) -> None:
    done = 0
    while done < len(target):
        count = file.readinto(target[done:])
        if not count:
            raise ModelFileError(f"{name}: the file ended while it was being read")
        done += count


def _check_metadata(metadata: Any, name: str) -> dict[str, str]:
    if not isinstance(metadata, dict) or not all(isinstance(v, str) for v in metadata.values()):
        raise ModelFileError(f"{name}: __metadata__ is not an object of strings")
    return metadata


def _check_entry(key: str, value: Any, name: str) -> TensorEntry:
    where = f"{name}: tensor {key!r}"
    if not isinstance(value, dict) or set(value) != {"dtype", "shape", "data_offsets"}:
        raise ModelFileError(f"{where}: expected exactly dtype, shape and data_offsets")
    if not isinstance(value["dtype"], str) or value["dtype"] not in _DTYPES:
        raise ModelFileError(
            f"{where}: dtype {value['dtype']!r} is not one of {', '.join(_DTYPES)}"
        )
    shape, offsets = value["shape"], value["data_offsets"]
    if not _is_sizes(shape) or len(shape) > MAX_RANK:
        raise ModelFileError(f"{where}: shape is not a list of at most {MAX_RANK} sizes")
    if not _is_sizes(offsets) or len(offsets) != 2 or offsets[0] > offsets[1]:
        raise ModelFileError(f"{where}: data_offsets is not [start, stop] with start <= stop")
    dtype = _DTYPES[value["dtype"]]
    # Zeros are left out of this product: NumPy refuses (0, 2**62, 2**62) although it holds nothing.
    if math.prod(extent for extent in shape if extent) * dtype.itemsize >= 2**63:
        raise ModelFileError(f"{where}: shape {shape} overflows 63 bits")
    if math.prod(shape) * dtype.itemsize != offsets[1] - offsets[0]:
        raise ModelFileError(
            f"{where}: shape {shape} of {value['dtype']} does not take the "
            f"{offsets[1] - offsets[0]} bytes that data_offsets gives it"
        )
    return TensorEntry(dtype, tuple(shape), offsets[0], offsets[1])


def _is_sizes(value: Any) -> bool:
    return isinstance(value, list) and all(
        type(item) is int and 0 <= item < 2**63 for item in value
    )


def _check_tiling(entries: Mapping[str, TensorEntry], size: int, name: str) -> None:
    """The tensors must cover the `size` data bytes without a gap, an overlap or a remainder."""
    position = 0
    for key, entry in sorted(entries.items(), key=lambda item: (item[1].start, item[1].stop)):
        if entry.start != position:
            raise ModelFileError(
                f"{name}: tensor {key!r} starts at byte {entry.start}, expected {position}: "
                "tensors must follow each other without gap or overlap"
            )
        position = entry.stop
    if position != size:
        raise ModelFileError(
            f"{name}: the tensors take {position} bytes, but the file holds {size}: "
            "it was cut short or has something appended"
        )


# -- JSON of unknown origin -----------------------------------------------------------------------


def parse_json(encoded: bytes | str, where: str) -> Any:
    """Parse JSON with bounded size and depth, without duplicate keys, NaN, Infinity or surrogates.

    Raises `ModelFileError` whose message begins with `where`.
    """
    if len(encoded) > MAX_HEADER_BYTES:
        raise ModelFileError(f"{where}: {len(encoded)} bytes of JSON are too many")
    try:
        text = encoded if isinstance(encoded, str) else encoded.decode("utf-8")
        _check_depth(text, where)
        value = json.loads(
            text,
            object_pairs_hook=_object_without_duplicates,
            parse_constant=_reject_constant,
            parse_float=_finite_float,
        )
        if "\\u" in text:  # escapes can spell half a surrogate pair, which no file can store
            json.dumps(value, ensure_ascii=False).encode()
    except ModelFileError:
        raise
    except (ValueError, RecursionError) as error:
        raise ModelFileError(f"{where}: not valid JSON: {error}") from None
    return value


def _check_depth(text: str, where: str) -> None:
    # The parser recurses; its own limit depends on how deep the caller already is.
    depth = 0
    for match in _BRACKET.finditer(_STRING.sub('""', text)):
        depth += 1 if match.group() in "[{" else -1
        if depth > MAX_JSON_DEPTH:
            raise ModelFileError(f"{where}: JSON nested deeper than {MAX_JSON_DEPTH} levels")


def _object_without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        raise ValueError("an object names a key twice")
    return result


def _reject_constant(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is not a JSON number")


def _finite_float(digits: str) -> float:
    value = float(digits)
    if not math.isfinite(value):
        raise ValueError(f"{digits[:40]} is out of range")
    return value
