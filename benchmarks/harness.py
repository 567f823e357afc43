"""How time is measured: interleaved blocks of calls, and statistics that shrug off outliers.

Ours and the peer run in one process, in short blocks A B A B, so that a change of clock frequency
or a noisy neighbour meets both. Before each block the process comes to rest, because worker threads
of the other side go on spinning after its last call (OpenMP's for milliseconds, ONNX Runtime's for
more than 50) and would take cores from the next block; then one call goes uncounted.
"""

from __future__ import annotations

import contextlib
import gc
import math
import os
import statistics
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from itertools import repeat
from pathlib import Path
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Side:
    """One of the two that are compared.

    Attributes
    ----------
    name : str
    run : callable
        What is timed; it takes no arguments.
    arrays : callable
        Turns what the first `run` returned into NumPy arrays of lamella's layout, for checking.
    context : callable
        Gives the context that `run` works in, PyTorch's inference mode for instance.
    """

    name: str
    run: Callable[[], Any]
    arrays: Callable[[Any], Sequence[np.ndarray]]
    context: Callable[[], AbstractContextManager[Any]] = nullcontext


@dataclass(frozen=True)
class Protocol:
    """How much is measured."""

    blocks: int = 9
    block_seconds: float = 0.03
    ceiling_seconds: float = 0.3


QUICK = Protocol(blocks=3, block_seconds=0.004, ceiling_seconds=0.02)


@dataclass(frozen=True)
class Timing:
    """Seconds a call, one entry a block of `calls` calls."""

    seconds: tuple[float, ...]
    calls: int

    @property
    def median(self) -> float:
        return statistics.median(self.seconds)

    @property
    def spread(self) -> float:
        """Interquartile range over the median."""
        if len(self.seconds) < 2:
            return 0.0
        low, _, high = statistics.quantiles(self.seconds, n=4, method="inclusive")
        return (high - low) / self.median


def geometric_mean(ratios: Sequence[float]) -> float:
    """The mean that gives a ratio and its inverse the same weight."""
    if not ratios:
        raise ValueError("geometric_mean: needs at least one ratio")
    return math.exp(math.fsum(map(math.log, ratios)) / len(ratios))


class Clock:
    """How a block of calls is timed: on the host, whose clock the calls' end stops."""

    most_calls = 1 << 30  # in a block

    def rest(self) -> None:
        """Before each block: wait until nothing of the other side's runs."""
        come_to_rest()

    def seconds(self, run: Callable[[], Any], calls: int) -> float:
        """Seconds a call, after one that is not counted."""
        run()
        began = time.perf_counter()
        for _ in repeat(None, calls):
            run()
        return (time.perf_counter() - began) / calls


HOST_CLOCK = Clock()


def measure(sides: Sequence[Side], protocol: Protocol, clock: Clock = HOST_CLOCK) -> list[Timing]:
    """Time the sides, block by block in turn."""
    calls = [_calls_per_block(side, protocol.block_seconds, clock) for side in sides]
    seconds: list[list[float]] = [[] for _ in sides]
    with _no_garbage_collection():
        for _ in range(protocol.blocks):
            for side, count, collected in zip(sides, calls, seconds, strict=True):
                collected.append(_block(side, count, clock))
    return [Timing(tuple(s), count) for s, count in zip(seconds, calls, strict=True)]


def _block(side: Side, calls: int, clock: Clock) -> float:
    """Seconds a call."""
    clock.rest()
    with side.context():
        return clock.seconds(side.run, calls)


def _calls_per_block(side: Side, block_seconds: float, clock: Clock) -> int:
    calls = 1
    while True:
        seconds = _block(side, calls, clock) * calls
        if seconds >= block_seconds / 4 or calls >= clock.most_calls:
            wanted = max(1, round(calls * block_seconds / seconds))
            return min(wanted, clock.most_calls)
        calls *= 2


@contextlib.contextmanager
def _no_garbage_collection() -> Iterator[None]:
    gc.collect()
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def come_to_rest(pause: float = 0.002, limit: float = 0.5) -> None:
    """Sleep until no other thread of this process wants a CPU, at most `limit` seconds.

    Where the system does not tell (it is Linux that does), sleep for 0.1 s.
    """
    tasks = Path("/proc/self/task")
    if not tasks.is_dir():
        time.sleep(0.1)
        return
    end = time.perf_counter() + limit
    idle = 0
    while idle < 2 and time.perf_counter() < end:
        time.sleep(pause)
        idle = 0 if _others_running(tasks) else idle + 1


def _others_running(tasks: Path) -> bool:
    for task in os.listdir(tasks):
        if int(task) == threading.get_native_id():
            continue
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # a thread that ended
            # pid (name) state ...: the name may hold anything, ")" included.
            state = (tasks / task / "stat").read_text().rpartition(")")[2].split()[0]
            if state == "R":
                return True
    return False
