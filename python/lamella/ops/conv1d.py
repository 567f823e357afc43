"""conv1d: cross-correlation with strides, dilation, groups, bias and activation in one pass."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from lamella.ops._backend import backend_of
from lamella.ops._op import Array, Gradients, Pullback, needed, op, outputs, single_gradient


def _conv1d_vjp(
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
    need_x, need_kernel, need_bias = needed("conv1d", needs, 3)
    need_bias = need_bias and bias is not None
    y, saved = backend.conv1d_forward(
        x, kernel, bias, strides, padding, dilation, groups, activation, True
    )

    def pullback(*dy: Array | None, out: Sequence[Array | None] | None = None) -> Gradients:
        gradient = single_gradient("conv1d", dy, y)
        dx, dkernel, dbias = outputs("conv1d", out, 3)
        return backend.conv1d_backward(
            gradient, x, kernel, saved, strides, padding, dilation, groups, activation,
            need_x, need_kernel, need_bias, dx, dkernel, dbias,
        )  # fmt: skip

    return y, pullback


@op(_conv1d_vjp)
def conv1d(
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
    """1-D convolution (cross-correlation), channels last.

    ``y[n, t, f] = act(bias[f] + sum_kc x[n, t s + k d - before, c] kernel[k, c, f])``

    Parameters
    ----------
    x : float32 array (N, T, C)
    kernel : float32 array (K, C / groups, F)
    bias : float32 array (F,), optional
    strides, dilation : int
    padding : "valid", "same", "causal", int or (before, after)
        "same" pads as TensorFlow does (an odd total has its extra at the end); "causal" pads
        ``(K - 1) * dilation`` zeros in front, so that no output sees a later step.
    groups : int
        Divides C and F.
    activation : str, optional
        As in `dense`, applied before the result leaves the cache.

    Returns
    -------
    float32 array (N, T', F)

    Raises
    ------
    ValueError
        Shapes that do not fit, an option out of range, a kernel larger than the padded input,
        sizes that overflow.
    TypeError
        An argument that is not a float32 NumPy array. Arrays that are not C-contiguous are copied.

    Notes
    -----
    Products run over the sequence in place: no im2col matrix is built. Taps outside it are left
    out, as in `conv2d`.

    Examples
    --------
    >>> import numpy as np
    >>> from lamella import ops
    >>> x = np.arange(5, dtype=np.float32).reshape(1, 5, 1)
    >>> ops.conv1d(x, np.ones((2, 1, 1), np.float32)).ravel()
    array([1., 3., 5., 7.], dtype=float32)
    """
    return backend_of(x).conv1d_forward(
        x, kernel, bias, strides, padding, dilation, groups, activation, False
    )[0]
