"""Optimizers over flat buffers: Keras' steps, clipping, decay, schedules, state and configs."""

from __future__ import annotations

import numpy as np
import pytest
from keras_peer import import_keras

from lamella import optimizers, registry, schedules
from lamella.optimizers.base import merge_segments

# Three weights of a model, each beginning at a multiple of 16 floats.
SEGMENTS = [(0, 10, True), (16, 20, True), (32, 39, True)]
SIZE = 48


def buffers(rng, scale=1.0):
    """Return parameters and gradients, zero between the weights."""
    inside = np.zeros(SIZE, bool)
    for start, stop, _ in SEGMENTS:
        inside[start:stop] = True
    params = np.where(inside, rng.standard_normal(SIZE), 0).astype(np.float32)
    grads = np.where(inside, scale * rng.standard_normal(SIZE), 0).astype(np.float32)
    return params, grads, inside


CASES = [
    ("SGD", {"learning_rate": 0.1}),
    ("SGD", {"learning_rate": 0.1, "momentum": 0.9}),
    ("SGD", {"learning_rate": 0.1, "momentum": 0.8, "nesterov": True, "weight_decay": 0.05}),
    ("SGD", {"learning_rate": 0.1, "clipnorm": 0.7}),
    ("SGD", {"learning_rate": 0.1, "clipvalue": 0.3}),
    ("SGD", {"learning_rate": 0.1, "global_clipnorm": 0.7}),
    ("RMSprop", {"learning_rate": 0.01}),
    ("RMSprop", {"learning_rate": 0.01, "rho": 0.8, "momentum": 0.5}),
    ("RMSprop", {"learning_rate": 0.01, "centered": True, "epsilon": 1e-3}),
    ("RMSprop", {"learning_rate": 0.01, "centered": True, "momentum": 0.5, "weight_decay": 0.1}),
    ("Adam", {}),
    ("Adam", {"learning_rate": 0.01, "beta_1": 0.8, "beta_2": 0.9, "epsilon": 1e-4}),
    ("Adam", {"learning_rate": 0.01, "amsgrad": True, "clipnorm": 1.0}),
    ("AdamW", {"learning_rate": 0.01}),
    ("AdamW", {"learning_rate": 0.01, "weight_decay": 0.1, "global_clipnorm": 1.0}),
]


@pytest.mark.parametrize(("name", "config"), CASES)
def test_steps_are_those_of_keras(name, config):
    keras = import_keras()
    rng = np.random.default_rng(1)
    params, _, inside = buffers(rng)
    variables = [keras.Variable(params[start:stop]) for start, stop, _ in SEGMENTS]
    theirs = getattr(keras.optimizers, name)(**config)
    ours = optimizers.get({"class_name": name, "config": config})
    for step in range(6):
        _, grads, _ = buffers(rng, scale=0.3 * step + 0.1)
        theirs.apply([grads[a:b].copy() for a, b, _ in SEGMENTS], variables)
        ours.apply(params, grads, SEGMENTS)
        for variable, (start, stop, _) in zip(variables, SEGMENTS, strict=True):
            np.testing.assert_allclose(
                params[start:stop], np.asarray(variable), rtol=2e-5, atol=2e-6
            )
    assert ours.iterations == 6
    assert not params[~inside].any()


@pytest.mark.parametrize(("name", "config"), CASES)
def test_config_is_that_of_keras(name, config):
    keras = import_keras()
    theirs = keras.optimizers.serialize(getattr(keras.optimizers, name)(**config))
    ours = optimizers.deserialize(theirs)
    for key, value in ours.get_config().items():
        expected = theirs["config"][key]
        assert value == (pytest.approx(expected) if isinstance(expected, float) else expected)


def test_adam_by_hand():
    w, g = np.float32([1.0]), np.float32([0.5])
    adam = optimizers.Adam(0.1, beta_1=0.9, beta_2=0.99, epsilon=1e-7)
    adam.apply(w, g, [(0, 1, True)])
    assert w[0] == pytest.approx(0.9, abs=1e-6)  # the first step is the learning rate
    adam.apply(w, np.float32([-0.5]), [(0, 1, True)])
    m, v = 0.9 * 0.05 - 0.05, 0.99 * 0.0025 + 0.0025
    alpha = 0.1 * np.sqrt(1 - 0.99**2) / (1 - 0.9**2)
    assert w[0] == pytest.approx(0.9 - alpha * m / np.sqrt(v), abs=1e-6)


@pytest.mark.parametrize("name", ["SGD", "RMSprop", "Adam", "AdamW"])
def test_segments_left_out_stay(name):
    params, grads, _ = buffers(np.random.default_rng(2))
    before = params.copy()
    optimizer = optimizers.get(name)
    optimizer.apply(params, grads, [SEGMENTS[0], SEGMENTS[2]])
    np.testing.assert_array_equal(params[10:32], before[10:32])
    assert not np.array_equal(params[32:39], before[32:39])
    optimizer.apply(params, grads, SEGMENTS)  # thawed: its state begins at zero
    assert not np.array_equal(params[16:20], before[16:20])


def test_decay_follows_the_segments():
    params = np.ones(SIZE, np.float32)
    grads = np.zeros(SIZE, np.float32)
    sgd = optimizers.SGD(0.5, weight_decay=0.1)
    sgd.apply(params, grads, [(0, 10, True), (16, 20, False), (32, 39, True)])
    np.testing.assert_allclose(params[[0, 9, 32, 38]], 0.95)
    np.testing.assert_array_equal(params[10:32], 1)


def test_merge_segments():
    assert merge_segments([]) == []
    assert merge_segments(SEGMENTS) == [(0, 39, True)]
    assert merge_segments([(0, 16, True), (16, 32, False)]) == [(0, 16, True), (16, 32, False)]
    # A frozen weight between two others keeps them apart.
    assert merge_segments([(0, 10, True), (32, 39, True)]) == [(0, 10, True), (32, 39, True)]


class Named:
    def __init__(self, name, path):
        self.name, self.path = name, path


def test_exclude_from_weight_decay():
    kernel, bias = Named("kernel", "dense/kernel"), Named("bias", "dense/bias")
    gamma = Named("gamma", "norm/gamma")
    optimizer = optimizers.AdamW()
    assert all(optimizer.uses_weight_decay(w) for w in (kernel, bias, gamma))
    optimizer.exclude_from_weight_decay(var_list=[gamma], var_names=["^bias$"])
    assert [optimizer.uses_weight_decay(w) for w in (kernel, bias, gamma)] == [True, False, False]
    optimizer.exclude_from_weight_decay(var_names=["dense/"])
    assert [optimizer.uses_weight_decay(w) for w in (kernel, gamma)] == [False, True]
    assert not optimizers.Adam().uses_weight_decay(kernel)
    optimizer.apply(np.ones(16, np.float32), np.ones(16, np.float32), [(0, 16, True)])
    with pytest.raises(ValueError, match="before training"):
        optimizer.exclude_from_weight_decay(var_names=["bias"])


@pytest.mark.parametrize("clip", ["clipnorm", "global_clipnorm"])
def test_a_gradient_that_is_not_finite_shows_and_leaves_the_padding(clip):
    params, grads, inside = buffers(np.random.default_rng(3))
    grads[3] = np.inf
    optimizers.SGD(0.1, **{clip: 1.0}).apply(params, grads, SEGMENTS)
    assert np.isnan(params[:10]).all()
    assert not params[~inside].any() and not grads[~inside].any()


def test_small_gradients_are_not_clipped():
    for clip in ("clipnorm", "clipvalue", "global_clipnorm"):
        params, grads, _ = buffers(np.random.default_rng(4), scale=1e-3)
        before = grads.copy()
        optimizers.SGD(0.1, **{clip: 10.0}).apply(params, grads, SEGMENTS)
        np.testing.assert_array_equal(grads, before)


def test_learning_rate():
    optimizer = optimizers.SGD(0.5)
    optimizer.learning_rate = 0.25
    assert optimizer.learning_rate == 0.25 and optimizer.get_config()["learning_rate"] == 0.25

    schedule = schedules.PiecewiseConstantDecay([0], [1.0, 0.5])
    optimizer = optimizers.SGD(schedule)
    params, grads = np.zeros(16, np.float32), np.ones(16, np.float32)
    rates = []
    for _ in range(3):
        rates.append(optimizer.learning_rate)
        optimizer.apply(params, grads, [(0, 16, True)])
    assert rates == [1.0, 0.5, 0.5] and params[0] == -2.0
    with pytest.raises(TypeError, match="LearningRateSchedule"):
        optimizer.learning_rate = 0.1
    optimizer.learning_rate = schedules.PiecewiseConstantDecay([0], [1.0, 0.25])
    assert optimizer.learning_rate == 0.25


def test_schedules_survive_the_config():
    first = optimizers.Adam(schedules.CosineDecay(0.1, 100))
    again = optimizers.get(optimizers.serialize(first))
    assert again.get_config() == first.get_config()
    assert again.learning_rate == first.learning_rate

    class Halving(schedules.LearningRateSchedule):
        def __call__(self, step):
            return 0.5**step

        def get_config(self):
            return {}

    config = optimizers.serialize(optimizers.Adam(Halving()))
    again = optimizers.deserialize(config, custom_objects={"Halving": Halving})
    assert again.learning_rate == 1.0
    with pytest.raises(ValueError, match="Halving"):
        optimizers.deserialize(config)


@pytest.mark.parametrize(("name", "config"), CASES)
def test_state_round_trip(name, config):
    rng = np.random.default_rng(5)
    params, grads, _ = buffers(rng)
    first = optimizers.get({"class_name": name, "config": config})
    for _ in range(3):
        first.apply(params, grads.copy(), SEGMENTS)
    again = optimizers.get(optimizers.serialize(first))
    state = {key: value.copy() for key, value in first.variables().items()}
    again.load_variables(state)
    copied = params.copy()
    first.apply(params, grads.copy(), SEGMENTS)
    again.apply(copied, grads.copy(), SEGMENTS)
    np.testing.assert_array_equal(copied, params)
    assert again.iterations == first.iterations == 4
    for key, value in state.items():  # copied at loading, so a step leaves it alone
        assert key == "iterations" or np.array_equal(value, state[key])


def test_state_before_the_first_step():
    first = optimizers.Adam()
    assert list(first.variables()) == ["iterations"]
    again = optimizers.Adam()
    again.load_variables(first.variables())
    assert again.iterations == 0


@pytest.mark.parametrize(
    ("state", "message"),
    [
        ({}, "iterations"),
        ({"iterations": np.float32(1)}, "integer"),
        ({"iterations": np.int64(1), "momentum": np.zeros(4, np.float32)}, "velocity"),
        (
            {
                "iterations": np.int64(1),
                "momentum": np.zeros(4, np.float32),
                "velocity": np.zeros(5, np.float32),
            },
            "one shape",
        ),
        (
            {"iterations": np.int64(1), "momentum": np.zeros(4), "velocity": np.zeros(4)},
            "float32",
        ),
    ],
)
def test_states_that_do_not_fit(state, message):
    adam = optimizers.Adam()
    with pytest.raises(ValueError, match=message):
        adam.load_variables(state)
    assert adam.iterations == 0 and list(adam.variables()) == ["iterations"]


def test_one_optimizer_one_model():
    adam = optimizers.Adam()
    adam.apply(np.zeros(16, np.float32), np.ones(16, np.float32), [(0, 16, True)])
    with pytest.raises(ValueError, match="new optimizer"):
        adam.apply(np.zeros(32, np.float32), np.ones(32, np.float32), [(0, 32, True)])


@pytest.mark.parametrize(
    ("grads", "segments", "message"),
    [
        (np.ones(15, np.float32), [(0, 16, True)], "one shape"),
        (np.ones(16, np.float32), [(0, 17, True)], "in order"),
        (np.ones(16, np.float32), [(8, 16, True), (0, 8, True)], "in order"),
    ],
)
def test_buffers_that_do_not_fit(grads, segments, message):
    with pytest.raises(ValueError, match=message):
        optimizers.SGD().apply(np.zeros(16, np.float32), grads, segments)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: optimizers.get("adamm"), "Did you mean 'Adam'"),
        (lambda: optimizers.get(None), "expects a name"),
        (lambda: optimizers.Adam("fast"), "learning_rate"),
        (lambda: optimizers.Adam(-0.1), "learning_rate"),
        (lambda: optimizers.Adam(beta_1=1.0), "beta_1"),
        (lambda: optimizers.Adam(epsilon=0), "epsilon"),
        (lambda: optimizers.SGD(momentum=1.5), "momentum"),
        (lambda: optimizers.SGD(clipnorm=0), "clipnorm"),
        (lambda: optimizers.SGD(clipnorm=1, clipvalue=1), "only one of"),
        (lambda: optimizers.SGD(use_ema=True), "use_ema is not supported"),
        (lambda: optimizers.SGD(gradient_accumulation_steps=2), "gradient_accumulation_steps"),
        (lambda: optimizers.SGD(lr=0.1), "'lr' is not recognized"),
        (lambda: optimizers.AdamW(weight_decay=None), "weight_decay"),
    ],
)
def test_errors(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_keras_defaults_of_unsupported_arguments_pass():
    optimizers.Adam(use_ema=False, ema_momentum=0.99, loss_scale_factor=None)


def test_an_optimizer_of_ones_own():
    class SignDescent(optimizers.Optimizer):
        slot_names = ("steps",)

        def _update(self, param, grad, slots, learning_rate, weight_decay):
            slots[0][:] += 1
            param -= np.float32(learning_rate) * np.sign(grad)

    optimizer = optimizers.get(SignDescent(0.5))
    params = np.zeros(16, np.float32)
    optimizer.apply(params, np.full(16, -3, np.float32), [(0, 16, True)])
    assert params[0] == 0.5 and optimizer.variables()["steps"][0] == 1
    config = registry.serialize(optimizer)
    assert optimizers.get(config, {"SignDescent": SignDescent}).learning_rate == 0.5
