"""Attention kernels against the reference, for the tests of the attention ops."""

from __future__ import annotations

import types

import numpy as np
import op_checks
from reference import OPS, philox
from tolerances import assert_close

from lamella import ops

SEED = 0x5EED << 40


def as_float32(value):
    if isinstance(value, np.ndarray) and value.dtype == np.float64:
        return value.astype(np.float32)
    return value


def kept(seed, rate, batch, heads, queries, keys):
    """The mask that csrc/ops/attention/attention.h documents: rows of a multiple of 32 words."""
    row = -(-keys // 32) * 32
    words = philox.kept(seed, rate, batch * heads * queries * row)
    return words.reshape(batch, heads, queries, row)[..., :keys]


def options_of(name, options, shape):
    """The op's options, and the reference's, of a case's; shape is (N, A, S, L)."""
    options = {option: as_float32(value) for option, value in options.items() if option != "kept"}
    reference = dict(options)
    if options.get("dropout"):
        options["seed"] = SEED
        reference["kept"] = kept(SEED, options["dropout"], *shape)
    return options, reference


def gradients_like(results, rng):
    """Such that the gradients of weights, products with values, are near 1."""
    dy = [rng.standard_normal(r.shape).astype(np.float32) for r in results]
    return [dy[0] / np.float32(np.sqrt(dy[0].shape[-1])), *dy[1:]]


def check(
    name,
    arrays,
    options,
    shape,
    terms,
    rng,
    magnitude=1.0,
    like_gradient=types.MappingProxyType({}),
):
    """Results and gradients within the table's bounds; forward alone gives the same bits.

    shape: (N, A, S, L). terms: those of a result, and those that each gradient has more.
    magnitude: of the largest scores, where it is not near 1. like_gradient: of which other argument
    a gradient has the size of terms.
    """
    arrays = [as_float32(a) for a in arrays]
    options, reference_options = options_of(name, options, shape)
    right = op_checks.as_tuple(OPS[name].forward(*arrays, **reference_options))
    results, pullback = getattr(ops, name).vjp(*arrays, **options)
    op_checks.assert_same_bits(
        op_checks.as_tuple(getattr(ops, name)(*arrays, **options)), op_checks.as_tuple(results)
    )
    results = op_checks.as_tuple(results)
    for result, expected in zip(results, right, strict=True):
        finite = np.abs(expected[np.isfinite(expected)])
        scale = magnitude * max(0.1, np.max(finite, initial=0.0))
        assert_close(result, expected, name, "forward", terms[0], scale)
    dy = gradients_like(results, rng)
    gradients = pullback(*dy)
    given = dy[0] if len(dy) == 1 else tuple(dy)
    expected = OPS[name].backward(given, *arrays, **reference_options)
    for i, (gradient, expected_gradient) in enumerate(zip(gradients, expected, strict=True)):
        if expected_gradient is None:
            assert gradient is None
            continue
        # Sums of terms around 1, which may cancel; see `attended` in tolerances.py.
        like = expected[like_gradient.get(i, i)]
        scale = magnitude * max(1.0, np.max(np.abs(like), initial=0.0))
        more = terms[1][i]
        assert_close(gradient, expected_gradient, name, "backward", terms[0] + more, scale)
    return results, gradients
