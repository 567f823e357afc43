"""Learning-rate schedules: their equations by hand, and Keras' values at many steps."""

from __future__ import annotations

import math

import pytest
from keras_peer import import_keras

from lamella import schedules
from lamella.optimizers import schedules as optimizer_schedules

CASES = [
    ("ExponentialDecay", {"initial_learning_rate": 0.1, "decay_steps": 10, "decay_rate": 0.5}),
    (
        "ExponentialDecay",
        {"initial_learning_rate": 0.1, "decay_steps": 7, "decay_rate": 0.9, "staircase": True},
    ),
    ("InverseTimeDecay", {"initial_learning_rate": 0.1, "decay_steps": 10, "decay_rate": 0.5}),
    (
        "InverseTimeDecay",
        {"initial_learning_rate": 0.1, "decay_steps": 7, "decay_rate": 2.0, "staircase": True},
    ),
    ("PiecewiseConstantDecay", {"boundaries": [5, 12], "values": [0.3, 0.2, 0.1]}),
    ("PolynomialDecay", {"initial_learning_rate": 0.1, "decay_steps": 10}),
    (
        "PolynomialDecay",
        {"initial_learning_rate": 0.1, "decay_steps": 9, "power": 2.0, "cycle": True},
    ),
    ("CosineDecay", {"initial_learning_rate": 0.1, "decay_steps": 10, "alpha": 0.1}),
    (
        "CosineDecay",
        {
            "initial_learning_rate": 0.01,
            "decay_steps": 10,
            "warmup_target": 0.1,
            "warmup_steps": 6,
        },
    ),
    ("CosineDecayRestarts", {"initial_learning_rate": 0.1, "first_decay_steps": 5}),
    (
        "CosineDecayRestarts",
        {
            "initial_learning_rate": 0.1,
            "first_decay_steps": 5,
            "t_mul": 1.0,
            "m_mul": 0.8,
            "alpha": 0.05,
        },
    ),
]


@pytest.mark.parametrize(("name", "config"), CASES)
def test_against_keras(name, config):
    keras = import_keras()
    theirs = getattr(keras.optimizers.schedules, name)(**config)
    ours = schedules.deserialize(keras.optimizers.schedules.serialize(theirs))
    assert ours.get_config() == theirs.get_config()
    for step in [0, 1, 3, 4, 5, 6, 9, 10, 11, 12, 13, 16, 17, 29, 100]:
        # Keras computes in float32.
        assert ours(step) == pytest.approx(float(theirs(step)), rel=3e-5, abs=1e-7)


@pytest.mark.parametrize(("name", "config"), CASES)
def test_round_trip(name, config):
    first = getattr(schedules, name)(**config)
    again = schedules.deserialize(schedules.serialize(first))
    assert type(again) is type(first) and again.get_config() == first.get_config()
    assert [again(step) for step in range(30)] == [first(step) for step in range(30)]


def test_by_hand():
    assert schedules.ExponentialDecay(1.0, 10, 0.25)(5) == 0.5
    assert schedules.ExponentialDecay(1.0, 10, 0.25, staircase=True)(19) == 0.25
    assert schedules.PolynomialDecay(1.0, 10, 0.5)(5) == 0.75
    assert schedules.PolynomialDecay(1.0, 10, 0.5)(99) == 0.5
    half = schedules.CosineDecay(1.0, 10, alpha=0.2)(5)
    assert half == pytest.approx(0.8 * 0.5 * (1 + math.cos(math.pi / 2)) + 0.2)


@pytest.mark.parametrize("t_mul", [1.1, 1.5, 3.0])
def test_restarts_are_at_the_top(t_mul):
    # The n-th descent begins after (t**n - 1) / (t - 1) first ones: no rounding may miss it.
    rate = schedules.CosineDecayRestarts(1.0, first_decay_steps=1.0, t_mul=t_mul)
    for descent in range(1, 12):
        start = (t_mul**descent - 1) / (t_mul - 1)
        assert rate(start) == pytest.approx(1.0)


def test_named_as_in_keras():
    assert optimizer_schedules.CosineDecay is schedules.CosineDecay


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: schedules.ExponentialDecay(0.1, 0, 0.5), "decay_steps"),
        (lambda: schedules.CosineDecay(0.1, -1), "decay_steps"),
        (lambda: schedules.CosineDecay(float("nan"), 1), "initial_learning_rate"),
        (lambda: schedules.CosineDecayRestarts(0.1, 5, t_mul=0.5), "t_mul"),
        (lambda: schedules.PiecewiseConstantDecay([1, 2], [1.0, 2.0]), "one entry more"),
        (lambda: schedules.PiecewiseConstantDecay([2, 2], [1.0, 2.0, 3.0]), "increasing"),
        (lambda: schedules.deserialize({"class_name": "Linear", "config": {}}), "CosineDecay"),
    ],
)
def test_errors(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_base_class_asks_for_the_equation():
    with pytest.raises(NotImplementedError, match="__call__"):
        schedules.LearningRateSchedule()(0)
