"""conv2d: values and gradients on every path of its kernels."""

from __future__ import annotations

import hypothesis
import numpy as np
import products
import pytest
from hypothesis import strategies as st
from numpy.lib.stride_tricks import sliding_window_view
from reference import OPS, cases
from reference.article_convolution import article_convolution
from reference.geometry import explicit_padding, pair

from lamella import ops, utils

# name: (x, kernel, options): what the kernels choose between by shape.
PATHS = {
    "1x1 kernel": ((2, 9, 7, 33), (1, 1, 33, 17), {}),
    "1x1 kernel, strided": ((2, 9, 7, 33), (1, 1, 33, 17), {"strides": 3}),
    "one channel, by table": ((2, 15, 13, 1), (5, 5, 1, 20), {}),
    "nine terms, kept in registers": ((2, 15, 13, 1), (3, 3, 1, 41), {}),
    "nine terms, one vector": ((2, 9, 10, 1), (3, 3, 1, 5), {"padding": "same", "strides": 2}),
    "nine terms of a group": ((1, 9, 10, 6), (1, 3, 3, 34), {"groups": 2}),
    "three channels, by table": ((2, 15, 13, 3), (3, 3, 3, 33), {"padding": "same"}),
    "few channels, too long for a table": ((1, 41, 9, 3), (40, 5, 3, 7), {}),
    "few channels a group, by table": ((1, 9, 9, 12), (3, 3, 3, 8), {"groups": 4}),
    "few channels apart, by table": ((1, 12, 12, 5), (3, 3, 5, 9), {"dilation": (1, 3)}),
    "reduction of 576 in chunks": ((1, 8, 9, 64), (3, 3, 64, 24), {"padding": 1}),
    "reduction of 1728 in chunks": ((1, 5, 5, 192), (3, 3, 192, 8), {}),
    "chunks of separate runs": ((1, 9, 9, 70), (3, 3, 70, 40), {"dilation": 2}),
    "panels shared out": ((1, 6, 6, 64), (3, 3, 64, 257), {"padding": "same"}),
    "whole panels": ((1, 8, 8, 40), (3, 3, 40, 64), {}),
    "one whole vector": ((1, 6, 6, 24), (3, 3, 24, 16), {}),
    "whole panels, many outputs": ((2, 20, 20, 9), (3, 3, 9, 32), {}),
    "one output": ((1, 7, 7, 20), (7, 7, 20, 35), {}),
    "several images a block": ((11, 7, 6, 5), (3, 3, 5, 12), {"padding": "same"}),
    "rows of an image a block": ((2, 61, 33, 4), (3, 2, 4, 6), {"padding": "same"}),
    "blocks cut by their floats": ((2, 21, 20, 512), (1, 1, 512, 9), {"strides": 4}),
    "groups": ((2, 9, 8, 66), (3, 3, 33, 34), {"groups": 2, "padding": "same"}),
    "a filter a group": ((2, 9, 8, 30), (2, 3, 6, 5), {"groups": 5}),
    "gradient summed once": ((1, 5, 6, 8), (2, 2, 8, 8), {}),
    "gradient in 16 sums": ((21, 16, 16, 3), (3, 3, 3, 5), {"padding": "same"}),
    "gradient in fewer sums than blocks": ((3, 20, 20, 512), (1, 1, 512, 1024), {"strides": 4}),
    "gradient of whole tiles": ((2, 9, 9, 24), (3, 3, 24, 64), {}),
    "gradient of tiles with tails": ((2, 9, 9, 37), (3, 3, 37, 16), {"padding": "same"}),
    "gradient of tiles shared out": ((1, 12, 12, 70), (3, 3, 70, 33), {"padding": 2, "strides": 2}),
    "gradient of groups' tiles": ((2, 7, 9, 51), (2, 3, 17, 12), {"groups": 3, "dilation": 2}),
    "gradient of more filters than are read in place": ((1, 6, 5, 9), (2, 2, 9, 288), {}),
    "gradient gathered": ((2, 9, 9, 7), (3, 1, 7, 15), {"strides": (2, 1)}),
    "gradient gathered over gaps": ((2, 14, 14, 2), (3, 3, 2, 15), {"dilation": 2}),
    "depthwise": ((2, 13, 17, 35), (3, 3, 1, 35), {"groups": 35, "padding": "same"}),
    "depthwise, 5x5": ((1, 17, 9, 66), (5, 5, 1, 66), {"groups": 66, "strides": 2}),
    "depthwise, 3 filters a channel": ((2, 9, 8, 11), (3, 2, 1, 33), {"groups": 11}),
    "depthwise in 16 sums": ((17, 16, 16, 5), (2, 2, 1, 5), {"groups": 5}),
    "depthwise by its floats": ((2, 9, 40, 130), (3, 1, 1, 130), {"groups": 130, "padding": 1}),
    "stride 2 above the kernel": ((2, 9, 11, 6), (1, 1, 6, 8), {"strides": 2}),
    "stride 3 above the kernel": ((2, 11, 10, 6), (2, 1, 6, 8), {"strides": 3, "padding": 1}),
    "stride 4 above the kernel": ((2, 13, 10, 20), (3, 2, 20, 8), {"strides": (4, 3)}),
    "stride above the image": ((1, 3, 4, 6), (2, 2, 6, 8), {"strides": (7, 9)}),
    "stride 2, kernel 5": ((2, 15, 14, 20), (5, 5, 20, 18), {"strides": 2, "padding": "same"}),
    "stride 2, dilation 2": ((1, 15, 14, 20), (3, 3, 20, 18), {"strides": 2, "dilation": 2}),
    "stride 2, dilation 3": ((1, 15, 14, 20), (3, 3, 20, 18), {"strides": 2, "dilation": 3}),
    "padding wider than the image": ((1, 2, 3, 9), (3, 3, 9, 5), {"padding": ((5, 6), (7, 4))}),
    "windows that see padding only": ((1, 1, 1, 9), (2, 2, 9, 5), {"padding": 4, "dilation": 2}),
    "no images": ((0, 6, 5, 9), (2, 3, 9, 5), {"padding": "same"}),
    "no images, depthwise": ((0, 6, 5, 9), (2, 3, 1, 9), {"groups": 9}),
}

each_path = pytest.mark.parametrize("path", PATHS)


@each_path
@pytest.mark.parametrize("activation", [None, "relu", "gelu"])
def test_paths(path, activation, backend, rng):
    x, kernel, options = PATHS[path]
    bias = None if activation is None else kernel[-1:]
    arrays = products.make_arrays("conv2d", (x, kernel, bias), rng)
    products.check("conv2d", arrays, {**options, "activation": activation}, rng)


@pytest.mark.parametrize("case", [c for c in cases.CASES if c[0] == "conv2d"], ids=str)
def test_options(case, backend, rng):
    name, shapes, options = case
    products.check(name, products.make_arrays(name, shapes, rng), options, rng)


@pytest.mark.parametrize("filters", products.SIZES)
@pytest.mark.parametrize("channels", [1, 4, 16, 33])
def test_filters_around_the_vector_widths(channels, filters, backend, rng):
    shapes = [(1, 5, 6, channels), (2, 2, channels, filters), (filters,)]
    arrays = products.make_arrays("conv2d", shapes, rng)
    products.check("conv2d", arrays, {"padding": "same", "activation": "tanh"}, rng)


@pytest.mark.parametrize("width", range(1, 15))
def test_rows_of_every_length(width, backend, rng):
    """Register tiles of 1 to 12 pixels, and tiles of 6, 2 and 1 in depthwise convolution."""
    for channels, groups in ((5, 1), (5, 5)):
        shapes = [(1, 1, width, channels), (1, 1, channels // groups, 5), None]
        arrays = products.make_arrays("conv2d", shapes, rng)
        products.check("conv2d", arrays, {"groups": groups}, rng)


@pytest.mark.parametrize("taps", range(1, 15))
def test_kernels_of_every_size(taps, backend, rng):
    for channels, groups, filters in ((1, 1, 33), (3, 1, 10), (16, 1, 10), (5, 5, 10)):
        shapes = [(2, 4, 18, channels), (1, taps, channels // groups, filters), None]
        arrays = products.make_arrays("conv2d", shapes, rng)
        products.check("conv2d", arrays, {"groups": groups, "padding": "same"}, rng)


@products.settings
@hypothesis.given(case=products.draw_conv2d(), seed=st.integers(0, 2**32))
def test_any_shapes_and_options(backend, case, seed):
    shapes, options = case
    rng = np.random.default_rng(seed)
    arrays = products.make_arrays("conv2d", shapes, rng)
    products.check("conv2d", arrays, options, rng)


def integer_conv2d(x, kernel, strides=1, padding="valid", dilation=1, groups=1, **_):
    """The definition in int64: windows of the padded image against the kernel."""
    x, kernel = x.astype(np.int64), kernel.astype(np.int64)
    strides, dilations = pair(strides), pair(dilation)
    size = kernel.shape[:2]
    sides = explicit_padding(padding, x.shape[1:3], size, strides, dilations)
    x = np.pad(x, ((0, 0), *sides, (0, 0)))
    extents = tuple((k - 1) * d + 1 for k, d in zip(size, dilations, strict=True))
    windows = sliding_window_view(x, extents, axis=(1, 2))
    windows = windows[:, :: strides[0], :: strides[1], :, :: dilations[0], :: dilations[1]]
    n, h, w = windows.shape[:3]
    windows = windows.reshape(n, h, w, groups, -1, *size)
    kernel = kernel.reshape(*kernel.shape[:3], groups, -1)
    return np.einsum("nhwgcpq,pqcgf->nhwgf", windows, kernel).reshape(n, h, w, -1)


@each_path
def test_integers_are_exact(path, backend, rng):
    x_shape, kernel_shape, options = PATHS[path]
    x, kernel = (products.integers(rng, shape) for shape in (x_shape, kernel_shape))
    bias = products.integers(rng, kernel_shape[-1:], 1000)
    if x.size == 0:
        assert ops.conv2d(x, kernel, bias, **options).size == 0
        return
    expected = integer_conv2d(x, kernel, **options) + bias.astype(np.int64)
    products.check_integers("conv2d", [x, kernel, bias], options, rng, expected)


@pytest.mark.parametrize("region", ["valid", "full"])
@pytest.mark.parametrize("shapes", [((7, 9), (3, 4)), ((5, 5), (5, 1)), ((4, 6), (1, 1))], ids=str)
def test_the_articles_formula_is_conv2d_with_the_kernel_flipped(region, shapes, backend, rng):
    x, kernel = (products.integers(rng, shape) for shape in shapes)
    rows, columns = kernel.shape
    padding = (rows - 1, columns - 1) if region == "full" else "valid"
    y = ops.conv2d(x[None, :, :, None], kernel[::-1, ::-1, None, None], padding=padding)
    np.testing.assert_array_equal(y[0, :, :, 0], article_convolution(x, kernel, region))


def test_the_kernel_is_not_flipped_and_axes_are_not_exchanged(backend):
    x = np.zeros((1, 3, 4, 1), np.float32)
    x[0, 1, 2, 0] = 1.0
    kernel = np.arange(6, dtype=np.float32).reshape(2, 3, 1, 1)
    y = ops.conv2d(x, kernel)[0, :, :, 0]
    np.testing.assert_array_equal(y, [[5, 4], [2, 1]])


@pytest.mark.parametrize("case", [c for c in cases.CASES if c[0] == "conv2d"], ids=str)
def test_parity_with_torch(case, rng):
    pytest.importorskip("torch")
    name, shapes, options = case
    products.check_torch(name, products.make_arrays(name, shapes, rng), options, rng)


THREADED = {
    "direct": ((9, 20, 20, 16), (3, 3, 16, 32), {"activation": "relu"}),
    "framed": ((3, 40, 40, 3), (5, 5, 3, 24), {"padding": "same", "strides": 2}),
    "shared panels": ((1, 8, 8, 64), (3, 3, 64, 256), {"padding": "same", "activation": "silu"}),
    "groups": ((4, 16, 16, 40), (3, 3, 10, 48), {"groups": 4, "padding": 1}),
    "depthwise": ((5, 24, 24, 40), (3, 3, 1, 80), {"groups": 40, "padding": "same"}),
}


@pytest.mark.parametrize("case", THREADED)
def test_same_bits_for_any_number_of_threads_and_from_run_to_run(case, backend, rng):
    x_shape, kernel_shape, options = THREADED[case]
    arrays = products.make_arrays("conv2d", (x_shape, kernel_shape, kernel_shape[-1:]), rng)
    dy = products.normal(rng, ops.conv2d(*arrays, **options).shape)
    results = []
    for threads in (1, 2, 5, 5):
        utils.set_num_threads(threads)
        y, pullback = ops.conv2d.vjp(*arrays, **options)
        results.append([part.tobytes() for part in (y, *pullback(dy))])
    assert all(result == results[0] for result in results)


@pytest.mark.parametrize(
    ("x", "kernel", "options"),
    [
        ((1, 9, 9, 3), (3, 3, 3, 5), {"padding": "same"}),
        ((1, 9, 9, 20), (3, 3, 20, 33), {"strides": 2}),
        ((1, 9, 9, 9), (3, 3, 1, 9), {"groups": 9, "padding": 1}),
    ],
)
@pytest.mark.parametrize("activation", [None, "relu", "leaky_relu"])
@pytest.mark.parametrize("wrong", [np.nan, np.inf, -np.inf])
def test_nan_and_infinity_follow_the_arithmetic(
    wrong, x, kernel, options, activation, backend, rng
):
    x, kernel, bias = products.make_arrays("conv2d", (x, kernel, kernel[-1:]), rng)
    x[0, 4, 3, 1] = wrong
    options = {**options, "activation": activation}
    expected = OPS["conv2d"].forward(x, kernel, bias, **options)
    assert not np.isfinite(expected).all() and np.isfinite(expected).any()
    products.assert_close(
        ops.conv2d(x, kernel, bias, **options), expected, "conv2d", "forward", kernel[..., 0].size
    )
    if activation is not None:
        return
    clean = np.where(np.isfinite(x), x, np.float32(0))
    _, pullback = ops.conv2d.vjp(clean, kernel, bias, **options)
    dy = products.normal(rng, expected.shape)
    dy[0, 2, 2, 3] = wrong
    right = OPS["conv2d"].backward(dy, clean, kernel, bias, **options)
    for gradient, expected in zip(pullback(dy), right, strict=True):
        products.assert_close(gradient, expected, "conv2d", "backward", 400)


def test_a_kernel_of_nan_reaches_every_result(backend):
    kernel = np.full((2, 2, 3, 5), np.nan, np.float32)
    for options in ({}, {"activation": "relu"}, {"activation": "gelu"}):
        assert np.isnan(ops.conv2d(np.ones((1, 4, 4, 3), np.float32), kernel, **options)).all()
