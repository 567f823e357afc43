"""Which keys each query of an attention sees, and softmax and sums over those alone.

A pair of a query and a key that is not visible has no influence, whatever it contains: what is NaN
or infinite there is left out, not multiplied by 0. Arrays over all pairs are (..., S, L).
"""

from __future__ import annotations

import numpy as np


def distances(query_offset, queries, keys, rank):
    """i + offset - j: how far before query i key j stands. (N or 1, 1..., S, L), of `rank` axes.

    `query_offset`, an int or (N,), is where the first query stands among the keys; None lets the
    last query stand at the last key.
    """
    offset = keys - queries if query_offset is None else query_offset
    offset = np.reshape(offset, (-1,) + (1,) * (rank - 1))
    return offset + np.arange(queries)[:, None] - np.arange(keys)


def visible_pairs(shape, distance, mask=None, causal=False, key_lengths=None, window=None):
    """bool of `shape` (N, ..., S, L): the pairs that every option given lets through.

    mask      where it is True; it broadcasts to `shape`
    causal    key j stands at query i or before
    key_lengths (N,)    j < key_lengths[n]
    window    (left, right): at most `left` keys before the query and `right` after it, None for
              no limit; an int w is (w, 0)
    """
    visible = np.ones(shape, bool)
    if mask is not None:
        visible &= mask
    if causal:
        visible &= distance >= 0
    if key_lengths is not None:
        lengths = np.reshape(key_lengths, (-1,) + (1,) * (len(shape) - 1))
        visible &= np.arange(shape[-1]) < lengths
    left, right = window if isinstance(window, tuple) else (window, None if window is None else 0)
    if left is not None:
        visible &= distance <= left
    if right is not None:
        visible &= distance >= -right
    return visible


def softmax(scores, visible):
    """-> p (..., S, L), lse (..., S), and the pairs that are still visible.

        p_j = exp(score_j) / sum exp(score),  lse = log sum exp(score)

    over a row's visible pairs; 0 elsewhere. A row with none, or with scores of -inf only, sees
    nothing: p = 0, lse = -inf. A visible NaN or +inf makes NaN of the row's visible p and its lse.
    """
    scores = np.where(visible, scores, -np.inf)
    largest = scores.max(axis=-1, keepdims=True, initial=-np.inf)
    visible = visible & (largest != -np.inf)
    exponentials = np.where(visible, np.exp(scores - largest), 0.0)
    total = exponentials.sum(axis=-1, keepdims=True)
    p = np.where(visible, exponentials / total, 0.0)
    return p, (largest + np.log(total))[..., 0], visible


def softmax_backward(dp, p, visible):
    """d_scores = p (dp - sum(p dp))."""
    row_sum = np.where(visible, p * dp, 0.0).sum(axis=-1, keepdims=True)
    return np.where(visible, p * (dp - row_sum), 0.0)


def visible_product(pairs, rows, visible):
    """sum_j pairs_ij rows_j over the visible j. pairs (..., I, J), rows (..., J, E) -> (..., I, E).

    One j at a time, so that a product can be left out.
    """
    total = np.zeros((*pairs.shape[:-1], rows.shape[-1]))
    for j in range(pairs.shape[-1]):
        product = pairs[..., j, None] * rows[..., j, None, :]
        total += np.where(visible[..., j, None], product, 0.0)
    return total


def transposed(pairs):
    """(..., S, L) -> (..., L, S)."""
    return np.swapaxes(pairs, -1, -2)
