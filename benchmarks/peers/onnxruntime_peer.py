"""ONNX Runtime, for inference: the article's networks and some ops as graphs of one node.

Graphs are NCHW, as ONNX has it, with weights as constants (so that the runtime packs them once) and
fixed shapes. Inputs are bound once; every run makes its output anew, as for the other sides.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import onnxruntime
from onnx import NodeProto, TensorProto, helper, numpy_helper

from benchmarks.cases import Case
from benchmarks.harness import Side

VERSION = onnxruntime.__version__
_OPSET, _IR_VERSION = 17, 9  # old enough for every supported runtime
_threads = 1


def set_threads(threads: int) -> None:
    global _threads
    _threads = threads


def prepare(case: Case, arrays: dict[str, np.ndarray], dy: np.ndarray | None) -> Side | None:
    """What ONNX Runtime runs for a case: forward passes and predictions only."""
    if case.direction not in ("forward", "predict") or case.op not in _GRAPHS:
        return None
    return _GRAPHS[case.op](case, arrays)


def _side(
    nodes: Sequence[NodeProto],
    inputs: dict[str, np.ndarray],
    constants: dict[str, np.ndarray],
    to_numpy: Callable[[np.ndarray], np.ndarray] = lambda y: y,
) -> Side:
    """A session over the nodes, the last of which gives "y"."""
    graph = helper.make_graph(
        nodes,
        "benchmark",
        [helper.make_tensor_value_info(k, TensorProto.FLOAT, v.shape) for k, v in inputs.items()],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    model = helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", _OPSET)], ir_version=_IR_VERSION
    )
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = _threads
    options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    values = {name: onnxruntime.OrtValue.ortvalue_from_numpy(a) for name, a in inputs.items()}

    def run() -> Any:
        return session.run_with_ort_values(["y"], values)[0]

    return Side("onnxruntime", run, lambda y: [to_numpy(y.numpy())])


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
    return _side([helper.make_node("MatMul", ["a", "b"], ["y"])], arrays, {})


def _dense(case: Case, arrays: dict[str, np.ndarray]) -> Side:
    constants = {name: array for name, array in arrays.items() if name != "x"}
    node = helper.make_node("Gemm", list(arrays), ["y"])
    return _side(_activation(case.options, [node]), {"x": arrays["x"]}, constants)


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
    return _side(nodes, {"x": _nchw(arrays["x"])}, constants, _nhwc)


def _softmax(case: Case, arrays: dict[str, np.ndarray]) -> Side:
    return _side([helper.make_node("Softmax", ["x"], ["y"], axis=-1)], arrays, {})


# -- models -----------------------------------------------------------------------------------


def _cnn(case: Case, arrays: dict[str, np.ndarray]) -> Side:
    def node(kind: str, inputs: str, output: str, **attributes: Any) -> NodeProto:
        return helper.make_node(kind, inputs.split(), [output], **attributes)

    nodes = [
        node("Conv", "x kernel_1 bias_1", "conv_1"),
        node("Relu", "conv_1", "relu_1"),
        node("MaxPool", "relu_1", "pool_1", kernel_shape=[2, 2], strides=[2, 2]),
        node("Conv", "pool_1 kernel_2 bias_2", "conv_2"),
        node("Relu", "conv_2", "relu_2"),
        node("MaxPool", "relu_2", "pool_2", kernel_shape=[2, 2], strides=[2, 2]),
        node("Flatten", "pool_2", "flat"),
        node("Gemm", "flat kernel_3 bias_3", "dense_1"),
        node("Relu", "dense_1", "relu_3"),
        node("Gemm", "relu_3 kernel_4 bias_4", "dense_2"),
        node("Softmax", "dense_2", "y", axis=-1),
    ]
    weights = {name: a for name, a in arrays.items() if name not in ("x", "labels")}
    filters = len(weights["bias_2"])
    weights["kernel_1"] = _oihw(weights["kernel_1"])
    weights["kernel_2"] = _oihw(weights["kernel_2"])
    # Rows of the first dense kernel: from (h, w, c) to (c, h, w). The images are square.
    kernel = weights["kernel_3"]
    side = round((len(kernel) / filters) ** 0.5)
    by_position = kernel.reshape(side, side, filters, -1)
    weights["kernel_3"] = np.ascontiguousarray(
        by_position.transpose(2, 0, 1, 3).reshape(kernel.shape)
    )
    return _side(nodes, {"x": _nchw(arrays["x"])}, weights)


_GRAPHS = {
    "matmul": _matmul,
    "dense": _dense,
    "conv2d": _conv2d,
    "softmax": _softmax,
    "cnn": _cnn,
}
