"""A window's taps outside the image are left out: no weight, however large, is multiplied there.

So a weight of inf or NaN reaches the outputs, and the input gradients, for which its tap lies on a
pixel, and no others.
"""

from __future__ import annotations

import numpy as np
import products
import pytest
from reference import OPS

from lamella import ops

# name: (op, shapes of x and of the kernel, options)
PATHS = {
    "many channels": ("conv2d", (2, 5, 6, 20), (3, 3, 20, 17), {}),
    "few channels": ("conv2d", (2, 5, 6, 3), (3, 3, 3, 37), {}),
    "few filters": ("conv2d", (2, 5, 6, 20), (3, 3, 20, 2), {}),
    "one of each": ("conv2d", (2, 5, 6, 1), (3, 3, 1, 1), {}),
    "groups": ("conv2d", (2, 5, 6, 40), (3, 3, 20, 36), {"groups": 2}),
    "groups of few": ("conv2d", (2, 5, 6, 8), (3, 3, 4, 8), {"groups": 2}),
    "depthwise": ("conv2d", (2, 5, 6, 19), (3, 3, 1, 19), {"groups": 19}),
    "depthwise, doubled": ("conv2d", (2, 5, 6, 9), (3, 3, 1, 18), {"groups": 9}),
    "sequence": ("conv1d", (2, 7, 20), (3, 20, 17), {}),
    "sequence of few": ("conv1d", (2, 7, 2), (3, 2, 17), {}),
    "transposed": ("conv2d_transpose", (2, 5, 6, 20), (3, 3, 17, 20), {}),
    "transposed, few channels": ("conv2d_transpose", (2, 5, 6, 3), (3, 3, 37, 3), {}),
    "transposed, few filters": ("conv2d_transpose", (2, 5, 6, 20), (3, 3, 2, 20), {}),
}
WINDOWS = [
    {"padding": 2},
    {"padding": "same", "strides": 2},
    {"padding": 2, "dilation": 2},
    {"padding": 1, "dilation": 2, "strides": 3},
]


@pytest.mark.parametrize("window", WINDOWS, ids=str)
@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("weight", [np.inf, -np.inf, np.nan])
def test_weights_that_are_not_finite(weight, path, window, backend, rng):
    name, x_shape, kernel_shape, options = PATHS[path]
    options = {**options, **window}
    x, kernel = products.normal(rng, x_shape), products.normal(rng, kernel_shape, 0.5)
    forward, backward = OPS[name].forward, OPS[name].backward
    dy = products.normal(rng, forward(x, kernel, **options).shape)
    for tap in np.ndindex(kernel.shape[:-2]):
        place = (*tap, *rng.integers(0, kernel.shape[-2:]))
        changed, without, alone = kernel.copy(), kernel.copy(), np.zeros_like(kernel)
        changed[place], without[place], alone[place] = weight, 0, 1

        def expected(function, without=without, alone=alone):
            reached = function(alone)
            wild = np.where(reached > 0, weight, -weight)
            return np.where(reached == 0, function(without), wild)

        y, pullback = getattr(ops, name).vjp(x, changed, **options)
        right = expected(lambda k: forward(x, k, **options))
        terms = kernel.size // min(kernel.shape[-2:])
        products.assert_close(y, right, name, "forward", terms)
        right = expected(lambda k: backward(dy, x, k, **options)[0])
        products.assert_close(pullback(dy)[0], right, name, "backward", terms)
