"""feed_forward: values, gradients, gates, what it refuses."""

from __future__ import annotations

import doctest
import importlib

import numpy as np
import op_checks
import pytest
from reference import OPS, cases
from tolerances import assert_close

from lamella import ops

NAMES = ("x", "kernel", "output_kernel", "bias", "output_bias", "gate_kernel", "gate_bias")


def draw(rng, x, hidden, results, biases=True, gate=True):
    """float32 arrays; kernels such that what they give is near 1."""
    shapes = [
        x,
        (x[-1], hidden),
        (hidden, results),
        (hidden,) if biases else None,
        (results,) if biases else None,
        (x[-1], hidden) if gate else None,
        (hidden,) if gate and biases else None,
    ]
    arrays = [None if s is None else rng.standard_normal(s).astype(np.float32) for s in shapes]
    for i in (1, 2, 5):
        if arrays[i] is not None:
            arrays[i] /= np.float32(np.sqrt(len(arrays[i])))
    return arrays


def check(arrays, options, rng):
    expected = OPS["feed_forward"].forward(*arrays, **options)
    y, pullback = ops.feed_forward.vjp(*arrays, **options)
    terms = sum(arrays[1].shape)
    scale = max(1.0, np.max(np.abs(expected), initial=0.0))
    assert_close(y, expected, "feed_forward", "forward", terms, scale)
    op_checks.assert_same_bits([ops.feed_forward(*arrays, **options)], [y])
    dy = rng.standard_normal(y.shape).astype(np.float32)
    right = OPS["feed_forward"].backward(dy, *arrays, **options)
    terms += arrays[2].shape[1] + y.size // y.shape[-1]
    for gradient, expected_gradient in zip(pullback(dy), right, strict=True):
        if expected_gradient is None:
            assert gradient is None
            continue
        scale = max(1.0, np.max(np.abs(expected_gradient), initial=0.0))
        assert_close(gradient, expected_gradient, "feed_forward", "backward", terms, scale)


OWN_CASES = [(shapes, options) for op, shapes, options in cases.CASES if op == "feed_forward"]


@pytest.mark.parametrize("case", range(len(OWN_CASES)))
def test_cases_of_the_reference(case, backend, rng):
    shapes, options = OWN_CASES[case]
    arrays = [None if s is None else rng.standard_normal(s).astype(np.float32) for s in shapes]
    check(arrays, options, rng)


@pytest.mark.parametrize("activation", ["relu", "gelu", "silu", None])
@pytest.mark.parametrize("gate", [False, True])
@pytest.mark.parametrize(
    ("x", "hidden", "results"),
    [((7, 33), 70, 17), ((2, 5, 64), 256, 64), ((0, 5), 3, 2), ((1, 1), 1, 1), ((9,), 20, 5)],
)
def test_sizes(x, hidden, results, gate, activation, backend, rng):
    for biases in (False, True):
        check(draw(rng, x, hidden, results, biases, gate), {"activation": activation}, rng)


def test_it_is_dense_layers(backend, rng):
    arrays = draw(rng, (6, 20), 40, 10)
    x, kernel, output_kernel, bias, output_bias, gate_kernel, gate_bias = arrays
    a = ops.dense(x, kernel, bias, activation="silu")
    h = ops.multiply(a, ops.dense(x, gate_kernel, gate_bias))
    y = ops.dense(h, output_kernel, output_bias)
    op_checks.assert_same_bits([ops.feed_forward(*arrays, activation="silu")], [y])


@pytest.mark.parametrize("activation", ["relu", "silu"])
@pytest.mark.parametrize("gate", [False, True])
def test_the_pullback(gate, activation, backend, rng):
    arrays = draw(rng, (2, 3, 20), 40, 10, gate=gate)
    options = {"activation": activation}
    op_checks.check_pullback("feed_forward", arrays, options)
    op_checks.check_nothing_is_changed_or_shared("feed_forward", arrays, options)
    op_checks.check_thread_counts("feed_forward", arrays, options)
    op_checks.check_layouts("feed_forward", arrays, options)


def test_nan_shows(backend, rng):
    for position in range(7):
        arrays = draw(rng, (4, 5), 6, 3)
        arrays[position][...] = np.nan
        assert np.isnan(ops.feed_forward(*arrays, activation="silu")).all()


@pytest.mark.parametrize(
    ("position", "shape", "message"),
    [
        (0, (), "x must have at least 1 axis (..., D)"),
        (1, (20,), "kernel must have 2 axes (D, F)"),
        (1, (19, 40), "kernel must have shape (20, 40) (as many rows as x has features)"),
        (2, (39, 10), "output_kernel must have shape (40, 10) (as many rows as kernel"),
        (2, (40, 0), "kernels must not be empty, got (20, 40) and (40, 0)"),
        (3, (39,), "bias must have shape (40,)"),
        (4, (40,), "output_bias must have shape (10,)"),
        (5, (20, 39), "gate_kernel must have shape (20, 40) (that of kernel)"),
        (6, (1,), "gate_bias must have shape (40,)"),
    ],
)
def test_shapes_it_refuses(position, shape, message, rng):
    arrays = draw(rng, (6, 20), 40, 10)
    arrays[position] = np.ones(shape, np.float32)
    for function in (ops.feed_forward, ops.feed_forward.vjp):
        with pytest.raises(ValueError) as caught:
            function(*arrays)
        assert str(caught.value).startswith(f"feed_forward: {message}")


def test_what_else_it_refuses(rng):
    arrays = draw(rng, (6, 20), 40, 10)
    for position, name in enumerate(NAMES):
        op_checks.check_only_float32_arrays(
            "feed_forward", arrays, {}, position, name, optional=position > 2
        )
    with pytest.raises(ValueError, match=r"^feed_forward: gate_bias needs a gate_kernel"):
        ops.feed_forward(*arrays[:5], None, arrays[6])
    with pytest.raises(ValueError, match=r"^feed_forward: .*activation"):
        ops.feed_forward(*arrays, activation="swish2")
    y, pullback = ops.feed_forward.vjp(*arrays)
    for wrong in (y[:-1], y[..., :-1]):
        with pytest.raises(ValueError, match=r"^feed_forward: dy must have shape"):
            pullback(wrong)


def test_documentation():
    module = importlib.import_module("lamella.ops.feed_forward")
    assert doctest.testmod(module).failed == 0
