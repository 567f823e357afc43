"""ONNX Runtime, for inference: whole networks and some ops as graphs of one node.

Graphs are NCHW, as ONNX has it, with weights as constants (so that the runtime packs them once) and
fixed shapes. Inputs are bound once; every run makes its output anew, as for the other sides.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnxruntime
from onnx import NodeProto, helper

from benchmarks.cases import Case
from benchmarks.harness import Side
from benchmarks.peers import onnxruntime_models, onnxruntime_recurrent
from benchmarks.peers.onnxruntime_session import set_threads, side

VERSION = onnxruntime.__version__
__all__ = ["VERSION", "prepare", "set_threads"]


def prepare(case: Case, arrays: dict[str, np.ndarray], dy: np.ndarray | None) -> Side | None:
    """What ONNX Runtime runs for a case: forward passes and predictions only."""
    if case.direction == "predict":
        return onnxruntime_models.prepare(case, arrays)
    if case.direction != "forward" or case.op not in _GRAPHS:
        return None
    return _GRAPHS[case.op](case, arrays)


# -- ops --------------------------------------------------------------------------------------


def _nchw(array: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(array.transpose(0, 3, 1, 2))


def _nhwc(array: np.ndarray) -> np.ndarray:
    return array.transpose(0, 2, 3, 1)


def _oihw(kernel: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(kernel.transpose(3, 2, 0, 1))


def _activation(options: Any, nodes: list[NodeProto]) -> list[NodeProto]:
    """The nodes, with the op's fused activation behind them."""
    activation = options.get("activation")
    if activation is None:
        return nodes
    if activation != "relu":
        raise ValueError(f"benchmarks know the activation relu, got {activation!r}")
    nodes[-1].output[0] = "z"
    return [*nodes, helper.make_node("Relu", ["z"], ["y"])]


def _matmul(case: Case, arrays: dict[str, np.ndarray]) -> Side:
    return side([helper.make_node("MatMul", ["a", "b"], ["y"])], arrays, {})


def _dense(case: Case, arrays: dict[str, np.ndarray]) -> Side:
    constants = {name: array for name, array in arrays.items() if name != "x"}
    node = helper.make_node("Gemm", list(arrays), ["y"])
    return side(_activation(case.options, [node]), {"x": arrays["x"]}, constants)


def _conv2d(case: Case, arrays: dict[str, np.ndarray]) -> Side:
    option = case.options.get
    padding = option("padding", "valid")
    if padding == "same":
        placement: dict[str, Any] = {"auto_pad": "SAME_UPPER"}
    else:
        around = 0 if padding == "valid" else padding
        placement = {"pads": [around] * 4}
    node = helper.make_node(
        "Conv",
        list(arrays),
        ["y"],
        strides=[option("strides", 1)] * 2,
        dilations=[option("dilation", 1)] * 2,
        group=option("groups", 1),
        **placement,
    )
    constants = {name: array for name, array in arrays.items() if name != "x"}
    constants["kernel"] = _oihw(constants["kernel"])
    nodes = _activation(case.options, [node])
    return side(nodes, {"x": _nchw(arrays["x"])}, constants, _nhwc)


def _softmax(case: Case, arrays: dict[str, np.ndarray]) -> Side:
    return side([helper.make_node("Softmax", ["x"], ["y"], axis=-1)], arrays, {})


def _layer_norm(case: Case, arrays: dict[str, np.ndarray]) -> Side:
    constants = {name: arrays[name] for name in ("gamma", "beta")}
    inputs = {name: array for name, array in arrays.items() if name not in constants}
    nodes = [helper.make_node("Add", list(inputs), ["s"])] if len(inputs) > 1 else []
    nodes.append(
        helper.make_node(
            "LayerNormalization",
            ["s" if nodes else "x", *constants],
            ["y"],
            epsilon=case.options.get("epsilon", 1e-3),
        )
    )
    return side(nodes, inputs, constants)


_GRAPHS = {
    "matmul": _matmul,
    "dense": _dense,
    "conv2d": _conv2d,
    "softmax": _softmax,
    "layer_norm": _layer_norm,
    "lstm_step": onnxruntime_recurrent.step,
    "gru_step": onnxruntime_recurrent.step,
}
