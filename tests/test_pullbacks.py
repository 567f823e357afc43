"""What pullbacks keep of the caller's: the results of the ops that `lamella.ops` lists, and only
those."""

from __future__ import annotations

import re

import numpy as np
import op_checks
import pytest

from lamella import ops

ACTIVATIONS = [
    None, "linear", "relu", "leaky_relu", "elu", "sigmoid", "tanh", "softplus", "silu", "gelu",
    "gelu_tanh",
]  # fmt: skip
ACTIVATIONS_KEPT = ACTIVATIONS[2:8]
PRODUCTS = [
    ("dense", [(4, 5), (5, 3), (3,)]),
    ("conv1d", [(2, 5, 2), (2, 2, 3), (3,)]),
    ("conv2d", [(2, 5, 4, 2), (2, 3, 2, 3), (3,)]),
    ("conv2d_transpose", [(2, 5, 4, 2), (2, 3, 3, 2), (3,)]),
]
IMAGE = [(2, 4, 6, 3)]
HEADS = [(2, 3, 4)] * 3 + [(4, 2, 3)] * 3 + [(2, 3, 5)]

# (op, shapes, options, whether the pullback reads the result)
CASES = [
    *[(name, [(4, 5)], {}, False) for name in ACTIVATIONS[2:-1]],
    *[
        (name, shapes, {"activation": activation}, activation in ACTIVATIONS_KEPT)
        for name, shapes in PRODUCTS
        for activation in ACTIVATIONS
    ],
    ("softmax", [(4, 5)], {}, True),
    ("log_softmax", [(4, 5)], {}, True),
    ("attention", [(2, 3, 2, 4), (2, 5, 2, 4), (2, 5, 2, 4)], {}, True),
    ("multi_head_attention", HEADS, {}, False),
    ("matmul", [(4, 5), (5, 3)], {}, False),
    ("dropout", [(4, 5)], {"rate": 0.5, "seed": 1}, False),
    ("add", [(4, 5), (5,)], {}, False),
    ("multiply", [(4, 5), (5,)], {}, False),
    ("concatenate", [(4, 5), (4, 2)], {}, False),
    ("batch_norm", [(4, 5), (5,), (5,)], {}, False),
    ("layer_norm", [(4, 5), (5,), (5,)], {}, False),
    ("layer_norm", [(4, 5), (5,), (5,), (4, 5)], {}, True),
    ("rms_norm", [(4, 5), (5,)], {}, False),
    ("rms_norm", [(4, 5), (5,), (4, 5)], {}, True),
    ("group_norm", [(4, 5, 6), (6,), (6,)], {"groups": 2}, False),
    ("categorical_crossentropy", [(4, 5), (4, 5)], {"from_logits": True}, False),
    ("binary_crossentropy", [(4, 5), (4, 5)], {"from_logits": True}, False),
    ("max_pool2d", IMAGE, {}, False),
    ("avg_pool2d", IMAGE, {}, False),
    ("global_max_pool2d", IMAGE, {}, False),
    ("global_avg_pool2d", IMAGE, {}, False),
]


def test_the_documentation_names_them():
    text = re.search(r"The latter are (.*?)\. To change", ops.__doc__ or "", re.DOTALL)
    assert text
    assert re.findall(r"`(\w+)`", text[1]) == [
        "softmax", "log_softmax", "attention", "layer_norm", "rms_norm", "dense"
    ]  # fmt: skip
    assert re.findall(r'"(\w+)"', text[1]) == ACTIVATIONS_KEPT
    for name in ("relu", "dense", "softmax"):
        assert "`lamella.ops` says" in getattr(ops, name).vjp.__doc__


@pytest.mark.parametrize(("name", "shapes", "options", "kept"), CASES, ids=str)
def test_which_results_are_read_again(name, shapes, options, kept, rng):
    arrays = [rng.standard_normal(shape).astype(np.float32) for shape in shapes]
    y, pullback = getattr(ops, name).vjp(*arrays, **options)
    dys = op_checks.gradients_like(y)
    before = pullback(*dys)
    for result in op_checks.as_tuple(y):
        result *= -3
        result += 1
    after = pullback(*dys)
    if kept:
        assert not np.array_equal(before[0], after[0])
    else:
        op_checks.assert_same_bits(after, before)
