"""The examples in the docstrings give what they say."""

from __future__ import annotations

import doctest
import importlib
import pkgutil

import pytest

import lamella

MODULES = sorted(
    {module.name for module in pkgutil.walk_packages(lamella.__path__, "lamella.")}
    - {"lamella.__main__", "lamella._cpu"}
)


def test_modules_are_found():
    assert {"lamella.ops.conv2d", "lamella.models.sequential", "lamella.utils"} <= set(MODULES)


@pytest.mark.parametrize("name", ["lamella", *MODULES])
def test_examples(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # some write files
    module = importlib.import_module(name)
    assert doctest.testmod(module).failed == 0
