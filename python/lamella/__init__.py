"""lamella: hand-written kernels under a thin layer API named after Keras 3.

Submodules load on first use, so ``import lamella`` costs next to nothing:

>>> import lamella
>>> model = lamella.Sequential([lamella.Input(shape=(4,)), lamella.layers.Dense(2)])
>>> model.count_params()
10
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from lamella.errors import ModelFileError

if TYPE_CHECKING:
    from lamella import (
        activations,
        callbacks,
        cuda,
        datasets,
        initializers,
        layers,
        losses,
        metrics,
        models,
        ops,
        optimizers,
        regularizers,
        schedules,
        utils,
    )
    from lamella.devices import device
    from lamella.layers import Input
    from lamella.models import Model, Sequential

    __version__: str

_SUBMODULES = frozenset(
    {
        "activations",
        "callbacks",
        "cuda",
        "datasets",
        "initializers",
        "layers",
        "losses",
        "metrics",
        "models",
        "ops",
        "optimizers",
        "regularizers",
        "schedules",
        "utils",
    }
)
_ATTRIBUTES = {
    "Input": "lamella.layers",
    "Model": "lamella.models",
    "Sequential": "lamella.models",
    "device": "lamella.devices",
}

__all__ = [
    "Input",
    "Model",
    "ModelFileError",
    "Sequential",
    "activations",
    "callbacks",
    "cuda",
    "datasets",
    "device",
    "initializers",
    "layers",
    "losses",
    "metrics",
    "models",
    "ops",
    "optimizers",
    "regularizers",
    "schedules",
    "utils",
]


def __getattr__(name: str) -> Any:
    if name in _SUBMODULES:
        return importlib.import_module(f"lamella.{name}")
    if name in _ATTRIBUTES:
        value = getattr(importlib.import_module(_ATTRIBUTES[name]), name)
    elif name == "__version__":
        value = _version()
    else:
        raise AttributeError(f"module 'lamella' has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__, "__version__"})


def _version() -> str:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("lamella")
    except PackageNotFoundError:  # a source tree on the path, never installed
        return "0+unknown"
