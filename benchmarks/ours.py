"""lamella's side of every case: it runs where the arrays are."""

from __future__ import annotations

import inspect
import itertools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from benchmarks import models
from benchmarks.cases import Case
from benchmarks.harness import Side

_OTHER_RESULTS = {"batch_norm": 2, "lstm": 2, "gru": 1, "simple_rnn": 1}
_LAYER_STEPS = {"lstm_step": "LSTM", "gru_step": "GRU"}
ADAM = {"learning_rate": 1e-3, "beta_1": 0.9, "beta_2": 0.999, "epsilon": 1e-7}


def missing(case: Case, device: str = "cpu") -> str | None:
    """What the case needs that lamella does not have, "layers.Attention" for instance, or None."""
    from lamella import ops

    if case.is_model:
        return models.missing(case.op)
    if case.op in _LAYER_STEPS and device != "cpu":
        return "steps of recurrent layers on devices"
    if case.op in _LAYER_STEPS or hasattr(ops, case.op):
        return None
    return f"ops.{case.op}"


def prepare(case: Case, arrays: dict[str, Any], dy: Any, device: str = "cpu") -> Side:
    """What lamella runs for a case; `dy` is the gradient that a backward pass starts from.

    `device` is where a model computes.
    """
    if case.is_model:
        return models.prepare(case, arrays, device)
    if case.direction == "step":
        return _optimizer_step(case, arrays)
    if case.op in _LAYER_STEPS:
        return _layer_step(case, arrays)
    from lamella import ops

    op = getattr(ops, case.op)
    bound = inspect.signature(op).bind(**arrays, **case.options)
    inputs, options = bound.args, bound.kwargs
    if case.direction == "forward":
        return Side("lamella", lambda: op(*inputs, **options), _first_result)
    # One entry for every array that the op takes, optional ones that are left out included.
    names = _array_arguments(op)
    wanted = dict(zip(case.arguments, case.needs, strict=True))
    needs = tuple(wanted.get(name, False) for name in names)
    # Of an op with several results the first one has a gradient: batch_norm's statistics have none,
    # nor have the final states of a recurrent op, nor the sum with a residual.
    others = 1 if "residual" in case.arguments else _OTHER_RESULTS.get(case.op, 0)
    gradients = (dy,) + (None,) * others
    same = {name: a.same_as for name, a in case.arguments.items() if a.same_as is not None}
    doubles = [(names.index(name), names.index(first)) for name, first in same.items()]

    def sum_of_doubles(found: Sequence[Any]) -> list[Any]:
        """Of an array that was given several times, one gradient."""
        found = list(found)
        for double, first in doubles:
            ops.accumulate_(found[first], found[double])
            found[double] = None
        return found

    if case.direction == "backward":
        _, pullback = op.vjp(*inputs, needs=needs, **options)
        return Side("lamella", lambda: sum_of_doubles(pullback(*gradients)), _present)

    def forward_and_backward() -> tuple[Any, Any]:
        y, pullback = op.vjp(*inputs, needs=needs, **options)
        return y, sum_of_doubles(pullback(*gradients))

    return Side(
        "lamella",
        forward_and_backward,
        lambda results: [*_first_result(results[0]), *_present(results[1])],
    )


def _array_arguments(op: Callable[..., Any]) -> list[str]:
    parameters = inspect.signature(op).parameters.values()
    return [each.name for each in parameters if each.kind is each.POSITIONAL_OR_KEYWORD]


def _first_result(result: Any) -> list[np.ndarray]:
    from lamella.arrays import to_numpy

    return [to_numpy(result[0] if isinstance(result, tuple) else result)]


def _present(gradients: Any) -> list[np.ndarray]:
    from lamella.arrays import to_numpy

    return [to_numpy(gradient) for gradient in gradients if gradient is not None]


def _layer_step(case: Case, arrays: dict[str, np.ndarray]) -> Side:
    """Steps of a layer, each beginning with the states in which the one before ended."""
    from lamella import layers

    x, *weights = (arrays[name] for name in ("x", "kernel", "recurrent_kernel", "bias"))
    layer = getattr(layers, _LAYER_STEPS[case.op])(arrays["h"].shape[1])
    layer.build((None, None, x.shape[1]))
    layer.set_weights(weights)
    states = [arrays[name] for name in ("h", "c") if name in arrays]

    def step() -> list[np.ndarray]:
        nonlocal states
        _, states = layer.step(x, states)
        return states

    return Side("lamella", step, lambda after: after)


def _optimizer_step(case: Case, arrays: dict[str, Any]) -> Side:
    if case.op != "adam_":
        raise ValueError(f"no optimizer step of {case.op!r} is measured; there is adam_")
    from lamella import ops
    from lamella.arrays import to_numpy, zeros

    param, grad = arrays["param"].copy(), arrays["grad"]
    m, v = (zeros(param, param.shape) for _ in range(2))
    steps = itertools.count(1)
    run: Callable[[], None] = lambda: ops.adam_(  # noqa: E731
        param, grad, m, v, None, step=next(steps), **ADAM
    )
    return Side("lamella", run, lambda _: [to_numpy(each.copy()) for each in (param, m, v)])
