"""embedding: rows by their number, gradients summed in the order of the indices."""

from __future__ import annotations

import awkward_arrays
import numpy as np
import op_checks
import pytest
from reference import OPS
from tolerances import assert_close

from lamella import ops

REFERENCE = OPS["embedding"]
# Rows and columns: one to several vectors of each instruction set with tails; more columns than a
# task takes; more rows than one range has.
TABLES = [
    (1, 1), (5, 3), (7, 16), (9, 17), (3, 31), (11, 32), (4, 33), (13, 64), (6, 65), (5, 100),
    (3, 257), (70_000, 3), (5000, 40),
]  # fmt: skip
INDICES = [(), (0,), (1,), (7,), (3, 5), (2, 0, 3), (2, 3, 4), (300,)]


def arrays_of(shape, table_shape, rng, dtype=np.int64):
    table = rng.standard_normal(table_shape).astype(np.float32)
    return [rng.integers(table_shape[0], size=shape).astype(dtype), table]


def check(arrays, rng):
    indices = arrays[0]
    y, pullback = ops.embedding.vjp(*arrays)
    assert_close(y, REFERENCE.forward(*arrays), "embedding", "forward")
    dy = rng.standard_normal(y.shape).astype(np.float32)
    no_gradient, dtable = pullback(dy)
    assert no_gradient is None
    expected = REFERENCE.backward(dy, *arrays)[1]
    most = np.bincount(indices.ravel(), minlength=1).max() if indices.size else 1
    # Terms cancel where there are few results.
    scale = max(np.abs(expected).max(), np.sqrt(most) * np.abs(dy).max(initial=0.0))
    assert_close(dtable, expected, "embedding", "backward", int(most), scale)
    return y, dtable


@pytest.mark.parametrize("table", TABLES, ids=str)
@pytest.mark.parametrize("dtype", [np.int32, np.int64])
def test_values_and_gradients(table, dtype, backend, rng):
    for shape in INDICES:
        check(arrays_of(shape, table, rng, dtype), rng)


@pytest.mark.parametrize(
    ("count", "rows", "columns"),
    [(20_000, 50, 70), (20_000, 50, 8), (5000, 5000, 33), (300, 100_000, 20)],
)
def test_sizes_that_are_cut_into_tasks(count, rows, columns, backend, rng):
    arrays = arrays_of(count, (rows, columns), rng)
    check(arrays, rng)
    arrays[0][:] = rows - 1  # one row has them all
    check(arrays, rng)


def test_a_result_larger_than_the_caches(backend, rng):
    indices, table = arrays_of(40_000, (100, 1024), rng, np.int32)
    np.testing.assert_array_equal(ops.embedding(indices, table), table[indices])


def test_sums_are_in_the_order_of_the_indices(backend):
    """In float32 (big + 1) - big + 1 is 1 in this order, and another number in others."""
    big = np.float32(2**30)
    dy = np.float32([[big], [5], [1], [-big], [1]]).repeat(40, axis=1)
    table = np.zeros((9, 40), np.float32)
    _, dtable = ops.embedding.vjp(np.array([4, 7, 4, 4, 4]), table)[1](dy)
    assert (dtable[4] == 1).all()
    assert (dtable[7] == 5).all()
    assert not dtable[[0, 1, 2, 3, 5, 6, 8]].any()


def test_integer_values_are_exact(backend, rng):
    arrays = arrays_of(5000, (30, 50), rng)
    dy = rng.integers(-100, 100, (5000, 50)).astype(np.float32)
    _, dtable = ops.embedding.vjp(*arrays)[1](dy)
    np.testing.assert_array_equal(dtable, REFERENCE.backward(dy, *arrays)[1])


def test_nan_stays_in_its_row(backend, rng):
    arrays = arrays_of(200, (12, 20), rng)
    arrays[1][5] = np.nan
    y, pullback = ops.embedding.vjp(*arrays)
    np.testing.assert_array_equal(np.isnan(y).all(axis=1), arrays[0] == 5)
    dy = np.ones_like(y)
    dy[arrays[0] == 3] = np.inf
    _, dtable = pullback(dy)
    np.testing.assert_array_equal(np.isinf(dtable).any(axis=1), np.arange(12) == 3)


def test_thread_counts(backend, rng):
    for count, table in ((20_000, (50, 100)), (700, (30_000, 20)), (3200, (10_000, 64))):
        op_checks.check_thread_counts("embedding", arrays_of(count, table, rng), {})


def test_what_all_ops_do(rng):
    arrays = arrays_of((3, 7), (6, 5), rng)
    op_checks.check_forward_alone_is_the_same("embedding", arrays, {})
    op_checks.check_nothing_is_changed_or_shared("embedding", arrays, {})
    op_checks.check_layouts("embedding", arrays, {})
    op_checks.check_pullback("embedding", arrays, {})
    op_checks.check_only_float32_arrays("embedding", arrays, {}, 1, "table")


def test_pullback_refuses(rng):
    arrays = arrays_of((3, 7), (6, 5), rng)
    y, pullback = ops.embedding.vjp(*arrays)
    for wrong in ((), [y, y]):
        with pytest.raises(ValueError, match="embedding: the pullback takes 1 gradient"):
            pullback(*wrong)
    for wrong in (y[None], y[..., :-1], y[:2]):
        with pytest.raises(ValueError, match=r"embedding: dy must have shape \(3, 7, 5\)"):
            pullback(wrong)
    with pytest.raises(TypeError, match="embedding: dy must be"):
        pullback(y.astype(np.float64))
    with pytest.raises(ValueError, match="embedding: out must have 2 entries"):
        pullback(y, out=[None])
    with pytest.raises(ValueError, match="embedding: needs must have 2 entries"):
        ops.embedding.vjp(*arrays, needs=[True])
    with pytest.raises(ValueError, match="embedding: out must have shape"):
        pullback(y, out=(None, np.zeros((5, 6), np.float32)))
    with pytest.raises(TypeError, match="embedding: out must be float32"):
        pullback(y, out=(None, np.zeros((6, 5))))
    with pytest.raises(ValueError, match="embedding: out is written in place"):
        pullback(y, out=(None, awkward_arrays.LAYOUTS["with gaps"](arrays[1])))
    memory = np.zeros(y.size + 30, np.float32)
    dy = memory[: y.size].reshape(y.shape)
    with pytest.raises(ValueError, match="embedding: out is written and must not overlap dy"):
        pullback(dy, out=(None, memory[y.size - 1 : y.size + 29].reshape(6, 5)))


@pytest.mark.parametrize("wrong", [-1, 6, 2**40, -(2**63)])
def test_indices_out_of_range(wrong, rng):
    indices, table = arrays_of((3, 7), (6, 5), rng)
    y, pullback = ops.embedding.vjp(indices, table)
    indices[2, 4] = wrong
    message = rf"^embedding: indices must lie in \[0, 6\), got {wrong} at position \(2, 4\)$"
    for function in (ops.embedding, ops.embedding.vjp):
        with pytest.raises(IndexError, match=message):
            function(indices, table)
    # Changed after the forward pass: checked again, and nothing is written.
    out = np.full_like(table, 7)
    with pytest.raises(IndexError, match=message):
        pullback(y, out=(None, out))
    assert (out == 7).all()
    with pytest.raises(IndexError, match=r"got 9 at position \(\)"):
        ops.embedding(np.array(9), table)


def test_bad_arguments():
    table, indices = np.ones((3, 2), np.float32), np.array([0, 1])
    for dtype in (np.float32, np.float64, bool, np.uint8, np.int16, np.uint64, object, ">i8"):
        with pytest.raises(TypeError, match=r"^embedding: indices must be"):
            ops.embedding(indices.astype(dtype), table)
    for wrong in ([0, 1], 1, None, "a"):
        with pytest.raises(TypeError, match=r"^embedding: indices must be"):
            ops.embedding(wrong, table)
    for shape in ((3,), (3, 2, 1), (), (0, 2), (3, 0)):
        with pytest.raises(ValueError, match=r"^embedding: table must have shape \(rows, columns"):
            ops.embedding(indices, np.ones(shape, np.float32))
