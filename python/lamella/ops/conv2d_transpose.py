"""conv2d_transpose: the gradient of a convolution as a layer of its own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from lamella.ops._backend import backend_of
from lamella.ops._op import Array, Gradients, Pullback, needed, op, outputs, single_gradient


def _conv2d_transpose_vjp(
    x: Array,
    kernel: Array,
    bias: Array | None = None,
    *,
    strides: Any = 1,
    padding: Any = "valid",
    output_padding: Any = None,
    dilation: Any = 1,
    groups: int = 1,
    activation: str | None = None,
    needs: Sequence[bool] | None = None,
) -> tuple[Array, Pullback]:
    backend = backend_of(x)
    need_x, need_kernel, need_bias = needed("conv2d_transpose", needs, 3)
    need_bias = need_bias and bias is not None
    y, saved = backend.conv2d_transpose_forward(
        x, kernel, bias, strides, padding, output_padding, dilation, groups, activation, True
    )

    def pullback(*dy: Array | None, out: Sequence[Array | None] | None = None) -> Gradients:
        gradient = single_gradient("conv2d_transpose", dy, y)
        dx, dkernel, dbias = outputs("conv2d_transpose", out, 3)
        return backend.conv2d_transpose_backward(
            gradient, x, kernel, saved, strides, padding, output_padding, dilation, groups,
            activation, need_x, need_kernel, need_bias, dx, dkernel, dbias,
        )  # fmt: skip

    return y, pullback


@op(_conv2d_transpose_vjp)
def conv2d_transpose(
    x: Array,
    kernel: Array,
    bias: Array | None = None,
    *,
    strides: Any = 1,
    padding: Any = "valid",
    output_padding: Any = None,
    dilation: Any = 1,
    groups: int = 1,
    activation: str | None = None,
) -> Array:
    """Transposed 2-D convolution, channels last: each input spreads over a kernel of outputs.

    ``y[n, i sh + p dh - top, j sw + q dw - left, f] += x[n, i, j, c] kernel[p, q, f, c]``, then
    bias and activation; ``c`` runs over the channels of f's group.

    Parameters
    ----------
    x : float32 array (N, H, W, C)
    kernel : float32 array (KH, KW, F / groups, C)
    bias : float32 array (F,), optional
    strides, dilation : int or (int, int)
    padding : "valid", "same", int, (ph, pw) or ((top, bottom), (left, right))
        Crops the output. Sizes are Keras': "same" gives ``H * stride``, "valid"
        ``(H - 1) * stride + extent + max(stride - extent, 0)`` with the kernel's dilated extent.
    output_padding : int or (int, int), optional
        Extra positions at the end, in [0, max(stride, dilation)).
    groups : int
        Divides C.
    activation : str, optional
        As in `dense`.

    Returns
    -------
    float32 array (N, H', W', F)

    Raises
    ------
    ValueError
        Shapes that do not fit, an option out of range, padding that leaves nothing, overflow.
    TypeError
        An argument that is not a float32 NumPy array. Arrays that are not C-contiguous are copied.

    Notes
    -----
    It is the input gradient of `conv2d` with the same kernel (Dumoulin & Visin 2016,
    arXiv:1603.07285); a stride s splits it into s * s dense sums over taps, so nothing is
    multiplied by inserted zeros.

    Examples
    --------
    >>> import numpy as np
    >>> from lamella import ops
    >>> x = np.float32([[[[1], [2]]]])
    >>> ops.conv2d_transpose(x, np.ones((1, 2, 1, 1), np.float32), strides=(1, 2)).ravel()
    array([1., 1., 2., 2.], dtype=float32)
    """
    return backend_of(x).conv2d_transpose_forward(
        x, kernel, bias, strides, padding, output_padding, dilation, groups, activation, False
    )[0]
