"""Backends as test parameters: one for each instruction set this CPU runs."""

from __future__ import annotations

import os
from collections.abc import Iterator

import hypothesis
import numpy as np
import pytest

from lamella import _cpu

# A shared machine's verdict must not depend on the day's draw; elsewhere every run draws anew.
hypothesis.settings.register_profile("ci", derandomize=True)
if os.environ.get("CI"):
    hypothesis.settings.load_profile("ci")

BACKENDS = [f"cpu-{isa}" for isa in _cpu.supported_cpu_isas()]


@pytest.fixture(params=BACKENDS)
def backend(request: pytest.FixtureRequest) -> Iterator[str]:
    """Run the test once for each backend; the strongest instruction set is put back after."""
    isa = request.param.removeprefix("cpu-")
    before = _cpu.cpu_isa()
    _cpu.set_cpu_isa(isa)
    yield request.param
    _cpu.set_cpu_isa(before)


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
