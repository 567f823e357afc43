"""Pointwise activations: relu, gelu, silu, sigmoid, tanh, elu, leaky_relu, softplus."""

from __future__ import annotations

from collections.abc import Sequence

from lamella.ops._backend import backend_of
from lamella.ops._op import Array, Gradients, Pullback, needed, op, outputs, single_gradient


def _vjp(
    name: str, kind: str, x: Array, parameter: float | None, needs: Sequence[bool] | None
) -> tuple[Array, Pullback]:
    """Forward pass of the backend's activation `kind`; its pullback keeps `x` alone."""
    (wanted,) = needed(name, needs, 1)
    backend = backend_of(x)
    y = backend.activation_forward(kind, x, parameter)

    def pullback(*dy: Array | None, out: Sequence[Array | None] | None = None) -> Gradients:
        gradient = single_gradient(name, dy, x)
        (into,) = outputs(name, out, 1)
        if not wanted:
            return (None,)
        return (backend.activation_backward(kind, gradient, x, parameter, into),)

    return y, pullback


def _gelu_kind(approximate: bool) -> str:
    if not isinstance(approximate, bool):
        raise ValueError(f"gelu: approximate must be True or False, got {approximate!r}")
    return "gelu_tanh" if approximate else "gelu"


def _relu_vjp(x: Array, *, needs: Sequence[bool] | None = None) -> tuple[Array, Pullback]:
    return _vjp("relu", "relu", x, None, needs)


@op(_relu_vjp)
def relu(x: Array) -> Array:
    """Rectified linear unit, ``max(x, 0)``.

    The derivative at 0 is 0; NaN stays NaN.

    Parameters
    ----------
    x : np.ndarray, any shape
        float32.

    Returns
    -------
    np.ndarray
        float32, shape of `x`.

    Raises
    ------
    TypeError
        `x` is not a float32 array.

    Notes
    -----
    What is not C-contiguous is copied first; so in all functions of this module.

    Examples
    --------
    >>> import numpy as np
    >>> from lamella import ops
    >>> x = np.float32([-2, 0, 3])
    >>> ops.relu(x)
    array([0., 0., 3.], dtype=float32)
    >>> y, pullback = ops.relu.vjp(x)
    >>> pullback(np.float32([10, 20, 30]))
    (array([ 0.,  0., 30.], dtype=float32),)
    """
    return backend_of(x).activation_forward("relu", x)


def _gelu_vjp(
    x: Array, *, approximate: bool = True, needs: Sequence[bool] | None = None
) -> tuple[Array, Pullback]:
    return _vjp("gelu", _gelu_kind(approximate), x, None, needs)


@op(_gelu_vjp)
def gelu(x: Array, *, approximate: bool = True) -> Array:
    """Gaussian error linear unit, ``x Phi(x)`` (Hendrycks and Gimpel 2016).

    ``Phi`` is the distribution function of the standard normal distribution,
    ``(1 + erf(x / sqrt(2))) / 2``; approximated, as in the article by its authors,
    ``(1 + tanh(sqrt(2 / pi) (x + 0.044715 x**3))) / 2``.

    Parameters
    ----------
    x : np.ndarray, any shape
        float32.
    approximate : bool
        Whether ``Phi`` is approximated by tanh. The default is that of ``keras.ops.gelu``.

    Returns
    -------
    np.ndarray
        float32, shape of `x`.

    Raises
    ------
    TypeError
        `x` is not a float32 array.
    ValueError
        `approximate` is not a bool.

    Examples
    --------
    >>> import numpy as np
    >>> from lamella import ops
    >>> ops.gelu(np.float32([-1, 0, 1])).round(4)
    array([-0.1588,  0.    ,  0.8412], dtype=float32)
    >>> ops.gelu(np.float32([-1, 0, 1]), approximate=False).round(4)
    array([-0.1587,  0.    ,  0.8413], dtype=float32)
    """
    return backend_of(x).activation_forward(_gelu_kind(approximate), x)


def _silu_vjp(x: Array, *, needs: Sequence[bool] | None = None) -> tuple[Array, Pullback]:
    return _vjp("silu", "silu", x, None, needs)


@op(_silu_vjp)
def silu(x: Array) -> Array:
    """Sigmoid linear unit, also called swish, ``x / (1 + exp(-x))``.

    Parameters
    ----------
    x : np.ndarray, any shape
        float32.

    Returns
    -------
    np.ndarray
        float32, shape of `x`.

    Raises
    ------
    TypeError
        `x` is not a float32 array.

    Examples
    --------
    >>> import numpy as np
    >>> from lamella import ops
    >>> ops.silu(np.float32([-1, 0, 1])).round(4)
    array([-0.2689,  0.    ,  0.7311], dtype=float32)
    """
    return backend_of(x).activation_forward("silu", x)


def _sigmoid_vjp(x: Array, *, needs: Sequence[bool] | None = None) -> tuple[Array, Pullback]:
    return _vjp("sigmoid", "sigmoid", x, None, needs)


@op(_sigmoid_vjp)
def sigmoid(x: Array) -> Array:
    """Logistic function, ``1 / (1 + exp(-x))``.

    Parameters
    ----------
    x : np.ndarray, any shape
        float32.

    Returns
    -------
    np.ndarray
        float32, shape of `x`.

    Raises
    ------
    TypeError
        `x` is not a float32 array.

    Examples
    --------
    >>> import numpy as np
    >>> from lamella import ops
    >>> ops.sigmoid(np.float32([-1, 0, 1])).round(4)
    array([0.2689, 0.5   , 0.7311], dtype=float32)
    """
    return backend_of(x).activation_forward("sigmoid", x)


def _tanh_vjp(x: Array, *, needs: Sequence[bool] | None = None) -> tuple[Array, Pullback]:
    return _vjp("tanh", "tanh", x, None, needs)


@op(_tanh_vjp)
def tanh(x: Array) -> Array:
    """Hyperbolic tangent.

    Parameters
    ----------
    x : np.ndarray, any shape
        float32.

    Returns
    -------
    np.ndarray
        float32, shape of `x`.

    Raises
    ------
    TypeError
        `x` is not a float32 array.

    Examples
    --------
    >>> import numpy as np
    >>> from lamella import ops
    >>> ops.tanh(np.float32([-1, 0, 1])).round(4)
    array([-0.7616,  0.    ,  0.7616], dtype=float32)
    """
    return backend_of(x).activation_forward("tanh", x)


def _elu_vjp(
    x: Array, *, alpha: float = 1.0, needs: Sequence[bool] | None = None
) -> tuple[Array, Pullback]:
    return _vjp("elu", "elu", x, alpha, needs)


@op(_elu_vjp)
def elu(x: Array, *, alpha: float = 1.0) -> Array:
    """Exponential linear unit (Clevert et al. 2016).

    ``x`` where ``x > 0``, else ``alpha (exp(x) - 1)``; the derivative at 0 is `alpha`.

    Parameters
    ----------
    x : np.ndarray, any shape
        float32.
    alpha : float
        Finite.

    Returns
    -------
    np.ndarray
        float32, shape of `x`.

    Raises
    ------
    TypeError
        `x` is not a float32 array.
    ValueError
        `alpha` is not a finite number.

    Examples
    --------
    >>> import numpy as np
    >>> from lamella import ops
    >>> ops.elu(np.float32([-1, 0, 1]), alpha=0.5).round(4)
    array([-0.3161,  0.    ,  1.    ], dtype=float32)
    """
    return backend_of(x).activation_forward("elu", x, alpha)


def _leaky_relu_vjp(
    x: Array, *, negative_slope: float = 0.2, needs: Sequence[bool] | None = None
) -> tuple[Array, Pullback]:
    return _vjp("leaky_relu", "leaky_relu", x, negative_slope, needs)


@op(_leaky_relu_vjp)
def leaky_relu(x: Array, *, negative_slope: float = 0.2) -> Array:
    """Rectified linear unit with a slope below zero.

    ``x`` where ``x >= 0``, else ``negative_slope x``; the derivative at 0 is 1.

    Parameters
    ----------
    x : np.ndarray, any shape
        float32.
    negative_slope : float
        Finite.

    Returns
    -------
    np.ndarray
        float32, shape of `x`.

    Raises
    ------
    TypeError
        `x` is not a float32 array.
    ValueError
        `negative_slope` is not a finite number.

    Examples
    --------
    >>> import numpy as np
    >>> from lamella import ops
    >>> ops.leaky_relu(np.float32([-2, 0, 3]), negative_slope=0.5)
    array([-1.,  0.,  3.], dtype=float32)
    """
    return backend_of(x).activation_forward("leaky_relu", x, negative_slope)


def _softplus_vjp(x: Array, *, needs: Sequence[bool] | None = None) -> tuple[Array, Pullback]:
    return _vjp("softplus", "softplus", x, None, needs)


@op(_softplus_vjp)
def softplus(x: Array) -> Array:
    """Smooth form of relu, ``log(1 + exp(x))``.

    Parameters
    ----------
    x : np.ndarray, any shape
        float32.

    Returns
    -------
    np.ndarray
        float32, shape of `x`.

    Raises
    ------
    TypeError
        `x` is not a float32 array.

    Examples
    --------
    >>> import numpy as np
    >>> from lamella import ops
    >>> ops.softplus(np.float32([-1, 0, 1])).round(4)
    array([0.3133, 0.6931, 1.3133], dtype=float32)
    """
    return backend_of(x).activation_forward("softplus", x)
