"""Scaled dot-product attention."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from lamella.ops._attention import Window, attention_vjp, results
from lamella.ops._backend import backend_of
from lamella.ops._op import Array, Pullback, op


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
    return attention_vjp("attention", arrays, options, return_lse, return_weights, needs)


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
    """Scaled dot-product attention (Vaswani et al. 2017) in memory linear in S and L.

    With ``i`` a query and ``j`` a key of the same sequence and head::

        s_ij = softcap tanh(scale q_i . k_j / softcap) + bias_ij - slope |i + offset - j|
        p_ij = exp(s_ij) / sum over the keys j' that i sees of exp(s_ij')
        y_i  = sum_j p_ij kept_ij / (1 - dropout) v_j

    where softcap, bias, slopes and dropout are left out unless given. Query ``i`` sees key ``j``
    where `mask` is True, ``j < key_lengths``, ``j <= i + offset`` if `causal`, and ``i + offset -
    left <= j <= i + offset + right`` with a `window`. Scores are made and used block by block (Dao
    et al. 2022, "FlashAttention"); backward computes them again.

    A query that sees no key, or only scores of -inf, gives 0, and its gradients are 0. A weight of
    0 meets no value: what a mask hides may be NaN.

    Parameters
    ----------
    query : float32 array (N, S, A, E)
    key : float32 array (N, L, K, E)
        K divides A: ``A / K`` successive heads of the query share one of key and value.
    value : float32 array (N, L, K, Ev)
    mask : bool array, optional
        Broadcasts to (N, A, S, L) by NumPy's rules. True: attend.
    bias : float32 array, optional
        Added to the scores; broadcasts likewise; may hold -inf. It has a gradient.
    scale : float, optional
        Default ``1 / sqrt(E)``.
    causal : bool
    query_offset : int or integer array (N,), optional
        The position of the first query among the keys. Default ``L - S``: the last query stands at
        the last key.
    key_lengths : integer array (N,), optional
        How many keys each sequence has, 0 to L.
    window : int or (int or None, int or None), optional
        ``w``: the w keys before the query's position and that itself. ``(left, right)``: so many on
        each side, None for all.
    softcap : float, optional
        Positive.
    alibi_slopes : float32 array (A,), optional
        Press, Smith, Lewis 2022.
    dropout : float
        In [0, 1). Which weights are dropped is a function of `seed` and their place alone; backward
        makes the same mask again.
    seed : int, optional
        In [0, 2**64). Needed with dropout.
    return_lse : bool
        Also return ``log sum_j exp(s_ij)`` (N, A, S), -inf for a query that sees nothing.
    return_weights : bool
        Also return the weights of the values, after dropout, (N, A, S, L): not linear in memory.

    Returns
    -------
    float32 array (N, S, A, Ev), or a tuple of it and what was asked for, each with a gradient.

    Raises
    ------
    TypeError
        An array of another dtype.
    ValueError
        Shapes that do not fit or broadcast, heads that do not divide, an option out of its range,
        dropout without a seed, sizes that overflow.

    Notes
    -----
    The pullback gives the gradients of query, key, value, None for the mask, and bias, and keeps
    the arguments and ``y`` (see `lamella.ops`). Where bias repeats along N and A its gradient is
    summed by few threads. Arrays that are not C-contiguous are copied first.

    Examples
    --------
    >>> import numpy as np
    >>> from lamella import ops
    >>> x = np.eye(3, dtype=np.float32).reshape(1, 3, 1, 3)  # (N, S, A, E)
    >>> ops.attention(x, x, x, causal=True)[0, :, 0].round(2)
    array([[1.  , 0.  , 0.  ],
           [0.36, 0.64, 0.  ],
           [0.26, 0.26, 0.47]], dtype=float32)
    """
    arrays = (query, key, value, mask, bias)
    options = (
        scale, causal, query_offset, key_lengths, window, softcap, alibi_slopes, dropout, seed,
    )  # fmt: skip
    backend = backend_of(query)
    return results(*backend.attention_forward(arrays, options, return_lse, return_weights)[:3])
