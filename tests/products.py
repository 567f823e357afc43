"""How dense, matmul and the convolutions are checked: against the references, in all they promise.

A case is (name, arrays, options): `check` runs it forward and backward. `draw_*` are hypothesis
strategies of cases.
"""

from __future__ import annotations

import math

import hypothesis
import numpy as np
from hypothesis import strategies as st
from reference import OPS
from reference.activations import FUSED
from tolerances import assert_close

from lamella import ops

# Around every vector width, and around two vectors.
SIZES = (1, 2, 3, 4, 7, 8, 9, 15, 16, 17, 31, 32, 33, 63, 65)

settings = hypothesis.settings(
    max_examples=70,
    deadline=None,
    suppress_health_check=[
        hypothesis.HealthCheck.function_scoped_fixture,
        hypothesis.HealthCheck.too_slow,
    ],
)


def normal(rng, shape, deviation=1.0):
    """float32, and an array even where the shape is ()."""
    return np.asarray(rng.standard_normal(shape) * deviation, np.float32)


def kernel_terms(name, kernel_shape, groups=1):
    """Terms of one element of the result."""
    if name == "conv2d_transpose":
        return math.prod(kernel_shape[:2]) * kernel_shape[3] // groups
    return math.prod(kernel_shape[:-1])


def make_arrays(name, shapes, rng, groups=1):
    """x, kernel (and bias, where it has a shape): results are of magnitude 1."""
    x, kernel, bias = shapes
    terms = kernel_terms(name, kernel, groups)
    return [
        normal(rng, x),
        normal(rng, kernel, 1 / math.sqrt(terms)),
        None if bias is None else normal(rng, bias),
    ]


def gradient_terms(name, arrays, y, options):
    """Terms of one element of each argument's gradient, where most are summed."""
    if name == "matmul":
        a, b = arrays
        m, n = y.shape[-2:]
        matrices = math.prod(y.shape[:-2])
        return [
            other * matrices // max(1, math.prod(array.shape[:-2]))
            for array, other in ((a, n), (b, m))
        ]
    x, kernel, _ = arrays
    rows = y.size // y.shape[-1]
    if name == "dense":
        return [kernel.shape[1], rows, rows]
    taps, groups = math.prod(kernel.shape[:-2]), options.get("groups", 1)
    if name == "conv2d_transpose":
        return [taps * kernel.shape[2], x.size // x.shape[-1], rows]
    return [taps * kernel.shape[-1] // groups, rows, rows]


def root_mean_square(a):
    return math.sqrt(np.mean(np.square(a, dtype=np.float64))) if a.size else 0.0


def away_from_kinks(dy, z, activation):
    """dy, but 0 where rounding of the pre-activation z may choose another slope."""
    if activation not in ("relu", "leaky_relu"):
        return dy
    near = np.abs(z) < 1e-4 * np.max(np.abs(z), initial=0.0)
    return np.where(near, np.float32(0), dy)


def derivative_error(activation, z, dy, terms):
    """How far dz = dy f'(z) may be off, in units of EPS: f' itself, and z's error times f'' <= 1.

    That error of z is 0.4 EPS sqrt(terms) of the largest z at most (see tolerances.py).
    """
    if activation in (None, "linear", "relu", "leaky_relu"):
        return 0.0
    largest_z, largest_dy = (np.max(np.abs(a), initial=0.0) for a in (z, dy))
    return largest_dy * (6 + 0.5 * (1 + math.sqrt(terms)) * largest_z)


def check(name, arrays, options, rng):
    """Values and gradients are the reference's; inputs stay as they are and no result is one."""
    op, reference = getattr(ops, name), OPS[name]
    given = [a for a in arrays if a is not None]
    before = [a.tobytes() for a in given]
    if name == "matmul":
        terms = arrays[0].shape[-2 if options.get("transpose_a") else -1]
    else:
        terms = kernel_terms(name, arrays[1].shape, options.get("groups", 1))
    linear = {key: value for key, value in options.items() if key != "activation"}
    z = reference.forward(*arrays, **linear)
    activation = options.get("activation")
    expected = FUSED[activation].forward(z)

    y = op(*arrays, **options)
    scale = max(np.max(np.abs(z), initial=0.0), np.max(np.abs(expected), initial=0.0))
    typical = 3 * math.sqrt(terms) * root_mean_square(arrays[0]) * root_mean_square(arrays[1])
    assert_close(y, expected, name, "forward", terms, max(scale, typical))
    same_y, pullback = op.vjp(*arrays, **options)
    assert same_y.tobytes() == y.tobytes()

    dy = away_from_kinks(normal(rng, y.shape), z, activation)
    gradients = pullback(dy)
    assert len(gradients) == len(arrays)
    others = [(dy, arrays[1]), (arrays[0], dy), (dy, np.ones(1))]
    counts = gradient_terms(name, arrays, y, options)
    right = reference.backward(dy, *arrays, **options)
    for array, gradient, expected, k, pair in zip(
        arrays, gradients, right, counts, others[: len(arrays)], strict=True
    ):
        if array is None:
            assert gradient is None
            continue
        assert gradient.shape == array.shape
        typical = 3 * math.sqrt(k) * root_mean_square(pair[0]) * root_mean_square(pair[1])
        scale = max(np.max(np.abs(expected), initial=0.0), typical)
        # Errors of dz: the largest one where a single term is summed, a few deviations of many.
        other = root_mean_square(pair[0] if pair[1] is dy else pair[1])
        spread = other * (0.75 * math.sqrt(k) + 2.25) / (2 + math.sqrt(terms + k))
        scale += spread * derivative_error(activation, z, dy, terms)
        assert_close(gradient, expected, name, "backward", terms + k, scale)

    results = [y, same_y, *(g for g in gradients if g is not None)]
    for i, result in enumerate(results):
        assert not any(np.shares_memory(result, a) for a in [*given, dy, *results[:i]])
    assert [a.tobytes() for a in given] == before


def integers(rng, shape, largest=8):
    return rng.integers(-largest, largest + 1, shape).astype(np.float32)


def check_integers(name, arrays, options, rng, expected):
    """Sums of integers below 2^24 are exact, whatever their order.

    `expected` is y in int64. The gradients' reference is float64, in which they are exact too.
    """
    y, pullback = getattr(ops, name).vjp(*arrays, **options)
    assert expected.dtype == np.int64
    assert np.max(np.abs(expected)) < 2**24
    np.testing.assert_array_equal(y, expected)
    dy = integers(rng, y.shape, 4)
    for gradient, right in zip(
        pullback(dy), OPS[name].backward(dy, *arrays, **options), strict=True
    ):
        if right is None:
            assert gradient is None
            continue
        assert np.max(np.abs(right), initial=0.0) < 2**24
        np.testing.assert_array_equal(gradient, right)


def check_torch(name, arrays, options, rng):
    """The same values and gradients as PyTorch in float64."""
    from reference import torch_peer

    y, pullback = getattr(ops, name).vjp(*arrays, **options)
    dy = away_from_kinks(
        normal(rng, y.shape),
        OPS[name].forward(*arrays, **{**options, "activation": None})
        if "activation" in options
        else y,
        options.get("activation"),
    )
    wide = [None if a is None else a.astype(np.float64) for a in arrays]
    (their_y,), theirs = torch_peer.values_and_gradients(
        name, wide, (dy.astype(np.float64),), options
    )
    counts = gradient_terms(name, arrays, y, options)
    terms = 64 if name == "matmul" else kernel_terms(name, arrays[1].shape)
    assert_close(y, their_y, name, "forward", terms)
    for gradient, their_gradient, k in zip(pullback(dy), theirs, counts, strict=False):
        if their_gradient is None:
            assert gradient is None
        else:
            assert_close(gradient, their_gradient, name, "backward", terms + k)


activations = st.sampled_from(list(FUSED))


@st.composite
def draw_axis(draw, padded=(0, 0)):
    """(length, kernel, stride, dilation); the kernel fits into the length with its padding."""
    kernel = draw(st.integers(1, 5))
    dilation = draw(st.integers(1, 3))
    extent = (kernel - 1) * dilation + 1
    length = max(1, extent - sum(padded)) + draw(st.integers(0, 8))
    return length, kernel, draw(st.integers(1, 6)), dilation


@st.composite
def draw_channels(draw):
    """(channels, filters, groups): plain, grouped, depthwise; around the vector widths."""
    sizes = st.sampled_from(SIZES)
    kind = draw(st.sampled_from(["plain", "plain", "groups", "depthwise"]))
    if kind == "plain":
        return draw(sizes), draw(sizes), 1
    if kind == "groups":
        groups = draw(st.integers(2, 5))
        small = st.sampled_from([size for size in SIZES if size <= 17])
        return groups * draw(small), groups * draw(small), groups
    channels = draw(sizes)
    return channels, channels * draw(st.integers(1, 3)), channels


def one_or_pair(draw, first, second):
    """An option of both axes, as one number where it can be one."""
    return first if first == second and draw(st.booleans()) else (first, second)


@st.composite
def draw_conv2d(draw):
    """(shapes of x, kernel, bias; options)."""
    form = draw(st.sampled_from(["valid", "same", "number", "pair", "pairs"]))
    sizes = st.integers(0, 4)
    if form == "number":
        p = draw(sizes)
        padding, sides = p, ((p, p), (p, p))
    elif form == "pair":
        p, q = draw(sizes), draw(sizes)
        padding, sides = (p, q), ((p, p), (q, q))
    elif form == "pairs":
        padding = sides = tuple((draw(sizes), draw(sizes)) for _ in range(2))
    else:
        # "same" takes any length; `draw_axis` with much padding allows every one.
        padding, sides = form, ((20, 0),) * 2 if form == "same" else ((0, 0),) * 2
    (h, kh, sh, dh), (w, kw, sw, dw) = (draw(draw_axis(side)) for side in sides)
    channels, filters, groups = draw(draw_channels())
    shapes = [
        (draw(st.integers(0, 3)), h, w, channels),
        (kh, kw, channels // groups, filters),
        (filters,) if draw(st.booleans()) else None,
    ]
    return shapes, {
        "strides": one_or_pair(draw, sh, sw),
        "padding": padding,
        "dilation": one_or_pair(draw, dh, dw),
        "groups": groups,
        "activation": draw(activations),
    }


@st.composite
def draw_conv1d(draw):
    form = draw(st.sampled_from(["valid", "same", "causal", "number", "pair"]))
    sizes = st.integers(0, 4)
    padding, sides = form, (0, 0) if form == "valid" else (20, 0)
    if form == "number":
        padding = draw(sizes)
        sides = (padding, padding)
    elif form == "pair":
        padding = sides = (draw(sizes), draw(sizes))
    length, kernel, stride, dilation = draw(draw_axis(sides))
    channels, filters, groups = draw(draw_channels())
    shapes = [
        (draw(st.integers(0, 3)), length + draw(st.integers(0, 30)), channels),
        (kernel, channels // groups, filters),
        (filters,) if draw(st.booleans()) else None,
    ]
    return shapes, {
        "strides": stride,
        "padding": padding,
        "dilation": dilation,
        "groups": groups,
        "activation": draw(activations),
    }


@st.composite
def draw_conv2d_transpose(draw):
    form = draw(st.sampled_from(["valid", "same", "number", "pair", "pairs"]))
    sizes = st.integers(0, 3)
    padding = {
        "number": lambda: draw(sizes),
        "pair": lambda: (draw(sizes), draw(sizes)),
        "pairs": lambda: tuple((draw(sizes), draw(sizes)) for _ in range(2)),
    }.get(form, lambda: form)()
    axes = [draw(draw_axis((20, 0))) for _ in range(2)]
    (h, kh, sh, dh), (w, kw, sw, dw) = axes
    extra = None
    if draw(st.booleans()):
        extra = one_or_pair(
            draw, *(draw(st.integers(0, max(s, d) - 1)) for s, d in ((sh, dh), (sw, dw)))
        )
    filters, channels, groups = draw(draw_channels())
    shapes = [
        (draw(st.integers(0, 2)), h, w, channels),
        (kh, kw, filters // groups, channels),
        (filters,) if draw(st.booleans()) else None,
    ]
    return shapes, {
        "strides": one_or_pair(draw, sh, sw),
        "padding": padding,
        "output_padding": extra,
        "dilation": one_or_pair(draw, dh, dw),
        "groups": groups,
        "activation": draw(activations),
    }
