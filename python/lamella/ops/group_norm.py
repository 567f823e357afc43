"""group_norm over the channels of a group and all axes between the first and the last."""

from __future__ import annotations

from collections.abc import Sequence

from lamella.ops._backend import backend_of
from lamella.ops._op import Array, Gradients, Pullback, needed, op, outputs, single_gradient


def _group_norm_vjp(
    x: Array,
    gamma: Array | None = None,
    beta: Array | None = None,
    *,
    groups: int,
    epsilon: float = 1e-3,
    needs: Sequence[bool] | None = None,
) -> tuple[Array, Pullback]:
    wanted = tuple(needed("group_norm", needs, 3))
    backend = backend_of(x)
    y, saved = backend.group_norm_forward(x, gamma, beta, groups, epsilon, True)

    def pullback(*dy: Array | None, out: Sequence[Array | None] | None = None) -> Gradients:
        gradient = single_gradient("group_norm", dy, x)
        into = tuple(outputs("group_norm", out, 3))
        return backend.group_norm_backward(gradient, x, gamma, beta, saved, groups, wanted, into)

    return y, pullback


@op(_group_norm_vjp)
def group_norm(
    x: Array,
    gamma: Array | None = None,
    beta: Array | None = None,
    *,
    groups: int,
    epsilon: float = 1e-3,
) -> Array:
    """Group normalization (Wu and He 2018): mean 0 and deviation 1 for each group of channels.

    ``y = gamma (x - mean) / sqrt(variance + epsilon) + beta``. The channels are cut into `groups`
    runs of neighbours; mean and variance are those of one sample's run over all axes but the first
    and the last, the variance divided by the number of elements ``M`` and not ``M - 1``. They are
    accurate also where the mean is much larger than the deviation. With as many groups as channels
    it is instance normalization.

    The pullback returns gradients for ``(x, gamma, beta)``. It keeps `x`, `gamma`, and beside them
    three numbers for each mean.

    Parameters
    ----------
    x : np.ndarray, shape (N, ..., C)
        float32, at least one channel.
    gamma, beta : np.ndarray, shape (C,), optional
        float32 scale and offset; default 1 and 0.
    groups : int
        At least 1, a divisor of C.
    epsilon : float
        Finite and greater than 0.

    Returns
    -------
    np.ndarray, shape (N, ..., C)
        float32.

    Raises
    ------
    TypeError
        An array that is not float32.
    ValueError
        Shapes that do not fit, no channels, `groups` that do not divide them, `epsilon` not finite
        and greater than 0.

    Notes
    -----
    What is not C-contiguous is copied first.

    Examples
    --------
    >>> import numpy as np
    >>> from lamella import ops
    >>> x = np.float32([[[1, 2, 10, 20], [3, 2, 30, 20]]])
    >>> ops.group_norm(x, groups=2, epsilon=1e-6).round(4)
    array([[[-1.4142,  0.    , -1.4142,  0.    ],
            [ 1.4142,  0.    ,  1.4142,  0.    ]]], dtype=float32)
    """
    y: Array = backend_of(x).group_norm_forward(x, gamma, beta, groups, epsilon, False)[0]
    return y
