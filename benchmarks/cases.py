"""What is measured: the cases listed in shapes/<op>.json, and their random arrays.

A file is named after its op or model and holds a list of objects:

    {"name": "3x3-56x56x64", "arrays": {"x": [8, 56, 56, 64], "kernel": [3, 3, 64, 64]},
     "options": {"padding": 1}, "needs": [false, true], "directions": ["forward", "backward"]}

`arrays` are the op's array arguments in order; an integer one is {"shape": [32], "below": 10}.
`needs` (default: all but integers) says which gradients the backward pass computes.
"""

from __future__ import annotations

import fnmatch
import json
import math
import zlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

SHAPES = Path(__file__).parent / "shapes"
DIRECTIONS = ("forward", "backward", "step", "train", "predict")
ALIASES = {"gemm": "matmul", "adam": "adam_", "crossentropy": "sparse_categorical_crossentropy"}
_KEYS = {"name", "arrays", "options", "needs", "directions"}


@dataclass(frozen=True)
class Argument:
    """An array argument: its shape, and the upper bound of its values if they are integers."""

    shape: tuple[int, ...]
    below: int | None = None


@dataclass(frozen=True)
class Case:
    """One op or model on given shapes, in one direction."""

    op: str
    name: str
    direction: str
    arguments: Mapping[str, Argument]
    options: Mapping[str, Any] = field(default_factory=dict)
    needs: tuple[bool, ...] = ()

    @property
    def id(self) -> str:
        return f"{self.op}/{self.name}/{self.direction}"

    @property
    def peers(self) -> tuple[str, ...]:
        """Whom to compare with unless the user says otherwise."""
        return ("torch", "onnxruntime") if self.direction == "predict" else ("torch",)

    def shape(self, argument: str) -> tuple[int, ...]:
        return self.arguments[argument].shape

    def arrays(self) -> dict[str, np.ndarray]:
        """Random arguments, the same in every run."""
        rng = np.random.default_rng(zlib.crc32(f"{self.op}/{self.name}".encode()))
        return {name: _draw(name, argument, rng) for name, argument in self.arguments.items()}


def _draw(name: str, argument: Argument, rng: np.random.Generator) -> np.ndarray:
    """Values that keep results of the order of 1, so that errors are relative to something."""
    shape = argument.shape
    if argument.below is not None:
        return rng.integers(argument.below, size=shape)
    values: np.ndarray = rng.standard_normal(shape, dtype=np.float32)
    kind = name.partition("_")[0]
    if kind in ("kernel", "recurrent"):
        values *= 1 / math.sqrt(math.prod(shape[:-1]))
    elif kind in ("bias", "param"):
        values *= 0.1
    elif kind == "gamma":
        values = 1 + 0.1 * values
    elif kind == "variance":
        values = 0.5 + np.abs(values)
    return values


def load_cases() -> list[Case]:
    """All cases of all files, in the files' order.

    Raises
    ------
    ValueError
        A file does not have the form described above; the message names it.
    """
    return [case for path in sorted(SHAPES.glob("*.json")) for case in load_file(path)]


def load_file(path: Path) -> list[Case]:
    """The cases of one file."""
    entries = json.loads(path.read_text())
    cases = [case for entry in entries for case in _read(path.stem, entry)]
    ids = [case.id for case in cases]
    doubled = {each for each in ids if ids.count(each) > 1}
    if doubled:
        raise ValueError(f"{path.name}: more than one case is called {sorted(doubled)}")
    return cases


def _read(op: str, entry: dict[str, Any]) -> list[Case]:
    where = f"{op}.json: {entry.get('name')!r}"
    if not set(entry) <= _KEYS or not {"name", "arrays", "directions"} <= set(entry):
        raise ValueError(f"{where} has the keys {sorted(entry)}; supported: {sorted(_KEYS)}")
    arguments = {name: _argument(where, value) for name, value in entry["arrays"].items()}
    needs = tuple(entry.get("needs", [a.below is None for a in arguments.values()]))
    if len(needs) != len(arguments):
        raise ValueError(f"{where} has {len(needs)} needs for {len(arguments)} arrays")
    unknown = set(entry["directions"]) - set(DIRECTIONS)
    if unknown or not entry["directions"]:
        raise ValueError(f"{where}: directions are some of {DIRECTIONS}, got {sorted(unknown)}")
    options = entry.get("options", {})
    return [
        Case(op, entry["name"], direction, arguments, options, needs)
        for direction in entry["directions"]
    ]


def _argument(where: str, value: Any) -> Argument:
    shape, below = (value["shape"], value["below"]) if isinstance(value, dict) else (value, None)
    if not shape or not all(isinstance(size, int) and size > 0 for size in shape):
        raise ValueError(f"{where}: a shape is a list of positive integers, got {shape}")
    return Argument(tuple(shape), below)


def select(cases: Iterable[Case], patterns: Iterable[str]) -> list[Case]:
    """The cases of these ops or models, or whose id matches a pattern; all without patterns.

    Raises
    ------
    ValueError
        A pattern that matches no case.
    """
    cases, patterns = list(cases), [ALIASES.get(pattern, pattern) for pattern in patterns]
    if not patterns:
        return cases
    for pattern in patterns:
        if not any(_matches(case, pattern) for case in cases):
            ops = ", ".join(sorted({case.op for case in cases}))
            raise ValueError(f"no case matches {pattern!r}; there are {ops}")
    return [case for case in cases if any(_matches(case, pattern) for pattern in patterns)]


def _matches(case: Case, pattern: str) -> bool:
    return case.op == pattern or fnmatch.fnmatchcase(case.id, pattern)
