"""Backends as test parameters: one for each instruction set this CPU runs, and the devices.

"simt" is the executor that runs the CUDA kernels on the CPU, "cuda" a GPU.
"""

from __future__ import annotations

import os
from collections.abc import Iterator

import hypothesis
import numpy as np
import pytest
from device_backend import DeviceBackend

from lamella import _cpu, devices
from lamella.ops import _backend

# A shared machine's verdict must not depend on the day's draw; elsewhere every run draws anew.
hypothesis.settings.register_profile("ci", derandomize=True)
if os.environ.get("CI"):
    hypothesis.settings.load_profile("ci")

CPU_BACKENDS = [f"cpu-{isa}" for isa in _cpu.supported_cpu_isas()]
DEVICE_BACKENDS = [
    pytest.param(name, marks=[pytest.mark.cuda] if name == "cuda" else [])
    for name in ("simt", "cuda")
    if not devices.why_unusable(name)
]


def pytest_report_header() -> list[str]:
    """Say which devices the tests run on, and why not on the others."""
    whys = {name: devices.why_unusable(name) for name in ("simt", "cuda")}
    return [f"device {name}: {why or 'tested'}" for name, why in whys.items()]


def run_on_isa(name: str) -> Iterator[str]:
    """Run with an instruction set; the strongest one is put back after."""
    before = _cpu.cpu_isa()
    _cpu.set_cpu_isa(name.removeprefix("cpu-"))
    yield name
    _cpu.set_cpu_isa(before)


@pytest.fixture(params=CPU_BACKENDS)
def cpu_backend(request: pytest.FixtureRequest) -> Iterator[str]:
    """Run the test once for each instruction set."""
    yield from run_on_isa(request.param)


@pytest.fixture(params=[*CPU_BACKENDS, *DEVICE_BACKENDS])
def backend(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Run the test once for each backend: ops on NumPy's arrays compute there."""
    if request.param.startswith("cpu-"):
        yield from run_on_isa(request.param)
        return
    module = devices.module_of(request.param)
    monkeypatch.setattr(_backend, "numpy_backend", DeviceBackend(module))
    yield request.param


@pytest.fixture
def rng(request: pytest.FixtureRequest) -> np.random.Generator:
    """A generator of its own for each test, the same in every run."""
    return np.random.default_rng(list(request.node.nodeid.encode()))


@pytest.fixture(autouse=True)
def keep_thread_count() -> Iterator[None]:
    """A test may change the number of threads; the next one starts with the default again."""
    before = _cpu.num_threads()
    yield
    _cpu.set_num_threads(before)
