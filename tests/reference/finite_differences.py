"""Central finite differences: the judge of every hand-written gradient, in tests of any float64 op.

A gradient is checked along a few random directions d, each of which moves every element at once:
(L(x + h d) - L(x - h d)) / 2h must be sum(gradient * d) for L = sum(dy * y) and a random dy. One
wrong element shows in every direction.
"""

from __future__ import annotations

import numpy as np

STEP = 1e-5  # truncation error STEP^2 = 1e-10 and rounding error 1e-16 / STEP = 1e-11 balance
DIRECTIONS = 3


def check_gradients(forward, backward, *arrays, rng, without_gradient=(), **options):
    """Assert that `backward` is the gradient of `forward` with respect to every float array.

    A result of -inf, the log-sum-exp of nothing, counts as a constant.

    Parameters
    ----------
    forward, backward : callable
        By the convention of `reference`: y = forward(*arrays, **options), y an array or a tuple;
        one gradient an array = backward(dy, *arrays, **options).
    *arrays : ndarray or None
        float64 arrays, integer arrays (which must get None for a gradient) or None.
    rng : numpy.random.Generator
        Draws dy and the directions.
    without_gradient : tuple of int
        Positions of float arrays whose gradient must be None.
    """

    def outputs(changed):
        y = forward(*changed, **options)
        return y if isinstance(y, tuple) else (y,)

    y = outputs(arrays)
    dy = tuple(rng.standard_normal(part.shape) for part in y)
    gradients = backward(dy if len(y) > 1 else dy[0], *arrays, **options)
    assert len(gradients) == len(arrays)

    def terms(changed):
        parts = zip(dy, outputs(changed), strict=True)
        return np.concatenate(
            [np.where(part == -np.inf, 0.0, d * part).ravel() for d, part in parts]
        )

    for position, (array, gradient) in enumerate(zip(arrays, gradients, strict=True)):
        if array is None or array.dtype.kind != "f" or position in without_gradient:
            assert gradient is None, f"argument {position} has a gradient"
            continue
        assert gradient is not None, f"argument {position} has no gradient"
        assert gradient.shape == array.shape
        for _ in range(DIRECTIONS):
            direction = rng.standard_normal(array.shape)
            there, back = (
                terms((*arrays[:position], array + h * direction, *arrays[position + 1 :]))
                for h in (STEP, -STEP)
            )
            numeric = (there - back).sum() / (2.0 * STEP)
            analytic = (gradient * direction).sum()
            allowed = 1e-8 * np.abs(gradient * direction).sum() + 1e-9 * np.abs(there).sum()
            assert abs(numeric - analytic) <= allowed, (
                f"argument {position}: finite difference {numeric:.12g}, "
                f"gradient {analytic:.12g}, allowed difference {allowed:.3g}"
            )
