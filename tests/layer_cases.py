"""One entry for each layer and each of its ways: what the tests of all layers run through."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from lamella import layers

# Of finite differences: the inputs lie further apart than that.
STEP = 1e-2


class Case(NamedTuple):
    """A layer class, its arguments, the shapes of its inputs (without batch) and output."""

    name: str
    arguments: dict[str, Any]
    shapes: tuple[tuple[int, ...], ...]
    output: tuple[int, ...]
    training: bool = False

    def layer(self, **more: Any) -> Any:
        return getattr(layers, self.name)(**{**self.arguments, **more})

    def inputs(self, rng: np.random.Generator, batch: int = 2) -> Any:
        """Distinct values, at least STEP apart and STEP from 0: no maximum or sign may flip."""
        arrays = []
        for shape in self.shapes:
            size = batch * int(np.prod(shape))
            values = rng.permutation(np.arange(size) - size // 2 + 0.5) * max(2.5 * STEP, 4 / size)
            arrays.append(values.reshape(batch, *shape).astype(np.float32))
        return arrays if self.is_merging else arrays[0]

    @property
    def is_merging(self) -> bool:
        return self.name in {"Add", "Multiply", "Average", "Concatenate"}

    @property
    def is_keras(self) -> bool:
        """Whether Keras has the layer and calls it as it is called here, on one tensor."""
        ours = {"PositionalEncoding", "RotaryEmbedding"}
        attends = self.name.endswith("Attention") or self.name.startswith("Transformer")
        return self.name not in ours and not attends


IMAGE = ((5, 6, 4),)
STEPS = ((7, 3),)
# Wide enough for layer normalization to be nearly linear within STEP.
WIDE = (((5, 12),), (5, 12))
CASES = [
    Case("Dense", {"units": 3}, ((4,),), (3,)),
    Case("Dense", {"units": 3, "activation": "tanh", "use_bias": False}, ((2, 4),), (2, 3)),
    Case("Dense", {"units": 5, "activation": "softmax"}, ((4,),), (5,)),
    Case("Activation", {"activation": "gelu"}, ((3, 4),), (3, 4)),
    Case("Activation", {"activation": "relu6"}, ((3, 4),), (3, 4)),
    Case("Activation", {"activation": "log_softmax"}, ((5,),), (5,)),
    Case("ReLU", {}, ((9,),), (9,)),
    Case("ReLU", {"negative_slope": 0.3}, ((9,),), (9,)),
    Case("ReLU", {"max_value": 1.01, "negative_slope": 0.1, "threshold": 0.51}, ((9,),), (9,)),
    Case("LeakyReLU", {}, ((9,),), (9,)),
    Case("ELU", {"alpha": 0.7}, ((9,),), (9,)),
    Case("Softmax", {}, ((2, 5),), (2, 5)),
    Case("Softmax", {"axis": 1}, ((3, 2),), (3, 2)),
    Case("Flatten", {}, ((2, 3, 2),), (12,)),
    Case("Reshape", {"target_shape": (3, -1)}, ((6, 2),), (3, 4)),
    Case("Permute", {"dims": (2, 3, 1)}, ((2, 3, 4),), (3, 4, 2)),
    Case("RepeatVector", {"n": 3}, ((4,),), (3, 4)),
    Case("Masking", {"mask_value": 9.5}, ((3, 2),), (3, 2)),
    Case("ZeroPadding2D", {"padding": ((1, 0), (2, 3))}, ((2, 3, 2),), (3, 8, 2)),
    Case("UpSampling2D", {"size": (2, 3)}, ((2, 3, 2),), (4, 9, 2)),
    Case("UpSampling2D", {"size": (3, 2), "interpolation": "bilinear"}, ((3, 1, 2),), (9, 2, 2)),
    Case("Conv1D", {"filters": 4, "kernel_size": 3, "padding": "causal"}, STEPS, (7, 4)),
    Case("Conv1D", {"filters": 6, "kernel_size": 2, "strides": 3, "groups": 3}, STEPS, (2, 6)),
    Case("Conv2D", {"filters": 3, "kernel_size": 3, "strides": 2}, IMAGE, (2, 2, 3)),
    Case(
        "Conv2D",
        {
            "filters": 6,
            "kernel_size": (3, 2),
            "padding": "same",
            "dilation_rate": (1, 2),
            "groups": 2,
            "activation": "sigmoid",
            "use_bias": False,
        },
        IMAGE,
        (5, 6, 6),
    ),
    Case("DepthwiseConv2D", {"kernel_size": 3, "depth_multiplier": 2}, IMAGE, (3, 4, 8)),
    Case(
        "SeparableConv2D",
        {"filters": 5, "kernel_size": 2, "strides": 2, "padding": "same", "depth_multiplier": 2},
        IMAGE,
        (3, 3, 5),
    ),
    Case(
        "SeparableConv2D",
        {"filters": 3, "kernel_size": (1, 3), "activation": "softmax", "use_bias": False},
        IMAGE,
        (5, 4, 3),
    ),
    Case("Conv2DTranspose", {"filters": 3, "kernel_size": 3, "strides": 2}, IMAGE, (11, 13, 3)),
    Case(
        "Conv2DTranspose",
        {
            "filters": 2,
            "kernel_size": (3, 2),
            "strides": (2, 3),
            "padding": "same",
            "output_padding": 1,
            "activation": "tanh",
        },
        IMAGE,
        (10, 16, 2),
    ),
    Case("Conv2DTranspose", {"filters": 1, "kernel_size": 2, "strides": 3}, IMAGE, (15, 18, 1)),
    Case("MaxPooling1D", {}, STEPS, (3, 3)),
    Case("MaxPooling2D", {"pool_size": (2, 3), "strides": 1}, ((4, 5, 2),), (3, 3, 2)),
    Case("AveragePooling1D", {"pool_size": 3, "strides": 2, "padding": "same"}, STEPS, (4, 3)),
    Case("AveragePooling2D", {"pool_size": 2, "padding": "same"}, ((5, 4, 2),), (3, 2, 2)),
    Case("GlobalAveragePooling1D", {}, STEPS, (3,)),
    Case("GlobalAveragePooling2D", {"keepdims": True}, IMAGE, (1, 1, 4)),
    Case("GlobalMaxPooling1D", {"keepdims": True}, STEPS, (1, 3)),
    Case("GlobalMaxPooling2D", {}, IMAGE, (4,)),
    Case("BatchNormalization", {}, ((3, 2, 4),), (3, 2, 4), training=True),
    Case("BatchNormalization", {"center": False, "epsilon": 0.1}, ((4,),), (4,)),
    Case("BatchNormalization", {"scale": False, "axis": 2}, ((3, 4),), (3, 4), training=True),
    Case("LayerNormalization", {}, ((3, 4),), (3, 4)),
    Case("LayerNormalization", {"scale": False, "epsilon": 0.1}, ((5,),), (5,)),
    Case("LayerNormalization", {"center": False}, IMAGE, (5, 6, 4)),
    Case("RMSNormalization", {}, ((3, 4),), (3, 4)),
    Case("RMSNormalization", {"axis": [2], "epsilon": 0.1}, ((3, 5),), (3, 5)),
    Case("GroupNormalization", {"groups": 2}, IMAGE, (5, 6, 4)),
    Case("GroupNormalization", {"groups": -1, "center": False}, STEPS, (7, 3)),
    Case("GroupNormalization", {"groups": 1, "scale": False, "epsilon": 0.1}, ((6,),), (6,)),
    Case("UnitNormalization", {}, ((3, 4),), (3, 4)),
    Case("UnitNormalization", {"axis": [1, 3]}, ((3, 2, 4),), (3, 2, 4)),
    Case("Add", {}, ((2, 3), (2, 3), (2, 3)), (2, 3)),
    Case("Add", {}, ((4, 1, 3), (2, 3)), (4, 2, 3)),
    Case("Multiply", {}, ((2, 3), (2, 1), (2, 3)), (2, 3)),
    Case("Average", {}, ((2, 3), (2, 3), (3,)), (2, 3)),
    Case("Concatenate", {}, ((2, 3), (2, 1), (2, 2)), (2, 6)),
    Case("Concatenate", {"axis": 1}, ((2, 3), (1, 3)), (3, 3)),
    Case("Dropout", {"rate": 0.4, "seed": 3}, ((3, 4),), (3, 4)),
    Case("Dropout", {"rate": 0.4, "noise_shape": (None, 1, 4)}, ((3, 4),), (3, 4)),
    Case("SpatialDropout2D", {"rate": 0.4}, ((2, 3, 4),), (2, 3, 4)),
    Case("Attention", {}, STEPS, (7, 3)),
    Case("MultiHeadAttention", {"num_heads": 3}, STEPS, (7, 3)),
    Case(
        "MultiHeadAttention",
        {"num_heads": 2, "key_dim": 3, "value_dim": 5, "output_shape": 4, "sliding_window": 2},
        STEPS,
        (7, 4),
    ),
    Case(
        "GroupedQueryAttention",
        {"head_dim": 3, "num_query_heads": 4, "num_key_value_heads": 2, "use_bias": False},
        STEPS,
        (7, 3),
    ),
    # Normalized first: else the large inputs make attention so sharp that STEP is too long.
    Case(
        "TransformerEncoder",
        {"intermediate_dim": 5, "num_heads": 3, "activation": "tanh", "normalize_first": True},
        *WIDE,
    ),
    Case(
        "TransformerDecoder",
        {"intermediate_dim": 5, "num_heads": 1, "activation": "tanh", "normalize_first": True},
        *WIDE,
    ),
    Case("AdditiveAttention", {}, STEPS, (7, 3)),
    Case("AdditiveAttention", {"use_scale": False}, ((4, 2),), (4, 2)),
    Case("PositionalEncoding", {}, ((3, 4),), (3, 4)),
    Case("PositionalEncoding", {"max_wavelength": 50.0}, ((4, 5),), (4, 5)),
    Case("RotaryEmbedding", {}, ((3, 4),), (3, 4)),
    Case("RotaryEmbedding", {"max_wavelength": 9, "scaling_factor": 2}, ((3, 2, 4),), (3, 2, 4)),
    Case("RotaryEmbedding", {"sequence_axis": 3, "feature_axis": 1}, ((4, 2, 3),), (4, 2, 3)),
]
IDS = [f"{index}-{case.name}" for index, case in enumerate(CASES)]


def randomize(layer: Any, rng: np.random.Generator) -> None:
    """Unequal weights; variances must be positive."""
    for weight in layer.weights:
        value = rng.standard_normal(weight.shape) * 0.5
        weight.assign(np.abs(value) + 0.5 if weight.name == "moving_variance" else value)
