"""rotary_embedding: both layouts of pairs, shared angles and one's own, every instruction set."""

from __future__ import annotations

import doctest
import re
import sys

import hypothesis
import numpy as np
import op_checks
import pytest
from hypothesis import strategies as st
from reference import OPS
from tolerances import assert_close

from lamella import ops

NAME = "rotary_embedding"
reference = OPS[NAME]
each_pairing = pytest.mark.parametrize("interleaved", [False, True])


def case(rng, batch=2, steps=3, heads=2, width=6, each=False):
    x = rng.standard_normal((batch, steps, heads, width)).astype(np.float32)
    angles = rng.uniform(-7, 7, (batch, steps, width // 2) if each else (steps, width // 2))
    return [x, np.cos(angles).astype(np.float32), np.sin(angles).astype(np.float32)]


def check(arrays, interleaved):
    options = {"interleaved": interleaved}
    y, pullback = ops.rotary_embedding.vjp(*arrays, **options)
    assert_close(y, reference.forward(*arrays, **options), NAME, "forward")
    dy = op_checks.gradient_like(y)
    dx, *others = pullback(dy)
    assert others == [None, None]
    assert_close(dx, reference.backward(dy, *arrays, **options)[0], NAME, "backward")


# Halves of less than a vector, of several of each instruction set, and tails.
@each_pairing
@pytest.mark.parametrize("half", [1, 2, 3, 4, 5, 7, 8, 9, 15, 16, 17, 31, 32, 33, 64, 100])
def test_sizes(half, interleaved, backend, rng):
    for each in (False, True):
        check(case(rng, width=2 * half, each=each), interleaved)


@each_pairing
@hypothesis.settings(
    max_examples=40,
    deadline=None,
    suppress_health_check=[hypothesis.HealthCheck.function_scoped_fixture],
)
@hypothesis.given(
    batch=st.integers(0, 3),
    steps=st.integers(0, 5),
    heads=st.integers(1, 4),
    half=st.integers(1, 40),
    each=st.booleans(),
    seed=st.integers(0, 2**32),
)
def test_any_shape(interleaved, backend, batch, steps, heads, half, each, seed):
    check(case(np.random.default_rng(seed), batch, steps, heads, 2 * half, each), interleaved)


@each_pairing
@pytest.mark.parametrize(
    ("batch", "steps", "heads", "width"),
    [(3, 400, 8, 64), (1, 2, 3, 20_000), (2, 3001, 1, 14), (9, 700, 16, 128)],
)
def test_sizes_that_are_cut_into_tasks(batch, steps, heads, width, interleaved, backend, rng):
    check(case(rng, batch, steps, heads, width), interleaved)


@each_pairing
def test_results_past_the_caches(interleaved, backend, rng):
    # 256 MiB; too large to compare in float64 as a whole.
    arrays = case(rng, 1, 2**13, 16, 128)
    arrays[0] = np.broadcast_to(arrays[0], (4, *arrays[0].shape[1:])).copy()
    y = ops.rotary_embedding(*arrays, interleaved=interleaved)
    part = slice(7_000, 7_050)
    few = arrays[0][:, part], arrays[1][part], arrays[2][part]
    expected = ops.rotary_embedding(*few, interleaved=interleaved)
    assert y[:, part].tobytes() == expected.tobytes()
    assert_close(expected, reference.forward(*few, interleaved=interleaved), NAME, "forward")


@each_pairing
def test_turning_back(interleaved, backend, rng):
    x, cos, sin = case(rng, 3, 5, 2, 34)
    y, pullback = ops.rotary_embedding.vjp(x, cos, sin, interleaved=interleaved)
    np.testing.assert_allclose(pullback(y)[0], x, atol=3e-7 * float(np.abs(x).max()))
    norm = np.linalg.norm(x.astype(np.float64), axis=-1)
    np.testing.assert_allclose(np.linalg.norm(y.astype(np.float64), axis=-1), norm, rtol=3e-7)


@each_pairing
def test_specials_stay_within_their_pair(interleaved, backend, rng):
    x, cos, sin = case(rng, 2, 4, 3, 22)
    expected = ops.rotary_embedding(x, cos, sin, interleaved=interleaved)
    damaged = x.copy()
    damaged[1, 2, 1, 3] = np.nan
    damaged[0, 0, 2, 21] = np.inf
    touched = reference.forward(
        ~np.isfinite(damaged), np.ones(cos.shape), np.ones(cos.shape), interleaved=interleaved
    )
    y = ops.rotary_embedding(damaged, cos, sin, interleaved=interleaved)
    assert np.count_nonzero(touched) == 4
    assert not np.isfinite(y[touched != 0]).any()
    np.testing.assert_array_equal(y[touched == 0], expected[touched == 0])


@each_pairing
@pytest.mark.parametrize("each", [False, True])
def test_calling(each, interleaved, backend, rng):
    arrays, options = case(rng, 2, 5, 3, 12, each), {"interleaved": interleaved}
    op_checks.check_forward_alone_is_the_same(NAME, arrays, options)
    op_checks.check_nothing_is_changed_or_shared(NAME, arrays, options)
    op_checks.check_layouts(NAME, arrays, options)
    op_checks.check_pullback(NAME, arrays, options)


@each_pairing
def test_same_bits_for_any_number_of_threads(interleaved, backend, rng):
    options = {"interleaved": interleaved}
    op_checks.check_thread_counts(NAME, case(rng, 3, 333, 5, 18), options)


def test_refused_calls(rng):
    arrays = case(rng)
    op_checks.check_pullback_refuses(NAME, arrays, {})
    for position, argument in enumerate(("x", "cos", "sin")):
        op_checks.check_only_float32_arrays(NAME, arrays, {}, position, argument)
    _, pullback = ops.rotary_embedding.vjp(*arrays)
    memory = np.zeros(100, np.float32)
    cos = memory[:9].reshape(3, 3)
    _, pullback = ops.rotary_embedding.vjp(arrays[0], cos, arrays[2])
    with pytest.raises(ValueError, match=f"^{NAME}: out is written and must not overlap cos"):
        pullback(arrays[0], out=(memory[:72].reshape(2, 3, 2, 6), None, None))


@pytest.mark.parametrize(
    ("shapes", "options", "message"),
    [
        ([(2, 3, 6), (3, 3), (3, 3)], {}, "x must have 4 axes (N, S, A, E), got shape (2, 3, 6)"),
        ([(2, 3, 2, 5), (3, 2), (3, 2)], {}, "of an even number of elements, got shape (2, 3, 2"),
        ([(2, 3, 2, 0), (3, 0), (3, 0)], {}, "of an even number of elements, got shape (2, 3, 2"),
        ([(2, 3, 0, 6), (3, 3), (3, 3)], {}, "at least one head of an even number"),
        (
            [(2, 3, 2, 6), (3, 6), (3, 3)],
            {},
            "cos must have shape (3, 3) ((S, E / 2), or with N in front, of x (N, S, A, E)), "
            "got (3, 6)",
        ),
        ([(2, 3, 2, 6), (1, 3, 3), (1, 3, 3)], {}, "cos must have shape (2, 3, 3)"),
        ([(2, 3, 2, 6), (3, 3), (2, 3, 3)], {}, "sin must have shape (3, 3) (that of cos)"),
        ([(2, 3, 2, 6), (2, 3, 3), (3, 3)], {}, "sin must have shape (2, 3, 3) (that of cos)"),
        ([(2, 3, 2, 6), (4, 3), (4, 3)], {}, "cos must have shape (3, 3)"),
        ([(2, 3, 2, 6), (), ()], {}, "cos must have shape (3, 3)"),
        ([(2, 3, 2, 6), (3, 3), (3, 3)], {"interleaved": 1}, "interleaved must be True or False"),
        ([(0, 2**30, 1, 2**28), (1, 1), (1, 1)], {}, "cos must have shape"),
    ],
    ids=str,
)
def test_refused_shapes_and_options(shapes, options, message):
    arrays = [np.zeros(shape, np.float32) for shape in shapes]
    op_checks.check_refused_before_allocating(
        NAME, arrays, options, ValueError, f"^{NAME}: .*{re.escape(message)}"
    )


@each_pairing
def test_parity_with_torch(interleaved, backend, rng):
    pytest.importorskip("torch")
    from reference import torch_peer

    arrays = case(rng, 2, 7, 3, 26, each=True)
    y, pullback = ops.rotary_embedding.vjp(*arrays, interleaved=interleaved)
    dy = op_checks.gradient_like(y)
    (their_y,), (their_dx, *_) = torch_peer.values_and_gradients(
        NAME, [a.astype(np.float64) for a in arrays], (dy,), {"interleaved": interleaved}
    )
    assert_close(y, their_y, NAME, "forward")
    assert_close(pullback(dy)[0], their_dx, NAME, "backward")


def test_examples():
    assert doctest.testmod(sys.modules["lamella.ops.rotary_embedding"]).failed == 0
