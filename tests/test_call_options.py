"""Calls with more than an input: options, named inputs, optional ones, several results."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest

from lamella import layers
from lamella.layers.arguments import flag, integer
from lamella.layers.symbolic import SymbolicTensor
from lamella.models import Model, Sequential, clone_model, load_model


class Power(layers.Layer):
    """x ** exponent; with return_root (x ** exponent, x)."""

    supports_masking = True
    call_options: ClassVar = {"exponent": integer, "return_root": flag}

    def forward(self, x: Any, training: bool, exponent: int = 1, return_root: bool = False) -> Any:
        slope = np.float32(exponent) * x ** (exponent - 1)
        y = x**exponent
        if not return_root:
            return y, lambda dy: dy * slope

        def pullback(dy: Any) -> Any:
            first, second = (0 if d is None else d for d in dy)
            return first * slope + second

        return (y, x), pullback

    def compute_output_shape(
        self, input_shape: Any, exponent: int = 1, return_root: bool = False
    ) -> Any:
        return (input_shape, input_shape) if return_root else input_shape


class Weighing(layers.Layer):
    """scale (first + twice second) where gate, 0 elsewhere; plus offset."""

    named_inputs = ("first", "second")
    optional_inputs = ("gate", "offset")
    call_options: ClassVar = {"twice": flag}

    def __call__(  # type: ignore[override]
        self,
        first: Any,
        second: Any = None,
        gate: Any = None,
        offset: Any = None,
        twice: bool = False,
        training: bool | None = None,
    ) -> Any:
        second = first if second is None else second
        inputs = {"first": first, "second": second, "gate": gate, "offset": offset}
        return self._apply_named(inputs, training, twice=twice)

    def _convert_input(self, name: str, array: Any) -> np.ndarray:
        return np.asarray(array, bool) if name == "gate" else self._convert(array)

    def check_input_shape(self, input_shape: Any) -> None:
        first, second = input_shape
        if first[1:] != second[1:]:
            raise self.error(f"first and second differ: {first}, {second}")

    def check_optional_inputs(self, required: Any, given: Any) -> None:
        for name, shape in given.items():
            if shape[1:] != required[0][1:]:
                raise self.error(f"{name} expects {required[0]}, got {shape}")

    def build(self, input_shape: Any) -> None:
        assert len(input_shape) == 2
        self.scale = self.add_weight("scale", (input_shape[0][-1],), "ones")

    def forward(self, x: Any, training: bool, given: Any = (), twice: bool = False) -> Any:
        first, second, *more = x
        named = dict(zip(given, more, strict=True))
        factor = np.float32(1 + twice)
        gate = named.get("gate", np.ones((), bool))
        total = first + factor * second
        scale = self.scale.value
        y = np.where(gate, scale * total, np.float32(0)) + named.get("offset", np.float32(0))

        def pullback(dy: Any) -> Any:
            seen = np.where(gate, dy, np.float32(0))
            self.scale.add_gradient((seen * total).sum(axis=0))
            gradients = [scale * seen, factor * scale * seen]
            return (*gradients, *(dy if name == "offset" else None for name in given))

        return y, pullback

    def compute_output_shape(self, input_shape: Any, twice: bool = False) -> Any:
        return input_shape[0]


OWN = {"Power": Power, "Weighing": Weighing}


def test_options_of_a_call_on_arrays() -> None:
    x = np.array([[1, 2, -3]], np.float32)
    np.testing.assert_array_equal(Power()(x), x)
    np.testing.assert_array_equal(Power()(x, exponent=2), x * x)
    y, root = Power()(x, exponent=3, return_root=True, training=True)
    np.testing.assert_array_equal(y, x**3)
    np.testing.assert_array_equal(root, x)
    with pytest.raises(TypeError, match="Power layer 'p': takes no argument 'exponents'; its call"):
        Power(name="p")(x, exponents=2)
    with pytest.raises(ValueError, match="Power layer 'p': exponent expects an integer >= 1"):
        Power(name="p")(x, exponent=0)
    with pytest.raises(TypeError, match="takes no argument 'return_root'; its call options: none"):
        layers.Dense(2)(x, return_root=True)


def powers() -> Model:
    x = layers.Input((3,), name="x")
    power = Power(name="power")
    cube, root = power(x, exponent=3, return_root=True)
    return Model(x, [layers.Add(name="sum")([power(cube, exponent=2), root]), cube])


def test_options_stay_with_a_symbolic_call(tmp_path: Path) -> None:
    x = np.array([[1, 2, -3], [0.5, 1, 0]], np.float32)
    model = powers()
    layer = model.get_layer("power")
    assert [dict(node.options) for node in layer.nodes] == [
        {"exponent": 3, "return_root": True},
        {"exponent": 2},
    ]
    for each in (model, clone_model(model), Model.from_config(model.get_config(), OWN)):
        first, second = each.predict(x, verbose=0)
        np.testing.assert_allclose(first, x**6 + x, rtol=1e-6)
        np.testing.assert_allclose(second, x**3, rtol=1e-6)
    assert model.compute_output_shape((5, 3)) == [(5, 3), (5, 3)]
    json.dumps(model.get_config())

    path = tmp_path / "m.safetensors"
    model.save(path)
    loaded = load_model(path, custom_objects=OWN)
    np.testing.assert_allclose(loaded.predict(x, verbose=0)[0], x**6 + x, rtol=1e-6)
    assert loaded.get_config()["calls"] == json.loads(json.dumps(model.get_config()["calls"]))

    # A model that begins in the middle calls the layers anew, with the same options.
    middle = Model(layer.nodes[0].outputs[0], layer.nodes[1].outputs[0])
    np.testing.assert_allclose(middle.predict(x, verbose=0), x * x, rtol=1e-6)
    # So does a model within a model.
    outer = layers.Input((3,))
    nested = Model(outer, model(outer)[0])
    np.testing.assert_allclose(nested.predict(x, verbose=0), x**6 + x, rtol=1e-6)


def test_gradients_through_options() -> None:
    x = np.array([[1, 2, -3], [0.5, 1, 0]], np.float32)
    (y, cube), pull = powers().forward(x, True)
    assert y.shape == cube.shape == x.shape
    np.testing.assert_allclose(pull((np.ones_like(x), None)), 6 * x**5 + 1, rtol=1e-6)
    np.testing.assert_allclose(pull((None, np.ones_like(x))), 3 * x**2, rtol=1e-6)


def test_options_in_a_chain() -> None:
    x = layers.Input((3,))
    model = Model(x, Power()(layers.Activation("linear")(x), exponent=2))
    assert model.graph.is_chain()
    a = np.array([[1, 2, -3]], np.float32)
    np.testing.assert_array_equal(model.predict(a, verbose=0), a * a)
    y, pull = model.forward(a, True)
    np.testing.assert_array_equal(pull(np.ones_like(y)), 2 * a)


def test_a_penalty_counts_every_output() -> None:
    x = np.array([[1, 2, -3], [0.5, 1, 0]], np.float32)
    layer = Power(activity_regularizer="l1")
    layer(x, exponent=2, return_root=True)
    expected = [0.01 * float(np.abs(a).sum()) / 2 for a in (x * x, x)]
    assert layer.losses == pytest.approx(expected)
    layer.reset_losses()
    _, pull = layer.forward(x, True, exponent=2, return_root=True)
    assert layer.losses == pytest.approx(expected)
    np.testing.assert_allclose(
        pull((None, x)), 0.005 * 2 * x + x + 0.005 * np.sign(x), rtol=1e-5, atol=1e-7
    )


# -- inputs with names ----------------------------------------------------------------------------

A = np.array([[1, 2, 3], [4, 5, 6]], np.float32)
B = np.array([[7, -1, 0], [2, 2, 1]], np.float32)
GATE = np.array([[True, False, True], [False, True, True]])


def test_named_inputs_of_a_call_on_arrays() -> None:
    layer = Weighing(name="w")
    np.testing.assert_array_equal(layer(A, B), A + B)
    np.testing.assert_array_equal(layer(A), 2 * A)
    np.testing.assert_array_equal(layer(A, B.tolist(), twice=True), A + 2 * B)
    np.testing.assert_array_equal(layer(A, B, GATE.astype(int), B), np.where(GATE, A + B, 0) + B)
    np.testing.assert_array_equal(layer(A, B, offset=A, training=True), 2 * A + B)
    with pytest.raises(ValueError, match="Weighing layer 'w': first and second differ"):
        layer(A, B[:, :2])
    with pytest.raises(ValueError, match="Weighing layer 'w': gate expects"):
        layer(A, B, GATE[:, :2])
    with pytest.raises(ValueError, match="Weighing layer 'w': twice expects True or False"):
        layer(A, B, twice=1)
    with pytest.raises(ValueError, match="expects a list of first, second, gate, got 2 inputs"):
        layer.apply([A, B], given=["gate"])
    with pytest.raises(ValueError, match="expects a list of first, second, got 1 inputs"):
        layer.apply(A)
    for given in ("gate", ["offset", "gate"], ["gate", "gate"], ["scale"], 3):
        with pytest.raises(ValueError, match="given expects names of gate, offset, in this order"):
            layer.apply([A, B, GATE, A], given=given)


def weighed() -> Model:
    first, second = layers.Input((3,), name="first"), layers.Input((3,), name="second")
    gate = layers.Input((3,), name="gate", dtype="bool")
    layer = Weighing(name="weighing")
    y = layer(first, second, gate, twice=True)
    assert isinstance(y, SymbolicTensor) and y.shape == (None, 3)
    return Model([first, second, gate], layer(y, offset=first))


def test_named_inputs_in_a_graph(tmp_path: Path) -> None:
    model = weighed()
    model.get_layer("weighing").scale.assign([1, 2, -1])
    path = tmp_path / "m.safetensors"
    model.save(path)
    scale = np.array([1, 2, -1], np.float32)
    expected = 2 * scale * np.where(GATE, scale * (A + 2 * B), 0) + A
    for each in (model, load_model(path, custom_objects=OWN)):
        np.testing.assert_allclose(each.predict([A, B, GATE], verbose=0), expected, rtol=1e-6)
        np.testing.assert_allclose(each([A, B, GATE.astype(int)]), expected, rtol=1e-6)
    assert [call.get("options") for call in model.get_config()["calls"]] == [
        {"given": ("gate",), "twice": True},
        {"given": ("offset",), "twice": False},
    ]
    _, pull = model.forward([A, B, GATE], True)
    dy = np.array([[1, -2, 0.5], [2, 3, 1]], np.float32)
    d_first, d_second, d_gate = pull(dy)
    through = np.where(GATE, 2 * scale**2 * dy, 0)
    np.testing.assert_allclose(d_first, through + dy, rtol=1e-6)
    np.testing.assert_allclose(d_second, 2 * through, rtol=1e-6)
    assert d_gate is None
    model.compile("sgd", "mse")
    model.fit([A, B, GATE], expected, verbose=0, batch_size=1)


def test_a_layer_with_names_in_a_sequential() -> None:
    model = Sequential([layers.Input((3,)), Weighing()])
    np.testing.assert_array_equal(model.predict(A, verbose=0), 2 * A)
    _, pull = model.forward(A, True)
    np.testing.assert_array_equal(pull(A), 2 * A)


def test_symbols_and_arrays_do_not_mix() -> None:
    with pytest.raises(TypeError, match="cannot mix symbolic tensors with ndarray"):
        Weighing()(layers.Input((3,)), gate=GATE)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"exponent": "2"}, "exponent expects an integer"),
        ({"training": True}, "a call that is not one"),
        ({"mask": [True]}, "a call that is not one"),
        ({"given": ["gate"]}, "takes no argument 'given'"),
        ({"colour": 1}, "takes no argument 'colour'"),
        ([["exponent", 2]], "a call that is not one"),
    ],
)
def test_options_that_a_file_makes_up(options: Any, message: str) -> None:
    config = powers().get_config()
    config["calls"][0]["options"] = options
    with pytest.raises(ValueError, match=message):
        Model.from_config(config, OWN)


def test_names_that_a_file_makes_up() -> None:
    for given in (["offset", "gate"], ["gate", "offset"], [], "gate", [["gate"]]):
        config = weighed().get_config()
        config["calls"][0]["options"]["given"] = given
        with pytest.raises(ValueError, match="Weighing layer 'weighing'"):
            Model.from_config(config, OWN)
