"""lstm with layer normalization and projection: alone, together, with every other option."""

from __future__ import annotations

import itertools

import awkward_arrays
import hypothesis
import numpy as np
import op_checks
import pytest
from hypothesis import strategies as st
from recurrent_checks import (
    VECTORS,
    check,
    draw,
    draw_variant,
    gradients_like,
    tamed,
)
from reference import OPS
from reference.activations import FUSED

from lamella import ops, utils

F32 = np.float32
# What is normalized, and whether h is projected.
VARIANTS = {
    "normalized": {},
    "projected": {"vectors": (), "projected": 7},
    "both": {"projected": 7},
}
each_variant = pytest.mark.parametrize("variant", VARIANTS)


def options_of(variant, **more):
    return {**VARIANTS[variant], **more}


# batch, steps, inputs, units, projected: around tiles, blocks of 16 units and panels of 64.
SIZES = [
    (1, 1, 1, 1, 1),
    (1, 9, 5, 16, 16),
    (2, 3, 17, 15, 33),
    (5, 4, 3, 33, 20),
    (7, 6, 65, 20, 65),
    (13, 5, 64, 64, 32),
    (32, 28, 28, 64, 64),
    (2, 1, 9, 48, 16),
    (2, 1, 9, 48, 21),
    (9, 1, 9, 48, 16),
    (6, 5, 33, 144, 70),
    (17, 3, 70, 257, 129),
    (101, 2, 4, 6, 3),
]


@pytest.mark.parametrize("size", SIZES)
def test_sizes(size, backend, rng):
    *size, projected = size
    batch, steps = size[:2]
    ragged = {"lengths": rng.integers(0, steps + 1, batch), "go_backwards": True}
    for given in ({}, {"projected": projected}, {"projected": projected, "vectors": ()}):
        for options in ({}, ragged):
            check("lstm", draw_variant(rng, *size, **given), options, rng)


@pytest.mark.parametrize("projected", [None, 9])
def test_each_vector_alone_and_with_the_others(projected, backend, rng):
    mask = rng.random((5, 4)) < 0.7
    for count in range(len(VECTORS) + 1):
        for vectors in itertools.combinations(VECTORS, count):
            if "beta_c" in vectors and "gamma_c" not in vectors:
                continue
            for start in (True, False):
                arrays = draw_variant(
                    rng, 5, 4, 6, 21, projected, vectors, bias=start, h0=start, c0=start
                )
                check("lstm", arrays, {"mask": mask}, rng)


@each_variant
@pytest.mark.parametrize("activation", [name for name in FUSED if name is not None])
def test_activations(variant, activation, backend, rng):
    arrays = draw_variant(rng, 3, 4, 5, 19, **options_of(variant))
    check("lstm", arrays, {"activation": activation}, rng)
    options = {"recurrent_activation": activation}
    check("lstm", tamed(arrays, options), options, rng)


@hypothesis.settings(deadline=None, max_examples=100)
@hypothesis.given(data=st.data())
def test_every_option_with_every_other(data):
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32)))
    flag = st.booleans()
    # Errors are judged by the largest result: there must be enough results for one to be large.
    bounds = ((4, 12), (1, 7), (4, 20), (9, 80))
    batch, steps, inputs, units = size = [data.draw(st.integers(*each)) for each in bounds]
    projected = data.draw(st.one_of(st.none(), st.integers(9, 80)))
    vectors = {name for name in VECTORS if data.draw(flag)}
    if "gamma_c" not in vectors:
        vectors.discard("beta_c")
    arrays = draw_variant(rng, *size, projected, vectors, *(data.draw(flag) for _ in range(3)))
    state = units if projected is None else projected

    def zoneout(width):
        kind = data.draw(st.sampled_from(["no", "rate", "mask"]))
        return {"no": 0.0, "rate": 0.25, "mask": rng.random((batch, steps, width)) < 0.3}[kind]

    def scale(width):
        return ((rng.random((batch, width)) < 0.7) / 0.7).astype(F32)

    options = {
        "go_backwards": data.draw(flag),
        "mask": rng.random((batch, steps)) < 0.7 if data.draw(flag) else None,
        "lengths": rng.integers(0, steps + 1, batch) if data.draw(flag) else None,
        "x_scale": scale(inputs) if data.draw(flag) else None,
        "h_scale": scale(state) if data.draw(flag) else None,
        "activation": data.draw(st.sampled_from(["tanh", "tanh", "silu"])),
        # tanh leaves the output gate near 0 now and then: errors are divided by what h deviates.
        # It is in test_activations.
        "recurrent_activation": data.draw(st.sampled_from(["sigmoid", "gelu"])),
        "zoneout_h": zoneout(state),
        "zoneout_c": zoneout(units),
        "epsilon": data.draw(st.sampled_from([1e-3, 0.3])),
    }
    shapes = [(batch, steps, state), (batch, state), (batch, units)]
    dy = [rng.standard_normal(shape).astype(F32) if data.draw(flag) else None for shape in shapes]
    hypothesis.assume(any(d is not None for d in dy))
    check("lstm", tamed(arrays, options), options, rng, dy)


# -- what the equations promise -------------------------------------------------------------------


def test_the_identity_projects_nothing(backend, rng):
    """The two engines compute the same: bitwise, but for sums over the batch."""
    arrays = draw("lstm", rng, 7, 6, 5, 40)
    options = {"lengths": rng.integers(0, 7, 7), "zoneout_h": 0.2}
    plain, pull_plain = ops.lstm.vjp(*arrays, **options)
    arrays[6] = np.eye(40, dtype=F32)
    results, pull = ops.lstm.vjp(*arrays, **options)
    op_checks.assert_same_bits(results, plain)
    dy = gradients_like(plain, rng)
    for gradient, right in zip(pull(*dy)[:6], pull_plain(*dy)[:6], strict=True):
        np.testing.assert_allclose(gradient, right, rtol=1e-5, atol=1e-5 * np.abs(right).max())


def test_a_common_part_of_the_columns_is_taken_out(backend, rng):
    """Means a thousand times the deviation: a variance of squares less a square has no digits."""
    arrays = draw_variant(rng, 4, 3, 16, 24)
    expected = ops.lstm(*arrays, epsilon=1e-5)
    shift = 1000 * np.abs(rng.standard_normal((16, 1)))
    arrays[1] = (arrays[1] + shift).astype(F32)
    arrays[0] = np.abs(arrays[0])
    exact = OPS["lstm"].forward(*arrays, epsilon=1e-5)
    assert np.abs(exact[0] - expected[0]).max() > 0.1
    for result, right in zip(ops.lstm(*arrays, epsilon=1e-5), exact, strict=True):
        # The product itself is off by 2^-24 of 16 terms of 1000.
        np.testing.assert_allclose(result, right, atol=0.02)


def test_a_single_unit_has_no_deviation(backend, rng):
    """N(c') is beta_c then, and so y is o activation(beta_c)."""
    arrays = draw_variant(rng, 2, 3, 4, 1, vectors=("gamma_c", "beta_c"))
    outputs = check("lstm", arrays, {"recurrent_activation": "sigmoid"}, rng)[0][0]
    assert (np.sign(outputs) == np.sign(arrays[10])).all()


@pytest.mark.filterwarnings("ignore:LSTM with projections is not supported with oneDNN")
def test_projection_as_pytorch_has_it(backend, rng):
    torch = pytest.importorskip("torch")
    batch, steps, inputs, units, projected = 5, 7, 6, 20, 9
    arrays = draw_variant(rng, batch, steps, inputs, units, projected, ())
    x, kernel, recurrent_kernel, bias, h0, c0, projection_kernel = arrays[:7]
    layer = torch.nn.LSTM(inputs, units, batch_first=True, proj_size=projected)
    with torch.no_grad():
        layer.weight_ih_l0.copy_(torch.from_numpy(kernel.T.copy()))
        layer.weight_hh_l0.copy_(torch.from_numpy(recurrent_kernel.T.copy()))
        layer.weight_hr_l0.copy_(torch.from_numpy(projection_kernel.T.copy()))
        layer.bias_ih_l0.copy_(torch.from_numpy(bias))
        layer.bias_hh_l0.zero_()
    given = [torch.from_numpy(a.copy()).requires_grad_() for a in (x, h0[None], c0[None])]
    theirs, (h, c) = layer(given[0], (given[1], given[2]))
    results, pullback = ops.lstm.vjp(*arrays)
    for result, right in zip(results, (theirs, h[0], c[0]), strict=True):
        np.testing.assert_allclose(result, right.detach(), rtol=1e-5, atol=1e-5)
    dy = gradients_like(results, rng)
    loss = sum((torch.from_numpy(d) * y).sum() for d, y in zip(dy, (theirs, h, c), strict=True))
    loss.backward()
    weights = (layer.weight_ih_l0.grad.T, layer.weight_hh_l0.grad.T, layer.bias_ih_l0.grad)
    expected = [given[0].grad, *weights, given[1].grad[0], given[2].grad[0]]
    expected.append(layer.weight_hr_l0.grad.T)
    for gradient, right in zip(pullback(*dy), expected, strict=False):
        np.testing.assert_allclose(gradient, right, rtol=1e-4, atol=1e-4)


# -- masks, streams, threads ----------------------------------------------------------------------


@each_variant
def test_masked_steps_influence_nothing(variant, backend, rng):
    batch, steps, inputs = 6, 7, 9
    arrays = draw_variant(rng, batch, steps, inputs, 20, **options_of(variant))
    mask = rng.random((batch, steps)) < 0.6
    mask[0] = False
    expected, _ = check("lstm", arrays, {"mask": mask}, rng)
    dy = gradients_like(expected, rng)
    _, right = ops.lstm.vjp(*arrays, mask=mask)
    for junk in (np.nan, np.inf):
        x = arrays[0].copy()
        x[~mask] = junk
        results, pullback = ops.lstm.vjp(x, *arrays[1:], mask=mask)
        op_checks.assert_same_bits(results, expected)
        op_checks.assert_same_bits(pullback(*dy), right(*dy))


@each_variant
@pytest.mark.parametrize("batch", [1, 3, 7])
@pytest.mark.parametrize("units", [21, 48])
@pytest.mark.parametrize("h0", [True, False])
def test_one_step_after_the_other(variant, batch, units, h0, backend, rng):
    """Streaming: the states of one call are those of the next."""
    arrays = draw_variant(rng, batch, 8, 5, units, **options_of(variant, h0=h0, c0=h0))
    x, weights, states, others = arrays[0], arrays[1:4], arrays[4:6], arrays[6:]
    whole = ops.lstm(*arrays)
    for t in range(8):
        step = np.ascontiguousarray(x[:, t : t + 1])
        y, *states = ops.lstm(step, *weights, *states, *others)
        op_checks.assert_same_bits([y[:, 0]], [np.ascontiguousarray(whole[0][:, t])])
    op_checks.assert_same_bits(states, whole[1:])


@each_variant
@pytest.mark.parametrize("batch", [3, 11])
@pytest.mark.parametrize("units", [40, 160])
def test_same_bits_on_any_number_of_threads(variant, batch, units, backend, rng):
    for options in ({}, {"lengths": rng.integers(0, 7, batch)}):
        arrays = draw_variant(rng, batch, 6, 30, units, **options_of(variant))
        expected = None
        for threads in (1, 2, 5):
            utils.set_num_threads(threads)
            results, pullback = ops.lstm.vjp(*arrays, **options)
            dy = [np.cos(np.arange(r.size, dtype=F32)).reshape(r.shape) for r in results]
            found = [*results, *pullback(*dy), *ops.lstm(*arrays, **options)]
            expected = expected or found
            op_checks.assert_same_bits(found, expected)


@each_variant
def test_empty_batch(variant, backend, rng):
    arrays = draw_variant(rng, 0, 3, 4, 5, **options_of(variant))
    state = VARIANTS[variant].get("projected", 5)
    results, gradients = check("lstm", arrays, {}, rng)
    assert [r.shape for r in results] == [(0, 3, state), (0, state), (0, 5)]
    assert not any(g is not None and g.any() for g in gradients)


@each_variant
def test_nothing_but_masked_steps(variant, backend, rng):
    arrays = draw_variant(rng, 3, 4, 5, 6, **options_of(variant))
    (outputs, *states), gradients = check("lstm", arrays, {"lengths": np.zeros(3, int)}, rng)
    np.testing.assert_array_equal(outputs, np.repeat(arrays[4][:, None], 4, axis=1))
    op_checks.assert_same_bits(states, arrays[4:6])
    for i, gradient in enumerate(gradients):
        assert gradient is None or i in (4, 5) or not gradient.any()


@each_variant
def test_nan_spreads_within_its_sequence(variant, backend, rng):
    arrays = draw_variant(rng, 3, 4, 5, 6, **options_of(variant))
    for junk in (np.nan, np.inf):
        arrays[0][1, 2, 3] = junk
        outputs, h, c = ops.lstm(*arrays)
        if variant == "projected" and junk == np.inf:
            continue  # gates saturate, and the rest is finite
        assert np.isnan(outputs[1, 2:]).all() and np.isnan(h[1]).all() and np.isnan(c[1]).all()
        assert np.isfinite(outputs[[0, 2]]).all() and np.isfinite(outputs[1, :2]).all()


# -- the pullback, layouts, arguments -------------------------------------------------------------


@each_variant
@pytest.mark.parametrize("steps", [1, 5])
def test_pullback(variant, steps, backend, rng):
    arrays = draw_variant(rng, 4, steps, 6, 12, **options_of(variant))
    results, pullback = ops.lstm.vjp(*arrays)
    dy = gradients_like(results, rng)
    expected = pullback(*dy)
    assert [g is None for g in expected] == [a is None for a in arrays]
    op_checks.assert_same_bits(pullback(*dy), expected)
    out = [None if g is None else np.full_like(g, np.nan) for g in expected]
    for gradient, place in zip(pullback(*dy, out=out), out, strict=True):
        assert gradient is place
    op_checks.assert_same_bits(out, expected)
    assert not any(g is not None and g.any() for g in pullback(None, None, None))
    for wanted in range(len(arrays)):
        needs = tuple(i == wanted for i in range(len(arrays)))
        _, one = ops.lstm.vjp(*arrays, needs=needs)
        op_checks.assert_same_gradients("lstm", one(*dy), expected, needs)
    last = max(i for i, array in enumerate(arrays) if array is not None)
    places = [None] * len(arrays)
    places[0] = np.empty_like(arrays[0])
    places[last] = arrays[last]
    name = ("projection_kernel", *VECTORS)[last - 6]
    with pytest.raises(ValueError, match=rf"^lstm: out\[{last}\] is .* must not overlap {name}"):
        pullback(*dy, out=places)
    with pytest.raises(ValueError, match=r"^lstm: dy\[2\] must have shape \(4, 12\)"):
        pullback(None, None, dy[1][:, :5])
    with pytest.raises(ValueError, match=r"^lstm: needs must have 11 entries"):
        ops.lstm.vjp(*arrays, needs=[True] * 6)


def test_arrays_of_any_layout(rng):
    arrays = draw_variant(rng, 4, 5, 6, 7, 3)
    expected = ops.lstm(*arrays)
    for layout in awkward_arrays.LAYOUTS.values():
        op_checks.assert_same_bits(ops.lstm(*map(layout, arrays)), expected)


# Of batch 3, 5 steps, 4 inputs, 6 units, 2 projected: what is replaced, and what is said of it.
WRONG = {
    "c0 as wide as h": ({5: np.zeros((3, 2), F32)}, {}, r"c0 must have shape \(3, 6\)"),
    "h0 as wide as c": ({4: np.zeros((3, 6), F32)}, {}, r"h0 must have shape \(3, 2\)"),
    "recurrent kernel of U rows": (
        {2: np.zeros((6, 24), F32)},
        {},
        r"recurrent_kernel must have shape \(2, 24\) \(P rows and 4U columns for "
        r"projection_kernel \(U, P\)\), got \(6, 24\)",
    ),
    "projection the wrong way round": (
        {6: np.zeros((2, 6), F32)},
        {},
        r"recurrent_kernel must have shape \(6, 8\)",
    ),
    "projection of one axis": ({6: np.zeros(6, F32)}, {}, "projection_kernel must have 2 axes"),
    "projection to nothing": (
        {2: np.zeros((0, 24), F32), 6: np.zeros((6, 0), F32)},
        {},
        r"projection_kernel must have at least one column, got \(6, 0\)",
    ),
    "projection of no units": (
        {2: np.zeros((2, 0), F32), 6: np.zeros((0, 2), F32)},
        {},
        "projection_kernel must have at least one unit",
    ),
    "projection dtype": ({6: np.zeros((6, 2))}, {}, "projection_kernel must be float32"),
    "gamma_x": ({7: np.zeros(6, F32)}, {}, r"gamma_x must have shape \(24,\)"),
    "gamma_h": ({8: np.zeros((1, 24), F32)}, {}, r"gamma_h must have shape \(24,\)"),
    "gamma_c": ({9: np.zeros(24, F32)}, {}, r"gamma_c must have shape \(6,\)"),
    "beta_c": ({10: np.zeros(2, F32)}, {}, r"beta_c must have shape \(6,\)"),
    "gamma a number": ({7: 1.0}, {}, "gamma_x must be a NumPy array"),
    "gamma dtype": ({8: np.zeros(24)}, {}, "gamma_h must be float32"),
    "beta_c alone": ({9: None}, {}, "beta_c needs gamma_c"),
    "h_scale": ({}, {"h_scale": np.ones((3, 6), F32)}, r"h_scale must have shape \(3, 2\)"),
    "zoneout of h": (
        {},
        {"zoneout_h": np.ones((3, 5, 6), bool)},
        r"zoneout_h must have shape \(3, 5, 2\)",
    ),
    "zoneout of c": (
        {},
        {"zoneout_c": np.ones((3, 5, 2), bool)},
        r"zoneout_c must have shape \(3, 5, 6\)",
    ),
    "epsilon of 0": ({}, {"epsilon": 0.0}, "epsilon must be positive, got 0.0"),
    "negative epsilon": ({}, {"epsilon": -1e-3}, "epsilon must be positive"),
    "epsilon that rounds to 0": ({}, {"epsilon": 1e-60}, "epsilon must be positive, got 1e-60"),
    "epsilon nan": ({}, {"epsilon": np.nan}, "epsilon must be a finite number"),
    "epsilon inf": ({}, {"epsilon": np.inf}, "epsilon must be a finite number"),
    "epsilon a string": ({}, {"epsilon": "small"}, "epsilon must be a"),
}


@pytest.mark.parametrize("what", WRONG)
def test_refuses(what, rng):
    replaced, options, text = WRONG[what]
    arrays = draw_variant(rng, 3, 5, 4, 6, 2)
    for i, array in replaced.items():
        arrays[i] = array
    for call in (ops.lstm, ops.lstm.vjp):
        with pytest.raises((ValueError, TypeError), match=f"^lstm: {text}"):
            call(*arrays, **options)


def test_sizes_beyond_memory_and_63_bits():
    def huge(*shape):
        return np.broadcast_to(F32(0), shape)

    weights = (huge(1, 4), huge(2**30, 4), None, None, None, huge(1, 2**30))
    with pytest.raises(ValueError, match=r"lstm: .*overflows 63 bits"):
        ops.lstm(huge(2**20, 2**20, 1), *weights)
    with pytest.raises(MemoryError, match=r"lstm: out of memory, could not allocate \d+ bytes"):
        ops.lstm(huge(2**10, 2**10, 1), *weights)
