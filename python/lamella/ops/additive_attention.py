"""Additive attention."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from lamella.ops._backend import backend_of
from lamella.ops._op import Array, Gradients, Pullback, check_gradients, needed, op, outputs


def _additive_attention_vjp(
    query: Array,
    value: Array,
    key: Array,
    scale: Array | None = None,
    mask: Array | None = None,
    *,
    causal: bool = False,
    query_offset: int | Array | None = None,
    dropout: float = 0.0,
    seed: int | None = None,
    return_weights: bool = False,
    needs: Sequence[bool] | None = None,
) -> tuple[Any, Pullback]:
    arrays = (query, value, key, scale, mask)
    options = (causal, query_offset, dropout, seed)
    wanted = tuple(needed("additive_attention", needs, 5))
    backend = backend_of(query)
    y, weights = backend.additive_attention_forward(arrays, options, return_weights)

    def pullback(*dy: Array | None, out: Sequence[Array | None] | None = None) -> Gradients:
        check_gradients("additive_attention", dy, 1 + return_weights)
        into = tuple(outputs("additive_attention", out, 5))
        d_results = (dy[0], dy[1] if return_weights else None)
        return backend.additive_attention_backward(d_results, arrays, options, wanted, into)

    return (y, weights) if return_weights else y, pullback


@op(_additive_attention_vjp)
def additive_attention(
    query: Array,
    value: Array,
    key: Array,
    scale: Array | None = None,
    mask: Array | None = None,
    *,
    causal: bool = False,
    query_offset: int | Array | None = None,
    dropout: float = 0.0,
    seed: int | None = None,
    return_weights: bool = False,
) -> Any:
    """Attention whose scores are a hidden layer of query and key (Bahdanau et al. 2015).

    With ``i`` a query and ``j`` a key of the same sequence::

        s_ij = sum_e scale_e tanh(q_ie + k_je)
        p_ij = exp(s_ij) / sum over the keys j' that i sees of exp(s_ij')
        y_i  = sum_j p_ij kept_ij / (1 - dropout) v_j

    Query ``i`` sees key ``j`` where `mask` is True, and ``j <= i + query_offset`` if `causal`. A
    query that sees no key gives 0, and its gradients are 0. A weight of 0 meets no value: what a
    mask hides may be NaN. There is no array of S * L * E elements, forward or backward.

    Parameters
    ----------
    query : np.ndarray (N, S, E)
        float32.
    value : np.ndarray (N, L, Ev)
        float32.
    key : np.ndarray (N, L, E)
        float32.
    scale : np.ndarray (E), optional
        float32; 1 where it is absent.
    mask : np.ndarray, optional
        bool, broadcasts to (N, S, L); True: the query sees the key.
    causal : bool
    query_offset : int or np.ndarray (N), optional
        The position of the first query among the keys, for `causal`; L - S by default.
    dropout : float
        The probability that a weight is left out, in [0, 1).
    seed : int, optional
        In [0, 2**64); needed for `dropout`.
    return_weights : bool
        Return the weights after dropout too.

    Returns
    -------
    np.ndarray (N, S, Ev), or a tuple of it and the weights (N, S, L)
        float32.

    Raises
    ------
    TypeError
        An array has another dtype.
    ValueError
        A shape does not fit, E or Ev is 0, or an option is out of range.

    Notes
    -----
    ``kept_ij`` is 1 where word ``(n S + i) L' + j`` of the Philox stream of the seed (see
    `dropout`) is below ``(1 - dropout) * 2**32``, with L' = L rounded up to a multiple of 32.

    A tanh comes from ``1 - 2 / (exp(2 q) exp(2 k) + 1)`` where no query and key lies beyond +-43,
    with an error of at most 2.8e-7; else from the function of `tanh`, at several times the cost.
    The pullback reads the arguments. What is not C-contiguous is copied first.

    Examples
    --------
    >>> import numpy as np
    >>> from lamella import ops
    >>> query = np.float32([[[0, 0]]])
    >>> key = np.float32([[[5, 5], [-5, 5], [-5, -5]]])
    >>> y, weights = ops.additive_attention(query, key, key, return_weights=True)
    >>> weights.round(3)
    array([[[0.867, 0.117, 0.016]]], dtype=float32)
    >>> y.round(2)
    array([[[3.67, 4.84]]], dtype=float32)
    """
    arrays = (query, value, key, scale, mask)
    options = (causal, query_offset, dropout, seed)
    y, weights = backend_of(query).additive_attention_forward(arrays, options, return_weights)
    return (y, weights) if return_weights else y
