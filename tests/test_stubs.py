"""python/lamella/_cpu.pyi names exactly what the compiled module holds."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import lamella
from lamella import _cpu

STUB = Path(lamella.__file__).with_name("_cpu.pyi")


def arguments(function):
    """The names of a function's arguments, each with its default as text, or None."""
    given = function.args
    assert not (given.posonlyargs or given.kwonlyargs or given.vararg or given.kwarg)
    defaults = [None] * (len(given.args) - len(given.defaults)) + given.defaults
    return [(a.arg, d and ast.unparse(d)) for a, d in zip(given.args, defaults, strict=True)]


def functions(text):
    return {f.name: arguments(f) for f in ast.parse(text).body if isinstance(f, ast.FunctionDef)}


IN_STUB = functions(STUB.read_text("utf-8"))
IN_MODULE = sorted(name for name in dir(_cpu) if not name.startswith("_"))


def test_every_function_has_a_type():
    missing = [name for name in IN_MODULE if name not in IN_STUB]
    assert not missing, f"not in {STUB.name}"


def test_every_type_has_a_function():
    superfluous = [name for name in IN_STUB if name not in IN_MODULE]
    assert not superfluous, f"in {STUB.name}, not in the module"


def test_the_functions_are_in_order():
    assert list(IN_STUB) == sorted(IN_STUB)


@pytest.mark.parametrize("name", [name for name in IN_MODULE if name in IN_STUB])
def test_arguments_are_those_of_the_function(name):
    # pybind11 begins the docstring with "name(argument: type = default, ...) -> type".
    signature = getattr(_cpu, name).__doc__.splitlines()[0]
    assert functions(f"def {signature}: ...") == {name: IN_STUB[name]}
