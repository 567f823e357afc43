"""Attention in NumPy, called as the ops are: for tests of the benchmarks without these ops."""

from __future__ import annotations

import numpy as np


def _weights(query, key, mask, causal):
    """-> softmax of the visible scores (N, A, S, L)."""
    scores = np.einsum("nsae,nlae->nasl", query, key) / np.sqrt(query.shape[3])
    visible = np.ones(scores.shape[2:], bool)
    if causal:
        visible = np.tri(*visible.shape, k=visible.shape[1] - visible.shape[0], dtype=bool)
    if mask is not None:
        visible = visible & mask
    exponentials = np.where(visible, np.exp(scores - scores.max(axis=3, keepdims=True)), 0.0)
    return exponentials / exponentials.sum(axis=3, keepdims=True)


def _attend(query, key, value, mask, causal, dropout, seed):
    """-> y (N, S, A, E), and the function of dy that gives three gradients."""
    query, key, value = (a.astype(np.float64) for a in (query, key, value))
    p = _weights(query, key, mask, causal)
    kept = (np.random.default_rng(seed).random(p.shape) >= dropout) / (1 - dropout)
    y = np.einsum("nasl,nlae->nsae", p * kept, value)

    def gradients(dy):
        dp = np.einsum("nsae,nlae->nasl", dy, value) * kept
        ds = p * (dp - (p * dp).sum(axis=3, keepdims=True)) / np.sqrt(query.shape[3])
        return (
            np.einsum("nasl,nlae->nsae", ds, key),
            np.einsum("nasl,nsae->nlae", ds, query),
            np.einsum("nasl,nsae->nlae", p * kept, dy),
        )

    return y, gradients


def _float32(arrays, needs):
    """The gradients that are wanted, of all array arguments."""
    arrays = [*arrays, *[None] * (len(needs) - len(arrays))]
    return tuple(
        np.ascontiguousarray(a, np.float32) if needed and a is not None else None
        for a, needed in zip(arrays, needs, strict=True)
    )


def attention(
    query, key, value, mask=None, bias=None, *, causal=False, dropout=0.0, seed=None, needs=None
):
    return np.float32(_attend(query, key, value, mask, causal, dropout, seed)[0])


def _attention_vjp(
    query, key, value, mask=None, bias=None, *, causal=False, dropout=0.0, seed=None, needs=None
):
    y, gradients = _attend(query, key, value, mask, causal, dropout, seed)
    return np.float32(y), lambda dy: _float32(gradients(dy), needs)


attention.vjp = _attention_vjp


def multi_head_attention(
    query, key, value, query_kernel, key_kernel, value_kernel, output_kernel,
    query_bias=None, key_bias=None, value_bias=None, output_bias=None, mask=None, bias=None,
):  # fmt: skip
    arrays = (query, key, value, query_kernel, key_kernel, value_kernel, output_kernel)
    return multi_head_attention.vjp(
        *arrays, query_bias, key_bias, value_bias, output_bias, needs=()
    )[0]


def _multi_head_attention_vjp(
    query, key, value, query_kernel, key_kernel, value_kernel, output_kernel,
    query_bias, key_bias, value_bias, output_bias, *, needs,
):  # fmt: skip
    inputs = [a.astype(np.float64) for a in (query, key, value)]
    kernels = (query_kernel, key_kernel, value_kernel)
    biases = (query_bias, key_bias, value_bias)
    heads = [
        np.einsum("nsd,dae->nsae", x, kernel) + bias
        for x, kernel, bias in zip(inputs, kernels, biases, strict=True)
    ]
    attended, attended_gradients = _attend(*heads, None, False, 0.0, None)
    y = np.einsum("nsae,aed->nsd", attended, output_kernel) + output_bias

    def pullback(dy):
        d_heads = attended_gradients(np.einsum("nsd,aed->nsae", dy, output_kernel))
        d_inputs = [np.einsum("nsae,dae->nsd", d, k) for d, k in zip(d_heads, kernels, strict=True)]
        d_kernels = [np.einsum("nsae,nsd->dae", d, x) for d, x in zip(d_heads, inputs, strict=True)]
        d_output = np.einsum("nsae,nsd->aed", attended, dy)
        d_biases = [d.sum(axis=(0, 1)) for d in (*d_heads, dy)]
        return _float32([*d_inputs, *d_kernels, d_output, *d_biases], needs)

    return np.float32(y), pullback


multi_head_attention.vjp = _multi_head_attention_vjp
