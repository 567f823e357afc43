"""One case against its peers: make the arrays, check the results, then measure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from types import ModuleType

import numpy as np

from benchmarks import ours, verification
from benchmarks.cases import Case
from benchmarks.ceilings import Ceilings
from benchmarks.harness import Protocol, Side, come_to_rest, measure
from benchmarks.report import Row
from benchmarks.work import result_shape, work

_RETRIES = 3  # of a ceiling that was slower than a case

Peer = tuple[str, ModuleType]  # its name and its module, see benchmarks.peers


def run_case(
    case: Case, peers: Mapping[str, ModuleType], ceilings: Ceilings, protocol: Protocol
) -> Iterator[Row]:
    """A row for each peer that has the case; without peers one row, of lamella alone.

    What goes wrong in a case (a wrong result, too little memory) becomes its row's problem: the
    other cases are still measured.
    """
    for peer in list(peers.items()) or [None]:
        try:
            row = _run(case, peer, ceilings, protocol)
        except Exception as error:
            name = peer[0] if peer else None
            row = Row(case, name, problem=f"{type(error).__name__}: {error}")
        if row is not None:
            yield row


def _run(case: Case, peer: Peer | None, ceilings: Ceilings, protocol: Protocol) -> Row | None:
    """None where the peer has no such op."""
    arrays = case.arrays()
    dy = None
    if case.direction == "backward":
        rng = np.random.default_rng(1)
        dy = rng.standard_normal(result_shape(case), dtype=np.float32)
    sides = []
    if peer is not None:
        side = peer[1].prepare(case, arrays, dy)
        if side is None:
            return None
        sides.append(side)
    sides.insert(0, ours.prepare(case, arrays, dy))
    cost = work(case)
    allowed = verification.tolerance(cost.terms)
    error = _verify(case, sides, arrays, dy, allowed)
    come_to_rest()
    floor = ceilings.floor(cost)
    timings = measure(sides, protocol)
    row = Row(
        case,
        peer[0] if peer else None,
        ours=timings[0],
        theirs=timings[1] if peer else None,
        floor=floor,
        error=error,
        tolerance=allowed,
    )
    for _ in range(_RETRIES):
        if row.suspicion is None:
            break
        come_to_rest()
        ceilings.measure_again(cost)
        row = replace(row, floor=ceilings.floor(cost))
    return row


def _verify(
    case: Case,
    sides: Sequence[Side],
    arrays: dict[str, np.ndarray],
    dy: np.ndarray | None,
    allowed: float,
) -> float:
    """The largest difference between the sides, or from the reference where there is no peer."""
    results = []
    for side in sides:
        with side.context():
            results.append(side.arrays(side.run()))
    actual = results[0]
    if len(sides) == 2 and not verification.needs_reference(case):
        return verification.check(actual, results[1], allowed)
    expected = verification.expected_by_reference(case, arrays, dy, actual)
    return verification.check(actual, expected, allowed)
