"""Which backend module runs an op: the type of its first array decides."""

from __future__ import annotations

from typing import Any

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
