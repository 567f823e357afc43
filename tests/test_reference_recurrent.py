"""What finite differences cannot tell of the recurrent references: that they are the right maths.

Masked steps, directions, states and zoneout by what they promise; Keras' layers for the rest.
"""

from __future__ import annotations

import inspect

import numpy as np
import pytest
from keras_peer import import_keras
from reference import OPS
from reference.cases import make_arrays
from reference.recurrent_cases import (
    FEATURES,
    LENGTHS,
    MASK,
    RECURRENT,
    STEPS,
    UNITS,
    lstm_cases,
    recurrent_cases,
    sizes,
    zoned,
)

EPSILON = 1e-12  # agreement of two float64 computations of a few thousand operations

each_op = pytest.mark.parametrize("op", RECURRENT)
MASKED_CASES = [case for case in recurrent_cases() if case[2].keys() & {"mask", "lengths"}]


@pytest.fixture
def rng():
    return np.random.default_rng(20260117)


def case_name(case):
    op, shapes, options = case
    given = "".join("ny"[shape is not None] for shape in shapes[3:])
    values = (f"{k}={v}" if np.size(v) == 1 else k for k, v in options.items())
    return "-".join([op, given, *values])


def normal(rng, shapes):
    return [None if shape is None else rng.standard_normal(shape) * 0.5 for shape in shapes]


def arrays_of(op, rng, **options):
    """x, kernel, recurrent_kernel, bias, h0, and c0 for the LSTM."""
    shapes = sizes(op, **{"h0": True, **options})
    return normal(rng, [*shapes, shapes[4]] if op == "lstm" else shapes)


def gradients_like(results, rng):
    return tuple(rng.standard_normal(part.shape) for part in results)


def assert_equal(results, expected, tolerance=0.0):
    for result, right in zip(results, expected, strict=True):
        assert (result is None) == (right is None)
        if right is not None:
            np.testing.assert_allclose(result, right, rtol=tolerance, atol=tolerance)


# --- Masks and directions ------------------------------------------------------------------------


@pytest.mark.parametrize("case", MASKED_CASES, ids=case_name)
def test_masked_steps_influence_nothing_and_repeat_the_state(case, rng):
    op, shapes, options = case
    valid = np.ones((len(MASK), STEPS), bool)
    if "mask" in options:
        valid &= MASK
    if "lengths" in options:
        valid &= np.arange(STEPS) < LENGTHS[:, None]
    arrays = make_arrays(op, shapes, options, rng)
    results = OPS[op].forward(*arrays, **options)
    dy = gradients_like(results, rng)
    gradients = OPS[op].backward(dy, *arrays, **options)
    assert not gradients[0][~valid].any()
    for poison in (np.nan, np.inf):
        poisoned = [np.where(valid[..., None], arrays[0], poison), *arrays[1:]]
        assert_equal(OPS[op].forward(*poisoned, **options), results)
        assert_equal(OPS[op].backward(dy, *poisoned, **options), gradients)

    outputs, h = results[:2]
    before = np.zeros(h.shape) if arrays[4] is None else arrays[4]
    shown = valid[:, ::-1] if options.get("go_backwards") else valid
    for step in range(STEPS):
        carried = ~shown[:, step]
        np.testing.assert_array_equal(outputs[carried, step], before[carried])
        before = outputs[:, step]
    np.testing.assert_array_equal(h, before)


@each_op
def test_lengths_are_a_mask(op, rng):
    arrays = arrays_of(op, rng)
    mask = np.arange(STEPS) < LENGTHS[:, None]
    for backwards in (False, True):
        expected = OPS[op].forward(*arrays, mask=mask, go_backwards=backwards)
        found = OPS[op].forward(*arrays, lengths=LENGTHS, go_backwards=backwards)
        assert_equal(found, expected)
        dy = gradients_like(expected, rng)
        assert_equal(
            OPS[op].backward(dy, *arrays, lengths=LENGTHS, go_backwards=backwards),
            OPS[op].backward(dy, *arrays, mask=mask, go_backwards=backwards),
        )


@each_op
def test_backwards_is_the_sequence_reversed(op, rng):
    x, *others = arrays_of(op, rng)
    options, reversed_options = {"mask": MASK}, {"mask": MASK[:, ::-1]}
    if op == "lstm":
        options.update(zoneout_h=zoned(UNITS), zoneout_c=0.3)
        reversed_options.update(zoneout_h=zoned(UNITS)[:, ::-1], zoneout_c=0.3)
    expected = OPS[op].forward(x[:, ::-1], *others, **reversed_options)
    assert_equal(OPS[op].forward(x, *others, go_backwards=True, **options), expected)
    dy = gradients_like(expected, rng)
    dx, *more = OPS[op].backward(dy, x[:, ::-1], *others, **reversed_options)
    found = OPS[op].backward(dy, x, *others, go_backwards=True, **options)
    assert_equal(found, [dx[:, ::-1], *more])


@each_op
def test_absent_gradients_are_zeros(op, rng):
    arrays = arrays_of(op, rng)
    results = OPS[op].forward(*arrays)
    dy = gradients_like(results, rng)
    for absent in range(2 ** len(dy)):
        given = [None if absent >> i & 1 else d for i, d in enumerate(dy)]
        zeros = [np.zeros(d.shape) if g is None else d for d, g in zip(dy, given, strict=True)]
        assert_equal(OPS[op].backward(given, *arrays), OPS[op].backward(zeros, *arrays))


# --- One sequence in parts -----------------------------------------------------------------------


@each_op
@pytest.mark.parametrize("steps", [2, 999])
def test_two_halves_are_the_whole(op, steps, rng):
    x, *weights, h0 = arrays_of(op, rng, batch=2, steps=steps)[:5]
    states = [h0, np.flip(h0)] if op == "lstm" else [h0]
    whole, *finals = OPS[op].forward(x, *weights, *states)
    half = steps // 2
    first, *middle = OPS[op].forward(x[:, :half], *weights, *states)
    second, *end = OPS[op].forward(x[:, half:], *weights, *middle)
    assert_equal([np.concatenate([first, second], axis=1), *end], [whole, *finals])

    d_whole, *d_finals = gradients_like((whole, *finals), rng)
    expected = OPS[op].backward((d_whole, *d_finals), x, *weights, *states)
    dx2, *dweights2 = OPS[op].backward(
        (d_whole[:, half:], *d_finals), x[:, half:], *weights, *middle
    )
    d_middle = dweights2[3 : 3 + len(states)]
    dx1, *dweights1 = OPS[op].backward(
        (d_whole[:, :half], *d_middle), x[:, :half], *weights, *states
    )
    np.testing.assert_array_equal(np.concatenate([dx1, dx2], axis=1), expected[0])
    for i in range(3):
        scale = np.abs(expected[i + 1]).max()
        np.testing.assert_allclose(
            dweights1[i] + dweights2[i], expected[i + 1], rtol=0, atol=EPSILON * scale
        )
    assert_equal(dweights1[3 : 3 + len(states)], expected[4 : 4 + len(states)])


def test_lstm_is_lstm_cell_at_every_step(rng):
    x, *weights, h, c = arrays_of("lstm", rng)
    outputs, *finals = OPS["lstm"].forward(x, *weights, h, c)
    for t in range(STEPS):
        h, c = OPS["lstm_cell"].forward(x[:, t], h, c, *weights)
        np.testing.assert_allclose(outputs[:, t], h, rtol=0, atol=EPSILON)
    assert_equal((h, c), finals, EPSILON)


def test_lstm_cell_takes_absent_gradients(rng):
    x, *weights, h, c = arrays_of("lstm", rng)
    arrays = (x[:, 0], h, c, *weights)
    d = rng.standard_normal(h.shape)
    zero = np.zeros(h.shape)
    for given, zeros in (
        ((d, None), (d, zero)),
        ((None, d), (zero, d)),
        ((None,) * 2, (zero,) * 2),
    ):
        backward = OPS["lstm_cell"].backward
        assert_equal(backward(given, *arrays), backward(zeros, *arrays))


# --- Gates, dropout, zoneout, layer normalization, projection ------------------------------------


def test_lstm_gates_by_hand():
    # One unit, one feature; every gate has a preactivation of its own.
    kernel, recurrent = np.array([[0.1, 0.2, 0.3, 0.4]]), np.array([[0.5, -0.6, 0.7, -0.8]])
    bias = np.array([0.01, 1.0, -0.02, 0.03])
    h, c = OPS["lstm_cell"].forward(
        np.array([[2.0]]), np.array([[0.5]]), np.array([[-1.5]]), kernel, recurrent, bias
    )
    i, f, o = (1 / (1 + np.exp(-z)) for z in (0.2 + 0.25 + 0.01, 0.4 - 0.3 + 1.0, 0.8 - 0.4 + 0.03))
    expected = f * -1.5 + i * np.tanh(0.6 + 0.35 - 0.02)
    assert c == pytest.approx(expected, rel=1e-14)
    assert h == pytest.approx(o * np.tanh(expected), rel=1e-14)


@pytest.mark.parametrize("reset_after", [True, False])
def test_gru_gates_by_hand(reset_after):
    kernel, recurrent = np.array([[0.1, 0.2, 0.3]]), np.array([[0.5, -0.6, 0.7]])
    bias = np.array([[0.01, 1.0, -0.02], [0.03, 0.04, 0.05]])
    _, h = OPS["gru"].forward(
        np.array([[[2.0]]]),
        kernel,
        recurrent,
        bias if reset_after else bias[0],
        np.array([[0.5]]),
        reset_after=reset_after,
    )
    z_in, r_in = 0.2 + 0.25 + 0.01, 0.4 - 0.3 + 1.0
    z_in, r_in = (z_in + 0.03, r_in + 0.04) if reset_after else (z_in, r_in)
    z, r = 1 / (1 + np.exp(-z_in)), 1 / (1 + np.exp(-r_in))
    s = r * (0.35 + 0.05) if reset_after else r * 0.5 * 0.7
    assert h == pytest.approx(z * 0.5 + (1 - z) * np.tanh(0.6 - 0.02 + s), rel=1e-14)


@each_op
def test_dropout_scales_what_enters_the_products(op, rng):
    # As if the kernels' rows were scaled, where one row of scales serves the whole batch.
    x, kernel, recurrent_kernel, *others = arrays_of(op, rng)
    x_scale, h_scale = np.array([0.0, 2.0, 1.25]), np.array([1.5, 0.0, 0.5, 3.0])
    scales = {"x_scale": np.tile(x_scale, (len(x), 1)), "h_scale": np.tile(h_scale, (len(x), 1))}
    scaled = kernel * x_scale[:, None], recurrent_kernel * h_scale[:, None]
    for options in ({"reset_after": False}, {}) if op == "gru" else ({},):
        bias = rng.standard_normal(sizes(op, **options)[3])
        states = others[1:]
        expected = OPS[op].forward(x, *scaled, bias, *states, **options)
        found = OPS[op].forward(x, kernel, recurrent_kernel, bias, *states, **scales, **options)
        assert_equal(found, expected, EPSILON)


def test_zoneout_of_everything_and_of_nothing(rng):
    arrays = arrays_of("lstm", rng)
    h0, c0 = arrays[4:]
    every = np.ones((len(MASK), STEPS, UNITS), bool)
    plain = OPS["lstm"].forward(*arrays)
    outputs, h, c = OPS["lstm"].forward(*arrays, zoneout_h=every, zoneout_c=every)
    assert_equal((h, c), (h0, c0))
    np.testing.assert_array_equal(outputs, np.broadcast_to(h0[:, None], outputs.shape))
    assert_equal(OPS["lstm"].forward(*arrays, zoneout_h=~every, zoneout_c=~every), plain)
    assert_equal(OPS["lstm"].forward(*arrays, zoneout_h=0.0, zoneout_c=0.0), plain)


def test_zoneout_of_c_does_not_reach_this_step_h(rng):
    x, *others = arrays_of("lstm", rng)
    _, h, c = OPS["lstm"].forward(x[:, :1], *others)
    kept = np.ones((len(x), 1, UNITS), bool)
    _, h_zoned, c_zoned = OPS["lstm"].forward(x[:, :1], *others, zoneout_c=kept)
    assert_equal((h_zoned, c_zoned), (h, others[-1]))
    _, h_mean, c_mean = OPS["lstm"].forward(x[:, :1], *others, zoneout_h=0.25, zoneout_c=0.5)
    h0, c0 = others[-2:]
    assert_equal((h_mean, c_mean), (0.25 * h0 + 0.75 * h, 0.5 * c0 + 0.5 * c), EPSILON)


def test_layer_normalization_takes_away_scale_and_shift(rng):
    _, shapes, _ = next(case for case in lstm_cases() if case[1][7] is not None)
    arrays = normal(rng, shapes)
    options = {"epsilon": 1e-14}
    expected = OPS["lstm"].forward(*arrays, **options)
    # All 4U columns of a product are one group: the same scale and shift of them all cancels.
    x, kernel, recurrent_kernel = arrays[:3]
    shifted = [x * 3.0, kernel + rng.standard_normal((FEATURES, 1)), recurrent_kernel * 7.0]
    assert_equal(OPS["lstm"].forward(*shifted, *arrays[3:], **options), expected, 1e-9)
    shifted[1] = kernel + np.repeat([1.0, 0.0, 0.0, 0.0], UNITS)
    found = OPS["lstm"].forward(*shifted, *arrays[3:], **options)
    assert np.abs(found[0] - expected[0]).max() > 0.01


def test_projection_by_the_identity_changes_nothing(rng):
    arrays = arrays_of("lstm", rng)
    expected = OPS["lstm"].forward(*arrays)
    found = OPS["lstm"].forward(*arrays, np.eye(UNITS))
    assert_equal(found, expected)
    permuted = OPS["lstm"].forward(
        *arrays[:2], arrays[2][::-1], arrays[3], arrays[4][:, ::-1], arrays[5], np.eye(UNITS)[::-1]
    )
    assert_equal(permuted, [expected[0][..., ::-1], expected[1][:, ::-1], expected[2]], EPSILON)


@pytest.mark.parametrize("op", [*RECURRENT, "lstm_cell", "embedding"])
def test_backward_takes_what_forward_takes(op):
    forward, backward = (inspect.signature(function).parameters for function in OPS[op])
    assert list(backward.values())[1:] == list(forward.values())
    assert next(iter(backward)) == "dy"


# --- Keras ---------------------------------------------------------------------------------------

LAYERS = {"simple_rnn": "SimpleRNN", "gru": "GRU", "lstm": "LSTM"}
KERAS_CASES = [
    (op, options, given)
    for op in RECURRENT
    for options, given in (
        ({}, {}),
        ({"use_bias": False}, {"states": True}),
        ({"go_backwards": True}, {"states": True}),
        ({}, {"mask": True, "states": True}),
        ({"go_backwards": True}, {"mask": True}),
        ({"activation": "relu"}, {"states": True}),
        *([({"reset_after": False}, {"states": True})] if op == "gru" else []),
        *([({"recurrent_activation": "silu"}, {"mask": True})] if op != "simple_rnn" else []),
    )
]


@pytest.mark.parametrize(("op", "options", "given"), KERAS_CASES, ids=str)
def test_values_and_gradients_agree_with_keras(op, options, given, rng):
    keras = import_keras()
    import jax

    layer = getattr(keras.layers, LAYERS[op])(
        UNITS, return_sequences=True, return_state=True, **options
    )
    layer.build((len(MASK), STEPS, FEATURES))
    float32 = np.float32
    x = rng.standard_normal((len(MASK), STEPS, FEATURES)).astype(float32)
    weights = [
        rng.standard_normal(variable.shape).astype(float32)
        for variable in layer.trainable_variables
    ]
    states = [
        rng.standard_normal((len(MASK), UNITS)).astype(float32)
        for _ in range(2 if op == "lstm" else 1)
    ]
    states = states if given.get("states") else None
    mask = MASK if given.get("mask") else None

    def call(x, weights, states):
        others = [variable.value for variable in layer.non_trainable_variables]
        return layer.stateless_call(weights, others, x, initial_state=states, mask=mask)[0]

    values, pullback = jax.vjp(call, x, weights, states)
    ours_options = {name: value for name, value in options.items() if name != "use_bias"}
    arrays = [x, *weights, *([None] * (3 - len(weights))), *(states or [])]
    ours = OPS[op].forward(*arrays, mask=mask, **ours_options)
    dy = tuple(d.astype(float32) for d in gradients_like(ours, rng))
    d_x, d_weights, d_states = pullback(type(values)(dy))
    gradients = OPS[op].backward(dy, *arrays, mask=mask, **ours_options)
    theirs = [*values, d_x, *d_weights, *(d_states or [])]
    for our, their in zip([*ours, *(g for g in gradients if g is not None)], theirs, strict=True):
        scale = np.abs(our).max()
        np.testing.assert_allclose(our, their, rtol=0, atol=2e-6 * max(scale, 1.0))


# --- Embedding -----------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [np.int32, np.int64])
def test_embedding_takes_rows(dtype, rng):
    table = rng.standard_normal((5, 3)).astype(np.float32)
    indices = np.array([[4, 0], [0, 3]], dtype)
    y = OPS["embedding"].forward(indices, table)
    assert y.dtype == np.float64
    np.testing.assert_array_equal(y, [[table[4], table[0]], [table[0], table[3]]])


def test_embedding_gradient_is_summed_in_the_order_of_the_indices():
    # In another order the large terms would not swallow the 1, or would leave it.
    dy = np.array([[1.0, 1e17], [1e17, 5.0], [-1e17, 1.0], [2.0, -1e17]])
    none, d_table = OPS["embedding"].backward(dy, np.array([1, 1, 1, 1]), np.zeros((3, 2)))
    assert none is None
    expected = [((1.0 + 1e17) - 1e17) + 2.0, ((1e17 + 5.0) + 1.0) - 1e17]
    np.testing.assert_array_equal(d_table, [[0, 0], expected, [0, 0]])
