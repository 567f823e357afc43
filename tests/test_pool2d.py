"""max_pool2d, avg_pool2d and the global pools: values, gradients, what they refuse."""

from __future__ import annotations

import doctest
import itertools

import hypothesis
import numpy as np
import op_checks
import pytest
from hypothesis import strategies as st
from reference import OPS, cases, geometry
from tolerances import assert_close

from lamella import ops
from lamella.ops import pool2d

WINDOWED = ("max_pool2d", "avg_pool2d")
GLOBAL = ("global_max_pool2d", "global_avg_pool2d")

each_windowed = pytest.mark.parametrize("name", WINDOWED)
each_global = pytest.mark.parametrize("name", GLOBAL)
each_op = pytest.mark.parametrize("name", WINDOWED + GLOBAL)


def is_small_padding(options):
    """Whether explicit padding is smaller than the dilated window, as the ops demand."""
    padding = options.get("padding", "valid")
    if isinstance(padding, str):
        return True
    before_after = geometry.explicit_padding(padding, (9, 9), (1, 1), (1, 1), (1, 1))
    sizes = geometry.pair(options.get("pool_size", 2))
    dilations = geometry.pair(options.get("dilation", 1))
    extents = map(geometry.window_extent, sizes, dilations)
    return all(max(pads) < e for pads, e in zip(before_after, extents, strict=True))


def window_counts(name, shape, options):
    """(positions of a window, most windows that hold one position): the terms of the sums."""
    if name in GLOBAL:
        return shape[1] * shape[2], 1
    sizes = geometry.pair(options.get("pool_size", 2))
    strides = options.get("strides")
    strides = sizes if strides is None else geometry.pair(strides)
    dilations = geometry.pair(options.get("dilation", 1))
    overlaps = 1
    for size, stride, dilation in zip(sizes, strides, dilations, strict=True):
        overlaps *= min(size, -(-geometry.window_extent(size, dilation) // stride))
    return sizes[0] * sizes[1], overlaps


def check(name, x, options, dy=None):
    terms, overlaps = window_counts(name, x.shape, options)
    y, pullback = getattr(ops, name).vjp(x, **options)
    reference = OPS[name]
    with np.errstate(invalid="ignore"):  # the bound of an infinite maximum, 0 * inf
        assert_close(y, reference.forward(x, **options), name, "forward", terms, scale=scale_of(x))
    assert getattr(ops, name)(x, **options).tobytes() == y.tobytes()
    if dy is None:
        dy = op_checks.gradient_like(y)
    (dx,) = pullback(dy)
    (expected,) = reference.backward(dy, x, **options)
    assert_close(dx, expected, name, "backward", overlaps, scale=scale_of(dy))
    return y, dx


def scale_of(x):
    return np.max(np.abs(x), where=np.isfinite(x), initial=0.0)


def image(rng, *shape):
    """Small integers, so that maxima tie often."""
    return rng.integers(-4, 5, shape).astype(np.float32)


REFERENCE_CASES = [
    (name, shapes[0], options)
    for name, shapes, options in cases.CASES
    if name in WINDOWED + GLOBAL and is_small_padding(options)
]


@pytest.mark.parametrize(("name", "shape", "options"), REFERENCE_CASES, ids=str)
def test_the_references_cases(name, shape, options, backend, rng):
    check(name, rng.standard_normal(shape).astype(np.float32), options)
    check(name, image(rng, *shape), options)


def test_the_references_other_cases_have_large_padding():
    others = [
        (name, shapes[0], options)
        for name, shapes, options in cases.CASES
        if name in WINDOWED and not is_small_padding(options)
    ]
    assert others
    for name, shape, options in others:
        with pytest.raises(ValueError, match=f"{name}: padding must be smaller"):
            getattr(ops, name)(np.zeros(shape, np.float32), **options)


@each_windowed
@pytest.mark.parametrize("channels", [1, 2, 3, 4, 5, 7, 8, 9, 12, 15, 16, 17, 31, 33, 64, 100])
def test_channels(name, channels, backend, rng):
    for options in (
        {},
        {"pool_size": 3, "strides": 2, "padding": 1},
        {"pool_size": (3, 2), "strides": 1, "padding": "same"},
        {"pool_size": (17, 16), "strides": 3, "padding": (4, 9)},
    ):
        check(name, image(rng, 2, 13, 14, channels), options)


@each_windowed
@pytest.mark.parametrize("shape", [(32, 26, 26, 32), (32, 11, 11, 64), (2, 3, 900, 40)], ids=str)
def test_sizes_that_are_cut_into_tasks(name, shape, backend, rng):
    x = rng.standard_normal(shape).astype(np.float32)
    for pool_size, padding in ((2, "valid"), (3, "same")):
        check(name, x, {"pool_size": pool_size, "strides": 2, "padding": padding})


side = st.integers(1, 9)
small = st.integers(1, 4)
pair = st.one_of(small, st.tuples(small, small))
pad = st.integers(0, 3)
padding_forms = st.one_of(
    st.sampled_from(["valid", "same"]),
    pad,
    st.tuples(pad, pad),
    st.tuples(st.tuples(pad, pad), st.tuples(pad, pad)),
)


@each_windowed
@hypothesis.settings(
    max_examples=40,
    deadline=None,
    suppress_health_check=[hypothesis.HealthCheck.function_scoped_fixture],
)
@hypothesis.given(
    shape=st.tuples(st.integers(0, 3), side, side, st.integers(0, 20)),
    pool_size=pair,
    strides=st.one_of(st.none(), pair),
    padding=padding_forms,
    dilation=pair,
    ceil_mode=st.booleans(),
    count_include_pad=st.booleans(),
    seed=st.integers(0, 2**32),
)
def test_any_options(
    name, backend, shape, pool_size, strides, padding, dilation, ceil_mode, count_include_pad, seed
):
    options = {
        "pool_size": pool_size,
        "strides": strides,
        "padding": padding,
        "dilation": dilation,
        "ceil_mode": ceil_mode,
    }
    x = image(np.random.default_rng(seed), *shape)
    larger = False
    try:
        geometry.pool_windows(shape, pool_size, strides, padding, dilation, ceil_mode)
    except ValueError:
        larger = True
    if name == "avg_pool2d":
        options["count_include_pad"] = count_include_pad
    if larger or not is_small_padding(options):
        with pytest.raises(ValueError, match=f"{name}: (the window is larger|padding must be sm)"):
            getattr(ops, name)(x, **options)
    else:
        check(name, x, options)


@each_global
@pytest.mark.parametrize(
    "shape",
    [
        (2, 5, 3, 4), (32, 7, 7, 64), (1, 1, 1, 1), (3, 20, 40, 3), (0, 3, 3, 5), (2, 3, 3, 0),
        (1, 40, 50, 17), (2, 15, 17, 300), (1, 16, 16, 2), (3, 2, 1, 65),
    ],
    ids=str,
)  # fmt: skip
def test_global(name, shape, backend, rng):
    check(name, rng.standard_normal(shape).astype(np.float32), {})
    check(name, image(rng, *shape), {})


@each_windowed
@pytest.mark.parametrize("pool_size", [15, 16, (3, 85), (2, 128), 17])
def test_windows_around_255_positions(name, pool_size, backend, rng):
    x = image(rng, 2, 20, 130, 3)
    check(name, x, {"pool_size": pool_size, "strides": (2, 7), "padding": "same"})
    check(name, x, {"pool_size": pool_size})


@pytest.mark.parametrize("pool_size", [2, 3, (1, 4), 17])
def test_the_first_of_equal_maxima_gets_the_gradient(pool_size, backend):
    x = np.zeros((1, 20, 20, 5), np.float32)
    _, dx = check("max_pool2d", x, {"pool_size": pool_size, "padding": "same"})
    first_of_each = np.zeros((20, 20), bool)
    height, width = geometry.pair(pool_size)
    (top, _), (left, _) = geometry.explicit_padding(
        "same", (20, 20), (height, width), (height, width), (1, 1)
    )
    rows = np.maximum(np.arange(-(-20 // height)) * height - top, 0)
    columns = np.maximum(np.arange(-(-20 // width)) * width - left, 0)
    first_of_each[np.ix_(rows, columns)] = True
    assert np.all((dx[0] != 0) == first_of_each[..., None])


@pytest.mark.parametrize("options", [{}, {"pool_size": 3, "strides": 1}, {"pool_size": 17}])
@pytest.mark.parametrize("channels", [1, 3, 16, 33])
def test_nan_wins_and_the_first_one_gets_the_gradient(options, channels, backend, rng):
    x = image(rng, 3, 19, 18, channels)
    x[rng.random(x.shape) < 0.1] = np.nan
    x[rng.random(x.shape) < 0.1] = np.inf
    x[rng.random(x.shape) < 0.2] = -np.inf
    check("max_pool2d", x, options)
    check("global_max_pool2d", x, {})


@pytest.mark.parametrize("padding", [1, "same", ((2, 1), (0, 2))])
def test_padding_never_wins(padding, backend):
    x = np.full((2, 5, 6, 18), -np.inf, np.float32)
    y, dx = check("max_pool2d", x, {"pool_size": 3, "strides": 1, "padding": padding})
    assert np.all(y == -np.inf)
    assert dx.sum() == pytest.approx(op_checks.gradient_like(y).sum(), rel=1e-4)


@each_windowed
def test_a_window_of_nothing_but_padding(name, backend, rng):
    # With dilation the taps at -1 and 2 miss the two rows 0 and 1 of the image.
    x = image(rng, 1, 2, 2, 18)
    options = {"pool_size": 2, "strides": 1, "padding": 1, "dilation": 3}
    y, dx = check(name, x, options)
    assert np.all(y == (-np.inf if name == "max_pool2d" else 0.0))
    assert np.all(dx == 0.0)
    check(name, image(rng, 2, 2, 5, 3), options)


def test_averages_of_infinity_and_nan(backend):
    x = np.zeros((1, 4, 4, 17), np.float32)
    x[0, 0, 0] = np.inf
    x[0, 0, 3] = np.nan
    x[0, 2, 0], x[0, 3, 0] = np.inf, -np.inf
    check("avg_pool2d", x, {})
    assert np.isnan(ops.global_avg_pool2d(x)).all()


@each_windowed
def test_count_and_ceil_mode_follow_torch(name, backend, rng):
    pytest.importorskip("torch")
    from reference import torch_peer

    x = image(rng, 2, 11, 10, 18)
    counts = (False, True) if name == "avg_pool2d" else (None,)
    grid = itertools.product((2, (3, 4)), (2, (1, 3)), (0, 1, (1, 0)), (False, True), counts)
    for pool_size, strides, padding, ceil_mode, count in grid:
        options = {"pool_size": pool_size, "strides": strides, "padding": padding}
        options["ceil_mode"] = ceil_mode
        if count is not None:
            options["count_include_pad"] = count
        y, pullback = getattr(ops, name).vjp(x, **options)
        dy = op_checks.gradient_like(y)
        (their_y,), (their_dx,) = torch_peer.values_and_gradients(name, [x], (dy,), options)
        terms, overlaps = window_counts(name, x.shape, options)
        assert_close(y, their_y, name, "forward", terms, scale=scale_of(x))
        assert_close(pullback(dy)[0], their_dx, name, "backward", max(2, overlaps), scale_of(dy))


OPTIONS = {"max_pool2d": {"pool_size": 3, "strides": 2, "padding": 1}}
OPTIONS["avg_pool2d"] = {**OPTIONS["max_pool2d"], "count_include_pad": True}


@each_op
def test_calling(name, backend, rng):
    arrays = [rng.standard_normal((2, 7, 9, 5)).astype(np.float32)]
    options = OPTIONS.get(name, {})
    op_checks.check_nothing_is_changed_or_shared(name, arrays, options)
    op_checks.check_layouts(name, arrays, options)
    op_checks.check_pullback(name, arrays, options)


@each_op
def test_refused_calls(name, rng):
    arrays = [rng.standard_normal((2, 7, 9, 5)).astype(np.float32)]
    op_checks.check_pullback_refuses(name, arrays, OPTIONS.get(name, {}))
    op_checks.check_only_float32_arrays(name, arrays, {})
    for shape in ((), (3,), (7, 9, 5), (1, 2, 7, 9, 5)):
        with pytest.raises(ValueError, match=rf"^{name}: x must have 4 axes .*, got shape \("):
            getattr(ops, name)(np.zeros(shape, np.float32))


@each_op
@pytest.mark.parametrize("shape", [(5, 40, 41, 18), (1, 9, 3000, 16), (40, 13, 13, 3)], ids=str)
def test_same_bits_for_any_number_of_threads(name, shape, backend, rng):
    arrays = [rng.standard_normal(shape).astype(np.float32)]
    op_checks.check_thread_counts(name, arrays, OPTIONS.get(name, {}))


@each_op
@pytest.mark.parametrize("shape", [(2, 0, 3, 4), (2, 3, 0, 4), (0, 0, 0, 0)], ids=str)
def test_images_without_pixels(name, shape):
    with pytest.raises(ValueError, match=f"^{name}: .*at least"):
        getattr(ops, name)(np.zeros(shape, np.float32))


@each_windowed
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"pool_size": 0}, "pool_size must be at least 1, got 0"),
        ({"pool_size": (2, -1)}, "pool_size must be at least 1"),
        ({"pool_size": (1, 2, 3)}, "pool_size must be an integer or two integers"),
        ({"pool_size": 2.0}, "pool_size must be an integer"),
        ({"pool_size": None}, "pool_size must be an integer"),
        ({"pool_size": True}, "pool_size must be an integer"),
        ({"pool_size": "2"}, "pool_size must be an integer"),
        ({"pool_size": 6}, "the window is larger than the padded input: height 6 .* against 5"),
        ({"pool_size": (5, 7)}, "the window is larger than the padded input: width 7"),
        ({"pool_size": 3, "dilation": 3}, "the window is larger than the padded input: height 7"),
        ({"strides": 0}, "strides must be at least 1"),
        ({"strides": (1, -2)}, "strides must be at least 1"),
        ({"strides": [1]}, "strides must be an integer or two integers"),
        ({"dilation": 0}, "dilation must be at least 1"),
        ({"dilation": 1.5}, "dilation must be an integer"),
        ({"ceil_mode": 1}, "ceil_mode must be True or False"),
        ({"padding": -1}, "padding must be"),
        ({"padding": "SAME"}, 'padding must be "valid", "same"'),
        ({"padding": None}, "padding must be"),
        ({"padding": 1.0}, "padding must be"),
        ({"padding": (1, 2, 3)}, "padding must be"),
        ({"padding": ((1, 1), 1)}, "padding must be"),
        ({"padding": ((1, 1), (1, 1, 1))}, "padding must be"),
        ({"padding": ((1, 1), (1, -1))}, "padding must be"),
        ({"padding": ((1, 1), (1, True))}, "padding must be"),
        ({"padding": 2}, "padding must be smaller than the dilated window, got padding 2 for"),
        ({"padding": ((0, 1), (0, 2))}, r"padding must be smaller .*\(width\)"),
        ({"pool_size": 2**63}, "pool_size does not fit 63 bits"),
        ({"padding": 2**64}, "padding does not fit 63 bits"),
        ({"pool_size": 2**62, "dilation": 4}, "overflows 63 bits"),
        ({"pool_size": 2**62, "padding": 2**62 - 1}, "overflows 63 bits"),
        ({"pool_size": 2, "dilation": 2**61, "padding": 2**61}, "overflows 63 bits"),
    ],
    ids=str,
)
def test_bad_options(name, options, message):
    arrays = [np.zeros((2, 5, 6, 3), np.float32)]
    message = f"^{name}: .*{message}" if "overflows" in message else f"^{name}: {message}"
    op_checks.check_refused_before_allocating(name, arrays, options, ValueError, message)


def test_bad_count_include_pad():
    for value in (1, None, "yes"):
        with pytest.raises(ValueError, match="avg_pool2d: count_include_pad must be True or False"):
            ops.avg_pool2d(np.zeros((1, 2, 2, 1), np.float32), count_include_pad=value)


@each_windowed
def test_results_larger_than_memory(name):
    options = {"pool_size": 4_000_001, "strides": 1, "padding": 4_000_000}
    with pytest.raises(MemoryError, match=f"{name}: out of memory, could not allocate"):
        getattr(ops, name)(np.zeros((1, 1, 1, 1), np.float32), **options)


def test_images_whose_positions_do_not_fit_int32():
    x = np.zeros((0, 50_000, 50_000, 1), np.float32)
    with pytest.raises(ValueError, match=r"need an image of less than 2.* got 50000 x 50000"):
        ops.global_max_pool2d(x)
    assert ops.max_pool2d(x, pool_size=15).shape == (0, 3333, 3333, 1)


@each_windowed
def test_huge_windows_cost_no_more_than_the_image(name, backend):
    # Two windows an axis, of 2^61 positions, nearly all of them padding.
    x = np.arange(16, dtype=np.float32).reshape(1, 4, 4, 1)
    size = 2**61
    options = {"pool_size": size, "padding": size - 1, "strides": size}
    y, pullback = getattr(ops, name).vjp(x, **options)
    right = [[0, 3], [12, 15]] if name == "max_pool2d" else [[0, 2], [8, 10]]
    np.testing.assert_array_equal(y[0, :, :, 0], np.float32(right))
    (dx,) = pullback(np.ones_like(y))
    assert dx.sum() == pytest.approx(4.0)


# A window (1, K) on a row of five: (K, options, which of the five are its first output's).
FAR_WINDOWS = [
    (3, {"padding": (0, 2), "strides": (1, 2**63 - 1)}, [0]),
    (2, {"dilation": (1, 2**62 + 100), "padding": ((0, 0), (2**62 + 50, 60))}, []),
    (2, {"dilation": (1, 2**62 - 4), "padding": ((0, 0), (2**62 - 5, 2**61))}, [1]),
    (2**31, {"dilation": (1, 2**31), "padding": ((0, 0), (2**61, 2**61))}, [0]),
    (2**61, {"padding": (0, 2**61 - 1)}, [0]),
    (2**61, {"padding": (0, 2**60)}, [0, 1, 2, 3, 4]),
]


@pytest.mark.parametrize(("size", "options", "inside"), FAR_WINDOWS, ids=str)
@each_windowed
def test_offsets_far_outside_the_image(name, size, options, inside, backend):
    # Between rows that must not be read.
    memory = np.full((3, 64, 5, 3), np.nan, np.float32)
    x = memory[1, 32:33].reshape(1, 1, 5, 3)
    assert np.shares_memory(x, memory)
    x[...] = 1 + np.arange(15).reshape(x.shape)
    options = {"pool_size": (1, size), "strides": (1, 2**62), **options}
    y, pullback = getattr(ops, name).vjp(x, **options)
    (dx,) = pullback(np.full_like(y, 30))
    first = y[0, 0, 0]
    if inside:
        right = (
            x[0, 0, inside].max(axis=0) if name == "max_pool2d" else x[0, 0, inside].mean(axis=0)
        )
    else:
        right = np.full(3, -np.inf if name == "max_pool2d" else 0)
    np.testing.assert_allclose(first, right, rtol=1e-6)
    expected = np.zeros_like(dx)
    if name == "max_pool2d":
        expected[0, 0, inside[-1:]] = 30
    elif inside:
        expected[0, 0, inside] = 30 / len(inside)
    np.testing.assert_array_equal(dx, expected)


def test_examples():
    assert doctest.testmod(pool2d).failed == 0
