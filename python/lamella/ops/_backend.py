"""Which backend module runs an op: the type of its first array decides."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from lamella import _cpu

# The function table for NumPy's arrays.
numpy_backend: Any = _cpu

# Those of device arrays, by the class of their arrays: see lamella.devices.
_device_modules: dict[type, Any] = {}


def backend_of(array: Any) -> Any:
    """Return the function table for ``array``; what is no array at all is rejected there."""
    return _device_modules.get(type(array), numpy_backend)


def device_module(array: Any) -> Any:
    """Return the module of a device array, None for everything else."""
    return _device_modules.get(type(array))


def register(module: Any) -> None:
    """Let ops on `module`'s arrays run in `module`."""
    _device_modules[module.Array] = module


def zeros(backend: Any, shape: Sequence[int]) -> Any:
    """Return float32 zeros among the arrays of ``backend``."""
    if backend is numpy_backend:
        return np.zeros(shape, np.float32)
    return backend.zeros(tuple(shape), "float32")
