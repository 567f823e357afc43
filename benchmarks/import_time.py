"""What ``import lamella`` costs over ``import numpy``, in time and resident memory."""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
from dataclasses import dataclass

# NumPy comes first in each, so that the differences are lamella's own.
PROGRAMS = {
    "numpy": "import numpy",
    "numpy, lamella": "import numpy, lamella",
    "numpy, all of lamella": (
        "import numpy, lamella\nfor name in lamella.__all__: getattr(lamella, name)"
    ),
}
_CHILD = """
import json, os, resource, sys, time
began = time.perf_counter()
{program}
seconds = time.perf_counter() - began
try:
    with open("/proc/self/statm") as file:
        resident = int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
except FileNotFoundError:  # macOS: the highest, in bytes
    resident = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
print(json.dumps([seconds, resident]))
"""


@dataclass(frozen=True)
class Cost:
    """Medians over fresh processes."""

    seconds: float
    resident_bytes: float


def measure(repetitions: int) -> dict[str, Cost]:
    """Run each program so many times, in turn, after one run that warms the file cache."""
    samples: dict[str, list[list[float]]] = {name: [] for name in PROGRAMS}
    for repetition in range(repetitions + 1):
        for name, program in PROGRAMS.items():
            done = subprocess.run(
                [sys.executable, "-c", _CHILD.format(program=program)],
                check=True,
                stdout=subprocess.PIPE,
                text=True,
            )
            if repetition:
                samples[name].append(json.loads(done.stdout))
    return {
        name: Cost(*(statistics.median(column) for column in zip(*found, strict=True)))
        for name, found in samples.items()
    }


def table(costs: dict[str, Cost]) -> list[str]:
    """Lines to print: each program, and what it adds to NumPy alone."""
    base = costs["numpy"]
    lines = [f"{'import':24} {'ms':>7} {'MB':>7} {'+ms':>7} {'+MB':>7}"]
    for name, cost in costs.items():
        lines.append(
            f"{name:24} {cost.seconds * 1e3:7.1f} {cost.resident_bytes / 1e6:7.1f} "
            f"{(cost.seconds - base.seconds) * 1e3:7.1f} "
            f"{(cost.resident_bytes - base.resident_bytes) / 1e6:7.1f}"
        )
    return lines
