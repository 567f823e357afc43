"""Devices by name: "cpu", and "cuda" where a GPU can be used.

The module of a device's kernels is loaded when the device is first asked for.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import os
from collections.abc import Iterator
from typing import Any

from lamella.errors import CudaError
from lamella.ops._backend import register

# "simt" runs the CUDA kernels on the CPU, slowly; it is built for tests only.
NAMES = ("cpu", "cuda", "simt")

_chosen: str | None = None


@functools.cache
def _module(name: str) -> tuple[Any, str]:
    """Return the module of a device and "", or None and why it cannot be used."""
    try:
        module = importlib.import_module(f"lamella._{name}")
    except ModuleNotFoundError:
        what = "CUDA kernels" if name == "cuda" else "executor for them"
        return None, f"this build of lamella has no {what}"
    except ImportError as error:
        return None, f"the module lamella._{name} cannot be loaded: {error}"
    count, why = module.device_count()
    if count == 0:
        return None, why
    register(module)
    return module, ""


def why_unusable(name: str) -> str:
    """Return why a device cannot be used; an empty string if it can."""
    return "" if name == "cpu" else _module(name)[1]


def module_of(name: str) -> Any:
    """Return the module of a device's arrays and kernels; None for the CPU.

    Raises
    ------
    ValueError
        There is no device of this name.
    CudaError
        It cannot be used; the message says why.
    """
    if name not in NAMES:
        raise ValueError(f"a device is 'cpu' or 'cuda', got {name!r}")
    if name == "cpu":
        return None
    module, why = _module(name)
    if module is None:
        raise CudaError(f"device {name!r} cannot be used: {why}")
    return module


def default() -> str:
    """Return the device of models that were told nothing else.

    `device`'s, else that of ``LAMELLA_DEVICE``, else "cuda" where it can be used, else "cpu".

    Raises
    ------
    ValueError, CudaError
        ``LAMELLA_DEVICE`` names no device, or one that cannot be used.
    """
    if _chosen is not None:
        return _chosen
    named = os.environ.get("LAMELLA_DEVICE")
    if not named:
        return "cpu" if why_unusable("cuda") else "cuda"
    if named not in NAMES:
        raise ValueError(f"LAMELLA_DEVICE: a device is 'cpu' or 'cuda', got {named!r}")
    module_of(named)
    return named


@contextlib.contextmanager
def device(name: str) -> Iterator[None]:
    """Let models that first compute within the ``with`` block do so on a device.

    Parameters
    ----------
    name : {"cpu", "cuda"}

    Raises
    ------
    ValueError
        There is no device of this name.
    CudaError
        It cannot be used.

    Examples
    --------
    >>> import lamella
    >>> with lamella.device("cpu"):
    ...     model = lamella.Sequential([lamella.Input(shape=(2,)), lamella.layers.Dense(1)])
    ...     y = model.predict([[1.0, 2.0]], verbose=0)
    >>> model.device
    'cpu'
    """
    global _chosen
    module_of(name)
    before, _chosen = _chosen, name
    try:
        yield
    finally:
        _chosen = before
