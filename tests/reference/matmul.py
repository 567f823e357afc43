"""matmul: y = a b over the last two axes, either transposed first; batch axes broadcast."""

from __future__ import annotations

import numpy as np

from .elementwise import sum_to_shape


def _transposed(a, transpose):
    a = np.asarray(a, np.float64)
    return np.swapaxes(a, -1, -2) if transpose else a


def forward(a, b, *, transpose_a=False, transpose_b=False):
    """a (..., M, K), b (..., K, N) -> y (..., M, N).

    With transpose_a, a is stored as (..., K, M); with transpose_b, b as (..., N, K).
    """
    return _transposed(a, transpose_a) @ _transposed(b, transpose_b)


def backward(dy, a, b, *, transpose_a=False, transpose_b=False):
    """With A, B the matrices as multiplied: dA = dy B^T, dB = A^T dy, then transposed back."""
    dy = np.asarray(dy, np.float64)
    left, right = _transposed(a, transpose_a), _transposed(b, transpose_b)
    da = _transposed(dy @ np.swapaxes(right, -1, -2), transpose_a)
    db = _transposed(np.swapaxes(left, -1, -2) @ dy, transpose_b)
    return sum_to_shape(da, np.shape(a)), sum_to_shape(db, np.shape(b))
