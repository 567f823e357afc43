"""The CPU backend beneath the ops: instruction sets, threads, fork, memory."""

from __future__ import annotations

import gc
import os
import shutil
import subprocess
import sys
import threading

import numpy as np
import pytest

from lamella import _cpu, ops, utils

QEMU = shutil.which("qemu-x86_64") or shutil.which("qemu-x86_64-static")


def run_python(code, environment=(), runner=()):
    """Run `code` in a new interpreter that finds what this one finds."""
    variables = {
        name: value
        for name, value in os.environ.items()
        if name not in ("LAMELLA_CPU_ISA", "LAMELLA_NUM_THREADS", "OMP_NUM_THREADS")
    }
    if runner:  # NumPy's OpenBLAS chooses for the emulated CPU, whatever suits this one
        variables.pop("OPENBLAS_CORETYPE", None)
    variables |= {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))} | dict(environment)
    # An emulator needs the program itself, not a link beside a virtual environment.
    python = os.path.realpath(sys.executable) if runner else sys.executable
    return subprocess.run(
        [*runner, python, "-c", code], env=variables, capture_output=True, text=True, timeout=120
    )


def output_of(code, environment=(), runner=()):
    result = run_python(code, environment, runner)
    assert result.returncode == 0, result.stderr
    return result.stdout.strip()


def compute(seed=0):
    """A few parallel ops' results as bytes."""
    x = np.random.default_rng(seed).standard_normal((40, 2500)).astype(np.float32)
    y, pullback = ops.multiply.vjp(x, x[:1])
    parts = [y, *pullback(x), ops.gelu(x), ops.dropout(x, rate=0.3, seed=seed)]
    return b"".join(part.tobytes() for part in parts)


# Instruction sets


def test_supported_isas():
    isas = _cpu.supported_cpu_isas()
    assert len(set(isas)) == len(isas) >= 1
    assert set(isas) <= {"baseline", "avx2", "avx512", "neon"}
    assert isas[0] in ("baseline", "neon")


def test_switching_isa():
    before = _cpu.cpu_isa()
    for isa in _cpu.supported_cpu_isas():
        _cpu.set_cpu_isa(isa)
        assert _cpu.cpu_isa() == isa
        np.testing.assert_allclose(ops.tanh(np.float32([0.5])), np.tanh(0.5), rtol=1e-6)
    _cpu.set_cpu_isa(before)
    for name in ("sse9", "", "AVX2", "avx2 "):
        with pytest.raises(ValueError, match=r"must be one of (baseline|neon).*; received"):
            _cpu.set_cpu_isa(name)
    with pytest.raises(TypeError):
        _cpu.set_cpu_isa(2)
    assert _cpu.cpu_isa() == before


def test_best_isa_is_the_default():
    code = "from lamella import _cpu; print(_cpu.cpu_isa())"
    assert output_of(code) == _cpu.supported_cpu_isas()[-1]
    assert output_of(code, {"LAMELLA_CPU_ISA": ""}) == _cpu.supported_cpu_isas()[-1]


@pytest.mark.parametrize("isa", _cpu.supported_cpu_isas())
def test_isa_from_the_environment(isa):
    code = "from lamella import _cpu; print(_cpu.cpu_isa())"
    assert output_of(code, {"LAMELLA_CPU_ISA": isa}) == isa


def test_unknown_isa_in_the_environment():
    result = run_python("from lamella import ops", {"LAMELLA_CPU_ISA": "sse9"})
    assert result.returncode == 1
    assert "LAMELLA_CPU_ISA: the CPU instruction set must be one of" in result.stderr
    assert 'received "sse9"' in result.stderr


@pytest.mark.skipif("avx2" not in _cpu.supported_cpu_isas(), reason="this CPU has no AVX2")
@pytest.mark.skipif(QEMU is None, reason="no qemu-x86_64")
def test_a_cpu_without_avx():
    # Emulated: an instruction that such a CPU lacks ends the program.
    runner = [QEMU, "-cpu", "Nehalem"]
    result = run_python("from lamella import ops", {"LAMELLA_CPU_ISA": "avx2"}, runner)
    assert result.returncode == 1
    assert "LAMELLA_CPU_ISA: the CPU instruction set must be one of baseline" in result.stderr
    code = """
import hashlib, numpy as np
from lamella import _cpu, ops
assert _cpu.supported_cpu_isas() == ["baseline"] == [_cpu.cpu_isa()]
x = np.linspace(-5, 5, 1001, dtype=np.float32)
results = [ops.gelu(x), ops.softplus(x), ops.dropout(x, rate=0.5, seed=1), ops.add(x, x[:1])]
print(hashlib.sha256(b"".join(y.tobytes() for y in results)).hexdigest())
"""
    here = code.replace("assert", "_cpu.set_cpu_isa('baseline')\n#")
    assert output_of(code, {"LAMELLA_NUM_THREADS": "2"}, runner) == output_of(here)


@pytest.mark.skipif("avx2" not in _cpu.supported_cpu_isas(), reason="this CPU has no AVX2")
@pytest.mark.skipif(QEMU is None, reason="no qemu-x86_64")
@pytest.mark.parametrize("missing", ["fma", "f16c", "avx2"])
def test_a_cpu_without_one_of_the_features_of_a_set(missing):
    code = "from lamella import _cpu; print(_cpu.supported_cpu_isas())"
    assert output_of(code, runner=[QEMU, "-cpu", "Haswell"]) == "['baseline', 'avx2']"
    assert output_of(code, runner=[QEMU, "-cpu", f"Haswell,{missing}=off"]) == "['baseline']"


# Threads


@pytest.mark.parametrize(
    ("environment", "threads"),
    [
        ({"LAMELLA_NUM_THREADS": "3"}, 3),
        ({"OMP_NUM_THREADS": "2"}, 2),
        ({"OMP_NUM_THREADS": "5,2,1"}, 5),
        ({"LAMELLA_NUM_THREADS": "4", "OMP_NUM_THREADS": "7"}, 4),
        ({"LAMELLA_NUM_THREADS": "99999999"}, 1024),
        ({"LAMELLA_NUM_THREADS": "0", "OMP_NUM_THREADS": "6"}, 6),
        ({"LAMELLA_NUM_THREADS": "many", "OMP_NUM_THREADS": "-2"}, None),
        ({}, None),
    ],
    ids=str,
)
def test_threads_from_the_environment(environment, threads):
    code = "from lamella import utils; print(utils.get_num_threads())"
    count = int(output_of(code, environment))
    assert count == threads or (threads is None and 1 <= count <= (os.cpu_count() or 1))


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="no CPU affinity here")
def test_threads_follow_the_affinity_mask():
    code = """
import os
os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
from lamella import utils
print(utils.get_num_threads())
"""
    assert output_of(code) == "1"


def test_set_num_threads():
    for count in (1, 2, 7, np.int64(3)):
        utils.set_num_threads(count)
        assert utils.get_num_threads() == count
    for wrong in (0, -1, 1025, 2**70, 1.0, "2", None, True):
        with pytest.raises(ValueError, match=r"threads|n must be an integer|n does not fit"):
            utils.set_num_threads(wrong)
    assert utils.get_num_threads() == 3


def test_same_bits_for_any_number_of_threads(backend):
    results = set()
    for threads in (1, 2, 3, 5, 16):
        utils.set_num_threads(threads)
        results.add(compute())
    assert len(results) == 1


def test_concurrent_callers(backend):
    utils.set_num_threads(3)
    expected = [compute(seed) for seed in range(4)]
    wrong = []
    start = threading.Barrier(4)

    def call(seed):
        start.wait()
        for _ in range(15):
            if compute(seed) != expected[seed]:
                wrong.append(seed)

    callers = [threading.Thread(target=call, args=(seed,)) for seed in range(4)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    assert not wrong


def test_number_of_threads_changes_under_running_callers():
    expected, wrong, stop = compute(), [], threading.Event()

    def call():
        while not stop.is_set():
            if compute() != expected:
                wrong.append(1)

    callers = [threading.Thread(target=call) for _ in range(2)]
    for caller in callers:
        caller.start()
    for i in range(60):
        utils.set_num_threads(1 + i % 4)
    stop.set()
    for caller in callers:
        caller.join()
    assert not wrong


# Fork. In processes of their own: a deadlock must not be one of the tests' process.

FORK = """
import os, threading, hashlib, numpy as np
from lamella import ops, utils
utils.set_num_threads(3)
x = np.random.default_rng(0).standard_normal(200000).astype(np.float32)
def compute():
    return hashlib.sha256(ops.gelu(x).tobytes() + ops.add(x, x).tobytes()).digest()
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_fork_after_use():
    code = (
        FORK
        + """
expected = compute()
for _ in range(5):
    child = os.fork()
    if child == 0:
        grandchild = os.fork() if compute() == expected else -1
        if grandchild == 0:
            os._exit(0 if compute() == expected else 1)
        os._exit(os.waitpid(grandchild, 0)[1])
    assert compute() == expected
    assert os.waitpid(child, 0)[1] == 0
print("done")
"""
    )
    assert output_of(code) == "done"


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_fork_while_other_threads_compute():
    code = (
        FORK
        + """
expected = compute()
stop = threading.Event()
def work():
    while not stop.is_set():
        assert compute() == expected
workers = [threading.Thread(target=work) for _ in range(2)]
for worker in workers:
    worker.start()
for _ in range(20):
    child = os.fork()
    if child == 0:
        os._exit(0 if compute() == expected else 1)
    assert os.waitpid(child, 0)[1] == 0
stop.set()
for worker in workers:
    worker.join()
print("done")
"""
    )
    assert output_of(code) == "done"


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_multiprocessing_after_use():
    code = (
        FORK
        + """
import multiprocessing
expected = compute()
with multiprocessing.get_context("fork").Pool(2) as pool:
    results = [pool.apply_async(compute) for _ in range(3)]
    assert [result.get(timeout=60) for result in results] == [expected] * 3
print("done")
"""
    )
    assert output_of(code) == "done"


def test_exit_while_a_thread_computes():
    code = (
        FORK
        + """
def work():
    while True:
        compute()
threading.Thread(target=work, daemon=True).start()
compute()
print("done")
"""
    )
    assert output_of(code) == "done"


# Memory


@pytest.mark.parametrize("shape", [(), (0,), (3, 0, 2), (1,), (17,), (1000, 3), (2**20,)], ids=str)
def test_results_are_aligned(shape):
    x = np.zeros(shape, np.float32)
    kept = [ops.relu(x) for _ in range(5)]
    kept += [ops.add(x, x), ops.concatenate(np.atleast_1d(x), np.atleast_1d(x))]
    for y in kept:
        assert y.ctypes.data % 64 == 0
        assert y.flags.c_contiguous
        assert y.flags.writeable
    assert len({y.ctypes.data for y in kept}) == len(kept)


def test_blocks_are_used_again():
    x = np.ones(5000, np.float32)
    y = ops.relu(x)
    place = y.ctypes.data
    del y
    assert ops.relu(x).ctypes.data == place
    # Sizes of one class share blocks; a class is at most an eighth wide.
    assert ops.relu(x[:4990]).ctypes.data == place


def test_statistics_and_empty_cache():
    gc.collect()
    x = np.ones(300000, np.float32)
    idle = _cpu.memory_stats()
    y = ops.relu(x)
    busy = _cpu.memory_stats()
    taken = busy["bytes_in_use"] - idle["bytes_in_use"]
    assert x.nbytes <= taken <= x.nbytes * 1.13 + 64
    assert busy["peak_bytes_in_use"] >= busy["bytes_in_use"]
    del y
    after = _cpu.memory_stats()
    assert after["bytes_in_use"] == idle["bytes_in_use"]
    assert after["bytes_cached"] >= taken
    _cpu.empty_cache()
    empty = _cpu.memory_stats()
    assert empty["bytes_cached"] == 0
    assert empty["bytes_in_use"] == idle["bytes_in_use"]
    np.testing.assert_array_equal(ops.relu(x), x)
    assert _cpu.memory_stats()["system_allocations"] == empty["system_allocations"] + 1


def test_memory_of_sizes_no_longer_used_makes_room():
    _cpu.empty_cache()
    for megabytes in range(8, 48):  # more than is kept, each size once
        ops.relu(np.zeros(megabytes << 18, np.float32))
    x = np.zeros((60 << 18) + 5, np.float32)
    ops.relu(x)
    before = _cpu.memory_stats()["system_allocations"]
    for _ in range(5):
        ops.relu(x)
    assert _cpu.memory_stats()["system_allocations"] == before
    _cpu.empty_cache()


def test_no_system_allocations_in_steady_state():
    param, m, v = np.zeros((3, 5000), np.float32)
    x = np.ones((50, 100), np.float32)

    def step(i):
        y, pullback = ops.gelu.vjp(x)
        z, drop = ops.dropout.vjp(y, rate=0.5, seed=i)
        _, scaled = ops.multiply.vjp(z, x[0])
        dz, _ = scaled(z)
        (dx,) = pullback(*drop(dz))
        options = {"learning_rate": 0.1, "beta_1": 0.9, "beta_2": 0.999, "epsilon": 1e-7}
        ops.adam_(param, dx.reshape(-1), m, v, None, step=i, **options)
        return ops.squared_norm(param)

    step(1)
    before = _cpu.memory_stats()
    for i in range(2, 30):
        step(i)
    after = _cpu.memory_stats()
    assert after["system_allocations"] == before["system_allocations"]
    assert after["bytes_in_use"] == before["bytes_in_use"]


def test_more_memory_than_there_is():
    x = np.ones((2**19, 1), np.float32)
    before = _cpu.memory_stats()["bytes_in_use"]
    with pytest.raises(MemoryError, match=f"add: out of memory, could not allocate {2**40} bytes"):
        ops.add(x, x.T)
    assert _cpu.memory_stats()["bytes_in_use"] == before
    np.testing.assert_array_equal(ops.add(x, x), 2 * x)


def test_a_view_keeps_its_memory():
    x = np.arange(10000, dtype=np.float32)
    tail = ops.relu(x)[9990:]
    others = [ops.add(x, x) for _ in range(20)]
    np.testing.assert_array_equal(tail, x[9990:])
    del others
    transposed = ops.relu(x).reshape(100, 100).T
    gc.collect()
    ops.add(x, x)
    np.testing.assert_array_equal(transposed, x.reshape(100, 100).T)


def test_memory_released_by_another_thread():
    x = np.ones(1000, np.float32)
    idle = _cpu.memory_stats()["bytes_in_use"]
    results = [ops.relu(x) for _ in range(100)]
    thread = threading.Thread(target=results.clear)
    thread.start()
    thread.join()
    assert _cpu.memory_stats()["bytes_in_use"] == idle


def test_results_never_alias_arguments():
    x = np.ones((4, 6), np.float32)
    ones = np.ones_like(x)
    calls = [
        ops.relu.vjp(x),
        ops.leaky_relu.vjp(x, negative_slope=1.0),
        ops.dropout.vjp(x, rate=0.0, seed=0),
        ops.add.vjp(x, np.zeros((), np.float32)),
        ops.multiply.vjp(x, np.ones(1, np.float32)),
        ops.concatenate.vjp(x),
    ]
    for y, pullback in calls:
        for result in (y, *pullback(ones)):
            assert not np.shares_memory(result, x)
            assert not np.shares_memory(result, ones)
