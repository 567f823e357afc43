"""What every op shares: the backend that its arrays choose, and the shape of a pullback."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Generic, ParamSpec, Protocol, TypeVar, cast

import numpy as np

from lamella.ops._backend import backend_of, zeros

P = ParamSpec("P")
R = TypeVar("R")

Array = np.ndarray[Any, Any]
Gradients = tuple["Array | None", ...]


class Pullback(Protocol):
    """Takes the gradient of each result, gives the gradient of each array argument."""

    def __call__(
        self, *dy: Array | None, out: Sequence[Array | None] | None = None
    ) -> Gradients: ...


class Op(Protocol, Generic[P, R]):
    """A function of arrays, with its vector-Jacobian product as the attribute ``vjp``."""

    __name__: str
    vjp: Callable[..., tuple[R, Pullback]]

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R: ...


def op(vjp: Callable[..., tuple[Any, Pullback]]) -> Callable[[Callable[P, R]], Op[P, R]]:
    """Attach ``vjp`` to an op. The op stays a plain function: calling it costs nothing extra."""

    def attach(function: Callable[P, R]) -> Op[P, R]:
        vjp.__name__ = f"{function.__name__}.vjp"
        vjp.__doc__ = (
            f"Forward pass of `{function.__name__}` and its pullback: ``(y, pullback)``.\n\n"
            "``pullback(*dy, out=None)`` returns one gradient for each array argument, None for\n"
            "one that was None, is not differentiable, or is False in ``needs``. Arrays in\n"
            "``out`` receive the gradients in place. The pullback reads arguments, and of some\n"
            "ops ``y``, when it is called: `lamella.ops` says of which."
        )
        result = cast("Op[P, R]", function)
        result.vjp = vjp
        return result

    return attach


def check_gradients(op_name: str, dy: Sequence[Any], results: int) -> None:
    """Raise unless there is one gradient for each result."""
    if len(dy) != results:
        plural = "gradient" if results == 1 else "gradients"
        raise ValueError(f"{op_name}: the pullback takes {results} {plural}, got {len(dy)}")


def single_gradient(op_name: str, dy: Sequence[Any], y: Array) -> Array:
    """The gradient of an op's only result; None counts as zeros."""
    check_gradients(op_name, dy, 1)
    return zeros(backend_of(y), y.shape) if dy[0] is None else dy[0]


def needed(op_name: str, needs: Sequence[bool] | None, arrays: int) -> Sequence[bool]:
    """Which array arguments' gradients are wanted; None means all."""
    if needs is None:
        return (True,) * arrays
    if len(needs) != arrays:
        raise ValueError(f"{op_name}: needs must have {arrays} entries, got {len(needs)}")
    return needs


def outputs(
    op_name: str, out: Sequence[Array | None] | None, arrays: int
) -> Sequence[Array | None]:
    """Where the caller wants each gradient; None means a new array."""
    if out is None:
        return (None,) * arrays
    if len(out) != arrays:
        raise ValueError(f"{op_name}: out must have {arrays} entries, got {len(out)}")
    return out
