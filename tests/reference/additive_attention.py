"""additive_attention: attention with a score of one hidden layer (Bahdanau et al. 2015).

    s_ij = sum_e scale_e tanh(q_ie + k_je)
    p = softmax of s over the visible j
    w = p kept / (1 - dropout)              with kept
    y_i = sum_j w_j v_j

scale is 1 where it is absent. Which pairs are visible, and what a row that sees nothing gives, see
visible_pairs: such a row has y = 0, w = 0, and its gradients are 0.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

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
    """Everything between the arrays and the results."""

    hidden: np.ndarray  # (N,S,L,E), tanh(q + k)
    scale: np.ndarray  # (E)
    visible: np.ndarray  # (N,S,L) bool
    p: np.ndarray  # (N,S,L)
    dropout_scale: np.ndarray | float  # (N,S,L), w = p dropout_scale


def _attend(query, key, scale, mask, causal, query_offset, kept, dropout):
    query, key, scale = as_float64(query, key, scale)
    batch, queries, width = query.shape
    keys = key.shape[1]
    scale = np.ones(width) if scale is None else scale
    hidden = np.tanh(query[:, :, None] + key[:, None])
    distance = distances(query_offset, queries, keys, rank=3)
    visible = visible_pairs((batch, queries, keys), distance, mask, causal)
    p, _, visible = softmax((hidden * scale).sum(axis=-1), visible)
    dropout_scale = 1.0 if kept is None else kept / (1.0 - dropout)
    return _Attended(hidden, scale, visible, p, dropout_scale)


def forward(
    query,
    value,
    key,
    scale=None,
    mask=None,
    *,
    causal=False,
    query_offset=None,
    kept=None,
    dropout=0.0,
    return_weights=False,
):
    """-> y (N,S,Ev), or (y, w (N,S,L)) if return_weights.

    query (N,S,E), value (N,L,Ev), key (N,L,E), scale (E)?, mask bool, broadcast to (N,S,L);
    query_offset an int or (N,), default L - S; kept (N,S,L) bool.
    """
    a = _attend(query, key, scale, mask, causal, query_offset, kept, dropout)
    w = a.p * a.dropout_scale
    y = visible_product(w, np.asarray(value, np.float64), a.visible)
    return (y, w) if return_weights else y


def backward(
    dy,
    query,
    value,
    key,
    scale=None,
    mask=None,
    *,
    causal=False,
    query_offset=None,
    kept=None,
    dropout=0.0,
    return_weights=False,
):
    """-> dquery, dvalue, dkey, dscale?, None.

    `dy` has the structure of forward's result: one array, or a tuple of which any may be None.
    """
    a = _attend(query, key, scale, mask, causal, query_offset, kept, dropout)
    value = np.asarray(value, np.float64)
    dy, dw = dy if return_weights else (dy, None)
    dy = zeros_if_none(dy, (*a.p.shape[:2], value.shape[2]))
    dw = zeros_if_none(dw, a.p.shape) + np.einsum("nsv,nlv->nsl", dy, value)

    d_scores = softmax_backward(dw * a.dropout_scale, a.p, a.visible)[..., None]
    seen = a.visible[..., None]
    d_sums = np.where(seen, d_scores * a.scale * (1.0 - a.hidden**2), 0.0)  # of q + k
    d_scale = None
    if scale is not None:
        d_scale = np.where(seen, d_scores * a.hidden, 0.0).sum(axis=(0, 1, 2))
    d_value = visible_product(transposed(a.p * a.dropout_scale), dy, transposed(a.visible))
    return d_sums.sum(axis=2), d_value, d_sums.sum(axis=1), d_scale, None
