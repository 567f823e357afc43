"""Models as structures: construction, order and names, nesting, sharing, freezing, summaries."""

from __future__ import annotations

import numpy as np
import pytest
from keras_peer import import_keras

import lamella
from lamella import layers
from lamella.layers import Add, BatchNormalization, Concatenate, Dense, Dropout, Flatten, Input
from lamella.models import Model, Sequential, clone_model
from lamella.models.executor import Training


def named(names: str) -> list[Dense]:
    return [Dense(3, name=name) for name in names.split()]


# -- Sequential -----------------------------------------------------------------------------------


def test_sequential_builds_while_layers_are_added() -> None:
    model = Sequential(name="net")
    model.add(Input((4,)))
    assert not model.built and model.layers == []
    model.add(Dense(3, name="first"))
    assert model.count_params() == 15
    model.add(Dense(2, name="second"))
    assert [layer.name for layer in model.layers] == ["first", "second"]
    assert model.input_shape == (None, 4) and model.output_shape == (None, 2)
    assert [w.path for w in model.weights] == [
        "first/kernel", "first/bias", "second/kernel", "second/bias",
    ]  # fmt: skip
    removed = model.pop()
    assert removed.name == "second" and removed.nodes == []
    assert model.output_shape == (None, 3) and model.count_params() == 15
    model.pop()
    assert not model.built
    with pytest.raises(ValueError, match="has no layers to pop"):
        model.pop()


@pytest.mark.parametrize("first", ["input_shape", "input_dim", "input", "built_model"])
def test_ways_to_say_the_input_shape(first: str) -> None:
    start = {
        "input_shape": lambda: [Dense(3, input_shape=(4,))],
        "input_dim": lambda: [Dense(3, input_dim=4)],
        "input": lambda: [Input(shape=(4,)), Dense(3)],
        "built_model": lambda: [Sequential([Dense(3, input_shape=(4,))])],
    }[first]()
    model = Sequential([*start, Dense(2)])
    assert model.built and model.input_shape == (None, 4)
    assert [w.shape for w in model.weights] == [(4, 3), (3,), (3, 2), (2,)]


def test_build_is_deferred_without_a_shape(rng: np.random.Generator) -> None:
    model = Sequential([Dense(3), Dense(2)])
    assert not model.built and model.weights == []
    with pytest.raises(ValueError, match="before it is built"):
        model.count_params()
    with pytest.raises(AttributeError, match="input_shape="):
        _ = model.inputs
    assert not hasattr(model, "outputs")
    assert model.predict(rng.random((5, 4)), verbose=0).shape == (5, 2)
    assert model.input_shape == (None, 4)
    built = Sequential([Dense(3), Dense(2)])
    built.build((None, 7))
    assert built.weights[0].shape == (7, 3)
    with pytest.raises(ValueError, match=r"expects shape \(None, 7\)"):
        built.build((None, 8))


def test_compile_before_build(rng: np.random.Generator) -> None:
    model = Sequential([Dense(3, activation="softmax")])
    model.compile("sgd", "sparse_categorical_crossentropy", metrics=["accuracy"])
    history = model.fit(rng.random((8, 4)), rng.integers(0, 3, 8), verbose=0)
    assert set(history.history) == {"loss", "accuracy"}


def test_sequential_rejects_what_is_no_layer() -> None:
    with pytest.raises(TypeError, match=r"did you mean Dense\(\)"):
        Sequential([Dense])
    with pytest.raises(TypeError, match="list of layers"):
        Sequential(Dense(3))
    model = Sequential([Dense(3, name="a", input_shape=(4,))])
    with pytest.raises(ValueError, match="called 'a' already"):
        model.add(Dense(3, name="a"))
    with pytest.raises(ValueError, match="first entry only"):
        model.add(Input((3,)))
    with pytest.raises(ValueError, match="Conv2D layer"):
        model.add(layers.Conv2D(2, 3))
    assert [layer.name for layer in model.layers] == ["a"] and model.output_shape == (None, 3)


def test_a_nested_sequential_does_not_change_any_more() -> None:
    inner = Sequential([Dense(3, input_shape=(4,))])
    Sequential([inner, Dense(2)])
    with pytest.raises(ValueError, match="part of another model"):
        inner.add(Dense(5))
    with pytest.raises(ValueError, match="part of another model"):
        inner.pop()


# -- functional -----------------------------------------------------------------------------------


def branching(module: object) -> object:
    """A model whose order of layers is not that of their creation, in lamella or in Keras."""
    layer = module.layers
    left, right = module.Input((4,), name="left"), module.Input((3,), name="right")
    late = layer.Dense(5, name="late")(right)
    shared = layer.Dense(5, name="shared")
    first = shared(left)
    merged = layer.Concatenate(name="merged")([first, layer.Dense(2, name="side")(late)])
    again = shared(layer.Dense(4, name="back")(merged))
    sum_ = layer.Add(name="sum")([again, late])
    return module.Model(
        [left, right], [layer.Dense(1, name="small")(sum_), layer.Dense(2, name="wide")(merged)]
    )


def test_order_of_layers_and_weights_is_that_of_keras() -> None:
    keras = import_keras()
    theirs, ours = branching(keras), branching(lamella)
    assert [layer.name for layer in ours.layers] == [layer.name for layer in theirs.layers]
    assert [w.shape for w in ours.get_weights()] == [w.shape for w in theirs.get_weights()]
    assert ours.output_names == theirs.output_names
    assert ours.count_params() == theirs.count_params()
    rng = np.random.default_rng(3)
    weights = [rng.normal(size=w.shape).astype(np.float32) for w in theirs.get_weights()]
    theirs.set_weights(weights)
    ours.set_weights(weights)
    x = [rng.normal(size=(6, 4)).astype(np.float32), rng.normal(size=(6, 3)).astype(np.float32)]
    for got, expected in zip(ours.predict(x, verbose=0), theirs.predict(x, verbose=0), strict=True):
        np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-5)


def test_order_of_layers() -> None:
    model = branching(lamella)
    assert [layer.name for layer in model.layers] == [
        "right", "left", "late", "shared", "side", "merged", "back", "sum", "small", "wide",
    ]  # fmt: skip
    assert model.get_layer("side").units == 2
    assert model.get_layer(index=0) is model.layers[0]
    with pytest.raises(ValueError, match="no layer 'nothing'"):
        model.get_layer("nothing")
    with pytest.raises(ValueError, match="outside"):
        model.get_layer(index=99)
    with pytest.raises(ValueError, match="either name or index"):
        model.get_layer()


def test_structures_of_inputs_and_outputs(rng: np.random.Generator) -> None:
    a, b = Input((2,), name="a"), Input((3,), name="b")
    y, z = Dense(4, name="y")(a), Dense(5, name="z")(b)
    data_a, data_b = rng.random((7, 2)), rng.random((7, 3))
    as_list = Model([a, b], [y, z])
    first = as_list.predict([data_a, data_b], verbose=0)
    assert [p.shape for p in first] == [(7, 4), (7, 5)]
    by_name = as_list.predict({"b": data_b, "a": data_a}, verbose=0)
    np.testing.assert_array_equal(by_name[1], first[1])
    as_dict = Model({"p": a, "q": b}, {"left": y, "right": z})
    out = as_dict.predict({"p": data_a, "q": data_b}, verbose=0)
    assert list(out) == ["left", "right"]
    np.testing.assert_array_equal(out["left"], first[0])
    assert Model([a], [y]).predict(data_a, verbose=0).shape == (7, 4)
    assert as_list.predict_on_batch([data_a, data_b])[1].shape == (7, 5)
    assert as_list([data_a, data_b])[0].shape == (7, 4)


def test_bad_graphs() -> None:
    a, b = Input((2,), name="a"), Input((2,), name="b")
    both = Add()([a, b])
    with pytest.raises(ValueError, match="depend on input 'b'"):
        Model(a, both)
    with pytest.raises(ValueError, match="a tensor twice"):
        Model([a, a], both)
    with pytest.raises(ValueError, match=r"Model\(inputs=\.\.\., outputs=\.\.\.\)"):
        Model(a)
    with pytest.raises(TypeError, match="symbolic tensors"):
        Model(a, np.ones(3))
    with pytest.raises(ValueError, match="two layers are called 'same'"):
        Model(a, Dense(2, name="same")(Dense(2, name="same")(a)))
    with pytest.raises(ValueError, match="at least one tensor"):
        Model([], both)


def test_a_very_deep_model_meets_no_recursion_limit(rng: np.random.Generator) -> None:
    x = tensor = Input((2,))
    for _ in range(1500):
        tensor = layers.ReLU()(tensor)
    model = Model(x, tensor)
    assert len(model.layers) == 1501
    data = rng.random((3, 2)).astype(np.float32)
    np.testing.assert_array_equal(model.predict(data, verbose=0), data)


def test_an_input_no_output_depends_on(rng: np.random.Generator) -> None:
    a, unused = Input((2,), name="a"), Input((9,), name="unused")
    model = Model([a, unused], Dense(3)(a))
    assert model.predict([rng.random((4, 2)), rng.random((4, 9))], verbose=0).shape == (4, 3)


def test_a_model_may_begin_inside_another(rng: np.random.Generator) -> None:
    x = Input((4,))
    middle = Dense(3, activation="tanh", name="body")(x)
    whole = Model(x, Dense(2, name="head")(middle))
    features, rest = Model(x, middle), Model(middle, whole.output)
    data = rng.random((5, 4))
    step_by_step = rest.predict(features.predict(data, verbose=0), verbose=0)
    np.testing.assert_array_equal(step_by_step, whole.predict(data, verbose=0))
    assert rest.weights[0] is whole.get_layer("head").weights[0]


def test_a_layer_read_twice_and_an_input_handed_through(rng: np.random.Generator) -> None:
    x = Input((3,))
    y = Dense(3)(x)
    model = Model(x, [y, Add()([y, y]), x])
    data = rng.random((4, 3)).astype(np.float32)
    first, double, same = model.predict(data, verbose=0)
    np.testing.assert_array_equal(double, 2 * first)
    np.testing.assert_array_equal(same, data)


# -- nesting --------------------------------------------------------------------------------------


def test_nested_models_are_taken_in(rng: np.random.Generator) -> None:
    inner = Sequential([Dense(4, activation="relu", input_shape=(4,)), Dense(4)], name="inner")
    x = Input((4,))
    model = Model(x, Dense(2)(Add()([inner(x), inner(inner(x))])))
    assert [layer.name for layer in model.layers].count("inner") == 1
    assert len(model.graph.steps) == 2 * 3 + 2
    assert model.count_params() == 2 * 20 + 10
    data = rng.random((6, 4)).astype(np.float32)
    once = inner.predict(data, verbose=0)
    expected = model.layers[-1](once + inner.predict(once, verbose=0))
    np.testing.assert_allclose(model.predict(data, verbose=0), expected, rtol=1e-5, atol=1e-6)


def test_a_nested_model_with_several_outputs(rng: np.random.Generator) -> None:
    x = Input((4,))
    inner = Model(x, [Dense(3)(x), Dense(2)(x)], name="two")
    start = Input((4,))
    first, second = inner(start)
    model = Model(start, Concatenate()([second, first]))
    data = rng.random((5, 4)).astype(np.float32)
    a, b = inner.predict(data, verbose=0)
    np.testing.assert_array_equal(model.predict(data, verbose=0), np.concatenate([b, a], axis=1))
    # Not taken in but called: the same numbers and the same gradients.
    y, pullback = inner.forward(data, True)
    dy = tuple(rng.normal(size=part.shape).astype(np.float32) for part in y)
    run = Training(model.graph, input_gradients=True)
    _, tape = run.forward([data])
    (dx,) = run.backward(tape, [np.concatenate([dy[1], dy[0]], axis=1)])
    np.testing.assert_allclose(pullback(dy), dx, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(pullback(dy), dx, rtol=1e-5, atol=1e-6)


def test_models_nested_in_models_without_end_are_refused() -> None:
    x = Input((2,))
    model = Model(x, layers.ReLU()(x))
    with pytest.raises(ValueError, match="32768 layer calls"):
        for _ in range(20):
            x = Input((2,))
            model = Model(x, model(model(x)))


# -- freezing -------------------------------------------------------------------------------------


def test_trainable_reaches_all_layers() -> None:
    inner = Sequential([Dense(3, input_shape=(4,))])
    model = Sequential([inner, BatchNormalization(), Dense(2)])
    assert len(model.trainable_weights) == 6 and len(model.non_trainable_weights) == 2
    inner.trainable = False
    assert len(model.trainable_weights) == 4
    model.trainable = False
    assert model.trainable_weights == [] and len(model.non_trainable_weights) == 8
    model.trainable = True
    assert inner.layers[0].trainable and len(model.trainable_weights) == 6


def test_no_gradient_is_computed_below_the_lowest_trained_layer(
    rng: np.random.Generator,
) -> None:
    asked = []

    class Probe(Dense):
        def forward(self, x: object, training: bool) -> object:
            asked.append((self.name, self.needs_input_gradient))
            return super().forward(x, training)

        def call(self, x: object, training: bool = False) -> object:
            asked.append((self.name, "call"))
            return super().call(x, training)

    frozen = Probe(3, name="frozen", input_shape=(4,))
    model = Sequential([frozen, Probe(3, name="lowest"), Probe(2, name="top")])
    frozen.trainable = False
    model.compile("sgd", "mse")
    before = model.get_weights()
    model.train_on_batch(rng.random((5, 4)), rng.random((5, 2)))
    assert asked == [("frozen", "call"), ("lowest", False), ("top", True)]
    after = model.get_weights()
    np.testing.assert_array_equal(before[0], after[0])
    assert all((b != a).any() for b, a in zip(before[2:], after[2:], strict=True))
    # The flag is set for the length of a step only.
    assert all(layer.needs_input_gradient for layer in model.layers)


def test_a_shared_layer_needs_its_input_gradient_if_one_call_does(
    rng: np.random.Generator,
) -> None:
    x = Input((3,))
    shared = Dense(3, activation="tanh")
    model = Model(x, shared(shared(x)))
    model.compile("sgd", "mse")
    before = model.get_weights()
    data, target = rng.random((4, 3)), rng.random((4, 3))
    model.train_on_batch(data, target)
    kernel, bias = before

    def loss(kernel: np.ndarray) -> float:
        hidden = np.tanh(np.tanh(data @ kernel + bias) @ kernel + bias)
        return float(np.mean((hidden - target) ** 2))

    gradient = (before[0] - model.get_weights()[0]) / 0.01
    for row, column in [(0, 0), (1, 2), (2, 1)]:
        step = np.zeros((3, 3))
        step[row, column] = 1e-5
        expected = (loss(kernel + step) - loss(kernel - step)) / 2e-5
        assert gradient[row, column] == pytest.approx(expected, rel=1e-2, abs=1e-4)


# -- calling, cloning, describing -----------------------------------------------------------------


def test_calling_a_model_on_arrays(rng: np.random.Generator) -> None:
    model = Sequential([Dense(4, input_shape=(3,)), Dropout(0.5), Dense(4)])
    x = rng.random((64, 3))
    np.testing.assert_array_equal(model(x), model.predict(x, batch_size=64, verbose=0))
    lamella.utils.set_random_seed(1)
    first = model(x, training=True)
    assert (first != model(x)).any()
    lamella.utils.set_random_seed(1)
    np.testing.assert_array_equal(model(x, training=True), first)


def test_training_is_no_part_of_a_model_within_a_model() -> None:
    inner = Sequential([Dropout(0.5, input_shape=(3,))], name="inner")
    x = Input((3,))
    message = "model 'inner': training=True is not supported on symbolic tensors"
    with pytest.raises(ValueError, match=message):
        inner(x, training=True)
    model = Model(x, inner(x, training=False))
    data = np.ones((64, 3))
    np.testing.assert_array_equal(model(data), data)
    assert (model(data, training=True) != data).any()


def test_integer_inputs() -> None:
    x = Input((2,), dtype="int32")
    model = Model(x, Flatten()(x))
    assert model.outputs[0].dtype == "int32"
    y = model.predict(np.array([[1, 2], [3, 4]], np.int64), verbose=0)
    assert y.dtype == np.int32
    with pytest.raises(TypeError, match="expects integers"):
        model.predict(np.ones((2, 2)), verbose=0)
    with pytest.raises(ValueError, match="do not fit int32"):
        model.predict(np.array([[2**40, 0]]), verbose=0)


@pytest.mark.parametrize("kind", ["sequential", "branching", "nested", "dict"])
def test_config_and_clone(kind: str, rng: np.random.Generator) -> None:
    if kind == "sequential":
        model = Sequential([Dense(3, input_shape=(4,), activation="relu"), Dense(2)], name="s")
        data = rng.random((5, 4))
    elif kind == "branching":
        model, data = branching(lamella), [rng.random((5, 4)), rng.random((5, 3))]
    elif kind == "nested":
        x = Input((4,))
        inner = branching(lamella)
        y = inner([x, Dense(3)(x)])
        model, data = Model(x, list(y)), rng.random((5, 4))
    else:
        x = Input((4,))
        model, data = Model({"in": x}, {"out": Dense(2)(x)}), {"in": rng.random((5, 4))}
    for copy in (type(model).from_config(model.get_config()), clone_model(model)):
        assert copy is not model and copy.name == model.name
        assert copy.get_config() == model.get_config()
        assert not {id(w) for w in copy.weights} & {id(w) for w in model.weights}
        copy.set_weights(model.get_weights())
        ours, theirs = model.predict(data, verbose=0), copy.predict(data, verbose=0)
        for a, b in zip(_flat(ours), _flat(theirs), strict=True):
            np.testing.assert_array_equal(a, b)


def _flat(structure: object) -> list[np.ndarray]:
    if isinstance(structure, dict):
        return list(structure.values())
    return structure if isinstance(structure, list) else [structure]


def test_clone_with_a_function() -> None:
    model = Sequential([Dense(3, input_shape=(4,)), Sequential([Dense(3)])])

    def without_bias(layer: Dense) -> Dense:
        return Dense(layer.units, use_bias=False, name=layer.name)

    clone = clone_model(model, without_bias)
    assert [w.shape for w in clone.weights] == [(4, 3), (3, 3)]
    with pytest.raises(TypeError, match="expects a Model"):
        clone_model(Dense(3))


@pytest.mark.parametrize(
    "config",
    [
        {},
        {"layers": 3},
        {"name": "m", "layers": [{"class_name": "Dense", "config": {"units": 2}}]},
        {"name": "m", "layers": [], "calls": [], "input_layers": [], "output_layers": []},
        {
            "name": "m",
            "layers": [],
            "calls": [{"layer": "a", "inputs": [["b", 0, 0]], "takes_list": False}],
            "input_layers": [],
            "output_layers": [],
        },
    ],
)
def test_bad_configs(config: dict) -> None:
    with pytest.raises(ValueError):
        Model.from_config(config)


def test_names_follow_keras() -> None:
    assert Sequential().name.startswith("sequential")
    x = Input((2,))
    assert Model(x, Dense(2)(x)).name.startswith("functional")
    assert Sequential(name="mine").name == "mine"


def test_summary_of_a_chain(capsys: pytest.CaptureFixture[str]) -> None:
    model = Sequential(
        [Dense(1000, input_shape=(9,), name="wide"), BatchNormalization(name="norm")], name="net"
    )
    assert model.summary(line_length=70) is None
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == 'Model: "net"'
    assert {len(line) for line in lines[1:-3]} == {70}
    assert any("wide (Dense)" in line and "10,000" in line for line in lines)
    assert lines[-3:] == [
        " Total params: 14,000 (54.69 KB)",
        " Trainable params: 12,000 (46.88 KB)",
        " Non-trainable params: 2,000 (7.81 KB)",
    ]
    model.compile("adam", "mse")
    model.train_on_batch(np.ones((4, 9)), np.ones((4, 1000)))
    collected: list[str] = []
    model.summary(print_fn=collected.append, show_trainable=True)
    assert "Optimizer params: 24,0" in collected[0] and "Trainable" in collected[0]
    assert capsys.readouterr().out == ""
    with pytest.raises(ValueError, match="line_length"):
        model.summary(line_length=20)


def test_summary_of_a_graph() -> None:
    model = branching(lamella)
    text: list[str] = []
    model.summary(line_length=120, print_fn=text.append)
    assert "Connected to" in text[0] and "shared[0][0], side[0][0]" in text[0]
    unbuilt: list[str] = []
    Sequential([Dense(3)]).summary(print_fn=unbuilt.append)
    assert "0 (unbuilt)" in unbuilt[0] and "?" in unbuilt[0]
    nested: list[str] = []
    inner = Sequential([Dense(3, input_shape=(3,), name="core")], name="inner")
    Sequential([inner]).summary(print_fn=nested.append, expand_nested=True)
    assert "\u2514 core (Dense)" in nested[0]


def test_import_is_lazy() -> None:
    import subprocess
    import sys

    code = (
        "import sys, lamella; "
        "assert not {'numpy', 'lamella.ops', 'lamella.layers'} & set(sys.modules); "
        "assert lamella.Sequential is lamella.models.Sequential; "
        "assert 'layers' in dir(lamella) and lamella.__version__; "
        "assert issubclass(lamella.ModelFileError, ValueError)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        _ = lamella.nonsense
