"""How test programs for the executor of device kernels are compiled."""

from __future__ import annotations

import shutil

from test_simd import CSRC, ROOT, WARNINGS

COMPILER = shutil.which("g++") or shutil.which("c++")
EXECUTOR = [str(path) for path in [*sorted((CSRC / "simt").glob("*.cpp")), CSRC / "core/error.cpp"]]
FLAGS = [
    "-std=c++20",
    "-O1",
    "-pthread",
    "-ffp-contract=off",
    *WARNINGS,
    "-Werror",
    "-Wno-unknown-pragmas",
    "-DLAMELLA_DEVICE",
    "-DLAMELLA_SIMT",
    "-DLAMELLA_ISA=device",
    f"-I{CSRC}",
    f"-I{ROOT / 'tests' / 'simt'}",
]


def command(source, output, *more):
    """The command that compiles a program of tests/ together with the executor."""
    sources = ["-x", "c++", str(ROOT / "tests" / source), *EXECUTOR]
    return [COMPILER, *FLAGS, *more, *sources, "-o", str(output)]
