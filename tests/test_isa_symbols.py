"""tools/check_isa_symbols: no code of one instruction set may be merged into another's."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
COMPILER = shutil.which("g++") or shutil.which("c++")

# Functions of an instruction set, and functions that all sets would share.
GOOD = """
namespace lamella::LAMELLA_ISA {
template <class T> __attribute__((noinline)) T twice(T x) { return x + x; }
float kernel(float x) { return twice(x); }
}
namespace { float hidden(float x) { return x; } }
namespace lamella::LAMELLA_ISA { float caller(float x) { return hidden(x); } }
"""
SHARED = """
namespace lamella {
template <class T> __attribute__((noinline)) T shared(T x) { return x * x; }
}
float lamella_global(float x) { return lamella::shared(x); }
"""


def check(build):
    command = [sys.executable, str(ROOT / "tools" / "check_isa_symbols"), str(build)]
    return subprocess.run(command, capture_output=True, text=True)


def build(folder, source):
    (folder / "kernel.cpp").write_text(source)
    for isa in ("baseline", "avx2"):
        objects = folder / "csrc" / "CMakeFiles" / f"kernels_{isa}.dir"
        objects.mkdir(parents=True, exist_ok=True)
        command = [COMPILER, "-c", "-std=c++20", f"-DLAMELLA_ISA={isa}", "kernel.cpp"]
        subprocess.run([*command, "-o", str(objects / "kernel.cpp.o")], check=True, cwd=folder)


@pytest.mark.skipif(COMPILER is None or shutil.which("nm") is None, reason="no C++ compiler")
def test_shared_code_is_found(tmp_path):
    build(tmp_path, GOOD)
    result = check(tmp_path)
    assert result.returncode == 0, result.stdout
    assert result.stdout == "2 objects, 0 symbols that instruction sets could share\n"
    build(tmp_path, GOOD + SHARED)
    result = check(tmp_path)
    assert result.returncode == 1
    assert "W float lamella::shared<float>(float)\n" in result.stdout
    assert "T lamella_global(float)\n" in result.stdout
    assert "kernels_avx2.dir/kernel.cpp.o" in result.stdout
    assert "twice" not in result.stdout
    assert "2 objects, 2 symbols" in result.stdout


def test_nothing_to_check_is_an_error(tmp_path):
    result = check(tmp_path)
    assert result.returncode == 2
    assert "no object" in result.stderr


def test_this_tree():
    development_build = ROOT / "build" / "dev"
    if not any(development_build.rglob("kernels_*.dir/**/*.o")):
        pytest.skip("not built by tools/dev_build")
    result = check(development_build)
    assert result.returncode == 0, result.stdout
