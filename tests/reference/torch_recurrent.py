"""The recurrent ops by PyTorch, as `torch_peer` has the others.

torch.nn's own modules compute what they can. The rest is a loop over a cell under autograd. Both go
row by row: a row's valid steps, in the order they are taken, are a sequence without a mask.
"""

from __future__ import annotations

import torch
from torch.nn import functional

from . import recurrence
from .torch_activations import ACTIVATIONS


def row_by_row(run, x, states, mask, lengths, go_backwards):
    """run(n, times, states (1,·)) -> outputs (1,S,·), states: row n taking the S steps `times`."""
    valid = recurrence.valid_steps(x.shape, mask, lengths)
    if go_backwards:
        valid = valid[:, ::-1]
    rows, finals = [], []
    for n, taken in enumerate(valid):
        row_states = [state[n : n + 1] for state in states]
        shown = [row_states[0][0]]  # h before any step, then after each
        if taken.any():
            times = taken.nonzero()[0].tolist()
            times = [x.shape[1] - 1 - t for t in times] if go_backwards else times
            outputs, row_states = run(n, times, row_states)
            shown.extend(outputs[0])
        rows.append(torch.stack([shown[count] for count in taken.cumsum()]))
        finals.append(row_states)
    if not rows:
        return x.new_zeros(0, x.shape[1], states[0].shape[1]), *states
    return torch.stack(rows), *(torch.cat(parts) for parts in zip(*finals, strict=True))


def module_run(module, x, kernel, recurrent_kernel, input_bias, recurrent_bias, **more):
    """`run` by a torch.nn module, whose parameters are the given tensors."""
    zero = kernel.new_zeros(kernel.shape[1])
    parameters = {
        "weight_ih_l0": kernel.T,
        "weight_hh_l0": recurrent_kernel.T,
        "bias_ih_l0": zero if input_bias is None else input_bias,
        "bias_hh_l0": zero if recurrent_bias is None else recurrent_bias,
        **more,
    }

    def run(n, times, states):
        states = tuple(state[None] for state in states)
        given = (x[None, n, times], states if len(states) > 1 else states[0])
        outputs, final = torch.func.functional_call(module, parameters, given)
        final = final if isinstance(final, tuple) else (final,)
        return outputs, [state[0] for state in final]

    return run


def cell_run(cell):
    """`run` by a loop over cell(n, t, *states) -> states."""

    def run(n, times, states):
        outputs = []
        for t in times:
            states = cell(n, t, *states)
            outputs.append(states[0])
        return torch.stack(outputs, dim=1), states

    return run


def options_of(x, mask=None, lengths=None, go_backwards=False, x_scale=None, h_scale=None):
    """-> x and h's scale after dropout, and the rest of the walk's arguments."""
    if x_scale is not None:
        x = x * torch.tensor(x_scale, dtype=x.dtype)[:, None]
    if h_scale is not None:
        h_scale = torch.tensor(h_scale, dtype=x.dtype)[:, None]
    return x, h_scale, (mask, lengths, go_backwards)


def zeros_if_none(state, x, units):
    return x.new_zeros(x.shape[0], units) if state is None else state


def simple_rnn(x, kernel, recurrent_kernel, bias=None, h0=None, *, activation="tanh", **options):
    x, h_scale, walk = options_of(x, **options)

    def cell(n, t, h):
        h = h if h_scale is None else h * h_scale[n]
        z = x[None, n, t] @ kernel + h @ recurrent_kernel
        return [ACTIVATIONS[activation](z if bias is None else z + bias)]

    run = cell_run(cell)
    if activation in ("tanh", "relu") and h_scale is None:
        module = torch.nn.RNN(*kernel.shape, nonlinearity=activation, batch_first=True)
        run = module_run(module, x, kernel, recurrent_kernel, bias, None)
    return row_by_row(run, x, [zeros_if_none(h0, x, kernel.shape[1])], *walk)


def gru(
    x,
    kernel,
    recurrent_kernel,
    bias=None,
    h0=None,
    *,
    activation="tanh",
    recurrent_activation="sigmoid",
    reset_after=True,
    **options,
):
    x, h_scale, walk = options_of(x, **options)
    units = kernel.shape[1] // 3
    sigma, act = ACTIVATIONS[recurrent_activation], ACTIVATIONS[activation]
    input_bias, recurrent_bias = (None, None) if bias is None else (bias, torch.zeros_like(bias))
    if bias is not None and reset_after:
        input_bias, recurrent_bias = bias

    def cell(n, t, h):
        scaled = h if h_scale is None else h * h_scale[n]
        x_z, x_r, x_h = functional.linear(x[None, n, t], kernel.T, input_bias).chunk(3, dim=1)
        h_z, h_r, h_h = functional.linear(scaled, recurrent_kernel.T, recurrent_bias).chunk(3, 1)
        z, r = sigma(x_z + h_z), sigma(x_r + h_r)
        gated = r * h_h if reset_after else (r * scaled) @ recurrent_kernel[:, 2 * units :]
        return [torch.lerp(act(x_h + gated), h, z)]

    run = cell_run(cell)
    names = (activation, recurrent_activation)
    if reset_after and h_scale is None and names == ("tanh", "sigmoid"):
        # torch.nn.GRU's gates are r, z, n.
        order = [*range(units, 2 * units), *range(units), *range(2 * units, 3 * units)]
        weights = [
            None if a is None else a[..., order]
            for a in (kernel, recurrent_kernel, input_bias, recurrent_bias)
        ]
        run = module_run(torch.nn.GRU(kernel.shape[0], units, batch_first=True), x, *weights)
    return row_by_row(run, x, [zeros_if_none(h0, x, units)], *walk)


def layer_norm(v, gamma, beta, epsilon):
    if gamma is None:
        return v
    return functional.layer_norm(v, v.shape[1:], gamma, beta, epsilon)


def zoned_out(zoneout, n, t, before, after):
    if isinstance(zoneout, float):
        return torch.lerp(after, before, zoneout)
    return torch.where(torch.tensor(zoneout[n, t]), before, after)


def lstm(
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
    activation="tanh",
    recurrent_activation="sigmoid",
    zoneout_h=0.0,
    zoneout_c=0.0,
    epsilon=1e-3,
    **options,
):
    x, h_scale, walk = options_of(x, **options)
    sigma, act = ACTIVATIONS[recurrent_activation], ACTIVATIONS[activation]
    units = kernel.shape[1] // 4

    def cell(n, t, h, c):
        scaled = h if h_scale is None else h * h_scale[n]
        z = layer_norm(x[None, n, t] @ kernel, gamma_x, None, epsilon)
        z = z + layer_norm(scaled @ recurrent_kernel, gamma_h, None, epsilon)
        i, f, g, o = (z if bias is None else z + bias).chunk(4, dim=1)
        c_new = sigma(f) * c + sigma(i) * act(g)
        h_new = sigma(o) * act(layer_norm(c_new, gamma_c, beta_c, epsilon))
        if projection_kernel is not None:
            h_new = h_new @ projection_kernel
        return zoned_out(zoneout_h, n, t, h, h_new), zoned_out(zoneout_c, n, t, c, c_new)

    run = cell_run(cell)
    in_torch = h_scale is None and (activation, recurrent_activation) == ("tanh", "sigmoid")
    zoned = any(not isinstance(z, float) or z > 0 for z in (zoneout_h, zoneout_c))
    if in_torch and not zoned and gamma_x is None:
        projected = 0 if projection_kernel is None else projection_kernel.shape[1]
        module = torch.nn.LSTM(kernel.shape[0], units, batch_first=True, proj_size=projected)
        more = {"weight_hr_l0": projection_kernel.T} if projected else {}
        run = module_run(module, x, kernel, recurrent_kernel, bias, None, **more)
    states = [zeros_if_none(h0, x, len(recurrent_kernel)), zeros_if_none(c0, x, units)]
    return row_by_row(run, x, states, *walk)


def lstm_cell(x, h, c, kernel, recurrent_kernel, bias=None, **options):
    """One step of the sequence."""
    _, h, c = lstm(x[:, None], kernel, recurrent_kernel, bias, h, c, **options)
    return h, c
