"""The attention ops by PyTorch, as `torch_peer` has the others.

torch.nn.functional.scaled_dot_product_attention computes what it can, given every option as one
additive mask. The rest is written out, under autograd.
"""

from __future__ import annotations

import torch
from torch.nn import functional


def visible_pairs(shape, mask, causal, query_offset, key_lengths, window):
    """bool of `shape` (N, ..., S, L), from triangles of ones."""
    queries, keys = shape[-2:]
    left, right = window if isinstance(window, tuple) else (window, None if window is None else 0)
    offsets = torch.as_tensor(keys - queries if query_offset is None else query_offset)
    rows = []
    for offset in offsets.expand(shape[0]).tolist():
        row = torch.ones(queries, keys, dtype=torch.bool)
        row = row.tril(offset) if causal else row
        row = row if left is None else row.triu(offset - left)
        rows.append(row if right is None else row.tril(offset + right))
    visible = torch.stack(rows) if rows else torch.ones(0, queries, keys, dtype=torch.bool)
    if key_lengths is not None:
        limits = torch.as_tensor(key_lengths)[:, None, None]
        visible = visible & (torch.arange(keys) < limits)
    visible = visible.view(shape[0], *[1] * (len(shape) - 3), queries, keys).expand(shape)
    return visible if mask is None else visible & mask


def softmax(scores):
    """p and the log-sum-exp of rows in which -inf is an invisible pair; rows may be all -inf."""
    nothing = (scores == -torch.inf).all(dim=-1, keepdim=True)
    scores = scores.masked_fill(nothing, 0.0)
    if scores.shape[-1] == 0:
        return scores, scores.sum(dim=-1) - torch.inf
    lse = scores.logsumexp(dim=-1).masked_fill(nothing[..., 0], -torch.inf)
    return functional.softmax(scores, dim=-1).masked_fill(nothing, 0.0), lse


def dropped_out(p, kept, dropout):
    return p if kept is None else p * torch.as_tensor(kept) / (1.0 - dropout)


def alibi(slopes, query_offset, shape, dtype):
    batch, _, queries, keys = shape
    offsets = torch.as_tensor(keys - queries if query_offset is None else query_offset)
    positions = offsets.expand(batch)[:, None] + torch.arange(queries)
    distances = (positions[:, None, :, None] - torch.arange(keys)).abs()
    return -torch.as_tensor(slopes, dtype=dtype)[:, None, None] * distances


def attention(
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
    q, k, v = (x.transpose(1, 2) for x in (query, key, value))
    shape = (*q.shape[:3], k.shape[2])
    added = q.new_zeros(shape) if bias is None else bias.expand(shape)
    if alibi_slopes is not None:
        added = added + alibi(alibi_slopes, query_offset, shape, q.dtype)
    visible = visible_pairs(shape, mask, causal, query_offset, key_lengths, window)
    added = added.masked_fill(~visible, -torch.inf)
    if softcap is None and kept is None and not (return_lse or return_weights):
        y = functional.scaled_dot_product_attention(
            q, k, v, attn_mask=added, scale=scale, enable_gqa=True
        )
        return y.transpose(1, 2)
    group = q.shape[1] // k.shape[1]
    k, v = (x.repeat_interleave(group, dim=1) for x in (k, v))
    scores = q @ k.mT * (q.shape[-1] ** -0.5 if scale is None else scale)
    if softcap is not None:
        scores = softcap * torch.tanh(scores / softcap)
    p, lse = softmax(scores + added)
    w = dropped_out(p, kept, dropout)
    results = ((w @ v).transpose(1, 2), *([lse] * return_lse), *([w] * return_weights))
    return results if len(results) > 1 else results[0]


def projected(x, kernel, bias):
    heads = kernel.shape[1:]
    y = functional.linear(x, kernel.flatten(1).T, None if bias is None else bias.flatten())
    return y.unflatten(-1, heads)


def multi_head_attention(
    query,
    key,
    value,
    query_kernel,
    key_kernel,
    value_kernel,
    output_kernel,
    query_bias=None,
    key_bias=None,
    value_bias=None,
    output_bias=None,
    mask=None,
    bias=None,
    **options,
):
    q = projected(query, query_kernel, query_bias)
    k = projected(key, key_kernel, key_bias)
    v = projected(value, value_kernel, value_bias)
    attended = attention(q, k, v, mask, bias, **options)
    y, *others = attended if isinstance(attended, tuple) else (attended,)
    y = functional.linear(y.flatten(2), output_kernel.flatten(0, 1).T, output_bias)
    return (y, *others) if others else y


def additive_attention(
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
    hidden = torch.tanh(query[:, :, None] + key[:, None])
    scores = hidden.sum(dim=-1) if scale is None else hidden @ scale
    visible = visible_pairs(scores.shape, mask, causal, query_offset, None, None)
    p, _ = softmax(scores.masked_fill(~visible, -torch.inf))
    w = dropped_out(p, kept, dropout)
    return (w @ value, w) if return_weights else w @ value


def rotary_embedding(x, cos, sin, *, interleaved=False):
    """As a product of complex numbers."""
    pairs = x.unflatten(-1, (-1, 2)).mT if interleaved else x.unflatten(-1, (2, -1))
    turned = torch.complex(*pairs.unbind(-2)) * torch.complex(cos, sin)[..., None, :].detach()
    return torch.stack((turned.real, turned.imag), -1 if interleaved else -2).flatten(-2)
