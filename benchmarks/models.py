"""lamella's side of the model cases: training steps and predictions of the article's networks.

Weights and data come with the case, so that every side starts from the same. The batch stays the
same from step to step; the learning rate is small enough for the timed steps neither to learn it by
heart nor to reach gradients so small that they are denormal.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from benchmarks.cases import Case
from benchmarks.harness import Side

LEARNING_RATE, BETA_1, BETA_2, EPSILON = 1e-4, 0.9, 0.999, 1e-7


def weights_of(arrays: dict[str, np.ndarray]) -> list[np.ndarray]:
    """The arrays of a case that are weights, in the model's order."""
    return [array for name, array in arrays.items() if name not in ("x", "labels")]


def prepare(case: Case, arrays: dict[str, np.ndarray]) -> Side:
    """What lamella runs for a model."""
    model = _BUILDERS[case.op](arrays["x"].shape[1:])
    model.set_weights(weights_of(arrays))
    x = arrays["x"]
    if case.direction == "predict":
        return Side("lamella", lambda: model.predict_on_batch(x), lambda result: [result])

    from lamella.optimizers import Adam

    optimizer = Adam(LEARNING_RATE, BETA_1, BETA_2, EPSILON)
    model.compile(optimizer=optimizer, loss="sparse_categorical_crossentropy")
    labels = arrays["labels"]

    def step() -> Any:
        return model.train_on_batch(x, labels)

    def arrays_of(loss: Any) -> list[np.ndarray]:
        """Loss, gradients, and the loss after the first step's change of the weights."""
        gradients = [weight.gradient.copy() for weight in model.trainable_weights]
        return [np.asarray(loss), *gradients, np.asarray(step())]

    return Side("lamella", step, arrays_of)


def _build_cnn(input_shape: tuple[int, ...]) -> Any:
    from lamella import Sequential, layers

    return Sequential(
        [
            layers.Conv2D(32, (3, 3), activation="relu", input_shape=input_shape),
            layers.MaxPooling2D((2, 2)),
            layers.Conv2D(64, (3, 3), activation="relu"),
            layers.MaxPooling2D((2, 2)),
            layers.Flatten(),
            layers.Dense(64, activation="relu"),
            layers.Dense(10, activation="softmax"),
        ]
    )


_BUILDERS = {"cnn": _build_cnn}
