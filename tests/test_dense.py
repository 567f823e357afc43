"""dense: values and gradients on every path of the matrix product."""

from __future__ import annotations

import hypothesis
import numpy as np
import products
import pytest
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from reference import OPS, cases
from reference.activations import FUSED

from lamella import ops, utils

# name: (x, units): what the matrix product chooses between by shape.
PATHS = {
    "one row": ((1, 100), 100),
    "one row, four vectors": ((1, 33), 257),
    "two rows, four vectors": ((2, 20), 131),
    "six rows, four vectors": ((6, 17), 66),
    "seven rows": ((7, 17), 66),
    "rows of two tiles": ((13, 17), 33),
    "one unit": ((40, 30), 1),
    "one input": ((40, 1), 30),
    "one of everything": ((1, 1), 1),
    "small, in place": ((64, 64), 64),
    "in place, last panel packed": ((64, 64), 70),
    "long reduction in place": ((20, 1000), 33),
    "long reduction in place, one row": ((1, 2000), 65),
    "kernel packed for its size": ((30, 1100), 260),
    "kernel packed for its rows, reduction in blocks": ((500, 1100), 101),
    "more rows than a block": ((1030, 16), 100),
    "more columns than a block": ((490, 8), 2150),
    "gradient over many rows": ((1100, 40), 70),
    "input packed in the gradient": ((20, 130), 270),
    "a vector": ((25,), 14),
    "three axes": ((3, 5, 7), 9),
    "five axes": ((2, 1, 3, 2, 31), 33),
    "no rows": ((0, 7), 5),
    "no rows in three axes": ((4, 0, 7), 5),
}

each_path = pytest.mark.parametrize("path", PATHS)


@each_path
@pytest.mark.parametrize("activation", [None, "relu", "gelu"])
def test_paths(path, activation, backend, rng):
    x, units = PATHS[path]
    shapes = (x, (x[-1], units), None if activation is None else (units,))
    arrays = products.make_arrays("dense", shapes, rng)
    products.check("dense", arrays, {"activation": activation}, rng)


@pytest.mark.parametrize("case", [c for c in cases.CASES if c[0] == "dense"], ids=str)
def test_options(case, backend, rng):
    name, shapes, options = case
    products.check(name, products.make_arrays(name, shapes, rng), options, rng)


@pytest.mark.parametrize("activation", FUSED)
@pytest.mark.parametrize("rows", [3, 37])
def test_activations(rows, activation, backend, rng):
    arrays = products.make_arrays("dense", [(rows, 29), (29, 41), (41,)], rng)
    products.check("dense", arrays, {"activation": activation}, rng)


@pytest.mark.parametrize("units", products.SIZES)
@pytest.mark.parametrize("rows", range(1, 15))
def test_every_tile(rows, units, backend, rng):
    shapes = [(rows, 9), (9, units), (units,)]
    arrays = products.make_arrays("dense", shapes, rng)
    products.check("dense", arrays, {"activation": "elu"}, rng)


@products.settings
@hypothesis.given(
    leading=hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=12),
    inputs=st.integers(1, 300),
    units=st.integers(1, 140),
    bias=st.booleans(),
    activation=products.activations,
    seed=st.integers(0, 2**32),
)
def test_any_shape(backend, leading, inputs, units, bias, activation, seed):
    rng = np.random.default_rng(seed)
    shapes = [(*leading, inputs), (inputs, units), (units,) if bias else None]
    arrays = products.make_arrays("dense", shapes, rng)
    products.check("dense", arrays, {"activation": activation}, rng)


@each_path
def test_integers_are_exact(path, backend, rng):
    x_shape, units = PATHS[path]
    x, kernel = (products.integers(rng, shape) for shape in (x_shape, (x_shape[-1], units)))
    bias = products.integers(rng, (units,), 1000)
    if x.size == 0:
        assert ops.dense(x, kernel, bias).shape == (*x_shape[:-1], units)
        return
    expected = x.astype(np.int64) @ kernel.astype(np.int64) + bias.astype(np.int64)
    products.check_integers("dense", [x, kernel, bias], {}, rng, expected)


@pytest.mark.parametrize("case", [c for c in cases.CASES if c[0] == "dense"], ids=str)
def test_parity_with_torch(case, rng):
    pytest.importorskip("torch")
    name, shapes, options = case
    products.check_torch(name, products.make_arrays(name, shapes, rng), options, rng)


@pytest.mark.parametrize("shape", [(200, 300, 260), (3000, 60, 70), (2, 900, 700)], ids=str)
def test_same_bits_for_any_number_of_threads(shape, backend, rng):
    rows, inputs, units = shape
    shapes = [(rows, inputs), (inputs, units), (units,)]
    arrays = products.make_arrays("dense", shapes, rng)
    dy = products.normal(rng, (rows, units))
    results = []
    for threads in (1, 2, 5, 5):
        utils.set_num_threads(threads)
        y, pullback = ops.dense.vjp(*arrays, activation="gelu")
        results.append([part.tobytes() for part in (y, *pullback(dy))])
    assert all(result == results[0] for result in results)


@pytest.mark.parametrize("activation", [None, "relu", "leaky_relu", "tanh", "gelu"])
@pytest.mark.parametrize("wrong", [np.nan, np.inf, -np.inf])
def test_nan_and_infinity_follow_the_arithmetic(wrong, activation, backend, rng):
    x, kernel, bias = products.make_arrays("dense", [(9, 30), (30, 20), (20,)], rng)
    x[3, 5] = wrong
    bias[7] = wrong
    options = {"activation": activation}
    expected = OPS["dense"].forward(x, kernel, bias, **options)
    y, pullback = ops.dense.vjp(x, kernel, bias, **options)
    if activation == "gelu":
        # Negative infinity times a probability of 0 is NaN by the equation and 0 in the limit.
        defined = np.isfinite(OPS["dense"].forward(x, kernel, bias))
        products.assert_close(y[defined], expected[defined], "dense", "forward", 30)
        return
    products.assert_close(y, expected, "dense", "forward", 30)
    if activation is None:
        dy = products.normal(rng, y.shape)
        dy[2, 4] = wrong
        right = OPS["dense"].backward(dy, x, kernel, bias)
        for gradient, expected in zip(pullback(dy), right, strict=True):
            products.assert_close(gradient, expected, "dense", "backward", 60)
