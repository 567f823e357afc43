"""lstm: values, gradients, every option with every other, what it refuses."""

from __future__ import annotations

import doctest
import importlib

import awkward_arrays
import hypothesis
import numpy as np
import op_checks
import pytest
from hypothesis import strategies as st
from reference import OPS
from reference.activations import FUSED
from reference.cases import CASES, make_arrays
from tolerances import assert_close

from lamella import ops, utils

REFERENCE = OPS["lstm"]
GATES = 4
BOUNDED = ("sigmoid", "tanh")
# What the reference's cases have beyond the op: projection, layer normalization.
BEYOND = slice(6, None)


def as_float32(value):
    if isinstance(value, np.ndarray) and value.dtype == np.float64:
        return value.astype(np.float32)
    return value


def draw(rng, batch, steps, inputs, units, bias=True, h0=True, c0=True):
    shapes = [
        (batch, steps, inputs),
        (inputs, GATES * units),
        (units, GATES * units),
        (GATES * units,) if bias else None,
        (batch, units) if h0 else None,
        (batch, units) if c0 else None,
    ]
    return [as_float32(a) for a in make_arrays("lstm", shapes, {}, rng)]


def check(arrays, options, rng, dy=None):
    arrays = [as_float32(a) for a in arrays]
    if options.get("recurrent_activation", "sigmoid") not in BOUNDED:
        # Gates well below 1, or states and their errors grow from step to step.
        arrays[1:4] = [None if a is None else a * np.float32(0.2) for a in arrays[1:4]]
    options = {name: as_float32(value) for name, value in options.items()}
    (batch, steps, inputs), (units, columns) = arrays[0].shape, arrays[2].shape
    expected = REFERENCE.forward(*arrays, **options)
    results, pullback = ops.lstm.vjp(*arrays, **options)
    terms = inputs + units
    for result, right in zip(results, expected, strict=True):
        assert_close(result, right, "lstm", "forward", terms)
    op_checks.assert_same_bits(ops.lstm(*arrays, **options), results)
    if dy is None:
        dy = [rng.standard_normal(r.shape).astype(np.float32) for r in results]
    gradients = pullback(*dy)
    right = REFERENCE.backward(dy, *arrays, **options)
    more = [columns, batch * steps, batch * steps, batch * steps, columns, columns]
    for gradient, expected_gradient, extra in zip(gradients, right[:6], more, strict=True):
        if expected_gradient is None:
            assert gradient is None
        else:
            assert_close(gradient, expected_gradient, "lstm", "backward", terms + extra)
    return results, gradients


OWN_CASES = [
    (shapes, options)
    for op, shapes, options in CASES
    if op == "lstm" and not any(shapes[BEYOND]) and "epsilon" not in options
]


@pytest.mark.parametrize("case", range(len(OWN_CASES)))
def test_cases_of_the_reference(case, backend, rng):
    shapes, options = OWN_CASES[case]
    check(make_arrays("lstm", shapes, options, rng)[:6], options, rng)


# Rows and units around the tiles' sizes; from 128 units on threads share units instead of rows.
SIZES = [
    (1, 1, 1, 1),
    (1, 9, 5, 16),
    (2, 3, 17, 15),
    (5, 4, 3, 33),
    (7, 6, 65, 20),
    (13, 5, 64, 64),
    (32, 28, 28, 64),
    (1, 7, 40, 130),
    (6, 5, 33, 144),
    (17, 3, 70, 257),
    (101, 2, 4, 6),
]


@pytest.mark.parametrize("size", SIZES)
def test_sizes(size, backend, rng):
    batch, steps = size[:2]
    arrays = draw(rng, *size)
    check(arrays, {}, rng)
    check(arrays, {"lengths": rng.integers(0, steps + 1, batch), "go_backwards": True}, rng)


def test_a_long_sequence(backend, rng):
    check(draw(rng, 1, 3000, 4, 8), {}, rng)


@hypothesis.settings(deadline=None, max_examples=60)
@hypothesis.given(data=st.data())
def test_every_option_with_every_other(data):
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32)))
    flag = st.booleans()
    size = [data.draw(st.integers(1, most)) for most in (9, 7, 20, 40)]
    if data.draw(flag):
        size[3] += 120
    batch, steps, inputs, units = size
    arrays = draw(rng, *size, *(data.draw(flag) for _ in range(3)))
    zoned = st.sampled_from(["no", "rate", "mask"])

    def zoneout():
        kind = data.draw(zoned)
        return {"no": 0.0, "rate": 0.25, "mask": rng.random((batch, steps, units)) < 0.3}[kind]

    def scale(width):
        return ((rng.random((batch, width)) < 0.7) / 0.7).astype(np.float32)

    options = {
        "go_backwards": data.draw(flag),
        "mask": rng.random((batch, steps)) < 0.7 if data.draw(flag) else None,
        "lengths": rng.integers(0, steps + 1, batch) if data.draw(flag) else None,
        "x_scale": scale(inputs) if data.draw(flag) else None,
        "h_scale": scale(units) if data.draw(flag) else None,
        "zoneout_h": zoneout(),
        "zoneout_c": zoneout(),
        "activation": data.draw(st.sampled_from(["tanh", "tanh", "silu", "softplus"])),
        "recurrent_activation": data.draw(st.sampled_from(["sigmoid", "sigmoid", "gelu", "tanh"])),
    }
    outputs = (batch, steps, units), (batch, units), (batch, units)
    dy = [
        rng.standard_normal(shape).astype(np.float32) if data.draw(flag) else None
        for shape in outputs
    ]
    hypothesis.assume(any(d is not None for d in dy))
    check(arrays, options, rng, dy)


@pytest.mark.parametrize("name", [name for name in FUSED if name is not None])
def test_activations(name, backend, rng):
    arrays = draw(rng, 3, 4, 5, 19)
    check(arrays, {"activation": name}, rng)
    check(arrays, {"recurrent_activation": name}, rng)


@pytest.mark.parametrize("units", [20, 150])
def test_masked_steps_influence_nothing(units, backend, rng):
    batch, steps, inputs = 6, 7, 9
    arrays = draw(rng, batch, steps, inputs, units)
    mask = rng.random((batch, steps)) < 0.6
    mask[0] = False
    expected, _ = check(arrays, {"mask": mask}, rng)
    dy = [rng.standard_normal(r.shape).astype(np.float32) for r in expected]
    for junk in (np.nan, np.inf):
        x = arrays[0].copy()
        x[~mask] = junk
        results, pullback = ops.lstm.vjp(x, *arrays[1:], mask=mask)
        op_checks.assert_same_bits(results, expected)
        _, right = ops.lstm.vjp(*arrays, mask=mask)
        op_checks.assert_same_bits(pullback(*dy), right(*dy))


def test_lengths_are_a_mask_and_full_ones_none(backend, rng):
    arrays = draw(rng, 5, 6, 4, 9)
    lengths = np.array([6, 0, 3, 1, 6])
    by_mask = ops.lstm(*arrays, mask=np.arange(6) < lengths[:, None])
    op_checks.assert_same_bits(ops.lstm(*arrays, lengths=lengths.astype(np.int32)), by_mask)
    whole = ops.lstm(*arrays)
    op_checks.assert_same_bits(ops.lstm(*arrays, lengths=np.full(5, 6)), whole)
    op_checks.assert_same_bits(ops.lstm(*arrays, mask=np.ones((5, 6), bool)), whole)


def test_one_step_after_the_other(backend, rng):
    """Streaming: the states of one call are those of the next."""
    x, kernel, recurrent_kernel, bias, h, c = draw(rng, 3, 8, 5, 21)
    whole = ops.lstm(x, kernel, recurrent_kernel, bias, h, c)
    for t in range(8):
        step = np.ascontiguousarray(x[:, t : t + 1])
        y, h, c = ops.lstm(step, kernel, recurrent_kernel, bias, h, c)
        op_checks.assert_same_bits([y[:, 0]], [np.ascontiguousarray(whole[0][:, t])])
    op_checks.assert_same_bits([h, c], whole[1:])


def test_empty_batch(backend, rng):
    arrays = draw(rng, 0, 3, 4, 5)
    results, gradients = check(arrays, {}, rng)
    assert [r.shape for r in results] == [(0, 3, 5), (0, 5), (0, 5)]
    assert not any(g.any() for g in gradients)


def test_nothing_but_masked_steps(backend, rng):
    arrays = draw(rng, 3, 4, 5, 6)
    (outputs, h, c), gradients = check(arrays, {"lengths": np.zeros(3, int)}, rng)
    np.testing.assert_array_equal(outputs, np.repeat(arrays[4][:, None], 4, axis=1))
    np.testing.assert_array_equal([h, c], arrays[4:])
    assert not any(gradients[i].any() for i in range(4))


@pytest.mark.parametrize("units", [40, 160])
def test_same_bits_on_any_number_of_threads(units, backend, rng):
    arrays = draw(rng, 11, 6, 30, units)
    options = {"lengths": rng.integers(1, 7, 11)}
    for more in ({}, options):
        results, pullback = ops.lstm.vjp(*arrays, **more)
        dy = [rng.standard_normal(r.shape).astype(np.float32) for r in results]
        expected = [*results, *pullback(*dy)]
        for threads in (1, 2, 5):
            utils.set_num_threads(threads)
            results, pullback = ops.lstm.vjp(*arrays, **more)
            op_checks.assert_same_bits([*results, *pullback(*dy)], expected)


@pytest.mark.parametrize("units", [12, 140])
def test_pullback(units, backend, rng):
    arrays = draw(rng, 4, 5, 6, units)
    results, pullback = ops.lstm.vjp(*arrays)
    dy = [rng.standard_normal(r.shape).astype(np.float32) for r in results]
    expected = pullback(*dy)
    op_checks.assert_same_bits(pullback(*dy), expected)
    out = [np.full_like(g, np.nan) for g in expected]
    for gradient, place in zip(pullback(*dy, out=out), out, strict=True):
        assert gradient is place
    op_checks.assert_same_bits(out, expected)
    assert not any(g.any() for g in pullback(None, None, None))
    for wanted in range(6):
        needs = tuple(i == wanted for i in range(6))
        _, one = ops.lstm.vjp(*arrays, needs=needs)
        for i, gradient in enumerate(one(*dy)):
            if i != wanted:
                assert gradient is None
            else:
                np.testing.assert_allclose(gradient, expected[i], rtol=1e-5, atol=1e-5)
    with pytest.raises(ValueError, match="lstm: the pullback takes 3 gradients, got 1"):
        pullback(dy[0])
    with pytest.raises(ValueError, match=r"lstm: dy\[1\] must have shape"):
        pullback(dy[0], dy[0], None)
    with pytest.raises(ValueError, match=r"lstm: out\[0\] is written and must not overlap x"):
        pullback(*dy, out=[arrays[0], *[None] * 5])


def test_arrays_of_any_layout(rng):
    arrays = draw(rng, 4, 5, 6, 7)
    expected = ops.lstm(*arrays)
    for layout in awkward_arrays.LAYOUTS.values():
        op_checks.assert_same_bits(ops.lstm(*[layout(a) for a in arrays]), expected)


def test_changing_the_mask_changes_no_gradient(rng):
    arrays = draw(rng, 3, 5, 4, 6)
    mask = rng.random((3, 5)) < 0.5
    results, pullback = ops.lstm.vjp(*arrays, mask=mask)
    dy = [np.ones_like(r) for r in results]
    expected = pullback(*dy)
    mask[:] = True
    op_checks.assert_same_bits(pullback(*dy), expected)


F32 = np.float32
WRONG = {
    "x of two axes": ({0: np.zeros((3, 4), F32)}, {}, ValueError, r"x must have 3 axes"),
    "no steps": (
        {0: np.zeros((3, 0, 4), F32)},
        {},
        ValueError,
        "at least one step and one feature",
    ),
    "no features": ({0: np.zeros((3, 5, 0), F32)}, {}, ValueError, "at least one step"),
    "other features": (
        {0: np.zeros((3, 5, 3), F32)},
        {},
        ValueError,
        r"kernel must have shape \(3,",
    ),
    "float64": ({0: np.zeros((3, 5, 4))}, {}, TypeError, "x must be float32"),
    "a list": ({1: [[1.0]]}, {}, TypeError, "kernel must be a NumPy array"),
    "kernel of three gates": (
        {1: np.zeros((4, 18), F32)},
        {},
        ValueError,
        r"kernel must have shape",
    ),
    "recurrent kernel": ({2: np.zeros((6, 23), F32)}, {}, ValueError, "recurrent_kernel must have"),
    "no units": (
        {1: np.zeros((4, 0), F32), 2: np.zeros((0, 0), F32)},
        {},
        ValueError,
        "at least one unit",
    ),
    "bias": ({3: np.zeros(6, F32)}, {}, ValueError, r"bias must have shape \(24,\)"),
    "h0": ({4: np.zeros((2, 6), F32)}, {}, ValueError, r"h0 must have shape \(3, 6\)"),
    "c0": ({5: np.zeros((3, 5), F32)}, {}, ValueError, r"c0 must have shape \(3, 6\)"),
    "mask shape": (
        {},
        {"mask": np.ones((3, 4), bool)},
        ValueError,
        r"mask must have shape \(3, 5\)",
    ),
    "mask dtype": ({}, {"mask": np.ones((3, 5), F32)}, TypeError, "mask must be bool"),
    "long": ({}, {"lengths": np.array([1, 6, 2])}, ValueError, r"\[0, 5\], got 6 at position 1"),
    "negative": ({}, {"lengths": np.array([-1, 5, 2])}, ValueError, r"got -1 at position 0"),
    "float lengths": (
        {},
        {"lengths": np.ones(3, F32)},
        TypeError,
        "lengths must be int32 or int64",
    ),
    "activation": ({}, {"activation": "swish9"}, ValueError, "swish9"),
    "zoneout": ({}, {"zoneout_h": 1.0}, ValueError, r"zoneout_h must lie in \[0, 1\), got 1.0"),
    "zoneout nan": ({}, {"zoneout_c": np.nan}, ValueError, "zoneout_c must be a finite number"),
    "zoneout mask": ({}, {"zoneout_c": np.ones((3, 5), bool)}, ValueError, "zoneout_c must have"),
    "x_scale": ({}, {"x_scale": np.ones((3, 6), F32)}, ValueError, r"x_scale must have shape"),
    "direction": ({}, {"go_backwards": 1}, ValueError, "go_backwards must be True or False"),
}


@pytest.mark.parametrize("what", WRONG)
def test_refuses(what, rng):
    replaced, options, error, text = WRONG[what]
    arrays = draw(rng, 3, 5, 4, 6)
    for i, array in replaced.items():
        arrays[i] = array
    for call in (ops.lstm, ops.lstm.vjp):
        with pytest.raises(error, match=f"^lstm: .*{text}"):
            call(*arrays, **options)


def test_sizes_beyond_memory_and_63_bits():
    def huge(*shape):
        return np.broadcast_to(F32(0), shape)

    with pytest.raises(MemoryError, match=r"lstm: out of memory, could not allocate \d+ bytes"):
        ops.lstm(huge(2**20, 2**20, 2**19), huge(2**19, 4), huge(1, 4))
    with pytest.raises(ValueError, match=r"lstm: .*overflows 63 bits"):
        ops.lstm(huge(1, 2**40, 1), huge(1, 2**24), huge(2**22, 2**24))


def test_nan_spreads_within_its_sequence(backend, rng):
    arrays = draw(rng, 3, 4, 5, 6)
    arrays[0][1, 2, 3] = np.nan
    outputs, h, c = ops.lstm(*arrays)
    assert np.isnan(outputs[1, 2:]).all() and np.isnan(h[1]).all() and np.isnan(c[1]).all()
    assert np.isfinite(outputs[[0, 2]]).all() and np.isfinite(outputs[1, :2]).all()


def test_docstring():
    module = importlib.import_module("lamella.ops.lstm")
    assert doctest.testmod(module).failed == 0
