"""The pointwise activations: values, gradients, what they refuse."""

from __future__ import annotations

import threading

import awkward_arrays
import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from reference import OPS
from tolerances import assert_close

from lamella import ops, utils

# Every op with every option it has.
CASES = [
    ("relu", {}),
    ("gelu", {}),
    ("gelu", {"approximate": True}),
    ("gelu", {"approximate": False}),
    ("silu", {}),
    ("sigmoid", {}),
    ("tanh", {}),
    ("elu", {}),
    ("elu", {"alpha": 0.3}),
    ("elu", {"alpha": -1.5}),
    ("elu", {"alpha": 0}),
    ("leaky_relu", {}),
    ("leaky_relu", {"negative_slope": 0.01}),
    ("leaky_relu", {"negative_slope": -1}),
    ("softplus", {}),
]
NAMES = sorted({name for name, _ in CASES})

each_case = pytest.mark.parametrize(("name", "options"), CASES, ids=str)
each_op = pytest.mark.parametrize("name", NAMES)


def check(name, options, x, dy):
    op = getattr(ops, name)
    before = x.copy()
    y = op(x, **options)
    assert_close(y, OPS[name].forward(x, **options), name, "forward")
    assert not np.shares_memory(x, y)
    y_too, pullback = op.vjp(x, **options)
    np.testing.assert_array_equal(y_too, y)
    (dx,) = pullback(dy)
    expected = OPS[name].backward(dy, x, **options)[0]
    assert_close(dx, expected, name, "backward", scale=np.max(np.abs(dy), initial=0.0))
    assert not np.shares_memory(dx, x)
    assert not np.shares_memory(dx, dy)
    np.testing.assert_array_equal(x, before)


@each_case
@pytest.mark.parametrize("size", [1, 3, 16, 17, 1000, 40001])
def test_values_and_gradients(name, options, size, backend, rng):
    x = (rng.standard_normal(size) * rng.choice([0.01, 1.0, 5.0], size)).astype(np.float32)
    check(name, options, x, rng.standard_normal(size).astype(np.float32))


@each_case
@hypothesis.settings(
    max_examples=20,
    deadline=None,
    suppress_health_check=[hypothesis.HealthCheck.function_scoped_fixture],
)
@hypothesis.given(
    shape=hnp.array_shapes(min_dims=0, max_dims=5, min_side=0, max_side=9),
    seed=st.integers(0, 2**32),
)
def test_any_shape(name, options, backend, shape, seed):
    rng = np.random.default_rng(seed)
    x = np.asarray(rng.standard_normal(shape) * 3, np.float32)
    check(name, options, x, np.asarray(rng.standard_normal(shape), np.float32))


@each_case
def test_every_magnitude(name, options, backend):
    magnitudes = np.float32(2.0) ** np.arange(-149, 128).astype(np.float32)
    x = np.concatenate([-magnitudes[::-1], np.float32([-0.0, 0.0]), magnitudes])
    # Where x * sigmoid(x) or x * Phi(x) leaves the normal range, a denormal factor is rounded.
    expected = OPS[name].forward(x, **options)
    tiny = np.abs(expected) < 2.0**-119
    y = getattr(ops, name)(x, **options)
    assert_close(y[~tiny], expected[~tiny], name, "forward")
    assert np.all(np.abs(y[tiny] - expected[tiny]) <= 2.0**-119)
    dx = getattr(ops, name).vjp(x, **options)[1](np.ones_like(x))[0]
    with np.errstate(all="ignore"):
        derivative = OPS[name].backward(np.ones_like(x), x, **options)[0]
    defined = np.isfinite(derivative)
    assert_close(dx[defined], derivative[defined], name, "backward", scale=1.0)


@each_case
def test_nan_and_infinity_follow_the_arithmetic(name, options, backend):
    x = np.float32([np.nan, np.inf, -np.inf, np.nan, 1.0, -1.0] * 7)
    with np.errstate(invalid="ignore"):
        expected = OPS[name].forward(x, **options)
        assert_close(getattr(ops, name)(x, **options), expected, name, "forward")
    dx = getattr(ops, name).vjp(x, **options)[1](np.ones_like(x))[0]
    if name not in ("relu", "leaky_relu"):  # their derivative is a step, NaN on neither side
        assert np.isnan(dx[np.isnan(x)]).all()
    expected = OPS[name].backward(np.ones_like(x), x, **options)[0]
    known = np.isfinite(expected) & ~np.isnan(x)
    assert_close(dx[known], expected[known], name, "backward", scale=1.0)


@each_op
def test_the_sign_and_the_kink_at_zero(name, backend):
    x = np.float32([0.0, -0.0])
    slopes = {"relu": 0.0, "tanh": 1.0, "elu": 1.0, "leaky_relu": 1.0, "sigmoid": 0.25}
    dx = getattr(ops, name).vjp(x)[1](np.float32([1.0, 1.0]))[0]
    np.testing.assert_allclose(dx, slopes.get(name, 0.5), rtol=1e-6)


@each_case
def test_parity_with_torch(name, options, backend, rng):
    torch = pytest.importorskip("torch")
    if name == "gelu":
        options = {"approximate": "tanh" if options.get("approximate", True) else "none"}
    theirs = getattr(torch.nn.functional, name)
    x = (rng.standard_normal((7, 33)) * 4).astype(np.float32)
    dy = rng.standard_normal(x.shape).astype(np.float32)
    if name == "leaky_relu":
        options = {"negative_slope": 0.2} | options
    leaf = torch.from_numpy(x).double().requires_grad_()
    their_y = theirs(leaf, **options)
    their_y.backward(torch.from_numpy(dy).double())
    if name == "gelu":
        options = {"approximate": options["approximate"] == "tanh"}
    y, pullback = getattr(ops, name).vjp(x, **options)
    if name == "softplus":  # PyTorch's is x itself above a threshold of 20
        assert x.max() < 20
    assert_close(y, their_y.detach().numpy(), name, "forward")
    assert_close(pullback(dy)[0], leaf.grad.numpy(), name, "backward")


@each_case
@pytest.mark.parametrize("layout", awkward_arrays.LAYOUTS)
def test_layouts(name, options, layout, rng):
    x, dy = rng.standard_normal((2, 5, 7)).astype(np.float32)
    y, pullback = getattr(ops, name).vjp(x, **options)
    odd = awkward_arrays.LAYOUTS[layout]
    odd_y, odd_pullback = getattr(ops, name).vjp(odd(x), **options)
    np.testing.assert_array_equal(odd_y, y)
    np.testing.assert_array_equal(odd_pullback(odd(dy))[0], pullback(dy)[0])


@each_case
def test_same_bits_for_any_number_of_threads(name, options, backend, rng):
    x, dy = rng.standard_normal((2, 70001)).astype(np.float32)
    results = []
    for threads in (1, 2, 5):
        utils.set_num_threads(threads)
        y, pullback = getattr(ops, name).vjp(x, **options)
        results.append((y.tobytes(), pullback(dy)[0].tobytes()))
    assert results[0] == results[1] == results[2]


@each_op
def test_pullback_may_be_called_again_and_from_another_thread(name, rng):
    x, dy = rng.standard_normal((2, 100)).astype(np.float32)
    _, pullback = getattr(ops, name).vjp(x)
    first = pullback(dy)[0]
    np.testing.assert_array_equal(pullback(dy)[0], first)
    found = []
    thread = threading.Thread(target=lambda: found.append(pullback(2 * dy)[0]))
    thread.start()
    thread.join()
    np.testing.assert_array_equal(found[0], 2 * first)


@each_op
def test_pullback_options(name, rng):
    x, dy = rng.standard_normal((2, 6)).astype(np.float32)
    _, pullback = getattr(ops, name).vjp(x)
    expected = pullback(dy)[0]
    into = np.full(6, np.nan, np.float32)
    assert pullback(dy, out=(into,))[0] is into
    np.testing.assert_array_equal(into, expected)
    np.testing.assert_array_equal(pullback(dy, out=(None,))[0], expected)
    np.testing.assert_array_equal(pullback(None)[0], np.zeros(6, np.float32))
    assert getattr(ops, name).vjp(x, needs=(False,))[1](dy) == (None,)


@each_op
def test_pullback_refuses(name, rng):
    x, dy = rng.standard_normal((2, 6)).astype(np.float32)
    _, pullback = getattr(ops, name).vjp(x)
    for wrong in ((), (dy, dy)):
        with pytest.raises(ValueError, match=rf"{name}: the pullback takes 1 gradient"):
            pullback(*wrong)
    for wrong in (dy[:5], dy.reshape(2, 3), dy.reshape(1, 6)):
        with pytest.raises(ValueError, match=rf"{name}: dy must have shape \(6,\), got"):
            pullback(wrong)
    with pytest.raises(TypeError, match=rf"{name}: dy must be float32"):
        pullback(dy.astype(np.float64))
    with pytest.raises(ValueError, match=rf"{name}: out must have 1 entries, got 2"):
        pullback(dy, out=(None, None))
    with pytest.raises(ValueError, match=rf"{name}: needs must have 1 entries, got 2"):
        getattr(ops, name).vjp(x, needs=(True, True))
    with pytest.raises(ValueError, match=rf"{name}: out must have shape \(6,\)"):
        pullback(dy, out=(np.zeros(5, np.float32),))
    with pytest.raises(TypeError, match=rf"{name}: out must be float32"):
        pullback(dy, out=(np.zeros(6),))
    for wrong in awkward_arrays.NOT_WRITABLE_IN_PLACE.values():
        with pytest.raises(ValueError, match=rf"{name}: out is written in place"):
            pullback(dy, out=(wrong,))
    for wrong in (x, dy):
        with pytest.raises(ValueError, match=rf"{name}: out is written and must not overlap"):
            pullback(dy, out=(wrong,))


@each_op
@pytest.mark.parametrize("kind", awkward_arrays.NOT_FLOAT32_ARRAYS)
def test_only_float32_arrays(name, kind):
    x = awkward_arrays.NOT_FLOAT32_ARRAYS[kind]
    for function in (getattr(ops, name), getattr(ops, name).vjp):
        with pytest.raises(TypeError, match=rf"^{name}: x must be"):
            function(x)


@pytest.mark.parametrize(
    ("name", "option", "value"),
    [
        *[("elu", "alpha", value) for value in (np.nan, np.inf, "1", None, True, [1.0])],
        *[("leaky_relu", "negative_slope", value) for value in (np.nan, -np.inf, "1", None)],
        *[("gelu", "approximate", value) for value in (1, 0, None, "tanh")],
    ],
)
def test_bad_options(name, option, value):
    for function in (getattr(ops, name), getattr(ops, name).vjp):
        with pytest.raises(ValueError, match=f"{name}: {option} must be"):
            function(np.ones(3, np.float32), **{option: value})


def test_unknown_options_and_missing_arrays():
    with pytest.raises(TypeError, match="alpha"):
        ops.relu(np.ones(3, np.float32), alpha=1.0)
    with pytest.raises(TypeError, match="x"):
        ops.relu()
