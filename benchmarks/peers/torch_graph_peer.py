"""PyTorch's models, their training step or prediction captured in a CUDA graph."""

from __future__ import annotations

from typing import Any

from benchmarks.cases import Case
from benchmarks.harness import Side
from benchmarks.peers import torch_models
from benchmarks.peers.torch_peer import VERSION, set_device, set_threads

__all__ = ["VERSION", "prepare", "set_device", "set_threads"]


def prepare(case: Case, arrays: dict[str, Any], dy: Any) -> Side | None:
    """What PyTorch runs for a case; None for an op."""
    return torch_models.prepare(case, arrays, "graph") if case.is_model else None
