"""Keras on JAX as a second oracle; tests that need it are skipped where it is not installed."""

from __future__ import annotations

import os
import warnings
from types import ModuleType

import pytest


def import_keras() -> ModuleType:
    """Return Keras, or skip the test."""
    os.environ.setdefault("KERAS_BACKEND", "jax")
    pytest.importorskip("jax")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what Keras' own imports warn of is not ours
        return pytest.importorskip("keras")
