"""How the recurrent ops walk over time, the same for every cell.

The states are a list of arrays (N, ·), the first of which, h, is also the step's output. A cell is
two functions of the rows of the batch that take a step at time t, and of their states:

    step(rows, t, *before) -> the states after it
    step_backward(rows, t, before, d_after) -> the gradients of the states before it

of which the second adds to the weights' gradients what its step contributes. A row whose step is
masked is in no call: its states and their gradients stay as they are, and nothing of its x is read.
"""

from __future__ import annotations

import numpy as np


def valid_steps(x_shape, mask, lengths):
    """(N, T) bool, True where a row takes step t: `mask`, and t < lengths; t counts as in x."""
    batch, steps = x_shape[:2]
    valid = np.ones((batch, steps), bool)
    if mask is not None:
        valid &= mask
    if lengths is not None:
        valid &= np.arange(steps) < np.asarray(lengths)[:, None]
    return valid


def zeros_if_none(array, shape):
    """The array as float64; zeros of the shape for None, an absent state or gradient."""
    return np.zeros(shape) if array is None else np.asarray(array, np.float64)


def scaled(a, scale, rows):
    """Dropout: a (rows, ·) times the mask `scale` (N, ·), the same at every step."""
    return a if scale is None else a * scale[rows]


def scan(step, states, valid, go_backwards):
    """All steps in their order, from the last to the first if `go_backwards`.

    -> outputs (N, T, ·) in the order computed, the final states, and the walk: for every step, in
    order, (its position in that order, t, its rows, their states before it).
    """
    batch, steps = valid.shape
    states = [state.copy() for state in states]
    outputs = np.empty((batch, steps, states[0].shape[1]))
    walk = []
    times = range(steps - 1, -1, -1) if go_backwards else range(steps)
    for position, t in enumerate(times):
        rows = np.flatnonzero(valid[:, t])
        before = [state[rows] for state in states]
        for state, after in zip(states, step(rows, t, *before), strict=True):
            state[rows] = after
        outputs[:, position] = states[0]
        walk.append((position, t, rows, before))
    return outputs, states, walk


def scan_backward(step_backward, d_outputs, d_states, walk):
    """d_outputs (N, T, ·), gradients of the final states -> gradients of the initial states."""
    d_states = [d_state.copy() for d_state in d_states]
    for position, t, rows, before in reversed(walk):
        d_states[0] += d_outputs[:, position]
        d_after = [d_state[rows] for d_state in d_states]
        for d_state, d_before in zip(
            d_states, step_backward(rows, t, before, d_after), strict=True
        ):
            d_state[rows] = d_before
    return d_states


def zero_gradients(**arrays):
    """A gradient for each array, by its name and in their order: zeros, None for an absent one."""
    return {name: None if a is None else np.zeros(a.shape) for name, a in arrays.items()}


def accumulate(gradients, **contributions):
    """Add to the gradients of those names, save of absent arrays."""
    for name, contribution in contributions.items():
        if gradients[name] is not None:
            gradients[name] += contribution
