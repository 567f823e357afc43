"""One optimizer step over flat arrays, as Keras writes it.

Where the kernel changes its first argument and the slots in place, the reference returns their new
values in the order of the arguments, None for a slot that is not used. Weight decay is decoupled:
the weight shrinks by learning_rate * weight_decay of itself before the step.
"""

from __future__ import annotations

import numpy as np

from .precision import as_float64


def _decayed(param, learning_rate, weight_decay):
    return param - param * (weight_decay * learning_rate)


def sgd(
    param, grad, velocity=None, *, learning_rate, momentum=0.0, nesterov=False, weight_decay=0.0
):
    """v = momentum v - lr g;  w += v, or with Nesterov  w += momentum v - lr g."""
    param, grad, velocity = as_float64(param, grad, velocity)
    param = _decayed(param, learning_rate, weight_decay)
    if velocity is None:
        return param - learning_rate * grad, None
    velocity = momentum * velocity - learning_rate * grad
    if nesterov:
        return param + momentum * velocity - learning_rate * grad, velocity
    return param + velocity, velocity


def rmsprop(
    param,
    grad,
    square,
    mean=None,
    momentum_slot=None,
    *,
    learning_rate,
    rho=0.9,
    momentum=0.0,
    epsilon=1e-7,
    weight_decay=0.0,
):
    """s = rho s + (1 - rho) g^2;  step = lr g / sqrt(s + epsilon);  w -= step.

    Centered (mean given): a = rho a + (1 - rho) g, and s - a^2 under the root. With a momentum
    slot: b = momentum b + step, and w -= b.
    """
    param, grad, square, mean, slot = as_float64(param, grad, square, mean, momentum_slot)
    param = _decayed(param, learning_rate, weight_decay)
    square = rho * square + (1.0 - rho) * grad**2
    spread = square
    if mean is not None:
        mean = rho * mean + (1.0 - rho) * grad
        spread = square - mean**2
    step = learning_rate * grad / np.sqrt(spread + epsilon)
    if slot is not None:
        slot = momentum * slot + step
        step = slot
    return param - step, square, mean, slot


def adam(
    param,
    grad,
    m,
    v,
    vhat=None,
    *,
    step,
    learning_rate,
    beta_1,
    beta_2,
    epsilon,
    weight_decay=0.0,
):
    """m += (1 - b1)(g - m);  v += (1 - b2)(g^2 - v);  w -= alpha m / (sqrt(v) + epsilon).

    alpha = lr sqrt(1 - b2^step) / (1 - b1^step), step counting from 1. AMSGrad (vhat given): vhat =
    max(vhat, v) stands for v under the root.
    """
    param, grad, m, v, vhat = as_float64(param, grad, m, v, vhat)
    param = _decayed(param, learning_rate, weight_decay)
    alpha = learning_rate * np.sqrt(1.0 - beta_2**step) / (1.0 - beta_1**step)
    m = m + (1.0 - beta_1) * (grad - m)
    v = v + (1.0 - beta_2) * (grad**2 - v)
    denominator = v
    if vhat is not None:
        vhat = np.maximum(vhat, v)
        denominator = vhat
    return param - alpha * m / (np.sqrt(denominator) + epsilon), m, v, vhat


def squared_norm(x):
    """The sum of squares."""
    (x,) = as_float64(x)
    return float((x**2).sum())


def scale(x, factor):
    """x * factor."""
    (x,) = as_float64(x)
    return x * factor


def clip(x, low, high):
    """x limited to [low, high]; NaN stays NaN."""
    (x,) = as_float64(x)
    return np.clip(x, low, high)
