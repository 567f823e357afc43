"""rotary_embedding: pairs of x's elements turned by an angle of their position (Su et al. 2021).

    y1 = x1 cos - x2 sin
    y2 = x2 cos + x1 sin

x1 and x2 are the two halves of a head's E elements, or with `interleaved` its even and its odd
elements. cos and sin are constants: they have no gradient.
"""

from __future__ import annotations

import numpy as np

from .precision import as_float64


def _pairs(width, interleaved):
    """Where x1 and x2 are."""
    if interleaved:
        return np.s_[..., 0::2], np.s_[..., 1::2]
    return np.s_[..., : width // 2], np.s_[..., width // 2 :]


def forward(x, cos, sin, *, interleaved=False):
    """x (N,S,A,E), cos and sin (S,E/2) or (N,S,E/2) -> y like x."""
    x, cos, sin = as_float64(x, cos, sin)
    cos, sin = cos[..., None, :], sin[..., None, :]  # the same for every head
    first, second = _pairs(x.shape[-1], interleaved)
    y = np.empty(x.shape)
    y[first] = x[first] * cos - x[second] * sin
    y[second] = x[second] * cos + x[first] * sin
    return y


def backward(dy, x, cos, sin, *, interleaved=False):
    """-> dx, None, None: the gradient is turned back."""
    return forward(dy, cos, -np.asarray(sin), interleaved=interleaved), None, None
