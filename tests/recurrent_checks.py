"""What the tests of the recurrent ops share: arrays, and comparison with the reference."""

from __future__ import annotations

import numpy as np
import op_checks
from reference import OPS
from reference.cases import make_arrays
from tolerances import assert_close

from lamella import ops

NAMES = ("lstm", "gru", "simple_rnn")
GATES = {"lstm": 4, "gru": 3, "simple_rnn": 1}
STATES = {"lstm": 2, "gru": 1, "simple_rnn": 1}
BOUNDED = ("sigmoid", "tanh")
# The vectors of a layer-normalized lstm, in the order of its arguments.
VECTORS = ("gamma_x", "gamma_h", "gamma_c", "beta_c")


def as_float32(value):
    if isinstance(value, np.ndarray) and value.dtype == np.float64:
        return value.astype(np.float32)
    return value


def draw(name, rng, batch, steps, inputs, units, bias=True, h0=True, c0=True, reset_after=True):
    columns = GATES[name] * units
    bias_shape = (2, columns) if name == "gru" and reset_after else (columns,)
    shapes = [
        (batch, steps, inputs),
        (inputs, columns),
        (units, columns),
        bias_shape if bias else None,
        (batch, units) if h0 else None,
    ]
    if name == "lstm":
        shapes += [(batch, units) if c0 else None, *[None] * 5]
    return [as_float32(a) for a in make_arrays(name, shapes, {}, rng)]


def draw_variant(
    rng, batch, steps, inputs, units, projected=None, vectors=VECTORS, bias=True, h0=True, c0=True
):
    """Arrays of lstm: with `projected` features of h, and those of the VECTORS that are named."""
    state = units if projected is None else projected
    given = dict(zip(VECTORS, [(4 * units,), (4 * units,), (units,), (units,)], strict=True))
    shapes = [
        (batch, steps, inputs),
        (inputs, 4 * units),
        (state, 4 * units),
        (4 * units,) if bias else None,
        (batch, state) if h0 else None,
        (batch, units) if c0 else None,
        None if projected is None else (units, projected),
        *(shape if name in vectors else None for name, shape in given.items()),
    ]
    arrays = make_arrays("lstm", shapes, {}, rng)
    if projected is not None:
        arrays[6] /= 2 * units**0.5
    # A normalized product hands relative errors of h on undamped, and a projection multiplies them:
    # with larger weights they would grow from step to step, without end.
    for i, size in ((7, 0.5), (8, 0.25), (9, 0.5)):
        if arrays[i] is not None:
            arrays[i] = size * (1 + 0.5 * arrays[i])
    return [as_float32(a) for a in arrays]


def states_of(name, arrays):
    """h0, and c0 where there is one."""
    return arrays[4 : 4 + STATES[name]]


def tamed(arrays, options):
    """Gates without bounds kept well below 1, or states and errors grow from step to step."""
    if options.get("recurrent_activation", "sigmoid") in BOUNDED:
        return arrays
    weights = (1, 2, 3, 7, 8)
    return [
        a * np.float32(0.25) if i in weights and a is not None else a for i, a in enumerate(arrays)
    ]


def gradients_like(results, rng):
    return [rng.standard_normal(r.shape).astype(np.float32) for r in results]


def check(name, arrays, options, rng, dy=None):
    arrays = [as_float32(a) for a in arrays]
    options = {option: as_float32(value) for option, value in options.items()}
    (batch, steps, inputs), (state, columns) = arrays[0].shape, arrays[2].shape
    expected = OPS[name].forward(*arrays, **options)
    function = getattr(ops, name)
    results, pullback = function.vjp(*arrays, **options)
    terms = inputs + state
    if len(arrays) > 6 and arrays[6] is not None:
        terms += len(arrays[6])
    # Preactivations are sums of terms around 1. What cancels, and gates that may be next to nothing
    # (gelu, silu), make results small, but not their errors.
    bounded = options.get("recurrent_activation", "sigmoid") in BOUNDED
    # The gradient of what is normalized is divided by a deviation of some 0.2, and then its mean is
    # taken off.
    normalized = any(a is not None for a in arrays[7:])
    for result, right in zip(results, expected, strict=True):
        scale = max(0.05 if bounded else 0.3, np.max(np.abs(right), initial=0.0))
        assert_close(result, right, name, "forward", terms, scale)
    op_checks.assert_same_bits(function(*arrays, **options), results)
    if dy is None:
        dy = gradients_like(results, rng)
    gradients = pullback(*dy)
    right = OPS[name].backward(dy, *arrays, **options)
    rows = batch * steps
    more = [columns, rows, rows, rows, columns, columns, rows, rows, rows, rows, rows]
    for i, (gradient, expected_gradient) in enumerate(zip(gradients, right, strict=True)):
        if expected_gradient is None:
            assert gradient is None
        else:
            # Sums of terms around 1, which may cancel.
            floor = 1.0 if not bounded else 0.5 if normalized else 0.1
            scale = max(floor, np.max(np.abs(expected_gradient), initial=0.0))
            assert_close(gradient, expected_gradient, name, "backward", terms + more[i], scale)
    return results, gradients
