"""The command line: ``lamella info`` and ``lamella bench``, also as ``python -m lamella``."""

from __future__ import annotations

import argparse
import os
import platform
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

import lamella
from lamella import _cpu
from lamella.utils import get_num_threads

ENVIRONMENT = ("LAMELLA_CPU_ISA", "LAMELLA_NUM_THREADS", "OMP_NUM_THREADS")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command.

    Parameters
    ----------
    arguments : sequence of str, optional
        What stands after the program's name; default ``sys.argv[1:]``.

    Returns
    -------
    int
        The exit status.

    Examples
    --------
    >>> from lamella.cli import main
    >>> main(["info"])  # doctest: +ELLIPSIS
    lamella ...
    0
    """
    parser = argparse.ArgumentParser(
        prog="lamella", description="Hand-written kernels under a thin layer API."
    )
    parser.add_argument("--version", action="version", version=f"lamella {lamella.__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="command")
    commands.add_parser("info", help="show the version, the CPU, and what the kernels use of it")
    commands.add_parser(
        "bench",
        add_help=False,
        help="measure ops and models; runs in a checkout of the sources, and hands it all options",
    )
    options, rest = parser.parse_known_args(arguments)
    if options.command == "bench":
        return bench(rest)
    if rest:
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    print(info())
    return 0


def info() -> str:
    """Describe the installation and the machine, one fact a line.

    Returns
    -------
    str
        Versions, the CPU, instruction sets, threads, the memory pool, and the environment
        variables that are set.
    """
    memory = _cpu.memory_stats()
    lines = [
        f"lamella {lamella.__version__}, NumPy {np.__version__}, "
        f"Python {platform.python_version()}",
        f"CPU: {cpu_name()}",
        f"instruction set: {_cpu.cpu_isa()} (possible: {', '.join(_cpu.supported_cpu_isas())})",
        f"threads: {get_num_threads()}",
        f"memory pool: {memory['bytes_in_use']:,} bytes in use, "
        f"{memory['bytes_cached']:,} kept for reuse, {memory['peak_bytes_in_use']:,} at most",
    ]
    lines += [f"{name}={os.environ[name]}" for name in ENVIRONMENT if name in os.environ]
    return "\n".join(lines)


def cpu_name() -> str:
    """Return the CPU's name as its maker writes it, or else its architecture."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8", errors="replace") as file:
            for line in file:
                key, _, value = line.partition(":")
                if key.strip() == "model name" and value.strip():
                    return f"{value.strip()} ({platform.machine()})"
    except OSError:
        pass  # not Linux
    return platform.processor() or platform.machine()


def bench(arguments: Sequence[str]) -> int:
    """Hand over to the benchmarks, which come with the sources and not with the package."""
    checkout = Path.cwd()
    if not all(
        (checkout / part).is_file() for part in ("benchmarks/__main__.py", "CMakeLists.txt")
    ):
        print(
            "lamella bench: no benchmarks here. They are part of lamella's sources: run this in "
            "the top folder of a checkout.",
            file=sys.stderr,
        )
        return 2
    command = [sys.executable, "-m", "benchmarks", *arguments]
    return subprocess.run(command, cwd=checkout, check=False).returncode
