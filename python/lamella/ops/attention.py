"""Scaled dot-product attention."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from lamella.ops._backend import backend_of
from lamella.ops._op import Array, Gradients, Pullback, check_gradients, needed, op, outputs

Window = int | tuple[int | None, int | None] | None


def _results(y: Array, lse: Array | None, weights: Array | None) -> Any:
    """What the caller asked for: y alone, or a tuple."""
    more = tuple(array for array in (lse, weights) if array is not None)
    return (y, *more) if more else y


def _attention_vjp(
    query: Array,
    key: Array,
    value: Array,
    mask: Array | None = None,
    bias: Array | None = None,
    *,
    scale: float | None = None,
    causal: bool = False,
    query_offset: int | Array | None = None,
    key_lengths: Array | None = None,
    window: Window = None,
    softcap: float | None = None,
    alibi_slopes: Array | None = None,
    dropout: float = 0.0,
    seed: int | None = None,
    return_lse: bool = False,
    return_weights: bool = False,
    needs: Sequence[bool] | None = None,
) -> tuple[Any, Pullback]:
    arrays = (query, key, value, mask, bias)
    options = (
        scale, causal, query_offset, key_lengths, window, softcap, alibi_slopes, dropout, seed,
    )  # fmt: skip
    wanted = tuple(needed("attention", needs, 5))
    backend = backend_of(query)
    y, lse, weights, saved = backend.attention_forward(arrays, options, return_lse, return_weights)

    def pullback(*dy: Array | None, out: Sequence[Array | None] | None = None) -> Gradients:
        check_gradients("attention", dy, 1 + return_lse + return_weights)
        d_lse = dy[1] if return_lse else None
        d_weights = dy[-1] if return_weights else None
        into = tuple(outputs("attention", out, 5))
        d_results = (dy[0], d_lse, d_weights)
        return backend.attention_backward(d_results, arrays, saved, options, wanted, into)

    return _results(y, lse, weights), pullback


@op(_attention_vjp)
def attention(
    query: Array,
    key: Array,
    value: Array,
    mask: Array | None = None,
    bias: Array | None = None,
    *,
    scale: float | None = None,
    causal: bool = False,
    query_offset: int | Array | None = None,
    key_lengths: Array | None = None,
    window: Window = None,
    softcap: float | None = None,
    alibi_slopes: Array | None = None,
    dropout: float = 0.0,
    seed: int | None = None,
    return_lse: bool = False,
    return_weights: bool = False,
) -> Any:
    arrays = (query, key, value, mask, bias)
    options = (
        scale, causal, query_offset, key_lengths, window, softcap, alibi_slopes, dropout, seed,
    )  # fmt: skip
    backend = backend_of(query)
    return _results(*backend.attention_forward(arrays, options, return_lse, return_weights)[:3])
