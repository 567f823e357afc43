"""What the attention ops have in common: options, results, and the pullback."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from lamella.ops._backend import backend_of
from lamella.ops._op import Array, Gradients, Pullback, check_gradients, needed, outputs

# The w keys before the query and itself, or (left, right); None is no bound.
Window = int | Sequence[int | None] | None


def results(y: Array, lse: Array | None, weights: Array | None) -> Any:
    """What the caller asked for: y alone, or a tuple."""
    more = tuple(array for array in (lse, weights) if array is not None)
    return (y, *more) if more else y


def attention_vjp(
    op_name: str,
    arrays: tuple[Array | None, ...],
    options: tuple[Any, ...],
    return_lse: bool,
    return_weights: bool,
    needs: Sequence[bool] | None,
) -> tuple[Any, Pullback]:
    """The results of the backend's ``<op_name>_forward``, and the pullback to its backward."""
    wanted = tuple(needed(op_name, needs, len(arrays)))
    backend = backend_of(arrays[0])
    forward = getattr(backend, f"{op_name}_forward")
    y, lse, weights, saved = forward(arrays, options, return_lse, return_weights)

    def pullback(*dy: Array | None, out: Sequence[Array | None] | None = None) -> Gradients:
        check_gradients(op_name, dy, 1 + return_lse + return_weights)
        d_results = (dy[0], dy[1] if return_lse else None, dy[-1] if return_weights else None)
        into = tuple(outputs(op_name, out, len(arrays)))
        backward = getattr(backend, f"{op_name}_backward")
        return backward(d_results, arrays, saved, options, wanted, into)

    return results(y, lse, weights), pullback
