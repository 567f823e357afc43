"""How fast this machine can be: measured fused multiply-adds and memory bandwidth.

A case cannot be faster than the larger of two floors: its FLOPs at the FMA rate, and its bytes at
the bandwidth of a working set of the same size (so that what fits a cache is compared with that
cache). Both are measured with the same threads and instruction set as the case.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from benchmarks.work import Work

SUSPECT = 1.03  # a share beyond this: the clock, the ceiling or the amount of work is wrong
_SMALLEST, _LARGEST = 1 << 16, 1 << 30  # bytes of working set that bandwidth is measured for


@dataclass(frozen=True)
class Floor:
    """The least time of a case, what sets it, and the amount of work behind its rate.

    A case that computes products is counted in "GFLOP", the others in "GB".
    """

    seconds: float
    bound_by: str  # "compute" or "memory"
    unit: str
    amount: float


class Ceilings:
    """Measured limits of this machine.

    Parameters
    ----------
    seconds : float
        How long each measurement takes.
    kernels : module, optional
        Whose machine: lamella's for the CPU, or that of a device.
    smallest : int, optional
        The smallest working set in bytes that bandwidth is measured for.
    """

    def __init__(self, seconds: float, kernels: Any = None, smallest: int = _SMALLEST) -> None:
        from lamella import _cpu

        self._kernels: Any = kernels or _cpu
        self._seconds = seconds
        self._smallest = smallest
        self._bandwidths: dict[int, tuple[float, float]] = {}
        self.fma: float = self._kernels.measure_fma_ceiling(seconds)  # GFLOP/s

    def _measured_size(self, working_set: float) -> int:
        return int(min(max(working_set, self._smallest), _LARGEST))

    def bandwidth(self, working_set: float) -> tuple[float, float]:
        """(copy, read) in GB/s for a working set of so many bytes.

        Copying counts what is read plus what is written.
        """
        size = self._measured_size(working_set)
        if size not in self._bandwidths:
            self._bandwidths[size] = self._measure_bandwidth(size)
        return self._bandwidths[size]

    def _measure_bandwidth(self, size: int) -> tuple[float, float]:
        return (
            self._kernels.measure_copy_bandwidth(size // 2, self._seconds / 2),
            self._kernels.measure_read_bandwidth(size, self._seconds / 2),
        )

    def measure_again(self, work: Work) -> None:
        """Measure anew what bounds a case, and keep the better values.

        Other programs can slow a ceiling down, nothing can speed it up.
        """
        size = self._measured_size(work.bytes_read + work.bytes_written)
        copy, read = self._measure_bandwidth(size)
        old_copy, old_read = self.bandwidth(size)
        self._bandwidths[size] = (max(copy, old_copy), max(read, old_read))
        self.fma = max(self.fma, self._kernels.measure_fma_ceiling(self._seconds))

    def floor(self, work: Work) -> Floor:
        """The larger of the two least times.

        As much as is written is copied from what is read; the rest is only read (or, at the rate of
        a copy, only written).
        """
        copy, read = self.bandwidth(work.bytes_read + work.bytes_written)
        both = min(work.bytes_read, work.bytes_written)
        memory = (2 * both + work.bytes_written - both) / copy + (work.bytes_read - both) / read
        memory *= 1e-9
        compute = work.flops * 1e-9 / self.fma
        bound_by = "compute" if compute >= memory else "memory"
        if work.flops:
            return Floor(max(compute, memory), bound_by, "GFLOP", work.flops * 1e-9)
        moved = (work.bytes_read + work.bytes_written) * 1e-9
        return Floor(memory, bound_by, "GB", moved)

    def summary(self) -> dict[str, Any]:
        """For the JSON file."""
        return {
            "fma_gflops": self.fma,
            "bandwidth_gbytes": {
                str(size): {"copy": copy, "read": read}
                for size, (copy, read) in sorted(self._bandwidths.items())
            },
        }
