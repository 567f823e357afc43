"""additive_attention against its reference: every option, both ways to a tanh, specials."""

from __future__ import annotations

import doctest
import subprocess
import sys
import textwrap

import hypothesis
import numpy as np
import op_checks
import pytest
from device_backend import on_device
from hypothesis import strategies as st
from reference import OPS, philox
from reference.attention_cases import (
    additive_attention_cases,
    attention_arrays,
    pair_shape,
    random_mask,
)
from tolerances import assert_close

from lamella import ops

NAME = "additive_attention"
reference = OPS[NAME]
CASES = list(additive_attention_cases())
SEED = 0xADD << 50


def draw(rng, batch, queries, keys, width, value_width, mask=None, scale=True):
    """Arrays of standard deviation 1; `mask` is its shape."""
    shapes = (batch, queries, width), (batch, keys, value_width), (batch, keys, width), (width,)
    arrays = [rng.standard_normal(shape).astype(np.float32) for shape in shapes]
    if not scale:
        arrays[3] = None
    return [*arrays, None if mask is None else random_mask(rng, mask)]


def kept(rate, batch, queries, keys, seed=SEED):
    """The mask that csrc/ops/attention/attention.h documents, of one head."""
    row = -(-keys // 32) * 32
    words = philox.kept(seed, rate, batch * queries * row)
    return words.reshape(batch, queries, row)[..., :keys]


def gradients_like(results, rng):
    """Such that the gradients of weights, products with values, are near 1."""
    dy = [rng.standard_normal(r.shape).astype(np.float32) for r in results]
    return [dy[0] / np.float32(np.sqrt(dy[0].shape[-1])), *dy[1:]]


def largest_score(query, key, scale):
    hidden = np.tanh(query[:, :, None].astype(np.float64) + key[:, None])
    scores = hidden.sum(axis=-1) if scale is None else hidden @ scale.astype(np.float64)
    return np.max(np.abs(scores), initial=0.0)


def check(arrays, options, rng):
    """Results and gradients within the table's bounds; forward alone gives the same bits."""
    arrays = [a.astype(np.float32) if a is not None and a.dtype.kind == "f" else a for a in arrays]
    (batch, queries, width), (keys, value_width) = arrays[0].shape, arrays[1].shape[1:]
    # What the table allows is for scores near 1: each of 4 features gives as much.
    magnitude = max(1.0, largest_score(arrays[0], arrays[2], arrays[3]) / 4)
    of_reference = dict(options)
    if options.get("dropout"):
        of_reference["kept"] = kept(options["dropout"], batch, queries, keys)
        options = {**options, "seed": SEED}
    results, pullback = ops.additive_attention.vjp(*arrays, **options)
    op_checks.check_forward_alone_is_the_same(NAME, arrays, options)
    results = op_checks.as_tuple(results)
    right = op_checks.as_tuple(reference.forward(*arrays, **of_reference))
    for result, expected in zip(results, right, strict=True):
        scale = magnitude * max(0.1, np.max(np.abs(expected), initial=0.0))
        assert_close(result, expected, NAME, "forward", width + keys, scale)
    dy = gradients_like(results, rng)
    gradients = pullback(*dy)
    given = dy[0] if len(dy) == 1 else tuple(dy)
    expected = reference.backward(given, *arrays, **of_reference)
    own = keys, queries, queries, batch * queries * keys, 0
    for gradient, right, terms in zip(gradients, expected, own, strict=True):
        if right is None:
            assert gradient is None
            continue
        # Sums of terms around 1, which may cancel; see `attended` in tolerances.py.
        scale = magnitude * max(1.0, np.max(np.abs(right), initial=0.0))
        terms += width + 2 * keys + value_width
        assert_close(gradient, right, NAME, "backward", terms, scale)
    return results, gradients


@pytest.mark.parametrize("case", range(len(CASES)))
def test_cases_of_the_reference(case, backend, rng):
    _, shapes, options = CASES[case]
    options = {name: value for name, value in options.items() if name != "kept"}
    check(attention_arrays(NAME, shapes, rng), options, rng)


@hypothesis.settings(
    max_examples=150,
    deadline=None,
    suppress_health_check=[hypothesis.HealthCheck.function_scoped_fixture],
)
@hypothesis.given(
    batch=st.integers(0, 3),
    queries=st.integers(0, 20),
    keys=st.one_of(st.integers(0, 20), st.integers(60, 140)),
    width=st.integers(1, 37),
    value_width=st.integers(1, 37),
    mask=st.sampled_from([None, "L", "SL", "N1L", "NSL", "NS1", "1"]),
    scale=st.booleans(),
    causal=st.booleans(),
    offset=st.sampled_from([None, 0, 2, -3, 50, "each"]),
    dropout=st.sampled_from([0.0, 0.25]),
    return_weights=st.booleans(),
    large=st.sampled_from([(), (0,), (2,), (0, 2)]),
    seed=st.integers(0, 2**32),
)
def test_every_option_with_every_other(
    backend,
    batch,
    queries,
    keys,
    width,
    value_width,
    mask,
    scale,
    causal,
    offset,
    dropout,
    return_weights,
    large,
    seed,
):
    rng = np.random.default_rng(seed)
    sizes = {"batch": batch, "queries": queries, "keys": keys}
    arrays = draw(rng, batch, queries, keys, width, value_width, pair_shape(mask, sizes), scale)
    for position in large:  # some elements for which there are no exponentials
        arrays[position][rng.random(arrays[position].shape) < 0.02] *= 100
    options = {"causal": causal, "dropout": dropout, "return_weights": return_weights}
    if offset == "each":
        options["query_offset"] = rng.integers(-2, keys + 1, batch)
    elif offset is not None:
        options["query_offset"] = offset
    check(arrays, options, rng)


# Features and values of less than a vector, of several of each instruction set, and tails; keys
# within a panel, and of several; rows of one task and of several.
@pytest.mark.parametrize(
    "size",
    [
        (1, 1, 1, 1, 1),
        (2, 1, 3, 1, 5),
        (2, 7, 15, 3, 16),
        (1, 8, 16, 4, 17),
        (1, 9, 17, 5, 15),
        (2, 17, 63, 31, 33),
        (1, 33, 64, 32, 8),
        (3, 5, 65, 33, 64),
        (1, 100, 129, 65, 7),
        (1, 2, 700, 130, 3),
        (20, 30, 40, 16, 16),
    ],
    ids=str,
)
def test_sizes(size, backend, rng):
    check(draw(rng, *size), {}, rng)
    check(draw(rng, *size), {"causal": True, "dropout": 0.2, "return_weights": True}, rng)


# -- the tanh of a sum ----------------------------------------------------------------------------


def hidden_units(q, k, scale=8.0):
    """tanh(q + k) as it is in a score: from the weights of keys k and -q, of which one has 0."""
    q, k = q.astype(np.float32), k.astype(np.float32)
    key = np.stack([k, -q], axis=1)[..., None]
    value = np.zeros((len(q), 2, 1), np.float32)
    arrays = q[:, None, None], value, key, np.float32([scale])
    _, weights = ops.additive_attention(*arrays, return_weights=True)
    weights = weights[:, 0].astype(np.float64)
    return np.log(weights[:, 0] / weights[:, 1]) / scale


def sums(rng, largest):
    """Queries and keys up to `largest`; their sums are of every size, and some nearly cancel."""
    q = rng.uniform(-largest, largest, (4, 50_000)).astype(np.float32)
    k = rng.uniform(-largest, largest, q.shape).astype(np.float32)
    k[1] = -q[1] + rng.standard_normal(q.shape[1]).astype(np.float32)
    k[2] = -q[2] + rng.uniform(-12, 12, q.shape[1]).astype(np.float32)
    q[3], k[3] = rng.standard_normal((2, q.shape[1]))
    k[1:3] = np.clip(k[1:3], -largest, largest)
    # The executor takes milliseconds a sum.
    few = 256 if on_device() else 1
    return q.ravel()[::few], k.ravel()[::few]


# Up to 43 by exponentials, beyond by the function tanh.
@pytest.mark.parametrize("largest", [10, 43, 200])
def test_the_error_of_a_hidden_unit(largest, backend, rng):
    q, k = sums(rng, largest)
    error = np.abs(hidden_units(q, k) - np.tanh(q.astype(np.float64) + k))
    print(f"{backend}, up to {largest}: {error.max():.3g}")
    assert error.max() <= 2.8e-7  # the claim of additive_attention_scores.h
    assert on_device() or error.max() > 1e-7  # a few sums need not meet the largest error


@pytest.mark.parametrize("largest", [4, 21, 43])
def test_the_error_of_its_derivative(largest, backend, rng):
    """Relative: where tanh is flat the gradient is small, and still right."""
    q, k = sums(rng, largest)
    x = q.astype(np.float64) + k
    near = np.abs(x) < 9
    q, k, x = q[near], k[near], x[near]
    key = np.stack([k, np.full_like(k, -43)], axis=1)[..., None]
    value = np.zeros((len(q), 2, 1), np.float32)
    value[:, 0] = 1
    # A scale so small that both keys have a weight of one half.
    arrays = q[:, None, None], value, key, np.float32([2.0**-30])
    y, pullback = ops.additive_attention.vjp(*arrays)
    dq, _, dk, _, _ = pullback(np.ones_like(y))
    # Of dq the other key has a part where its sum is not far below 0.
    for gradient in (dk[:, 0, 0], dq[:, 0, 0])[: 1 if largest == 43 else 2]:
        slope = gradient.astype(np.float64) * 4 * 2.0**30
        expected = 1 / np.cosh(x) ** 2
        error = np.abs(slope - expected) / expected
        assert error.max() <= 5e-7  # the claim of additive_attention_scores.h
        print(f"{backend}, up to {largest}: {error.max():.3g}")
    assert on_device() or error.max() > 2.5e-7


def test_far_sums_saturate(backend):
    q = np.float32([42, -42, 42, -42, 300, -300, 1e30, -np.inf, np.inf])
    k = np.float32([42, -42, -20, 20, -250, 250, 1, 0, 3])
    key = np.stack([k, np.zeros_like(k)], axis=1)[..., None]
    value = np.zeros((len(q), 2, 1), np.float32)
    value[:, 0] = 1
    y, pullback = ops.additive_attention.vjp(q[:, None, None], value, key)
    # The other key's sum is q itself: both have the same tanh, and so half of the weight.
    np.testing.assert_allclose(y.ravel(), 0.5, atol=1e-7)
    for gradient in (pullback(np.ones_like(y))[i] for i in (0, 2)):
        assert np.abs(gradient).max() <= 1e-8


@pytest.mark.parametrize("scale", [[2**21, 2**24, 8], [-(2**21), 2**24, -8]])
def test_large_scales(scale, backend):
    """Scales beyond those for which features may share a division, with hidden units of +-1."""
    signs = np.float32([[1, 1, 1], [1, 1, -1], [-1, 1, 1], [1, -1, 1], [-1, -1, -1], [1, 1, 1]])
    key = (20 * signs)[None]
    query, value = np.zeros((1, 1, 3), np.float32), np.eye(6, dtype=np.float32)[None]
    arrays = query, value, key, np.float32(scale)
    y, pullback = ops.additive_attention.vjp(*arrays)
    np.testing.assert_allclose(y, reference.forward(*arrays), atol=2e-6)
    dy = np.float32([[[1, 2, 3, 4, 5, -6]]])
    for gradient, right in zip(pullback(dy), reference.backward(dy, *arrays), strict=True):
        if right is not None:
            np.testing.assert_allclose(gradient, right, atol=1e-5 * np.abs(right).max() + 1e-6)
    arrays[3][1] = np.inf
    assert np.isnan(ops.additive_attention(*arrays)).all()


# -- what is hidden -------------------------------------------------------------------------------


@pytest.mark.parametrize("junk", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize(("queries", "keys"), [(5, 70), (30, 140), (1, 300)])
def test_what_a_mask_hides_influences_nothing(queries, keys, junk, backend, rng):
    arrays = draw(rng, 2, queries, keys, 9, 10)
    mask = rng.random((2, queries, keys)) < 0.6
    mask[0, queries // 2] = False
    hidden = np.arange(keys) % 3 == 1
    mask[..., hidden] = False
    arrays[4] = mask
    for dropout in (0.0, 0.3):
        options = {"return_weights": True, "dropout": dropout, "seed": SEED}
        results, pullback = ops.additive_attention.vjp(*arrays, **options)
        dy = gradients_like(results, rng)
        gradients = pullback(*dy)
        query, value, key, scale, _ = (a.copy() for a in arrays)
        key[:, hidden] = junk
        value[:, hidden] = junk
        query[0, queries // 2] = junk
        spoiled, pullback = ops.additive_attention.vjp(query, value, key, scale, mask, **options)
        for result, expected in zip(spoiled, results, strict=True):
            np.testing.assert_allclose(result, expected, rtol=1e-5, atol=1e-6)
        dy = [d.copy() for d in dy]
        dy[0][0, queries // 2] = junk
        dy[1][~mask] = junk
        for gradient, expected in zip(pullback(*dy), gradients, strict=True):
            if expected is not None:
                scale = max(np.abs(expected).max(), 0.1)
                np.testing.assert_allclose(gradient, expected, rtol=1e-5, atol=1e-5 * scale)


def test_a_key_that_only_later_queries_see_may_be_anything(backend, rng):
    arrays = draw(rng, 1, 40, 40, 8, 8)
    expected = ops.additive_attention(*arrays, causal=True)
    arrays[2][0, 25:] = np.nan
    arrays[1][0, 25:] = np.inf
    y, pullback = ops.additive_attention.vjp(*arrays, causal=True)
    np.testing.assert_allclose(y[:, :25], expected[:, :25], rtol=1e-5, atol=1e-6)
    assert not np.isfinite(y[:, 25:]).any()
    dy = np.zeros_like(y)
    dy[:, :25] = 1.0
    assert np.isfinite(pullback(dy)[0][:, :25]).all()


def test_a_visible_nan_shows(backend, rng):
    for position, special in ((0, np.nan), (1, np.nan), (2, np.nan), (1, np.inf)):
        arrays = draw(rng, 1, 50, 60, 8, 8)
        arrays[position][0, 30] = special
        y, pullback = ops.additive_attention.vjp(*arrays)
        rows = slice(30, 31) if position == 0 else slice(None)
        assert not np.isfinite(y[:, rows]).any()
        if position == 0:
            assert np.isfinite(np.delete(y, 30, axis=1)).all()
            dq, _, dk, dscale, _ = pullback(np.ones_like(y))
            assert np.isnan(dq[:, 30]).all() and np.isfinite(np.delete(dq, 30, axis=1)).all()
            assert np.isnan(dk).all() and np.isnan(dscale).all()


def test_queries_that_see_nothing(backend, rng):
    for options in (
        {"causal": True, "query_offset": -1000},
        {"causal": True, "query_offset": np.array([-(2**40), -1000])},
        {"causal": True, "query_offset": -(2**62)},
    ):
        for queries in (1, 30):
            arrays = draw(rng, 2, queries, 70, 5, 6)
            results, pullback = ops.additive_attention.vjp(*arrays, **options, return_weights=True)
            assert not any(r.any() for r in results)
            gradients = pullback(*(np.full_like(r, np.nan) for r in results))
            assert all(not g.any() for g in gradients if g is not None)
    arrays = draw(rng, 2, 3, 0, 5, 6)
    y, pullback = ops.additive_attention.vjp(*arrays)
    assert y.shape == (2, 3, 6) and not y.any()
    gradients = pullback(y)
    assert [g.shape for g in gradients[:4]] == [a.shape for a in arrays[:4]]
    assert not any(g.any() for g in gradients[:4])


def test_causal_is_a_mask_of_its_own(backend, rng):
    arrays = draw(rng, 2, 21, 90, 7, 5)
    i, j = np.arange(21)[:, None], np.arange(90)
    for offset in (None, 0, 40, np.array([5, -6])):
        start = 69 if offset is None else np.reshape(offset, (-1, 1, 1))
        expected = ops.additive_attention(*arrays[:4], j <= i + start)
        y = ops.additive_attention(*arrays, causal=True, query_offset=offset)
        np.testing.assert_allclose(y, expected, rtol=1e-5, atol=1e-6)


def test_dropout_is_the_documented_mask(backend, rng):
    arrays = draw(rng, 2, 40, 70, 8, 8)
    options = {"dropout": 0.3, "seed": SEED}
    y, weights = ops.additive_attention(*arrays, **options, return_weights=True)
    expected = kept(0.3, 2, 40, 70)
    np.testing.assert_array_equal(weights != 0, expected)
    _, plain = ops.additive_attention(*arrays, return_weights=True)
    np.testing.assert_allclose(weights[expected], plain[expected] / 0.7, rtol=1e-5)
    assert not np.allclose(ops.additive_attention(*arrays, dropout=0.3, seed=1), y)
    # A rate below 2^-32 keeps everything.
    op_checks.assert_same_bits(
        [ops.additive_attention(*arrays, dropout=1e-12, seed=1)], [ops.additive_attention(*arrays)]
    )


# -- the rest of an op's life ---------------------------------------------------------------------


@pytest.mark.parametrize("size", [(2, 70, 300, 9, 24), (1, 130, 200, 40, 8), (17, 9, 33, 5, 6)])
def test_same_bits_on_any_number_of_threads(size, backend, rng):
    batch, queries, keys = size[:3]
    for mask, options in (
        (None, {}),
        ((queries, keys), {"dropout": 0.2, "seed": 3}),
        ((batch, 1, keys), {"causal": True}),
    ):
        arrays = draw(rng, *size, mask)
        op_checks.check_thread_counts(NAME, arrays, options)


def test_memory_is_not_that_of_all_hidden_units():
    """In a process of its own, whose peak is that of this op."""
    program = """
        import numpy as np
        from lamella import _cpu, ops

        x = np.random.default_rng(0).standard_normal((1, 4096, 32)).astype(np.float32)
        y, pullback = ops.additive_attention.vjp(x, x, x, causal=True, query_offset=-3900)
        pullback(y)
        print(_cpu.memory_stats()["peak_bytes_in_use"])
    """
    command = [sys.executable, "-c", textwrap.dedent(program)]
    peak = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    assert int(peak) < 4096 * 4096 * 4  # one array of scores; that of hidden units has 32 times it


def test_the_pullback(backend, rng):
    arrays = draw(rng, 2, 9, 40, 5, 6, (9, 40))
    op_checks.check_pullback(NAME, arrays, {"causal": True, "dropout": 0.1, "seed": 2})
    op_checks.check_pullback(NAME, arrays, {"return_weights": False})
    op_checks.check_nothing_is_changed_or_shared(NAME, arrays, {})
    results, pullback = ops.additive_attention.vjp(*arrays, return_weights=True)
    dy = gradients_like(results, rng)
    together = pullback(*dy)
    parts = [pullback(dy[0], None), pullback(None, dy[1])]
    for whole, *some in zip(together, *parts, strict=True):
        if whole is not None:
            np.testing.assert_allclose(whole, sum(some), rtol=1e-4, atol=1e-4)
    with pytest.raises(ValueError, match=f"^{NAME}: the pullback takes 2 gradients, got 1"):
        pullback(dy[0])
    for i, name in enumerate(("dy", "dweights")):
        wrong = [d[:-1] if i == j else d for j, d in enumerate(dy)]
        with pytest.raises(ValueError, match=f"^{NAME}: {name} must have shape"):
            pullback(*wrong)
    with pytest.raises(ValueError, match=r"out\[0\] is written and must not overlap"):
        pullback(*dy, out=[arrays[0], None, None, None, None])


def test_layouts(backend, rng):
    arrays = draw(rng, 2, 9, 40, 5, 6)
    op_checks.check_layouts(NAME, arrays, {"causal": True})
    mask = rng.random((9, 40)) < 0.7
    whole = ops.additive_attention(*arrays[:4], mask)
    for strided in (np.broadcast_to(mask, (2, 9, 40)), np.asfortranarray(mask)):
        op_checks.assert_same_bits([ops.additive_attention(*arrays[:4], strided)], [whole])


def ones(*shape):
    return np.ones(shape, np.float32)


Q, V, K = (2, 3, 5), (2, 6, 7), (2, 6, 5)
WRONG = [
    ([Q[1:], V, K], {}, "query must have 3 axes (N, S, E), got shape (3, 5)"),
    ([Q, V[1:], K], {}, "value must have 3 axes (N, L, Ev), got shape (6, 7)"),
    ([Q, V, K[1:]], {}, "key must have 3 axes (N, L, E), got shape (6, 5)"),
    ([Q, V, (2, 6, 4)], {}, "key must have shape (2, 6, 5) (N and E of query (N, S, E)), got (2,"),
    ([Q, V, (3, 6, 5)], {}, "key must have shape (2, 6, 5)"),
    ([Q, (2, 5, 7), K], {}, "value must have shape (2, 6, 7) (N and L of key (N, L, E)), got (2,"),
    ([(2, 3, 0), V, (2, 6, 0)], {}, "query must have at least one feature, got (2, 3, 0)"),
    ([Q, (2, 6, 0), K], {}, "value must have at least one feature, got (2, 6, 0)"),
    ([Q, V, K, (1, 5)], {}, "scale must have shape (5,) (one a feature of query), got (1, 5)"),
    ([Q, V, K, (1,)], {}, "scale must have shape (5,)"),
    ([Q, V, K], {"causal": 1}, "causal must be True or False, got 1"),
    ([Q, V, K], {"query_offset": 0.5}, "query_offset must be an integer, got 0.5"),
    ([Q, V, K], {"query_offset": np.zeros(3, int)}, "query_offset must have shape (2,)"),
    ([Q, V, K], {"query_offset": np.array([0, 2**60])}, "query_offset must lie within 2**59"),
    ([Q, V, K], {"dropout": 1.0, "seed": 1}, "dropout must lie in [0, 1), got 1"),
    ([Q, V, K], {"dropout": -0.1, "seed": 1}, "dropout must lie in [0, 1), got -0.1"),
    ([Q, V, K], {"dropout": 0.5}, "dropout needs a seed"),
    ([Q, V, K], {"dropout": 0.5, "seed": -1}, "seed must be an integer in [0, 2**64), got -1"),
    ([Q, V, K], {"return_weights": None}, "return_weights must be True or False"),
]


@pytest.mark.parametrize("case", range(len(WRONG)))
def test_what_it_refuses(case):
    shapes, options, message = WRONG[case]
    arrays = [ones(*shape) for shape in shapes]
    for function in (ops.additive_attention, ops.additive_attention.vjp):
        with pytest.raises(ValueError) as caught:
            function(*arrays, **options)
        assert str(caught.value).startswith(f"{NAME}: {message}")


def test_what_types_it_refuses():
    arrays = [ones(*Q), ones(*V), ones(*K), ones(5)]
    for position, name in enumerate(("query", "value", "key", "scale")):
        op_checks.check_only_float32_arrays(
            NAME, arrays, {}, position, name, optional=name == "scale"
        )
    for wrong in (ones(6), np.ones(6, np.int8), [True] * 6, True):
        with pytest.raises(TypeError, match=f"^{NAME}: mask must be"):
            ops.additive_attention(*arrays, wrong)
    for shape in ((5,), (2, 6), (1, 1, 3, 6), (3, 3, 6)):
        with pytest.raises(
            ValueError, match=rf"^{NAME}: mask must broadcast to \(N, S, L\) = \(2, 3, 6\), got"
        ):
            ops.additive_attention(*arrays, np.ones(shape, bool))
    with pytest.raises(TypeError, match=f"^{NAME}: query_offset must be int32 or int64"):
        ops.additive_attention(*arrays, query_offset=ones(2))


def test_sizes_that_overflow():
    def huge(*shape):
        return np.broadcast_to(np.float32(0), shape)

    for query, key in (((2**20, 2**30, 1), (2**20, 1, 1)), ((1, 1, 1), (1, 2**50, 1))):
        for options in ({}, {"dropout": 0.5, "seed": 1}, {"return_weights": True}):
            with pytest.raises((ValueError, MemoryError), match=f"^{NAME}: "):
                ops.additive_attention(huge(*query), huge(*key), huge(*key), **options)


def test_parity_with_torch(backend, rng):
    pytest.importorskip("torch")
    from reference import torch_peer

    arrays = draw(rng, 2, 33, 60, 32, 16, (33, 60))
    options = {"return_weights": True}
    results, pullback = ops.additive_attention.vjp(*arrays, **options)
    dy = gradients_like(results, rng)
    values, gradients = torch_peer.values_and_gradients(NAME, arrays, tuple(dy), options)
    for result, value in zip(results, values, strict=True):
        np.testing.assert_allclose(result, value, rtol=0, atol=4e-6 * np.abs(value).max())
    for ours, theirs in zip(pullback(*dy), gradients, strict=True):
        if theirs is not None:
            np.testing.assert_allclose(ours, theirs, rtol=0, atol=8e-6 * np.abs(theirs).max())


def test_documentation():
    assert doctest.testmod(sys.modules["lamella.ops.additive_attention"]).failed == 0
