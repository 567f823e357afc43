"""Whether both sides computed the same, before anything is timed.

An element passes when it differs from the expected one by at most `tolerance(terms)` of the
largest expected magnitude, `terms` being the number of terms in its sum. Two float32 sums in
different orders are each off by a random walk of roundings, EPS sqrt(terms) / 2 at the most in
practice; the bound allows twice that for the pair, and some roundings for what follows the sum.
Products in bfloat16 or TF32, or a sum that lost a term, are off by a hundred times as much.
"""

from __future__ import annotations

import functools
import inspect
import math
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from benchmarks.cases import Case
from benchmarks.ours import ADAM

EPS = 2.0**-23


class WrongResultError(AssertionError):
    """The two sides do not agree."""


def tolerance(terms: int) -> float:
    """Allowed difference, relative to the largest expected magnitude."""
    return EPS * (16 + 2 * math.sqrt(terms))


def largest_error(actual: Sequence[np.ndarray], expected: Sequence[np.ndarray]) -> float:
    """The largest difference over all arrays, each relative to its largest expected magnitude.

    Raises
    ------
    WrongResultError
        The arrays differ in number or shape, or either is not finite.
    """
    if len(actual) != len(expected):
        raise WrongResultError(f"{len(actual)} results, {len(expected)} expected")
    worst = 0.0
    for got, want in zip(actual, expected, strict=True):
        if got.shape != want.shape:
            raise WrongResultError(f"shape {got.shape}, expected {want.shape}")
        if not (np.isfinite(got).all() and np.isfinite(want).all()):
            raise WrongResultError("a result is not finite")
        scale = float(np.abs(want).max())
        error = float(np.abs(got - want).max())
        worst = max(worst, error / scale if scale else error)
    return worst


def check(actual: Sequence[np.ndarray], expected: Sequence[np.ndarray], allowed: float) -> float:
    """The largest error, which `allowed` bounds.

    Raises
    ------
    WrongResultError
        It does not.
    """
    error = largest_error(actual, expected)
    if not error <= allowed:
        raise WrongResultError(f"off by {error:.2g} of the largest, allowed {allowed:.2g}")
    return error


def result_names(case: Case) -> tuple[str, ...]:
    """What the arrays are that a side gives for a case, where it matters."""
    if case.direction == "train":
        weights = [name for name in case.arguments if name not in ("x", "labels")]
        return ("loss", *weights, "loss after")
    if case.has_backward:
        return ("y", *case.wanted) if case.direction == "forward+backward" else case.wanted
    return ()


_BESIDE = ("query_bias", "key_bias", "value_bias")  # a layer's number may follow


def comparable(case: Case, results: Sequence[np.ndarray]) -> list[np.ndarray]:
    """The results, with the gradients of each attention's three biases in one array.

    That of the key's is zero but for rounding, as softmax takes no notice of what is added to all
    scores of a row: it is to be small beside the others.
    """
    names = result_names(case)
    numbers = [n.removeprefix(_BESIDE[0]) for n in names if n.startswith(_BESIDE[0])]
    groups = [[name + number for name in _BESIDE] for number in numbers]
    groups = [group for group in groups if set(group) <= set(names)]
    if not groups:
        return list(results)
    by_name = dict(zip(names, results, strict=True))
    for group in groups:
        by_name[group[0]] = np.concatenate([np.ravel(by_name[name]) for name in group])
        for name in group[1:]:
            del by_name[name]
    return list(by_name.values())


def without_dropout(case: Case) -> Case | None:
    """The same case with nothing left out at random; None if there is no such part in it."""
    if "dropout" not in case.options:
        return None
    options = {k: v for k, v in case.options.items() if k not in ("dropout", "seed")}
    return replace(case, options=options)


def check_in_expectation(
    actual: Sequence[np.ndarray], expected: Sequence[np.ndarray], rate: float
) -> tuple[float, float]:
    """Compare attention that drops weights at this rate with attention that does not.

    What is kept is scaled by 1 / (1 - rate), so that results and gradients, which are sums of the
    weights times something independent of them, are the expected ones plus a noise whose square is
    about rate / (1 - rate) of theirs. Every library draws in its own way; so each array is put as
    `slope` times the expected one plus a remainder, by least squares, of which the slope has to be
    1 but for the noise, and the remainder has to be the noise.

    Returns
    -------
    error : float
        The largest |slope - 1|.
    allowed : float
        Five standard deviations of the slope.

    Raises
    ------
    WrongResultError
        The slope is off by more, there is another amount of noise, or the arrays are too small to
        tell.
    """
    largest_error(actual, expected)  # of the same shapes, and finite
    worst, allowed = 0.0, 0.0
    for got, want in zip(actual, expected, strict=True):
        x, y = want.astype(np.float64), got.astype(np.float64)
        square = np.sum(x * x)
        slope = float(np.sum(x * y) / square)
        remainder = y - slope * x
        noise = float(np.sum(remainder**2) / square)
        # The features of one query or key share their weights: these sums have noise of their own.
        deviation = float(np.sqrt(np.sum(np.sum(remainder * x, axis=-1) ** 2)) / square)
        if deviation > 0.02:
            raise WrongResultError(f"shape {got.shape} is too small to judge dropout by")
        if abs(slope - 1) > 5 * deviation:
            raise WrongResultError(f"{slope:.3f} of the expected values on average")
        if not 0.8 < noise / (rate / (1 - rate)) < 1.25:
            raise WrongResultError(f"noise of {noise:.2g} where a rate of {rate} was asked for")
        worst, allowed = max(worst, abs(slope - 1)), max(allowed, 5 * deviation)
    return worst, allowed


def needs_reference(case: Case) -> bool:
    """Whether no peer can be compared with: every library drops out values of its own choice."""
    return case.op == "dropout"


def expected_by_reference(
    case: Case, arrays: dict[str, np.ndarray], dy: np.ndarray | None, actual: Sequence[np.ndarray]
) -> list[np.ndarray]:
    """What the float64 reference of the tests computes for a case.

    Dropout's reference takes the mask from the `actual` result.

    Raises
    ------
    ValueError
        The case is a model: the reference knows ops.
    WrongResultError
        The dropped share is not that of the rate.
    """
    if case.direction in ("train", "predict"):
        raise ValueError(f"{case.id}: a model is checked against a peer; choose one with --peer")
    if case.direction == "step":
        zeros = np.zeros_like(arrays["param"])
        optimizers = _reference("reference.optimizers")
        param, m, v, _ = optimizers.adam(
            arrays["param"], arrays["grad"], zeros, zeros, step=1, **ADAM
        )
        return [param, m, v]
    ops = _reference("reference").OPS
    if case.op in ("lstm_step", "gru_step"):
        return _states_after_step(ops[case.op.removesuffix("_step")], arrays)
    op = ops[case.op]
    options = dict(case.options)
    if case.op == "dropout":
        del options["seed"]
        options["kept"] = _kept(actual[0], options["rate"])
    if "residual" in arrays:
        # The references normalize the sum, which float32 rounds.
        arrays = {**arrays, "x": arrays["x"] + arrays["residual"]}
        del arrays["residual"]
    found = []
    if case.direction != "backward":
        result = op.forward(**arrays, **options)
        found.append(result[0] if isinstance(result, tuple) else result)
    if case.has_backward:
        found.extend(_gradients(case, op.backward, arrays, dy, options))
    return found


def _states_after_step(op: Any, arrays: dict[str, np.ndarray]) -> list[np.ndarray]:
    states = {f"{name}0": arrays[name] for name in ("h", "c") if name in arrays}
    weights = {name: arrays[name] for name in ("kernel", "recurrent_kernel", "bias")}
    _, *after = op.forward(arrays["x"][:, np.newaxis], **weights, **states)
    return after


def _gradients(
    case: Case,
    backward: Callable[..., Sequence[np.ndarray]],
    arrays: dict[str, np.ndarray],
    dy: np.ndarray | None,
    options: dict[str, Any],
) -> list[np.ndarray]:
    assert dy is not None
    of_results: Any = dy
    if case.op == "batch_norm":
        statistics = np.zeros(dy.shape[-1])
        of_results = (dy, statistics, statistics)
    elif case.op in ("lstm", "gru", "simple_rnn"):
        of_results = (dy,) + (None,) * (2 if case.op == "lstm" else 1)
    found = backward(of_results, **arrays, **options)
    # One for each array argument of the op; those that the case leaves out have none.
    names = list(inspect.signature(backward).parameters)[1 : 1 + len(found)]
    by_name = dict(zip(names, found, strict=True))
    for name, argument in case.arguments.items():
        if argument.same_as is not None:
            by_name[argument.same_as] = by_name[argument.same_as] + by_name[name]
    return [by_name[name] for name in case.wanted]


def _kept(result: np.ndarray, rate: float) -> np.ndarray:
    kept = result != 0
    deviation = math.sqrt(rate * (1 - rate) / kept.size)
    if abs(kept.mean() - (1 - rate)) > 5 * deviation:
        raise WrongResultError(f"{kept.mean():.2%} of the values kept at a rate of {rate}")
    return kept


@functools.cache
def _reference(module: str) -> ModuleType:
    """The tests' reference package, which lies in no installed one."""
    import importlib

    tests = str(Path(__file__).resolve().parent.parent / "tests")
    if tests not in sys.path:
        sys.path.append(tests)
    return importlib.import_module(module)
