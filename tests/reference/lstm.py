"""lstm: the LSTM over a sequence, gates in the order i, f, c, o. With every variation, one step is

    z = N(x_t kernel; gamma_x) + N(h recurrent_kernel; gamma_h) + bias
    c', o = the cell's of z and c: see lstm_cell
    y = o activation(N(c'; gamma_c, beta_c))
    h' = y projection_kernel

Each variation is there when its arrays are:

- Layer normalization (Ba et al. 2016, equations 20 to 22; the state c' itself is not normalized)
      N(v; gamma, beta) = gamma (v - mean) / sqrt(variance + epsilon) + beta
  over the last axis (all four gates together), with the biased variance. N(v) = v without gamma.
- Projection (Sak et al. 2014): h has P units, c has U. h' = y without projection_kernel.
- Dropout masks, the same at every step: x_t * x_scale, and h * h_scale before its product.
- Zoneout (Krueger et al. 2016), each of the states with its own. Boolean (N, T, ·), for training:
  where True the state keeps its previous value. A rate p, for inference: the expected value,
  p before + (1 - p) after. The index t is that of x, whichever way the steps run. h' is computed
  from the c' before zoneout.

Order, masked steps and the walk over time: see recurrence.
"""

from __future__ import annotations

from functools import partial
from typing import NamedTuple

import numpy as np

from .activations import FUSED
from .lstm_cell import cell_state, cell_state_backward
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


def _normalized(v, gamma, beta, epsilon):
    if gamma is None:
        return v
    centered = v - v.mean(axis=1, keepdims=True)
    y = gamma * centered / np.sqrt((centered**2).mean(axis=1, keepdims=True) + epsilon)
    return y if beta is None else y + beta


def _normalized_backward(dy, v, gamma, epsilon):
    """-> dv, dgamma, dbeta; (dy, 0, 0) without gamma."""
    if gamma is None:
        return dy, 0.0, 0.0
    centered = v - v.mean(axis=1, keepdims=True)
    inverse_deviation = 1.0 / np.sqrt((centered**2).mean(axis=1, keepdims=True) + epsilon)
    unit = centered * inverse_deviation
    d_unit = dy * gamma
    # The mean and the variance of v take their part of every gradient back.
    dv = d_unit - d_unit.mean(axis=1, keepdims=True)
    dv = dv - unit * (d_unit * unit).mean(axis=1, keepdims=True)
    return dv * inverse_deviation, (dy * unit).sum(axis=0), dy.sum(axis=0)


def _zoned_out(zoneout, rows, t, before, after):
    """`after`, or `before` where zoneout says so."""
    if np.ndim(zoneout):
        return np.where(zoneout[rows, t], before, after)
    return after if zoneout == 0 else zoneout * before + (1.0 - zoneout) * after


def _zoned_out_backward(zoneout, rows, t, d):
    """-> the gradients of `before` and `after`."""
    if np.ndim(zoneout):
        kept = zoneout[rows, t]
        return np.where(kept, d, 0.0), np.where(kept, 0.0, d)
    return zoneout * d, (1.0 - zoneout) * d


class _Cell(NamedTuple):
    """The step, and its gradient, of one call's arrays."""

    x: np.ndarray
    kernel: np.ndarray
    recurrent_kernel: np.ndarray
    bias: np.ndarray | None
    projection_kernel: np.ndarray | None
    gamma_x: np.ndarray | None
    gamma_h: np.ndarray | None
    gamma_c: np.ndarray | None
    beta_c: np.ndarray | None
    x_scale: np.ndarray | None
    h_scale: np.ndarray | None
    zoneout_h: np.ndarray | float
    zoneout_c: np.ndarray | float
    activation: str | None
    recurrent_activation: str | None
    epsilon: float

    def preactivation(self, rows, t, h):
        """-> x_t and h as they enter the products, both products, and z."""
        x_t = scaled(self.x[rows, t], self.x_scale, rows)
        h = scaled(h, self.h_scale, rows)
        x_product, h_product = x_t @ self.kernel, h @ self.recurrent_kernel
        z = _normalized(x_product, self.gamma_x, None, self.epsilon)
        z = z + _normalized(h_product, self.gamma_h, None, self.epsilon)
        return x_t, h, x_product, h_product, z if self.bias is None else z + self.bias

    def output(self, c_new, o):
        normalized = _normalized(c_new, self.gamma_c, self.beta_c, self.epsilon)
        return o * FUSED[self.activation].forward(normalized)

    def step(self, rows, t, h, c):
        *_, z = self.preactivation(rows, t, h)
        c_new, o = cell_state(z, c, self.activation, self.recurrent_activation)
        h_new = self.output(c_new, o)
        if self.projection_kernel is not None:
            h_new = h_new @ self.projection_kernel
        return [
            _zoned_out(self.zoneout_h, rows, t, h, h_new),
            _zoned_out(self.zoneout_c, rows, t, c, c_new),
        ]

    def step_backward(self, gradients, rows, t, before, d_after):
        h_before, c_before = before
        x_t, h, x_product, h_product, z = self.preactivation(rows, t, h_before)
        names = self.activation, self.recurrent_activation
        c_new, o = cell_state(z, c_before, *names)

        d_h_kept, dy = _zoned_out_backward(self.zoneout_h, rows, t, d_after[0])
        d_c_kept, d_c_new = _zoned_out_backward(self.zoneout_c, rows, t, d_after[1])
        if self.projection_kernel is not None:
            accumulate(gradients, projection_kernel=self.output(c_new, o).T @ dy)
            dy = dy @ self.projection_kernel.T

        # y = o activation(normalized), normalized = N(c')
        normalized = _normalized(c_new, self.gamma_c, self.beta_c, self.epsilon)
        d_o = dy * FUSED[self.activation].forward(normalized)
        (d_normalized,) = FUSED[self.activation].backward(dy * o, normalized)
        dc, d_gamma_c, d_beta_c = _normalized_backward(
            d_normalized, c_new, self.gamma_c, self.epsilon
        )
        dz, dc = cell_state_backward(d_c_new + dc, d_o, z, c_before, *names)

        d_x_product, d_gamma_x, _ = _normalized_backward(dz, x_product, self.gamma_x, self.epsilon)
        d_h_product, d_gamma_h, _ = _normalized_backward(dz, h_product, self.gamma_h, self.epsilon)
        gradients["x"][rows, t] = scaled(d_x_product @ self.kernel.T, self.x_scale, rows)
        accumulate(
            gradients,
            kernel=x_t.T @ d_x_product,
            recurrent_kernel=h.T @ d_h_product,
            bias=dz.sum(axis=0),
            gamma_x=d_gamma_x,
            gamma_h=d_gamma_h,
            gamma_c=d_gamma_c,
            beta_c=d_beta_c,
        )
        dh = scaled(d_h_product @ self.recurrent_kernel.T, self.h_scale, rows)
        return [d_h_kept + dh, d_c_kept + dc]


def _initial_states(h0, c0, x, kernel, recurrent_kernel):
    batch, units = x.shape[0], kernel.shape[1] // 4
    return [zeros_if_none(h0, (batch, len(recurrent_kernel))), zeros_if_none(c0, (batch, units))]


def forward(
    x,
    kernel,
    recurrent_kernel,
    bias=None,
    h0=None,
    c0=None,
    projection_kernel=None,
    gamma_x=None,
    gamma_h=None,
    gamma_c=None,
    beta_c=None,
    *,
    mask=None,
    lengths=None,
    go_backwards=False,
    activation="tanh",
    recurrent_activation="sigmoid",
    x_scale=None,
    h_scale=None,
    zoneout_h=0.0,
    zoneout_c=0.0,
    epsilon=1e-3,
):
    """-> outputs (N,T,P), h (N,P), c (N,U), where P = U without projection_kernel.

    x (N,T,D), kernel (D,4U), recurrent_kernel (P,4U), bias (4U)?, h0 (N,P)?, c0 (N,U)?,
    projection_kernel (U,P)?, gamma_x (4U)?, gamma_h (4U)?, gamma_c (U)?, beta_c (U)?;
    mask (N,T) bool, lengths (N,), x_scale (N,D), h_scale (N,P), each or None;
    zoneout_h (N,T,P) bool or a rate, zoneout_c (N,T,U) bool or a rate.
    """
    x, kernel, recurrent_kernel, bias, h0, c0 = as_float64(
        x, kernel, recurrent_kernel, bias, h0, c0
    )
    more = as_float64(projection_kernel, gamma_x, gamma_h, gamma_c, beta_c, x_scale, h_scale)
    names = activation, recurrent_activation
    cell = _Cell(x, kernel, recurrent_kernel, bias, *more, zoneout_h, zoneout_c, *names, epsilon)
    states = _initial_states(h0, c0, x, kernel, recurrent_kernel)
    outputs, (h, c), _ = scan(cell.step, states, valid_steps(x.shape, mask, lengths), go_backwards)
    return outputs, h, c


def backward(
    dy,
    x,
    kernel,
    recurrent_kernel,
    bias=None,
    h0=None,
    c0=None,
    projection_kernel=None,
    gamma_x=None,
    gamma_h=None,
    gamma_c=None,
    beta_c=None,
    *,
    mask=None,
    lengths=None,
    go_backwards=False,
    activation="tanh",
    recurrent_activation="sigmoid",
    x_scale=None,
    h_scale=None,
    zoneout_h=0.0,
    zoneout_c=0.0,
    epsilon=1e-3,
):
    """dy = (doutputs, dh, dc), each or None -> a gradient of each array, None for an absent one."""
    x, kernel, recurrent_kernel, bias, h0, c0 = as_float64(
        x, kernel, recurrent_kernel, bias, h0, c0
    )
    more = as_float64(projection_kernel, gamma_x, gamma_h, gamma_c, beta_c, x_scale, h_scale)
    names = activation, recurrent_activation
    cell = _Cell(x, kernel, recurrent_kernel, bias, *more, zoneout_h, zoneout_c, *names, epsilon)
    states = _initial_states(h0, c0, x, kernel, recurrent_kernel)
    outputs, (h, c), walk = scan(
        cell.step, states, valid_steps(x.shape, mask, lengths), go_backwards
    )

    gradients = zero_gradients(
        x=x,
        kernel=kernel,
        recurrent_kernel=recurrent_kernel,
        bias=bias,
        h0=h0,
        c0=c0,
        projection_kernel=projection_kernel,
        gamma_x=gamma_x,
        gamma_h=gamma_h,
        gamma_c=gamma_c,
        beta_c=beta_c,
    )
    d_outputs, dh, dc = map(zeros_if_none, dy, (outputs.shape, h.shape, c.shape))
    step_backward = partial(cell.step_backward, gradients)
    dh0, dc0 = scan_backward(step_backward, d_outputs, [dh, dc], walk)
    accumulate(gradients, h0=dh0, c0=dc0)
    return tuple(gradients.values())
