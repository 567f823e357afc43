"""matmul: transposes, batches and broadcasting."""

from __future__ import annotations

import math

import hypothesis
import numpy as np
import products
import pytest
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from reference import OPS, cases

from lamella import ops, utils

TRANSPOSES = [{"transpose_a": a, "transpose_b": b} for a in (False, True) for b in (False, True)]

# name: (batch of a, batch of b, M, K, N)
PATHS = {
    "one of everything": ((), (), 1, 1, 1),
    "one row": ((), (), 1, 40, 130),
    "one column": ((), (), 40, 31, 1),
    "outer product": ((), (), 33, 1, 17),
    "dot product": ((), (), 1, 300, 1),
    "tails": ((), (), 13, 9, 35),
    "long reduction in place": ((), (), 10, 1000, 20),
    "packed, reduction in blocks": ((), (), 70, 470, 120),
    "more rows than a block": ((), (), 3080, 16, 100),
    "batch": ((5,), (5,), 7, 9, 11),
    "batch of many": ((4, 25), (4, 25), 5, 3, 6),
    "batch of large ones": ((2,), (2,), 110, 100, 120),
    "a repeated": ((), (6,), 7, 9, 11),
    "b repeated": ((3, 2), (), 7, 9, 11),
    "b repeated on an inner axis": ((3, 2), (3, 1), 7, 9, 11),
    "both repeated": ((3, 1, 2), (4, 1), 5, 6, 7),
    "repeated once": ((1, 1), (), 5, 6, 7),
    "no terms": ((2,), (2,), 3, 0, 4),
    "no terms, repeated": ((2,), (1,), 3, 0, 4),
    "no rows": ((2,), (), 0, 3, 4),
    "no columns": ((2,), (2,), 5, 3, 0),
    "no matrices": ((0,), (1,), 5, 3, 4),
}

each_path = pytest.mark.parametrize("path", PATHS)
each_transpose = pytest.mark.parametrize(
    "options", TRANSPOSES, ids=lambda o: "".join("NT"[flag] for flag in o.values())
)


def shapes_of(batch_a, batch_b, m, k, n, options):
    a = (k, m) if options.get("transpose_a") else (m, k)
    b = (n, k) if options.get("transpose_b") else (k, n)
    return (*batch_a, *a), (*batch_b, *b)


@each_path
@each_transpose
def test_paths(path, options, backend, rng):
    arrays = [products.normal(rng, shape) for shape in shapes_of(*PATHS[path], options)]
    products.check("matmul", arrays, options, rng)


@each_transpose
@products.settings
@hypothesis.given(
    batches=hnp.mutually_broadcastable_shapes(num_shapes=2, min_side=0, max_side=3, max_dims=4),
    sizes=st.tuples(*[st.integers(0, 40)] * 3),
    seed=st.integers(0, 2**32),
)
def test_any_shapes(options, backend, batches, sizes, seed):
    rng = np.random.default_rng(seed)
    shapes = shapes_of(*batches.input_shapes, *sizes, options)
    products.check("matmul", [products.normal(rng, shape) for shape in shapes], options, rng)


@each_path
@each_transpose
def test_integers_are_exact(path, options, backend, rng):
    shapes = shapes_of(*PATHS[path], options)
    a, b = (products.integers(rng, shape) for shape in shapes)
    left, right = (
        np.swapaxes(v, -1, -2) if flag else v
        for v, flag in zip((a.astype(np.int64), b.astype(np.int64)), options.values(), strict=True)
    )
    expected = left @ right
    if expected.size == 0:
        assert ops.matmul(a, b, **options).shape == expected.shape
        return
    products.check_integers("matmul", [a, b], options, rng, expected)


@pytest.mark.parametrize("columns", [5, 20, 67])
@pytest.mark.parametrize("rows", [*range(1, 15), 133])
def test_every_tile_of_a_transposed_matrix(rows, columns, backend, rng):
    """133 rows are tiles of 12, or 6, and a last one of 1."""
    arrays = [products.normal(rng, shape) for shape in ((9, rows), (9, columns))]
    products.check("matmul", arrays, {"transpose_a": True}, rng)


@pytest.mark.parametrize("case", [c for c in cases.CASES if c[0] == "matmul"], ids=str)
def test_parity_with_torch(case, rng):
    pytest.importorskip("torch")
    name, shapes, options = case
    arrays = [products.normal(rng, shape) for shape in shapes]
    products.check_torch(name, arrays, options, rng)


@each_transpose
def test_one_array_twice(options, backend, rng):
    a = products.normal(rng, (3, 8, 8))
    products.check("matmul", [a, a], options, rng)


@each_transpose
@pytest.mark.parametrize("path", [((), (), 130, 300, 140), ((40,), (1,), 30, 20, 50)], ids=str)
def test_same_bits_for_any_number_of_threads(path, options, backend, rng):
    arrays = [products.normal(rng, shape) for shape in shapes_of(*path, options)]
    dy = products.normal(rng, ops.matmul(*arrays, **options).shape)
    results = []
    for threads in (1, 2, 5, 5):
        utils.set_num_threads(threads)
        y, pullback = ops.matmul.vjp(*arrays, **options)
        results.append([part.tobytes() for part in (y, *pullback(dy))])
    assert all(result == results[0] for result in results)


@each_transpose
@pytest.mark.parametrize("wrong", [np.nan, np.inf])
def test_nan_and_infinity_follow_the_arithmetic(wrong, options, backend, rng):
    a, b = (products.normal(rng, s) for s in shapes_of((2,), (), 9, 30, 20, options))
    a[1, 3, 5] = wrong
    y, pullback = ops.matmul.vjp(a, b, **options)
    expected = OPS["matmul"].forward(a, b, **options)
    products.assert_close(y, expected, "matmul", "forward", 30)
    dy = products.normal(rng, y.shape)
    right = OPS["matmul"].backward(dy, a, b, **options)
    for gradient, expected in zip(pullback(dy), right, strict=True):
        products.assert_close(gradient, expected, "matmul", "backward", 60)


def test_a_batch_of_empty_matrices_costs_nothing():
    """However many there are."""
    many = np.empty((2**40, 0, 3), np.float32)
    assert ops.matmul(many, np.ones((3, 4), np.float32)).shape == (2**40, 0, 4)
    a, b = np.ones((2**18, 1, 2, 3), np.float32), np.ones((1, 2**18, 3, 0), np.float32)
    y, pullback = ops.matmul.vjp(a, b)
    assert y.shape == (2**18, 2**18, 2, 0)
    da, db = pullback(y)
    assert da.shape == a.shape and not np.any(da)
    assert db.shape == b.shape


def test_many_axes(backend, rng):
    if np.lib.NumpyVersion(np.__version__) < "2.0.0":
        pytest.skip("arrays of 64 axes exist since NumPy 2")
    a_shape = [2 if axis % 16 == 0 else 1 for axis in range(62)] + [3, 4]
    b_shape = [2 if axis % 32 == 1 else 1 for axis in range(62)] + [4, 5]
    a, b = (products.integers(rng, shape) for shape in (a_shape, b_shape))
    y = ops.matmul(a, b)
    assert y.ndim == 64 and y.size == math.prod(y.shape)
    np.testing.assert_array_equal(y, a.astype(np.int64) @ b.astype(np.int64))
