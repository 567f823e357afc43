"""conv2d: cross-correlation with strides, dilation, groups, bias and activation in one pass."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from lamella.ops._backend import backend_of
from lamella.ops._op import Array, Gradients, Pullback, needed, op, outputs, single_gradient


def _conv2d_vjp(
    x: Array,
    kernel: Array,
    bias: Array | None = None,
    *,
    strides: Any = 1,
    padding: Any = "valid",
    dilation: Any = 1,
    groups: int = 1,
    activation: str | None = None,
    needs: Sequence[bool] | None = None,
) -> tuple[Array, Pullback]:
    backend = backend_of(x)
    need_x, need_kernel, need_bias = needed("conv2d", needs, 3)
    need_bias = need_bias and bias is not None
    y, saved = backend.conv2d_forward(
        x, kernel, bias, strides, padding, dilation, groups, activation, True
    )

    def pullback(*dy: Array | None, out: Sequence[Array | None] | None = None) -> Gradients:
        gradient = single_gradient("conv2d", dy, y)
        dx, dkernel, dbias = outputs("conv2d", out, 3)
        return backend.conv2d_backward(
            gradient, x, kernel, saved, strides, padding, dilation, groups, activation,
            need_x, need_kernel, need_bias, dx, dkernel, dbias,
        )  # fmt: skip

    return y, pullback


@op(_conv2d_vjp)
def conv2d(
    x: Array,
    kernel: Array,
    bias: Array | None = None,
    *,
    strides: Any = 1,
    padding: Any = "valid",
    dilation: Any = 1,
    groups: int = 1,
    activation: str | None = None,
) -> Array:
    """2-D convolution (cross-correlation), channels last.

    ``y[n, i, j, f] = act(bias[f] + sum_pqc x[n, i sh + p dh - top, j sw + q dw - left, c]
    kernel[p, q, c, f])`` with ``c`` over the channels of f's group.

    Parameters
    ----------
    x : float32 array (N, H, W, C)
    kernel : float32 array (KH, KW, C / groups, F)
    bias : float32 array (F,), optional
    strides, dilation : int or (int, int)
    padding : "valid", "same", int, (ph, pw) or ((top, bottom), (left, right))
        "same" pads as TensorFlow does (an odd total has its extra at the end).
    groups : int
        Divides C and F.
    activation : str, optional
        As in `dense`, applied before the result leaves the cache.

    Returns
    -------
    float32 array (N, H', W', F)

    Raises
    ------
    ValueError
        Shapes that do not fit, an option out of range, a kernel larger than the padded input,
        sizes that overflow.
    TypeError
        An argument that is not a float32 NumPy array. Arrays that are not C-contiguous are copied.

    Notes
    -----
    Products run over the image in place: no im2col matrix is built.
    Taps outside the image are left out, not multiplied by zeros: a weight of inf or NaN reaches the
    outputs and input gradients for which its tap lies on a pixel, and no others (frameworks that
    pad with zeros give NaN there too, as 0 * inf is). Only a `dy` of inf or NaN may meet zeros
    outside the image, in the kernel's gradient.
    The article's formula, with a flipped kernel, is this op with the kernel flipped.
    ``groups = C`` is the depthwise convolution: filter ``c * m + k`` belongs to channel ``c``.

    Examples
    --------
    >>> import numpy as np
    >>> from lamella import ops
    >>> x = np.arange(9, dtype=np.float32).reshape(1, 3, 3, 1)
    >>> ops.conv2d(x, np.ones((2, 2, 1, 1), np.float32))[0, :, :, 0]
    array([[ 8., 12.],
           [20., 24.]], dtype=float32)
    """
    return backend_of(x).conv2d_forward(
        x, kernel, bias, strides, padding, dilation, groups, activation, False
    )[0]
