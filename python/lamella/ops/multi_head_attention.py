"""Attention between projections."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from lamella.ops._attention import Window, attention_vjp, results
from lamella.ops._backend import backend_of
from lamella.ops._op import Array, Pullback, op


def _multi_head_attention_vjp(
    query: Array,
    key: Array,
    value: Array,
    query_kernel: Array,
    key_kernel: Array,
    value_kernel: Array,
    output_kernel: Array,
    query_bias: Array | None = None,
    key_bias: Array | None = None,
    value_bias: Array | None = None,
    output_bias: Array | None = None,
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
    arrays = (
        query, key, value, query_kernel, key_kernel, value_kernel, output_kernel,
        query_bias, key_bias, value_bias, output_bias, mask, bias,
    )  # fmt: skip
    options = (
        scale, causal, query_offset, key_lengths, window, softcap, alibi_slopes, dropout, seed,
    )  # fmt: skip
    return attention_vjp("multi_head_attention", arrays, options, return_lse, return_weights, needs)


@op(_multi_head_attention_vjp)
def multi_head_attention(
    query: Array,
    key: Array,
    value: Array,
    query_kernel: Array,
    key_kernel: Array,
    value_kernel: Array,
    output_kernel: Array,
    query_bias: Array | None = None,
    key_bias: Array | None = None,
    value_bias: Array | None = None,
    output_bias: Array | None = None,
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
    """Attention between projections to heads and from them (Vaswani et al. 2017).

    ``q = query query_kernel + query_bias``, ``k`` and ``v`` likewise, summed over D::

        y = attention(q, k, v, mask, bias) output_kernel + output_bias

    summed over heads and Ev, with everything that `attention` can do, in the same words.

    Parameters
    ----------
    query : float32 array (N, S, Dq)
    key : float32 array (N, L, Dk)
    value : float32 array (N, L, Dv)
    query_kernel : float32 array (Dq, A, E)
    key_kernel : float32 array (Dk, K, E)
        K divides A, as in `attention`.
    value_kernel : float32 array (Dv, K, Ev)
    output_kernel : float32 array (A, Ev, Dout)
    query_bias, key_bias, value_bias : float32 arrays (A, E), (K, E), (K, Ev), optional
    output_bias : float32 array (Dout,), optional
    mask, bias : arrays that broadcast to (N, A, S, L), optional
        As in `attention`.
    scale, causal, query_offset, key_lengths, window, softcap, alibi_slopes, dropout, seed
        As in `attention`.
    return_lse, return_weights : bool
        As in `attention`.

    Returns
    -------
    float32 array (N, S, Dout), or a tuple of it and what was asked for, each with a gradient.

    Raises
    ------
    TypeError
        An array of another dtype.
    ValueError
        Shapes that do not fit, an empty kernel, and what `attention` raises it for.

    Notes
    -----
    A query that sees no key gives `output_bias`. The pullback gives a gradient for each array, None
    for the mask, and keeps the arguments; one array given as query, key and value gets three, to be
    added. The projections are plain products: NaN in a key that nothing sees reaches the gradients
    of `key_kernel` and `value_kernel`. Arrays that are not C-contiguous are copied first.

    Examples
    --------
    >>> import numpy as np
    >>> from lamella import ops
    >>> x = np.float32([[[1, 0], [0, 1]]])  # (N, S, D)
    >>> to_heads = np.eye(2, dtype=np.float32).reshape(2, 1, 2)  # (D, A, E)
    >>> from_heads = np.eye(2, dtype=np.float32).reshape(1, 2, 2)  # (A, Ev, Dout)
    >>> ops.multi_head_attention(x, x, x, to_heads, to_heads, to_heads, from_heads).round(2)
    array([[[0.67, 0.33],
            [0.33, 0.67]]], dtype=float32)
    """
    arrays = (
        query, key, value, query_kernel, key_kernel, value_kernel, output_kernel,
        query_bias, key_bias, value_bias, output_bias, mask, bias,
    )  # fmt: skip
    options = (
        scale, causal, query_offset, key_lengths, window, softcap, alibi_slopes, dropout, seed,
    )  # fmt: skip
    forward = backend_of(query).multi_head_attention_forward
    return results(*forward(arrays, options, return_lse, return_weights)[:3])
