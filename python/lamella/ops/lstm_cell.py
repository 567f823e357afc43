"""lstm_cell: one step of an LSTM, for a loop of the caller's."""

from __future__ import annotations

from collections.abc import Sequence

from lamella.arrays import expand_dims, squeeze
from lamella.ops._op import Array, Gradients, Pullback, check_gradients, needed, op, outputs
from lamella.ops.lstm import lstm

# Arguments of lstm that a cell does not have.
_OTHERS = 5


def _one_step(x: Array) -> Array:
    """The row of each sequence as a sequence of one step; what is no such array is left to lstm."""
    return expand_dims(x, 1) if getattr(x, "ndim", None) == 2 else x


def _lstm_cell_vjp(
    x: Array,
    h: Array,
    c: Array,
    kernel: Array,
    recurrent_kernel: Array,
    bias: Array | None = None,
    *,
    activation: str | None = "tanh",
    recurrent_activation: str | None = "sigmoid",
    needs: Sequence[bool] | None = None,
) -> tuple[tuple[Array, Array], Pullback]:
    need_x, need_h, need_c, need_kernel, need_recurrent, need_bias = needed("lstm_cell", needs, 6)
    names = {"activation": activation, "recurrent_activation": recurrent_activation}
    order = (need_x, need_kernel, need_recurrent, need_bias, need_h, need_c, *(False,) * _OTHERS)
    (_, h_new, c_new), whole = lstm.vjp(
        _one_step(x), kernel, recurrent_kernel, bias, h, c, **names, needs=order
    )

    def pullback(*dy: Array | None, out: Sequence[Array | None] | None = None) -> Gradients:
        check_gradients("lstm_cell", dy, 2)
        to_x, to_h, to_c, to_kernel, to_recurrent, to_bias = outputs("lstm_cell", out, 6)
        place = None if to_x is None else _one_step(to_x)
        dx, dkernel, drecurrent, dbias, dh, dc, *_ = whole(
            None, *dy, out=(place, to_kernel, to_recurrent, to_bias, to_h, to_c, *(None,) * _OTHERS)
        )
        if dx is not None:
            dx = squeeze(dx, 1) if to_x is None else to_x
        return dx, dh, dc, dkernel, drecurrent, dbias

    return (h_new, c_new), pullback


@op(_lstm_cell_vjp)
def lstm_cell(
    x: Array,
    h: Array,
    c: Array,
    kernel: Array,
    recurrent_kernel: Array,
    bias: Array | None = None,
    *,
    activation: str | None = "tanh",
    recurrent_activation: str | None = "sigmoid",
) -> tuple[Array, Array]:
    """One step of an LSTM: `lstm` of one step, with the states as arguments.

    Parameters
    ----------
    x : float32 array (N, D)
    h, c : float32 array (N, U)
        The states before the step.
    kernel : float32 array (D, 4 U)
    recurrent_kernel : float32 array (U, 4 U)
    bias : float32 array (4 U,), optional
    activation, recurrent_activation : str, optional
        Names as for `dense`.

    Returns
    -------
    h, c : float32 array (N, U)
        The states after the step.

    Raises
    ------
    ValueError, TypeError
        As `lstm`, whose name the messages have.

    Notes
    -----
    Whole sequences are many times faster in one call of `lstm`.

    Examples
    --------
    >>> import numpy as np
    >>> from lamella import ops
    >>> h = c = np.zeros((1, 2), np.float32)
    >>> kernel = np.ones((3, 8), np.float32)
    >>> recurrent_kernel = np.ones((2, 8), np.float32)
    >>> for x_t in np.ones((4, 1, 3), np.float32):
    ...     h, c = ops.lstm_cell(x_t, h, c, kernel, recurrent_kernel)
    >>> h.round(3)
    array([[0.992, 0.992]], dtype=float32)
    """
    return lstm(
        _one_step(x), kernel, recurrent_kernel, bias, h, c,
        activation=activation, recurrent_activation=recurrent_activation,
    )[1:]  # fmt: skip
