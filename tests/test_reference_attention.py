"""What finite differences cannot tell of the attention references: that they are the right maths.

Each pair of a query and a key by the definition, what invisible pairs may not do, and what follows
from the definition: parts that make a whole, heads in groups, other libraries' layers.
"""

from __future__ import annotations

import inspect
import itertools

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st
from keras_peer import import_keras
from reference import OPS
from reference.attention_cases import (
    ATTENTION,
    ATTENTION_DRAWS,
    SIZES,
    attention_case,
    attention_cases,
    crossed,
)
from reference.cases import CASES, make_arrays
from reference.finite_differences import check_gradients

EPSILON = 1e-12  # agreement of two float64 computations of a few thousand operations
SPECIALS = (np.nan, np.inf, -np.inf)
EVERY_RESULT = {"return_lse": True, "return_weights": True}

attention = OPS["attention"]
additive_attention = OPS["additive_attention"]
any_case = hypothesis.given(
    drawn=st.fixed_dictionaries(ATTENTION_DRAWS), seed=st.integers(0, 2**32)
)


@pytest.fixture
def rng():
    return np.random.default_rng(20260214)


def gradients_like(results, rng):
    return tuple(rng.standard_normal(part.shape) for part in results)


def assert_same(results, expected, tolerance=0.0):
    for result, right in zip(results, expected, strict=True):
        assert (result is None) == (right is None)
        if right is not None:
            np.testing.assert_allclose(result, right, rtol=tolerance, atol=tolerance)


def visible_keys(n, a, i, shape, mask, options):
    """The keys that query i of sequence n and head a sees, one condition after the other."""
    _, _, queries, keys = shape
    offset = options.get("query_offset", keys - queries)
    position = i + (offset[n] if np.ndim(offset) else offset)
    window = options.get("window", (None, None))
    left, right = window if isinstance(window, tuple) else (window, 0)
    visible = []
    for j in range(keys):
        sees = mask is None or np.broadcast_to(mask, shape)[n, a, i, j]
        sees = sees and ("key_lengths" not in options or j < options["key_lengths"][n])
        sees = sees and (not options.get("causal") or j <= position)
        sees = sees and (left is None or j >= position - left)
        sees = sees and (right is None or j <= position + right)
        if sees:
            visible.append(j)
    return position, visible


def by_definition(query, key, value, mask, bias, options):
    """y, lse and weights, one query and one key at a time."""
    batch, queries, heads, width = query.shape
    keys, key_heads = key.shape[1:3]
    shape = (batch, heads, queries, keys)
    y = np.zeros((batch, queries, heads, value.shape[3]))
    lse = np.full(shape[:3], -np.inf)
    weights = np.zeros(shape)
    for n, a, i in np.ndindex(shape[:3]):
        head = a // (heads // key_heads)
        position, visible = visible_keys(n, a, i, shape, mask, options)
        scores = []
        for j in visible:
            s = query[n, i, a] @ key[n, j, head] * options.get("scale", 1.0 / np.sqrt(width))
            if "softcap" in options:
                s = options["softcap"] * np.tanh(s / options["softcap"])
            if bias is not None:
                s += np.broadcast_to(bias, shape)[n, a, i, j]
            if "alibi_slopes" in options:
                s -= options["alibi_slopes"][a] * abs(position - j)
            scores.append(s)
        total = np.sum(np.exp(scores))
        if total == 0.0:
            continue
        lse[n, a, i] = np.log(total)
        for j, s in zip(visible, scores, strict=True):
            kept = options["kept"][n, a, i, j] if "kept" in options else True
            weights[n, a, i, j] = kept * np.exp(s) / total / (1.0 - options.get("dropout", 0.0))
            y[n, i, a] += weights[n, a, i, j] * value[n, j, head]
    return y, lse, weights


# --- The definition ------------------------------------------------------------------------------


@hypothesis.settings(max_examples=150, deadline=None)
@any_case
def test_any_case_is_the_definition(drawn, seed):
    arrays, options = attention_case(np.random.default_rng(seed), **{**drawn, **EVERY_RESULT})
    found = attention.forward(*arrays, **options)
    assert_same(found, by_definition(*arrays, options), EPSILON)
    y = attention.forward(*arrays, **{**options, "return_lse": False, "return_weights": False})
    np.testing.assert_array_equal(y, found[0])


@hypothesis.settings(max_examples=150, deadline=None)
@any_case
def test_any_case_has_its_gradients(drawn, seed):
    rng = np.random.default_rng(seed)
    arrays, options = attention_case(rng, **drawn)
    check_gradients(*attention, *arrays, rng=rng, **options)


@hypothesis.settings(max_examples=150, deadline=None)
@any_case
def test_any_case_agrees_with_torch(drawn, seed):
    pytest.importorskip("torch")
    from reference import torch_peer

    rng = np.random.default_rng(seed)
    arrays, options = attention_case(rng, **drawn)
    torch_peer.check_agreement("attention", arrays, options, rng)


def test_the_cases_cross_every_three_options():
    pairs = {str(i): (0, 1) for i in range(16)}
    runs = list(crossed(**pairs))
    for three in itertools.combinations(pairs, 3):
        assert len({tuple(run[name] for name in three) for run in runs}) == 8


def test_the_cases_have_rows_that_see_all_some_and_nothing():
    rng = np.random.default_rng(3)
    rows = {"nothing": 0, "one": 0, "some": 0, "all": 0}
    for op, shapes, options in attention_cases():
        arrays = make_arrays(op, shapes, options, rng)
        options = {**options, "return_lse": False, "return_weights": True, "dropout": 0.0}
        options["kept"] = None
        _, weights = attention.forward(*arrays, **options)
        seen, keys = np.count_nonzero(weights, axis=-1), weights.shape[-1]
        rows["nothing"] += np.sum(seen == 0)
        rows["one"] += np.sum(seen == 1)
        rows["some"] += np.sum((seen > 1) & (seen < keys))
        rows["all"] += np.sum((seen > 1) & (seen == keys))
    assert min(rows.values()) > 300


@pytest.mark.parametrize("op", ATTENTION)
def test_backward_takes_what_forward_takes(op):
    forward, backward = (inspect.signature(function).parameters for function in OPS[op])
    assert list(backward.values())[1:] == list(forward.values())
    assert next(iter(backward)) == "dy"


def test_one_row_by_hand():
    query, key = np.array([2.0, 1.0]).reshape(1, 1, 1, 2), np.array([[1.0, 0], [0, 1], [5, 5]])
    value = np.array([[10.0], [20.0], [np.nan]])
    y, lse, weights = attention.forward(
        query, key.reshape(1, 3, 1, 2), value.reshape(1, 3, 1, 1), key_lengths=[2], **EVERY_RESULT
    )
    first = 1.0 / (1.0 + np.exp(-1.0 / np.sqrt(2.0)))
    np.testing.assert_allclose(weights.ravel(), [first, 1.0 - first, 0.0], rtol=1e-14)
    np.testing.assert_allclose(y.ravel(), [20.0 - 10.0 * first], rtol=1e-14)
    np.testing.assert_allclose(lse.ravel(), np.log(np.exp(2**0.5) + np.exp(0.5**0.5)), rtol=1e-14)


def test_where_the_window_and_the_offset_lie():
    """Query i at position i + offset; (left, right) around it, both ends included."""
    query, key = np.zeros((2, 3, 1, 1)), np.zeros((2, 6, 1, 1))

    def seen(**options):
        _, weights = attention.forward(query, key, key, return_weights=True, **options)
        return [["".join("01"[int(w > 0)] for w in row) for row in weights[n, 0]] for n in range(2)]

    assert seen(causal=True)[0] == ["111100", "111110", "111111"]  # offset L - S = 3
    assert seen(causal=True, query_offset=0)[1] == ["100000", "110000", "111000"]
    assert seen(causal=True, query_offset=[-1, 4]) == [
        ["000000", "100000", "110000"],
        ["111110", "111111", "111111"],
    ]
    assert seen(window=1, query_offset=1)[0] == ["110000", "011000", "001100"]
    assert seen(window=(1, 1), query_offset=[0, 5]) == [
        ["110000", "111000", "011100"],
        ["000011", "000001", "000000"],
    ]
    assert seen(window=(None, 0)) == seen(causal=True)
    assert seen(window=(2, None), query_offset=2)[0] == ["111111", "011111", "001111"]
    # The offset does not follow the lengths: the last query stands at key L - 1, seen or not.
    assert seen(causal=True, key_lengths=[5, 0]) == [["111100", "111110", "111110"], ["000000"] * 3]


# --- What sees nothing ---------------------------------------------------------------------------

NOTHING = {
    "mask": {"mask": np.zeros((1, 1, 1, 1), bool)},
    "bias": {"bias": np.full((1, 1, 5, 1), -np.inf)},
    "lengths": {"key_lengths": np.zeros(3, np.int64)},
    "causal": {"causal": True, "query_offset": -5},
    "window": {"window": (2, 1), "query_offset": 9},
}


@pytest.mark.parametrize("options", NOTHING.values(), ids=NOTHING)
def test_rows_that_see_nothing_are_zero_and_have_no_gradient(options, rng):
    (query, key, value, _, _), _ = attention_case(rng)
    options = {**options, **EVERY_RESULT, "softcap": 2.0, "alibi_slopes": np.arange(4.0)}
    mask, bias = options.pop("mask", None), options.pop("bias", None)
    for poison in (0.0, *SPECIALS):
        arrays = query + poison, key + poison, value + poison, mask, bias
        if bias is not None:  # NaN - inf would be a score of NaN
            arrays = query, key, *arrays[2:]
        y, lse, weights = attention.forward(*arrays, **options)
        assert not y.any()
        assert not weights.any()
        assert (lse == -np.inf).all()
        dy = tuple(np.full(part.shape, poison) for part in (y, lse, weights))
        for gradient in attention.backward(dy, *arrays, **options):
            assert gradient is None or not gradient.any()


def test_no_keys_give_zeros(rng):
    query, bias = rng.standard_normal((2, 3, 4, 5)), np.zeros((4, 1, 1))
    arrays = query, np.zeros((2, 0, 2, 5)), np.zeros((2, 0, 2, 6)), np.ones((3, 1), bool), bias
    for options in ({}, {"causal": True, "window": 1, "key_lengths": [0, 0]}):
        y, lse, weights = attention.forward(*arrays, **EVERY_RESULT, **options)
        np.testing.assert_array_equal(y, np.zeros((2, 3, 4, 6)))
        np.testing.assert_array_equal(lse, np.full((2, 4, 3), -np.inf))
        assert weights.shape == (2, 4, 3, 0)
        dy = gradients_like((y, lse, weights), rng)
        gradients = attention.backward(dy, *arrays, **EVERY_RESULT, **options)
        assert not gradients[0].any()
        assert [None if g is None else g.shape for g in gradients] == [
            *(a.shape for a in arrays[:3]),
            None,
            bias.shape,
        ]
        assert not gradients[4].any()
    y = additive_attention.forward(query[:, :, 0], np.zeros((2, 0, 6)), np.zeros((2, 0, 5)))
    np.testing.assert_array_equal(y, np.zeros((2, 3, 6)))


@hypothesis.settings(max_examples=150, deadline=None)
@any_case
def test_invisible_pairs_let_nothing_through(drawn, seed):
    """Whatever only invisible pairs read is poisoned, and so are their gradients."""
    rng = np.random.default_rng(seed)
    (query, key, value, mask, bias), options = attention_case(rng, **{**drawn, **EVERY_RESULT})
    if bias is not None:
        bias = np.where(np.isinf(bias), 0.0, bias)
    results = attention.forward(query, key, value, mask, bias, **options)
    dy = gradients_like(results, rng)
    gradients = attention.backward(dy, query, key, value, mask, bias, **options)

    shape = results[2].shape
    visible = np.zeros(shape, bool)
    for n, a, i in np.ndindex(shape[:3]):
        visible[n, a, i, visible_keys(n, a, i, shape, mask, options)[1]] = True
    row_sees = visible.any(axis=3)
    group = shape[1] // key.shape[2]
    seen = visible.any(axis=2).reshape(shape[0], key.shape[2], group, shape[3]).any(axis=2)
    sees, seen = row_sees.swapaxes(1, 2)[..., None], seen.swapaxes(1, 2)[..., None]
    for poison in SPECIALS:
        if bias is not None:
            full = np.where(visible, np.broadcast_to(bias, shape), poison)
        arrays = (
            np.where(sees, query, poison),
            np.where(seen, key, poison),
            np.where(seen, value, poison),
            mask,
            None if bias is None else full,
        )
        assert_same(attention.forward(*arrays, **options), results)
        d_poisoned = (
            np.where(sees, dy[0], poison),
            np.where(row_sees, dy[1], poison),
            np.where(visible, dy[2], poison),
        )
        found = attention.backward(d_poisoned, *arrays, **options)
        assert_same(found[:3], gradients[:3])
        if bias is not None:
            assert not found[4][~visible].any()


@pytest.mark.parametrize("poison", SPECIALS)
def test_what_is_visible_propagates_to_those_who_see_it_only(poison, rng):
    (query, key, value, _, _), _ = attention_case(rng, heads=4, key_heads=2)
    options = {"causal": True, "query_offset": 0, **EVERY_RESULT}
    results = attention.forward(query, key, value, **options)
    dy = gradients_like(results, rng)
    expected = attention.backward(dy, query, key, value, **options)
    later = np.arange(5) >= 2  # queries that see key 2
    reads = np.array([False, False, True, True])  # heads that read key head 1

    bad = value.copy()
    bad[1, 2, 1, 0] = poison
    y, lse, weights = attention.forward(query, key, bad, **options)
    touched = np.zeros(y.shape, bool)
    touched[1, :, :, 0] = later[:, None] & reads
    assert not np.isfinite(y[touched]).any()
    np.testing.assert_array_equal(y[~touched], results[0][~touched])
    assert_same((lse, weights), results[1:])
    d_query = attention.backward(dy, query, key, bad, **options)[0]
    rows = touched.any(axis=3)
    assert np.isnan(d_query[rows]).all()
    np.testing.assert_array_equal(d_query[~rows], expected[0][~rows])

    bad = key.copy()
    bad[1, 2, 1] = np.nan
    y, lse, weights = attention.forward(query, bad, value, **options)
    assert np.isnan(y[rows]).all()
    assert np.isnan(lse[1][reads][:, later]).all()
    np.testing.assert_array_equal(np.isfinite(lse), ~rows.swapaxes(1, 2))
    np.testing.assert_array_equal(y[~rows], results[0][~rows])
    np.testing.assert_array_equal(np.triu(weights, 1), 0.0)

    # A gradient: every key that query 2 sees, and no other.
    d_bad = dy[0].copy()
    d_bad[1, 2, 3] = poison
    _, d_key, d_value, _, _ = attention.backward((d_bad, *dy[1:]), query, key, value, **options)
    for found, right in ((d_key, expected[1]), (d_value, expected[2])):
        seen = np.zeros(found.shape[:3], bool)
        seen[1, :3, 1] = True
        assert not np.isfinite(found[seen]).any()
        np.testing.assert_array_equal(found[~seen], right[~seen])


def test_a_visible_score_of_minus_infinity_has_weight_zero_but_is_read(rng):
    (query, key, value, _, bias), _ = attention_case(rng, bias="L")
    bias[:] = [0.0, -np.inf, 1.0, 0.0, 0.0, -1.0]
    y, weights = attention.forward(query, key, value, None, bias, return_weights=True)
    assert not weights[..., 1].any()
    masked = attention.forward(query, key, value, bias > -np.inf, bias)
    np.testing.assert_array_equal(y, masked)
    value[0, 1] = np.nan
    y = attention.forward(query, key, value, None, bias)
    assert np.isnan(y[0]).all()
    assert np.isfinite(y[1:]).all()


# --- What follows from the definition ------------------------------------------------------------


@pytest.mark.parametrize(
    "flags", [{}, {"return_lse": True}, {"return_weights": True}, EVERY_RESULT]
)
def test_absent_gradients_are_zeros(flags, rng):
    arrays, _ = attention_case(rng, mask="N1SL", bias="ASL")
    results = attention.forward(*arrays, **flags)
    several = isinstance(results, tuple)
    dy = gradients_like(results if several else (results,), rng)
    for absent in range(2 ** len(dy)):
        given = [None if absent >> i & 1 else d for i, d in enumerate(dy)]
        zeros = [np.zeros(d.shape) if g is None else d for d, g in zip(dy, given, strict=True)]
        found, expected = (
            attention.backward(tuple(parts) if several else parts[0], *arrays, **flags)
            for parts in (given, zeros)
        )
        assert_same(found, expected)


def test_each_option_is_a_mask(rng):
    (query, key, value, mask, _), _ = attention_case(rng, mask="NASL")
    i, j = np.arange(5)[:, None], np.arange(6)
    for options, visible in (
        ({"causal": True}, j <= i + 1),
        ({"window": 2}, (j <= i + 1) & (j >= i - 1)),
        ({"window": (None, 3), "query_offset": -1}, j <= i + 2),
        ({"key_lengths": [0, 4, 6]}, j < np.array([0, 4, 6])[:, None, None, None]),
    ):
        expected = attention.forward(query, key, value, mask & visible, **EVERY_RESULT)
        found = attention.forward(query, key, value, mask, **options, **EVERY_RESULT)
        assert_same(found, expected)
        dy = gradients_like(found, rng)
        assert_same(
            attention.backward(dy, query, key, value, mask, **options, **EVERY_RESULT),
            attention.backward(dy, query, key, value, mask & visible, **EVERY_RESULT),
        )


@pytest.mark.parametrize("key_heads", [1, 2, 3])
def test_grouped_heads_are_repeated_heads(key_heads, rng):
    (query, key, value, *_), options = attention_case(
        rng, heads=6, key_heads=key_heads, alibi=True, causal=True
    )
    repeated = [np.repeat(x, 6 // key_heads, axis=2) for x in (key, value)]
    y = attention.forward(query, key, value, **options)
    np.testing.assert_array_equal(y, attention.forward(query, *repeated, **options))
    dy = rng.standard_normal(y.shape)
    d_query, *d_pair, _, _ = attention.backward(dy, query, key, value, **options)
    expected, *d_repeated, _, _ = attention.backward(dy, query, *repeated, **options)
    np.testing.assert_array_equal(d_query, expected)
    for found, parts in zip(d_pair, d_repeated, strict=True):
        summed = parts.reshape(*parts.shape[:2], key_heads, 6 // key_heads, -1).sum(axis=3)
        np.testing.assert_allclose(found, summed, rtol=0, atol=EPSILON)


@pytest.mark.parametrize("part", [1, 2, 4])
def test_queries_in_parts_are_the_whole(part, rng):
    """As in decoding: a cache of keys, of which the first positions are filled."""
    (query, key, value, *_), options = attention_case(
        rng, queries=6, keys=6, causal=True, alibi=True, window=(3, 0)
    )
    whole = attention.forward(query, key, value, **options)
    for first in range(0, 6, part):
        rows = query[:, first : first + part]
        filled = first + rows.shape[1]
        cache = [np.where(np.arange(6)[:, None, None] < filled, x, np.nan) for x in (key, value)]
        y = attention.forward(
            rows, *cache, query_offset=first, key_lengths=[filled] * len(query), **options
        )
        np.testing.assert_allclose(y, whole[:, first : first + part], rtol=0, atol=EPSILON)


def test_keys_in_parts_are_joined_by_the_log_sum_exp(rng):
    (query, key, value, mask, bias), _ = attention_case(rng, mask="N11L", bias="ASL", keys=9)
    whole, lse = attention.forward(query, key, value, mask, bias, return_lse=True)
    parts = []
    for keys in (slice(0, 4), slice(4, 9)):
        arrays = key[:, keys], value[:, keys], mask[..., keys], bias[..., keys]
        parts.append(attention.forward(query, *arrays, return_lse=True))
    total = np.logaddexp(parts[0][1], parts[1][1])
    np.testing.assert_allclose(total, lse, rtol=EPSILON)
    joined = 0.0
    for y, part_lse in parts:
        share = np.where(total == -np.inf, 0.0, np.exp(part_lse - np.maximum(total, -1e300)))
        joined = joined + y * share.swapaxes(1, 2)[..., None]
    np.testing.assert_allclose(joined, whole, rtol=0, atol=EPSILON)


def test_scores_of_any_size_do_not_overflow(rng):
    (query, key, value, *_), _ = attention_case(rng)
    for scale in (1e4, 1e300):
        y, lse, weights = attention.forward(query, key, value, scale=scale, **EVERY_RESULT)
        np.testing.assert_allclose(weights.sum(axis=-1), 1.0, rtol=1e-12)
        assert np.isfinite(y).all()
        assert np.isfinite(lse).all()
        for gradient in attention.backward(y, query, key, value, scale=scale)[:3]:
            assert np.isfinite(gradient).all()


def test_softcap_bounds_scores_before_bias_and_alibi(rng):
    (query, key, value, _, bias), _ = attention_case(rng, bias="SL")
    bias = rng.standard_normal(bias.shape) * 50.0
    options = {"softcap": 1e-6, "alibi_slopes": [1.0, 0.0, 2.0, 3.0]}
    lse = attention.forward(query, key, value, None, bias, return_lse=True, **options)[1]
    unscored = {"scale": 0.0, "alibi_slopes": options["alibi_slopes"]}
    expected = attention.forward(query, key, value, None, bias, return_lse=True, **unscored)[1]
    np.testing.assert_allclose(lse, expected, rtol=0, atol=1e-6)
    assert np.abs(lse).max() > 10.0


def test_dropout_scales_what_it_keeps(rng):
    (query, key, value, *_), options = attention_case(rng, dropout=0.25)
    kept = options["kept"]
    _, plain = attention.forward(query, key, value, return_weights=True)
    y, lse, weights = attention.forward(query, key, value, **options, **EVERY_RESULT)
    np.testing.assert_allclose(weights, plain * kept * 4 / 3, rtol=1e-14)
    np.testing.assert_array_equal(lse, attention.forward(query, key, value, return_lse=True)[1])
    expected = np.einsum("nasl,nlav->nsav", weights, np.repeat(value, 2, axis=2))
    np.testing.assert_allclose(y, expected, rtol=0, atol=EPSILON)


# --- additive_attention --------------------------------------------------------------------------

ADDITIVE_CASES = [case for case in CASES if case[0] == "additive_attention"]


def additive_arrays(rng, mask=None):
    names = ("batch", "queries", "keys", "width", "value_width")
    batch, queries, keys, width, value_width = (SIZES[name] for name in names)
    shapes = (batch, queries, width), (batch, keys, value_width), (batch, keys, width), (width,)
    return *(rng.standard_normal(shape) for shape in shapes), mask


def test_additive_scores_by_hand():
    query, key = np.array([[[0.5, -1.0]]]), np.array([[[0.25, 2.0], [-1.0, 0.0]]])
    scale, value = np.array([3.0, -2.0]), np.array([[[1.0], [0.0]]])
    s = [3 * np.tanh(0.75) - 2 * np.tanh(1.0), 3 * np.tanh(-0.5) - 2 * np.tanh(-1.0)]
    y = additive_attention.forward(query, value, key, scale)
    assert y.item() == pytest.approx(1.0 / (1.0 + np.exp(s[1] - s[0])), rel=1e-14)
    s = [np.tanh(0.75) + np.tanh(1.0), np.tanh(-0.5) + np.tanh(-1.0)]
    y = additive_attention.forward(query, value, key)
    assert y.item() == pytest.approx(1.0 / (1.0 + np.exp(s[1] - s[0])), rel=1e-14)


@pytest.mark.parametrize("poison", SPECIALS)
def test_additive_invisible_pairs_let_nothing_through(poison, rng):
    mask = np.ones((3, 5, 6), bool)
    mask[0, 2] = False  # a query that sees nothing
    mask[1, :, 3:] = False  # keys that nothing sees
    mask[2] = False
    query, value, key, scale, _ = additive_arrays(rng)
    kept = rng.random(mask.shape) < 0.8
    options = {"return_weights": True, "kept": kept, "dropout": 0.2}
    results = additive_attention.forward(query, value, key, scale, mask, **options)
    assert not results[0][0, 2].any()
    assert not results[1][~mask].any()
    dy = gradients_like(results, rng)
    gradients = additive_attention.backward(dy, query, value, key, scale, mask, **options)
    sees, seen = mask.any(axis=2)[..., None], mask.any(axis=1)[..., None]
    assert not gradients[0][~sees[..., 0]].any()
    assert not gradients[1][~seen[..., 0]].any()
    assert not gradients[2][~seen[..., 0]].any()
    arrays = np.where(sees, query, poison), np.where(seen, value, poison)
    arrays = *arrays, np.where(seen, key, poison), scale, mask
    assert_same(additive_attention.forward(*arrays, **options), results)
    d_poisoned = np.where(sees, dy[0], poison), np.where(mask, dy[1], poison)
    assert_same(additive_attention.backward(d_poisoned, *arrays, **options), gradients)


def test_additive_causal_and_offset_are_a_mask(rng):
    query, value, key, scale, _ = additive_arrays(rng)
    i, j = np.arange(5)[:, None], np.arange(6)
    for offset in (None, 0, [2, -1, 4]):
        start = 1 if offset is None else np.reshape(offset, (-1, 1, 1))
        expected = additive_attention.forward(query, value, key, scale, j <= i + start)
        y = additive_attention.forward(query, value, key, scale, causal=True, query_offset=offset)
        np.testing.assert_array_equal(y, expected)


def test_additive_absent_gradients_are_zeros(rng):
    arrays = additive_arrays(rng)
    options = {"return_weights": True}
    dy = gradients_like(additive_attention.forward(*arrays, **options), rng)
    zeros = [np.zeros(d.shape) for d in dy]
    backward = additive_attention.backward
    for given, full in (((dy[0], None), (dy[0], zeros[1])), ((None, dy[1]), (zeros[0], dy[1]))):
        assert_same(backward(given, *arrays, **options), backward(full, *arrays, **options))
    assert_same(backward(None, *arrays), backward(zeros[0], *arrays))


@pytest.mark.parametrize("use_scale", [True, False])
@pytest.mark.parametrize("causal", [True, False])
def test_additive_agrees_with_keras(use_scale, causal, rng):
    keras = import_keras()
    query, value, key, scale, _ = (
        None if a is None else a.astype(np.float32) for a in additive_arrays(rng)
    )
    # Keras' causal queries start at key 0; a key must be visible to each query.
    valid = np.array([[1, 1, 0, 1, 1, 1], [1, 0, 0, 0, 0, 0], [1, 1, 1, 1, 1, 0]], bool)
    layer = keras.layers.AdditiveAttention(use_scale=use_scale)
    layer.build([query.shape, value.shape, key.shape])
    if use_scale:
        layer.set_weights([scale])
    theirs = layer(
        [query, value, key],
        mask=[None, valid],
        return_attention_scores=True,
        use_causal_mask=causal,
    )
    ours = additive_attention.forward(
        query,
        value,
        key,
        scale if use_scale else None,
        valid[:, None],
        causal=causal,
        query_offset=0,
        return_weights=True,
    )
    for our, their in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(our, np.asarray(their), rtol=0, atol=2e-6)
