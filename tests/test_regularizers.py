"""Regularizers: penalties and their gradients, by hand and against Keras."""

from __future__ import annotations

import numpy as np
import pytest
from keras_peer import import_keras

from lamella import regularizers

W = np.float32([[-1.5, 0.0], [2.0, 0.25]])


@pytest.mark.parametrize(
    ("regularizer", "penalty"),
    [
        (regularizers.L1(0.5), 0.5 * 3.75),
        (regularizers.L2(0.5), 0.5 * 6.3125),
        (regularizers.L1L2(0.1, 0.2), 0.1 * 3.75 + 0.2 * 6.3125),
        (regularizers.L1L2(), 0.0),
    ],
)
def test_penalty_and_gradient(regularizer, penalty):
    assert regularizer(W) == pytest.approx(penalty, rel=1e-6)
    gradient = regularizer.gradient(W)
    assert gradient.dtype == np.float32 and gradient.shape == W.shape
    step = 1e-3
    for place in np.ndindex(W.shape):
        if W[place] == 0:
            assert gradient[place] == 0
            continue
        shifted = W.astype(np.float64)
        shifted[place] += step
        above = regularizer(shifted)
        shifted[place] -= 2 * step
        slope = (above - regularizer(shifted)) / (2 * step)
        assert gradient[place] == pytest.approx(slope, rel=1e-4, abs=1e-6)


@pytest.mark.parametrize("name", ["l1", "l2", "L1L2"])
def test_round_trip(name):
    first = regularizers.get(name)
    again = regularizers.deserialize(regularizers.serialize(first))
    assert type(again) is type(first) and again.get_config() == first.get_config()


def test_get():
    assert regularizers.get(None) is None
    assert regularizers.get("l2").get_config() == {"l2": 0.01}
    assert regularizers.get("l1_l2").get_config() == {"l1": 0.01, "l2": 0.01}
    own = regularizers.L1(0.3)
    assert regularizers.get(own) is own


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: regularizers.L1(-1), "l1"),
        (lambda: regularizers.L2(float("inf")), "l2"),
        (lambda: regularizers.L1L2(l2="a"), "l2"),
        (lambda: regularizers.get("l3"), "L1, L1L2, L2"),
        (lambda: regularizers.get(lambda w: 0.0), "Regularizer object"),
    ],
)
def test_errors(call, message):
    with pytest.raises(ValueError, match=message):
        call()


@pytest.mark.parametrize("name", ["L1", "L2", "L1L2"])
def test_against_keras(name):
    keras = import_keras()
    theirs = getattr(keras.regularizers, name)(0.03)
    ours = regularizers.deserialize(keras.regularizers.serialize(theirs))
    assert ours(W) == pytest.approx(float(theirs(W)), rel=1e-6)
