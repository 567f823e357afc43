"""multi_head_attention: values, gradients, what it shares with attention, what it refuses."""

from __future__ import annotations

import doctest
import importlib

import attention_checks
import numpy as np
import op_checks
import pytest
from reference.attention_cases import attention_arrays
from reference.cases import CASES, make_arrays

from lamella import ops

NAMES = (
    "query", "key", "value", "query_kernel", "key_kernel", "value_kernel", "output_kernel",
    "query_bias", "key_bias", "value_bias", "output_bias", "mask", "bias",
)  # fmt: skip


def check(arrays, options, rng):
    (batch, queries, inputs), (_, keys, key_inputs) = arrays[0].shape, arrays[1].shape
    (_, heads, width), (_, key_heads, value_width) = arrays[3].shape, arrays[5].shape
    results = arrays[6].shape[2]
    value_inputs = arrays[2].shape[2]
    steps = batch * max(queries, keys)
    more = inputs + key_inputs + value_inputs + heads * (width + value_width) + results
    forward = width + keys + more
    backward = 2 * keys + queries * heads // key_heads + steps + value_width
    scores = batch * heads * queries * keys
    terms = (forward, (backward,) * 11 + (0, backward + scores))
    shape = (batch, heads, queries, keys)
    # key_bias moves all scores of a row alike: its gradient is 0 but for rounding, of terms like
    # those of key_kernel's.
    return attention_checks.check(
        "multi_head_attention", arrays, options, shape, terms, rng, like_gradient={8: 4}
    )


def draw(rng, batch=2, queries=30, keys=40, features=12, heads=4, key_heads=2, width=8):
    shapes = [
        (batch, queries, features),
        (batch, keys, features + 1),
        (batch, keys, features + 2),
        (features, heads, width),
        (features + 1, key_heads, width),
        (features + 2, key_heads, width + 1),
        (heads, width + 1, features + 3),
        (heads, width),
        (key_heads, width),
        (key_heads, width + 1),
        (features + 3,),
        None,
        None,
    ]
    arrays = attention_arrays("multi_head_attention", shapes, rng)
    return [None if a is None else a.astype(np.float32) for a in arrays]


MHA_CASES = [(shapes, options) for op, shapes, options in CASES if op == "multi_head_attention"]


@pytest.mark.parametrize("case", range(len(MHA_CASES)))
def test_cases_of_the_reference(case, backend, rng):
    shapes, options = MHA_CASES[case]
    check(make_arrays("multi_head_attention", shapes, options, rng), options, rng)


@pytest.mark.parametrize(
    ("size", "options"),
    [
        ({}, {}),
        ({"queries": 100, "keys": 100, "features": 64, "heads": 8, "key_heads": 8}, {}),
        ({"queries": 1, "keys": 130, "key_heads": 1}, {"causal": True}),
        ({"batch": 1, "width": 33}, {"causal": True, "dropout": 0.2, "return_weights": True}),
        ({"keys": 70}, {"key_lengths": np.array([3, 70]), "return_lse": True}),
    ],
    ids=str,
)
def test_sizes(size, options, backend, rng):
    check(draw(rng, **size), options, rng)


def test_it_is_attention_between_dense_layers(backend, rng):
    arrays = draw(rng)
    heads = [
        ops.dense(x, kernel.reshape(len(kernel), -1), bias.ravel()).reshape(
            *x.shape[:2], *kernel.shape[1:]
        )
        for x, kernel, bias in zip(arrays[:3], arrays[3:6], arrays[7:10], strict=True)
    ]
    options = {"causal": True, "return_lse": True, "return_weights": True}
    y, lse, weights = ops.attention(*heads, **options)
    results = ops.multi_head_attention(*arrays, **options)
    kernel = arrays[6].reshape(-1, arrays[6].shape[2])
    y = ops.dense(y.reshape(*y.shape[:2], -1), kernel, arrays[10])
    op_checks.assert_same_bits(results, [y, lse, weights])


def test_one_array_as_query_key_and_value(backend, rng):
    arrays = draw(rng, queries=20, keys=20)
    x = arrays[0]
    kernels = [k[: x.shape[2]] for k in arrays[3:6]]
    y, pullback = ops.multi_head_attention.vjp(x, x, x, *kernels, *arrays[6:])
    copies = ops.multi_head_attention.vjp(x, x.copy(), x.copy(), *kernels, *arrays[6:])
    op_checks.assert_same_bits([y], [copies[0]])
    op_checks.assert_same_bits(pullback(y), copies[1](y))


def test_queries_that_see_nothing_give_the_bias(backend, rng):
    arrays = draw(rng)
    y, pullback = ops.multi_head_attention.vjp(*arrays, key_lengths=np.zeros(2, int))
    np.testing.assert_array_equal(y, np.broadcast_to(arrays[10], y.shape))
    gradients = pullback(np.ones_like(y))
    assert [i for i, g in enumerate(gradients) if g is not None and g.any()] == [10]


def test_the_pullback(backend, rng):
    arrays = draw(rng)
    arrays[11] = rng.random((30, 40)) < 0.7
    arrays[12] = rng.standard_normal((1, 4, 1, 40)).astype(np.float32)
    options = {"dropout": 0.1, "seed": 2}
    op_checks.check_pullback("multi_head_attention", arrays, options)
    op_checks.check_nothing_is_changed_or_shared("multi_head_attention", arrays, {})
    op_checks.check_thread_counts("multi_head_attention", arrays, options)
    op_checks.check_layouts("multi_head_attention", arrays, options)
    results, pullback = ops.multi_head_attention.vjp(*arrays, return_lse=True, return_weights=True)
    dy = attention_checks.gradients_like(results, rng)
    together = pullback(*dy)
    parts = [pullback(*(d if i == j else None for j, d in enumerate(dy))) for i in range(3)]
    for whole, *some in zip(together, *parts, strict=True):
        if whole is not None:
            np.testing.assert_allclose(whole, sum(some), rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize(
    ("position", "shape", "message"),
    [
        (0, (2, 30), "query must have 3 axes (N, S, D)"),
        (1, (3, 40, 13), "key must have shape (2, 40, 13) (N of query)"),
        (2, (2, 41, 14), "value must have shape (2, 40, 14) (N of query, L of key)"),
        (3, (12, 32), "query_kernel must have 3 axes (D, heads, size)"),
        (3, (11, 4, 8), "query_kernel must have shape (12, 4, 8) (as many rows as query has"),
        (3, (12, 0, 8), "query_kernel must not be empty, got (12, 0, 8)"),
        (4, (13, 2, 9), "key_kernel must have shape (13, 2, 8) (E of query_kernel (D, A, E))"),
        (5, (14, 1, 9), "value_kernel must have shape (14, 2, 9) (the heads of key_kernel"),
        (6, (4, 8, 15), "output_kernel must have shape (4, 9, 15) (the heads of query_kernel, Ev"),
        (6, (4, 9, 0), "output_kernel must not be empty"),
        (6, (36, 15), "output_kernel must have 3 axes (A, Ev, Dout)"),
        (7, (32,), "query_bias must have shape (4, 8) (one value a column of its kernel)"),
        (9, (2, 8), "value_bias must have shape (2, 9)"),
        (10, (14,), "output_bias must have shape (15,) (one a result)"),
        (12, (5, 1), "bias must broadcast to (N, A, S, L) = (2, 4, 30, 40)"),
    ],
)
def test_shapes_it_refuses(position, shape, message, rng):
    arrays = draw(rng)
    arrays[position] = np.ones(shape, np.float32)
    for function in (ops.multi_head_attention, ops.multi_head_attention.vjp):
        with pytest.raises(ValueError) as caught:
            function(*arrays)
        assert str(caught.value).startswith(f"multi_head_attention: {message}")


def test_what_else_it_refuses(rng):
    arrays = draw(rng)
    for position, name in enumerate(NAMES):
        if name != "mask":
            optional = position > 6
            op_checks.check_only_float32_arrays(
                "multi_head_attention", arrays, {}, position, name, optional
            )
    arrays[11] = np.ones((30, 40), np.float32)
    with pytest.raises(TypeError, match=r"^multi_head_attention: mask must be bool"):
        ops.multi_head_attention(*arrays)
    arrays = draw(rng, heads=4, key_heads=3)
    with pytest.raises(ValueError, match=r"^multi_head_attention: the heads of key must divide"):
        ops.multi_head_attention(*arrays)
    arrays = draw(rng)
    for options in (
        {"window": -1},
        {"dropout": 2},
        {"softcap": 0},
        {"key_lengths": np.ones(3, int)},
    ):
        with pytest.raises(ValueError, match=r"^multi_head_attention: "):
            ops.multi_head_attention(*arrays, **options)


def test_documentation():
    module = importlib.import_module("lamella.ops.multi_head_attention")
    assert doctest.testmod(module).failed == 0
