"""Whom lamella is compared with: each peer is a module with `VERSION`, `set_threads`, `prepare`.

`prepare(case, arrays, dy)` gives the peer's `Side` of a case, or None where it has no such op.
"""

from __future__ import annotations

import importlib
from types import ModuleType

PEERS = {"torch": "torch_peer", "onnxruntime": "onnxruntime_peer"}


def load(name: str) -> ModuleType:
    """Import a peer.

    Raises
    ------
    ModuleNotFoundError
        Its package is not installed; the message says what to do.
    """
    try:
        return importlib.import_module(f"benchmarks.peers.{PEERS[name]}")
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f"the peer {name} needs the package {error.name}: "
            "pip install 'lamella[bench]', or measure alone with --peer none"
        ) from error
