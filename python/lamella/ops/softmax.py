"""softmax and log_softmax along one axis."""

from __future__ import annotations

from collections.abc import Sequence

from lamella.ops._backend import backend_of
from lamella.ops._op import Array, Gradients, Pullback, needed, op, outputs, single_gradient


def _vjp(
    name: str, logarithm: bool, x: Array, axis: int, needs: Sequence[bool] | None
) -> tuple[Array, Pullback]:
    """Forward pass and a pullback that keeps the result alone."""
    (wanted,) = needed(name, needs, 1)
    backend = backend_of(x)
    y = backend.softmax_forward(x, axis, logarithm)

    def pullback(*dy: Array | None, out: Sequence[Array | None] | None = None) -> Gradients:
        gradient = single_gradient(name, dy, y)
        (into,) = outputs(name, out, 1)
        if not wanted:
            return (None,)
        return (backend.softmax_backward(gradient, y, axis, logarithm, into),)

    return y, pullback


def _softmax_vjp(
    x: Array, *, axis: int = -1, needs: Sequence[bool] | None = None
) -> tuple[Array, Pullback]:
    return _vjp("softmax", False, x, axis, needs)


@op(_softmax_vjp)
def softmax(x: Array, *, axis: int = -1) -> Array:
    """Normalized exponentials along one axis.

    ``y_i = exp(x_i - m) / sum_j exp(x_j - m)`` with ``m = max_j x_j``; backward
    ``dx_i = y_i (dy_i - sum_j dy_j y_j)`` from the result, which the pullback keeps (see
    `lamella.ops`).

    An element -inf gives 0. A row of nothing but -inf, or with NaN or +inf, gives NaN.

    Parameters
    ----------
    x : np.ndarray, at least one axis
        float32.
    axis : int
        The axis whose elements sum to 1. The last is the fastest; no other is transposed or copied.

    Returns
    -------
    np.ndarray
        float32, shape of `x`.

    Raises
    ------
    TypeError
        `x` is not a float32 array.
    ValueError
        `x` has no such axis.

    Notes
    -----
    What is not C-contiguous is copied first.

    Examples
    --------
    >>> import numpy as np
    >>> from lamella import ops
    >>> y, pullback = ops.softmax.vjp(np.float32([1, 2, 3]))
    >>> y.round(4)
    array([0.09  , 0.2447, 0.6652], dtype=float32)
    >>> pullback(np.float32([0, 0, 1]))[0].round(4)
    array([-0.0599, -0.1628,  0.2227], dtype=float32)
    """
    return backend_of(x).softmax_forward(x, axis, False)


def _log_softmax_vjp(
    x: Array, *, axis: int = -1, needs: Sequence[bool] | None = None
) -> tuple[Array, Pullback]:
    return _vjp("log_softmax", True, x, axis, needs)


@op(_log_softmax_vjp)
def log_softmax(x: Array, *, axis: int = -1) -> Array:
    """Logarithm of `softmax`, accurate where that would be 0.

    ``y_i = (x_i - m) - log sum_j exp(x_j - m)`` with ``m = max_j x_j``; backward
    ``dx_i = dy_i - exp(y_i) sum_j dy_j`` from the result, which the pullback keeps (see
    `lamella.ops`).

    An element -inf gives -inf. A row of nothing but -inf, or with NaN or +inf, gives NaN.

    Parameters
    ----------
    x : np.ndarray, at least one axis
        float32.
    axis : int
        The axis whose exponentials sum to 1.

    Returns
    -------
    np.ndarray
        float32, shape of `x`.

    Raises
    ------
    TypeError
        `x` is not a float32 array.
    ValueError
        `x` has no such axis.

    Notes
    -----
    What is not C-contiguous is copied first.

    Examples
    --------
    >>> import numpy as np
    >>> from lamella import ops
    >>> ops.log_softmax(np.float32([0, 0, 100]))
    array([-100., -100.,    0.], dtype=float32)
    """
    return backend_of(x).softmax_forward(x, axis, True)
