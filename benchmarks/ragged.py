"""Batches of sequences that end early: how many of their steps count, and the same without padding.

A case is ragged if the op has an argument `lengths` (N,) beside x (N, T, D).
"""

from __future__ import annotations

from dataclasses import replace

from benchmarks.cases import Case


def valid_steps(case: Case) -> int:
    """The number of steps before the sequences' ends, over the whole batch."""
    return int(case.array("lengths").sum())


def valid_share(case: Case) -> float:
    """The share of all steps that `valid_steps` is: 1 of a case that is not ragged."""
    if "lengths" not in case.arguments:
        return 1.0
    batch, steps, _ = case.shape("x")
    return valid_steps(case) / (batch * steps)


def full_batch(case: Case) -> Case | None:
    """As many sequences of one length, so that as many steps count as nearly as can be.

    None for a case that is not ragged.
    """
    if "lengths" not in case.arguments:
        return None
    batch, _, features = case.shape("x")
    steps = max(1, round(valid_steps(case) / batch))
    arguments = {name: a for name, a in case.arguments.items() if name != "lengths"}
    arguments["x"] = replace(arguments["x"], shape=(batch, steps, features))
    needs = tuple(name in case.wanted for name in arguments)
    return replace(case, name=f"{case.name}-full", arguments=arguments, needs=needs)
