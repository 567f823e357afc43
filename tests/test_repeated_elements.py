"""Arrays that repeat one element by a stride of 0 may have any size: what every op makes of them.

Reading one takes a copy. Shapes and options are checked before it is made, and where there is no
room for it, or for the result, the MemoryError names the op and the bytes.
"""

from __future__ import annotations

import awkward_arrays
import numpy as np
import op_checks
import pytest

from lamella import ops

SIDE = 2**21
MUCH = 2**42  # elements: 16 TiB of float32


def ones(*shape):
    return np.ones(shape, np.float32)


def repeated(*shape, dtype=np.float32):
    return np.broadcast_to(dtype(1), shape)


LABEL = np.zeros(1, np.int64)
DROPOUT = {"rate": 0.5, "seed": 1}

# (op, arrays of which one is huge and does not fit the others, options, what the message says)
MISFITS = [
    ("conv2d", [repeated(SIDE, SIDE, 1), ones(1, 1, 1, 1)], {}, "x must have 4 axes"),
    ("conv2d", [repeated(SIDE, SIDE, 1, 1), ones(1, 1, 2, 1)], {}, "channels / groups = 1"),
    ("conv2d", [ones(1, 1, 1, 1), repeated(1, SIDE, SIDE, 1)], {}, "channels / groups = 1"),
    ("conv2d", [ones(1, 1, 1, 1), ones(1, 1, 1, 1), repeated(MUCH)], {}, "bias must have shape"),
    ("conv2d", [repeated(SIDE, SIDE, 1, 1), ones(1, 1, 1, 1)], {"strides": 0}, "strides must be"),
    ("conv1d", [repeated(SIDE, SIDE, 2), ones(1, 1, 1)], {}, "channels / groups = 2"),
    ("conv1d", [ones(1, 1, 1), ones(1, 1, 1), repeated(MUCH)], {}, "bias must have shape"),
    (
        "conv2d_transpose",
        [repeated(SIDE, SIDE, 1, 1), ones(1, 1, 1, 2)],
        {},
        "channels on its last",
    ),
    ("dense", [repeated(SIDE, SIDE), ones(3, 1)], {}, "kernel must have 2097152 rows"),
    ("dense", [ones(1, 1), ones(1, 1), repeated(MUCH)], {}, "bias must have shape"),
    ("dense", [repeated(SIDE, SIDE), ones(SIDE, 1)], {"activation": "x"}, "activation must be"),
    ("matmul", [repeated(SIDE, SIDE), ones(3, 1)], {}, "agree in the axis summed over"),
    ("max_pool2d", [repeated(SIDE, SIDE, 1)], {}, "x must have 4 axes"),
    ("avg_pool2d", [repeated(1, SIDE, SIDE, 1)], {"pool_size": 0}, "pool_size must be"),
    ("global_max_pool2d", [repeated(SIDE, SIDE, 1)], {}, "x must have 4 axes"),
    ("global_avg_pool2d", [repeated(MUCH, 0, 1, 1)], {}, "x must have at least one row"),
    ("softmax", [repeated(SIDE, SIDE)], {"axis": 2}, "axis must lie in"),
    ("log_softmax", [repeated(SIDE, SIDE)], {"axis": 2}, "axis must lie in"),
    ("elu", [repeated(SIDE, SIDE)], {"alpha": "1"}, "alpha must be"),
    ("dropout", [repeated(SIDE, SIDE)], {"rate": 1.0, "seed": 1}, "rate must lie in"),
    ("embedding", [repeated(MUCH, dtype=np.int64), ones(3)], {}, "table must have shape"),
    ("additive_attention", [repeated(1, SIDE, SIDE), *[ones(1, 2, 1)] * 2], {}, "key must have"),
    ("additive_attention", [ones(1, 1, 1), repeated(1, MUCH, 1), ones(1, 2, 1)], {}, "value must"),
    ("rotary_embedding", [repeated(1, SIDE, 1, SIDE), *[ones(3, 1)] * 2], {}, "cos must have"),
    ("rotary_embedding", [ones(1, 1, 1, 2), ones(1, 1), repeated(MUCH)], {}, "sin must have"),
    ("add", [repeated(SIDE, SIDE), ones(3)], {}, "shapes that broadcast"),
    ("multiply", [ones(3), repeated(SIDE, SIDE)], {}, "shapes that broadcast"),
    ("concatenate", [ones(3, 1), repeated(SIDE, SIDE)], {"axis": -1}, r"arrays[1] must have"),
    ("batch_norm", [repeated(SIDE, SIDE), ones(3)], {}, "gamma must have shape"),
    ("batch_norm", [ones(2, 3), repeated(MUCH)], {}, "gamma must have shape"),
    ("layer_norm", [repeated(SIDE, SIDE), ones(3)], {}, "gamma must have shape"),
    ("layer_norm", [repeated(SIDE, SIDE)], {"axis": (0, 2)}, "axis must lie in"),
    ("layer_norm", [ones(2, 3), ones(3), None, repeated(MUCH)], {}, "residual must have shape"),
    ("layer_norm", [ones(2, 3), None, repeated(MUCH)], {}, "beta must have shape"),
    ("rms_norm", [repeated(SIDE, SIDE), ones(3)], {"axis": 0}, "gamma must have shape"),
    ("rms_norm", [repeated(SIDE, SIDE)], {"epsilon": 0.0}, "epsilon must be"),
    ("group_norm", [repeated(SIDE, SIDE), ones(3)], {"groups": 1}, "gamma must have shape"),
    ("group_norm", [repeated(SIDE, SIDE)], {"groups": 3}, "groups must divide"),
    ("sparse_categorical_crossentropy", [repeated(1, MUCH), LABEL[:0]], {}, "labels must have"),
    (
        "sparse_categorical_crossentropy",
        [ones(1, 2), repeated(MUCH, dtype=np.int32)],
        {},
        "labels must have",
    ),
    ("categorical_crossentropy", [ones(1, 2), repeated(1, MUCH)], {}, "labels must have"),
    ("binary_crossentropy", [repeated(1, MUCH), ones(1, 2)], {}, "labels must have"),
]

# (op, huge arrays that are as they should be, options)
FITTING = [
    ("conv2d", [repeated(SIDE, SIDE, 1, 1), ones(1, 1, 1, 1)], {}),
    ("conv2d", [repeated(0, 1, 1, 1), repeated(1, 1, 1, MUCH)], {}),
    ("conv1d", [repeated(SIDE, SIDE, 1), ones(1, 1, 1)], {}),
    ("conv2d_transpose", [repeated(SIDE, SIDE, 1, 1), ones(1, 1, 1, 1)], {}),
    ("dense", [repeated(SIDE, SIDE), ones(SIDE, 1)], {}),
    ("matmul", [repeated(SIDE, SIDE), ones(SIDE, 1)], {}),
    ("max_pool2d", [repeated(1, SIDE, SIDE, 1)], {}),
    ("avg_pool2d", [repeated(1, SIDE, SIDE, 1)], {"pool_size": SIDE}),
    ("global_max_pool2d", [repeated(SIDE, SIDE, 1, 1)], {}),
    ("global_avg_pool2d", [repeated(1, SIDE, SIDE, 1)], {}),
    ("softmax", [repeated(SIDE, SIDE)], {}),
    ("log_softmax", [repeated(SIDE, SIDE)], {}),
    ("relu", [repeated(SIDE, SIDE)], {}),
    ("dropout", [repeated(SIDE, SIDE)], DROPOUT),
    ("embedding", [LABEL, repeated(SIDE, SIDE)], {}),
    ("embedding", [repeated(MUCH, dtype=np.int64), ones(2, 1)], {}),
    ("additive_attention", [ones(1, 1, 1), *[repeated(1, MUCH, 1)] * 2], {}),
    ("additive_attention", [repeated(1, SIDE, SIDE), *[repeated(1, 1, SIDE)] * 2], {}),
    ("rotary_embedding", [repeated(1, SIDE, 1, SIDE), *[repeated(SIDE, SIDE // 2)] * 2], {}),
    ("add", [repeated(SIDE, SIDE), ones(1)], {}),
    ("multiply", [ones(1), repeated(SIDE, SIDE)], {}),
    ("concatenate", [repeated(SIDE, SIDE), ones(SIDE, 1)], {"axis": -1}),
    ("batch_norm", [repeated(SIDE, SIDE)], {}),
    ("layer_norm", [repeated(SIDE, SIDE)], {}),
    ("layer_norm", [repeated(SIDE, SIDE)], {"axis": 0}),
    ("rms_norm", [repeated(MUCH)], {}),
    ("group_norm", [repeated(SIDE, SIDE)], {"groups": 1}),
    ("sparse_categorical_crossentropy", [repeated(1, MUCH), LABEL], {}),
    ("categorical_crossentropy", [repeated(1, MUCH), repeated(1, MUCH)], {}),
    ("binary_crossentropy", [repeated(1, MUCH), repeated(1, MUCH)], {}),
]


def case(value):
    if isinstance(value, list):
        return "-".join("x".join(map(str, np.shape(array))) for array in value)
    return str(value)


@pytest.mark.parametrize(("name", "arrays", "options", "message"), MISFITS, ids=case)
def test_shapes_and_options_are_checked_before_anything_is_copied(name, arrays, options, message):
    for function in (getattr(ops, name), getattr(ops, name).vjp):
        with pytest.raises(ValueError) as raised:
            function(*arrays, **options)
        assert str(raised.value).startswith(f"{name}: ")
        assert message in str(raised.value)


@pytest.mark.parametrize(("name", "arrays", "options"), FITTING, ids=case)
def test_no_room_for_a_copy(name, arrays, options):
    for function in (getattr(ops, name), getattr(ops, name).vjp):
        with pytest.raises(MemoryError, match=rf"^{name}: out of memory, .* allocate \d+ bytes$"):
            function(*arrays, **options)


@pytest.mark.parametrize(
    ("name", "arrays", "options"),
    [
        ("conv2d", [ones(1, 3, 3, 2), ones(2, 2, 2, 4)], {"activation": "silu"}),
        ("conv1d", [ones(1, 3, 2), ones(2, 2, 4)], {}),
        ("conv2d_transpose", [ones(1, 3, 3, 2), ones(2, 2, 4, 2)], {}),
        ("dense", [ones(3, 2), ones(2, 4)], {"activation": "tanh"}),
        ("matmul", [ones(3, 2), ones(2, 4)], {}),
        ("max_pool2d", [ones(1, 4, 4, 2)], {}),
        ("avg_pool2d", [ones(1, 4, 4, 2)], {}),
        ("global_max_pool2d", [ones(1, 4, 4, 2)], {}),
        ("global_avg_pool2d", [ones(1, 4, 4, 2)], {}),
        ("softmax", [ones(3, 2)], {}),
        ("sigmoid", [ones(3, 2)], {}),
        ("dropout", [ones(3, 2)], DROPOUT),
        ("add", [ones(3, 2), ones(2)], {}),
        ("multiply", [ones(3, 2), ones(2)], {}),
        ("batch_norm", [ones(3, 2), ones(2)], {}),
        ("layer_norm", [ones(3, 2), ones(2)], {}),
        ("rms_norm", [ones(3, 2), ones(3)], {"axis": 0}),
        ("group_norm", [ones(3, 2), ones(2)], {"groups": 2}),
        ("binary_crossentropy", [ones(3, 2) / 2, ones(3, 2)], {}),
    ],
    ids=case,
)
def test_gradients(name, arrays, options):
    """A pullback refuses a huge dy by its shape, and takes one element repeated to dy's shape."""
    y, pullback = getattr(ops, name).vjp(*arrays, **options)
    y = op_checks.as_tuple(y)[0]
    with pytest.raises(ValueError, match=f"^{name}: dy must have shape"):
        pullback(repeated(MUCH, *y.shape))
    op_checks.assert_same_bits(pullback(repeated(*y.shape)), pullback(np.ones_like(y)))


def test_updates():
    """Ops that change their first argument check the second one before they copy it."""
    target = ones(2)
    with pytest.raises(ValueError, match=r"^accumulate_: source must have shape \(2,\)"):
        ops.accumulate_(target, repeated(MUCH))
    with pytest.raises(ValueError, match=r"^sgd_: grad must be C-contiguous"):
        ops.sgd_(target, repeated(MUCH), None, learning_rate=1.0)
    with pytest.raises(
        MemoryError, match=r"^squared_norm: out of memory, .* 17592186044416 bytes$"
    ):
        ops.squared_norm(repeated(MUCH))
    np.testing.assert_array_equal(target, ones(2))
    ops.accumulate_(target, repeated(2))
    np.testing.assert_array_equal(target, 2 * ones(2))


def test_labels_of_either_width_in_any_layout(rng):
    y_pred = rng.standard_normal((6, 3)).astype(np.float32)
    labels = rng.integers(0, 3, 6)
    expected = ops.sparse_categorical_crossentropy(y_pred, labels, from_logits=True)
    for dtype in (np.int32, np.int64):
        for layout in ("backwards", "misaligned", "read-only"):
            odd = awkward_arrays.LAYOUTS[layout](labels.astype(dtype))
            loss = ops.sparse_categorical_crossentropy(y_pred, odd, from_logits=True)
            np.testing.assert_array_equal(loss, expected)
    one = np.broadcast_to(np.int32(2), (6,))
    np.testing.assert_array_equal(
        ops.sparse_categorical_crossentropy(y_pred, one, from_logits=True),
        ops.sparse_categorical_crossentropy(y_pred, np.full(6, 2), from_logits=True),
    )
