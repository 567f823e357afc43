"""lamella's side of the model cases: training steps and predictions of whole networks.

Weights and data come with the case, so that every side starts from the same. The batch stays the
same from step to step; the learning rate is small enough for the timed steps neither to learn it by
heart nor to reach gradients so small that they are denormal.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from benchmarks import encoder
from benchmarks.cases import Case
from benchmarks.harness import Side

LEARNING_RATE, BETA_1, BETA_2, EPSILON = 1e-4, 0.9, 0.999, 1e-7


def weights_of(arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The arrays of a case that are weights, in the model's order."""
    return {name: array for name, array in arrays.items() if name not in ("x", "labels")}


def missing(model: str) -> str | None:
    """The layer that a model needs and lamella does not have, or None."""
    from lamella import layers

    layer = _SPECIAL_LAYER.get(model)
    return None if layer is None or hasattr(layers, layer) else f"layers.{layer}"


def prepare(case: Case, arrays: dict[str, np.ndarray], device: str = "cpu") -> Side:
    """What lamella runs for a model; batches come from the host and results go there."""
    weights = weights_of(arrays)
    model = _BUILDERS[case.op](arrays["x"].shape[1:], weights)
    model.set_weights(list(weights.values()))
    model.to(device)
    x = arrays["x"]
    if case.direction == "predict":
        return Side("lamella", lambda: model.predict_on_batch(x), lambda result: [result])

    from lamella.arrays import to_numpy
    from lamella.optimizers import Adam

    optimizer = Adam(LEARNING_RATE, BETA_1, BETA_2, EPSILON)
    model.compile(optimizer=optimizer, loss="sparse_categorical_crossentropy")
    labels = arrays["labels"]

    def step() -> Any:
        return model.train_on_batch(x, labels)

    def arrays_of(loss: Any) -> list[np.ndarray]:
        """Loss, gradients, and the loss after the first step's change of the weights."""
        gradients = [to_numpy(weight.gradient).copy() for weight in model.trainable_weights]
        return [np.asarray(loss), *gradients, np.asarray(step())]

    return Side("lamella", step, arrays_of)


def _build_cnn(input_shape: tuple[int, ...], w: dict[str, np.ndarray]) -> Any:
    from lamella import Sequential, layers

    return Sequential(
        [
            layers.Conv2D(len(w["bias_1"]), (3, 3), activation="relu", input_shape=input_shape),
            layers.MaxPooling2D((2, 2)),
            layers.Conv2D(len(w["bias_2"]), (3, 3), activation="relu"),
            layers.MaxPooling2D((2, 2)),
            layers.Flatten(),
            layers.Dense(len(w["bias_3"]), activation="relu"),
            layers.Dense(len(w["bias_4"]), activation="softmax"),
        ]
    )


def _build_rnn(input_shape: tuple[int, ...], w: dict[str, np.ndarray]) -> Any:
    from lamella import Sequential, layers

    first = layers.LSTM(_units(w, 1), return_sequences=True, input_shape=input_shape)
    return Sequential([first, *_last_layers(w)])


def _build_attention(input_shape: tuple[int, ...], w: dict[str, np.ndarray]) -> Any:
    from lamella import layers

    return _build_around(layers.Attention(), input_shape, w)


def _build_transformer(input_shape: tuple[int, ...], w: dict[str, np.ndarray]) -> Any:
    from lamella import layers

    heads = w["query_kernel"].shape[1]
    return _build_around(layers.MultiHeadAttention(num_heads=heads), input_shape, w)


def _build_around(between: Any, input_shape: tuple[int, ...], w: dict[str, np.ndarray]) -> Any:
    """The article's networks for text: self-attention between two LSTM layers."""
    from lamella import Sequential, layers

    words, size = w["table"].shape
    first = [
        layers.Embedding(words, size, input_length=input_shape[0]),
        layers.LSTM(_units(w, 1), return_sequences=True),
    ]
    return Sequential([*first, between, *_last_layers(w)])


def _build_encoder(input_shape: tuple[int, ...], w: dict[str, np.ndarray]) -> Any:
    from lamella import Sequential, layers

    words, width = w["table"].shape
    blocks = [
        layers.TransformerEncoder(
            len(each["intermediate_bias"]),
            num_heads=len(each["query_bias"]),
            activation=encoder.ACTIVATION,
            layer_norm_epsilon=encoder.EPSILON,
        )
        for each in encoder.by_layer(w)
    ]
    return Sequential(
        [
            layers.Embedding(words, width, input_length=input_shape[0]),
            layers.PositionalEncoding(),
            *blocks,
            layers.GlobalAveragePooling1D(),
            layers.Dense(len(w["bias"]), activation="softmax"),
        ]
    )


def _last_layers(w: dict[str, np.ndarray]) -> list[Any]:
    from lamella import layers

    return [layers.LSTM(_units(w, 2)), layers.Dense(len(w["bias_3"]), activation="softmax")]


def _units(w: dict[str, np.ndarray], number: int) -> int:
    return len(w[f"recurrent_kernel_{number}"])


_BUILDERS = {
    "cnn": _build_cnn,
    "rnn": _build_rnn,
    "attention_model": _build_attention,
    "transformer": _build_transformer,
    "encoder": _build_encoder,
}
_SPECIAL_LAYER = {
    "attention_model": "Attention",
    "transformer": "MultiHeadAttention",
    "encoder": "TransformerEncoder",
}
