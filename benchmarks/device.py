"""Where both sides run: on the CPU, on a GPU, or on the executor that stands in for one.

On a GPU PyTorch works on lamella's stream, so that what either side queues is measured by the same
events, and its tensors are lamella's arrays, by DLPack.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from itertools import repeat
from types import ModuleType
from typing import Any

import numpy as np

from benchmarks.cases import Case
from benchmarks.ceilings import Ceilings
from benchmarks.harness import HOST_CLOCK, Clock, Protocol

NAMES = ("cpu", "cuda", "simt")

_ON_DEVICE = Protocol(blocks=7, block_seconds=0.02, ceiling_seconds=0.05)
# Passes over less than this take hardly longer than their launches.
_SMALLEST_MEASURED = 32 << 20
_MOST_CALLS = 200  # queued at once: the driver's queue has room for about a thousand launches
_LONGEST_HEAD_START = 0.05  # seconds
_CLOCK_RATE = 2e9  # cycles a second, or less: a head start is then the longer


class Device:
    """The CPU, and what the others have in common with it."""

    name = "cpu"
    protocol = Protocol()

    def ceilings(self, seconds: float) -> Ceilings:
        return Ceilings(seconds)

    def place(self, arrays: Mapping[str, np.ndarray]) -> dict[str, Any]:
        """The arrays where ops take them from; what is one array stays one."""
        return dict(arrays)

    def clock(self, case: Case) -> Clock:
        """How a case's calls are timed."""
        return HOST_CLOCK

    @contextmanager
    def at_work(self) -> Iterator[None]:
        """Both sides are prepared and run in this context."""
        yield

    def is_lost(self) -> bool:
        """Whether nothing can run any more, after a kernel that reached outside memory, say."""
        return False


class _Kernels(Device):
    """A module of device kernels; by itself the executor, which computes on the CPU as peers do.

    Raises
    ------
    lamella.cuda.CudaError
        The device cannot be used.
    """

    protocol = _ON_DEVICE

    def __init__(self, name: str) -> None:
        from lamella import devices

        self.name = name
        self._module: Any = devices.module_of(name)

    def place(self, arrays: Mapping[str, np.ndarray]) -> dict[str, Any]:
        placed: dict[int, Any] = {}
        for array in arrays.values():
            if id(array) not in placed:
                placed[id(array)] = self._module.asarray(array)
        return {name: placed[id(array)] for name, array in arrays.items()}

    def clock(self, case: Case) -> Clock:
        return WaitingClock(self._module.synchronize)

    def is_lost(self) -> bool:
        from lamella.cuda import CudaError

        try:
            self._module.synchronize()
        except CudaError:
            return True
        return False


class _Cuda(_Kernels):
    """The GPU: kernels are timed by events, models by the clock on the wall."""

    def __init__(self, torch: ModuleType) -> None:
        super().__init__("cuda")
        self._torch: Any = torch
        handle = self._module.empty((1,), "float32").__cuda_array_interface__["stream"]
        self._stream = torch.cuda.ExternalStream(handle)

    def ceilings(self, seconds: float) -> Ceilings:
        return Ceilings(seconds, self._module, _SMALLEST_MEASURED)

    def clock(self, case: Case) -> Clock:
        if case.is_model:
            return WaitingClock(self._torch.cuda.synchronize)
        return EventClock(self._torch)

    @contextmanager
    def at_work(self) -> Iterator[None]:
        with self._torch.cuda.stream(self._stream):
            yield


def load(name: str) -> Device:
    """A device of `NAMES`.

    Raises
    ------
    lamella.cuda.CudaError
        It cannot be used.
    ModuleNotFoundError
        PyTorch, whose events measure kernels on a GPU, is not installed.
    RuntimeError
        PyTorch cannot use the GPU.
    """
    if name == "cpu":
        return Device()
    if name == "simt":
        return _Kernels(name)
    from lamella import devices

    devices.module_of("cuda")  # its reason, if there is one, is the better one
    import torch

    if not torch.cuda.is_available():
        raise RuntimeError(f"PyTorch {torch.__version__} cannot use the GPU that lamella uses")
    return _Cuda(torch)


class WaitingClock(Clock):
    """The clock on the wall, stopped when the device has done all that was queued."""

    def __init__(self, synchronize: Callable[[], Any]) -> None:
        self._synchronize = synchronize

    def rest(self) -> None:
        self._synchronize()

    def seconds(self, run: Callable[[], Any], calls: int) -> float:
        run()
        self._synchronize()
        began = time.perf_counter()
        for _ in repeat(None, calls):
            run()
        self._synchronize()
        return (time.perf_counter() - began) / calls


class EventClock(Clock):
    """Time on the device between two events around the calls.

    The device is kept busy until the host has queued the calls, so that what a call costs the host
    is not in it: a model's time has that.
    """

    most_calls = _MOST_CALLS

    def __init__(self, torch: ModuleType) -> None:
        self._cuda: Any = torch.cuda

    def rest(self) -> None:
        self._cuda.synchronize()

    def seconds(self, run: Callable[[], Any], calls: int) -> float:
        run()
        self._cuda.synchronize()
        began = time.perf_counter()
        run()
        queueing = time.perf_counter() - began
        begin, end = (self._cuda.Event(enable_timing=True) for _ in range(2))
        head_start = min(1.5 * queueing * calls, _LONGEST_HEAD_START)
        self._cuda._sleep(int(head_start * _CLOCK_RATE))
        begin.record()
        for _ in repeat(None, calls):
            run()
        end.record()
        end.synchronize()
        return begin.elapsed_time(end) * 1e-3 / calls
