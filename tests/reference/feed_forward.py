"""feed_forward: y = h output_kernel + output_bias, where h = f(x kernel + bias), gated or not.

With a gate h = f(x kernel + bias) * (x gate_kernel + gate_bias).
"""

from __future__ import annotations

from . import dense


def _hidden(x, kernel, bias, gate_kernel, gate_bias, activation):
    """-> h, f(x kernel + bias) and the gate, 1 where there is none."""
    activated = dense.forward(x, kernel, bias, activation=activation)
    gate = 1.0 if gate_kernel is None else dense.forward(x, gate_kernel, gate_bias)
    return activated * gate, activated, gate


def forward(
    x,
    kernel,
    output_kernel,
    bias=None,
    output_bias=None,
    gate_kernel=None,
    gate_bias=None,
    *,
    activation="relu",
):
    """x (..., D), kernel (D, F), output_kernel (F, Dout), bias (F)?, output_bias (Dout)?,
    gate_kernel (D, F)?, gate_bias (F)? -> y (..., Dout)."""
    h, _, _ = _hidden(x, kernel, bias, gate_kernel, gate_bias, activation)
    return dense.forward(h, output_kernel, output_bias)


def backward(
    dy,
    x,
    kernel,
    output_kernel,
    bias=None,
    output_bias=None,
    gate_kernel=None,
    gate_bias=None,
    *,
    activation="relu",
):
    """dy (..., Dout) -> a gradient of each array, None for an absent one."""
    h, activated, gate = _hidden(x, kernel, bias, gate_kernel, gate_bias, activation)
    dh, d_output_kernel, d_output_bias = dense.backward(dy, h, output_kernel, output_bias)
    dx, d_kernel, d_bias = dense.backward(dh * gate, x, kernel, bias, activation=activation)
    d_gate_kernel = d_gate_bias = None
    if gate_kernel is not None:
        more, d_gate_kernel, d_gate_bias = dense.backward(dh * activated, x, gate_kernel, gate_bias)
        dx = dx + more
    return dx, d_kernel, d_output_kernel, d_bias, d_output_bias, d_gate_kernel, d_gate_bias
