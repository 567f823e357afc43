"""gru: the gated recurrent unit (Cho et al. 2014) over a sequence, with Keras' gate order z, r, h.

The products have three blocks of U columns each, one for every gate:

    a = x_t kernel + input_bias
    z = recurrent_activation(a_z + q_z)
    r = recurrent_activation(a_r + q_r)
    n = activation(a_h + s),   s = r q_h
    h' = z h + (1 - z) n

where q = h recurrent_kernel + recurrent_bias. So it is with reset_after, whose bias (2, 3U) has the
rows input_bias and recurrent_bias. Without, the bias (3U) is input_bias, q has none, and the reset
gate comes before the product: s = (r h) recurrent_kernel_h.

With dropout masks x_t is x_t * x_scale, and h in the products (not in z h) is h * h_scale. Order,
masked steps and the walk over time: see recurrence.
"""

from __future__ import annotations

from functools import partial
from typing import NamedTuple

import numpy as np

from .activations import FUSED
from .precision import as_float64
from .recurrence import (
    accumulate,
    scaled,
    scan,
    scan_backward,
    valid_steps,
    zero_gradients,
    zeros_if_none,
)


class _Gates(NamedTuple):
    """What one step computes on its way to h': the inputs of the products and of each gate."""

    x_t: np.ndarray
    h: np.ndarray  # scaled by h_scale
    z_in: np.ndarray
    r_in: np.ndarray
    n_in: np.ndarray
    q_h: np.ndarray | None  # with reset_after


class _Cell(NamedTuple):
    """The step, and its gradient, of one call's arrays."""

    x: np.ndarray
    kernel: np.ndarray
    recurrent_kernel: np.ndarray
    bias: np.ndarray | None
    x_scale: np.ndarray | None
    h_scale: np.ndarray | None
    activation: str | None
    recurrent_activation: str | None
    reset_after: bool

    def gates(self, rows, t, h):
        x_t = scaled(self.x[rows, t], self.x_scale, rows)
        h = scaled(h, self.h_scale, rows)
        a, q = x_t @ self.kernel, h @ self.recurrent_kernel
        if self.bias is not None and self.reset_after:
            a, q = a + self.bias[0], q + self.bias[1]
        elif self.bias is not None:
            a = a + self.bias
        a_z, a_r, a_h = np.split(a, 3, axis=1)
        q_z, q_r, q_h = np.split(q, 3, axis=1)
        r = FUSED[self.recurrent_activation].forward(a_r + q_r)
        if self.reset_after:
            return _Gates(x_t, h, a_z + q_z, a_r + q_r, a_h + r * q_h, q_h)
        kernel_h = np.split(self.recurrent_kernel, 3, axis=1)[2]
        return _Gates(x_t, h, a_z + q_z, a_r + q_r, a_h + (r * h) @ kernel_h, None)

    def step(self, rows, t, h):
        gates = self.gates(rows, t, h)
        z = FUSED[self.recurrent_activation].forward(gates.z_in)
        n = FUSED[self.activation].forward(gates.n_in)
        return [z * h + (1.0 - z) * n]

    def step_backward(self, gradients, rows, t, before, d_after):
        (h_before,), (d_h_new,) = before, d_after
        gates = self.gates(rows, t, h_before)
        x_t, h = gates.x_t, gates.h
        z, r = (FUSED[self.recurrent_activation].forward(g) for g in (gates.z_in, gates.r_in))
        n = FUSED[self.activation].forward(gates.n_in)

        (dn_in,) = FUSED[self.activation].backward(d_h_new * (1.0 - z), gates.n_in)
        dz = d_h_new * (h_before - n)
        kernel_z, kernel_r, kernel_h = np.split(self.recurrent_kernel, 3, axis=1)
        if self.reset_after:  # s = r (h kernel_h + recurrent_bias_h)
            dr, dq_h = dn_in * gates.q_h, dn_in * r
            d_kernel_h, dh = h.T @ dq_h, dq_h @ kernel_h.T
        else:  # s = (r h) kernel_h
            d_reset = dn_in @ kernel_h.T
            dr, dq_h = d_reset * h, None
            d_kernel_h, dh = (r * h).T @ dn_in, d_reset * r
        (dz_in,) = FUSED[self.recurrent_activation].backward(dz, gates.z_in)
        (dr_in,) = FUSED[self.recurrent_activation].backward(dr, gates.r_in)
        dh = dh + dz_in @ kernel_z.T + dr_in @ kernel_r.T

        da = np.concatenate([dz_in, dr_in, dn_in], axis=1)
        d_bias = da.sum(axis=0)
        if self.reset_after:
            dq = np.concatenate([dz_in, dr_in, dq_h], axis=1)
            d_bias = np.stack([d_bias, dq.sum(axis=0)])
        gradients["x"][rows, t] = scaled(da @ self.kernel.T, self.x_scale, rows)
        accumulate(
            gradients,
            kernel=x_t.T @ da,
            recurrent_kernel=np.concatenate([h.T @ dz_in, h.T @ dr_in, d_kernel_h], axis=1),
            bias=d_bias,
        )
        return [d_h_new * z + scaled(dh, self.h_scale, rows)]


def forward(
    x,
    kernel,
    recurrent_kernel,
    bias=None,
    h0=None,
    *,
    mask=None,
    lengths=None,
    go_backwards=False,
    activation="tanh",
    recurrent_activation="sigmoid",
    reset_after=True,
    x_scale=None,
    h_scale=None,
):
    """x (N,T,D), kernel (D,3U), recurrent_kernel (U,3U), bias?, h0 (N,U)? -> outputs (N,T,U), h.

    bias (2,3U) with reset_after, (3U) without; mask (N,T) bool, lengths (N,), x_scale (N,D),
    h_scale (N,U), each or None.
    """
    x, kernel, recurrent_kernel, bias, h0, x_scale, h_scale = as_float64(
        x, kernel, recurrent_kernel, bias, h0, x_scale, h_scale
    )
    names = activation, recurrent_activation
    cell = _Cell(x, kernel, recurrent_kernel, bias, x_scale, h_scale, *names, reset_after)
    h0 = zeros_if_none(h0, (x.shape[0], recurrent_kernel.shape[0]))
    outputs, (h,), _ = scan(cell.step, [h0], valid_steps(x.shape, mask, lengths), go_backwards)
    return outputs, h


def backward(
    dy,
    x,
    kernel,
    recurrent_kernel,
    bias=None,
    h0=None,
    *,
    mask=None,
    lengths=None,
    go_backwards=False,
    activation="tanh",
    recurrent_activation="sigmoid",
    reset_after=True,
    x_scale=None,
    h_scale=None,
):
    """dy = (doutputs, dh), each or None -> dx, dkernel, drecurrent_kernel, dbias?, dh0?."""
    x, kernel, recurrent_kernel, bias, h0, x_scale, h_scale = as_float64(
        x, kernel, recurrent_kernel, bias, h0, x_scale, h_scale
    )
    names = activation, recurrent_activation
    cell = _Cell(x, kernel, recurrent_kernel, bias, x_scale, h_scale, *names, reset_after)
    first = zeros_if_none(h0, (x.shape[0], recurrent_kernel.shape[0]))
    outputs, (h,), walk = scan(
        cell.step, [first], valid_steps(x.shape, mask, lengths), go_backwards
    )

    gradients = zero_gradients(
        x=x, kernel=kernel, recurrent_kernel=recurrent_kernel, bias=bias, h0=h0
    )
    d_outputs, dh = map(zeros_if_none, dy, (outputs.shape, h.shape))
    (dh0,) = scan_backward(partial(cell.step_backward, gradients), d_outputs, [dh], walk)
    accumulate(gradients, h0=dh0)
    return tuple(gradients.values())
