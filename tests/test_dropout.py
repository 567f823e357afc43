"""Dropout: its masks are Philox's words, its values and gradients the reference's."""

from __future__ import annotations

import threading

import awkward_arrays
import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from reference import OPS, philox
from tolerances import assert_close

from lamella import ops, utils

# The test vectors published with Random123 (kat_vectors, philox4x32 10): counter, key, words.
KNOWN_ANSWERS = [
    (
        (0x00000000, 0x00000000, 0x00000000, 0x00000000),
        (0x00000000, 0x00000000),
        (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8),
    ),
    (
        (0xFFFFFFFF, 0xFFFFFFFF, 0xFFFFFFFF, 0xFFFFFFFF),
        (0xFFFFFFFF, 0xFFFFFFFF),
        (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD),
    ),
    (
        (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
        (0xA4093822, 0x299F31D0),
        (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
    ),
]
SEEDS = (0, 1, 2**32 - 1, 2**32, 0x299F31D0A4093822, 2**64 - 1)


@pytest.mark.parametrize(("counter", "key", "words"), KNOWN_ANSWERS)
def test_reference_gives_the_known_answers(counter, key, words):
    assert tuple(philox.philox4x32(np.uint64(counter), np.uint64(key))) == words


def test_first_words_are_the_known_answer(backend):
    # An element is kept at a threshold of its word + 1, and dropped at its word.
    x = np.ones(4, np.float32)
    for i, word in enumerate(KNOWN_ANSWERS[0][2]):
        for threshold, kept in ((word, False), (word + 1, True)):
            y = ops.dropout(x, rate=1 - threshold / 2**32, seed=0)
            assert (y[i] != 0) is np.bool_(kept)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("size", [0, 1, 2, 5, 16, 31, 32, 33, 63, 16384, 16385, 16400, 50021])
def test_values_and_gradients(size, seed, backend, rng):
    x = rng.standard_normal(size).astype(np.float32)
    dy = rng.standard_normal(size).astype(np.float32)
    for rate in (0.1, 0.5, 0.9):
        kept = philox.kept(seed, rate, size)
        y, pullback = ops.dropout.vjp(x, rate=rate, seed=seed)
        assert_close(y, OPS["dropout"].forward(x, rate=rate, kept=kept), "dropout", "forward")
        np.testing.assert_array_equal(ops.dropout(x, rate=rate, seed=seed), y)
        (dx,) = pullback(dy)
        expected = OPS["dropout"].backward(dy, x, rate=rate, kept=kept)[0]
        assert_close(dx, expected, "dropout", "backward")
        assert not np.shares_memory(x, y)
        assert not np.shares_memory(dx, dy)


@hypothesis.settings(
    max_examples=40,
    deadline=None,
    suppress_health_check=[hypothesis.HealthCheck.function_scoped_fixture],
)
@hypothesis.given(
    shape=hnp.array_shapes(min_dims=0, max_dims=5, min_side=0, max_side=9),
    seed=st.integers(0, 2**64 - 1),
    rate=st.floats(0, 1, exclude_max=True),
)
def test_any_shape_seed_and_rate(backend, shape, seed, rate):
    x = np.ones(shape, np.float32)
    y = ops.dropout(x, rate=rate, seed=seed)
    kept = philox.kept(seed, rate, x.size).reshape(shape)
    np.testing.assert_array_equal(y != 0, kept)
    assert_close(y, OPS["dropout"].forward(x, rate=rate, kept=kept), "dropout", "forward")


def test_extreme_rates(backend):
    x = np.float32([1.0, np.nan, -np.inf, 3e38, 1e-40] * 9)
    np.testing.assert_array_equal(ops.dropout(x, rate=0, seed=3), x)
    np.testing.assert_array_equal(ops.dropout(x, rate=0.0, seed=3), x)
    # Less than one in 2^32 is kept; what is dropped is 0 whatever it was.
    np.testing.assert_array_equal(ops.dropout(x, rate=1 - 2**-53, seed=3), np.zeros_like(x))
    np.testing.assert_array_equal(ops.dropout(x, rate=5e-324, seed=3), x)


def test_nan_infinity_and_denormals(backend):
    x = np.float32([np.nan, np.inf, -np.inf, -0.0, 1e-45, 1e-40, 1.0] * 20)
    kept = philox.kept(9, 0.5, x.size)
    expected = np.where(kept, x * np.float32(2), np.float32(0))
    np.testing.assert_array_equal(ops.dropout(x, rate=0.5, seed=9), expected)


def test_share_of_kept_elements():
    size = 10**6
    x = np.ones(size, np.float32)
    masks = [ops.dropout(x, rate=0.3, seed=seed) != 0 for seed in (1, 2)]
    deviation = np.sqrt(0.3 * 0.7 / size)
    for mask in masks:
        assert abs(mask.mean() - 0.7) < 5 * deviation
        # Neighbours and streams are independent: both kept with probability 0.49.
        for lag in (1, 2, 4, 8, 64):
            assert abs((mask[lag:] & mask[:-lag]).mean() - 0.49) < 6 * deviation
    assert abs((masks[0] & masks[1]).mean() - 0.49) < 6 * deviation


@pytest.mark.parametrize("layout", awkward_arrays.LAYOUTS)
def test_layouts(layout, rng):
    x, dy = rng.standard_normal((2, 5, 7)).astype(np.float32)
    y, pullback = ops.dropout.vjp(x, rate=0.4, seed=5)
    odd = awkward_arrays.LAYOUTS[layout]
    odd_y, odd_pullback = ops.dropout.vjp(odd(x), rate=0.4, seed=5)
    np.testing.assert_array_equal(odd_y, y)
    np.testing.assert_array_equal(odd_pullback(odd(dy))[0], pullback(dy)[0])


def test_same_bits_for_any_number_of_threads(backend, rng):
    x = rng.standard_normal(100003).astype(np.float32)
    results = []
    for threads in (1, 2, 5):
        utils.set_num_threads(threads)
        y, pullback = ops.dropout.vjp(x, rate=0.25, seed=11)
        results.append((y.tobytes(), pullback(x)[0].tobytes()))
    assert results[0] == results[1] == results[2]


def test_pullback_options(rng):
    x, dy = rng.standard_normal((2, 40)).astype(np.float32)
    y, pullback = ops.dropout.vjp(x, rate=0.5, seed=2**63)
    expected = pullback(dy)[0]
    np.testing.assert_array_equal(expected != 0, y != 0)
    into = np.full(40, np.nan, np.float32)
    assert pullback(dy, out=(into,))[0] is into
    np.testing.assert_array_equal(into, expected)
    np.testing.assert_array_equal(pullback(None)[0], np.zeros(40, np.float32))
    assert ops.dropout.vjp(x, rate=0.5, seed=1, needs=(False,))[1](dy) == (None,)
    found = []
    thread = threading.Thread(target=lambda: found.append(pullback(dy)[0]))
    thread.start()
    thread.join()
    np.testing.assert_array_equal(found[0], expected)


def test_pullback_refuses():
    x = np.ones(6, np.float32)
    _, pullback = ops.dropout.vjp(x, rate=0.5, seed=1)
    with pytest.raises(ValueError, match="dropout: the pullback takes 1 gradient"):
        pullback()
    with pytest.raises(ValueError, match=r"dropout: dy must have shape \(6,\)"):
        pullback(x.reshape(2, 3))
    with pytest.raises(TypeError, match="dropout: dy must be float32"):
        pullback(np.ones(6))
    with pytest.raises(ValueError, match=r"dropout: out must have shape \(6,\)"):
        pullback(x, out=(np.ones(7, np.float32),))
    with pytest.raises(ValueError, match="dropout: out must have 1 entries"):
        pullback(x, out=())
    with pytest.raises(ValueError, match="dropout: needs must have 1 entries"):
        ops.dropout.vjp(x, rate=0.5, seed=1, needs=())
    with pytest.raises(ValueError, match="dropout: out is written and must not overlap dy"):
        pullback(x, out=(x,))
    for wrong in awkward_arrays.NOT_WRITABLE_IN_PLACE.values():
        with pytest.raises(ValueError, match="dropout: out is written in place"):
            pullback(x, out=(wrong,))


@pytest.mark.parametrize("kind", awkward_arrays.NOT_FLOAT32_ARRAYS)
def test_only_float32_arrays(kind):
    for function in (ops.dropout, ops.dropout.vjp):
        with pytest.raises(TypeError, match=r"^dropout: x must be"):
            function(awkward_arrays.NOT_FLOAT32_ARRAYS[kind], rate=0.5, seed=1)


@pytest.mark.parametrize("rate", [-0.1, -5e-324, 1, 1.5, np.nan, np.inf, "0.5", None, True, [0.5]])
def test_bad_rates(rate):
    for function in (ops.dropout, ops.dropout.vjp):
        with pytest.raises(ValueError, match="dropout: rate must"):
            function(np.ones(3, np.float32), rate=rate, seed=1)


@pytest.mark.parametrize("seed", [-1, 2**64, 2**100, 1.0, "1", None, True])
def test_bad_seeds(seed):
    for function in (ops.dropout, ops.dropout.vjp):
        with pytest.raises(ValueError, match=r"dropout: seed must be an integer in \[0, 2\*\*64\)"):
            function(np.ones(3, np.float32), rate=0.5, seed=seed)


def test_numpy_numbers_as_options():
    x = np.ones(100, np.float32)
    y = ops.dropout(x, rate=np.float32(0.5), seed=np.uint64(2**64 - 1))
    np.testing.assert_array_equal(y, ops.dropout(x, rate=0.5, seed=2**64 - 1))
