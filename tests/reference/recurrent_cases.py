"""Cases of the recurrent ops: every variation alone, and in awkward company. Part of `cases`."""

from __future__ import annotations

import numpy as np

from . import activations

RECURRENT = ("simple_rnn", "gru", "lstm")

BATCH, STEPS, FEATURES, UNITS, PROJECTED = 4, 5, 3, 4, 2

# Rows: all steps, gaps, masked at both ends, nothing at all. Lengths likewise.
MASK = np.array([[1, 1, 1, 1, 1], [1, 0, 0, 1, 1], [0, 0, 1, 1, 0], [0, 0, 0, 0, 0]], bool)
LENGTHS = np.array([3, 5, 0, 1])


def dropout_scale(width, rate=0.3):
    """What dropout multiplies by: 0, or 1 / (1 - rate)."""
    kept = np.random.default_rng(width).random((BATCH, width)) >= rate
    return kept / (1.0 - rate)


def zoned(width):
    """Where zoneout keeps the state before."""
    return np.random.default_rng(width).random((BATCH, STEPS, width)) < 0.4


def sizes(op, batch=BATCH, steps=STEPS, bias=True, h0=False, reset_after=True):
    """Shapes of x, kernel, recurrent_kernel, bias and h0, the arrays all three ops have."""
    gates = {"simple_rnn": 1, "gru": 3, "lstm": 4}[op]
    columns = gates * UNITS
    bias_shape = (2, columns) if op == "gru" and reset_after else (columns,)
    return [
        (batch, steps, FEATURES),
        (FEATURES, columns),
        (UNITS, columns),
        bias_shape if bias else None,
        (batch, UNITS) if h0 else None,
    ]


def walk_cases(op):
    """What the three ops have in common: states, masks, directions, dropout."""

    def case(options, **arrays):
        return op, sizes(op, **arrays), options

    yield case({})
    yield case({}, bias=False)
    yield case({}, h0=True)
    yield case({"mask": MASK})
    yield case({"mask": MASK, "go_backwards": True}, h0=True)
    yield case({"lengths": LENGTHS}, h0=True)
    yield case({"lengths": LENGTHS, "go_backwards": True}, bias=False)
    yield case({"lengths": LENGTHS, "mask": MASK}, h0=True)
    yield case({"go_backwards": True})
    yield case({"x_scale": dropout_scale(FEATURES)})
    yield case({"h_scale": dropout_scale(UNITS)}, h0=True)
    scales = {"x_scale": dropout_scale(FEATURES), "h_scale": dropout_scale(UNITS)}
    yield case({**scales, "mask": MASK, "go_backwards": True}, h0=True, bias=False)
    for batch, steps in ((0, 3), (1, 1), (1, 7), (3, 1)):
        yield case({"activation": "relu"}, batch=batch, steps=steps, h0=True)


def simple_rnn_cases():
    yield from walk_cases("simple_rnn")
    for name in activations.FUSED:
        yield "simple_rnn", sizes("simple_rnn", h0=True), {"activation": name}


def gru_cases():
    for reset_after in (True, False):
        for op, shapes, options in walk_cases("gru"):
            bias = sizes("gru", reset_after=reset_after)[3]
            shapes[3] = None if shapes[3] is None else bias
            yield op, shapes, {**options, "reset_after": reset_after}
        names = {"activation": "silu", "recurrent_activation": "tanh"}
        shapes = sizes("gru", reset_after=reset_after, h0=True)
        yield "gru", shapes, {**names, "reset_after": reset_after}


def lstm_cases():
    def case(options, c0=True, projected=False, normalized=False, **arrays):
        shapes = sizes("lstm", **{"h0": True, **arrays})
        batch = shapes[0][0]
        state = PROJECTED if projected else UNITS
        shapes[2] = (state, 4 * UNITS)
        if shapes[4] is not None:
            shapes[4] = (batch, state)
        gammas = [(4 * UNITS,), (4 * UNITS,), (UNITS,), (UNITS,)]
        return (
            "lstm",
            [
                *shapes,
                (batch, UNITS) if c0 else None,
                (UNITS, PROJECTED) if projected else None,
                *(gammas if normalized else [None] * 4),
            ],
            options,
        )

    for _, shapes, options in walk_cases("lstm"):
        yield "lstm", shapes + [None] * 6, options
    yield case({})
    yield case({}, h0=False)
    yield case({"activation": "silu", "recurrent_activation": "tanh"})
    yield case({"activation": None, "recurrent_activation": "silu"}, bias=False)
    rates = {"zoneout_h": 0.15, "zoneout_c": 0.4}
    masks = {"zoneout_h": zoned(UNITS), "zoneout_c": zoned(UNITS)}
    for name in rates:
        yield case({name: rates[name]})
        yield case({name: masks[name]})
    yield case({**masks, "mask": MASK, "go_backwards": True}, bias=False)
    yield case({"zoneout_h": 0.2, "zoneout_c": zoned(UNITS), "lengths": LENGTHS})
    yield case({}, normalized=True)
    yield case({"epsilon": 0.2}, normalized=True, bias=False, h0=False, c0=False)
    yield case({}, normalized=True, batch=0)
    yield case({}, projected=True)
    yield case({"mask": MASK, "h_scale": dropout_scale(PROJECTED)}, projected=True, bias=False)
    everything = {
        "x_scale": dropout_scale(FEATURES),
        "h_scale": dropout_scale(PROJECTED),
        "zoneout_h": zoned(PROJECTED),
        "zoneout_c": zoned(UNITS),
        "activation": "tanh",
        "recurrent_activation": "sigmoid",
        "epsilon": 0.01,
    }
    yield case({**everything, "mask": MASK}, projected=True, normalized=True)
    yield case(
        {**everything, **rates, "lengths": LENGTHS, "go_backwards": True},
        projected=True,
        normalized=True,
    )


def lstm_cell_cases():
    def case(options, batch=3, bias=True):
        columns = 4 * UNITS
        arrays = [(batch, FEATURES), (batch, UNITS), (batch, UNITS)]
        weights = [(FEATURES, columns), (UNITS, columns), (columns,) if bias else None]
        return "lstm_cell", arrays + weights, options

    yield case({})
    yield case({}, bias=False)
    yield case({}, batch=0)
    yield case({}, batch=1)
    for name in activations.FUSED:
        yield case({"activation": name})
        yield case({"recurrent_activation": name}, bias=False)


def recurrent_cases():
    yield from simple_rnn_cases()
    yield from gru_cases()
    yield from lstm_cases()
    yield from lstm_cell_cases()
