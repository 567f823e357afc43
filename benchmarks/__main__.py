"""Measure lamella against its peers and against the machine; see README.md.

    python -m benchmarks                            everything
    python -m benchmarks conv2d softmax             these ops
    python -m benchmarks 'conv2d/3x3*/forward'      cases by pattern
    python -m benchmarks cnn                        a model: training and prediction
    python -m benchmarks import                     import time and memory

Results are checked first; then ours and the peer are timed in turn.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from types import ModuleType
from typing import Any

from benchmarks import cases, device, import_time, machine, ours, peers, report
from benchmarks.harness import QUICK, come_to_rest

LOST = 3  # exit status: after a fault on the device nothing runs there any more
_SECONDS_BETWEEN_FILES = 10
_BEGAN = time.monotonic()


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line.

    The exit status is 1 if a case failed or gave a wrong result, 3 if the device cannot go on.
    """
    parser = _parser()
    options = parser.parse_args(arguments)
    if options.selection == ["import"]:
        repetitions = 3 if options.quick else 20
        print("\n".join(import_time.table(import_time.measure(repetitions))))
        return 0
    try:
        selected = cases.select(cases.load_cases(options.device), options.selection)
    except ValueError as error:
        parser.error(str(error))
    if options.list:
        for case in selected:
            print(case.id)
        return 0
    where = _settle_backend(parser, options)
    if options.plot:
        _require_matplotlib(parser)
    for path in filter(None, (options.json, options.plot)):
        path.parent.mkdir(parents=True, exist_ok=True)
    selected = _measurable(parser, selected, options.device)
    peers_of = load_peers(parser, options.peer, selected, options.device)
    try:
        pairs = _in_order(selected, peers_of, options.after)
    except ValueError as error:
        parser.error(str(error))
    return _measure(pairs, options, where)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("selection", nargs="*", metavar="CASE", help="an op, a model, or a pattern of --list")
    add(
        "--device",
        choices=device.NAMES,
        default="cpu",
        help="where to run: on the CPU, on a GPU, or on the executor for GPU kernels (for tests)",
    )
    add(
        "--peer",
        choices=[*peers.PEERS, "none"],
        action="append",
        help="compare with this one only (may be repeated); default: torch, for predictions "
        "onnxruntime too, and for training steps keras if it is installed",
    )
    add("--threads", type=int, metavar="N", help="threads of each side; default: lamella's")
    add("--isa", metavar="NAME", help="instruction set of lamella's kernels; default: the best")
    add("--json", type=Path, metavar="F", help="write the results there")
    add("--plot", type=Path, metavar="F.png", help="draw the shares of the ceiling there")
    add("--quick", action="store_true", help="few and short blocks: a check, not a measurement")
    add("--minutes", type=float, metavar="M", help="stop after so many, and say what is left out")
    add("--after", metavar="ROW", help="begin behind this row, as an interrupted run names it")
    add("--list", action="store_true", help="print the cases' names and stop")
    return parser


def _settle_backend(parser: argparse.ArgumentParser, options: argparse.Namespace) -> device.Device:
    """Set instruction set and threads; the device."""
    try:
        from lamella import _cpu
    except ImportError as error:
        parser.error(f"lamella cannot be imported ({error}): install it, or see README.md")
    try:
        if options.isa:
            _cpu.set_cpu_isa(options.isa)
        if options.threads is not None:
            _cpu.set_num_threads(options.threads)
        return device.load(options.device)
    except (ValueError, RuntimeError, ModuleNotFoundError) as error:
        parser.error(str(error))


def _require_matplotlib(parser: argparse.ArgumentParser) -> None:
    try:
        import matplotlib  # noqa: F401
    except ModuleNotFoundError:
        parser.error("--plot needs matplotlib: pip install 'lamella[plot]'")


def _measurable(
    parser: argparse.ArgumentParser, selected: Sequence[cases.Case], device_name: str
) -> list[cases.Case]:
    """The cases that the installed lamella can run; what the others lack is printed."""
    lacking: dict[str, list[cases.Case]] = {}
    found = []
    for case in selected:
        what = ours.missing(case, device_name)
        if what is None:
            found.append(case)
        else:
            lacking.setdefault(what, []).append(case)
    if not found:
        parser.error(f"this lamella has no {', no '.join(lacking)}")
    for what, without in lacking.items():
        print(f"{len(without)} cases left out: this lamella has no {what}")
    return found


def load_peers(
    parser: argparse.ArgumentParser,
    chosen: list[str] | None,
    selected: Sequence[cases.Case],
    device_name: str = "cpu",
) -> dict[str, dict[str, ModuleType]]:
    """The peers of each case by its id, with lamella's number of threads."""
    from lamella import _cpu

    if chosen and "none" in chosen and len(chosen) > 1:
        parser.error("--peer none goes with no other peer")
    elsewhere = set(chosen or ()) - {"none", *peers.ON_DEVICES}
    if device_name != "cpu" and elsewhere:
        parser.error(f"--peer {', '.join(sorted(elsewhere))} runs on the CPU only")
    wanted = {case.id: tuple(chosen or case.peers) for case in selected}
    modules: dict[str, ModuleType] = {}
    absent: dict[str, str] = {}
    for name in dict.fromkeys(name for names in wanted.values() for name in names):
        if name == "none":
            continue
        try:
            modules[name] = peers.load(name)
        except ModuleNotFoundError as error:
            absent[name] = str(error)
            continue
        modules[name].set_threads(_cpu.num_threads())
        if device_name == "cuda":
            modules[name].set_device("cuda")
    # A peer that was asked for has to be there, and a case has to have one unless none was.
    for names in wanted.values():
        missing = [absent[name] for name in names if name in absent]
        if missing and (chosen or len(missing) == len(names)):
            parser.error(f"{'; '.join(missing)}; or measure alone with --peer none")
    for name, reason in absent.items():
        print(f"without {name}: {reason}")
    return {
        case: {name: modules[name] for name in names if name in modules}
        for case, names in wanted.items()
    }


def _measure(
    pairs: Sequence[tuple[cases.Case, dict[str, ModuleType]]],
    options: argparse.Namespace,
    where: device.Device,
) -> int:
    from benchmarks.runner import run_case

    protocol = QUICK if options.quick else where.protocol
    modules = {name: module for _, found in pairs for name, module in found.items()}
    about = machine.describe({name: module.VERSION for name, module in modules.items()}, where.name)
    come_to_rest()
    ceilings = where.ceilings(protocol.ceiling_seconds)
    versions = ", ".join(f"{name} {version}" for name, version in about["versions"].items())
    title = _title(about)
    print(f"{title}\n{versions}, commit {about['commit']}")
    print(f"ceiling: {ceilings.fma:.0f} GFLOP/s fp32 (measured)")
    table = report.Table(case.id for case, _ in pairs)
    print(table.header())
    rows: list[report.Row] = []
    left_out: list[str] = []
    lost_at: str | None = None  # the row after which nothing runs any more
    written = time.monotonic()

    def write() -> None:
        if options.json:
            about.update(left_out=left_out, lost_at=lost_at)
            report.write_json(options.json, rows, about, ceilings.summary(), asdict(protocol))

    for case, against in pairs:
        if lost_at or (options.minutes and time.monotonic() > _BEGAN + 60 * options.minutes):
            left_out.append(_name(case, against))
            continue
        measured = list(run_case(case, against, ceilings, protocol, where))
        for row in measured:
            print(table.row(row), flush=True)
        if not measured:
            print(f"{case.id}: not measured, there is none of {', '.join(against)}")
        rows.extend(measured)
        if any(row.problem for row in measured) and where.is_lost():
            lost_at = _name(case, against)
        if time.monotonic() > written + _SECONDS_BETWEEN_FILES:
            write()  # whoever ends this process finds what was measured until then
            written = time.monotonic()
    print("\n".join(["", *report.summary(rows)]))
    if left_out:
        why = f"{where.name} is lost" if lost_at else f"{options.minutes:g} minutes are over"
        print(f"left out, as {why}: {len(left_out)} of {len(left_out) + len(rows)} rows")
    write()
    if options.plot:
        report.plot(options.plot, rows, title)
    return LOST if lost_at else int(any(row.problem for row in rows))


def _title(about: dict[str, Any]) -> str:
    if "device" in about:
        return str(about["device"]["name"])
    return f"{about['cpu']}, {about['isa']}, {about['threads']} threads"


def _name(case: cases.Case, against: dict[str, ModuleType]) -> str:
    return f"{case.id} ({', '.join(against) or 'alone'})"


def _in_order(
    selected: Sequence[cases.Case], peers_of: dict[str, dict[str, ModuleType]], after: str | None
) -> list[tuple[cases.Case, dict[str, ModuleType]]]:
    """Each case and its peers, but what has to be compiled for long last.

    `after` is the name of the last one that is not measured.
    """
    found = []
    for is_last in (False, True):
        for case in selected:
            given = peers_of[case.id]
            against = {n: m for n, m in given.items() if (n in peers.SLOW_TO_START) == is_last}
            if against or not (given or is_last):
                found.append((case, against))
    names = [_name(case, against) for case, against in found]
    if after is not None and after not in names:
        raise ValueError(f"--after {after!r} is none of the selected cases")
    return found if after is None else found[names.index(after) + 1 :]


if __name__ == "__main__":
    sys.exit(main())
