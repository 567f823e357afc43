"""The NEON kernels where there is no AArch64: cross-compiled, and the vector layer run by QEMU."""

from __future__ import annotations

import shutil
import subprocess

import pytest
from test_simd import CSRC, FLAGS, build_and_run, isa_flags

CROSS = shutil.which("aarch64-linux-gnu-g++")
QEMU = shutil.which("qemu-aarch64") or shutil.which("qemu-aarch64-static")
KERNEL_SOURCES = sorted([*CSRC.glob("ops/*/*_cpu*.cpp"), *CSRC.glob("gemm/*.cpp")])


@pytest.mark.skipif(CROSS is None, reason="no aarch64-linux-gnu-g++")
@pytest.mark.skipif(QEMU is None, reason="no qemu-aarch64")
def test_vectors_against_scalar_code(tmp_path):
    build_and_run(CROSS, "neon", tmp_path, runner=[QEMU], extra=["-static"], stride="200003")


@pytest.mark.skipif(CROSS is None, reason="no aarch64-linux-gnu-g++")
@pytest.mark.parametrize("source", KERNEL_SOURCES, ids=lambda path: path.name)
def test_kernels_compile_without_warnings(source):
    command = [CROSS, "-fsyntax-only", *FLAGS, *isa_flags("neon"), str(source)]
    subprocess.run(command, check=True)
