"""What all layers share: names, symbolic calls, weights, gradients, losses."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from lamella import layers
from lamella.layers.naming import reset_names, snake_case

# -- names and graph ------------------------------------------------------------------------------


def test_names_count_up_by_class() -> None:
    reset_names()
    assert [layers.Conv2D(1, 1).name for _ in range(3)] == ["conv2d", "conv2d_1", "conv2d_2"]
    assert layers.ReLU().name == "re_lu"
    assert layers.Conv2D(1, 1, name="mine").name == "mine"
    assert layers.Conv2D(1, 1).name == "conv2d_3"
    assert layers.MaxPool2D().name == "max_pooling2d"
    assert layers.Input((2,)).name == "input_layer"
    assert snake_case("GlobalAveragePooling1D") == "global_average_pooling1d"
    with pytest.raises(ValueError, match="without '/'"):
        layers.Flatten(name="a/b")


def test_weight_paths_and_keras_order() -> None:
    layer = layers.BatchNormalization(name="bn")
    layer.build((None, 3))
    assert [w.path for w in layer.weights] == [
        "bn/gamma",
        "bn/beta",
        "bn/moving_mean",
        "bn/moving_variance",
    ]
    assert [w.name for w in layer.trainable_weights] == ["gamma", "beta"]
    layer.trainable = False
    assert layer.trainable_weights == [] and len(layer.non_trainable_weights) == 4
    assert layer.weights[0].name == "gamma"


def test_shared_layer_has_one_node_a_call_and_one_set_of_weights() -> None:
    dense = layers.Dense(2)
    a, b = layers.Input((3,)), layers.Input((3,))
    first, second = dense(a), dense(b)
    assert len(dense.weights) == 2 and len(dense.nodes) == 2
    assert dense.input is a and dense.output is first
    assert second.node is dense.nodes[1] and second.node.inputs == (b,)
    assert a.node.layer.output is a and a.node.inputs == ()
    merged = layers.Add()([first, second])
    assert merged.node.takes_list and merged.node.inputs == (first, second)


def test_operators_of_symbolic_tensors() -> None:
    a, b = layers.Input((3,)), layers.Input((3,))
    assert type((a + b).node.layer) is layers.Add
    assert type((a * b).node.layer) is layers.Multiply
    with pytest.raises(TypeError):
        np.ones(3) + a
    with pytest.raises(TypeError, match="no values"):
        np.asarray(a)
    with pytest.raises(TypeError, match="no values"):
        bool(a)
    with pytest.raises(TypeError, match="mix symbolic tensors"):
        layers.Add()([a, np.ones((2, 3))])


def test_training_is_no_part_of_a_graph() -> None:
    x = layers.Input((3,))
    dropout = layers.Dropout(0.5, name="drop")
    message = r"Dropout layer 'drop': training=True is not supported on symbolic tensors: .*fit"
    with pytest.raises(ValueError, match=message):
        dropout(x, training=True)
    with pytest.raises(ValueError, match="training=True is not supported on symbolic tensors"):
        layers.Add()([x, x], training=True)
    assert dropout.nodes == []
    # What a model's methods decide anyway; programs that freeze layers say so.
    for training in (False, None):
        assert dropout(x, training=training).shape == (None, 3)


def test_output_before_any_call_is_an_attribute_error() -> None:
    assert not hasattr(layers.Dense(2), "output")


@pytest.mark.parametrize(
    ("arguments", "shape"),
    [
        ({"input_shape": (28, 28, 1)}, (None, 28, 28, 1)),
        ({"input_shape": [None, 3]}, (None, None, 3)),
        ({"input_dim": 8}, (None, 8)),
        ({"input_length": 5}, (None, 5)),
        ({"input_dim": 8, "input_length": 5}, (None, 5, 8)),
        ({"batch_input_shape": (4, 3)}, (4, 3)),
        ({"batch_shape": (None, 3)}, (None, 3)),
        ({}, None),
    ],
)
def test_first_layer_shape(arguments: dict[str, Any], shape: Any) -> None:
    layer = layers.Flatten(**arguments)
    assert layer.batch_input_shape == shape
    assert layers.Flatten.from_config(layer.get_config()).batch_input_shape == shape


def test_first_layer_shape_errors() -> None:
    with pytest.raises(ValueError, match="give only one of"):
        layers.Flatten(input_shape=(3,), batch_shape=(None, 3))
    with pytest.raises(ValueError, match="input_shape"):
        layers.Flatten(input_shape=3)
    with pytest.raises(ValueError, match="input_shape"):
        layers.Flatten(input_shape=(-3,))


def test_input() -> None:
    assert layers.Input((None, 3), batch_size=4).shape == (4, None, 3)
    assert layers.Input(batch_shape=(2, 3)).shape == (2, 3)
    assert layers.Input((5,), dtype="int32").dtype == "int32"
    layer = layers.Input((5,), name="ids", dtype=np.int64).node.layer
    assert layers.InputLayer.from_config(layer.get_config()).get_config() == layer.get_config()
    for arguments in ({}, {"shape": (1,), "batch_shape": (1, 1)}, {"shape": 3}, {"shape": ("a",)}):
        with pytest.raises(ValueError, match="InputLayer layer"):
            layers.Input(**arguments)
    with pytest.raises(ValueError, match="sparse is not supported"):
        layers.Input((3,), sparse=True)
    with pytest.raises(ValueError, match="dtype='float16' is not supported"):
        layers.Input((3,), dtype="float16")


def test_integer_inputs_keep_their_dtype_in_layers_that_only_arrange() -> None:
    assert layers.Reshape((2, 2))(layers.Input((4,), dtype="int32")).dtype == "int32"
    assert layers.Flatten()(np.ones((2, 3), np.int32)).dtype == np.int32
    assert layers.Dense(2)(np.ones((2, 3), np.int32)).dtype == np.float32


# -- weights --------------------------------------------------------------------------------------


def test_set_weights_checks_before_it_changes_anything() -> None:
    layer = layers.Dense(2, name="d")
    with pytest.raises(ValueError, match=r"Dense layer 'd': set_weights got 2 arrays.*not built"):
        layer.set_weights([np.ones((3, 2)), np.ones(2)])
    layer.build((None, 3))
    before = layer.get_weights()
    with pytest.raises(ValueError, match="Dense layer 'd': weight 'd/bias' expects shape"):
        layer.set_weights([np.ones((3, 2)), np.ones(3)])
    with pytest.raises(ValueError, match="got 1 arrays, has weights: kernel"):
        layer.set_weights([np.ones((3, 2))])
    with pytest.raises(TypeError, match="weight 'd/kernel' expects real numbers"):
        layer.set_weights([np.full((3, 2), 1j), np.ones(2)])
    for old, new in zip(before, layer.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)
    with pytest.raises(ValueError, match="d/kernel"):
        layer.kernel.assign(np.ones((2, 3)))
    np.testing.assert_array_equal(np.asarray(layer.kernel), layer.kernel.numpy())


def test_count_params_needs_weights() -> None:
    with pytest.raises(ValueError, match="before it is built"):
        layers.Dense(2).count_params()


def test_building_twice_keeps_the_weights() -> None:
    layer = layers.Dense(2)
    layer.build((None, 3))
    kernel = layer.kernel
    layer.build((8, 3))
    assert layer.kernel is kernel and len(layer.weights) == 2
    with pytest.raises(ValueError, match="expects 3 features"):
        layer.build((None, 4))


def test_gradients_without_an_owner_are_summed_apart() -> None:
    """What a pullback delivered must not change when the next one adds to it."""
    weight = layers.Weight("w", "l/w", np.zeros(2, np.float32))
    mine = np.ones(2, np.float32)
    weight.add_gradient(mine)
    weight.add_gradient(mine)
    np.testing.assert_array_equal(weight.gradient, [2, 2])
    np.testing.assert_array_equal(mine, [1, 1])
    with pytest.raises(ValueError, match="'l/w' has shape"):
        weight.add_gradient(np.ones(3, np.float32))
    weight.reset_gradient()
    assert weight.gradient is None


def test_regularizers_enter_the_losses() -> None:
    layer = layers.Dense(2, kernel_regularizer="l2", bias_regularizer="l1")
    layer.build((None, 3))
    layer.kernel.assign(np.full((3, 2), 2))
    layer.bias.assign([-1, 2])
    assert layer.losses == pytest.approx([0.01 * 24, 0.01 * 3])


def test_activity_regularizer(rng: np.random.Generator) -> None:
    layer = layers.Dense(3, activity_regularizer="l2", activation="softmax")
    assert layer.forward_logits is None
    x = rng.standard_normal((4, 5)).astype(np.float32)
    y = layer(x)
    penalty = 0.01 * float(np.sum(np.square(y, dtype=np.float64))) / 4
    assert layer.losses == pytest.approx([penalty])
    plain = layers.Dense(3, activation="softmax")
    plain.build((None, 5))
    plain.set_weights(layer.get_weights())
    dy = rng.standard_normal((4, 3)).astype(np.float32)
    dx = layer.forward(x, True)[1](dy)
    np.testing.assert_allclose(dx, plain.forward(x, True)[1](dy + 0.02 * y / 4), rtol=1e-4)
    assert len(layer.losses) == 2
    layer.reset_losses()
    assert layer.losses == []
    # Permute.forward is written in terms of call: still one penalty.
    permute = layers.Permute((1,), activity_regularizer="l1")
    permute.forward(x, True)
    assert len(permute.losses) == 1
    # A call begins anew, and a call written in terms of forward adds one penalty too.
    permute(x, training=True)
    assert len(permute.losses) == 1

    class Twice(layers.Layer):
        def forward(self, x: Any, training: bool) -> Any:
            return 2 * x, lambda dy: 2 * dy

    twice = Twice(activity_regularizer="l1")
    twice(x)
    assert twice.losses == pytest.approx([0.01 * 2 * float(np.abs(x).sum()) / 4])
    config = layer.get_config()
    assert layers.Dense.from_config(config).activity_regularizer.l2 == pytest.approx(0.01)
