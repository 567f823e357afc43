"""Embedding: rows of a table by their number."""

from __future__ import annotations

from collections.abc import Sequence

from lamella.ops._backend import backend_of
from lamella.ops._op import Array, Gradients, Pullback, needed, op, outputs, single_gradient


def _embedding_vjp(
    indices: Array, table: Array, *, needs: Sequence[bool] | None = None
) -> tuple[Array, Pullback]:
    _, wanted = needed("embedding", needs, 2)
    backend = backend_of(table)
    y = backend.embedding_forward(indices, table)
    shape = table.shape

    def pullback(*dy: Array | None, out: Sequence[Array | None] | None = None) -> Gradients:
        gradient = single_gradient("embedding", dy, y)
        _, into = outputs("embedding", out, 2)
        if not wanted:
            return None, None
        return None, backend.embedding_backward(gradient, indices, shape, into)

    return y, pullback


@op(_embedding_vjp)
def embedding(indices: Array, table: Array) -> Array:
    """Rows of a table by their number: ``y[...] = table[indices[...]]``.

    Backward ``dtable[v]`` is the sum of the rows of ``dy`` whose index is v, added in the order of
    the indices in C order; the indices have no gradient (None).

    Parameters
    ----------
    indices : np.ndarray (...)
        int32 or int64, each in [0, V). int32 is copied to int64 first.
    table : np.ndarray (V, D)
        float32, V and D at least 1.

    Returns
    -------
    np.ndarray (..., D)
        float32.

    Raises
    ------
    TypeError
        `indices` holds other than int32 or int64, or `table` is not a float32 array.
    ValueError
        `table` does not have two axes of at least 1.
    IndexError
        An index is outside [0, V): the message has its value and position. Nothing is computed
        then.

    Notes
    -----
    What is not C-contiguous is copied first.

    Examples
    --------
    >>> import numpy as np
    >>> from lamella import ops
    >>> table = np.float32([[0, 1], [10, 11], [20, 21]])
    >>> y, pullback = ops.embedding.vjp(np.array([2, 0, 2]), table)
    >>> y
    array([[20., 21.],
           [ 0.,  1.],
           [20., 21.]], dtype=float32)
    >>> pullback(np.float32([[1, 2], [3, 4], [5, 6]]))[1]
    array([[3., 4.],
           [0., 0.],
           [6., 8.]], dtype=float32)
    """
    return backend_of(table).embedding_forward(indices, table)
