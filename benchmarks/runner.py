"""One case against its peers: make the arrays, check the results, then measure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np

from benchmarks import ours, ragged, verification
from benchmarks.cases import Case
from benchmarks.ceilings import Ceilings
from benchmarks.device import Device
from benchmarks.harness import Protocol, Side, Timing, measure
from benchmarks.machine import Disturbance
from benchmarks.report import FullBatch, Row
from benchmarks.work import result_shape, work

_RETRIES = 3  # of a ceiling that was slower than a case
_CPU = Device()


class Checked(NamedTuple):
    """The sides of a case, lamella's first, after their results were found to agree.

    `alone` is lamella on a full batch of as many steps, of a case with ragged sequences.
    `peer_error` is the peer's, where it is the one that is off by more than `tolerance`.
    """

    sides: list[Side]
    error: float
    tolerance: float
    alone: Side | None = None
    peer_error: float | None = None


def check_case(case: Case, peer: ModuleType | None, device: Device = _CPU) -> Checked | None:
    """Make the arrays and both sides, and compare their results.

    None where the peer has no such op.

    Raises
    ------
    WrongResultError
        The results do not agree.
    """
    arrays = case.arrays()
    dy = _result_gradient(case)
    placed, placed_dy = _placed(case, arrays, dy, device)
    sides = []
    if peer is not None:
        side = peer.prepare(case, placed, placed_dy)
        if side is None:
            return None
        sides.append(side)
    sides.insert(0, ours.prepare(case, placed, placed_dy, device.name))
    plain = verification.without_dropout(case)
    peer_error = None
    if plain is None:
        allowed = verification.tolerance(work(case).terms)
        try:
            error = _verify(case, sides, arrays, dy, allowed)
        except verification.WrongResultError:
            if peer is None or device.name == "cpu":
                raise
            error, peer_error = _judge(case, peer, sides, arrays, dy, allowed, device)
    else:
        expected = _expected(plain, peer, arrays, dy, device)
        rate = case.options["dropout"]
        error, allowed = verification.check_in_expectation(_results(case, sides[0]), expected, rate)
    full = ragged.full_batch(case)
    if full is None:
        return Checked(sides, error, allowed, peer_error=peer_error)
    alone = ours.prepare(full, *_placed(full, full.arrays(), _result_gradient(full), device))
    return Checked(sides, error, allowed, alone, peer_error)


def _placed(
    case: Case, arrays: dict[str, np.ndarray], dy: np.ndarray | None, device: Device
) -> tuple[dict[str, Any], Any]:
    """Arguments and gradient on the device; a model gets its batches from the host."""
    if case.is_model:
        return arrays, dy
    together = device.place(arrays if dy is None else {**arrays, "": dy})
    placed_dy = together.pop("", None)
    return together, placed_dy


def _result_gradient(case: Case) -> np.ndarray | None:
    """What a backward pass starts from."""
    if not case.has_backward:
        return None
    return np.random.default_rng(1).standard_normal(result_shape(case), dtype=np.float32)


def run_case(
    case: Case,
    peers: Mapping[str, ModuleType],
    ceilings: Ceilings,
    protocol: Protocol,
    device: Device = _CPU,
) -> Iterator[Row]:
    """A row for each peer that has the case; without peers one row, of lamella alone.

    What goes wrong in a case (a wrong result, too little memory) becomes its row's problem: the
    other cases are still measured.
    """
    against: list[tuple[str | None, ModuleType | None]] = [*peers.items()] or [(None, None)]
    for name, peer in against:
        try:
            with device.at_work():
                checked = check_case(case, peer, device)
                row = checked and _measured(case, name, checked, ceilings, protocol, device)
            if row is not None:
                yield row
        except Exception as error:
            yield Row(case, name, problem=f"{type(error).__name__}: {error}")


def _measured(
    case: Case,
    peer: str | None,
    checked: Checked,
    ceilings: Ceilings,
    protocol: Protocol,
    device: Device,
) -> Row:
    cost, clock = work(case), device.clock(case)
    clock.rest()
    floor = ceilings.floor(cost)
    disturbance = Disturbance()
    sides = checked.sides if checked.alone is None else [*checked.sides, checked.alone]
    timings = measure(sides, protocol, clock)
    row = Row(
        case,
        peer,
        ours=timings[0],
        theirs=timings[1] if peer else None,
        floor=floor,
        error=checked.error,
        tolerance=checked.tolerance,
        peer_error=checked.peer_error,
        disturbance=disturbance.share(),
        full_batch=_full_batch(case, timings[-1]) if checked.alone else None,
    )
    for _ in range(_RETRIES):
        if row.suspicion is None:
            break
        clock.rest()
        ceilings.measure_again(cost)
        row = replace(row, floor=ceilings.floor(cost))
    return row


def _full_batch(case: Case, timing: Timing) -> FullBatch:
    full = ragged.full_batch(case)
    assert full is not None
    return FullBatch(full.shape("x"), timing, ragged.valid_steps(case))


def _verify(
    case: Case,
    sides: Sequence[Side],
    arrays: dict[str, np.ndarray],
    dy: np.ndarray | None,
    allowed: float,
) -> float:
    """The largest difference between the sides, or from the reference where there is no peer."""
    actual = _results(case, sides[0])
    if len(sides) == 2 and not verification.needs_reference(case):
        return verification.check(actual, _results(case, sides[1]), allowed)
    expected = verification.expected_by_reference(case, arrays, dy, actual)
    return verification.check(actual, verification.comparable(case, expected), allowed)


def _judge(
    case: Case,
    peer: ModuleType,
    sides: list[Side],
    arrays: dict[str, np.ndarray],
    dy: np.ndarray | None,
    allowed: float,
    device: Device,
) -> tuple[float, float]:
    """Where two sides do not agree: lamella's error and the peer's, by the peer in float64.

    Convolutions on a GPU may be computed by transforms, whose errors are larger than those of sums.

    Raises
    ------
    WrongResultError
        It is lamella that is off.
    """
    exact = peer.prepare(case, *_placed(case, _doubles(arrays), _double(dy), device))
    expected = _results(case, exact)
    # Prepared anew: a side that was run has gone on, with its weights for instance.
    again = [
        ours.prepare(case, *_placed(case, arrays, dy, device), device.name),
        peer.prepare(case, *_placed(case, arrays, dy, device)),
    ]
    sides[:] = again
    error = verification.check(_results(case, again[0]), expected, allowed)
    return error, verification.largest_error(_results(case, again[1]), expected)


def _double(array: np.ndarray | None) -> np.ndarray | None:
    return array.astype(np.float64) if array is not None and array.dtype == np.float32 else array


def _doubles(arrays: dict[str, np.ndarray]) -> dict[str, Any]:
    """Each in float64; what is one array stays one."""
    doubled = {id(array): _double(array) for array in arrays.values()}
    return {name: doubled[id(array)] for name, array in arrays.items()}


def _results(case: Case, side: Side) -> list[np.ndarray]:
    with side.context():
        return verification.comparable(case, side.arrays(side.run()))


def _expected(
    plain: Case,
    peer: ModuleType | None,
    arrays: dict[str, np.ndarray],
    dy: np.ndarray | None,
    device: Device,
) -> list[np.ndarray]:
    """What the peer computes, or the reference where there is no peer."""
    if peer is not None:
        return _results(plain, peer.prepare(plain, *_placed(plain, arrays, dy, device)))
    return verification.comparable(plain, verification.expected_by_reference(plain, arrays, dy, []))
