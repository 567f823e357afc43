"""Activation functions by Keras' names: callable on arrays, with ``.vjp`` for the gradient.

``get`` turns a name, ``None`` or a function into one of these. Dense and convolutional layers fuse
most of them into their kernel; the others run after it.

Examples
--------
>>> import numpy as np
>>> relu(np.float32([-1, 2]))
array([0., 2.], dtype=float32)
>>> y, pullback = relu.vjp(np.float32([-1, 2]))
>>> pullback(np.float32([1, 1]))
(array([0., 1.], dtype=float32),)
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from lamella import ops, registry

__all__ = [
    "ActivationFunction",
    "deserialize",
    "elu",
    "gelu",
    "gelu_tanh",
    "get",
    "leaky_relu",
    "linear",
    "log_softmax",
    "relu",
    "relu6",
    "serialize",
    "sigmoid",
    "silu",
    "softmax",
    "softplus",
    "swish",
    "tanh",
]

Pullback = Callable[..., tuple[Any, ...]]


class ActivationFunction:
    """An elementwise function, or a softmax, with its gradient.

    Calling it, or ``vjp``, takes a float32 array and the function's options by keyword.

    Attributes
    ----------
    name : str
        The name it is saved under.
    fused : str or None
        Its name as the ``activation`` of dense and convolution kernels; None if they lack it.
    """

    def __init__(
        self,
        name: str,
        op: Callable[..., Any],
        vjp: Callable[..., tuple[Any, Pullback]],
        *,
        is_fused: bool = True,
        **defaults: Any,
    ) -> None:
        self.name = self.__name__ = name
        self.fused = name if is_fused else None
        self._op = op
        self._vjp = vjp
        self._defaults = defaults

    def __call__(self, x: np.ndarray, **options: Any) -> np.ndarray:
        """Return f(x), of the shape of ``x``."""
        return self._op(x, **(self._defaults | options))

    def vjp(self, x: np.ndarray, **options: Any) -> tuple[np.ndarray, Pullback]:
        """Return f(x) and a pullback: ``pullback(dy) -> (dx,)``."""
        return self._vjp(x, **(self._defaults | options))

    def __repr__(self) -> str:
        return f"<activation {self.name}>"


def _from_op(op: Any, name: str, **options: Any) -> ActivationFunction:
    return ActivationFunction(name, op, op.vjp, **options)


def _identity(x: np.ndarray) -> np.ndarray:
    return x


def _identity_vjp(x: np.ndarray) -> tuple[np.ndarray, Pullback]:
    return x, lambda dy: (dy,)


def _relu(
    x: np.ndarray,
    negative_slope: float = 0.0,
    max_value: float | None = None,
    threshold: float = 0.0,
) -> np.ndarray:
    if max_value is None and threshold == 0:
        return ops.leaky_relu(x, negative_slope=negative_slope) if negative_slope else ops.relu(x)
    return _piecewise_relu(x, negative_slope, max_value, threshold)


def _relu_vjp(
    x: np.ndarray,
    negative_slope: float = 0.0,
    max_value: float | None = None,
    threshold: float = 0.0,
) -> tuple[np.ndarray, Pullback]:
    if max_value is None and threshold == 0:
        if negative_slope:
            return ops.leaky_relu.vjp(x, negative_slope=negative_slope)
        return ops.relu.vjp(x)

    def pullback(dy: np.ndarray) -> tuple[np.ndarray]:
        slope = np.where(x <= np.float32(threshold), np.float32(negative_slope), np.float32(1))
        if max_value is not None:
            slope[x >= np.float32(max_value)] = 0
        return (dy * slope,)

    return _piecewise_relu(x, negative_slope, max_value, threshold), pullback


def _piecewise_relu(
    x: np.ndarray, negative_slope: float, max_value: float | None, threshold: float
) -> np.ndarray:
    # As in Keras, x = threshold belongs to the lower branch; NaN is in neither and stays NaN.
    slope, start = np.float32(negative_slope), np.float32(threshold)
    y = np.where(x <= start, slope * (x - start) if slope else np.float32(0), x)
    return y if max_value is None else np.minimum(y, np.float32(max_value))


linear = ActivationFunction("linear", _identity, _identity_vjp)
# With max_value or a threshold computed by NumPy, not by a kernel.
relu = ActivationFunction("relu", _relu, _relu_vjp)
relu6 = ActivationFunction("relu6", _relu, _relu_vjp, is_fused=False, max_value=6.0)
gelu = _from_op(ops.gelu, "gelu", approximate=False)
gelu_tanh = _from_op(ops.gelu, "gelu_tanh", approximate=True)
silu = _from_op(ops.silu, "silu")
swish = silu
sigmoid = _from_op(ops.sigmoid, "sigmoid")
tanh = _from_op(ops.tanh, "tanh")
elu = _from_op(ops.elu, "elu")
leaky_relu = _from_op(ops.leaky_relu, "leaky_relu")
softplus = _from_op(ops.softplus, "softplus")
softmax = _from_op(ops.softmax, "softmax", is_fused=False)
log_softmax = _from_op(ops.log_softmax, "log_softmax", is_fused=False)

_BY_NAME = {
    f.name: f
    for f in (
        linear,
        relu,
        relu6,
        gelu,
        gelu_tanh,
        silu,
        sigmoid,
        tanh,
        elu,
        leaky_relu,
        softplus,
        softmax,
        log_softmax,
    )
} | {"swish": silu}
# The op itself given as an activation is the function by its name; ops.gelu approximates.
_BY_OP = {
    op: _BY_NAME["gelu_tanh" if op is ops.gelu else op.__name__]
    for op in (
        ops.relu,
        ops.gelu,
        ops.silu,
        ops.sigmoid,
        ops.tanh,
        ops.elu,
        ops.leaky_relu,
        ops.softplus,
        ops.softmax,
        ops.log_softmax,
    )
}


def get(identifier: Any, custom_objects: Mapping[str, Any] | None = None) -> Any:
    """Return the activation function that a name, a config, None or a function stands for.

    Parameters
    ----------
    identifier : str, dict, callable or None
        None is the linear activation. A function of your own needs an attribute ``vjp``:
        ``f.vjp(x) -> (y, pullback)`` with ``pullback(dy) -> (dx,)``.
    custom_objects : mapping of str to object, optional
        Functions of your own, by name.

    Raises
    ------
    ValueError
        If the name is not known, or a function has no ``vjp``.

    Examples
    --------
    >>> get("relu") is relu, get(None) is linear
    (True, True)
    """
    if identifier is None:
        return linear
    if isinstance(identifier, str):
        if custom_objects and identifier in custom_objects:
            return get(custom_objects[identifier])
        if identifier not in _BY_NAME:
            raise ValueError(
                f"unknown activation {identifier!r}; known: {', '.join(sorted(_BY_NAME))}; a "
                "function with .vjp serves as well"
            )
        return _BY_NAME[identifier]
    if isinstance(identifier, Mapping):
        return get(registry.deserialize("activation", identifier, custom_objects))
    if not callable(identifier) or isinstance(identifier, type):
        raise ValueError(f"an activation is a name or a function, got {identifier!r}")
    if identifier.__hash__ is not None and identifier in _BY_OP:
        return _BY_OP[identifier]
    if not callable(getattr(identifier, "vjp", None)):
        raise ValueError(
            f"activation {identifier!r} has no .vjp to compute gradients with: give it an "
            "attribute vjp, vjp(x) -> (y, pullback) with pullback(dy) -> (dx,), or name one of "
            f"{', '.join(sorted(_BY_NAME))}"
        )
    return identifier


def serialize(activation: Any) -> Any:
    """Return the name of an activation function, or the config of an object that has one.

    A function of the caller's own is saved by its ``__name__`` and found again through
    ``custom_objects``.

    Examples
    --------
    >>> serialize(gelu)
    'gelu'
    """
    if not isinstance(activation, ActivationFunction) and hasattr(activation, "get_config"):
        return registry.serialize(activation)
    return getattr(activation, "__name__", None) or registry.serialize(activation)


def deserialize(config: Any, custom_objects: Mapping[str, Any] | None = None) -> Any:
    """Return the activation function that `serialize` described."""
    return get(config, custom_objects)
