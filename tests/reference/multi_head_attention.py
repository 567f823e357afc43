"""multi_head_attention: attention between projections (Vaswani et al. 2017).

    q = query query_kernel + query_bias      (N,S,A,E)
    k = key key_kernel + key_bias            (N,L,K,E)
    v = value value_kernel + value_bias      (N,L,K,Ev)
    y = attention(q, k, v) output_kernel + output_bias, summed over heads and their width

with the options of attention. A row that sees nothing gives output_bias. The projections are plain
products: NaN in a key or value that nothing sees does reach the gradients of the kernels.
"""

from __future__ import annotations

import numpy as np

from . import attention
from .precision import as_float64
from .recurrence import zeros_if_none


def _projected(x, kernel, bias):
    """x (N,T,D), kernel (D,A,E), bias (A,E)? -> (N,T,A,E)."""
    y = np.tensordot(x, kernel, axes=1)
    return y if bias is None else y + bias


def _projected_backward(dy, x, kernel, bias):
    """dy (N,T,A,E) -> dx, dkernel, dbias?."""
    d_bias = None if bias is None else dy.sum(axis=(0, 1))
    return np.einsum("ntae,dae->ntd", dy, kernel), np.einsum("ntd,ntae->dae", x, dy), d_bias


def forward(
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
    """-> y (N,S,Dout), and lse and w as attention returns them.

    query (N,S,Dq), key (N,L,Dk), value (N,L,Dv), query_kernel (Dq,A,E), key_kernel (Dk,K,E),
    value_kernel (Dv,K,Ev), output_kernel (A,Ev,Dout), query_bias (A,E)?, key_bias (K,E)?,
    value_bias (K,Ev)?, output_bias (Dout)?, mask and bias broadcast to (N,A,S,L).
    """
    query, key, value, output_kernel, output_bias = as_float64(
        query, key, value, output_kernel, output_bias
    )
    q = _projected(query, *as_float64(query_kernel, query_bias))
    k = _projected(key, *as_float64(key_kernel, key_bias))
    v = _projected(value, *as_float64(value_kernel, value_bias))
    attended = attention.forward(q, k, v, mask, bias, **options)
    heads, *others = attended if isinstance(attended, tuple) else (attended,)
    y = np.tensordot(heads, output_kernel, axes=2)
    if output_bias is not None:
        y = y + output_bias
    return (y, *others) if others else y


def backward(
    dy,
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
    """-> a gradient of each array, None for mask and what is absent.

    `dy` has the structure of forward's result: one array, or a tuple of which any may be None.
    """
    query, key, value, query_kernel, key_kernel, value_kernel, output_kernel = as_float64(
        query, key, value, query_kernel, key_kernel, value_kernel, output_kernel
    )
    q = _projected(query, query_kernel, query_bias)
    k = _projected(key, key_kernel, key_bias)
    v = _projected(value, value_kernel, value_bias)
    attended = attention.forward(q, k, v, mask, bias, **options)
    several = isinstance(attended, tuple)
    heads = attended[0] if several else attended
    dy, *d_others = dy if several else (dy,)
    dy = zeros_if_none(dy, (*query.shape[:2], output_kernel.shape[2]))

    d_heads = np.einsum("nso,avo->nsav", dy, output_kernel)
    d_output_kernel = np.einsum("nsav,nso->avo", heads, dy)
    d_output_bias = None if output_bias is None else dy.sum(axis=(0, 1))
    dq, dk, dv, _, d_bias = attention.backward(
        (d_heads, *d_others) if several else d_heads, q, k, v, mask, bias, **options
    )
    d_query, d_query_kernel, d_query_bias = _projected_backward(dq, query, query_kernel, query_bias)
    d_key, d_key_kernel, d_key_bias = _projected_backward(dk, key, key_kernel, key_bias)
    d_value, d_value_kernel, d_value_bias = _projected_backward(dv, value, value_kernel, value_bias)
    return (
        d_query,
        d_key,
        d_value,
        d_query_kernel,
        d_key_kernel,
        d_value_kernel,
        d_output_kernel,
        d_query_bias,
        d_key_bias,
        d_value_bias,
        d_output_bias,
        None,
        d_bias,
    )
