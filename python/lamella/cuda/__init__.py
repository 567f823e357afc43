"""NVIDIA GPUs: arrays in their memory, and what there is.

A GPU needs nothing but its driver (branch 580 or newer). Ops take `Array` where they take NumPy's
arrays, all arguments on one side, and return `Array`; models move with ``model.to("cuda")`` and run
on the GPU by themselves where there is one.

>>> from lamella import cuda
>>> cuda.is_available() or cuda.why_unavailable() != ""
True
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from lamella import devices as _devices
from lamella.errors import CudaError, OutOfMemoryError

if TYPE_CHECKING:
    import numpy as np

    Array = Any

__all__ = [
    "Array",
    "CudaError",
    "OutOfMemoryError",
    "asarray",
    "devices",
    "empty",
    "empty_cache",
    "from_dlpack",
    "is_available",
    "memory_stats",
    "synchronize",
    "why_unavailable",
    "zeros",
]


def is_available() -> bool:
    """Return whether there is a GPU that can be used."""
    return not why_unavailable()


def why_unavailable() -> str:
    """Return why no GPU can be used: no driver, one that is too old, no device, a CPU-only build.

    Returns
    -------
    str
        Empty if one can be used.
    """
    return _devices.why_unusable("cuda")


def devices() -> list[dict[str, Any]]:
    """Return the properties of the GPU in use, in a list; an empty list where there is none.

    Returns
    -------
    list of dict
        ``name``, ``capability`` (major, minor), ``multiprocessors``, ``memory_bytes``,
        ``shared_bytes`` of a block, ``l2_bytes``.
    """
    return [_module().properties()] if is_available() else []


def _module() -> Any:
    return _devices.module_of("cuda")


def asarray(array: np.ndarray) -> Array:
    """Return a copy of a NumPy array in the GPU's memory.

    Parameters
    ----------
    array : np.ndarray
        float32, float16, float64, int8, int32, int64, uint8 or bool, in any layout.

    Raises
    ------
    TypeError
        Another dtype.
    OutOfMemoryError, CudaError
    """
    return _module().asarray(array)


def empty(shape: int | tuple[int, ...], dtype: Any = "float32") -> Array:
    """Return an array of undefined contents; "bfloat16" is a dtype too."""
    return _module().empty(shape, dtype)


def zeros(shape: int | tuple[int, ...], dtype: Any = "float32") -> Array:
    """Return an array of zeros."""
    return _module().zeros(shape, dtype)


def from_dlpack(producer: Any) -> Array:
    """Return an array that shares another library's memory (PyTorch, CuPy, JAX), without a copy.

    Parameters
    ----------
    producer : object with ``__dlpack__``
        On the GPU in use, C-contiguous.

    Raises
    ------
    ValueError
        On another device, or not C-contiguous.
    TypeError
        A dtype that `Array` has not, or no DLPack at all.
    """
    return _module().from_dlpack(producer)


def synchronize() -> None:
    """Wait for all work that was queued; what failed in it raises here."""
    _module().synchronize()


def memory_stats() -> dict[str, int]:
    """Return the pool's statistics in bytes, as `lamella.utils.memory_stats` does for the CPU."""
    return _module().memory_stats()


def empty_cache() -> None:
    """Give the pool's free memory back to the driver."""
    _module().empty_cache()


def __getattr__(name: str) -> Any:
    # The class of the arrays; its module is loaded when it is first needed.
    if name == "Array":
        return _module().Array
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
