"""Optimizer steps and gradient clipping over flat arrays, in place.

Everything is checked before anything is changed: an array that is read-only, not C-contiguous, of
another size, or that shares memory with another one raises ValueError.
"""

from __future__ import annotations

from lamella.ops._backend import backend_of
from lamella.ops._op import Array


def sgd_(
    param: Array,
    grad: Array,
    velocity: Array | None,
    *,
    learning_rate: float,
    momentum: float = 0.0,
    nesterov: bool = False,
    weight_decay: float = 0.0,
) -> None:
    """One step of stochastic gradient descent, as Keras writes it.

    With w = `param`, g = `grad`, v = `velocity`, first ``w -= learning_rate * weight_decay * w``,
    then::

        w -= learning_rate * g                                without velocity
        v = momentum * v - learning_rate * g
        w += v                                                with velocity
        w += momentum * v - learning_rate * g                 with Nesterov's momentum

    Parameters
    ----------
    param : np.ndarray, shape (n,)
        float32, changed.
    grad : np.ndarray, shape (n,)
        float32.
    velocity : np.ndarray, shape (n,), or None
        float32, changed. Needed for `momentum` > 0.
    learning_rate : float
        Not negative.
    momentum : float
        In [0, 1].
    nesterov : bool
        Use Nesterov's momentum (Sutskever et al. 2013).
    weight_decay : float
        Not negative.

    Raises
    ------
    TypeError
        An array is not a float32 array.
    ValueError
        An option is out of range, or an array does not fit (see the module's comment).

    Examples
    --------
    >>> import numpy as np
    >>> from lamella import ops
    >>> param, velocity = np.float32([1, 2]), np.float32([0, 1])
    >>> ops.sgd_(param, np.float32([1, -1]), velocity, learning_rate=0.5, momentum=0.5)
    >>> param, velocity
    (array([0.5, 3. ], dtype=float32), array([-0.5,  1. ], dtype=float32))
    """
    backend_of(param).sgd_(param, grad, velocity, learning_rate, momentum, nesterov, weight_decay)


def rmsprop_(
    param: Array,
    grad: Array,
    square: Array,
    mean: Array | None,
    momentum_slot: Array | None,
    *,
    learning_rate: float,
    rho: float = 0.9,
    momentum: float = 0.0,
    epsilon: float = 1e-7,
    weight_decay: float = 0.0,
) -> None:
    """One step of RMSprop (Hinton 2012), as Keras writes it.

    With w = `param`, g = `grad`, s = `square`, a = `mean`, b = `momentum_slot`, first
    ``w -= learning_rate * weight_decay * w``, then::

        s = rho * s + (1 - rho) * g**2
        a = rho * a + (1 - rho) * g                           centered, else a = 0
        d = learning_rate * g / sqrt(max(s - a**2, 0) + epsilon)
        b = momentum * b + d;  w -= b                         with momentum
        w -= d                                                without

    Parameters
    ----------
    param : np.ndarray, shape (n,)
        float32, changed.
    grad : np.ndarray, shape (n,)
        float32.
    square : np.ndarray, shape (n,)
        float32, changed.
    mean : np.ndarray, shape (n,), or None
        float32, changed. Where it is given the step is centered.
    momentum_slot : np.ndarray, shape (n,), or None
        float32, changed. Needed for `momentum` > 0.
    learning_rate : float
        Not negative.
    rho : float
        In [0, 1).
    momentum : float
        In [0, 1].
    epsilon : float
        Positive, in float32 too.
    weight_decay : float
        Not negative.

    Raises
    ------
    TypeError
        An array is not a float32 array.
    ValueError
        An option is out of range, or an array does not fit (see the module's comment).

    Examples
    --------
    >>> import numpy as np
    >>> from lamella import ops
    >>> param, square = np.float32([1, 2]), np.zeros(2, np.float32)
    >>> ops.rmsprop_(param, np.float32([1, -1]), square, None, None, learning_rate=0.1)
    >>> param.round(3), square.round(3)
    (array([0.684, 2.316], dtype=float32), array([0.1, 0.1], dtype=float32))
    """
    backend_of(param).rmsprop_(
        param,
        grad,
        square,
        mean,
        momentum_slot,
        learning_rate,
        rho,
        momentum,
        epsilon,
        weight_decay,
    )


def adam_(
    param: Array,
    grad: Array,
    m: Array,
    v: Array,
    vhat: Array | None,
    *,
    step: int,
    learning_rate: float,
    beta_1: float,
    beta_2: float,
    epsilon: float,
    weight_decay: float = 0.0,
) -> None:
    """One step of Adam (Kingma and Ba 2015), as Keras writes it.

    With w = `param` and g = `grad`, first ``w -= learning_rate * weight_decay * w`` (AdamW's
    decoupled decay, Loshchilov and Hutter 2019), then::

        m = beta_1 * m + (1 - beta_1) * g
        v = beta_2 * v + (1 - beta_2) * g**2
        vhat = max(vhat, v)                                   AMSGrad, else vhat = v
        alpha = learning_rate * sqrt(1 - beta_2**step) / (1 - beta_1**step)
        w -= alpha * m / (sqrt(vhat) + epsilon)

    Parameters
    ----------
    param : np.ndarray, shape (n,)
        float32, changed.
    grad : np.ndarray, shape (n,)
        float32.
    m, v : np.ndarray, shape (n,)
        float32, changed.
    vhat : np.ndarray, shape (n,), or None
        float32, changed. Where it is given the step is AMSGrad's (Reddi et al. 2018).
    step : int
        The number of this step; the first is 1.
    learning_rate : float
        Not negative.
    beta_1, beta_2 : float
        In [0, 1).
    epsilon : float
        Positive, in float32 too.
    weight_decay : float
        Not negative.

    Raises
    ------
    TypeError
        An array is not a float32 array.
    ValueError
        An option is out of range, or an array does not fit (see the module's comment).

    Examples
    --------
    >>> import numpy as np
    >>> from lamella import ops
    >>> param, m, v = np.float32([1, 2]), np.zeros(2, np.float32), np.zeros(2, np.float32)
    >>> options = {"learning_rate": 0.1, "beta_1": 0.9, "beta_2": 0.999, "epsilon": 1e-7}
    >>> ops.adam_(param, np.float32([3, -4]), m, v, None, step=1, **options)
    >>> param.round(4)
    array([0.9, 2.1], dtype=float32)
    """
    backend_of(param).adam_(
        param, grad, m, v, vhat, step, learning_rate, beta_1, beta_2, epsilon, weight_decay
    )


def squared_norm(x: Array) -> float:
    """Sum of squares, accumulated in float64.

    Parameters
    ----------
    x : np.ndarray, any shape
        float32. What is not C-contiguous is copied first.

    Returns
    -------
    float
        The same for every number of threads and on every instruction set.

    Raises
    ------
    TypeError
        `x` is not a float32 array.

    Examples
    --------
    >>> import numpy as np
    >>> from lamella import ops
    >>> ops.squared_norm(np.float32([3, 4]))
    25.0
    """
    return backend_of(x).squared_norm(x)


def scale_(x: Array, factor: float) -> None:
    """Multiply by a number in place: ``x *= factor``.

    Parameters
    ----------
    x : np.ndarray, any shape
        float32, C-contiguous, writable.
    factor : float
        Finite, in float32 too.

    Raises
    ------
    TypeError
        `x` is not a float32 array.
    ValueError
        `factor` is not finite, or `x` cannot be written in place.

    Examples
    --------
    >>> import numpy as np
    >>> from lamella import ops
    >>> x = np.float32([3, 4])
    >>> ops.scale_(x, 0.5)
    >>> x
    array([1.5, 2. ], dtype=float32)
    """
    backend_of(x).scale_(x, factor)


def clip_(x: Array, low: float, high: float) -> None:
    """Limit to [`low`, `high`] in place; NaN stays NaN.

    Parameters
    ----------
    x : np.ndarray, any shape
        float32, C-contiguous, writable.
    low, high : float
        Finite, in float32 too; `low` at most `high`.

    Raises
    ------
    TypeError
        `x` is not a float32 array.
    ValueError
        A limit is not finite, `low` exceeds `high`, or `x` cannot be written in place.

    Examples
    --------
    >>> import numpy as np
    >>> from lamella import ops
    >>> x = np.float32([-3, 0.5, 4])
    >>> ops.clip_(x, -1, 1)
    >>> x
    array([-1. ,  0.5,  1. ], dtype=float32)
    """
    backend_of(x).clip_(x, low, high)
