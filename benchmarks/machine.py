"""The machine and the software a measurement was made with, for the results' header."""

from __future__ import annotations

import datetime
import os
import platform
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parent.parent


def describe(peer_versions: Mapping[str, str], device: str = "cpu") -> dict[str, Any]:
    """Processor, instruction set and threads in use, versions, commit and date; the device."""
    import lamella
    from lamella import _cpu

    about = {
        "cpu": cpu_model(),
        "cores": _cores(),
        "system": f"{platform.system()} {platform.machine()}",
        "isa": _cpu.cpu_isa(),
        "threads": _cpu.num_threads(),
        "versions": {
            "lamella": lamella.__version__,
            "python": platform.python_version(),
            "numpy": np.__version__,
            **peer_versions,
        },
        "commit": commit(),
        "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
    }
    if device != "cpu":
        from lamella import devices

        about["device"] = dict(devices.module_of(device).properties())
    if device == "cuda":
        about["device"]["nvidia-smi"] = nvidia_smi()
    return about


GPU_FIELDS = (
    "name",
    "driver_version",
    "compute_cap",
    "memory.total",
    "power.limit",
    "power.draw",
    "temperature.gpu",
    "clocks.sm",
    "clocks.mem",
    "clocks.max.sm",
    "clocks.max.mem",
    "clocks_event_reasons.active",
)


def nvidia_smi() -> dict[str, str]:
    """What the driver says of the first GPU: name, clocks, power.

    Raises
    ------
    FileNotFoundError
        There is no nvidia-smi.
    RuntimeError
        It fails; the message has its words.
    """
    query = ["nvidia-smi", f"--query-gpu={','.join(GPU_FIELDS)}", "--format=csv,noheader"]
    done = subprocess.run(query, capture_output=True, text=True, timeout=60)
    lines = done.stdout.splitlines()
    if done.returncode or not lines:
        raise RuntimeError(f"nvidia-smi: {(done.stdout + done.stderr).strip() or 'no GPU'}")
    values = [value.strip() for value in lines[0].split(",")]
    return dict(zip(GPU_FIELDS, values, strict=True))


def cpu_model() -> str:
    """The processor's name; where it has a number only, as some virtual machines, that too."""
    info = Path("/proc/cpuinfo")
    if info.exists():
        fields: dict[str, str] = {}
        for line in info.read_text().splitlines():
            key, _, value = line.partition(":")
            fields.setdefault(key.strip(), value.strip())
        if "model name" in fields:
            numbers = (fields.get(key, "?") for key in ("cpu family", "model", "stepping"))
            return f"{fields['model name']} (family {'/'.join(numbers)})"
    return platform.processor() or platform.machine()


def _cores() -> int:
    """Logical CPUs that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


class Disturbance:
    """How much of this process' CPUs other programs use from now on."""

    def __init__(self) -> None:
        self._began = time.perf_counter()
        self._busy = _busy_seconds()
        self._own = time.process_time()

    def share(self) -> float | None:
        """CPU time of others over all CPU time; None where the system does not tell."""
        busy = _busy_seconds()
        if busy is None or self._busy is None:
            return None
        others = busy - self._busy - (time.process_time() - self._own)
        return max(0.0, others) / ((time.perf_counter() - self._began) * _cores())


def _busy_seconds() -> float | None:
    """Time that this process' CPUs were not idle (Linux), everybody's and the host's included."""
    path = Path("/proc/stat")
    if not path.exists():
        return None
    names = {f"cpu{cpu}" for cpu in os.sched_getaffinity(0)}
    ticks = 0
    for line in path.read_text().splitlines():
        name, *fields = line.split()
        if name in names:
            user, nice, system, _idle, _iowait, irq, softirq, steal = map(int, fields[:8])
            ticks += user + nice + system + irq + softirq + steal
    return ticks / os.sysconf("SC_CLK_TCK")


def commit() -> str:
    """The commit measured, "-dirty" after it where the sources differ.

    Outside git what the variable LAMELLA_COMMIT says, else "unknown".
    """
    try:
        found = _git("rev-parse", "--short=12", "HEAD")
        changed = _git("status", "--porcelain", "--", "csrc", "python", "benchmarks")
    except (OSError, subprocess.CalledProcessError):
        return os.environ.get("LAMELLA_COMMIT", "unknown")
    return f"{found}-dirty" if changed else found


def _git(*arguments: str) -> str:
    done = subprocess.run(["git", *arguments], cwd=ROOT, check=True, capture_output=True, text=True)
    return done.stdout.strip()
