"""conv2d_transpose: values, gradients and sizes."""

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
    "1x1 kernel": ((2, 5, 7, 33), (1, 1, 17, 33), {}),
    "one channel": ((2, 7, 6, 1), (3, 3, 20, 1), {}),
    "one filter": ((2, 7, 6, 20), (3, 3, 1, 20), {"padding": "same", "strides": 2}),
    "three channels": ((1, 7, 6, 3), (5, 5, 33, 3), {"padding": "same"}),
    "reduction in chunks": ((1, 6, 5, 65), (3, 3, 24, 65), {}),
    "stride 2, kernel 4": ((2, 6, 5, 17), (4, 4, 16, 17), {"strides": 2, "padding": "same"}),
    "stride 2, kernel 3": ((2, 6, 5, 17), (3, 3, 16, 17), {"strides": 2, "padding": "same"}),
    "stride above the kernel": ((2, 6, 5, 9), (2, 2, 7, 9), {"strides": (3, 4)}),
    "stride above a 1x1 kernel": ((2, 4, 5, 9), (1, 1, 7, 9), {"strides": 4, "padding": "same"}),
    "dilation": ((1, 6, 5, 9), (3, 2, 8, 9), {"dilation": (2, 3), "padding": "same"}),
    "stride 2, dilation 2": ((1, 6, 5, 9), (3, 3, 8, 9), {"strides": 2, "dilation": 2}),
    "stride 2, dilation 3": ((1, 6, 5, 9), (3, 3, 8, 9), {"strides": 2, "dilation": 3}),
    "crop": ((1, 6, 5, 9), (3, 3, 8, 9), {"strides": 2, "padding": ((1, 2), (3, 0))}),
    "crop beyond what was summed": (
        (1, 2, 3, 9),
        (1, 1, 8, 9),
        {"strides": 4, "output_padding": 3, "padding": ((6, 0), (0, 0))},
    ),
    "one output": ((1, 2, 2, 9), (3, 3, 8, 9), {"padding": ((3, 0), (0, 3))}),
    "more rows": ((1, 6, 5, 9), (3, 3, 8, 9), {"strides": 3, "output_padding": (2, 1)}),
    "groups": ((2, 6, 5, 34), (3, 3, 15, 34), {"groups": 2, "strides": 2}),
    "groups to more filters": ((2, 6, 5, 4), (3, 2, 9, 4), {"groups": 4, "padding": 1}),
    "depthwise": ((2, 6, 5, 35), (3, 3, 1, 35), {"groups": 35, "strides": 2, "padding": "same"}),
    "depthwise, 3 channels a filter": ((2, 6, 5, 33), (3, 2, 1, 33), {"groups": 11}),
    "many blocks": ((20, 12, 12, 4), (3, 3, 6, 4), {"strides": 2, "padding": "same"}),
    "no images": ((0, 6, 5, 9), (3, 3, 8, 9), {"strides": 2}),
}

each_path = pytest.mark.parametrize("path", PATHS)


def bias_shape(kernel, options):
    return (kernel[2] * options.get("groups", 1),)


@each_path
@pytest.mark.parametrize("activation", [None, "relu", "gelu_tanh"])
def test_paths(path, activation, backend, rng):
    x, kernel, options = PATHS[path]
    bias = None if activation is None else bias_shape(kernel, options)
    groups = options.get("groups", 1)
    arrays = products.make_arrays("conv2d_transpose", (x, kernel, bias), rng, groups)
    products.check("conv2d_transpose", arrays, {**options, "activation": activation}, rng)


@pytest.mark.parametrize("case", [c for c in cases.CASES if c[0] == "conv2d_transpose"], ids=str)
def test_options(case, backend, rng):
    name, shapes, options = case
    arrays = products.make_arrays(name, shapes, rng, options.get("groups", 1))
    products.check(name, arrays, options, rng)


@pytest.mark.parametrize("filters", products.SIZES)
@pytest.mark.parametrize("channels", [1, 4, 16, 33])
def test_filters_around_the_vector_widths(channels, filters, backend, rng):
    shapes = [(1, 4, 3, channels), (3, 2, filters, channels), (filters,)]
    arrays = products.make_arrays("conv2d_transpose", shapes, rng)
    options = {"padding": "same", "strides": 2, "activation": "sigmoid"}
    products.check("conv2d_transpose", arrays, options, rng)


@products.settings
@hypothesis.given(case=products.draw_conv2d_transpose(), seed=st.integers(0, 2**32))
def test_any_shapes_and_options(backend, case, seed):
    shapes, options = case
    rng = np.random.default_rng(seed)
    arrays = products.make_arrays("conv2d_transpose", shapes, rng, options["groups"])
    try:
        OPS["conv2d_transpose"].forward(*arrays, **options)
    except ValueError as error:
        assert "crops the whole output" in str(error)
        with pytest.raises(ValueError, match="conv2d_transpose: padding leaves nothing"):
            ops.conv2d_transpose(*arrays, **options)
        return
    products.check("conv2d_transpose", arrays, options, rng)


def integer_transpose(x, kernel, y_shape, tops, strides=1, dilation=1, groups=1, **_):
    """The definition in int64, one product of two numbers after the other's place."""
    x, kernel = x.astype(np.int64), kernel.astype(np.int64)
    (sh, sw), (dh, dw) = (np.broadcast_to(option, 2) for option in (strides, dilation))
    y = np.zeros(y_shape, np.int64)
    per_group, channels = kernel.shape[2], kernel.shape[3] // groups
    for i, j, p, q in np.ndindex(*x.shape[1:3], *kernel.shape[:2]):
        row, column = i * sh + p * dh - tops[0], j * sw + q * dw - tops[1]
        if not (0 <= row < y_shape[1] and 0 <= column < y_shape[2]):
            continue
        for g in range(groups):
            c = slice(g * channels, (g + 1) * channels)
            f = slice(g * per_group, (g + 1) * per_group)
            y[:, row, column, f] += x[:, i, j, c] @ kernel[p, q, :, c].T
    return y


@pytest.mark.parametrize("path", [p for p, (x, _, _) in PATHS.items() if x[0] in (1, 2)])
def test_integers_are_exact(path, backend, rng):
    x_shape, kernel_shape, options = PATHS[path]
    x, kernel = (products.integers(rng, shape) for shape in (x_shape, kernel_shape))
    bias = products.integers(rng, bias_shape(kernel_shape, options), 1000)
    y_shape = ops.conv2d_transpose(x, kernel, bias, **options).shape
    padding = options.get("padding", "valid")
    if padding == "same":
        strides, dilations = (
            np.broadcast_to(options.get(option, 1), 2) for option in ("strides", "dilation")
        )
        extents = (np.array(kernel_shape[:2]) - 1) * dilations + 1
        full = (np.array(x_shape[1:3]) - 1) * strides + extents
        tops = np.maximum((full - np.array(y_shape[1:3])) // 2, 0)
    elif padding == "valid":
        tops = (0, 0)
    else:
        tops = (padding, padding) if np.ndim(padding) == 0 else [sides[0] for sides in padding]
    expected = integer_transpose(x, kernel, y_shape, tops, **options) + bias.astype(np.int64)
    products.check_integers("conv2d_transpose", [x, kernel, bias], options, rng, expected)


@pytest.mark.parametrize(
    ("length", "kernel", "options", "expected"),
    [
        (5, 3, {}, 7),
        (5, 3, {"strides": 2}, 11),
        (5, 2, {"strides": 3}, 15),
        (5, 3, {"strides": 2, "padding": "same"}, 10),
        (5, 1, {"strides": 4, "padding": "same"}, 20),
        (5, 3, {"strides": 2, "padding": "same", "output_padding": 0}, 9),
        (5, 3, {"strides": 2, "padding": "same", "output_padding": 1}, 10),
        (5, 3, {"strides": 2, "padding": "valid", "output_padding": 1}, 12),
        (5, 3, {"strides": 2, "padding": 1}, 9),
        (5, 3, {"strides": 2, "padding": 1, "output_padding": 1}, 10),
        (5, 3, {"dilation": 3}, 11),
    ],
)
def test_sizes(length, kernel, options, expected):
    x = np.ones((1, length, length, 2), np.float32)
    y = ops.conv2d_transpose(x, np.ones((kernel, kernel, 3, 2), np.float32), **options)
    assert y.shape == (1, expected, expected, 3)


@pytest.mark.parametrize(
    ("kernel", "options"),
    [
        ((3, 2, 8, 6), {}),
        ((3, 3, 4, 6), {"strides": 2, "padding": 1, "groups": 2}),
        ((2, 2, 1, 6), {"strides": 3, "dilation": 2, "groups": 6}),
    ],
)
def test_it_is_the_input_gradient_of_conv2d(kernel, options, backend, rng):
    groups = options.get("groups", 1)
    x = products.normal(rng, (2, 5, 4, 6))
    weights = products.normal(rng, kernel, 0.2)
    y = ops.conv2d_transpose(x, weights, **options)
    image = np.zeros((2, *y.shape[1:3], kernel[2] * groups), np.float32)
    gradient = ops.conv2d.vjp(image, weights, **options)[1](x)[0]
    np.testing.assert_array_equal(y, gradient)


@pytest.mark.parametrize(
    "case",
    [c for c in cases.CASES if c[0] == "conv2d_transpose" and cases.torch_has(c[0], c[2])],
    ids=str,
)
def test_parity_with_torch(case, rng):
    pytest.importorskip("torch")
    name, shapes, options = case
    products.check_torch(name, products.make_arrays(name, shapes, rng), options, rng)


@pytest.mark.parametrize(
    ("x", "kernel", "options"),
    [
        ((4, 14, 14, 32), (3, 3, 24, 32), {"strides": 2, "padding": "same", "activation": "relu"}),
        ((5, 16, 16, 40), (3, 3, 1, 40), {"groups": 20, "strides": 2}),
    ],
)
def test_same_bits_for_any_number_of_threads(x, kernel, options, backend, rng):
    arrays = products.make_arrays(
        "conv2d_transpose", (x, kernel, bias_shape(kernel, options)), rng, options.get("groups", 1)
    )
    dy = products.normal(rng, ops.conv2d_transpose(*arrays, **options).shape)
    results = []
    for threads in (1, 2, 5, 5):
        utils.set_num_threads(threads)
        y, pullback = ops.conv2d_transpose.vjp(*arrays, **options)
        results.append([part.tobytes() for part in (y, *pullback(dy))])
    assert all(result == results[0] for result in results)


@pytest.mark.parametrize("wrong", [np.nan, np.inf])
def test_nan_and_infinity_follow_the_arithmetic(wrong, backend, rng):
    x, kernel, bias = products.make_arrays(
        "conv2d_transpose", [(1, 5, 6, 7), (3, 2, 9, 7), (9,)], rng
    )
    x[0, 2, 3, 1] = wrong
    for options in ({"strides": 2}, {"padding": "same"}, {"strides": 2, "activation": "relu"}):
        expected = OPS["conv2d_transpose"].forward(x, kernel, bias, **options)
        assert not np.isfinite(expected).all() and np.isfinite(expected).any()
        y = ops.conv2d_transpose(x, kernel, bias, **options)
        products.assert_close(y, expected, "conv2d_transpose", "forward", 42)
