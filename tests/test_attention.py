"""attention: values, gradients, every option with every other, what it refuses."""

from __future__ import annotations

import doctest
import importlib
import subprocess
import sys
import textwrap

import attention_checks
import awkward_arrays
import hypothesis
import numpy as np
import op_checks
import pytest
from hypothesis import strategies as st
from reference.attention_cases import ATTENTION_DRAWS, attention_case
from reference.cases import CASES, make_arrays

from lamella import ops


def check(arrays, options, rng, magnitude=1.0):
    (batch, queries, heads, width), (_, keys, key_heads, value_width) = (
        arrays[0].shape,
        arrays[2].shape,
    )
    shape = (batch, heads, queries, keys)
    shared = queries * heads // key_heads
    more = value_width + keys
    bias = 0 if arrays[4] is None else batch * heads * queries * keys
    terms = (width + keys, (more + keys, more + shared, shared, 0, more + bias))
    return attention_checks.check("attention", arrays, options, shape, terms, rng, magnitude)


def draw(rng, batch, queries, keys, heads, key_heads, width, value_width, mask=None, bias=None):
    """float32 arrays; mask and bias are shapes."""
    query, key, value = (
        rng.standard_normal(shape).astype(np.float32)
        for shape in (
            (batch, queries, heads, width),
            (batch, keys, key_heads, width),
            (batch, keys, key_heads, value_width),
        )
    )
    mask = None if mask is None else rng.random(mask) < 0.7
    bias = None if bias is None else rng.standard_normal(bias).astype(np.float32)
    return [query, key, value, mask, bias]


ATTENTION_CASES = [(shapes, options) for op, shapes, options in CASES if op == "attention"]


@pytest.mark.parametrize("case", range(len(ATTENTION_CASES)))
def test_cases_of_the_reference(case, backend, rng):
    shapes, options = ATTENTION_CASES[case]
    check(make_arrays("attention", shapes, options, rng), options, rng)


@hypothesis.settings(deadline=None, max_examples=200)
@hypothesis.given(drawn=st.fixed_dictionaries(ATTENTION_DRAWS), seed=st.integers(0, 2**32))
def test_every_option_with_every_other(drawn, seed):
    rng = np.random.default_rng(seed)
    check(*attention_case(rng, **drawn), rng)


# Around the blocks: 512 keys and 24 rows forward, 128 keys and 120 rows backward, few queries.
LARGE = {
    "batch": st.integers(1, 2),
    "queries": st.sampled_from([1, 3, 23, 25, 49, 121, 130]),
    "keys": st.sampled_from([31, 64, 127, 130, 300, 513, 600]),
    "group": st.sampled_from([1, 2, 5]),
    "key_heads": st.sampled_from([1, 2]),
    "width": st.sampled_from([3, 8, 17, 32, 65]),
    "value_width": st.sampled_from([5, 8, 16, 33, 70]),
    "query_offset": st.sampled_from([None, 0, 40, -7, "each"]),
    "window": st.sampled_from([None, 0, 50, (7, 20), (None, 3), (200, None)]),
}


@hypothesis.settings(deadline=None, max_examples=60)
@hypothesis.given(
    drawn=st.fixed_dictionaries({**ATTENTION_DRAWS, **LARGE}), seed=st.integers(0, 2**32)
)
def test_every_option_at_the_edges_of_blocks(drawn, seed):
    rng = np.random.default_rng(seed)
    # Scores have deviation 1 whatever the width, or few keys take all the weight.
    drawn["scale"] = None if drawn["scale"] else drawn["scale"]
    # Distances make scores of up to half of them, whose rounding is that much larger.
    magnitude = (drawn["queries"] + drawn["keys"]) / 16 if drawn["alibi"] else 1.0
    check(*attention_case(rng, **drawn), rng, max(magnitude, 1.0))


@pytest.mark.parametrize(
    ("size", "options"),
    [
        ((2, 100, 100, 1, 1, 64, 64), {}),
        ((1, 100, 100, 8, 8, 8, 8), {"causal": True}),
        ((1, 260, 1100, 2, 2, 16, 16), {"causal": True, "dropout": 0.3}),
        ((1, 600, 600, 1, 1, 20, 20), {"window": (100, 30), "query_offset": 50}),
        ((2, 1, 700, 8, 2, 64, 48), {"key_lengths": np.array([0, 433])}),
        ((1, 4, 700, 2, 1, 30, 31), {"causal": True, "dropout": 0.2, "return_lse": True}),
        ((3, 1, 64, 2, 2, 128, 128), {"return_weights": True}),
        ((1, 37, 129, 3, 3, 1, 1), {"softcap": 3.0}),
    ],
    ids=str,
)
def test_sizes(size, options, backend, rng):
    check(draw(rng, *size), options, rng)


def test_large_scores(backend, rng):
    """Scores far apart: the largest is found, block after block, and nothing overflows."""
    arrays = draw(rng, 1, 30, 1200, 2, 2, 8, 8)
    arrays[0] *= 30
    arrays[1] *= np.linspace(0.1, 3, 1200, dtype=np.float32)[:, None, None]
    check(arrays, {"return_lse": True}, rng, magnitude=300.0)
    arrays[0] *= 100
    y, lse = ops.attention(*arrays, return_lse=True)
    assert np.isfinite(y).all() and np.isfinite(lse).all() and np.abs(lse).max() > 1000


@pytest.mark.parametrize("junk", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize(("queries", "keys"), [(5, 70), (130, 140), (1, 600)])
def test_what_a_mask_hides_influences_nothing(queries, keys, junk, backend, rng):
    arrays = draw(rng, 2, queries, keys, 4, 2, 9, 10, bias=(2, 1, queries, keys))
    mask = rng.random((2, 1, queries, keys)) < 0.6
    mask[0, :, queries // 2] = False
    hidden = np.arange(keys) % 3 == 1
    mask[..., hidden] = False
    arrays[3] = mask
    results, pullback = ops.attention.vjp(*arrays, return_lse=True)
    dy = attention_checks.gradients_like(results, rng)
    gradients = pullback(*dy)
    query, key, value, _, bias = (a.copy() for a in arrays)
    key[:, hidden] = junk
    value[:, hidden] = junk
    bias[~mask] = junk
    query[0, queries // 2] = junk
    spoiled, pullback = ops.attention.vjp(query, key, value, mask, bias, return_lse=True)
    for result, expected in zip(spoiled, results, strict=True):
        np.testing.assert_allclose(result, expected, rtol=1e-5, atol=1e-6)
    dy[0] = dy[0].copy()
    dy[0][0, queries // 2] = junk
    for gradient, expected in zip(pullback(*dy), gradients, strict=True):
        if expected is not None:
            scale = np.abs(expected).max()
            np.testing.assert_allclose(gradient, expected, rtol=1e-5, atol=1e-5 * scale)


def test_a_key_that_only_later_queries_see_may_be_anything(backend, rng):
    arrays = draw(rng, 1, 40, 40, 1, 1, 8, 8)
    expected = ops.attention(*arrays, causal=True)
    arrays[1][0, 25:] = np.nan
    arrays[2][0, 25:] = np.inf
    y, pullback = ops.attention.vjp(*arrays, causal=True)
    np.testing.assert_allclose(y[:, :25], expected[:, :25], rtol=1e-5, atol=1e-6)
    assert not np.isfinite(y[:, 25:]).any()
    dy = np.zeros_like(y)
    dy[:, :25] = 1.0
    assert np.isfinite(pullback(dy)[0][:, :25]).all()


def test_a_visible_nan_shows(backend, rng):
    for position, special in ((0, np.nan), (1, np.nan), (2, np.nan), (2, np.inf)):
        arrays = draw(rng, 1, 50, 60, 1, 1, 8, 8)
        arrays[position][0, 30] = special
        y = ops.attention(*arrays)
        rows = slice(30, 31) if position == 0 else slice(None)
        assert not np.isfinite(y[:, rows]).any()
        if position == 0:
            assert np.isfinite(np.delete(y, 30, axis=1)).all()


def test_queries_that_see_nothing(backend, rng):
    for options in (
        {"key_lengths": np.array([0, 0])},
        {"causal": True, "query_offset": -1000},
        {"window": (0, 3), "query_offset": 2**62},
        {"window": 2, "query_offset": np.array([-(2**40), 2**40])},
    ):
        for queries in (1, 30):
            arrays = draw(rng, 2, queries, 70, 2, 1, 5, 6)
            results, pullback = ops.attention.vjp(
                *arrays, **options, return_lse=True, return_weights=True
            )
            y, lse, weights = results
            assert not y.any() and not weights.any() and (lse == -np.inf).all()
            gradients = pullback(*(np.full_like(r, np.nan) for r in results))
            assert all(not g.any() for g in gradients if g is not None)
    arrays = draw(rng, 2, 3, 0, 2, 1, 5, 6)
    y, pullback = ops.attention.vjp(*arrays)
    assert y.shape == (2, 3, 2, 6) and not y.any()
    assert all(g is None or not g.any() for g in pullback(y))


def test_no_bound_is_no_bound_whatever_the_offset(backend, rng):
    arrays = draw(rng, 1, 4, 9, 1, 1, 5, 6)
    expected = ops.attention(*arrays)
    for offset in (-(2**70), -(2**59), 0, 2**59, 2**70):
        for options in ({}, {"window": (None, None)}, {"window": (2**80, 2**62)}):
            if offset and "window" in options and options["window"][0]:
                continue
            try:
                y = ops.attention(*arrays, query_offset=offset, **options)
            except ValueError as error:
                assert "does not fit 63 bits" in str(error)
                continue
            op_checks.assert_same_bits([y], [expected])


def test_dropout_is_the_documented_mask(backend, rng):
    arrays = draw(rng, 2, 40, 70, 4, 2, 8, 8)
    options = {"dropout": 0.3, "seed": attention_checks.SEED, "return_weights": True}
    _, weights = ops.attention(*arrays, **options)
    expected = attention_checks.kept(attention_checks.SEED, 0.3, 2, 4, 40, 70)
    np.testing.assert_array_equal(weights != 0, expected)
    _, plain = ops.attention(*arrays, return_weights=True)
    np.testing.assert_allclose(weights[expected], plain[expected] / 0.7, rtol=1e-5)
    # The same mask in backward: dv = w^T dy.
    y, pullback = ops.attention.vjp(*arrays, dropout=0.3, seed=attention_checks.SEED)
    dy = rng.standard_normal(y.shape).astype(np.float32)
    dv = np.einsum("nasl,nsae->nlae", weights.astype(np.float64), dy.astype(np.float64))
    dv = dv.reshape(2, 70, 2, 2, 8).sum(axis=3)
    np.testing.assert_allclose(pullback(dy)[2], dv, rtol=1e-4, atol=1e-4)
    other = ops.attention(*arrays, dropout=0.3, seed=1)
    assert not np.allclose(other, y)
    # A rate so small keeps everything.
    np.testing.assert_allclose(
        ops.attention(*arrays, dropout=1e-12, seed=1), ops.attention(*arrays), rtol=1e-5, atol=1e-6
    )


def test_decoding_is_the_whole_token_by_token(backend, rng):
    """Each query alone, against the keys so far, gives what it gives among all others."""
    arrays = draw(rng, 2, 90, 90, 4, 2, 16, 16)
    whole = ops.attention(*arrays, causal=True)
    query, key, value = arrays[:3]
    for t in (0, 1, 40, 63, 64, 65, 89):
        one = ops.attention(query[:, t : t + 1], key[:, : t + 1], value[:, : t + 1])
        np.testing.assert_allclose(one[:, 0], whole[:, t], rtol=1e-5, atol=1e-6)
        full = ops.attention(query[:, t : t + 1], key, value, key_lengths=np.full(2, t + 1))
        np.testing.assert_allclose(full[:, 0], whole[:, t], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    "size", [(2, 70, 300, 4, 2, 16, 24), (1, 130, 600, 1, 1, 8, 8), (3, 1, 400, 4, 2, 16, 24)]
)
def test_same_bits_on_any_number_of_threads(size, backend, rng):
    batch, queries, keys, heads = size[:4]
    for mask, bias, options in (
        (None, None, {}),
        ((queries, keys), (1, heads, queries, keys), {"dropout": 0.2, "seed": 3}),
        ((batch, 1, 1, keys), (queries, keys), {"causal": True, "softcap": 4.0}),
        (None, (batch, 1, queries, 1), {"window": (90, 20)}),
    ):
        arrays = draw(rng, *size, mask, bias)
        op_checks.check_thread_counts("attention", arrays, options)


def test_long_sequences_need_no_array_of_all_scores():
    """In a process of its own, whose peak is that of this op."""
    program = """
        import numpy as np
        from lamella import _cpu, ops

        x = np.random.default_rng(0).standard_normal((1, 16384, 1, 8)).astype(np.float32)
        y, pullback = ops.attention.vjp(x, x, x, window=(64, 0))  # a window, to be quick
        pullback(y)
        print(_cpu.memory_stats()["peak_bytes_in_use"])
        few = ops.attention(x[:, 9000:9001], x[:, 8936:9001], x[:, 8936:9001])
        np.testing.assert_allclose(y[:, 9000:9001], few, rtol=1e-5, atol=1e-6)
        ops.attention(x, x, x)
        print(_cpu.memory_stats()["peak_bytes_in_use"])
    """
    command = [sys.executable, "-c", textwrap.dedent(program)]
    peaks = subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()
    assert all(int(peak) < 16384 * 16384 * 4 // 50 for peak in peaks) and len(peaks) == 2


def test_the_pullback(backend, rng):
    arrays = draw(rng, 2, 9, 40, 4, 2, 5, 6, (9, 40), (1, 4, 9, 1))
    op_checks.check_pullback("attention", arrays, {"causal": True, "dropout": 0.1, "seed": 2})
    op_checks.check_nothing_is_changed_or_shared("attention", arrays, {})
    results, pullback = ops.attention.vjp(*arrays, return_lse=True, return_weights=True)
    dy = attention_checks.gradients_like(results, rng)
    together = pullback(*dy)
    parts = [pullback(*(d if i == j else None for j, d in enumerate(dy))) for i in range(3)]
    for whole, *some in zip(together, *parts, strict=True):
        if whole is not None:
            np.testing.assert_allclose(whole, sum(some), rtol=1e-4, atol=1e-4)
    with pytest.raises(ValueError, match=r"^attention: the pullback takes 3 gradients, got 1"):
        pullback(dy[0])
    for i, name in enumerate(("dy", "dlse", "dweights")):
        wrong = [d[:-1] if i == j else d for j, d in enumerate(dy)]
        with pytest.raises(ValueError, match=f"^attention: {name} must have shape"):
            pullback(*wrong)
    with pytest.raises(ValueError, match=r"out\[0\] is written and must not overlap"):
        pullback(*dy, out=[arrays[0], None, None, None, None])


def test_layouts(backend, rng):
    arrays = draw(rng, 2, 9, 40, 4, 2, 5, 6, (9, 40), (1, 4, 9, 1))
    op_checks.check_layouts("attention", arrays, {"causal": True})
    strided = np.broadcast_to(arrays[3], (2, 4, 9, 40))
    whole = ops.attention(*arrays)
    op_checks.assert_same_bits([ops.attention(*arrays[:3], strided, arrays[4])], [whole])


def ones(*shape):
    return np.ones(shape, np.float32)


Q, KV = (2, 3, 4, 5), (2, 6, 2, 5)
WRONG = [
    ([Q[1:], KV, KV], {}, "query must have 4 axes (N, S, A, E), got shape (3, 4, 5)"),
    ([Q, KV[1:], KV], {}, "key must have 4 axes (N, L, K, E)"),
    ([Q, KV, KV[1:]], {}, "value must have 4 axes (N, L, K, Ev)"),
    ([Q, (3, 6, 2, 5), KV], {}, "key must have shape (2, 6, 2, 5) (N and E of query"),
    ([Q, (2, 6, 2, 4), KV], {}, "key must have shape (2, 6, 2, 5)"),
    ([Q, KV, (2, 7, 2, 5)], {}, "value must have shape (2, 6, 2, 5) (N, L and K of key"),
    ([Q, KV, (2, 6, 1, 5)], {}, "value must have shape (2, 6, 2, 5)"),
    ([Q, (2, 6, 3, 5), (2, 6, 3, 5)], {}, "the heads of key must divide those of query, got 3"),
    ([Q, (2, 6, 0, 5), (2, 6, 0, 5)], {}, "the heads of key must divide those of query, got 0"),
    ([(2, 3, 0, 5), KV, KV], {}, "query must have at least one head of at least one element"),
    ([(2, 3, 4, 0), (2, 6, 2, 0), KV], {}, "query must have at least one head"),
    ([Q, KV, (2, 6, 2, 0)], {}, "value must have heads of at least one element"),
    ([Q, KV, KV, None, (5, 6)], {}, "bias must broadcast to (N, A, S, L) = (2, 4, 3, 6), got"),
    ([Q, KV, KV, None, (1, 2, 4, 3, 6)], {}, "bias must broadcast"),
    ([Q, KV, KV], {"scale": np.inf}, "scale must be a finite number, got inf"),
    ([Q, KV, KV], {"scale": "1"}, "scale must be a finite number"),
    ([Q, KV, KV], {"causal": 1}, "causal must be True or False, got 1"),
    ([Q, KV, KV], {"query_offset": 0.5}, "query_offset must be an integer, got 0.5"),
    ([Q, KV, KV], {"query_offset": np.zeros(3, int)}, "query_offset must have shape (2,)"),
    ([Q, KV, KV], {"query_offset": np.array([0, 2**60])}, "query_offset must lie within 2**59"),
    ([Q, KV, KV], {"key_lengths": np.array([1, 7])}, "key_lengths must lie in [0, 6], got 7 for"),
    ([Q, KV, KV], {"key_lengths": np.array([-1, 6])}, "key_lengths must lie in [0, 6], got -1"),
    ([Q, KV, KV], {"key_lengths": np.array([1])}, "key_lengths must have shape (2,)"),
    ([Q, KV, KV], {"window": -1}, "window must not be negative, got -1"),
    ([Q, KV, KV], {"window": (1, -2)}, "window must not be negative, got (1, -2)"),
    ([Q, KV, KV], {"window": (1, 2, 3)}, "window must be an integer or (left, right), got"),
    ([Q, KV, KV], {"window": "1"}, "window must be an integer"),
    ([Q, KV, KV], {"softcap": 0}, "softcap must be positive, got 0"),
    ([Q, KV, KV], {"softcap": -1.5}, "softcap must be positive, got -1.5"),
    ([Q, KV, KV], {"softcap": np.nan}, "softcap must be a finite number"),
    ([Q, KV, KV], {"alibi_slopes": ones(2)}, "alibi_slopes must have shape (4,) (one a head"),
    ([Q, KV, KV], {"dropout": 1.0, "seed": 1}, "dropout must lie in [0, 1), got 1"),
    ([Q, KV, KV], {"dropout": -0.1, "seed": 1}, "dropout must lie in [0, 1), got -0.1"),
    ([Q, KV, KV], {"dropout": 0.5}, "dropout needs a seed"),
    ([Q, KV, KV], {"dropout": 0.5, "seed": -1}, "seed must be an integer in [0, 2**64), got -1"),
    ([Q, KV, KV], {"return_lse": 1}, "return_lse must be True or False"),
    ([Q, KV, KV], {"return_weights": None}, "return_weights must be True or False"),
]


@pytest.mark.parametrize("case", range(len(WRONG)))
def test_what_it_refuses(case):
    shapes, options, message = WRONG[case]
    arrays = [None if shape is None else ones(*shape) for shape in shapes]
    for function in (ops.attention, ops.attention.vjp):
        with pytest.raises(ValueError) as caught:
            function(*arrays, **options)
        assert str(caught.value).startswith(f"attention: {message}")


def test_what_types_it_refuses():
    arrays = [ones(*Q), ones(*KV), ones(*KV)]
    for position, name in enumerate(("query", "key", "value")):
        op_checks.check_only_float32_arrays("attention", arrays, {}, position, name)
    more = [*arrays, None, ones(6)]
    op_checks.check_only_float32_arrays("attention", more, {}, 4, "bias", optional=True)
    for wrong in (ones(6), np.ones(6, np.int8), [True] * 6, True):
        with pytest.raises(TypeError, match=r"^attention: mask must be"):
            ops.attention(*arrays, wrong)
    with pytest.raises(ValueError, match=r"^attention: mask must broadcast to \(N, A, S, L\)"):
        ops.attention(*arrays, np.ones((3, 1), bool).T)
    for name in ("key_lengths", "query_offset"):
        with pytest.raises(TypeError, match=f"^attention: {name} must be int32 or int64"):
            ops.attention(*arrays, **{name: ones(2)})
    for wrong in awkward_arrays.NOT_FLOAT32_ARRAYS.values():
        if wrong is not None:
            with pytest.raises(TypeError, match=r"^attention: alibi_slopes must be"):
                ops.attention(*arrays, alibi_slopes=wrong)


def test_sizes_that_overflow():
    def huge(*shape):
        return np.broadcast_to(np.float32(0), shape)

    for query, key in (((2**20, 2**20, 1, 1), (2**20, 1, 1, 1)), ((1, 1, 1, 1), (1, 2**45, 1, 1))):
        for options in ({}, {"dropout": 0.5, "seed": 1}, {"return_weights": True}):
            with pytest.raises((ValueError, MemoryError), match="attention"):
                ops.attention(huge(*query), huge(*key), huge(*key), **options)


def test_documentation():
    module = importlib.import_module("lamella.ops.attention")
    assert doctest.testmod(module).failed == 0
