"""Whom lamella is compared with: each peer is a module with `VERSION`, `set_threads`, `prepare`.

`prepare(case, arrays, dy)` gives the peer's `Side` of a case, or None where it has no such op.
Peers for devices have `set_device` besides; their ops run where the arrays are.
"""

from __future__ import annotations

import importlib
from types import ModuleType

# The module of each, and what to install for it.
PEERS = {
    "torch": ("torch_peer", "'lamella[bench]'"),
    "torch-graph": ("torch_graph_peer", "'lamella[bench]'"),
    "torch-compile": ("torch_compile_peer", "'lamella[bench]'"),
    "onnxruntime": ("onnxruntime_peer", "'lamella[bench]'"),
    "keras": ("keras_peer", "keras jax"),
}

SLOW_TO_START = ("torch-compile",)
ON_DEVICES = ("torch", "torch-graph", "torch-compile")


def load(name: str) -> ModuleType:
    """Import a peer.

    Raises
    ------
    ModuleNotFoundError
        Its package is not installed; the message says what to do.
    """
    module, packages = PEERS[name]
    try:
        return importlib.import_module(f"benchmarks.peers.{module}")
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f"the peer {name} needs the package {error.name}: pip install {packages}"
        ) from error
