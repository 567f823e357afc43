"""What all ops do alike with a batch: with an empty one, and with NaN in one of its elements."""

from __future__ import annotations

import numpy as np
import op_checks
import pytest

from lamella import ops

# op: (shapes with the batch in front, shapes of what all of the batch shares, options)
OPS = {
    "dense": ([(5,)], [(5, 3), (3,)], {"activation": "tanh"}),
    "matmul": ([(4, 5)], [(5, 3)], {}),
    "conv1d": ([(6, 4)], [(2, 2, 6), (6,)], {"groups": 2, "padding": "causal"}),
    "conv2d": ([(5, 6, 20)], [(2, 3, 20, 3), (3,)], {"padding": "same", "activation": "silu"}),
    "conv2d, few channels": ([(5, 6, 2)], [(2, 3, 2, 33), (33,)], {"padding": 1}),
    "conv2d, depthwise": ([(5, 6, 4)], [(3, 3, 1, 8), (8,)], {"padding": 1, "groups": 4}),
    "conv2d_transpose": ([(4, 5, 3)], [(3, 3, 2, 3), (2,)], {"strides": 2}),
    "max_pool2d": ([(5, 6, 3)], [], {"padding": 1}),
    "avg_pool2d": ([(5, 6, 3)], [], {"padding": 1}),
    "global_max_pool2d": ([(5, 6, 3)], [], {}),
    "global_avg_pool2d": ([(5, 6, 3)], [], {}),
    "softmax": ([(7,)], [], {}),
    "log_softmax": ([(7,)], [], {}),
    "relu": ([(7,)], [], {}),
    "gelu": ([(7,)], [], {}),
    "add": ([(7,), (7,)], [], {}),
    "multiply": ([(7,)], [(7,)], {}),
    "concatenate": ([(7,), (2,)], [], {}),
    "dropout": ([(7,)], [], {"rate": 0.5, "seed": 1}),
    "batch_norm": ([(7,)], [(7,)] * 4, {}),
    "layer_norm": ([(7,)], [(7,)] * 2, {}),
    "layer_norm, many axes": ([(4, 3, 7)], [(4, 7)] * 2, {"axis": (1, 3)}),
    "rms_norm": ([(7,)], [(7,)], {}),
    "group_norm": ([(5, 6)], [(6,)] * 2, {"groups": 3}),
    "categorical_crossentropy": ([(7,), (7,)], [], {"from_logits": True}),
    "binary_crossentropy": ([(7,), (7,)], [], {"from_logits": True}),
}
each_op = pytest.mark.parametrize("case", OPS)


def arrays_of(case, batch, rng):
    """(op, arrays, how many of them have the batch in front, options)"""
    batched, shared, options = OPS[case]
    name = case.split(",")[0]
    shapes = [(batch, *shape) for shape in batched] + shared
    # Above zero: the last one may be a variance.
    arrays = [rng.uniform(0.1, 1.0, shape).astype(np.float32) for shape in shapes]
    return name, arrays, len(batched), options


@each_op
def test_an_empty_batch(case, backend, rng):
    name, arrays, _, options = arrays_of(case, 0, rng)
    y, pullback = getattr(ops, name).vjp(*arrays, **options)
    y = op_checks.as_tuple(y)[0]
    assert y.size == 0
    op_checks.assert_same_bits([getattr(ops, name)(*arrays, **options)], [y])
    # Optional arrays that are left out come last.
    arrays += [None] * (len(pullback(y)) - len(arrays))
    into = [None if array is None else np.full_like(array, np.nan) for array in arrays]
    for gradients in (pullback(y), pullback(None), pullback(y, out=into)):
        for array, gradient in zip(arrays, gradients, strict=True):
            if gradient is not None:
                assert gradient.shape == array.shape
                assert not np.any(gradient)


def test_an_empty_batch_has_no_statistics():
    for function in (ops.batch_norm, ops.batch_norm.vjp):
        with pytest.raises(ValueError, match=r"^batch_norm: the statistics of an empty batch"):
            function(np.ones((0, 3), np.float32))


def test_an_empty_batch_of_labels(backend):
    y_pred, labels = np.ones((0, 3), np.float32), np.ones(0, np.int64)
    loss, pullback = ops.sparse_categorical_crossentropy.vjp(y_pred, labels)
    assert loss.shape == (0,)
    assert pullback(loss)[0].shape == (0, 3)


@each_op
@pytest.mark.parametrize("damaged", [0, 3, 6])
def test_nan_in_one_element_stays_there(case, damaged, backend, rng):
    """The others have the same bits as without it, in the results and in their gradients."""
    name, arrays, batched, options = arrays_of(case, 7, rng)
    y, pullback = getattr(ops, name).vjp(*arrays, **options)
    dy = op_checks.gradient_like(op_checks.as_tuple(y)[0])
    expected = [op_checks.as_tuple(y)[0], *pullback(dy)[:batched]]
    arrays[0][damaged, ...] = np.nan
    y, pullback = getattr(ops, name).vjp(*arrays, **options)
    results = [op_checks.as_tuple(y)[0], *pullback(dy)[:batched]]
    others = np.arange(7) != damaged
    for result, right in zip(results, expected, strict=True):
        if right is not None:
            op_checks.assert_same_bits([result[others]], [right[others]])
    if name == "dropout":
        kept = expected[0][damaged] != 0
        assert np.isnan(results[0][damaged][kept]).all()
    elif name == "concatenate":
        assert np.isnan(results[0][damaged, :7]).all()
    else:
        assert np.isnan(results[0][damaged]).all()


def test_labels_changed_after_the_forward_pass_are_checked_again(rng):
    y_pred = rng.standard_normal((4, 3)).astype(np.float32)
    labels = np.zeros(4, np.int64)
    loss, pullback = ops.sparse_categorical_crossentropy.vjp(y_pred, labels, from_logits=True)
    labels[2] = 3
    with pytest.raises(IndexError, match=r"labels must lie in \[0, 3\), got 3 in row 2"):
        pullback(loss)
