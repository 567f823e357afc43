"""Initializers: fans, distributions, seeds, configs; against Keras where it is installed."""

from __future__ import annotations

import numpy as np
import pytest
from keras_peer import import_keras

from lamella import initializers, random

NAMES = [
    "Zeros", "Ones", "Constant", "Identity", "RandomNormal", "RandomUniform", "TruncatedNormal",
    "VarianceScaling", "GlorotUniform", "GlorotNormal", "HeUniform", "HeNormal", "LecunUniform",
    "LecunNormal", "Orthogonal",
]  # fmt: skip
RANDOM_NAMES = NAMES[4:]

# Large enough that the sampling error of a standard deviation is about 0.5%.
KERNEL = (3, 5, 24, 60)


@pytest.mark.parametrize(
    ("shape", "fans"),
    [
        ((), (1, 1)),
        ((7,), (7, 7)),
        ((20, 30), (20, 30)),
        ((4, 16, 32), (64, 128)),
        ((3, 5, 16, 32), (240, 480)),
    ],
)
def test_fans(shape, fans):
    assert initializers.compute_fans(shape) == fans


def test_fans_of_named_axes():
    assert initializers.compute_fans((64, 8, 16), [0], [1, 2]) == (64, 128)
    values = initializers.LecunUniform(seed=1, input_axes=[0], output_axes=[1, 2])((64, 8, 16))
    assert 0.98 * np.sqrt(3 / 64) < np.abs(values).max() <= np.sqrt(3 / 64) * (1 + 1e-6)


@pytest.mark.parametrize(
    ("name", "variance"),
    [
        ("glorot_uniform", 2 / (15 * 24 + 15 * 60)),
        ("glorot_normal", 2 / (15 * 24 + 15 * 60)),
        ("he_uniform", 2 / (15 * 24)),
        ("he_normal", 2 / (15 * 24)),
        ("lecun_uniform", 1 / (15 * 24)),
        ("lecun_normal", 1 / (15 * 24)),
        ("random_normal", 0.05**2),
        ("random_uniform", 0.1**2 / 12),
        # A normal distribution cut at two deviations keeps 0.8796 of its deviation.
        ("truncated_normal", (0.05 * 0.87962566) ** 2),
    ],
)
def test_variance(name, variance):
    initializer = initializers.get({"class_name": name, "config": {"seed": 3}})
    values = initializer(KERNEL)
    assert values.dtype == np.float32 and values.flags.c_contiguous
    assert abs(values.mean()) < 5 * np.sqrt(variance / values.size)
    np.testing.assert_allclose(values.std(), np.sqrt(variance), rtol=0.02)


@pytest.mark.parametrize(
    ("distribution", "bound"), [("truncated_normal", 2 / 0.87962566), ("uniform", np.sqrt(3))]
)
def test_bounds(distribution, bound):
    values = initializers.VarianceScaling(4.0, "fan_out", distribution, seed=1)((50, 100))
    deviation = np.sqrt(4.0 / 100)
    assert np.abs(values).max() <= bound * deviation * (1 + 1e-6)
    assert np.abs(values).max() > 0.98 * bound * deviation


@pytest.mark.parametrize("shape", [(6, 4), (4, 6), (3, 2, 5)])
def test_orthogonal(shape):
    q = initializers.Orthogonal(gain=2.0, seed=5)(shape).reshape(-1, shape[-1])
    product = q.T @ q if q.shape[0] >= q.shape[1] else q @ q.T
    np.testing.assert_allclose(product, 4 * np.eye(min(q.shape)), atol=1e-5)


def test_constants():
    np.testing.assert_array_equal(initializers.Zeros()((2, 3)), np.zeros((2, 3)))
    assert initializers.Ones()(()).shape == ()
    np.testing.assert_array_equal(initializers.Ones()((0, 3)), np.ones((0, 3)))
    np.testing.assert_array_equal(initializers.Constant(0.25)((2,)), [0.25, 0.25])
    np.testing.assert_array_equal(initializers.Identity(3.0)((2, 3)), 3 * np.eye(2, 3))


@pytest.mark.parametrize("name", RANDOM_NAMES)
def test_seeds(name):
    def make(seed):
        return initializers.get({"class_name": name, "config": {"seed": seed}})

    shape = (4, 5)
    fixed = make(7)
    first = fixed(shape)
    np.testing.assert_array_equal(fixed(shape), first)  # an int seed repeats, as in Keras
    np.testing.assert_array_equal(make(7)(shape), first)
    assert not np.array_equal(make(8)(shape), first)

    stream = make(random.SeedGenerator(7))
    assert not np.array_equal(stream(shape), stream(shape))

    free = make(None)
    random.set_seed(11)
    one, two = free(shape), free(shape)
    assert not np.array_equal(one, two)
    random.set_seed(11)
    np.testing.assert_array_equal(free(shape), one)


@pytest.mark.parametrize("name", NAMES)
def test_config_round_trip(name):
    config = {"seed": 3} if name in RANDOM_NAMES else {}
    first = initializers.get({"class_name": name, "config": config})
    again = initializers.deserialize(initializers.serialize(first))
    assert type(again) is type(first)
    np.testing.assert_array_equal(again((4, 4)), first((4, 4)))


def test_seed_generator_round_trip():
    first = initializers.HeNormal(seed=random.SeedGenerator(4))
    again = initializers.deserialize(initializers.serialize(first))
    np.testing.assert_array_equal(again((3, 3)), first((3, 3)))


def test_get():
    assert initializers.get(None) is None
    assert isinstance(initializers.get("glorot_uniform"), initializers.GlorotUniform)
    assert isinstance(initializers.get("zeros"), initializers.Zeros)
    assert isinstance(initializers.get("normal"), initializers.RandomNormal)
    assert isinstance(initializers.get(initializers.HeNormal), initializers.HeNormal)

    def plain(shape, dtype=None):
        return np.zeros(shape, dtype)

    assert initializers.get(plain) is plain


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: initializers.get("glorot_unifrm"), "Did you mean 'GlorotUniform'"),
        (lambda: initializers.get(3), "expects a name"),
        (lambda: initializers.get({"class_name": "Zeros", "extra": 1}), "unknown keys"),
        (lambda: initializers.get({"class_name": "Zeros", "config": {"a": 1}}), "'Zeros'"),
        (lambda: initializers.Identity()((2, 2, 2)), "two axes"),
        (lambda: initializers.Orthogonal()((2,)), "two axes"),
        (lambda: initializers.Zeros()((2, -1)), "sizes >= 0"),
        (lambda: initializers.Zeros()((2,), dtype="float64"), "float32"),
        (lambda: initializers.VarianceScaling(scale=0), "scale"),
        (lambda: initializers.VarianceScaling(mode="fan"), "'fan_avg'"),
        (lambda: initializers.VarianceScaling(distribution="cauchy"), "'uniform'"),
        (lambda: initializers.HeNormal(input_axes=[0]), "go together"),
        (lambda: initializers.Constant(float("nan")), "finite"),
        (lambda: initializers.RandomUniform(1.0, -1.0), "minval"),
        (lambda: initializers.HeNormal(seed=-1), "seed"),
    ],
)
def test_errors(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_seed_of_a_wrong_type():
    with pytest.raises(TypeError, match="seed"):
        initializers.HeNormal(seed=1.5)


@pytest.mark.parametrize("name", NAMES)
def test_configs_are_those_of_keras(name):
    keras = import_keras()
    theirs = getattr(keras.initializers, name)()
    ours = initializers.deserialize(keras.initializers.serialize(theirs))
    assert type(ours).__name__ == name
    # Keras leaves out Identity's gain.
    assert ours.get_config().items() >= theirs.get_config().items()


@pytest.mark.parametrize("name", RANDOM_NAMES)
def test_distribution_is_that_of_keras(name):
    keras = import_keras()
    theirs = np.asarray(getattr(keras.initializers, name)(seed=1)(KERNEL))
    ours = getattr(initializers, name)(seed=1)(KERNEL)
    levels = np.linspace(0, 1, 21)
    spread = theirs.std()
    np.testing.assert_allclose(
        np.quantile(ours, levels[1:-1]), np.quantile(theirs, levels[1:-1]), atol=0.05 * spread
    )
