"""lstm_cell: one step of the LSTM (Hochreiter and Schmidhuber 1997; forget gate: Gers et al. 2000).

z = x kernel + h recurrent_kernel + bias, in four blocks of U columns: z_i, z_f, z_g, z_o
i, f, o = recurrent_activation(z_i), recurrent_activation(z_f), recurrent_activation(z_o)
g = activation(z_g)
c' = f c + i g
h' = o activation(c')
"""

from __future__ import annotations

import numpy as np

from .activations import FUSED
from .precision import as_float64
from .recurrence import zeros_if_none


def cell_state(z, c, activation, recurrent_activation):
    """z (N,4U), c (N,U) -> c' (N,U), o (N,U)."""
    z_i, z_f, z_g, z_o = np.split(z, 4, axis=1)
    i, f, o = (FUSED[recurrent_activation].forward(part) for part in (z_i, z_f, z_o))
    g = FUSED[activation].forward(z_g)
    return f * c + i * g, o


def cell_state_backward(d_c_new, d_o, z, c, activation, recurrent_activation):
    """The gradients of c' and o -> dz (N,4U), dc (N,U)."""
    z_i, z_f, z_g, z_o = np.split(z, 4, axis=1)
    i, f = (FUSED[recurrent_activation].forward(part) for part in (z_i, z_f))
    g = FUSED[activation].forward(z_g)
    (dz_i,) = FUSED[recurrent_activation].backward(d_c_new * g, z_i)
    (dz_f,) = FUSED[recurrent_activation].backward(d_c_new * c, z_f)
    (dz_g,) = FUSED[activation].backward(d_c_new * i, z_g)
    (dz_o,) = FUSED[recurrent_activation].backward(d_o, z_o)
    return np.concatenate([dz_i, dz_f, dz_g, dz_o], axis=1), d_c_new * f


def _preactivation(x, h, kernel, recurrent_kernel, bias):
    z = x @ kernel + h @ recurrent_kernel
    return z if bias is None else z + bias


def forward(
    x,
    h,
    c,
    kernel,
    recurrent_kernel,
    bias=None,
    *,
    activation="tanh",
    recurrent_activation="sigmoid",
):
    """x (N,D), h (N,U), c (N,U), kernel (D,4U), recurrent_kernel (U,4U), bias (4U)? -> h', c'."""
    x, h, c, kernel, recurrent_kernel, bias = as_float64(x, h, c, kernel, recurrent_kernel, bias)
    z = _preactivation(x, h, kernel, recurrent_kernel, bias)
    c_new, o = cell_state(z, c, activation, recurrent_activation)
    return o * FUSED[activation].forward(c_new), c_new


def backward(
    dy,
    x,
    h,
    c,
    kernel,
    recurrent_kernel,
    bias=None,
    *,
    activation="tanh",
    recurrent_activation="sigmoid",
):
    """dy = (dh' (N,U), dc' (N,U)), each or None -> dx, dh, dc, dkernel, drecurrent_kernel, dbias?.

    c' reaches h' through activation(c'), besides being a result itself.
    """
    x, h, c, kernel, recurrent_kernel, bias = as_float64(x, h, c, kernel, recurrent_kernel, bias)
    d_h_new, d_c_new = (zeros_if_none(d, c.shape) for d in dy)
    z = _preactivation(x, h, kernel, recurrent_kernel, bias)
    c_new, o = cell_state(z, c, activation, recurrent_activation)
    d_o = d_h_new * FUSED[activation].forward(c_new)
    d_c_new = d_c_new + FUSED[activation].backward(d_h_new * o, c_new)[0]
    dz, dc = cell_state_backward(d_c_new, d_o, z, c, activation, recurrent_activation)
    d_bias = None if bias is None else dz.sum(axis=0)
    return dz @ kernel.T, dz @ recurrent_kernel.T, dc, x.T @ dz, h.T @ dz, d_bias
