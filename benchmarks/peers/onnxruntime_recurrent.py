"""Recurrent layers in ONNX Runtime: as nodes of a graph, and step by step.

ONNX has sequences as (T, N, D), and one axis more for the direction.
"""

from __future__ import annotations

import numpy as np

from benchmarks.cases import Case
from benchmarks.harness import Side
from benchmarks.peers.onnxruntime_session import Graph, bound, make_session

_GATES = {"lstm": (0, 3, 1, 2), "gru": (0, 1, 2)}  # the number here of each of ONNX' gates


def recurrent_node(
    graph: Graph,
    op: str,
    x: str,
    weights: tuple[np.ndarray, np.ndarray, np.ndarray],
    initial: tuple[str, ...] = (),
    outputs: tuple[str, ...] = (),
) -> str:
    """Add a layer over x (T, N, D), and return the name of its last output.

    Parameters
    ----------
    weights
        kernel, recurrent_kernel and bias as lamella has them.
    initial
        The states before the first step, if they are not zeros.
    outputs
        Names of Y (T, 1, N, U), Y_h (1, N, U) and so on; "" for one that nobody reads.
    """

    def reordered(array: np.ndarray) -> np.ndarray:
        parts = np.split(array, len(_GATES[op]), axis=-1)
        return np.concatenate([parts[gate] for gate in _GATES[op]], axis=-1)

    kernel, recurrent_kernel, bias = map(reordered, weights)
    both = np.stack([bias, np.zeros_like(bias)]) if bias.ndim == 1 else bias
    return graph.node(
        op.upper(),
        x,
        graph.constant(kernel.T[np.newaxis]),
        graph.constant(recurrent_kernel.T[np.newaxis]),
        graph.constant(both.reshape(1, -1)),
        *(("", *initial) if initial else ()),  # "": no lengths
        outputs=outputs,
        hidden_size=len(recurrent_kernel),
        **({"linear_before_reset": 1} if op == "gru" else {}),
    )


def step(case: Case, arrays: dict[str, np.ndarray]) -> Side | None:
    """One step after the other: runs over sequences of one step. The runtime has no cells."""
    if case.options["peer_call"] != "sequence":
        return None
    graph = Graph()
    states = tuple(name for name in ("h", "c") if name in arrays)
    after = tuple(f"{name}_after" for name in states)
    weights = (arrays["kernel"], arrays["recurrent_kernel"], arrays["bias"])
    op = case.op.removesuffix("_step")
    recurrent_node(graph, op, "x", weights, states, ("", *after))
    inputs = {name: arrays[name][np.newaxis] for name in ("x", *states)}
    session = make_session(graph.nodes, inputs, graph.constants, after)
    values = bound(inputs)

    def run() -> list[np.ndarray]:
        found = session.run_with_ort_values(after, values)
        values.update(zip(states, found, strict=True))
        return found

    return Side("onnxruntime", run, lambda found: [value.numpy()[0] for value in found])
