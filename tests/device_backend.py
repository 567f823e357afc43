"""A device module's function table for tests that are written for NumPy's arrays.

Arrays go to the device before each call, results come back after it, and what an op changed in
place is changed in the caller's array too. So every test of an op runs on every backend.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from lamella.ops import _backend

STORED = {"float32", "float16", "float64", "int8", "int32", "int64", "uint8", "bool"}


def on_device() -> bool:
    """Whether ops on NumPy's arrays run on a device now: layouts are not kept on the way there."""
    return isinstance(_backend.numpy_backend, DeviceBackend)


class DeviceBackend:
    """The functions of `module`, taking and returning NumPy's arrays."""

    def __init__(self, module: Any) -> None:
        self._module = module

    def __getattr__(self, name: str) -> Any:
        function = getattr(self._module, name)

        def call(*args: Any, **kwargs: Any) -> Any:
            transfer = _Transfer(self._module)
            moved = transfer.there(args)
            try:
                result = function(*moved, **{k: transfer.there(v) for k, v in kwargs.items()})
            finally:
                transfer.bring_changes()
            return transfer.back(result)

        setattr(self, name, call)
        return call


class _Transfer:
    """The arrays of one call. Views of one array stay views of one array."""

    def __init__(self, module: Any) -> None:
        self._module = module
        self._owners: dict[int, tuple[np.ndarray, Any]] = {}
        self._views: list[tuple[np.ndarray, Any]] = []
        self._results: dict[int, tuple[Any, np.ndarray]] = {}

    def there(self, value: Any) -> Any:
        if isinstance(value, np.ndarray):
            return self._array(value)
        if type(value) in (tuple, list):
            return type(value)(self.there(each) for each in value)
        return value

    def _array(self, array: np.ndarray) -> Any:
        if array.dtype.name not in STORED or not array.dtype.isnative:
            return array
        owner = array
        while isinstance(owner.base, np.ndarray):
            owner = owner.base
        is_part = array.flags.c_contiguous and array.flags.aligned and array.size > 0
        is_part = is_part and owner.flags.c_contiguous and owner.dtype == array.dtype
        if not is_part:
            owner = array
        if id(owner) not in self._owners:
            self._owners[id(owner)] = (owner, self._module.asarray(owner))
        moved = self._owners[id(owner)][1]
        if owner is not array:
            first = (array.ctypes.data - owner.ctypes.data) // array.itemsize
            moved = moved.reshape(-1)[first : first + array.size].reshape(*array.shape)
        self._views.append((array, moved))
        return moved

    def bring_changes(self) -> None:
        for array, moved in self._owners.values():
            now = moved.numpy()
            if array.flags.writeable and now.tobytes() != array.tobytes():
                array[...] = now

    def back(self, value: Any) -> Any:
        if isinstance(value, self._module.Array):
            for array, moved in self._views:
                if moved is value:
                    return array
            self._results.setdefault(id(value), (value, value.numpy()))
            return self._results[id(value)][1]
        if type(value) in (tuple, list):
            return type(value)(self.back(each) for each in value)
        return value
