"""batch_norm over every axis but the last."""

from __future__ import annotations

from collections.abc import Sequence

from lamella.ops._backend import backend_of, zeros
from lamella.ops._op import Array, Gradients, Pullback, check_gradients, needed, op, outputs


def _batch_norm_vjp(
    x: Array,
    gamma: Array | None = None,
    beta: Array | None = None,
    mean: Array | None = None,
    variance: Array | None = None,
    *,
    epsilon: float = 1e-3,
    needs: Sequence[bool] | None = None,
) -> tuple[Array | tuple[Array, Array, Array], Pullback]:
    wanted = tuple(needed("batch_norm", needs, 5))
    backend = backend_of(x)
    result = backend.batch_norm_forward(x, gamma, beta, mean, variance, epsilon)
    own_statistics = mean is None
    saved = result[3] if own_statistics else None
    y_shape = x.shape

    def pullback(*dy: Array | None, out: Sequence[Array | None] | None = None) -> Gradients:
        if own_statistics and len(dy) == 3:
            d_y, d_mean, d_variance = dy
        else:
            # The gradients of the statistics may be left out.
            check_gradients("batch_norm", dy, 1)
            d_y, d_mean, d_variance = dy[0], None, None
        if d_y is None:
            d_y = zeros(backend, y_shape)
        return backend.batch_norm_backward(
            d_y, d_mean, d_variance, x, gamma, beta, mean, variance, saved, epsilon, wanted,
            tuple(outputs("batch_norm", out, 5)),
        )  # fmt: skip

    return (result[:3] if own_statistics else result), pullback


@op(_batch_norm_vjp)
def batch_norm(
    x: Array,
    gamma: Array | None = None,
    beta: Array | None = None,
    mean: Array | None = None,
    variance: Array | None = None,
    *,
    epsilon: float = 1e-3,
) -> Array | tuple[Array, Array, Array]:
    """Batch normalization of each channel over all other axes (Ioffe and Szegedy 2015).

    ``y = gamma (x - mean) / sqrt(variance + epsilon) + beta``. With `mean` and `variance` given
    (inference) that is the result. Without, they are those of `x` itself, ``variance`` divided by
    the number of rows ``M`` and not ``M - 1``, and they are returned too. They are accurate also
    where the mean is much larger than the deviation.

    The pullback takes ``dy`` or, where the statistics were computed, ``(dy, dmean, dvariance)``,
    and returns gradients for ``(x, gamma, beta, mean, variance)``. It keeps `x`, `gamma` and a copy
    of the computed statistics: where `x` was changed since, `dx` and ``dgamma`` mix its new values
    with the old statistics.

    Parameters
    ----------
    x : np.ndarray, shape (..., C)
        float32, at least one channel.
    gamma, beta : np.ndarray, shape (C,), optional
        float32 scale and offset; default 1 and 0.
    mean, variance : np.ndarray, shape (C,), optional
        float32; both or neither.
    epsilon : float
        Finite and greater than 0.

    Returns
    -------
    y : np.ndarray, shape (..., C)
        float32.
    mean, variance : np.ndarray, shape (C,)
        float32; only where they were not given.

    Raises
    ------
    TypeError
        An array that is not float32.
    ValueError
        Shapes that do not fit, no channels, only one of `mean` and `variance`, `epsilon` not finite
        and greater than 0, or no rows to compute statistics of.

    Notes
    -----
    What is not C-contiguous is copied first.

    Examples
    --------
    >>> import numpy as np
    >>> from lamella import ops
    >>> x = np.float32([[1, 10], [3, 30]])
    >>> y, mean, variance = ops.batch_norm(x, epsilon=1e-6)
    >>> y.round(4)
    array([[-1., -1.],
           [ 1.,  1.]], dtype=float32)
    >>> mean, variance
    (array([ 2., 20.], dtype=float32), array([  1., 100.], dtype=float32))
    >>> ops.batch_norm(x, None, None, mean, variance, epsilon=3.0).round(4)
    array([[-0.5   , -0.9853],
           [ 0.5   ,  0.9853]], dtype=float32)
    """
    result = backend_of(x).batch_norm_forward(x, gamma, beta, mean, variance, epsilon)
    return result[:3] if mean is None else result
