"""Graphs for ONNX Runtime, and sessions that run them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import onnxruntime
from onnx import NodeProto, TensorProto, helper, numpy_helper

from benchmarks.harness import Side

_OPSET, _IR_VERSION = 17, 9  # old enough for every supported runtime
MICROSOFT = "com.microsoft"  # the domain of the runtime's own operators
_threads = 1


def set_threads(threads: int) -> None:
    global _threads
    _threads = threads


class Graph:
    """Nodes and constants as they are added; names of values are made up here."""

    def __init__(self) -> None:
        self.nodes: list[NodeProto] = []
        self.constants: dict[str, np.ndarray] = {}

    def constant(self, array: np.ndarray) -> str:
        name = f"constant_{len(self.constants)}"
        self.constants[name] = np.ascontiguousarray(array)
        return name

    def node(self, kind: str, *inputs: str, outputs: Sequence[str] = (), **attributes: Any) -> str:
        """Add a node, and return the name of its last output."""
        outputs = outputs or [f"value_{len(self.nodes)}"]
        self.nodes.append(helper.make_node(kind, inputs, outputs, **attributes))
        return outputs[-1]


def make_session(
    nodes: Sequence[NodeProto],
    inputs: Mapping[str, np.ndarray],
    constants: Mapping[str, np.ndarray],
    outputs: Sequence[str],
) -> onnxruntime.InferenceSession:
    """A session over the nodes, with the peer's number of threads."""
    graph = helper.make_graph(
        nodes,
        "benchmark",
        [
            helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(a.dtype), a.shape)
            for name, a in inputs.items()
        ],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs],
        [numpy_helper.from_array(array, name) for name, array in constants.items()],
    )
    domains = [helper.make_opsetid("", _OPSET), helper.make_opsetid(MICROSOFT, 1)]
    model = helper.make_model(graph, opset_imports=domains, ir_version=_IR_VERSION)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = _threads
    options.inter_op_num_threads = 1
    return onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )


def bound(inputs: Mapping[str, np.ndarray]) -> dict[str, onnxruntime.OrtValue]:
    """The arrays as values of the runtime."""
    return {name: onnxruntime.OrtValue.ortvalue_from_numpy(a) for name, a in inputs.items()}


def side(
    nodes: Sequence[NodeProto],
    inputs: Mapping[str, np.ndarray],
    constants: Mapping[str, np.ndarray],
    to_numpy: Callable[[np.ndarray], np.ndarray] = lambda y: y,
) -> Side:
    """What is run of nodes the last of which gives "y"."""
    session = make_session(nodes, inputs, constants, ["y"])
    values = bound(inputs)

    def run() -> Any:
        return session.run_with_ort_values(["y"], values)[0]

    return Side("onnxruntime", run, lambda y: [to_numpy(y.numpy())])
