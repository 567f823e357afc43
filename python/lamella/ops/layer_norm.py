"""layer_norm and rms_norm over some axes, with a residual added first."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from lamella.ops._backend import backend_of, zeros
from lamella.ops._op import Array, Gradients, Pullback, check_gradients, needed, op, outputs

Axis = int | Sequence[int]


def _make_pullback(
    backend: Any,
    name: str,
    y: Array,
    s: Array | None,
    backward: Callable[..., Gradients],
    needs: tuple[bool, ...],
) -> Pullback:
    """The pullback of either op; `backward` takes the gradients of y and s, `needs` and `out`."""
    shape = y.shape
    results = 1 if s is None else 2

    def pullback(*dy: Array | None, out: Sequence[Array | None] | None = None) -> Gradients:
        check_gradients(name, dy, results)
        gradient = zeros(backend, shape) if dy[0] is None else dy[0]
        ds = dy[1] if results == 2 else None
        return backward(gradient, ds, needs, tuple(outputs(name, out, len(needs))))

    return pullback


def _layer_norm_vjp(
    x: Array,
    gamma: Array | None = None,
    beta: Array | None = None,
    residual: Array | None = None,
    *,
    axis: Axis = -1,
    epsilon: float = 1e-3,
    needs: Sequence[bool] | None = None,
) -> tuple[Array | tuple[Array, Array], Pullback]:
    wanted = tuple(needed("layer_norm", needs, 4))
    backend = backend_of(x)
    y, s, saved = backend.layer_norm_forward(x, gamma, beta, residual, axis, epsilon, True)
    normalized = x if s is None else s

    def backward(dy: Array, ds: Array | None, needs: Any, out: Any) -> Gradients:
        return backend.layer_norm_backward(
            dy, ds, normalized, gamma, beta, s is not None, saved, axis, needs, out
        )

    return (y if s is None else (y, s)), _make_pullback(
        backend, "layer_norm", y, s, backward, wanted
    )


@op(_layer_norm_vjp)
def layer_norm(
    x: Array,
    gamma: Array | None = None,
    beta: Array | None = None,
    residual: Array | None = None,
    *,
    axis: Axis = -1,
    epsilon: float = 1e-3,
) -> Array | tuple[Array, Array]:
    """Layer normalization (Ba, Kiros and Hinton 2016): mean 0 and deviation 1 over some axes.

    ``y = gamma (s - mean) / sqrt(variance + epsilon) + beta`` with ``s = x + residual``, or ``x``
    itself without a residual. Mean and variance are those of the elements along `axis`, the
    variance divided by their number ``M`` and not ``M - 1``. They are accurate also where the mean
    is much larger than the deviation.

    The pullback takes ``dy``, with a residual ``(dy, ds)``, and returns gradients for ``(x, gamma,
    beta, residual)``. Those of `x` and `residual` are equal: one array, unless ``out`` names two.
    It keeps `x`, or with a residual the result ``s`` (see `lamella.ops`), and `gamma`; beside them
    three numbers for each mean.

    Parameters
    ----------
    x : np.ndarray, at least one axis
        float32.
    gamma, beta : np.ndarray, optional
        float32 scale and offset, of the sizes that `x` has along `axis`, in the order of its axes;
        default 1 and 0.
    residual : np.ndarray, shape of x, optional
        float32, added to `x` first.
    axis : int or tuple of int
        The axes over which an element is normalized, in any order. `x` is read in place where they
        are its last ones, as -1, or (-2, -1); else it and the results are copied.
    epsilon : float
        Finite and greater than 0.

    Returns
    -------
    y : np.ndarray, shape of x
        float32.
    s : np.ndarray, shape of x
        ``x + residual``; only with a residual.

    Raises
    ------
    TypeError
        An array that is not float32.
    ValueError
        Shapes that do not fit, no such axis or one named twice, no elements along `axis`,
        `epsilon` not finite and greater than 0.

    Notes
    -----
    What is not C-contiguous is copied first. Deviations whose squares overflow (beyond 1e19) count
    as infinite: their elements become `beta`.

    Examples
    --------
    >>> import numpy as np
    >>> from lamella import ops
    >>> x = np.float32([[1, 3], [20, 40]])
    >>> ops.layer_norm(x, epsilon=1e-6).round(4)
    array([[-1.,  1.],
           [-1.,  1.]], dtype=float32)
    >>> y, s = ops.layer_norm(x, np.float32([1, 2]), np.float32([0, 5]), np.ones_like(x))
    >>> s
    array([[ 2.,  4.],
           [21., 41.]], dtype=float32)
    >>> y.round(2)
    array([[-1.,  7.],
           [-1.,  7.]], dtype=float32)
    """
    y, s, _ = backend_of(x).layer_norm_forward(x, gamma, beta, residual, axis, epsilon, False)
    return y if s is None else (y, s)


def _rms_norm_vjp(
    x: Array,
    gamma: Array | None = None,
    residual: Array | None = None,
    *,
    axis: Axis = -1,
    epsilon: float = 1e-6,
    needs: Sequence[bool] | None = None,
) -> tuple[Array | tuple[Array, Array], Pullback]:
    wanted = tuple(needed("rms_norm", needs, 3))
    backend = backend_of(x)
    y, s, saved = backend.rms_norm_forward(x, gamma, residual, axis, epsilon, True)
    normalized = x if s is None else s

    def backward(dy: Array, ds: Array | None, needs: Any, out: Any) -> Gradients:
        return backend.rms_norm_backward(
            dy, ds, normalized, gamma, s is not None, saved, axis, needs, out
        )

    return (y if s is None else (y, s)), _make_pullback(backend, "rms_norm", y, s, backward, wanted)


@op(_rms_norm_vjp)
def rms_norm(
    x: Array,
    gamma: Array | None = None,
    residual: Array | None = None,
    *,
    axis: Axis = -1,
    epsilon: float = 1e-6,
) -> Array | tuple[Array, Array]:
    """Root mean square normalization (Zhang and Sennrich 2019): mean square 1 over some axes.

    ``y = gamma s / sqrt(mean of s^2 + epsilon)`` with ``s = x + residual``, or ``x`` itself without
    a residual. The mean is that of the elements along `axis`.

    The pullback takes ``dy``, with a residual ``(dy, ds)``, and returns gradients for ``(x, gamma,
    residual)``. Those of `x` and `residual` are equal: one array, unless ``out`` names two. It
    keeps `x`, or with a residual the result ``s`` (see `lamella.ops`), and `gamma`; beside them one
    number for each mean.

    Parameters
    ----------
    x : np.ndarray, at least one axis
        float32.
    gamma : np.ndarray, optional
        float32 scale, of the sizes that `x` has along `axis`, in the order of its axes; default 1.
    residual : np.ndarray, shape of x, optional
        float32, added to `x` first.
    axis : int or tuple of int
        The axes over which an element is normalized, in any order. `x` is read in place where they
        are its last ones, as -1, or (-2, -1); else it and the results are copied.
    epsilon : float
        Finite and greater than 0.

    Returns
    -------
    y : np.ndarray, shape of x
        float32.
    s : np.ndarray, shape of x
        ``x + residual``; only with a residual.

    Raises
    ------
    TypeError
        An array that is not float32.
    ValueError
        Shapes that do not fit, no such axis or one named twice, no elements along `axis`,
        `epsilon` not finite and greater than 0.

    Notes
    -----
    What is not C-contiguous is copied first. Squares that overflow (beyond 1e19) count as infinite:
    their elements become 0.

    Examples
    --------
    >>> import numpy as np
    >>> from lamella import ops
    >>> y, pullback = ops.rms_norm.vjp(np.float32([[3, 4]]), np.float32([5, 10]), epsilon=1e-9)
    >>> y.round(4)
    array([[ 4.2426, 11.3137]], dtype=float32)
    >>> dx, dgamma, _ = pullback(np.float32([[1, 1]]))
    >>> dgamma.round(4)
    array([0.8485, 1.1314], dtype=float32)
    """
    y, s, _ = backend_of(x).rms_norm_forward(x, gamma, residual, axis, epsilon, False)
    return y if s is None else (y, s)
