"""The vector layer by itself: simd/simd_test.cpp, compiled for one instruction set at a time."""

from __future__ import annotations

import platform
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from lamella import _cpu

ROOT = Path(__file__).resolve().parent.parent
CSRC = ROOT / "csrc"
WARNINGS = ["-Wall", "-Wextra", "-Wpedantic", "-Wshadow", "-Wconversion", "-Wno-sign-conversion"]
FLAGS = [
    "-std=c++20",
    "-fno-math-errno",
    "-fno-trapping-math",
    "-ffp-contract=off",
    *WARNINGS,
    "-Werror",
    # GCC's own AVX-512 intrinsics start from undefined registers.
    "-Wno-uninitialized",
    "-Wno-maybe-uninitialized",
    f"-I{CSRC}",
]
IS_X86 = platform.machine() in ("x86_64", "AMD64")
NATIVE = shutil.which("g++") or shutil.which("c++")


def isa_flags(isa):
    """What csrc/CMakeLists.txt compiles an instruction set's sources with."""
    if isa == "portable":  # the plain C++ vectors, which are chosen where there is no SSE2
        flags = ["-U__SSE2__"]
    else:
        lists = (CSRC / "CMakeLists.txt").read_text()
        flags = re.search(rf"set\(flags_{isa} ([^)]*)\)", lists)[1].replace('""', "").split()
    return [*flags, f"-DLAMELLA_ISA={isa}", f"-DLAMELLA_ISA_{isa}=1"]


def build_and_run(compiler, isa, folder, runner=(), extra=(), stride="20011"):
    program = folder / f"simd_test_{isa}"
    source = ROOT / "tests" / "simd" / "simd_test.cpp"
    command = [compiler, "-O1", *FLAGS, *isa_flags(isa), *extra, str(source), "-o", str(program)]
    subprocess.run(command, check=True)
    result = subprocess.run([*runner, str(program), stride], capture_output=True, text=True)
    print(result.stdout)
    assert result.returncode == 0, result.stdout + result.stderr
    assert re.search(r"^0 failures, (4|8|16) lanes$", result.stdout, re.MULTILINE)


@pytest.mark.skipif(NATIVE is None, reason="no C++ compiler")
@pytest.mark.parametrize("isa", [*_cpu.supported_cpu_isas(), "portable"])
def test_vectors_against_scalar_code(isa, tmp_path):
    if isa == "portable" and not IS_X86:
        pytest.skip("on AArch64 the portable vectors cannot be chosen")
    build_and_run(NATIVE, isa, tmp_path)
