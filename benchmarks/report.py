"""What is printed and written: a row a measurement, the losing rows, JSON and a plot."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.cases import Case
from benchmarks.ceilings import SUSPECT, Floor
from benchmarks.harness import Timing, geometric_mean

_DISTURBED = 0.1  # of the CPUs


@dataclass(frozen=True)
class FullBatch:
    """lamella on a batch without padding, for a case of ragged sequences.

    `steps` is the number of steps of the ragged case's sequences that count, over the whole batch.
    """

    shape: tuple[int, ...]
    timing: Timing
    steps: int

    def relative_cost(self, ragged: Timing) -> float:
        """What a step that counts costs in the ragged batch, over what it costs in this one."""
        count, length, _ = self.shape
        return (ragged.median / self.steps) / (self.timing.median / (count * length))


@dataclass(frozen=True)
class Row:
    """A case against one peer (or none): its timings, or the problem that there was."""

    case: Case
    peer: str | None
    ours: Timing | None = None
    theirs: Timing | None = None
    floor: Floor | None = None
    error: float | None = None  # the largest difference, and what was allowed
    tolerance: float | None = None
    peer_error: float | None = None  # where that is larger than what was allowed
    problem: str | None = None
    disturbance: float | None = None  # share of the CPUs that other programs used meanwhile
    full_batch: FullBatch | None = None

    @property
    def ratio(self) -> float | None:
        """The peer's time over ours: above 1 we are faster."""
        if self.ours is None or self.theirs is None:
            return None
        return self.theirs.median / self.ours.median

    @property
    def relative_cost(self) -> float | None:
        """Of ragged sequences: our time over that of their valid steps alone."""
        if self.full_batch is None or self.ours is None:
            return None
        return self.full_batch.relative_cost(self.ours)

    def share(self, timing: Timing | None) -> float | None:
        """The floor's time over the measured one."""
        if timing is None or self.floor is None:
            return None
        return self.floor.seconds / timing.median

    @property
    def suspicion(self) -> str | None:
        """Why not to believe the row, if something is faster than the machine."""
        for name, timing in (("lamella", self.ours), (self.peer, self.theirs)):
            share = self.share(timing)
            if share is not None and share > SUSPECT:
                return f"measurement suspect: {name} at {share:.0%} of the ceiling"
        return None

    @property
    def is_disturbed(self) -> bool:
        """Whether other programs used so much of the CPUs that times and ratios mean little."""
        return self.disturbance is not None and self.disturbance > _DISTURBED

    @property
    def trouble(self) -> str | None:
        return self.problem or self.suspicion


def duration(seconds: float) -> str:
    """At least three digits, and a unit."""
    size, unit = next(
        (size, unit) for size, unit in ((1.0, "s"), (1e-3, "ms"), (0.0, "us")) if seconds >= size
    )
    value = seconds / (size or 1e-6)
    return f"{value:.{0 if value >= 100 else 1 if value >= 10 else 2}f} {unit}"


class Table:
    """Prints rows as they come.

    Parameters
    ----------
    ids : iterable of str
        Of all cases to come: they set the width of the first column.
    """

    def __init__(self, ids: Iterable[str]) -> None:
        self._width = max(map(len, ids), default=4)

    def header(self) -> str:
        columns = ("lamella", "+-", "rate", "share", "peer", "time", "+-", "share", "ratio")
        widths = (9, 4, 13, 5, 13, 9, 4, 5, 6)
        cells = (f"{name:>{width}}" for name, width in zip(columns, widths, strict=True))
        return f"{'case':{self._width}} " + " ".join(cells)

    def row(self, row: Row) -> str:
        text = f"{row.case.id:{self._width}} "
        if row.ours is None or row.floor is None:
            return f"{text}ERROR ({row.peer or 'alone'}): {row.problem}"
        rate = f"{row.floor.amount / row.ours.median:.4g} {row.floor.unit}/s"
        text += f"{duration(row.ours.median):>9} {row.ours.spread:>4.0%} {rate:>13} "
        text += f"{row.share(row.ours):>5.0%}"
        if row.theirs is not None:
            text += f" {row.peer:>13} {duration(row.theirs.median):>9} {row.theirs.spread:>4.0%} "
            text += f"{row.share(row.theirs):>5.0%} {row.ratio:>5.2f}x"
        if row.relative_cost is not None:
            text += f"  {row.relative_cost:.2f} of valid steps"
        if row.peer_error is not None:
            text += f"  {row.peer} is off by {row.peer_error:.1g}"
        if row.is_disturbed:
            text += f"  others {row.disturbance:.0%}"
        if row.suspicion:
            text += f"\n{'':{self._width}} ERROR: {row.suspicion}"
        return text


def summary(rows: Sequence[Row]) -> list[str]:
    """The lines at the end: geometric means of the ratios, losing rows, rows in trouble."""
    lines = []
    disturbed = sum(row.is_disturbed for row in rows)
    if disturbed:
        lines.append(
            f"WARNING: {disturbed} of {len(rows)} rows were measured while other programs used "
            f"more than {_DISTURBED:.0%} of the CPUs: measure again on a quiet machine"
        )
    for peer in dict.fromkeys(row.peer for row in rows if row.peer):
        ratios = _ratios(rows, peer)
        if not ratios:
            continue
        values = [ratio for _, ratio in ratios]
        wins = sum(ratio >= 1 for ratio in values)
        lines.append(
            f"against {peer}: {geometric_mean(values):.2f}x (geometric mean), "
            f"{wins} of {len(values)} rows at least as fast"
        )
        ops = list(dict.fromkeys(row.case.op for row, _ in ratios))
        if len(ops) > 1:
            for op in ops:
                of_op = [ratio for row, ratio in ratios if row.case.op == op]
                lines.append(f"    {op:32} {geometric_mean(of_op):.2f}x of {len(of_op)}")
        losing = sorted((pair for pair in ratios if pair[1] < 1), key=lambda pair: pair[1])
        if losing:
            lines.append(f"losing rows against {peer}:")
            lines.extend(f"    {ratio:.2f}x {row.case.id}" for row, ratio in losing)
    lines.extend(_ragged_costs(rows))
    troubled = [row for row in rows if row.trouble]
    if troubled:
        lines.append("rows in error, counted in none of the above:")
        lines.extend(
            f"    {row.case.id} ({row.peer or 'alone'}): {row.trouble}" for row in troubled
        )
    return lines


def _ragged_costs(rows: Sequence[Row]) -> list[str]:
    """What ragged sequences cost beyond their valid steps: one line, if there are any."""
    costs = [(row.relative_cost, row) for row in rows if row.trouble is None]
    known = [(cost, row) for cost, row in costs if cost is not None]
    if not known:
        return []
    most, where = max(known, key=lambda pair: pair[0])
    mean = geometric_mean([cost for cost, _ in known])
    return [
        f"ragged sequences cost {mean:.2f} of their valid steps in a full batch (geometric mean), "
        f"at most {most:.2f} ({where.case.id})"
    ]


def _ratios(rows: Sequence[Row], peer: str) -> list[tuple[Row, float]]:
    return [
        (row, row.ratio)
        for row in rows
        if row.peer == peer and row.ratio is not None and row.trouble is None
    ]


def as_json(row: Row) -> dict[str, Any]:
    """A row for the results file."""
    found: dict[str, Any] = {
        "case": row.case.id,
        "arrays": {name: list(a.shape) for name, a in row.case.arguments.items()},
        "options": dict(row.case.options),
        "needs": list(row.case.needs) if row.case.has_backward else None,
        "peer": row.peer,
        "ours": _timing_as_json(row, row.ours),
        "theirs": _timing_as_json(row, row.theirs),
        "ratio": row.ratio,
        "floor_seconds": row.floor.seconds if row.floor else None,
        "bound_by": row.floor.bound_by if row.floor else None,
        "error": row.error,
        "tolerance": row.tolerance,
        "peer_error": row.peer_error,
        "disturbance": row.disturbance,
        "full_batch": _full_batch_as_json(row),
        "problem": row.trouble,
    }
    return {key: value for key, value in found.items() if value is not None}


def _full_batch_as_json(row: Row) -> dict[str, Any] | None:
    if row.full_batch is None:
        return None
    return {
        "valid_steps": row.full_batch.steps,
        "x": list(row.full_batch.shape),
        "median_seconds": row.full_batch.timing.median,
        "spread": row.full_batch.timing.spread,
        "relative_cost": row.relative_cost,
    }


def _timing_as_json(row: Row, timing: Timing | None) -> dict[str, Any] | None:
    if timing is None or row.floor is None:
        return None
    return {
        "median_seconds": timing.median,
        "spread": timing.spread,
        "share_of_ceiling": row.share(timing),
        f"{row.floor.unit.lower()}_per_second": row.floor.amount / timing.median,
        "block_seconds_per_call": list(timing.seconds),
        "calls_per_block": timing.calls,
    }


def write_json(
    path: Path,
    rows: Sequence[Row],
    machine: dict[str, Any],
    ceilings: dict[str, Any],
    protocol: dict[str, Any],
) -> None:
    """Write everything that was measured, with the machine it was measured on."""
    peers = dict.fromkeys(row.peer for row in rows if row.peer)
    ratios = {peer: [ratio for _, ratio in _ratios(rows, peer)] for peer in peers}
    document = {
        "machine": machine,
        "protocol": protocol,
        "ceilings": ceilings,
        "geometric_means": {p: geometric_mean(r) for p, r in ratios.items() if r},
        "rows": [as_json(row) for row in rows],
    }
    path.write_text(json.dumps(document, indent=1) + "\n")


def plot(path: Path, rows: Sequence[Row], title: str) -> None:
    """Draw each row's share of the ceiling, ours and the peer's, as bars."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    drawn = [row for row in reversed(rows) if row.ours is not None and row.trouble is None]
    if not drawn:
        raise ValueError(f"{path}: no row to draw")
    names = [f"{row.case.id} ({row.peer})" if row.peer else row.case.id for row in drawn]
    figure, axes = pyplot.subplots(figsize=(9, 1.2 + 0.3 * len(drawn)), layout="constrained")
    heights = range(len(drawn))
    bars = [("lamella", "tab:blue", 0.2, [row.ours for row in drawn])]
    if any(row.peer for row in drawn):
        bars.append(("peer", "tab:gray", -0.2, [row.theirs for row in drawn]))
    for name, color, offset, timings in bars:
        shares = [row.share(timing) or 0 for row, timing in zip(drawn, timings, strict=True)]
        axes.barh([height + offset for height in heights], shares, 0.38, label=name, color=color)
    axes.set_yticks(heights, names, fontsize=7)
    axes.set_ylim(-0.6, len(drawn) - 0.4)
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:.0%}")
    axes.set_xlabel("share of this machine's measured ceiling")
    axes.set_title(title, fontsize=9)
    axes.legend(loc="lower right")
    figure.savefig(path, dpi=150)
    pyplot.close(figure)
