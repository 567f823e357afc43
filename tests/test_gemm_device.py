"""The device's matrix product by every tile, on the executor: tests/gemm/gemm_device.cu.

The ops' tests choose tiles by shape, and have float32 only.
"""

from __future__ import annotations

import ctypes
import itertools
import subprocess

import numpy as np
import pytest
from device_programs import COMPILER, command

# name: (its number, tiles, elements of 16 bytes)
TYPES = {
    "bfloat16": (0, 3, 8),
    "float16": (1, 3, 8),
    "tf32": (2, 2, 4),
    "float32": (3, 4, 4),
}
# (results, m, n, k): whole tiles, tails, one of everything, steps for several splits, no terms.
SHAPES = [
    (1, 128, 256, 64),
    (2, 72, 136, 104),
    (1, 130, 67, 33),
    (3, 7, 5, 3),
    (1, 1, 1, 1),
    (1, 64, 72, 1024),
    (2, 40, 24, 0),
]

pytestmark = pytest.mark.skipif(COMPILER is None, reason="no C++ compiler")


@pytest.fixture(scope="module")
def library(tmp_path_factory):
    output = tmp_path_factory.mktemp("gemm") / "libgemm_device.so"
    subprocess.run(command("gemm/gemm_device.cu", output, "-shared", "-fPIC"), check=True)
    return ctypes.CDLL(str(output))


def encode(values, kind):
    """float32 values that the type has exactly, as its elements in aligned memory."""
    values = np.asarray(values, np.float32)
    if kind == "float16":
        elements = values.astype(np.float16)
    elif kind == "bfloat16":
        elements = (values.view(np.uint32) >> 16).astype(np.uint16)
    else:
        elements = values
    memory = np.empty(elements.nbytes + 64, np.uint8)
    aligned = memory[-memory.ctypes.data % 64 :][: elements.nbytes]
    result = aligned.view(elements.dtype).reshape(elements.shape)
    result[...] = elements
    return result


def decode(elements, kind):
    if kind == "bfloat16":
        return (elements.astype(np.uint32) << 16).view(np.float32)
    return elements.astype(np.float32)


def product(library, kind, a, b, a_along_rows, b_along_rows, tile=-1):
    """c = a b^T of a (results, m, k) and b (results, n, k), either given as (results, k, rows)."""
    number, _, wide = TYPES[kind]
    results, m, k = a.shape
    n = b.shape[1]
    operands = [
        encode(x.swapaxes(1, 2) if along else x, kind)
        for x, along in ((a, a_along_rows), (b, b_along_rows))
    ]
    c = encode(np.full((results, m, n), np.nan), kind)
    fits = all(x.shape[2] % wide == 0 for x in (*operands, c))
    strides = [x.shape[2] for x in operands]
    options = [a_along_rows, b_along_rows, fits, tile]
    sizes = np.array([results, m, n, k, *strides, *options], np.int64)
    error = ctypes.create_string_buffer(1000)
    arrays = [x.ctypes.data_as(ctypes.c_void_p) for x in (sizes, *operands, c)]
    failed = library.gemm_product(number, *arrays, error, len(error))
    assert not failed, error.value.decode()
    return decode(c, kind)


@pytest.mark.parametrize("along", [*itertools.product((False, True), repeat=2)], ids=str)
@pytest.mark.parametrize(
    ("kind", "tile"), [(kind, tile) for kind in TYPES for tile in range(-1, TYPES[kind][1])]
)
def test_integers_are_exact(library, kind, tile, along, rng):
    for results, m, n, k in SHAPES:
        largest = 1 if k > 256 and kind == "bfloat16" else 3
        a, b = (
            rng.integers(-largest, largest + 1, (results, rows, k)).astype(np.float32)
            for rows in (m, n)
        )
        expected = a @ b.swapaxes(1, 2)
        actual = product(library, kind, a, b, *along, tile)
        # Results are rounded to their type once: integers above 256 are, to bfloat16.
        np.testing.assert_array_equal(actual, decode(encode_rounded(expected, kind), kind))


def encode_rounded(values, kind):
    if kind != "bfloat16":
        return encode(values, kind)
    bits = np.asarray(values, np.float32).view(np.uint32)
    bits = bits + 0x7FFF + (bits >> 16 & 1)
    return (bits >> 16).astype(np.uint16)


@pytest.mark.parametrize("kind", TYPES)
def test_products_are_taken_in_the_named_precision(library, kind, rng):
    """Sums in float32: of bfloat16 the operands are exact, of float32 by TF32 they are rounded."""
    a, b = (rng.standard_normal((1, rows, 300)).astype(np.float32) for rows in (50, 70))
    if kind == "bfloat16":
        a, b = (decode(encode_rounded(x, kind), kind) for x in (a, b))
    elif kind == "float16":
        a, b = (x.astype(np.float16).astype(np.float32) for x in (a, b))
    expected = a.astype(np.float64) @ b.swapaxes(1, 2).astype(np.float64)
    error = np.max(np.abs(product(library, kind, a, b, False, True) - expected)) / np.sqrt(300)
    smallest, largest = {
        "bfloat16": (2.0**-10, 2.0**-6),
        "float16": (2.0**-13, 2.0**-9),
        "tf32": (2.0**-12, 2.0**-9),
        "float32": (0.0, 2.0**-18),
    }[kind]
    assert smallest <= error <= largest


@pytest.mark.parametrize("kind", TYPES)
def test_nan_and_infinity_follow_the_arithmetic(library, kind, rng):
    a, b = (rng.integers(1, 4, (1, rows, 40)).astype(np.float32) for rows in (20, 30))
    a[0, 3, 5] = np.nan
    b[0, 7, 33] = np.inf
    expected = a @ b.swapaxes(1, 2)
    actual = product(library, kind, a, b, False, False)
    np.testing.assert_array_equal(np.isnan(actual), np.isnan(expected))
    np.testing.assert_array_equal(np.isinf(actual), np.isinf(expected))
