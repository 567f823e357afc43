"""attention: softmax attention (Vaswani et al. 2017) with what its descendants have added.

For query i and key j of sequence n and head a, which reads the key head a // (A / K):

    s = scale q_i . k_j
    s = softcap tanh(s / softcap)                              with softcap
    s = s + bias - alibi_slopes[a] |i + query_offset_n - j|    with bias, with alibi_slopes
    p = softmax of s over the visible j,   lse = log sum exp(s) over them
    w = p kept / (1 - dropout)                                 with kept
    y_i = sum_j w_j v_j

Which pairs are visible, and what a row that sees nothing gives, see visible_pairs: such a row has
y = 0, lse = -inf, w = 0, and its gradients are 0. A visible pair's NaN goes where IEEE arithmetic
takes it, through w = 0 as well.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from .elementwise import sum_to_shape
from .precision import as_float64
from .recurrence import zeros_if_none
from .visible_pairs import (
    distances,
    softmax,
    softmax_backward,
    transposed,
    visible_pairs,
    visible_product,
)


class _Attended(NamedTuple):
    """Everything between the arrays and the results, heads before positions."""

    q: np.ndarray  # (N,A,S,E)
    k: np.ndarray  # (N,A,L,E)
    v: np.ndarray  # (N,A,L,Ev)
    scale: float
    capped_slope: np.ndarray | float  # (N,A,S,L), the derivative of softcap
    visible: np.ndarray  # (N,A,S,L) bool
    p: np.ndarray  # (N,A,S,L)
    lse: np.ndarray  # (N,A,S)
    dropout_scale: np.ndarray | float  # (N,A,S,L), w = p dropout_scale


def _heads_first(x, heads):
    """x (N,T,K,E) -> (N,heads,T,E), each head repeated for the heads // K that read it."""
    return np.repeat(x, heads // x.shape[2], axis=2).swapaxes(1, 2)


def _heads_first_backward(d, key_heads):
    """d (N,heads,T,E) -> (N,T,key_heads,E), summed over the heads that read each."""
    batch, heads, length, width = d.shape
    d = d.reshape(batch, key_heads, heads // key_heads, length, width)
    return d.sum(axis=2).swapaxes(1, 2)


def _attend(
    query,
    key,
    value,
    mask,
    bias,
    scale,
    causal,
    query_offset,
    key_lengths,
    window,
    softcap,
    alibi_slopes,
    kept,
    dropout,
):
    query, key, value, bias = as_float64(query, key, value, bias)
    batch, queries, heads, width = query.shape
    keys = key.shape[1]
    q, k, v = (_heads_first(x, heads) for x in (query, key, value))
    distance = distances(query_offset, queries, keys, rank=4)

    scale = width**-0.5 if scale is None else scale
    scores = scale * np.einsum("nase,nale->nasl", q, k)
    capped_slope = 1.0
    if softcap is not None:
        bounded = np.tanh(scores / softcap)
        scores = softcap * bounded
        capped_slope = 1.0 - bounded**2
    if bias is not None:
        scores = scores + bias
    if alibi_slopes is not None:
        scores = scores - np.reshape(alibi_slopes, (heads, 1, 1)) * np.abs(distance)

    shape = (batch, heads, queries, keys)
    visible = visible_pairs(shape, distance, mask, causal, key_lengths, window)
    p, lse, visible = softmax(scores, visible)
    dropout_scale = 1.0 if kept is None else kept / (1.0 - dropout)
    return _Attended(q, k, v, scale, capped_slope, visible, p, lse, dropout_scale)


def forward(
    query,
    key,
    value,
    mask=None,
    bias=None,
    *,
    scale=None,
    causal=False,
    query_offset=None,
    key_lengths=None,
    window=None,
    softcap=None,
    alibi_slopes=None,
    kept=None,
    dropout=0.0,
    return_lse=False,
    return_weights=False,
):
    """-> y (N,S,A,Ev), then lse (N,A,S) if return_lse, then w (N,A,S,L) if return_weights.

    query (N,S,A,E), key (N,L,K,E), value (N,L,K,Ev), where K divides A; mask bool and bias float,
    each broadcast to (N,A,S,L); scale default 1 / sqrt(E); query_offset an int or (N,), default
    L - S; key_lengths (N,); window an int or (left, right); alibi_slopes (A,); kept (N,A,S,L) bool.
    """
    a = _attend(
        query,
        key,
        value,
        mask,
        bias,
        scale,
        causal,
        query_offset,
        key_lengths,
        window,
        softcap,
        alibi_slopes,
        kept,
        dropout,
    )
    w = a.p * a.dropout_scale
    y = visible_product(w, a.v, a.visible).swapaxes(1, 2)
    results = (y, *((a.lse,) if return_lse else ()), *((w,) if return_weights else ()))
    return results if len(results) > 1 else y


def backward(
    dy,
    query,
    key,
    value,
    mask=None,
    bias=None,
    *,
    scale=None,
    causal=False,
    query_offset=None,
    key_lengths=None,
    window=None,
    softcap=None,
    alibi_slopes=None,
    kept=None,
    dropout=0.0,
    return_lse=False,
    return_weights=False,
):
    """-> dquery, dkey, dvalue, None, dbias? of the shape of bias.

    `dy` has the structure of forward's result: one array, or a tuple of which any may be None.
    """
    a = _attend(
        query,
        key,
        value,
        mask,
        bias,
        scale,
        causal,
        query_offset,
        key_lengths,
        window,
        softcap,
        alibi_slopes,
        kept,
        dropout,
    )
    given = iter(dy if return_lse or return_weights else (dy,))
    dy = zeros_if_none(next(given), (*np.shape(query)[:3], np.shape(value)[3])).swapaxes(1, 2)
    d_lse = zeros_if_none(next(given) if return_lse else None, a.lse.shape)
    dw = zeros_if_none(next(given) if return_weights else None, a.p.shape)

    dw = dw + np.einsum("nasv,nalv->nasl", dy, a.v)
    d_scores = softmax_backward(dw * a.dropout_scale, a.p, a.visible)
    d_scores = d_scores + np.where(a.visible, a.p * d_lse[..., None], 0.0)  # dlse / ds = p
    d_bias = None if bias is None else sum_to_shape(d_scores, np.shape(bias))
    d_products = d_scores * a.capped_slope * a.scale

    seen_by_key = transposed(a.visible)
    dq = visible_product(d_products, a.k, a.visible)
    dk = visible_product(transposed(d_products), a.q, seen_by_key)
    dv = visible_product(transposed(a.p * a.dropout_scale), dy, seen_by_key)
    d_query = dq.swapaxes(1, 2)
    d_key, d_value = (_heads_first_backward(d, np.shape(key)[2]) for d in (dk, dv))
    return d_query, d_key, d_value, None, d_bias
