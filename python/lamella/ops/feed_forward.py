"""The feed-forward network of a Transformer."""

from __future__ import annotations

from collections.abc import Sequence

from lamella.ops._backend import backend_of
from lamella.ops._op import Array, Gradients, Pullback, needed, op, outputs, single_gradient


def _feed_forward_vjp(
    x: Array,
    kernel: Array,
    output_kernel: Array,
    bias: Array | None = None,
    output_bias: Array | None = None,
    gate_kernel: Array | None = None,
    gate_bias: Array | None = None,
    *,
    activation: str | None = "relu",
    needs: Sequence[bool] | None = None,
) -> tuple[Array, Pullback]:
    arrays = (x, kernel, output_kernel, bias, output_bias, gate_kernel, gate_bias)
    wanted = tuple(needed("feed_forward", needs, 7))
    backend = backend_of(x)
    y, saved = backend.feed_forward_forward(arrays, activation, True)

    def pullback(*dy: Array | None, out: Sequence[Array | None] | None = None) -> Gradients:
        gradient = single_gradient("feed_forward", dy, y)
        into = tuple(outputs("feed_forward", out, 7))
        return backend.feed_forward_backward(gradient, arrays, saved, activation, wanted, into)

    return y, pullback


@op(_feed_forward_vjp)
def feed_forward(
    x: Array,
    kernel: Array,
    output_kernel: Array,
    bias: Array | None = None,
    output_bias: Array | None = None,
    gate_kernel: Array | None = None,
    gate_bias: Array | None = None,
    *,
    activation: str | None = "relu",
) -> Array:
    """Two dense layers over the last axis, the first one perhaps gated.

    ``y = f(x W + b) Wo + bo`` (Vaswani et al. 2017), and with a gate
    ``y = (f(x W + b) * (x Wg + bg)) Wo + bo`` (Shazeer 2020): "silu" makes that SwiGLU, "gelu"
    GEGLU.

    Parameters
    ----------
    x : float32 array (..., D)
    kernel : float32 array (D, F)
    output_kernel : float32 array (F, Dout)
    bias : float32 array (F,), optional
    output_bias : float32 array (Dout,), optional
    gate_kernel : float32 array (D, F), optional
    gate_bias : float32 array (F,), optional
    activation : str, optional
        A name that `dense` takes.

    Returns
    -------
    float32 array (..., Dout)

    Raises
    ------
    ValueError
        Shapes that do not fit, an empty kernel, a gate_bias without a gate_kernel, an unknown
        activation.
    TypeError
        An argument that is not a float32 NumPy array. Arrays that are not C-contiguous are copied.

    Notes
    -----
    With ``dh = dy Wo^T``: ``dg = dh a``, ``dz = dh g f'``, ``dx = dz W^T + dg Wg^T``, and for each
    kernel the product of its input and its output's gradient.

    Examples
    --------
    >>> import numpy as np
    >>> from lamella import ops
    >>> one = np.eye(2, dtype=np.float32)
    >>> ops.feed_forward(np.float32([[1, -2]]), one, one, gate_kernel=3 * one)
    array([[3., 0.]], dtype=float32)
    """
    arrays = (x, kernel, output_kernel, bias, output_bias, gate_kernel, gate_bias)
    return backend_of(x).feed_forward_forward(arrays, activation, False)[0]
