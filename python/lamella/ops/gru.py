"""gru over whole sequences."""

from __future__ import annotations

from collections.abc import Sequence

from lamella.ops._backend import backend_of
from lamella.ops._op import Array, Pullback, op
from lamella.ops._sequence import sequence_vjp


def _gru_vjp(
    x: Array,
    kernel: Array,
    recurrent_kernel: Array,
    bias: Array | None = None,
    h0: Array | None = None,
    *,
    mask: Array | None = None,
    lengths: Array | None = None,
    go_backwards: bool = False,
    activation: str | None = "tanh",
    recurrent_activation: str | None = "sigmoid",
    reset_after: bool = True,
    x_scale: Array | None = None,
    h_scale: Array | None = None,
    needs: Sequence[bool] | None = None,
) -> tuple[tuple[Array, ...], Pullback]:
    arrays = (x, kernel, recurrent_kernel, bias, h0)
    options = (go_backwards, activation, recurrent_activation, reset_after, x_scale, h_scale)
    return sequence_vjp("gru", arrays, mask, lengths, options, needs)


@op(_gru_vjp)
def gru(
    x: Array,
    kernel: Array,
    recurrent_kernel: Array,
    bias: Array | None = None,
    h0: Array | None = None,
    *,
    mask: Array | None = None,
    lengths: Array | None = None,
    go_backwards: bool = False,
    activation: str | None = "tanh",
    recurrent_activation: str | None = "sigmoid",
    reset_after: bool = True,
    x_scale: Array | None = None,
    h_scale: Array | None = None,
) -> tuple[Array, Array]:
    """Gated recurrent unit over whole sequences (Cho et al. 2014).

    One call computes every step. With the gates in Keras' order z, r, h::

        a = (x_t x_scale) kernel + input bias
        q = (h h_scale) recurrent_kernel + recurrent bias
        z = recurrent_activation(a_z + q_z)
        r = recurrent_activation(a_r + q_r)
        n = activation(a_h + r q_h)
        h' = z h + (1 - z) n

    So it is with `reset_after`, as in Keras, PyTorch and cuDNN. Without, the reset gate comes
    before the product, ``n = activation(a_h + (r h h_scale) recurrent_kernel_h)``, and there is no
    recurrent bias, as in the paper.

    Parameters
    ----------
    x : float32 array (N, T, D)
    kernel : float32 array (D, 3 U)
    recurrent_kernel : float32 array (U, 3 U)
    bias : float32 array (2, 3 U), or (3 U,) without `reset_after`, optional
        The input bias and the recurrent bias.
    h0 : float32 array (N, U), optional
        The state before the first step; zeros without.
    mask, lengths, go_backwards, x_scale, h_scale
        As for `lstm`: masked steps are not computed, and carry the state through.
    activation, recurrent_activation : str, optional
        Names as for `dense`; None or "linear" for none.
    reset_after : bool
        Whether the reset gate is applied after the product of h.

    Returns
    -------
    outputs : float32 array (N, T, U)
        h after every step.
    h : float32 array (N, U)
        The state after the last step.

    Raises
    ------
    ValueError
        Shapes that do not fit, T, D or U of 0, lengths outside [0, T], an unknown activation.
    TypeError
        An argument of another type or dtype. Arrays that are not C-contiguous are copied.

    Notes
    -----
    The pullback takes the gradients of both results, each of which may be None, and returns those
    of the first five arguments.

    Examples
    --------
    >>> import numpy as np
    >>> from lamella import ops
    >>> x = np.ones((1, 3, 1), np.float32)
    >>> outputs, h = ops.gru(x, np.ones((1, 3), np.float32), np.zeros((1, 3), np.float32))
    >>> outputs[0, :, 0].round(3)
    array([0.205, 0.355, 0.464], dtype=float32)
    """
    arrays = (x, kernel, recurrent_kernel, bias, h0)
    options = (go_backwards, activation, recurrent_activation, reset_after, x_scale, h_scale)
    return backend_of(x).gru_forward(arrays, mask, lengths, options, False)[:2]
