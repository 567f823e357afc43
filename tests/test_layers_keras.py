"""Layers against Keras 3: defaults, names, weights, shapes and values."""

from __future__ import annotations

import inspect
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from keras_peer import import_keras
from layer_cases import CASES as ALL_CASES
from layer_cases import Case, randomize

from lamella import activations, layers

# Float32 in another order of summation, on sums of at most 100 terms of size 1.
TOLERANCE = {"rtol": 2e-5, "atol": 1e-5}
CASES = [case for case in ALL_CASES if case.is_keras]
IDS = [f"{index}-{case.name}" for index, case in enumerate(CASES)]
# Arguments of one class with what makes it valid, for comparing defaults.
REQUIRED: dict[str, dict[str, Any]] = {case.name: case.arguments for case in CASES}
NAMES = sorted(REQUIRED)


@pytest.fixture(scope="module")
def keras() -> ModuleType:
    return import_keras()


def our_parameters(cls: type) -> dict[str, inspect.Parameter]:
    return dict(inspect.signature(cls).parameters)


@pytest.mark.parametrize("name", [*NAMES, "InputLayer"])
def test_argument_names_order_and_defaults(keras: ModuleType, name: str) -> None:
    ours = our_parameters(getattr(layers, name))
    theirs = dict(inspect.signature(getattr(keras.layers, name).__init__).parameters)
    theirs.pop("self")
    positional = [p for p in theirs.values() if p.kind is p.POSITIONAL_OR_KEYWORD]
    assert list(ours)[: len(positional)] == [p.name for p in positional]
    for parameter in positional:
        assert ours[parameter.name].default == parameter.default, parameter.name


@pytest.mark.parametrize("name", NAMES)
def test_default_config(keras: ModuleType, name: str) -> None:
    """Every key that both have is equal; objects are compared by class."""
    required = {
        key: value
        for key, value in REQUIRED[name].items()
        if our_parameters(getattr(layers, name))[key].default is inspect.Parameter.empty
    }
    ours = getattr(layers, name)(**required, name="n").get_config()
    theirs = getattr(keras.layers, name)(**required, name="n").get_config()
    missing = set(theirs) - set(ours)
    assert all(
        key.endswith("_constraint")
        or key.startswith("renorm")
        or key in {"activity_regularizer", "quantization_config", "synchronized"}
        for key in missing
    ), missing
    for key in set(ours) & set(theirs) - {"dtype"}:
        mine, other = ours[key], theirs[key]
        if isinstance(mine, dict):
            assert mine["class_name"] == other["class_name"]
        else:
            assert mine == other, key


@pytest.mark.parametrize("name", NAMES)
def test_automatic_name(keras: ModuleType, name: str) -> None:
    ours = getattr(layers, name)(**REQUIRED[name]).name
    theirs = getattr(keras.layers, name)(**REQUIRED[name]).name
    assert ours.rstrip("_0123456789") == theirs.rstrip("_0123456789")


@pytest.mark.parametrize("case", CASES, ids=IDS)
def test_weights_shapes_and_values(keras: ModuleType, case: Case, rng: np.random.Generator) -> None:
    ours = case.layer()
    theirs = getattr(keras.layers, case.name)(**case.arguments)
    x = case.inputs(rng)
    ours(x)
    theirs(x)
    assert [(w.name, w.shape) for w in ours.weights] == [(w.name, w.shape) for w in theirs.weights]
    randomize(ours, rng)
    theirs.set_weights(ours.get_weights())
    np.testing.assert_allclose(ours(x), np.asarray(theirs(x)), **TOLERANCE)

    shapes = [(None, *shape) for shape in case.shapes]
    tensors = [layers.Input(shape[1:]) for shape in shapes]
    their_tensors = [keras.Input(shape[1:]) for shape in shapes]
    mine = ours(tensors if case.is_merging else tensors[0]).shape
    other = theirs(their_tensors if case.is_merging else their_tensors[0]).shape
    assert mine == tuple(other)


@pytest.mark.parametrize("case", CASES, ids=IDS)
def test_shapes_with_unknown_sizes(keras: ModuleType, case: Case) -> None:
    shapes = [(None,) * (len(shape) - 1) + shape[-1:] for shape in case.shapes]
    tensors = [layers.Input(shape) for shape in shapes]
    their_tensors = [keras.Input(shape) for shape in shapes]
    theirs = getattr(keras.layers, case.name)(**case.arguments)
    mine = case.layer()(tensors if case.is_merging else tensors[0]).shape
    assert mine == tuple(theirs(their_tensors if case.is_merging else their_tensors[0]).shape)


def test_batch_normalization_trains_alike(keras: ModuleType, rng: np.random.Generator) -> None:
    ours, theirs = layers.BatchNormalization(), keras.layers.BatchNormalization()
    x = (rng.standard_normal((5, 4, 3, 2)) * 2 + 1).astype(np.float32)
    ours.build(x.shape)
    theirs.build(x.shape)
    randomize(ours, rng)
    theirs.set_weights(ours.get_weights())
    for _ in range(3):
        y = ours(x, training=True)
        np.testing.assert_allclose(y, np.asarray(theirs(x, training=True)), rtol=1e-4, atol=1e-5)
    for mine, other in zip(ours.get_weights(), theirs.get_weights(), strict=True):
        np.testing.assert_allclose(mine, other, rtol=1e-5)


@pytest.mark.parametrize("padding", ["valid", "same"])
@pytest.mark.parametrize(("kernel", "stride"), [(2, 1), (3, 2), (4, 2), (2, 3)])
def test_windows(
    keras: ModuleType, padding: str, kernel: int, stride: int, rng: np.random.Generator
) -> None:
    """Where windows and padding lie, for each way to slide one over 7 by 6 positions."""
    x = rng.standard_normal((2, 7, 6, 4)).astype(np.float32)
    size = {"strides": stride, "padding": padding}
    for name, arguments in (
        ("Conv2D", {"filters": 2, "kernel_size": kernel, **size}),
        ("Conv2DTranspose", {"filters": 2, "kernel_size": kernel, **size}),
        ("Conv2DTranspose", {"filters": 2, "kernel_size": kernel, "output_padding": 0, **size}),
        ("MaxPooling2D", {"pool_size": kernel, **size}),
        ("AveragePooling2D", {"pool_size": kernel, **size}),
    ):
        ours = getattr(layers, name)(**arguments)
        theirs = getattr(keras.layers, name)(**arguments)
        y = ours(x)
        expected = theirs(x)
        if ours.weights:
            theirs.set_weights(ours.get_weights())
            expected = theirs(x)
        np.testing.assert_allclose(y, np.asarray(expected), err_msg=name, **TOLERANCE)
        assert ours.compute_output_shape(x.shape) == y.shape


@pytest.mark.parametrize("dilation", [2])
@pytest.mark.parametrize("padding", ["valid", "same"])
def test_dilation(keras: ModuleType, dilation: int, padding: str, rng: np.random.Generator) -> None:
    x = rng.standard_normal((2, 9, 8, 3)).astype(np.float32)
    for name in ("Conv2D", "Conv2DTranspose", "SeparableConv2D"):
        arguments = {
            "filters": 2,
            "kernel_size": (2, 3),
            "dilation_rate": dilation,
            "padding": padding,
        }
        ours, theirs = (getattr(m, name)(**arguments) for m in (layers, keras.layers))
        y = ours(x)
        theirs.build(x.shape)
        theirs.set_weights(ours.get_weights())
        np.testing.assert_allclose(y, np.asarray(theirs(x)), err_msg=name, **TOLERANCE)
    sequence = x[:, :, 0]
    for causal in ("causal", padding):
        arguments = {"filters": 2, "kernel_size": 3, "dilation_rate": dilation, "padding": causal}
        ours, theirs = layers.Conv1D(**arguments), keras.layers.Conv1D(**arguments)
        y = ours(sequence)
        theirs.build(sequence.shape)
        theirs.set_weights(ours.get_weights())
        np.testing.assert_allclose(y, np.asarray(theirs(sequence)), **TOLERANCE)


def test_activation_functions(keras: ModuleType) -> None:
    x = np.linspace(-7, 7, 29, dtype=np.float32).reshape(1, -1)
    for name in activations.__all__:
        function = getattr(activations, name)
        if isinstance(function, activations.ActivationFunction) and name != "gelu_tanh":
            expected = np.asarray(getattr(keras.activations, name)(x))
            np.testing.assert_allclose(function(x), expected, err_msg=name, **TOLERANCE)
    for options in ({"max_value": 3.0}, {"threshold": 1.0}, {"negative_slope": 0.2}):
        expected = np.asarray(keras.activations.relu(x, **options))
        np.testing.assert_allclose(activations.relu(x, **options), expected, **TOLERANCE)


def test_activity_regularizer(keras: ModuleType, rng: np.random.Generator) -> None:
    x = rng.standard_normal((4, 3)).astype(np.float32)
    ours = layers.Activation("tanh", activity_regularizer="l1")
    theirs = keras.layers.Activation("tanh", activity_regularizer="l1")
    ours(x)
    theirs(x)
    assert ours.losses == pytest.approx([float(value) for value in theirs.losses], rel=1e-5)


def test_their_config_makes_our_layer(keras: ModuleType) -> None:
    theirs = keras.layers.Conv2D(4, 3, activation="relu", kernel_regularizer="l2", name="c")
    ours = layers.Conv2D.from_config(theirs.get_config())
    assert ours.name == "c" and ours.kernel_regularizer.l2 == pytest.approx(0.01)
    theirs = keras.layers.BatchNormalization(momentum=0.8)
    assert layers.BatchNormalization.from_config(theirs.get_config()).momentum == 0.8
