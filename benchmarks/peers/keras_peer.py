"""Keras on JAX, for whole networks: the whole training step is compiled by XLA.

The functional models that a user of Keras writes, trained by a function of `stateless_call` and
`stateless_apply` under `jax.jit`, which gives the weights' memory to the new weights: less than
`train_on_batch` does around it. The data lies in JAX' memory beforehand.
"""

from __future__ import annotations

import contextlib
import os
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from benchmarks import encoder
from benchmarks.cases import Case
from benchmarks.harness import Side
from benchmarks.models import BETA_1, BETA_2, EPSILON, LEARNING_RATE, weights_of

os.environ["KERAS_BACKEND"] = "jax"
with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # what these imports warn of is not about the measurement
    import jax
    import keras
    from keras import layers

if keras.backend.backend() != "jax":
    raise RuntimeError(f"Keras runs on {keras.backend.backend()} already; the peer is Keras on JAX")

VERSION = f"{keras.__version__} on jax {jax.__version__}"
_threads: int | None = None


def set_threads(threads: int) -> None:
    """Start JAX with so many threads.

    Raises
    ------
    RuntimeError
        It runs with another number: JAX settles it once a process.
    """
    global _threads
    if _threads not in (None, threads):
        raise RuntimeError(f"JAX runs with {_threads} threads already, asked for {threads}")
    if _threads is None:
        with _environment("NPROC", str(threads)):
            jax.block_until_ready(jax.numpy.zeros(1))
        _threads = threads


@contextlib.contextmanager
def _environment(name: str, value: str) -> Iterator[None]:
    before = os.environ.get(name)
    os.environ[name] = value
    try:
        yield
    finally:
        if before is None:
            del os.environ[name]
        else:
            os.environ[name] = before


# -- networks ---------------------------------------------------------------------------------

Weights = dict[str, np.ndarray]


def _units(w: Weights, number: int) -> int:
    return len(w[f"recurrent_kernel_{number}"])


def _classifier(w: Weights, number: int) -> Any:
    return layers.Dense(len(w[f"bias_{number}"]), activation="softmax")


def _cnn(x: Any, w: Weights) -> Any:
    y = layers.Conv2D(len(w["bias_1"]), w["kernel_1"].shape[:2], activation="relu")(x)
    y = layers.MaxPooling2D((2, 2))(y)
    y = layers.Conv2D(len(w["bias_2"]), w["kernel_2"].shape[:2], activation="relu")(y)
    y = layers.MaxPooling2D((2, 2))(y)
    y = layers.Dense(len(w["bias_3"]), activation="relu")(layers.Flatten()(y))
    return _classifier(w, 4)(y)


def _recurrent(x: Any, w: Weights, between: Callable[[Any], Any] = lambda y: y) -> Any:
    y = layers.LSTM(_units(w, 1), return_sequences=True)(x)
    y = layers.LSTM(_units(w, 2))(between(y))
    return _classifier(w, 3)(y)


def _embedded(x: Any, w: Weights) -> Any:
    return layers.Embedding(*w["table"].shape)(x)


def _attention(x: Any, w: Weights) -> Any:
    return _recurrent(_embedded(x, w), w, lambda y: layers.Attention()([y, y]))


def _transformer(x: Any, w: Weights) -> Any:
    _, heads, size = w["query_kernel"].shape
    return _recurrent(_embedded(x, w), w, lambda y: layers.MultiHeadAttention(heads, size)(y, y))


class _TransformerEncoder(layers.Layer):
    """A block of Keras' layers, whose weights come in lamella's order."""

    def __init__(self, heads: int, hidden: int) -> None:
        super().__init__()
        self.heads = heads
        self.hidden = hidden

    def build(self, input_shape: Any) -> None:
        width = input_shape[-1]
        self.attention = layers.MultiHeadAttention(self.heads, width // self.heads)
        self.attention_norm = layers.LayerNormalization(epsilon=encoder.EPSILON)
        self.feed_forward_norm = layers.LayerNormalization(epsilon=encoder.EPSILON)
        self.intermediate = layers.Dense(self.hidden, activation=encoder.ACTIVATION)
        self.feed_forward = layers.Dense(width)
        self.attention.build(input_shape, input_shape)
        for layer in (self.attention_norm, self.feed_forward_norm, self.intermediate):
            layer.build(input_shape)
        self.feed_forward.build((*input_shape[:-1], self.hidden))

    def call(self, x: Any) -> Any:
        x = self.attention_norm(x + self.attention(x, x))
        return self.feed_forward_norm(x + self.feed_forward(self.intermediate(x)))


def _encoder(x: Any, w: Weights) -> Any:
    y = _embedded(x, w)
    y = y + encoder.positions(*y.shape[1:])
    for each in encoder.by_layer(w):
        y = _TransformerEncoder(len(each["query_bias"]), len(each["intermediate_bias"]))(y)
    y = layers.GlobalAveragePooling1D()(y)
    return layers.Dense(len(w["bias"]), activation="softmax")(y)


_NETWORKS: dict[str, Callable[[Any, Weights], Any]] = {
    "cnn": _cnn,
    "rnn": _recurrent,
    "attention_model": _attention,
    "transformer": _transformer,
    "encoder": _encoder,
}


def prepare(case: Case, arrays: dict[str, np.ndarray], dy: np.ndarray | None) -> Side | None:
    """What Keras runs for a model; it is measured with no op."""
    if case.direction not in ("train", "predict") or case.op not in _NETWORKS:
        return None
    weights = weights_of(arrays)
    x = arrays["x"]
    inputs = keras.Input(x.shape[1:], dtype="float32" if x.dtype == np.float32 else "int32")
    model = keras.Model(inputs, _NETWORKS[case.op](inputs, weights))
    model.set_weights(list(weights.values()))
    if case.direction == "predict":
        return _prediction(model, x)
    return _training(model, x, arrays["labels"])


def _prediction(model: Any, x: np.ndarray) -> Side:
    @jax.jit
    def predict(trainable: Any, others: Any, x: Any) -> Any:
        return model.stateless_call(trainable, others, x, training=False)[0]

    trainable, others = _values(model.trainable_variables), _values(model.non_trainable_variables)
    given = jax.numpy.asarray(x)
    return Side(
        "keras",
        lambda: jax.block_until_ready(predict(trainable, others, given)),
        lambda y: [np.asarray(y)],
    )


def _training(model: Any, x: np.ndarray, labels: np.ndarray) -> Side:
    optimizer = keras.optimizers.Adam(LEARNING_RATE, BETA_1, BETA_2, EPSILON)
    optimizer.build(model.trainable_variables)
    loss_of = keras.losses.SparseCategoricalCrossentropy()

    def loss_and_others(trainable: Any, others: Any, x: Any, labels: Any) -> tuple[Any, Any]:
        y, others = model.stateless_call(trainable, others, x, training=True)
        return loss_of(labels, y), others

    differentiate = jax.value_and_grad(loss_and_others, has_aux=True)

    def update(state: Any, x: Any, labels: Any) -> tuple[Any, Any]:
        trainable, others, slots = state
        (loss, others), gradients = differentiate(trainable, others, x, labels)
        trainable, slots = optimizer.stateless_apply(slots, gradients, trainable)
        return loss, (trainable, others, slots)

    compiled = jax.jit(update, donate_argnums=0)
    given = jax.numpy.asarray(x), jax.numpy.asarray(labels)
    before = _values(model.trainable_variables), _values(model.non_trainable_variables)
    # Copies, as the model's own arrays are needed for the gradients and a step gives its away.
    state = jax.tree.map(jax.numpy.copy, (*before, _values(optimizer.variables)))

    def step() -> float:
        nonlocal state
        loss, state = compiled(state, *given)
        jax.block_until_ready(state)
        return float(loss)

    def arrays_of(loss: float) -> list[np.ndarray]:
        _, gradients = jax.jit(differentiate)(*before, *given)
        return [np.asarray(loss), *map(np.asarray, gradients), np.asarray(step())]

    return Side("keras", step, arrays_of)


def _values(variables: Any) -> list[Any]:
    return [variable.value for variable in variables]
