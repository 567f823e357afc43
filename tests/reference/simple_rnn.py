"""simple_rnn: h' = activation(x_t kernel + h recurrent_kernel + bias) at every step (Elman 1990).

With dropout masks x_t and h are x_t * x_scale and h * h_scale. Order, masked steps and the walk
over time: see recurrence.
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


class _Cell(NamedTuple):
    """The step, and its gradient, of one call's arrays."""

    x: np.ndarray
    kernel: np.ndarray
    recurrent_kernel: np.ndarray
    bias: np.ndarray | None
    x_scale: np.ndarray | None
    h_scale: np.ndarray | None
    activation: str | None

    def preactivation(self, rows, t, h):
        """-> x_t and h as they enter the products, and z."""
        x_t = scaled(self.x[rows, t], self.x_scale, rows)
        h = scaled(h, self.h_scale, rows)
        z = x_t @ self.kernel + h @ self.recurrent_kernel
        return x_t, h, z if self.bias is None else z + self.bias

    def step(self, rows, t, h):
        _, _, z = self.preactivation(rows, t, h)
        return [FUSED[self.activation].forward(z)]

    def step_backward(self, gradients, rows, t, before, d_after):
        (h_before,), (d_h_new,) = before, d_after
        x_t, h, z = self.preactivation(rows, t, h_before)
        (dz,) = FUSED[self.activation].backward(d_h_new, z)
        gradients["x"][rows, t] = scaled(dz @ self.kernel.T, self.x_scale, rows)
        accumulate(gradients, kernel=x_t.T @ dz, recurrent_kernel=h.T @ dz, bias=dz.sum(axis=0))
        return [scaled(dz @ self.recurrent_kernel.T, self.h_scale, rows)]


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
    x_scale=None,
    h_scale=None,
):
    """x (N,T,D), kernel (D,U), recurrent_kernel (U,U), bias (U)?, h0 (N,U)? -> outputs (N,T,U), h.

    mask (N,T) bool, lengths (N,), x_scale (N,D), h_scale (N,U), each or None.
    """
    x, kernel, recurrent_kernel, bias, h0, x_scale, h_scale = as_float64(
        x, kernel, recurrent_kernel, bias, h0, x_scale, h_scale
    )
    cell = _Cell(x, kernel, recurrent_kernel, bias, x_scale, h_scale, activation)
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
    x_scale=None,
    h_scale=None,
):
    """dy = (doutputs, dh), each or None -> dx, dkernel, drecurrent_kernel, dbias?, dh0?."""
    x, kernel, recurrent_kernel, bias, h0, x_scale, h_scale = as_float64(
        x, kernel, recurrent_kernel, bias, h0, x_scale, h_scale
    )
    cell = _Cell(x, kernel, recurrent_kernel, bias, x_scale, h_scale, activation)
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
