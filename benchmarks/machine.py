"""The machine and the software a measurement was made with, for the results' header."""

from __future__ import annotations

import datetime
import os
import platform
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parent.parent


def describe(peer_versions: Mapping[str, str]) -> dict[str, Any]:
    """Processor, instruction set and threads in use, versions, commit and date."""
    import lamella
    from lamella import _cpu

    return {
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


def commit() -> str:
    """The commit measured, "-dirty" after it where the sources differ; "unknown" outside git."""
    try:
        found = _git("rev-parse", "--short=12", "HEAD")
        changed = _git("status", "--porcelain", "--", "csrc", "python", "benchmarks")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return f"{found}-dirty" if changed else found


def _git(*arguments: str) -> str:
    done = subprocess.run(["git", *arguments], cwd=ROOT, check=True, capture_output=True, text=True)
    return done.stdout.strip()
