"""tools/gpu_check and tools/check_ptxas, as far as they go without a GPU."""

from __future__ import annotations

import importlib.machinery
import importlib.util
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import sanitize_ops

from lamella import devices, ops

ROOT = Path(__file__).resolve().parent.parent


def load_tool(name):
    loader = importlib.machinery.SourceFileLoader(name, str(ROOT / "tools" / name))
    module = importlib.util.module_from_spec(importlib.util.spec_from_loader(name, loader))
    sys.modules[name] = module  # dataclasses look their module up
    before = list(sys.path)
    loader.exec_module(module)
    sys.path[:] = before
    return module


gpu_check = load_tool("gpu_check")
check_ptxas = load_tool("check_ptxas")

needs_executor = pytest.mark.skipif(
    bool(devices.why_unusable("simt")), reason="the executor for device kernels is not built"
)


# -- what ptxas says --------------------------------------------------------------------------

ROWS = (
    "_ZN7lamella7softmax6device48_GLOBAL__N__214c8566_15_softmax_cuda_cu_a42ba9b612forward_rows"
    "INS_6device7RowTeamILi512ELi8ELi512EEELb1EEEvNS2_4RowsEPKfPf"
)
FILL = "_ZN7lamella6device49_GLOBAL__N__0a1b2c3d_16_array_kernels_cu_a42ba9b611fill_kernelElfPf"
# As nvcc 13.0 writes it, the second kernel for two architectures.
LOG = f"""\
ptxas info    : 0 bytes gmem
ptxas info    : Compiling entry function '{ROWS}' for 'sm_90'
ptxas info    : Function properties for {ROWS}
    0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads
ptxas info    : Used 86 registers, used 1 barriers, 128 bytes smem
ptxas info    : Compile time = 44.051 ms
ptxas info    : Function properties for __internal_trig_reduction_slowpathf
    40 bytes stack frame, 4 bytes spill stores, 4 bytes spill loads
ptxas info    : Compiling entry function '{FILL}' for 'sm_80'
ptxas info    : Function properties for {FILL}
    24 bytes stack frame, 16 bytes spill stores, 24 bytes spill loads
ptxas info    : Used 12 registers, used 0 barriers, 400 bytes cmem[0]
ptxas info    : Compiling entry function '{FILL}' for 'sm_90'
ptxas info    : Function properties for {FILL}
    0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads
ptxas info    : Used 10 registers, used 0 barriers
"""


def test_registers_shared_memory_and_spills_of_a_log():
    rows, fill, fill_later = check_ptxas.parse(LOG)
    assert (rows.name, rows.target) == (ROWS, "sm_90")
    assert (rows.registers, rows.shared_bytes, rows.spilled_bytes) == (86, 128, 0)
    assert (fill.registers, fill.shared_bytes) == (12, 0)
    assert (fill.stack_bytes, fill.spilled_bytes) == (24, 40)
    assert (fill_later.target, fill_later.registers, fill_later.spilled_bytes) == ("sm_90", 10, 0)


def test_a_log_that_is_cut_short_is_refused():
    with pytest.raises(ValueError, match=r"nothing about the registers of .*fill_kernel"):
        check_ptxas.parse(LOG[: LOG.rindex("ptxas info    : Used")])


@pytest.mark.parametrize("with_filter", [True, False])
def test_names(monkeypatch, with_filter):
    if not with_filter:
        monkeypatch.setattr(check_ptxas.shutil, "which", lambda program: None)
    rows, fill, _ = kernels = check_ptxas.parse(LOG)
    check_ptxas.demangle(kernels)
    arguments = "<RowTeam<512, 8, 512>, true>" if with_filter else ""
    assert rows.name == f"softmax::forward_rows{arguments}"
    assert fill.name == "fill_kernel"
    assert check_ptxas.is_hot(rows) and not check_ptxas.is_hot(fill)


def run_check_ptxas(*arguments):
    command = [sys.executable, str(ROOT / "tools" / "check_ptxas"), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True)


def test_only_kernels_that_matter_may_not_spill(tmp_path):
    folder = tmp_path / "csrc"
    folder.mkdir()
    log = folder / "softmax_cuda.cu.o.log"
    log.write_text(LOG)
    done = run_check_ptxas(tmp_path)
    assert done.returncode == 0
    assert done.stdout.splitlines()[-1] == (
        "3 kernels, 1 that matter: 0 of them spill; 1 others spill"
    )
    assert "fill_kernel" not in done.stdout
    assert "fill_kernel" in run_check_ptxas(tmp_path, "--all").stdout
    log.write_text(LOG.replace("0 bytes spill loads", "8 bytes spill loads", 1))
    done = run_check_ptxas(tmp_path)
    assert done.returncode == 1
    assert "1 of them spill" in done.stdout


def test_a_build_without_logs_is_not_called_good(tmp_path):
    (tmp_path / "a.o.log").write_text("")  # for a virtual architecture
    done = run_check_ptxas(tmp_path)
    assert done.returncode == 1
    assert "no log of ptxas" in done.stderr


def test_the_kernels_that_matter_are_there():
    """Each name of the pattern is one of a kernel; or nobody would notice that it was renamed."""
    sources = "".join(p.read_text() for p in (ROOT / "csrc").rglob("*.cu*"))
    for pattern in check_ptxas.HOT:
        name = pattern.replace("*", r"\w*")
        assert re.search(rf"\b{name}\(", sources), pattern


# -- the time -----------------------------------------------------------------------------------


def test_phases_share_the_time_that_is_left():
    now = [100.0]
    budget = gpu_check.Budget(130, ["build", "test", "sanitize", "bench"], lambda: now[0])
    assert budget.begin("build") == pytest.approx(130 * 4 / 13)
    now[0] += 22  # and 18 seconds go to the others
    assert budget.begin("test") == pytest.approx(108 * 3 / 9)
    now[0] += 36
    assert budget.begin("sanitize") == pytest.approx(72 * 2 / 6)
    now[0] += 30  # longer than it should have
    assert budget.begin("bench") == pytest.approx(42)
    now[0] += 50
    assert budget.left() == 0


def test_one_phase_gets_all_of_the_time():
    assert gpu_check.Budget(540, ["bench"], lambda: 0.0).begin("bench") == 540


def session_in(tmp_path, **more):
    fields = {"quick": True, "cases": [], "gpu": {}, "packages": [], "device": "simt", **more}
    return gpu_check.Session(logs=tmp_path, **fields)


def test_what_takes_too_long_is_stopped_with_what_it_started(tmp_path):
    log, started = tmp_path / "log", tmp_path / "started"
    script = f"sleep 60 & echo $! > {started}; wait"
    status, seconds = session_in(tmp_path).run(["sh", "-c", script], log, 1)
    assert status is None and seconds < 30
    child = started.read_text().strip()
    state = Path(f"/proc/{child}/stat")
    assert not state.exists() or state.read_text().rpartition(")")[2].split()[0] == "Z"


@pytest.mark.parametrize("built", [True, False])
def test_status_output_and_packages(tmp_path, monkeypatch, built):
    tree = tmp_path / "tree"
    (tree / "python" / "lamella").mkdir(parents=True)
    if built:
        (tree / "python" / "lamella" / "_cpu.some-python.so").touch()
    monkeypatch.setattr(gpu_check, "ROOT", tree)
    log = tmp_path / "log"
    session = session_in(tmp_path, packages=[tmp_path / "wheels"])
    script = "import sys; print(sys.path); sys.exit(5)"
    status, _ = session.run([sys.executable, "-c", script], log, 60)
    assert status == 5
    printed = log.read_text()
    assert str(tmp_path / "wheels") in printed
    assert (str(tree / "python") in printed) == built


# -- phases -------------------------------------------------------------------------------------


def run_gpu_check(*arguments, **environment):
    command = [sys.executable, str(ROOT / "tools" / "gpu_check"), *map(str, arguments)]
    path = os.pathsep.join(sys.path)
    variables = {**os.environ, "PYTHONPATH": path, **environment}
    return subprocess.run(command, env=variables, capture_output=True, text=True, timeout=200)


def test_without_a_gpu_it_says_so_and_writes_nothing(tmp_path):
    done = run_gpu_check(tmp_path / "results", PATH=str(tmp_path))
    assert done.returncode == 2
    assert done.stderr == "gpu_check needs an NVIDIA GPU: there is no nvidia-smi here\n"
    assert not (tmp_path / "results").exists()


def test_what_nvidia_smi_complains_of_is_passed_on(tmp_path):
    program = tmp_path / "nvidia-smi"
    program.write_text("#!/bin/sh\necho No devices were found\nexit 6\n")
    program.chmod(0o755)
    done = run_gpu_check(PATH=f"{tmp_path}:/usr/bin:/bin")
    assert done.returncode == 2
    assert done.stderr == "gpu_check needs an NVIDIA GPU: nvidia-smi: No devices were found\n"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--only", "build,fly"], "--only takes build, test, sanitize, bench, got fly"),
        (["--packages", "/nowhere"], "--packages: no folder /nowhere"),
        (["--minutes", "0"], "--minutes must be more than 0"),
    ],
)
def test_a_wrong_argument_is_explained(arguments, message):
    done = run_gpu_check(*arguments)
    assert done.returncode == 2
    assert message in done.stderr


def test_missing_packages_are_named(tmp_path, monkeypatch):
    monkeypatch.setattr(gpu_check, "lacking", lambda modules: list(modules)[:1])
    for name, package in (("test", "pytest"), ("bench", "torch")):
        phase = gpu_check.Phase(name)
        gpu_check.PHASES[name](session_in(tmp_path), phase, 60)
        assert phase.status == "failed"
        assert phase.notes[0].startswith(f"no {package}: bring it in a folder")


def test_without_compute_sanitizer_the_phase_fails(tmp_path, monkeypatch):
    monkeypatch.setattr(gpu_check, "find_sanitizer", lambda: None)
    phase = gpu_check.Phase("sanitize")
    gpu_check.sanitize(session_in(tmp_path), phase, 60)
    assert (phase.status, phase.notes) == ("failed", ["compute-sanitizer is not on this machine"])


@pytest.mark.parametrize(("status", "found"), [(0, 0), (99, 2)])
def test_every_tool_of_compute_sanitizer_is_run(tmp_path, monkeypatch, status, found):
    program = tmp_path / "compute-sanitizer"
    program.write_text(
        f'#!/bin/sh\necho "$2" >> {tmp_path}/tools\n'
        f"echo '========= ERROR SUMMARY: {found} errors'\nexit {status}\n"
    )
    program.chmod(0o755)
    monkeypatch.setattr(gpu_check, "find_sanitizer", lambda: str(program))
    phase = gpu_check.Phase("sanitize")
    gpu_check.sanitize(session_in(tmp_path), phase, 100)
    assert (tmp_path / "tools").read_text().split() == list(gpu_check.SANITIZERS)
    assert phase.status == ("failed" if found else "passed")
    for tool in gpu_check.SANITIZERS:
        assert phase.data[tool]["summary"] == f"ERROR SUMMARY: {found} errors"
        assert phase.data[tool]["status"] == status
    short = gpu_check.Phase("sanitize")
    gpu_check.sanitize(session_in(tmp_path), short, 5)
    assert short.notes[0] == "memcheck: left out for want of time" and not short.data


TESTS = """
import pytest

@pytest.mark.parametrize("backend", ["cpu", "simt"])
def test_good(backend):
    pass

@pytest.mark.parametrize("backend", ["cpu", "simt"])
def test_bad(backend):
    assert backend == "cpu", "not on " + backend

@pytest.mark.parametrize("backend", ["simt"])
def test_skipped(backend):
    pytest.skip("for the sake of the summary, which counts this test")
"""


def test_failures_are_collected_from_every_file(tmp_path, monkeypatch):
    folder = tmp_path / "tests"
    folder.mkdir()
    (folder / "test_a.py").write_text(TESTS)
    (folder / "test_b.py").write_text("def test_other():\n    'no backend'\n")
    (folder / "test_c.py").write_text("backend\n")  # a NameError while it is collected
    monkeypatch.setattr(gpu_check, "ROOT", tmp_path)
    phase = gpu_check.Phase("test")
    gpu_check.test(session_in(tmp_path), phase, 60)
    assert phase.status == "failed"
    counts = {key: phase.data[key] for key in ("passed", "failed", "skipped")}
    assert counts == {"passed": 1, "failed": 2, "skipped": 1}
    bad, broken = sorted(phase.data["failures"], key=lambda f: "test_bad" not in f["test"])
    assert bad["test"].endswith("test_bad[simt]") and "not on simt" in bad["message"]
    assert broken["test"] == "test_c.py" or "test_c" in broken["test"]
    assert "not on simt" in (tmp_path / "gpu_check-test.log").read_text()
    in_no_time = gpu_check.Phase("test")
    gpu_check.test(session_in(tmp_path), in_no_time, 1)
    assert in_no_time.status == "failed" and "no test ran" in in_no_time.notes
    assert in_no_time.data["left_out"] == ["test_a.py", "test_b.py", "test_c.py"]


@needs_executor
def test_benchmarks_from_end_to_end(tmp_path):
    pytest.importorskip("torch")
    done = run_gpu_check(
        *(tmp_path, "--device", "simt", "--only", "bench", "--quick", "--minutes", "2"),
        *("--cases", "softmax/32x10/*"),
    )
    assert done.returncode == 0, done.stdout + done.stderr
    (path,) = tmp_path.glob("*-simt-gpu_check.json")
    document = json.loads(path.read_text())
    (phase,) = document["phases"]
    assert (phase["name"], phase["status"]) == ("bench", "passed")
    assert [row["case"] for row in phase["data"]["rows"]] == [
        "softmax/32x10/forward",
        "softmax/32x10/backward",
    ]
    assert phase["data"]["ceilings"]["fma_gflops"] > 0
    assert "softmax forward" in done.stdout and "bench     passed" in done.stdout
    assert (tmp_path / "gpu_check-bench.log").read_text().startswith("$ ")


def test_benchmarks_go_on_behind_a_case_that_ended_the_device(tmp_path, monkeypatch):
    names = ["a/1/forward (torch)", "a/2/forward (torch)", "a/3/forward (torch)"]
    row = {"case": "a/1/forward", "peer": "torch", "ratio": 2.0, "ours": {"share_of_ceiling": 0.5}}
    begun = []

    def run(self, command, log, seconds, **variables):
        after = command[command.index("--after") + 1] if "--after" in command else None
        begun.append(after)
        lost = names[1] if after is None else None
        part = {
            "machine": {"left_out": names[2:] if lost else [], "lost_at": lost},
            "protocol": {},
            "ceilings": {},
            "rows": [row],
        }
        Path(command[command.index("--json") + 1]).write_text(json.dumps(part))
        return (gpu_check.LOST if lost else 0), 1.0

    monkeypatch.setattr(gpu_check.Session, "run", run)
    monkeypatch.setattr(gpu_check, "lacking", lambda modules: [])
    phase = gpu_check.Phase("bench")
    gpu_check.bench(session_in(tmp_path), phase, 100)
    assert begun == [None, names[1]]
    assert phase.status == "failed" and "the device was lost at a/2/forward" in phase.notes[0]
    assert len(phase.data["rows"]) == 2 and phase.data["left_out"] == []


def test_the_table_has_a_line_for_each_op_and_peer():
    def row(case, peer, ratio, share):
        return {"case": case, "peer": peer, "ratio": ratio, "ours": {"share_of_ceiling": share}}

    rows = [
        row("softmax/a/forward", "torch", 2.0, 0.9),
        row("softmax/b/forward", "torch", 0.5, 0.7),
        row("cnn/b32/train", "torch-graph", 3.0, 0.1),
        {**row("softmax/c/forward", "torch", 100.0, 0.8), "problem": "off"},
    ]
    _, cnn, softmax = gpu_check.bench_table(rows)
    assert softmax.split() == ["softmax", "forward", "torch", "2", "1.00x", "80%", "0.50x", "b"]
    assert cnn.split() == ["cnn", "train", "torch-graph", "1", "3.00x", "10%", "3.00x", "b32"]


# -- the run for compute-sanitizer --------------------------------------------------------------


def test_every_op_is_sanitized():
    names = {call.op for call in sanitize_ops.calls()}
    changing = {name for name in ops.__all__ if name.endswith("_") or name == "squared_norm"}
    assert names == set(ops.__all__) - changing  # the others are optimizer_steps


@needs_executor
def test_ops_under_the_sanitizer_agree_with_the_cpu(capsys):
    assert sanitize_ops.main(["--device", "simt"]) == 0
    assert capsys.readouterr().out.endswith("0 failed\n")


@needs_executor
def test_a_wrong_result_and_an_error_fail(monkeypatch, capsys):
    right = sanitize_ops.run

    def run(call, module):
        if module and call.op == "relu":
            return [array + 1e-3 for array in right(call, module)]
        if module and call.op == "tanh":
            raise ValueError("planted")
        return right(call, module)

    monkeypatch.setattr(sanitize_ops, "run", run)
    assert sanitize_ops.main(["--device", "simt", "relu", "tanh", "gelu"]) == 1
    printed = capsys.readouterr().out
    assert "WRONG" in printed and "tanh: ValueError: planted" in printed
    assert printed.endswith("2 failed\n")
    assert sanitize_ops.main(["--device", "simt", "--seconds", "-1", "relu"]) == 0
    assert "left out after -1 s: relu" in capsys.readouterr().out
