"""Arithmetic of two arrays, and joining arrays: add, multiply, concatenate, accumulate_."""

from __future__ import annotations

from collections.abc import Sequence

from lamella.ops._backend import backend_of, zeros
from lamella.ops._op import Array, Gradients, Pullback, check_gradients, needed, op, outputs


def _add_vjp(a: Array, b: Array, *, needs: Sequence[bool] | None = None) -> tuple[Array, Pullback]:
    wanted = needed("add", needs, 2)
    backend = backend_of(a)
    y = backend.add_forward(a, b)
    # The gradients depend on the shapes alone, so the arrays may go.
    y_shape, a_shape, b_shape = y.shape, a.shape, b.shape

    def pullback(*dy: Array | None, out: Sequence[Array | None] | None = None) -> Gradients:
        check_gradients("add", dy, 1)
        gradient = zeros(backend, y_shape) if dy[0] is None else dy[0]
        into = outputs("add", out, 2)
        return backend.add_backward(gradient, a_shape, b_shape, wanted, into)

    return y, pullback


@op(_add_vjp)
def add(a: Array, b: Array) -> Array:
    """Sum of two arrays, ``a + b``, with NumPy's broadcasting.

    Parameters
    ----------
    a, b : np.ndarray
        float32, of shapes that broadcast.

    Returns
    -------
    np.ndarray
        float32, the broadcast shape.

    Raises
    ------
    TypeError
        An argument is not a float32 array.
    ValueError
        The shapes do not broadcast.

    Notes
    -----
    The pullback sums `dy` over the axes along which an argument was repeated. What is not
    C-contiguous is copied first; so in all functions of this module.

    Examples
    --------
    >>> import numpy as np
    >>> from lamella import ops
    >>> y, pullback = ops.add.vjp(np.float32([[1, 2], [3, 4]]), np.float32([10, 20]))
    >>> y
    array([[11., 22.],
           [13., 24.]], dtype=float32)
    >>> pullback(y)[1]
    array([24., 46.], dtype=float32)
    """
    return backend_of(a).add_forward(a, b)


def _multiply_vjp(
    a: Array, b: Array, *, needs: Sequence[bool] | None = None
) -> tuple[Array, Pullback]:
    wanted = needed("multiply", needs, 2)
    backend = backend_of(a)
    y = backend.multiply_forward(a, b)
    y_shape = y.shape

    def pullback(*dy: Array | None, out: Sequence[Array | None] | None = None) -> Gradients:
        check_gradients("multiply", dy, 1)
        gradient = zeros(backend, y_shape) if dy[0] is None else dy[0]
        into = outputs("multiply", out, 2)
        return backend.multiply_backward(gradient, a, b, wanted, into)

    return y, pullback


@op(_multiply_vjp)
def multiply(a: Array, b: Array) -> Array:
    """Product of two arrays element by element, ``a * b``, with NumPy's broadcasting.

    Parameters
    ----------
    a, b : np.ndarray
        float32, of shapes that broadcast.

    Returns
    -------
    np.ndarray
        float32, the broadcast shape.

    Raises
    ------
    TypeError
        An argument is not a float32 array.
    ValueError
        The shapes do not broadcast.

    Notes
    -----
    The pullback gives ``dy * b`` and ``dy * a``, summed over the axes along which the argument was
    repeated.

    Examples
    --------
    A factor for each channel of each image:

    >>> import numpy as np
    >>> from lamella import ops
    >>> images = np.ones((2, 4, 4, 3), np.float32)
    >>> factors = np.float32([[1, 2, 3], [4, 5, 6]]).reshape(2, 1, 1, 3)
    >>> y, pullback = ops.multiply.vjp(images, factors)
    >>> y[1, 0, 0]
    array([4., 5., 6.], dtype=float32)
    >>> pullback(y)[1].reshape(2, 3)
    array([[16., 32., 48.],
           [64., 80., 96.]], dtype=float32)
    """
    return backend_of(a).multiply_forward(a, b)


def _concatenate_vjp(
    *arrays: Array, axis: int = -1, needs: Sequence[bool] | None = None
) -> tuple[Array, Pullback]:
    wanted = needed("concatenate", needs, len(arrays))
    backend = backend_of(arrays[0] if arrays else None)
    y = backend.concatenate_forward(arrays, axis)
    y_shape, shapes = y.shape, tuple(array.shape for array in arrays)

    def pullback(*dy: Array | None, out: Sequence[Array | None] | None = None) -> Gradients:
        check_gradients("concatenate", dy, 1)
        gradient = zeros(backend, y_shape) if dy[0] is None else dy[0]
        into = outputs("concatenate", out, len(shapes))
        return backend.concatenate_backward(gradient, shapes, axis, wanted, into)

    return y, pullback


@op(_concatenate_vjp)
def concatenate(*arrays: Array, axis: int = -1) -> Array:
    """The arrays one after another along an axis.

    Parameters
    ----------
    *arrays : np.ndarray
        float32, at least one; of equal shapes but for `axis`.
    axis : int
        Counted from the end where it is negative.

    Returns
    -------
    np.ndarray
        float32; its size along `axis` is the sum of theirs.

    Raises
    ------
    TypeError
        An argument is not a float32 array.
    ValueError
        No array is given, the shapes do not fit, or `axis` is out of range.

    Examples
    --------
    >>> import numpy as np
    >>> from lamella import ops
    >>> y, pullback = ops.concatenate.vjp(np.float32([[1], [2]]), np.float32([[3, 4], [5, 6]]))
    >>> y
    array([[1., 3., 4.],
           [2., 5., 6.]], dtype=float32)
    >>> pullback(y)[0]
    array([[1.],
           [2.]], dtype=float32)
    """
    return backend_of(arrays[0] if arrays else None).concatenate_forward(arrays, axis)


def accumulate_(target: Array, source: Array) -> None:
    """Add `source` to `target` in place: ``target += source``.

    Parameters
    ----------
    target : np.ndarray, any shape
        float32, C-contiguous, writable.
    source : np.ndarray, shape of `target`
        float32; must not share memory with `target`.

    Raises
    ------
    TypeError
        An argument is not a float32 array.
    ValueError
        The shapes differ, `target` cannot be written in place, or the arrays overlap. Nothing has
        been changed then.

    Examples
    --------
    >>> import numpy as np
    >>> from lamella import ops
    >>> total = np.float32([1, 2])
    >>> ops.accumulate_(total, np.float32([10, 20]))
    >>> total
    array([11., 22.], dtype=float32)
    """
    backend_of(target).accumulate_(target, source)
