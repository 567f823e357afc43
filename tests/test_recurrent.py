"""lstm, gru and simple_rnn: values, gradients, every option with every other, what they refuse."""

from __future__ import annotations

import doctest
import functools
import importlib
import threading

import awkward_arrays
import hypothesis
import numpy as np
import op_checks
import pytest
from hypothesis import strategies as st
from recurrent_checks import (
    NAMES,
    STATES,
    check,
    draw,
    gradients_like,
    states_of,
    tamed,
)
from reference import OPS
from reference.activations import FUSED
from reference.cases import CASES, make_arrays
from tolerances import assert_close

from lamella import ops, utils

each_op = pytest.mark.parametrize("name", NAMES)

OWN_CASES = [case for case in CASES if case[0] in NAMES]


@pytest.mark.parametrize("case", range(len(OWN_CASES)))
def test_cases_of_the_reference(case, backend, rng):
    name, shapes, options = OWN_CASES[case]
    check(name, make_arrays(name, shapes, options, rng), options, rng)


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


@each_op
@pytest.mark.parametrize("size", SIZES)
def test_sizes(name, size, backend, rng):
    batch, steps = size[:2]
    ragged = {"lengths": rng.integers(0, steps + 1, batch), "go_backwards": True}
    for options in ({}, ragged, {**ragged, "reset_after": False}):
        if "reset_after" not in options or name == "gru":
            after = options.get("reset_after", True)
            check(name, draw(name, rng, *size, reset_after=after), options, rng)


@each_op
def test_a_long_sequence(name, backend, rng):
    check(name, draw(name, rng, 1, 2000, 4, 8), {}, rng)


@hypothesis.settings(deadline=None, max_examples=60)
@hypothesis.given(data=st.data())
def test_every_option_with_every_other(data):
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32)))
    flag = st.booleans()
    # Errors are judged by the largest result: there must be enough results for one to be large.
    bounds = ((4, 12), (1, 7), (4, 20), (9, 40))
    size = [data.draw(st.integers(*each)) for each in bounds]
    if data.draw(flag):
        size[3] += 120
    batch, steps, inputs, units = size
    name = data.draw(st.sampled_from(NAMES))
    reset_after = data.draw(flag)
    arrays = draw(name, rng, *size, *(data.draw(flag) for _ in range(3)), reset_after)
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
        "activation": data.draw(st.sampled_from(["tanh", "tanh", "silu"])),
    }
    if name == "lstm":
        gates = data.draw(st.sampled_from(["sigmoid", "sigmoid", "gelu", "tanh"]))
        options["recurrent_activation"] = gates
    # gru's z h + (1 - z) n grows from step to step, and errors with it, unless z is in [0, 1]:
    # other gates than sigmoid are in test_activations.
    if name == "gru":
        options["reset_after"] = reset_after
    if name == "lstm":
        options |= {"zoneout_h": zoneout(), "zoneout_c": zoneout()}
    shapes = [(batch, steps, units)] + [(batch, units)] * STATES[name]
    dy = [
        rng.standard_normal(shape).astype(np.float32) if data.draw(flag) else None
        for shape in shapes
    ]
    hypothesis.assume(any(d is not None for d in dy))
    check(name, tamed(arrays, options), options, rng, dy)


@each_op
@pytest.mark.parametrize("activation", [name for name in FUSED if name is not None])
def test_activations(name, activation, backend, rng):
    arrays = draw(name, rng, 3, 4, 5, 19)
    check(name, arrays, {"activation": activation}, rng)
    if name != "simple_rnn":
        options = {"recurrent_activation": activation}
        check(name, tamed(arrays, options), options, rng)


@each_op
@pytest.mark.parametrize("units", [20, 150])
def test_masked_steps_influence_nothing(name, units, backend, rng):
    batch, steps, inputs = 6, 7, 9
    arrays = draw(name, rng, batch, steps, inputs, units)
    function = getattr(ops, name)
    mask = rng.random((batch, steps)) < 0.6
    mask[0] = False
    expected, _ = check(name, arrays, {"mask": mask}, rng)
    dy = gradients_like(expected, rng)
    _, right = function.vjp(*arrays, mask=mask)
    for junk in (np.nan, np.inf):
        x = arrays[0].copy()
        x[~mask] = junk
        results, pullback = function.vjp(x, *arrays[1:], mask=mask)
        op_checks.assert_same_bits(results, expected)
        op_checks.assert_same_bits(pullback(*dy), right(*dy))


@each_op
def test_lengths_are_a_mask_and_full_ones_none(name, backend, rng):
    arrays = draw(name, rng, 5, 6, 4, 9)
    function = getattr(ops, name)
    lengths = np.array([6, 0, 3, 1, 6])
    by_mask = function(*arrays, mask=np.arange(6) < lengths[:, None])
    op_checks.assert_same_bits(function(*arrays, lengths=lengths.astype(np.int32)), by_mask)
    whole = function(*arrays)
    op_checks.assert_same_bits(function(*arrays, lengths=np.full(5, 6)), whole)
    op_checks.assert_same_bits(function(*arrays, mask=np.ones((5, 6), bool)), whole)


@pytest.mark.parametrize(
    ("name", "options"), [*((name, {}) for name in NAMES), ("gru", {"reset_after": False})], ids=str
)
@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("units", [21, 48, 144])
def test_one_step_after_the_other(name, batch, units, options, backend, rng):
    """Streaming: the states of one call are those of the next."""
    x, *weights = draw(name, rng, batch, 8, 5, units, reset_after=not options)
    function = functools.partial(getattr(ops, name), **options)
    weights, states = weights[:3], states_of(name, [x, *weights])
    whole = function(x, *weights, *states)
    for t in range(8):
        y, *states = function(np.ascontiguousarray(x[:, t : t + 1]), *weights, *states)
        op_checks.assert_same_bits([y[:, 0]], [np.ascontiguousarray(whole[0][:, t])])
    op_checks.assert_same_bits(states, whole[1:])


def test_lstm_cell_is_a_step_of_lstm(backend, rng):
    x, kernel, recurrent_kernel, bias, h0, c0 = draw("lstm", rng, 3, 1, 5, 21)[:6]
    _, h, c = ops.lstm(x, kernel, recurrent_kernel, bias, h0, c0)
    arrays = [np.ascontiguousarray(x[:, 0]), h0, c0, kernel, recurrent_kernel, bias]
    results, pullback = ops.lstm_cell.vjp(*arrays)
    op_checks.assert_same_bits(results, [h, c])
    op_checks.assert_same_bits(ops.lstm_cell(*arrays), [h, c])
    dy = gradients_like(results, rng)
    right = OPS["lstm_cell"].backward(dy, *arrays)
    gradients = pullback(*dy)
    for gradient, expected in zip(gradients, right, strict=True):
        assert_close(gradient, expected, "lstm_cell", "backward", 26 + 84)
    out = [np.full_like(g, np.nan) for g in gradients]
    for gradient, place in zip(pullback(*dy, out=out), out, strict=True):
        assert gradient is place
    op_checks.assert_same_bits(out, gradients)
    needs = (False, True, False, False, True, False)
    some = ops.lstm_cell.vjp(*arrays, needs=needs)[1](*dy)
    assert [g is not None for g in some] == list(needs)
    with pytest.raises(ValueError, match=r"^lstm: x must have 3 axes"):
        ops.lstm_cell(x[0, 0], *arrays[1:])


@each_op
def test_empty_batch(name, backend, rng):
    arrays = draw(name, rng, 0, 3, 4, 5)
    results, gradients = check(name, arrays, {}, rng)
    assert [r.shape for r in results] == [(0, 3, 5)] + [(0, 5)] * STATES[name]
    assert not any(g is not None and g.any() for g in gradients)


@each_op
def test_nothing_but_masked_steps(name, backend, rng):
    arrays = draw(name, rng, 3, 4, 5, 6)
    (outputs, *states), gradients = check(name, arrays, {"lengths": np.zeros(3, int)}, rng)
    np.testing.assert_array_equal(outputs, np.repeat(arrays[4][:, None], 4, axis=1))
    op_checks.assert_same_bits(states, states_of(name, arrays))
    assert not any(gradients[i].any() for i in range(4))


@each_op
@pytest.mark.parametrize("units", [40, 160])
def test_same_bits_on_any_number_of_threads(name, units, backend, rng):
    function = getattr(ops, name)
    ragged = {"lengths": rng.integers(1, 7, 11)}
    for options in ({}, ragged, {**ragged, "reset_after": False}):
        if "reset_after" in options and name != "gru":
            continue
        after = options.get("reset_after", True)
        arrays = draw(name, rng, 11, 6, 30, units, reset_after=after)
        results, pullback = function.vjp(*arrays, **options)
        dy = gradients_like(results, rng)
        expected = [*results, *pullback(*dy)]
        for threads in (1, 2, 5):
            utils.set_num_threads(threads)
            results, pullback = function.vjp(*arrays, **options)
            op_checks.assert_same_bits([*results, *pullback(*dy)], expected)


def test_called_from_several_threads(rng):
    """One caller has the threads, the others compute alone."""
    arrays = draw("lstm", rng, 6, 9, 30, 160)
    expected = ops.lstm(*arrays)
    found = []

    def call():
        for _ in range(20):
            found.append(ops.lstm(*arrays))

    callers = [threading.Thread(target=call) for _ in range(4)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    assert len(found) == 80
    for results in found:
        op_checks.assert_same_bits(results, expected)


@each_op
@pytest.mark.parametrize("units", [12, 140])
def test_pullback(name, units, backend, rng):
    arrays = draw(name, rng, 4, 5, 6, units)
    function = getattr(ops, name)
    count = len(arrays)
    results, pullback = function.vjp(*arrays)
    dy = gradients_like(results, rng)
    expected = pullback(*dy)
    op_checks.assert_same_bits(pullback(*dy), expected)
    out = [None if g is None else np.full_like(g, np.nan) for g in expected]
    for gradient, place in zip(pullback(*dy, out=out), out, strict=True):
        assert gradient is place
    op_checks.assert_same_bits(out, expected)
    assert not any(g is not None and g.any() for g in pullback(*[None] * len(results)))
    for wanted in range(count):
        needs = tuple(i == wanted for i in range(count))
        _, one = function.vjp(*arrays, needs=needs)
        for i, gradient in enumerate(one(*dy)):
            if i != wanted or arrays[i] is None:
                assert gradient is None
            else:
                np.testing.assert_allclose(gradient, expected[i], rtol=1e-5, atol=1e-5)
    with pytest.raises(ValueError, match=f"^{name}: the pullback takes {len(dy)} gradients, got 0"):
        pullback()
    with pytest.raises(ValueError, match=rf"^{name}: dy\[1\] must have shape"):
        pullback(dy[0], dy[0], *dy[2:])
    with pytest.raises(ValueError, match=rf"^{name}: out\[0\] is written and must not overlap x"):
        pullback(*dy, out=[arrays[0], *[None] * (count - 1)])


@each_op
def test_arrays_of_any_layout(name, rng):
    arrays = draw(name, rng, 4, 5, 6, 7)
    function = getattr(ops, name)
    expected = function(*arrays)
    for layout in awkward_arrays.LAYOUTS.values():
        op_checks.assert_same_bits(
            function(*[None if a is None else layout(a) for a in arrays]), expected
        )


@each_op
def test_changing_the_mask_changes_no_gradient(name, rng):
    arrays = draw(name, rng, 3, 5, 4, 6)
    mask = rng.random((3, 5)) < 0.5
    results, pullback = getattr(ops, name).vjp(*arrays, mask=mask)
    dy = gradients_like(results, rng)
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
    arrays = draw("lstm", rng, 3, 5, 4, 6)
    for i, array in replaced.items():
        arrays[i] = array
    for call in (ops.lstm, ops.lstm.vjp):
        with pytest.raises(error, match=f"^lstm: .*{text}"):
            call(*arrays, **options)


def test_gru_refuses(rng):
    arrays = draw("gru", rng, 3, 5, 4, 6)
    with pytest.raises(ValueError, match=r"^gru: bias must have shape \(18,\)"):
        ops.gru(*arrays, reset_after=False)
    with pytest.raises(ValueError, match=r"^gru: reset_after must be True or False"):
        ops.gru(*arrays, reset_after=None)
    with pytest.raises(ValueError, match=r"^gru: kernel must have shape \(4, 18\)"):
        ops.gru(arrays[0], np.zeros((4, 24), F32), *arrays[2:])


def test_simple_rnn_refuses(rng):
    arrays = draw("simple_rnn", rng, 3, 5, 4, 6)
    with pytest.raises(ValueError, match=r"^simple_rnn: h0 must have shape \(3, 6\)"):
        ops.simple_rnn(*arrays[:4], np.zeros((3, 5), F32))
    with pytest.raises(ValueError, match=r"^simple_rnn: recurrent_kernel must have shape \(6, 6\)"):
        ops.simple_rnn(*arrays[:2], np.zeros((6, 7), F32))


def test_sizes_beyond_memory_and_63_bits():
    def huge(*shape):
        return np.broadcast_to(F32(0), shape)

    with pytest.raises(MemoryError, match=r"lstm: out of memory, could not allocate \d+ bytes"):
        ops.lstm(huge(2**20, 2**20, 2**19), huge(2**19, 4), huge(1, 4))
    with pytest.raises(ValueError, match=r"lstm: .*overflows 63 bits"):
        ops.lstm(huge(1, 2**40, 1), huge(1, 2**24), huge(2**22, 2**24))


@each_op
def test_nan_spreads_within_its_sequence(name, backend, rng):
    arrays = draw(name, rng, 3, 4, 5, 6)
    arrays[0][1, 2, 3] = np.nan
    outputs, *states = getattr(ops, name)(*arrays)
    assert np.isnan(outputs[1, 2:]).all() and all(np.isnan(s[1]).all() for s in states)
    assert np.isfinite(outputs[[0, 2]]).all() and np.isfinite(outputs[1, :2]).all()


@pytest.mark.parametrize("name", [*NAMES, "lstm_cell"])
def test_docstring(name):
    module = importlib.import_module(f"lamella.ops.{name}")
    assert doctest.testmod(module).failed == 0
