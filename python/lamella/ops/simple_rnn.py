"""simple_rnn over whole sequences."""

from __future__ import annotations

from collections.abc import Sequence

from lamella.ops._backend import backend_of
from lamella.ops._op import Array, Pullback, op
from lamella.ops._sequence import sequence_vjp


def _simple_rnn_vjp(
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
    x_scale: Array | None = None,
    h_scale: Array | None = None,
    needs: Sequence[bool] | None = None,
) -> tuple[tuple[Array, ...], Pullback]:
    arrays = (x, kernel, recurrent_kernel, bias, h0)
    options = (go_backwards, activation, x_scale, h_scale)
    return sequence_vjp("simple_rnn", arrays, mask, lengths, options, needs)


@op(_simple_rnn_vjp)
def simple_rnn(
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
    x_scale: Array | None = None,
    h_scale: Array | None = None,
) -> tuple[Array, Array]:
    """Simple recurrent network over whole sequences (Elman 1990).

    One call computes every step of
    ``h' = activation((x_t x_scale) kernel + (h h_scale) recurrent_kernel + bias)``.

    Parameters
    ----------
    x : float32 array (N, T, D)
    kernel : float32 array (D, U)
    recurrent_kernel : float32 array (U, U)
    bias : float32 array (U,), optional
    h0 : float32 array (N, U), optional
        The state before the first step; zeros without.
    mask, lengths, go_backwards, x_scale, h_scale
        As for `lstm`: masked steps are not computed, and carry the state through.
    activation : str, optional
        A name as for `dense`; None or "linear" for none.

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
    >>> one = np.ones((1, 1), np.float32)
    >>> outputs, h = ops.simple_rnn(x, one, one, activation="relu")
    >>> outputs[0, :, 0]
    array([1., 2., 3.], dtype=float32)
    """
    arrays = (x, kernel, recurrent_kernel, bias, h0)
    options = (go_backwards, activation, x_scale, h_scale)
    return backend_of(x).simple_rnn_forward(arrays, mask, lengths, options, False)[:2]
