"""Rotary position embedding."""

from __future__ import annotations

from collections.abc import Sequence

from lamella.ops._backend import backend_of, zeros
from lamella.ops._op import Array, Gradients, Pullback, check_gradients, needed, op, outputs


def _rotary_embedding_vjp(
    x: Array,
    cos: Array,
    sin: Array,
    *,
    interleaved: bool = False,
    needs: Sequence[bool] | None = None,
) -> tuple[Array, Pullback]:
    wanted = needed("rotary_embedding", needs, 3)[0]
    backend = backend_of(x)
    y = backend.rotary_embedding_forward(x, cos, sin, interleaved)
    shape = y.shape

    def pullback(*dy: Array | None, out: Sequence[Array | None] | None = None) -> Gradients:
        check_gradients("rotary_embedding", dy, 1)
        gradient = zeros(backend, shape) if dy[0] is None else dy[0]
        into = outputs("rotary_embedding", out, 3)[0]
        if not wanted:
            return None, None, None
        dx = backend.rotary_embedding_backward(gradient, shape, cos, sin, interleaved, into)
        return dx, None, None

    return y, pullback


@op(_rotary_embedding_vjp)
def rotary_embedding(x: Array, cos: Array, sin: Array, *, interleaved: bool = False) -> Array:
    """Turn pairs of x's elements by an angle of their position (Su et al. 2021).

    ``y1 = x1 cos - x2 sin``, ``y2 = x2 cos + x1 sin``, where x1 and x2 are the first and the second
    half of a head's elements. With the angle ``t * f[k]`` for pair k at position t, the product of
    a query and a key so turned depends on the distance of their positions alone.

    Parameters
    ----------
    x : np.ndarray (N, S, A, E)
        float32, E even.
    cos, sin : np.ndarray (S, E / 2) or (N, S, E / 2)
        float32, of each position's angles; constants, which have no gradient.
    interleaved : bool
        x1 and x2 are the even and the odd elements instead.

    Returns
    -------
    np.ndarray
        float32, shape of `x`.

    Raises
    ------
    TypeError
        An argument is not a float32 array.
    ValueError
        E is odd, there is no head, or `cos` or `sin` has another shape.

    Notes
    -----
    The pullback reads `cos` and `sin`. What is not C-contiguous is copied first.

    Examples
    --------
    >>> import numpy as np
    >>> from lamella import ops
    >>> angle = np.float32([[0], [np.pi / 2]])  # of positions 0 and 1
    >>> x = np.float32([3, 4, 3, 4]).reshape(1, 2, 1, 2)
    >>> y, pullback = ops.rotary_embedding.vjp(x, np.cos(angle), np.sin(angle))
    >>> y.round(3).ravel().tolist()
    [3.0, 4.0, -4.0, 3.0]
    >>> pullback(y)[0].round(3).ravel().tolist()
    [3.0, 4.0, 3.0, 4.0]
    """
    return backend_of(x).rotary_embedding_forward(x, cos, sin, interleaved)
