"""Pooling over windows of an image: max_pool2d, avg_pool2d, and over whole images."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from lamella.ops._backend import backend_of, zeros
from lamella.ops._op import Array, Gradients, Pullback, check_gradients, needed, op, outputs

Pair = int | tuple[int, int]
Padding = str | int | tuple[int, int] | tuple[tuple[int, int], tuple[int, int]]


def _pullback(
    backend: Any,
    name: str,
    y_shape: tuple[int, ...],
    wanted: bool,
    backward: Callable[[Array, Any], Array],
) -> Pullback:
    """A pullback of one array; `backward` takes dy and the array to write the gradient to."""

    def pullback(*dy: Array | None, out: Sequence[Array | None] | None = None) -> Gradients:
        check_gradients(name, dy, 1)
        (into,) = outputs(name, out, 1)
        if not wanted:
            return (None,)
        gradient = zeros(backend, y_shape) if dy[0] is None else dy[0]
        return (backward(gradient, into),)

    return pullback


def _max_pool2d_vjp(
    x: Array,
    *,
    pool_size: Pair = 2,
    strides: Pair | None = None,
    padding: Padding = "valid",
    dilation: Pair = 1,
    ceil_mode: bool = False,
    needs: Sequence[bool] | None = None,
) -> tuple[Array, Pullback]:
    (wanted,) = needed("max_pool2d", needs, 1)
    backend = backend_of(x)
    options = (pool_size, strides, padding, dilation, ceil_mode)
    if not wanted:
        y = backend.max_pool2d_forward(x, *options, False)
        return y, _pullback(backend, "max_pool2d", y.shape, False, backend.max_pool2d_backward)
    y, winner = backend.max_pool2d_forward(x, *options, True)
    x_shape = x.shape

    def backward(dy: Array, into: Array | None) -> Array:
        return backend.max_pool2d_backward(dy, winner, x_shape, *options, into)

    return y, _pullback(backend, "max_pool2d", y.shape, True, backward)


@op(_max_pool2d_vjp)
def max_pool2d(
    x: Array,
    *,
    pool_size: Pair = 2,
    strides: Pair | None = None,
    padding: Padding = "valid",
    dilation: Pair = 1,
    ceil_mode: bool = False,
) -> Array:
    """Largest element of each window of an image, channel by channel.

    ``y[n, oh, ow, c] = max over kh, kw of x[n, oh sh - top + kh dh, ow sw - left + kw dw, c]``
    with strides ``s``, dilations ``d`` and the padding ``top``, ``left``. Padded positions never
    win. A window in which dilation leaves padding only gives -inf, and no gradient.

    The gradient goes to the position that gave the maximum: of equal ones to the first in row-major
    order of the window. NaN counts as larger than everything, again the first one. The pullback
    keeps which position won, one byte for each output element (four where a window has more than
    255 positions), and not `x`.

    Parameters
    ----------
    x : np.ndarray, shape (N, H, W, C)
        float32.
    pool_size : int or (int, int)
        Height and width of a window.
    strides : int or (int, int), optional
        Distance between windows; default `pool_size`.
    padding : {"valid", "same"}, int, (int, int) or ((int, int), (int, int))
        None; as TensorFlow pads, to ``ceil(H / strides)`` rows, the odd one at the end; or given:
        for both axes, for height and width, or ``((top, bottom), (left, right))``. Must be smaller
        than the dilated window.
    dilation : int or (int, int)
        Distance between the positions of one window.
    ceil_mode : bool
        Whether one more window may hang over the end, as long as it starts inside the image or its
        padding before it (PyTorch's rule).

    Returns
    -------
    np.ndarray, shape (N, OH, OW, C)
        float32. ``OH = (H + top + bottom - (pool_size - 1) dilation - 1) // strides + 1``.

    Raises
    ------
    TypeError
        `x` is not a float32 array.
    ValueError
        `x` has not four axes; an option is not of the form above, or below its least value; the
        window is larger than the padded image, or the padding not smaller than the window.

    Notes
    -----
    What is not C-contiguous is copied first; so in all functions of this module.

    Examples
    --------
    >>> import numpy as np
    >>> from lamella import ops
    >>> x = np.arange(16, dtype=np.float32).reshape(1, 4, 4, 1)
    >>> y, pullback = ops.max_pool2d.vjp(x)
    >>> y[0, :, :, 0]
    array([[ 5.,  7.],
           [13., 15.]], dtype=float32)
    >>> (dx,) = pullback(np.ones_like(y))
    >>> dx[0, :, :, 0]
    array([[0., 0., 0., 0.],
           [0., 1., 0., 1.],
           [0., 0., 0., 0.],
           [0., 1., 0., 1.]], dtype=float32)
    """
    return backend_of(x).max_pool2d_forward(
        x, pool_size, strides, padding, dilation, ceil_mode, False
    )


def _avg_pool2d_vjp(
    x: Array,
    *,
    pool_size: Pair = 2,
    strides: Pair | None = None,
    padding: Padding = "valid",
    dilation: Pair = 1,
    ceil_mode: bool = False,
    count_include_pad: bool = False,
    needs: Sequence[bool] | None = None,
) -> tuple[Array, Pullback]:
    (wanted,) = needed("avg_pool2d", needs, 1)
    backend = backend_of(x)
    options = (pool_size, strides, padding, dilation, ceil_mode, count_include_pad)
    y = backend.avg_pool2d_forward(x, *options)
    x_shape = x.shape

    def backward(dy: Array, into: Array | None) -> Array:
        return backend.avg_pool2d_backward(dy, x_shape, *options, into)

    return y, _pullback(backend, "avg_pool2d", y.shape, wanted, backward)


@op(_avg_pool2d_vjp)
def avg_pool2d(
    x: Array,
    *,
    pool_size: Pair = 2,
    strides: Pair | None = None,
    padding: Padding = "valid",
    dilation: Pair = 1,
    ceil_mode: bool = False,
    count_include_pad: bool = False,
) -> Array:
    """Mean of each window of an image, channel by channel.

    The sum over the window's positions inside the image, divided by their number or, with
    `count_include_pad`, by that of its positions inside the image and its padding. What `ceil_mode`
    lets hang over those is never counted. A window with nothing to count gives 0. In backward each
    counted position inside the image receives ``dy / count``. The pullback keeps no array.

    Parameters
    ----------
    x : np.ndarray, shape (N, H, W, C)
        float32.
    pool_size, strides, padding, dilation, ceil_mode
        As in `max_pool2d`.
    count_include_pad : bool
        Whether padding counts as zeros that are part of the mean.

    Returns
    -------
    np.ndarray, shape (N, OH, OW, C)
        float32; sizes as in `max_pool2d`.

    Raises
    ------
    TypeError
        `x` is not a float32 array.
    ValueError
        As `max_pool2d`.

    Examples
    --------
    >>> import numpy as np
    >>> from lamella import ops
    >>> x = np.arange(9, dtype=np.float32).reshape(1, 3, 3, 1)
    >>> ops.avg_pool2d(x, pool_size=2, padding="same")[0, :, :, 0]
    array([[2. , 3.5],
           [6.5, 8. ]], dtype=float32)
    """
    return backend_of(x).avg_pool2d_forward(
        x, pool_size, strides, padding, dilation, ceil_mode, count_include_pad
    )


def _global_max_pool2d_vjp(
    x: Array, *, needs: Sequence[bool] | None = None
) -> tuple[Array, Pullback]:
    (wanted,) = needed("global_max_pool2d", needs, 1)
    backend = backend_of(x)
    if not wanted:
        y = backend.global_max_pool2d_forward(x, False)
        return y, _pullback(
            backend, "global_max_pool2d", y.shape, False, backend.global_max_pool2d_backward
        )
    y, winner = backend.global_max_pool2d_forward(x, True)
    x_shape = x.shape

    def backward(dy: Array, into: Array | None) -> Array:
        return backend.global_max_pool2d_backward(dy, winner, x_shape, into)

    return y, _pullback(backend, "global_max_pool2d", y.shape, True, backward)


@op(_global_max_pool2d_vjp)
def global_max_pool2d(x: Array) -> Array:
    """Largest element of each channel of an image, by the rules of `max_pool2d`.

    Parameters
    ----------
    x : np.ndarray, shape (N, H, W, C)
        float32, H and W at least 1.

    Returns
    -------
    np.ndarray, shape (N, C)
        float32.

    Raises
    ------
    TypeError
        `x` is not a float32 array.
    ValueError
        `x` has not four axes, or no rows or columns.

    Examples
    --------
    >>> import numpy as np
    >>> from lamella import ops
    >>> x = np.arange(12, dtype=np.float32).reshape(1, 2, 3, 2)
    >>> y, pullback = ops.global_max_pool2d.vjp(x)
    >>> y
    array([[10., 11.]], dtype=float32)
    >>> pullback(np.float32([[3, 4]]))[0][0, 1]
    array([[0., 0.],
           [0., 0.],
           [3., 4.]], dtype=float32)
    """
    return backend_of(x).global_max_pool2d_forward(x, False)


def _global_avg_pool2d_vjp(
    x: Array, *, needs: Sequence[bool] | None = None
) -> tuple[Array, Pullback]:
    (wanted,) = needed("global_avg_pool2d", needs, 1)
    backend = backend_of(x)
    y = backend.global_avg_pool2d_forward(x)
    x_shape = x.shape

    def backward(dy: Array, into: Array | None) -> Array:
        return backend.global_avg_pool2d_backward(dy, x_shape, into)

    return y, _pullback(backend, "global_avg_pool2d", y.shape, wanted, backward)


@op(_global_avg_pool2d_vjp)
def global_avg_pool2d(x: Array) -> Array:
    """Mean of each channel over an image.

    The gradient of each pixel is ``dy / (H W)``. The pullback keeps no array.

    Parameters
    ----------
    x : np.ndarray, shape (N, H, W, C)
        float32, H and W at least 1.

    Returns
    -------
    np.ndarray, shape (N, C)
        float32.

    Raises
    ------
    TypeError
        `x` is not a float32 array.
    ValueError
        `x` has not four axes, or no rows or columns.

    Examples
    --------
    >>> import numpy as np
    >>> from lamella import ops
    >>> x = np.arange(12, dtype=np.float32).reshape(1, 2, 3, 2)
    >>> ops.global_avg_pool2d(x)
    array([[5., 6.]], dtype=float32)
    """
    return backend_of(x).global_avg_pool2d_forward(x)
