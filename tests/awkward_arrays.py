"""Arrays that an op must refuse, and arrays that it must take although they are laid out oddly."""

from __future__ import annotations

import numpy as np

# What a float32 array argument must not be: TypeError, naming the op and the argument.
NOT_FLOAT32_ARRAYS = {
    "float64": np.ones(3),
    "float16": np.ones(3, np.float16),
    "int32": np.ones(3, np.int32),
    "bool": np.ones(3, bool),
    "complex64": np.ones(3, np.complex64),
    "object": np.array([1.0, None, "x"], object),
    "str": np.array(["a", "b", "c"]),
    "record": np.zeros(3, [("a", np.float32)]),
    "big-endian": np.ones(3, ">f4"),
    "list": [1.0, 2.0, 3.0],
    "number": 1.0,
    "float32 number": np.float32(1.0),
    "None": None,
    "text": "abc",
}


def _with_gaps(x):
    wide = np.full((*x.shape[:-1], 2 * x.shape[-1]), np.nan, x.dtype)
    wide[..., ::2] = x
    return wide[..., ::2]


def _misaligned(x):
    memory = np.zeros(x.nbytes + 1, np.uint8)
    shifted = memory[1:].view(x.dtype).reshape(x.shape)
    shifted[...] = x
    assert not shifted.flags.aligned or x.itemsize == 1
    return shifted


def _read_only(x):
    x = x.copy()
    x.flags.writeable = False
    return x


# Functions that return the values of an array with at least one axis in another layout.
LAYOUTS = {
    "with gaps": _with_gaps,
    "backwards": lambda x: np.ascontiguousarray(x[..., ::-1])[..., ::-1],
    "Fortran order": np.asfortranarray,
    "misaligned": _misaligned,
    "read-only": _read_only,
}

# Arrays of shape (6,) that cannot be written in place: ValueError.
NOT_WRITABLE_IN_PLACE = {
    "read-only": _read_only(np.ones(6, np.float32)),
    "with gaps": np.ones(12, np.float32)[::2],
    "backwards": np.ones(6, np.float32)[::-1],
    "misaligned": _misaligned(np.ones(6, np.float32)),
}
