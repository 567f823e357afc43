"""The pullback that the ops over whole sequences have in common."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from lamella.ops._backend import backend_of
from lamella.ops._op import Array, Gradients, Pullback, check_gradients, needed, outputs


def sequence_vjp(
    op_name: str,
    arrays: tuple[Array | None, ...],
    mask: Array | None,
    lengths: Array | None,
    options: tuple[Any, ...],
    needs: Sequence[bool] | None,
) -> tuple[tuple[Array, ...], Pullback]:
    """The results of the backend's ``<op_name>_forward`` and the pullback to its ``_backward``."""
    backend = backend_of(arrays[0])
    wanted = tuple(needed(op_name, needs, len(arrays)))
    *results, saved = getattr(backend, f"{op_name}_forward")(arrays, mask, lengths, options, True)

    def pullback(*dy: Array | None, out: Sequence[Array | None] | None = None) -> Gradients:
        check_gradients(op_name, dy, len(results))
        into = tuple(outputs(op_name, out, len(arrays)))
        backward = getattr(backend, f"{op_name}_backward")
        return backward(dy, arrays, saved, options, wanted, into)

    return tuple(results), pullback
