"""Dropout by a counter-based random generator."""

from __future__ import annotations

from collections.abc import Sequence

from lamella.ops._backend import backend_of, zeros
from lamella.ops._op import Array, Gradients, Pullback, check_gradients, needed, op, outputs


def _dropout_vjp(
    x: Array, *, rate: float, seed: int, needs: Sequence[bool] | None = None
) -> tuple[Array, Pullback]:
    (wanted,) = needed("dropout", needs, 1)
    backend = backend_of(x)
    y = backend.dropout_forward(x, rate, seed)
    shape = y.shape

    def pullback(*dy: Array | None, out: Sequence[Array | None] | None = None) -> Gradients:
        check_gradients("dropout", dy, 1)
        gradient = zeros(backend, shape) if dy[0] is None else dy[0]
        (into,) = outputs("dropout", out, 1)
        if not wanted:
            return (None,)
        return (backend.dropout_backward(gradient, shape, rate, seed, into),)

    return y, pullback


@op(_dropout_vjp)
def dropout(x: Array, *, rate: float, seed: int) -> Array:
    """Set a random share of the elements to 0 and scale the others up (Srivastava et al. 2014).

    ``y = x * kept / (1 - rate)``, where ``kept`` is 1 with probability ``1 - rate``, independently
    for each element, else 0.

    Parameters
    ----------
    x : np.ndarray, any shape
        float32.
    rate : float
        The probability that an element is dropped, in [0, 1).
    seed : int
        In [0, 2**64).

    Returns
    -------
    np.ndarray
        float32, shape of `x`. A dropped element is 0 even where `x` is NaN or infinite.

    Raises
    ------
    TypeError
        `x` is not a float32 array.
    ValueError
        `rate` or `seed` is out of range.

    Notes
    -----
    Element i in C order is kept when word ``i % 4`` of Philox4x32-10 (Salmon et al. 2011) with key
    `seed` and counter ``i // 4`` is below ``(1 - rate) * 2**32``. So the same seed gives the same
    mask for every number of threads and on every machine, and the pullback recomputes it: nothing
    is kept for it. What is not C-contiguous is copied first.

    Examples
    --------
    >>> import numpy as np
    >>> from lamella import ops
    >>> x = np.ones(8, np.float32)
    >>> y, pullback = ops.dropout.vjp(x, rate=0.5, seed=7)
    >>> sorted(set(y.tolist()))
    [0.0, 2.0]
    >>> np.array_equal(pullback(x)[0], y)
    True
    """
    return backend_of(x).dropout_forward(x, rate, seed)
