"""conv1d: values and gradients; its kernels are conv2d's."""

from __future__ import annotations

import hypothesis
import numpy as np
import products
import pytest
from hypothesis import strategies as st
from reference import OPS, cases

from lamella import ops, utils

# name: (x, kernel, options)
PATHS = {
    "one channel, by table": ((3, 50, 1), (7, 1, 16), {}),
    "kernel of one": ((3, 50, 20), (1, 20, 33), {"strides": 2}),
    "reduction in chunks": ((2, 30, 65), (9, 65, 17), {"padding": "causal"}),
    "several sequences a block": ((40, 17, 5), (3, 5, 9), {"padding": "causal"}),
    "one sequence in blocks": ((1, 2000, 3), (3, 3, 5), {"padding": "same"}),
    "causal and dilated": ((2, 40, 16), (2, 16, 32), {"padding": "causal", "dilation": 8}),
    "causal beyond the sequence": ((2, 3, 4), (5, 4, 8), {"padding": "causal", "dilation": 2}),
    "causal, strided": ((2, 23, 6), (4, 6, 7), {"padding": "causal", "strides": 3}),
    "groups": ((2, 23, 30), (4, 10, 21), {"groups": 3, "padding": (0, 3)}),
    "depthwise": ((2, 31, 35), (9, 1, 35), {"groups": 35, "padding": "causal"}),
    "depthwise, 2 filters a channel": ((2, 31, 9), (4, 1, 18), {"groups": 9, "strides": 2}),
    "stride above the kernel": ((2, 31, 9), (2, 9, 18), {"strides": 4}),
    "stride above the sequence": ((2, 5, 9), (2, 9, 18), {"strides": 40}),
    "no sequences": ((0, 5, 9), (2, 9, 18), {"padding": "causal"}),
}

each_path = pytest.mark.parametrize("path", PATHS)


@each_path
@pytest.mark.parametrize("activation", [None, "leaky_relu", "silu"])
def test_paths(path, activation, backend, rng):
    x, kernel, options = PATHS[path]
    bias = None if activation is None else kernel[-1:]
    arrays = products.make_arrays("conv1d", (x, kernel, bias), rng)
    products.check("conv1d", arrays, {**options, "activation": activation}, rng)


@pytest.mark.parametrize("case", [c for c in cases.CASES if c[0] == "conv1d"], ids=str)
def test_options(case, backend, rng):
    name, shapes, options = case
    products.check(name, products.make_arrays(name, shapes, rng), options, rng)


@products.settings
@hypothesis.given(case=products.draw_conv1d(), seed=st.integers(0, 2**32))
def test_any_shapes_and_options(backend, case, seed):
    shapes, options = case
    rng = np.random.default_rng(seed)
    arrays = products.make_arrays("conv1d", shapes, rng)
    products.check("conv1d", arrays, options, rng)


@each_path
def test_integers_are_exact(path, backend, rng):
    x_shape, kernel_shape, options = PATHS[path]
    x, kernel = (products.integers(rng, shape) for shape in (x_shape, kernel_shape))
    bias = products.integers(rng, kernel_shape[-1:], 1000)
    groups, stride, dilation = (options.get(o, 1) for o in ("groups", "strides", "dilation"))
    taps, per_group, filters = kernel_shape
    extent = (taps - 1) * dilation + 1
    padding = options.get("padding", "valid")
    if padding == "same":
        total = max((-(-x_shape[1] // stride) - 1) * stride + extent - x_shape[1], 0)
        padding = (total // 2, total - total // 2)
    padding = {"valid": (0, 0), "causal": (extent - 1, 0)}.get(padding, padding)
    padded = np.pad(x.astype(np.int64), ((0, 0), padding, (0, 0)))
    steps = (padded.shape[1] - extent) // stride + 1
    expected = np.zeros((x_shape[0], steps, filters), np.int64) + bias.astype(np.int64)
    for t in range(steps):
        for f in range(filters):
            first = f // (filters // groups) * per_group
            window = padded[
                :, t * stride : t * stride + extent : dilation, first : first + per_group
            ]
            expected[:, t, f] += (window * kernel[:, :, f].astype(np.int64)).sum(axis=(1, 2))
    if x.size == 0:
        assert ops.conv1d(x, kernel, bias, **options).shape == expected.shape
        return
    products.check_integers("conv1d", [x, kernel, bias], options, rng, expected)


def test_causal_sees_no_later_step(backend, rng):
    x, kernel, _ = products.make_arrays("conv1d", [(1, 20, 4), (3, 4, 6), None], rng)
    y = ops.conv1d(x, kernel, padding="causal", dilation=2)
    changed = x.copy()
    changed[:, 11:] = np.nan
    np.testing.assert_array_equal(
        ops.conv1d(changed, kernel, padding="causal", dilation=2)[:, :11], y[:, :11]
    )


def test_conv1d_is_conv2d_of_one_row(backend, rng):
    x, kernel, bias = products.make_arrays("conv1d", [(2, 19, 6), (4, 2, 9), (9,)], rng, 3)
    options = {"strides": 2, "dilation": 2, "groups": 3, "activation": "elu"}
    y, pullback = ops.conv1d.vjp(x, kernel, bias, padding=(3, 1), **options)
    options |= {"strides": (1, 2), "dilation": (1, 2), "padding": ((0, 0), (3, 1))}
    their_y, their_pullback = ops.conv2d.vjp(x[:, None], kernel[None], bias, **options)
    np.testing.assert_array_equal(y, their_y[:, 0])
    dy = products.normal(rng, y.shape)
    dx, dkernel, dbias = their_pullback(dy[:, None])
    for ours, theirs in zip(pullback(dy), (dx[:, 0], dkernel[0], dbias), strict=True):
        np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize("case", [c for c in cases.CASES if c[0] == "conv1d"], ids=str)
def test_parity_with_torch(case, rng):
    pytest.importorskip("torch")
    name, shapes, options = case
    products.check_torch(name, products.make_arrays(name, shapes, rng), options, rng)


@pytest.mark.parametrize(
    ("x", "kernel", "options"),
    [
        ((5, 400, 24), (5, 24, 40), {"padding": "causal", "activation": "gelu"}),
        ((3, 900, 40), (5, 1, 40), {"groups": 40, "padding": "same"}),
    ],
)
def test_same_bits_for_any_number_of_threads(x, kernel, options, backend, rng):
    arrays = products.make_arrays("conv1d", (x, kernel, kernel[-1:]), rng)
    dy = products.normal(rng, ops.conv1d(*arrays, **options).shape)
    results = []
    for threads in (1, 2, 5, 5):
        utils.set_num_threads(threads)
        y, pullback = ops.conv1d.vjp(*arrays, **options)
        results.append([part.tobytes() for part in (y, *pullback(dy))])
    assert all(result == results[0] for result in results)


@pytest.mark.parametrize("strides", [2, (2,), [2]])
@pytest.mark.parametrize("dilation", [1, (1,), [1]])
def test_options_of_one_axis_may_stand_in_a_sequence(strides, dilation, rng):
    x, kernel, _ = products.make_arrays("conv1d", [(1, 9, 3), (2, 3, 4), None], rng)
    expected = OPS["conv1d"].forward(x, kernel, strides=2)
    y = ops.conv1d(x, kernel, strides=strides, dilation=dilation)
    products.assert_close(y, expected, "conv1d", "forward", 6)
