"""Whole networks as graphs for ONNX Runtime: predictions only.

Images are NCHW and sequences of recurrent networks (T, N, ...), as ONNX has them; the inputs are
given so. Attention is the runtime's own operator, which computes it in one pass.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from benchmarks import encoder
from benchmarks.cases import Case
from benchmarks.harness import Side
from benchmarks.peers.onnxruntime_recurrent import recurrent_node
from benchmarks.peers.onnxruntime_session import MICROSOFT, Graph, side

Weights = dict[str, np.ndarray]  # of a network, beside its input x


def _dense(graph: Graph, x: str, kernel: np.ndarray, bias: np.ndarray) -> str:
    return graph.node("Gemm", x, graph.constant(kernel), graph.constant(bias))


def _squeezed(graph: Graph, x: str, axis: int) -> str:
    return graph.node("Squeeze", x, graph.constant(np.array([axis])))


# -- images -----------------------------------------------------------------------------------


def _cnn(graph: Graph, w: Weights) -> str:
    y = "x"
    for number in (1, 2):
        kernel = graph.constant(w[f"kernel_{number}"].transpose(3, 2, 0, 1))
        y = graph.node("Conv", y, kernel, graph.constant(w[f"bias_{number}"]))
        y = graph.node("MaxPool", graph.node("Relu", y), kernel_shape=[2, 2], strides=[2, 2])
    # Rows of the first dense kernel: from (h, w, c) to (c, h, w). The images are square.
    kernel, filters = w["kernel_3"], len(w["bias_2"])
    width = round((len(kernel) / filters) ** 0.5)
    by_position = kernel.reshape(width, width, filters, -1)
    kernel = by_position.transpose(2, 0, 1, 3).reshape(kernel.shape)
    y = graph.node("Relu", _dense(graph, graph.node("Flatten", y), kernel, w["bias_3"]))
    return _dense(graph, y, w["kernel_4"], w["bias_4"])


# -- sequences --------------------------------------------------------------------------------


def _lstm(graph: Graph, x: str, w: Weights, number: int) -> tuple[str, str]:
    """Names of the outputs (T, N, U) and of the last one (N, U)."""
    weights = (w[f"kernel_{number}"], w[f"recurrent_kernel_{number}"], w[f"bias_{number}"])
    outputs = (f"outputs_{number}", f"last_{number}")
    recurrent_node(graph, "lstm", x, weights, outputs=outputs)
    return outputs


def _recurrent(graph: Graph, w: Weights, x: str, between: Callable[[str], str]) -> str:
    sequence, _ = _lstm(graph, x, w, 1)
    _, last = _lstm(graph, between(_squeezed(graph, sequence, 1)), w, 2)
    return _dense(graph, _squeezed(graph, last, 0), w["kernel_3"], w["bias_3"])


def _rnn(graph: Graph, w: Weights) -> str:
    return _recurrent(graph, w, "x", lambda y: y)


def _batch_first(graph: Graph, x: str) -> str:
    return graph.node("Transpose", x, perm=[1, 0, 2])  # and back


def _attention(graph: Graph, w: Weights) -> str:
    def attend(x: str) -> str:
        x = _batch_first(graph, x)
        y = graph.node("MultiHeadAttention", x, x, x, domain=MICROSOFT, num_heads=1, scale=1.0)
        return _batch_first(graph, y)

    return _recurrent(graph, w, _embedded(graph, w), attend)


def _self_attention(graph: Graph, x: str, w: Weights) -> str:
    """What attention gives for x (N, T, D), without the bias of the output."""
    width, heads, size = w["query_kernel"].shape
    parts = ("query", "key", "value")
    kernels = [w[f"{part}_kernel"].reshape(width, heads * size) for part in parts]
    biases = [w[f"{part}_bias"].ravel() for part in parts]
    y = graph.node(
        "Attention",
        x,
        graph.constant(np.concatenate(kernels, axis=1)),
        graph.constant(np.concatenate(biases)),
        domain=MICROSOFT,
        num_heads=heads,
    )
    return graph.node("MatMul", y, graph.constant(w["output_kernel"].reshape(heads * size, -1)))


def _transformer(graph: Graph, w: Weights) -> str:
    def attend(x: str) -> str:
        y = _self_attention(graph, _batch_first(graph, x), w)
        return _batch_first(graph, graph.node("Add", y, graph.constant(w["output_bias"])))

    return _recurrent(graph, w, _embedded(graph, w), attend)


def _encoder(graph: Graph, w: Weights) -> str:
    def normalized_sum(
        y: str, x: str, bias: np.ndarray, gamma: np.ndarray, beta: np.ndarray
    ) -> str:
        more = [graph.constant(array) for array in (gamma, beta, bias)]
        return graph.node(
            "SkipLayerNormalization", y, x, *more, domain=MICROSOFT, epsilon=encoder.EPSILON
        )

    positions = encoder.positions(w["x"].shape[1], w["table"].shape[1])
    x = graph.node("Add", _embedded(graph, w), graph.constant(positions))
    for each in encoder.by_layer(w):
        y = _self_attention(graph, x, each)
        norms = [each[f"attention_{name}"] for name in ("gamma", "beta")]
        x = normalized_sum(y, x, each["output_bias"], *norms)
        y = graph.node("MatMul", x, graph.constant(each["intermediate_kernel"]))
        y = graph.node("BiasGelu", y, graph.constant(each["intermediate_bias"]), domain=MICROSOFT)
        y = graph.node("MatMul", y, graph.constant(each["feed_forward_kernel"]))
        norms = [each[f"feed_forward_{name}"] for name in ("gamma", "beta")]
        x = normalized_sum(y, x, each["feed_forward_bias"], *norms)
    average = graph.node("ReduceMean", x, axes=[1], keepdims=0)
    return _dense(graph, average, w["kernel"], w["bias"])


def _embedded(graph: Graph, w: Weights) -> str:
    return graph.node("Gather", graph.constant(w["table"]), "x")


_NETWORKS: dict[str, Callable[[Graph, Weights], str]] = {
    "cnn": _cnn,
    "rnn": _rnn,
    "attention_model": _attention,
    "transformer": _transformer,
    "encoder": _encoder,
}


def prepare(case: Case, arrays: dict[str, np.ndarray]) -> Side | None:
    """What ONNX Runtime runs for a prediction."""
    if case.op not in _NETWORKS:
        return None
    graph = Graph()
    logits = _NETWORKS[case.op](graph, arrays)
    graph.node("Softmax", logits, outputs=("y",), axis=-1)
    x: Any = arrays["x"]
    if case.op == "cnn":
        x = x.transpose(0, 3, 1, 2)
    elif case.op != "encoder":
        x = x.swapaxes(0, 1)
    return side(graph.nodes, {"x": np.ascontiguousarray(x)}, graph.constants)
