"""Tiny cases and peers for the benchmarks' tests; importing it makes `benchmarks` importable."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from keras_peer import import_keras

ROOT = Path(__file__).resolve().parent.parent
sys.path.append(str(ROOT))  # benchmarks is not an installed package

from benchmarks import cases, harness, peers  # noqa: E402


def read_case(tmp_path: Path, op: str = "relu", **entry: Any) -> cases.Case:
    """The only case of a file with one entry."""
    path = tmp_path / f"{op}.json"
    path.write_text(json.dumps([{"name": "tiny", "directions": ["forward"], **entry}]))
    (case,) = cases.load_file(path)
    return case


def run_once(side: harness.Side) -> list[np.ndarray]:
    """What a call returns, in arrays of our own."""
    with side.context():
        return [array.copy() for array in side.arrays(side.run())]


def load_peer(name: str) -> ModuleType:
    """A peer, or skip; Keras' imports warn."""
    if name == "keras":
        import_keras()
    pytest.importorskip(name)
    module = peers.load(name)
    module.set_threads(1)
    return module
