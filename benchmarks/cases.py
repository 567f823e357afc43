"""What is measured: the cases listed in shapes/<op>.json, and their random arrays.

A file is named after its op or model and holds a list of objects:

    {"name": "3x3-56x56x64", "arrays": {"x": [8, 56, 56, 64], "kernel": [3, 3, 64, 64]},
     "options": {"padding": 1}, "needs": [false, true], "directions": ["forward", "backward"]}

`arrays` are the op's array arguments in order, by their names. Those that hold no float32 are
{"shape": [32], "below": 10} or, for integers from 1 on, {"shape": [32], "from": 1, "below": 29};
masks are {"shape": [8, 1, 1, 512], "true": "prefix"}, lines of which a random part at the beginning
counts, or {"true": "half"}, which leaves each element out with a chance of one half. "key": "query"
gives the same array twice. `needs` (default: all of float32) says which gradients the backward pass
computes, `peers` whom to compare with.

shapes/devices/<op>.json has larger ones, which are measured on devices only.
"""

from __future__ import annotations

import fnmatch
import json
import math
import zlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

SHAPES = Path(__file__).parent / "shapes"
DEVICE_SHAPES = SHAPES / "devices"
DIRECTIONS = ("forward", "backward", "forward+backward", "step", "train", "predict")
_PEERS = {"train": ("torch", "keras"), "predict": ("torch", "onnxruntime")}
_OTHERWISE = ("torch",)
# PyTorch eager, its step as one CUDA graph, and compiled.
_DEVICE_PEERS = {
    "train": ("torch", "torch-graph", "torch-compile"),
    "predict": ("torch", "torch-graph"),
}
ALIASES = {"gemm": "matmul", "adam": "adam_", "crossentropy": "sparse_categorical_crossentropy"}
_KEYS = {"name", "arrays", "options", "needs", "directions", "peers"}
_MASKS = ("prefix", "half")


@dataclass(frozen=True)
class Argument:
    """An array argument.

    Attributes
    ----------
    shape : tuple of int
    below : int, optional
        The upper bound of integers, which begin at `start`.
    mask : str, optional
        "prefix" or "half", of a Boolean array.
    same_as : str, optional
        The argument that this one is the same array as.
    """

    shape: tuple[int, ...]
    below: int | None = None
    start: int = 0
    mask: str | None = None
    same_as: str | None = None

    @property
    def is_float(self) -> bool:
        return self.below is None and self.mask is None

    @property
    def nbytes(self) -> float:
        """Bytes to read: none for an array that is another argument already."""
        if self.same_as is not None:
            return 0.0
        return math.prod(self.shape) * (4.0 if self.is_float else 1.0 if self.mask else 8.0)


@dataclass(frozen=True)
class Case:
    """One op or model on given shapes, in one direction."""

    op: str
    name: str
    direction: str
    arguments: Mapping[str, Argument]
    options: Mapping[str, Any] = field(default_factory=dict)
    needs: tuple[bool, ...] = ()
    peers: tuple[str, ...] = _OTHERWISE  # whom to compare with unless the user says otherwise

    @property
    def id(self) -> str:
        return f"{self.op}/{self.name}/{self.direction}"

    @property
    def is_model(self) -> bool:
        return self.direction in ("train", "predict")

    @property
    def has_backward(self) -> bool:
        return self.direction in ("backward", "forward+backward")

    @property
    def wanted(self) -> tuple[str, ...]:
        """The arguments whose gradients a backward pass computes.

        An array that is given several times has one gradient, the sum.
        """
        pairs = zip(self.arguments.items(), self.needs, strict=True)
        return tuple(name for (name, a), needed in pairs if needed and a.same_as is None)

    def shape(self, argument: str) -> tuple[int, ...]:
        return self.arguments[argument].shape

    def array(self, argument: str) -> np.ndarray:
        """One of the arrays, the same in every run and in every direction."""
        found = self.arguments[argument]
        seed = zlib.crc32(f"{self.op}/{self.name}/{argument}".encode())
        return _draw(argument, found, np.random.default_rng(seed))

    def arrays(self) -> dict[str, np.ndarray]:
        """Random arguments."""
        arrays: dict[str, np.ndarray] = {}
        for name, argument in self.arguments.items():
            same = argument.same_as
            arrays[name] = self.array(name) if same is None else arrays[same]
        return arrays


def _draw(name: str, argument: Argument, rng: np.random.Generator) -> np.ndarray:
    """Values that keep results of the order of 1, so that errors are relative to something."""
    shape = argument.shape
    if argument.mask == "half":
        return rng.random(shape) < 0.5
    if argument.mask == "prefix":
        lengths = rng.integers(1, shape[-1] + 1, size=(*shape[:-1], 1))
        return np.arange(shape[-1]) < lengths
    if argument.below is not None:
        return rng.integers(argument.start, argument.below, size=shape)
    values: np.ndarray = rng.standard_normal(shape, dtype=np.float32)
    words = name.split("_")
    if words[0] in ("query", "key", "value") and "kernel" in words:  # (D, A, E)
        values *= 1 / math.sqrt(shape[0])
    elif "kernel" in words:
        values *= 1 / math.sqrt(math.prod(shape[:-1]))
    elif "bias" in words or "beta" in words or words[0] == "param":
        values *= 0.1
    elif "gamma" in words:
        values = 1 + 0.1 * values
    elif words[0] == "variance":
        values = 0.5 + np.abs(values)
    return values


def load_cases(device: str = "cpu") -> list[Case]:
    """All cases of all files, in the files' order.

    On a device with the peers that run there, and what matters most there first: large shapes, then
    models, then the others; of these the first of every op, then the second, and so on.

    Raises
    ------
    ValueError
        A file does not have the form described above; the message names it.
    """
    found = [case for path in sorted(SHAPES.glob("*.json")) for case in load_file(path)]
    if device == "cpu":
        return found
    peers = _DEVICE_PEERS if device == "cuda" else {}
    large = [case for path in sorted(DEVICE_SHAPES.glob("*.json")) for case in load_file(path)]
    models = [case for case in found if case.is_model]
    others = [case for case in found if not case.is_model]
    return [
        replace(case, peers=peers.get(case.direction, _OTHERWISE))
        for case in (*_by_turns(large), *models, *_by_turns(others))
    ]


def _by_turns(cases: Iterable[Case]) -> list[Case]:
    """The ops' first shapes, in all directions, then their second ones, and so on."""
    shapes: dict[str, list[str]] = {}
    turns = []
    for case in cases:
        names = shapes.setdefault(case.op, [])
        if case.name not in names:
            names.append(case.name)
        turns.append((names.index(case.name), case))
    return [case for _, case in sorted(turns, key=lambda turn: turn[0])]


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
    arguments: dict[str, Argument] = {}
    for name, value in entry["arrays"].items():
        arguments[name] = _argument(f"{where}: {name}", value, arguments)
    needs = tuple(entry.get("needs", [a.is_float for a in arguments.values()]))
    if len(needs) != len(arguments):
        raise ValueError(f"{where} has {len(needs)} needs for {len(arguments)} arrays")
    unknown = set(entry["directions"]) - set(DIRECTIONS)
    if unknown or not entry["directions"]:
        raise ValueError(f"{where}: directions are some of {DIRECTIONS}, got {sorted(unknown)}")
    options, peers = entry.get("options", {}), entry.get("peers")
    return [
        Case(
            op,
            entry["name"],
            direction,
            arguments,
            options,
            needs,
            tuple(peers) if peers else _PEERS.get(direction, _OTHERWISE),
        )
        for direction in entry["directions"]
    ]


def _argument(where: str, value: Any, before: Mapping[str, Argument]) -> Argument:
    if isinstance(value, str):
        if value not in before:
            raise ValueError(f"{where}: is the same as one of {list(before)}, got {value!r}")
        return replace(before[value], same_as=value)
    given = value if isinstance(value, dict) else {"shape": value}
    kind = set(given) - {"shape"}
    if "shape" not in given or kind not in (set(), {"below"}, {"from", "below"}, {"true"}):
        raise ValueError(f"{where}: has the keys {sorted(given)}")
    shape, below, start, mask = (given.get(key) for key in ("shape", "below", "from", "true"))
    if not shape or not all(isinstance(size, int) and size > 0 for size in shape):
        raise ValueError(f"{where}: a shape is a list of positive integers, got {shape}")
    if mask not in (None, *_MASKS):
        raise ValueError(f"{where}: a mask is one of {_MASKS}, got {mask!r}")
    return Argument(tuple(shape), below, start or 0, mask)


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
