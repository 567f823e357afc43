"""dense and matmul."""

from __future__ import annotations

from collections.abc import Sequence

from lamella.ops._backend import backend_of
from lamella.ops._op import (
    Array,
    Gradients,
    Pullback,
    needed,
    op,
    outputs,
    single_gradient,
)


def _dense_vjp(
    x: Array,
    kernel: Array,
    bias: Array | None = None,
    *,
    activation: str | None = None,
    needs: Sequence[bool] | None = None,
) -> tuple[Array, Pullback]:
    backend = backend_of(x)
    need_x, need_kernel, need_bias = needed("dense", needs, 3)
    need_bias = need_bias and bias is not None
    y, saved = backend.dense_forward(x, kernel, bias, activation, True)

    def pullback(*dy: Array | None, out: Sequence[Array | None] | None = None) -> Gradients:
        gradient = single_gradient("dense", dy, y)
        dx, dkernel, dbias = outputs("dense", out, 3)
        return backend.dense_backward(
            gradient, x, kernel, saved, activation, need_x, need_kernel, need_bias,
            dx, dkernel, dbias,
        )  # fmt: skip

    return y, pullback


@op(_dense_vjp)
def dense(
    x: Array, kernel: Array, bias: Array | None = None, *, activation: str | None = None
) -> Array:
    """Fully connected layer over the last axis: ``y = f(x @ kernel + bias)``.

    Parameters
    ----------
    x : float32 array (..., D)
    kernel : float32 array (D, U)
    bias : float32 array (U,), optional
    activation : str, optional
        "relu", "gelu" (exact), "gelu_tanh", "silu", "sigmoid", "tanh", "elu", "leaky_relu",
        "softplus"; None or "linear" for none. It is applied while the result is in registers or
        L1.

    Returns
    -------
    float32 array (..., U)

    Raises
    ------
    ValueError
        Shapes that do not fit, D or U of 0, an unknown activation.
    TypeError
        An argument that is not a float32 NumPy array. Arrays that are not C-contiguous are copied.

    Notes
    -----
    ``dz = dy f'``, ``dx = dz W^T``, ``dW = x^T dz``, ``db = sum of dz over rows``. With most
    activations ``f'`` is taken from the result, which the pullback keeps (see `lamella.ops`).

    Examples
    --------
    >>> import numpy as np
    >>> from lamella import ops
    >>> ops.dense(np.float32([[1, 2]]), np.float32([[1, 0], [0, -1]]), activation="relu")
    array([[1., 0.]], dtype=float32)
    """
    return backend_of(x).dense_forward(x, kernel, bias, activation, False)[0]


def _matmul_vjp(
    a: Array,
    b: Array,
    *,
    transpose_a: bool = False,
    transpose_b: bool = False,
    needs: Sequence[bool] | None = None,
) -> tuple[Array, Pullback]:
    backend = backend_of(a)
    need_a, need_b = needed("matmul", needs, 2)
    y = backend.matmul_forward(a, b, transpose_a, transpose_b)

    def pullback(*dy: Array | None, out: Sequence[Array | None] | None = None) -> Gradients:
        gradient = single_gradient("matmul", dy, y)
        da, db = outputs("matmul", out, 2)
        return backend.matmul_backward(
            gradient, a, b, transpose_a, transpose_b, need_a, need_b, da, db
        )

    return y, pullback


@op(_matmul_vjp)
def matmul(a: Array, b: Array, *, transpose_a: bool = False, transpose_b: bool = False) -> Array:
    """Matrix product over the last two axes; leading axes broadcast by NumPy's rules.

    Parameters
    ----------
    a : float32 array (..., M, K), or (..., K, M) with ``transpose_a``
    b : float32 array (..., K, N), or (..., N, K) with ``transpose_b``
    transpose_a, transpose_b : bool
        Read that operand transposed; nothing is copied for it.

    Returns
    -------
    float32 array (..., M, N)

    Raises
    ------
    ValueError
        Fewer than two axes, K that differ, batch axes that do not broadcast.
    TypeError
        An argument that is not a float32 NumPy array. Arrays that are not C-contiguous are copied.

    Notes
    -----
    ``da = dc b^T`` and ``db = a^T dc``, summed over axes along which the operand was broadcast.
    K = 0 gives zeros.

    Examples
    --------
    >>> import numpy as np
    >>> from lamella import ops
    >>> ops.matmul(np.float32([[1, 2]]), np.float32([[3, 4]]), transpose_b=True)
    array([[11.]], dtype=float32)
    """
    return backend_of(a).matmul_forward(a, b, transpose_a, transpose_b)
