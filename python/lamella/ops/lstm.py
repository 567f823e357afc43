"""lstm over whole sequences."""

from __future__ import annotations

from collections.abc import Sequence

from lamella.ops._backend import backend_of
from lamella.ops._op import Array, Pullback, op
from lamella.ops._sequence import sequence_vjp


def _lstm_vjp(
    x: Array,
    kernel: Array,
    recurrent_kernel: Array,
    bias: Array | None = None,
    h0: Array | None = None,
    c0: Array | None = None,
    projection_kernel: Array | None = None,
    gamma_x: Array | None = None,
    gamma_h: Array | None = None,
    gamma_c: Array | None = None,
    beta_c: Array | None = None,
    *,
    mask: Array | None = None,
    lengths: Array | None = None,
    go_backwards: bool = False,
    activation: str | None = "tanh",
    recurrent_activation: str | None = "sigmoid",
    x_scale: Array | None = None,
    h_scale: Array | None = None,
    zoneout_h: Array | float = 0.0,
    zoneout_c: Array | float = 0.0,
    epsilon: float = 1e-3,
    needs: Sequence[bool] | None = None,
) -> tuple[tuple[Array, ...], Pullback]:
    arrays = (
        x, kernel, recurrent_kernel, bias, h0, c0, projection_kernel,
        gamma_x, gamma_h, gamma_c, beta_c,
    )  # fmt: skip
    options = (
        go_backwards, activation, recurrent_activation, x_scale, h_scale, zoneout_h, zoneout_c,
        epsilon,
    )  # fmt: skip
    return sequence_vjp("lstm", arrays, mask, lengths, options, needs)


@op(_lstm_vjp)
def lstm(
    x: Array,
    kernel: Array,
    recurrent_kernel: Array,
    bias: Array | None = None,
    h0: Array | None = None,
    c0: Array | None = None,
    projection_kernel: Array | None = None,
    gamma_x: Array | None = None,
    gamma_h: Array | None = None,
    gamma_c: Array | None = None,
    beta_c: Array | None = None,
    *,
    mask: Array | None = None,
    lengths: Array | None = None,
    go_backwards: bool = False,
    activation: str | None = "tanh",
    recurrent_activation: str | None = "sigmoid",
    x_scale: Array | None = None,
    h_scale: Array | None = None,
    zoneout_h: Array | float = 0.0,
    zoneout_c: Array | float = 0.0,
    epsilon: float = 1e-3,
) -> tuple[Array, Array, Array]:
    """Long short-term memory over whole sequences (Hochreiter and Schmidhuber 1997).

    One call computes every step. With the gates in Keras' order i, f, c, o::

        z = (x_t x_scale) kernel + (h h_scale) recurrent_kernel + bias
        c' = recurrent_activation(z_f) c + recurrent_activation(z_i) activation(z_c)
        h' = recurrent_activation(z_o) activation(c')

    With layer normalization (Ba et al. 2016) and projection (Sak et al. 2014), each there when its
    arrays are::

        z = N(x_t kernel; gamma_x) + N(h recurrent_kernel; gamma_h) + bias
        h' = (recurrent_activation(z_o) activation(N(c'; gamma_c, beta_c))) projection_kernel
        N(v; gamma, beta) = gamma (v - mean(v)) / sqrt(variance(v) + epsilon) + beta

    over all four gates together, and over c'; the state c' itself is not normalized.

    Masked steps cost nothing: they are not computed, and what `x` holds there influences neither a
    result nor a gradient. They carry the state through, and their output row repeats it.

    Parameters
    ----------
    x : float32 array (N, T, D)
    kernel : float32 array (D, 4 U)
    recurrent_kernel : float32 array (P, 4 U)
        P is U without `projection_kernel`.
    bias : float32 array (4 U,), optional
    h0 : float32 array (N, P), optional
    c0 : float32 array (N, U), optional
        The states before the first step; zeros without.
    projection_kernel : float32 array (U, P), optional
        With it h has P features.
    gamma_x, gamma_h : float32 array (4 U,), optional
        Each normalizes its product.
    gamma_c : float32 array (U,), optional
        Normalizes c' on its way to the output.
    beta_c : float32 array (U,), optional
        Only with `gamma_c`.
    mask : bool array (N, T), optional
        False where a step is left out.
    lengths : int32 or int64 array (N,), optional
        The same as the mask ``t < lengths``; with `mask` both hold.
    go_backwards : bool
        Steps run from the last to the first, and outputs come in the order they are computed.
    activation, recurrent_activation : str, optional
        Names as for `dense`; None or "linear" for none.
    x_scale : float32 array (N, D), optional
    h_scale : float32 array (N, P), optional
        Dropout masks, the same at every step (Gal and Ghahramani 2016).
    zoneout_h, zoneout_c : float in [0, 1), or bool array (N, T, P) and (N, T, U)
        Zoneout (Krueger et al. 2017) of either state: with an array, where it is True the state
        keeps its value of before; a rate ``p`` is the expectation of it, ``p`` times the value
        before and ``1 - p`` times the one after. The index t is that of `x`.
    epsilon : float
        Added to variances, positive.

    Returns
    -------
    outputs : float32 array (N, T, P)
        h after every step.
    h : float32 array (N, P)
    c : float32 array (N, U)
        The states after the last step.

    Raises
    ------
    ValueError
        Shapes that do not fit, T, D, U or P of 0, lengths outside [0, T], an unknown activation,
        `beta_c` without `gamma_c`.
    TypeError
        An argument of another type or dtype. Arrays that are not C-contiguous are copied.

    Notes
    -----
    The pullback takes the gradients of the three results, each of which may be None, and returns
    those of the first eleven arguments; there is none of masks, scales and zoneout. Forward keeps
    the gates, c and h of every step, and the products that are normalized.

    Threads share sequences, and where there are 128 units or more the units, too. With layer
    normalization or projection they share sequences only: a batch of fewer sequences than threads
    leaves threads idle.

    Examples
    --------
    >>> import numpy as np
    >>> from lamella import ops
    >>> x = np.ones((2, 3, 1), np.float32)
    >>> kernel = np.float32([[0.5, 0.5, 1, 0.5]])
    >>> outputs, h, c = ops.lstm(x, kernel, np.zeros((1, 4), np.float32), lengths=np.array([3, 1]))
    >>> outputs[..., 0].round(3)
    array([[0.275, 0.402, 0.461],
           [0.275, 0.275, 0.275]], dtype=float32)

    Half as many features of h as units, all normalized:

    >>> rng = np.random.default_rng(0)
    >>> kernel, recurrent_kernel, projection_kernel = (
    ...     rng.standard_normal(shape, np.float32) for shape in [(1, 16), (2, 16), (4, 2)]
    ... )
    >>> ones = np.ones(16, np.float32)
    >>> outputs, h, c = ops.lstm(
    ...     x, kernel, recurrent_kernel, projection_kernel=projection_kernel,
    ...     gamma_x=ones, gamma_h=ones, gamma_c=ones[:4],
    ... )
    >>> outputs.shape, h.shape, c.shape
    ((2, 3, 2), (2, 2), (2, 4))
    """
    arrays = (
        x, kernel, recurrent_kernel, bias, h0, c0, projection_kernel,
        gamma_x, gamma_h, gamma_c, beta_c,
    )  # fmt: skip
    options = (
        go_backwards, activation, recurrent_activation, x_scale, h_scale, zoneout_h, zoneout_c,
        epsilon,
    )  # fmt: skip
    return backend_of(x).lstm_forward(arrays, mask, lengths, options, False)[:3]
