"""What layers and models do with arrays besides calling ops, on any device.

NumPy's arrays stay NumPy's, `lamella.cuda.Array` stays on its device: nothing moves between devices
unless `to_numpy` or `like` is called.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from lamella import ops
from lamella.ops._backend import device_module


def is_on_device(array: Any) -> bool:
    """Return whether `array` is a `lamella.cuda.Array`."""
    return device_module(array) is not None


def to_numpy(array: Any) -> Any:
    """Return an array on the host: `array` itself if it is NumPy's already."""
    return array if device_module(array) is None else array.numpy()


def like(model: Any, array: Any) -> Any:
    """Return `array` where `model` is: itself, or a copy on the other device; None is None."""
    module = device_module(model)
    if array is None:
        return None
    if module is None:
        return to_numpy(array)
    return array if device_module(array) is module else module.asarray(array)


def zeros(model: Any, shape: tuple[int, ...]) -> Any:
    """Return float32 zeros on the device of `model`."""
    module = device_module(model)
    return np.zeros(shape, np.float32) if module is None else module.zeros(shape, "float32")


def copy_to(target: Any, source: Any) -> None:
    """Copy the elements of `source`, on whichever device, into `target`, of the same shape."""
    if device_module(target) is None:
        np.copyto(target, to_numpy(source))
    else:
        target[...] = source


def expand_dims(array: Any, axis: int) -> Any:
    """Return a view with one more axis of size 1."""
    place = axis + array.ndim + 1 if axis < 0 else axis
    return array.reshape(*array.shape[:place], 1, *array.shape[place:])


def squeeze(array: Any, axis: int) -> Any:
    """Return a view without an axis of size 1."""
    place = axis + array.ndim if axis < 0 else axis
    return array.reshape(*array.shape[:place], *array.shape[place + 1 :])


def transposed(array: Any, axes: Sequence[int]) -> Any:
    """Return a C-contiguous array with its axes in this order."""
    if device_module(array) is None:
        return np.ascontiguousarray(array.transpose(axes))
    return array.transpose(axes)


def contiguous(array: Any) -> Any:
    """Return `array`, or a C-contiguous copy; a device's arrays are contiguous."""
    return np.ascontiguousarray(array) if device_module(array) is None else array


def with_zeros(array: Any, counts: np.ndarray) -> Any:
    """Return `array` with zeros where `counts`, a bool array that broadcasts to it, is False.

    On a device an infinite or NaN element becomes NaN instead.
    """
    if device_module(array) is None:
        return np.where(counts, array, np.float32(0))
    return ops.multiply(array, like(array, counts.astype(np.float32)))
