"""Arguments and shapes that layers refuse: always a ValueError that names the layer."""

from __future__ import annotations

from typing import Any

import pytest

from lamella import layers


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("Dense", {"units": 0}, "units expects an integer >= 1, got 0"),
        ("Dense", {"units": 2.5}, "units expects"),
        ("Dense", {"units": True}, "units expects"),
        ("Dense", {"units": 2, "kernel_constraint": "max_norm"}, "kernel_constraint is not"),
        ("Dense", {"units": 2, "lora_rank": 4}, "lora_rank is not supported"),
        ("Dense", {"units": 2, "dtype": "float16"}, "computes in 'float32'"),
        ("Dense", {"units": 2, "activation": "mish"}, "unknown activation 'mish'; known"),
        ("Dense", {"units": 2, "activation": abs}, "has no .vjp"),
        ("Dense", {"units": 2, "colour": 1}, "unknown arguments colour"),
        ("Dense", {"units": 2, "use_bias": None}, "use_bias expects True or False"),
        ("Dense", {"units": 2, "trainable": 1}, "trainable expects True or False"),
        ("Dense", {"units": 2, "kernel_initializer": "no_such"}, "no_such"),
        ("Conv2D", {"filters": -1, "kernel_size": 3}, "filters expects"),
        ("Conv2D", {"filters": 2, "kernel_size": 0}, "kernel_size expects"),
        ("Conv2D", {"filters": 2, "kernel_size": (1, 2, 3)}, "kernel_size expects"),
        ("Conv2D", {"filters": 2, "kernel_size": 3, "strides": 0}, "strides expects"),
        ("Conv2D", {"filters": 2, "kernel_size": 3, "padding": "full"}, "padding expects one of"),
        ("Conv2D", {"filters": 2, "kernel_size": 3, "padding": "causal"}, "padding expects"),
        ("Conv2D", {"filters": 3, "kernel_size": 3, "groups": 2}, "multiple of groups"),
        (
            "Conv2D",
            {"filters": 2, "kernel_size": 3, "data_format": "channels_first"},
            "use 'channels_last'",
        ),
        (
            "Conv1D",
            {"filters": 2, "kernel_size": 3, "strides": 2, "dilation_rate": 2},
            "strides > 1 do not go with dilation_rate > 1",
        ),
        (
            "Conv2DTranspose",
            {"filters": 2, "kernel_size": 3, "strides": 2, "output_padding": 2},
            "output_padding must be below",
        ),
        ("DepthwiseConv2D", {"kernel_size": 3, "depth_multiplier": 0}, "depth_multiplier expects"),
        (
            "DepthwiseConv2D",
            {"kernel_size": 3, "depthwise_constraint": "x"},
            "depthwise_constraint is not",
        ),
        ("SeparableConv2D", {"filters": 2, "kernel_size": 3, "strides": -1}, "strides expects"),
        ("MaxPooling2D", {"pool_size": "22"}, "pool_size expects"),
        ("AveragePooling1D", {"pool_size": 2, "strides": (1, 1)}, "strides expects"),
        ("ZeroPadding2D", {"padding": -1}, "padding expects"),
        ("ZeroPadding2D", {"padding": (1, 2, 3)}, "padding expects"),
        ("UpSampling2D", {"interpolation": "bicubic"}, "'nearest', 'bilinear'"),
        ("Reshape", {"target_shape": (-1, -1)}, "at most one -1"),
        ("Permute", {"dims": (0, 1)}, "permutation of 1, 2"),
        ("BatchNormalization", {"momentum": 1.5}, "momentum expects"),
        ("BatchNormalization", {"epsilon": 0}, "epsilon expects"),
        ("BatchNormalization", {"renorm": True}, "renorm is not supported"),
        ("LayerNormalization", {"axis": 1.0}, "axis expects an integer or a list of integers"),
        ("LayerNormalization", {"axis": []}, "axis expects an integer or a list of integers"),
        ("LayerNormalization", {"axis": (1, True)}, "axis expects an integer or a list"),
        ("LayerNormalization", {"epsilon": 0}, "epsilon expects"),
        ("LayerNormalization", {"center": 1}, "center expects True or False"),
        ("LayerNormalization", {"rms_scaling": True}, "rms_scaling is not supported"),
        ("LayerNormalization", {"gamma_constraint": "x"}, "gamma_constraint is not supported"),
        ("LayerNormalization", {"beta_initializer": "no_such"}, "no_such"),
        ("RMSNormalization", {"axis": None}, "axis expects"),
        ("RMSNormalization", {"epsilon": -1e-6}, "epsilon expects"),
        ("UnitNormalization", {"axis": "last"}, "axis expects"),
        ("GroupNormalization", {"groups": 0}, "groups expects an integer >= 1, or -1"),
        ("GroupNormalization", {"groups": -2}, "groups expects"),
        ("GroupNormalization", {"groups": 2.0}, "groups expects"),
        ("GroupNormalization", {"axis": (1, 2)}, "axis expects an integer"),
        ("GroupNormalization", {"beta_constraint": "x"}, "beta_constraint is not supported"),
        ("Concatenate", {"axis": 0}, "axis expects"),
        ("Dropout", {"rate": 1.0}, "rate expects"),
        ("Dropout", {"rate": -0.1}, "rate expects"),
        ("Dropout", {"rate": 0.1, "seed": -1}, "seed"),
        ("Dropout", {"rate": 0.1, "noise_shape": (0,)}, "noise_shape expects"),
        ("ReLU", {"max_value": -1}, "max_value expects"),
        ("LeakyReLU", {"negative_slope": None}, "negative_slope expects"),
        ("Softmax", {"axis": (1, 2)}, "axis expects one integer"),
    ],
)
def test_bad_arguments(name: str, arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        getattr(layers, name)(**arguments, name="bad")
    if "activation" not in arguments or "unknown" in message:
        assert str(caught.value).startswith(f"{name} layer 'bad': ")


@pytest.mark.parametrize(
    ("layer", "shape", "message"),
    [
        (layers.Dense(2), (None, None), "known last axis"),
        (layers.Dense(2), (None, 0), "known last axis"),
        (layers.Conv2D(2, 5), (None, 4, 9, 3), r"window of \(5, 5\) does not fit"),
        (layers.Conv2D(2, 3, dilation_rate=2), (None, 4, 9, 3), "with dilation"),
        (layers.Conv2D(4, 3, groups=2), (None, 8, 8, 3), "multiple of groups=2"),
        (layers.MaxPooling2D(3), (None, 2, 8, 3), "does not fit"),
        (layers.Reshape((5,)), (None, 4), "cannot reshape"),
        (layers.Permute((2, 1)), (None, 4), "expects an input of 3 axes"),
        (layers.BatchNormalization(axis=1), (None, 4, 4, 3), "must be the last axis"),
        (layers.LayerNormalization(axis=2), (None, 4), r"axis=2 expects axes of input shape"),
        (layers.LayerNormalization(axis=[1, 0]), (None, 4), r"axis=\[1, 0\] .* the batch axis"),
        (layers.LayerNormalization(axis=(-1, 1)), (None, 4), "names an axis .* twice"),
        (layers.LayerNormalization(axis=[1, 2]), (None, None, 4), "known size .* along axis 1"),
        (layers.RMSNormalization(axis=-2), (None, 4), "other than the batch axis"),
        (layers.RMSNormalization(), (None, 0), "known size of at least 1 along axis 1"),
        (layers.UnitNormalization(axis=0), (None, 4), "other than the batch axis"),
        (layers.GroupNormalization(axis=1), (None, 4, 4, 3), "must be the last axis"),
        (layers.GroupNormalization(), (None, 4, 16), "groups=32 must divide the 16 channels"),
        (layers.GroupNormalization(3), (None, 4, 16), "groups=3 must divide the 16 channels"),
        (layers.GroupNormalization(), (None, 4, None), "known last axis"),
        (layers.Softmax(axis=3), (None, 4), "axis 3 is not an axis"),
        (layers.Add(), [(None, 3), (None, 4)], "sizes 3 and 4 do not broadcast"),
        (layers.Add(), [(2, 3), (4, 3)], "differ in batch size"),
        (layers.Add(), (None, 3), "expects a list of inputs"),
        (layers.Concatenate(), [(None, 2, 3), (None, 3, 3)], "differ in axis 1"),
        (layers.Concatenate(), [(None, 3), (None, 3, 3)], "number of axes"),
        (layers.Concatenate(axis=4), [(None, 3), (None, 3)], "axis 4 cannot join"),
        (layers.Dropout(0.5, noise_shape=(None, 2)), (None, 3), "does not broadcast"),
    ],
)
def test_bad_shapes(layer: Any, shape: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        layer.build(shape)
    assert str(caught.value).startswith(f"{layer.label}: ")
    assert not layer.built and layer.weights == []
