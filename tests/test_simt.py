"""The SIMT executor by itself: the programs of tests/simt, and the bugs that it must find."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from device_programs import COMPILER, EXECUTOR, FLAGS
from test_simd import CSRC, ROOT

PROGRAMS = ROOT / "tests" / "simt"
# How the executor is compiled: as for the tests of the ops; with the address sanitizer; with
# the system's context switch; for the other architecture.
VARIANTS = {
    "plain": [],
    "asan": ["-fsanitize=address"],
    "ucontext": ["-DLAMELLA_SIMT_UCONTEXT"],
    "aarch64": ["-static"],
}
CROSS = shutil.which("aarch64-linux-gnu-g++")
QEMU = shutil.which("qemu-aarch64") or shutil.which("qemu-aarch64-static")
NVCC = shutil.which("nvcc")
SEEDS = range(4)

pytestmark = pytest.mark.skipif(COMPILER is None, reason="no C++ compiler")


@cache
def sanitizer_works(folder):
    source = folder / "empty.cpp"
    source.write_text("int main() { return 0; }\n")
    program = folder / "empty"
    built = subprocess.run([COMPILER, "-fsanitize=address", str(source), "-o", str(program)])
    return built.returncode == 0 and subprocess.run([str(program)]).returncode == 0


@pytest.fixture(scope="module")
def executable(tmp_path_factory):
    """The command that runs a program of tests/simt, compiled when it is first asked for."""
    folder = tmp_path_factory.mktemp("simt")

    def compiler(variant):
        return [CROSS if variant == "aarch64" else COMPILER, "-g", *FLAGS, *VARIANTS[variant]]

    @cache
    def executor(variant):
        objects = folder / variant
        objects.mkdir()
        subprocess.run([*compiler(variant), "-c", *EXECUTOR], check=True, cwd=objects)
        return [str(path) for path in objects.glob("*.o")]

    @cache
    def build(program, variant="plain"):
        if variant == "aarch64" and (CROSS is None or QEMU is None):
            # Two packages that a machine need not have; .ci/run installs them.
            pytest.skip("no aarch64-linux-gnu-g++ or no qemu-aarch64")
        if variant == "asan" and not sanitizer_works(folder):
            # Its library is a package of its own in some distributions, and some kernels forbid it.
            pytest.skip("no address sanitizer")
        output = folder / f"{program}-{variant}"
        source = ["-x", "c++", str(PROGRAMS / f"{program}.cu"), "-x", "none"]
        command = [*compiler(variant), *source, *executor(variant), "-o", str(output)]
        subprocess.run(command, check=True)
        return [QEMU, str(output)] if variant == "aarch64" else [str(output)]

    return build


def run(command, **options):
    return subprocess.run(command, capture_output=True, timeout=120, **options)


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("program", ["words", "matrix"])
def test_correct_kernels(executable, program, variant):
    result = run(executable(program, variant), text=True)
    print(result.stdout)
    assert result.returncode == 0, result.stdout + result.stderr
    assert re.search(r"^0 failures$", result.stdout, re.MULTILINE)


def broken(executable, case, seed=0, variant="plain"):
    """What a case of broken.cu says: its 128 results, or the text of its error."""
    result = run([*executable("broken", variant), case, str(seed)], text=True)
    assert result.returncode == 0, result.stdout + result.stderr
    assert result.stdout.endswith("alive\n"), "the next launch did not work"
    kind, _, rest = result.stdout.splitlines()[0].partition(" ")
    return rest if kind == "error" else np.array(rest.split(), np.float64)


X = (np.arange(128) * 37 % 1009 - 400) * 0.125
NEXT_LANE = X.reshape(-1, 32)[:, (np.arange(32) + 1) % 32].ravel()
RESULTS = {
    "reverse": X[::-1],
    "reverse_static": X[::-1],
    "hand_over": NEXT_LANE,
    "two_sums": np.full(128, X.sum() * 101),
    "copy": X[::-1],
    "grid_barrier": np.zeros(128),
}


@pytest.mark.parametrize("case", RESULTS)
def test_without_the_fault_every_seed_gives_the_same(executable, case):
    for seed in SEEDS:
        np.testing.assert_array_equal(broken(executable, case, seed), RESULTS[case])


@pytest.mark.parametrize(
    ("case", "correct"),
    [
        ("no_barrier", "reverse"),
        ("no_barrier_static", "reverse_static"),
        ("no_warp_barrier", "hand_over"),
        ("no_second_barrier", "two_sums"),
    ],
)
def test_missing_barriers_show(executable, case, correct):
    wrong = [not np.array_equal(broken(executable, case, seed), RESULTS[correct]) for seed in SEEDS]
    assert any(wrong)


@pytest.mark.parametrize("case", ["no_wait", "wait_short", "uncommitted"])
def test_copies_that_are_not_waited_for_show(executable, case):
    assert np.isnan(broken(executable, case)).all()


def test_copies_may_read_early_and_late(executable):
    y = broken(executable, "changing_source")
    early = y == X
    assert (early | (y == 1e6)).all()
    assert 20 < early.sum() < 108


def test_unwritten_shared_memory_shows(executable):
    y = broken(executable, "unwritten")
    assert np.isnan(y[7])
    assert (np.delete(y, 7) == 1).all()
    assert np.isnan(broken(executable, "dynamic_read")).all()  # beyond it as well


ERRORS = {
    "misaligned_copy": r"copy_async<16> from an address that is not a multiple of 16",
    "dynamic_beyond": r"block \(0, 0, 0\) wrote 0 bytes beyond its 512 bytes of dynamic shared",
    "dynamic_before": r"block \(0, 0, 0\) wrote 12 bytes before its 512 bytes of dynamic shared",
    "no_dynamic": r"the launch gave no dynamic shared memory",
    "barrier_for_some": r"thread \(0, 0, 0\) of block \(0, 0, 0\) waits at __syncthreads at "
    r"broken.cu:\d+, where 96 of 128 threads have come: thread \(96, 0, 0\) of block "
    r"\(0, 0, 0\) has ended",
    "two_barriers": r"__syncthreads while other threads of the block wait at __syncthreads at "
    r"broken.cu:\d+, at broken.cu:\d+ in thread",
    "barrier_against_shuffle": r"__syncthreads while other threads of the block wait at",
    "shuffle_absent": r"__shfl_xor_sync: lane 0 reads lane 1, which is absent, though in its "
    r"mask 0xffffffff, at broken.cu:\d+ in thread \(32, 0, 0\)",
    "shuffle_not_in_mask": r"__shfl_sync: lane 0 reads lane 20, which is not in its mask "
    r"0x0000ffff, at broken.cu:\d+ in thread \(0, 0, 0\)",
    "shuffle_small_block": r"__shfl_down_sync: lane 16 reads lane 24, which is absent.* in "
    r"thread \(0, 4, 0\)",
    "mask_without_self": r"__ballot_sync by lane \d+, which is not in its mask 0xffff0000",
    "different_masks": r"waits at __ballot_sync with mask 0xffffffff at broken.cu:\d+ for lane "
    r"16: thread \(16, 0, 0\) of block \(0, 0, 0\) waits at __ballot_sync with mask 0xffff8000",
    "different_kinds": r"waits at __shfl_xor_sync with mask 0xffffffff at broken.cu:\d+ for lane "
    r"1: thread \(1, 0, 0\) of block \(0, 0, 0\) waits at __shfl_down_sync",
    "lane_elsewhere": r"thread \(16, 0, 0\) of block \(0, 0, 0\) waits at __syncwarp with mask "
    r"0xffffffff at broken.cu:\d+ for lane 0: thread \(0, 0, 0\) .* waits at __syncthreads",
    "bad_width": r"the width of a shuffle must be 1, 2, 4, 8, 16 or 32",
    "mma_without_lane": r"waits at mma_m16n8k16 .* for lane 3: thread \(3, 0, 0\) .* has ended",
    "ldmatrix_misaligned": r"ldmatrix: the address of a row is not a multiple of 16",
    "grid_barrier_alone": r"grid_barrier\(\) in a launch that is not cooperative",
    "grid_barrier_not_zero": r"the memory of grid_barrier\(\) is not zero",
    "grid_barrier_absent": r"waits at grid_barrier at broken.cu:\d+, where 127 of 128 threads "
    r"have come: thread \(9, 0, 0\) of block \(0, 0, 0\) has ended",
    "wait_for_ever": r"waits in a loop while no other thread does anything",
    "trap": r"__trap\(\), at broken.cu:\d+ in thread \(17, 0, 0\) of block \(0, 0, 0\)",
    "too_many_threads": r"no device runs a block of \(1025, 1, 1\) threads",
    "no_threads": r"no device runs a block of \(0, 1, 1\) threads",
    "too_many_blocks": r"no device runs a grid of \(1, 65536, 1\) blocks",
    "too_much_shared": r"a block asks for 232449 bytes of shared memory, of which the device has "
    r"232448",
    "too_many_resident": r"a cooperative launch of 9 blocks, of which the device holds 8 at once",
}


@pytest.mark.parametrize("case", ERRORS)
def test_broken_rules_are_errors(executable, case):
    for seed in SEEDS[:2]:
        text = broken(executable, case, seed)
        assert isinstance(text, str), text
        assert re.match(f"broken: .*{ERRORS[case]}", text), text


@pytest.mark.parametrize("case", ["barrier_for_some", "different_kinds", "trap", "wait_for_ever"])
def test_fibers_can_be_abandoned_under_the_address_sanitizer(executable, case):
    text = broken(executable, case, variant="asan")
    assert isinstance(text, str), text
    assert re.match(f"broken: .*{ERRORS[case]}", text), text


@pytest.mark.parametrize(
    ("case", "kind", "access"),
    [
        ("dynamic_beyond", "heap-buffer-overflow", "WRITE of size 4"),
        ("dynamic_before", "heap-buffer-overflow", "WRITE of size 4"),
        ("dynamic_read", "heap-buffer-overflow", "READ of size 4"),
        ("static_read", "global-buffer-overflow", "READ of size 4"),
        ("global_read", "heap-buffer-overflow", "READ of size 4"),
    ],
)
def test_accesses_out_of_bounds_under_the_address_sanitizer(executable, case, kind, access):
    result = run([*executable("broken", "asan"), case, "0"], text=True)
    assert result.returncode != 0
    assert kind in result.stderr
    assert access in result.stderr


def test_capability_can_be_chosen(executable):
    environment = {**os.environ, "LAMELLA_SIMT_CAPABILITY": "75"}
    result = run([*executable("broken"), "too_much_shared", "0"], text=True, env=environment)
    assert "a block asks for 65537 bytes" in result.stdout
    environment["LAMELLA_SIMT_CAPABILITY"] = "hopper"
    result = run([*executable("broken"), "too_much_shared", "0"], text=True, env=environment)
    assert "LAMELLA_SIMT_CAPABILITY must be a compute capability" in result.stdout + result.stderr


def bfloat16_by_numpy(x):
    """Round to the nearest pattern, ties to even, by comparing with the neighbours in float64."""
    bits = x.view(np.uint32)
    low = (bits >> 16).astype(np.uint16)
    with np.errstate(invalid="ignore", over="ignore"):
        below = (low.astype(np.uint32) << 16).view(np.float32).astype(np.float64)
        next_bits = (low + np.uint16(1)).astype(np.uint32) << 16
        above = next_bits.view(np.float32).astype(np.float64)
        # Beyond the largest number the grid goes on: infinity stands for 2^128.
        exact = x.astype(np.float64)
        above = np.where(np.isinf(above), np.copysign(2.0**128, exact), above)
        to_above = np.abs(above - exact)
        to_below = np.abs(exact - below)
    up = (to_above < to_below) | ((to_above == to_below) & (low % 2 == 1))
    return np.where(np.isinf(x), low, low + up.astype(np.uint16)).astype(np.uint16)


def test_conversions_against_numpy(executable, rng):
    patterns = np.arange(65536, dtype=np.uint16)
    halves = patterns.view(np.float16).astype(np.float32)
    wide = (patterns.astype(np.uint32) << 16).view(np.float32)
    # Every number of either type, the points half way to the next one and those around them, and
    # random bits.
    half_ways = np.concatenate(
        [
            ((patterns[:, None].astype(np.uint32) << 16) + np.uint32([0x7FFF, 0x8000, 0x8001]))
            .ravel()
            .view(np.float32),
            (halves.view(np.uint32)[:, None] + np.uint32([0xFFF, 0x1000, 0x1001]))
            .ravel()
            .view(np.float32),
            np.ldexp(np.arange(-4100, 4100, dtype=np.float32) / 2, -24),  # float16's subnormals
            np.ldexp(np.float32([1, 1 - 2**-20, 1 + 2**-20]), -25),
            np.float32([65504, 65519.996, 65520, 65536, -65520, 1e9]),
        ]
    )
    random = rng.integers(0, 2**32, 300_000, dtype=np.uint64).astype(np.uint32).view(np.float32)
    x = np.concatenate([halves, wide, half_ways, random])
    result = run(executable("half"), input=x.tobytes())
    assert result.returncode == 0, result.stderr
    narrowed = np.frombuffer(result.stdout[: 4 * x.size], np.uint16).reshape(-1, 2)
    widened = np.frombuffer(result.stdout[4 * x.size :], np.float32).reshape(-1, 2)

    nan = np.isnan(x)
    with np.errstate(over="ignore", invalid="ignore"):
        expected = x.astype(np.float16).view(np.uint16)
    np.testing.assert_array_equal(narrowed[~nan, 0], expected[~nan])
    np.testing.assert_array_equal(narrowed[~nan, 1], bfloat16_by_numpy(x)[~nan])
    assert (narrowed[nan] == 0x7FFF).all()  # as the hardware's

    assert widened.shape == (65536, 2)
    for got, correct in ((widened[:, 0], halves), (widened[:, 1], wide)):
        np.testing.assert_array_equal(np.isnan(got), np.isnan(correct))
        number = ~np.isnan(correct)
        np.testing.assert_array_equal(got[number].view(np.uint32), correct[number].view(np.uint32))


DEVICE_FLAGS = ["-std=c++20", "--expt-relaxed-constexpr", "-DLAMELLA_DEVICE", f"-I{CSRC}"]


@pytest.mark.skipif(NVCC is None, reason="no nvcc")
@pytest.mark.parametrize("program", ["broken", "half", "matrix", "words"])
def test_programs_are_cuda(program, tmp_path):
    targets = [f"-gencode=arch=compute_{c},code=sm_{c}" for c in (75, 80, 90)]
    command = [NVCC, "-c", *targets, "-Xcompiler=-Wall,-Wextra", *DEVICE_FLAGS]
    source = PROGRAMS / f"{program}.cu"
    result = run([*command, str(source), "-o", str(tmp_path / "object.o")], text=True)
    assert result.returncode == 0, result.stderr
    assert "warning" not in result.stderr, result.stderr


@pytest.mark.cuda
@pytest.mark.skipif(NVCC is None, reason="no nvcc")
@pytest.mark.skipif(not Path("/dev/nvidia0").exists(), reason="no NVIDIA GPU")
@pytest.mark.parametrize("program", ["words", "matrix"])
def test_correct_kernels_on_a_gpu(program, tmp_path):
    output = tmp_path / program
    sources = [
        PROGRAMS / f"{program}.cu",
        CSRC / "cuda" / "runtime.cu",
        CSRC / "cuda" / "memory_pool.cpp",
        CSRC / "core" / "error.cpp",
    ]
    command = [NVCC, "-arch=native", *DEVICE_FLAGS, *map(str, sources), "-o", str(output)]
    subprocess.run(command, check=True)
    result = run([str(output)], text=True)
    assert result.returncode == 0, result.stdout + result.stderr
    assert re.search(r"^0 failures$", result.stdout, re.MULTILINE)
