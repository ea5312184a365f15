"""Is `fetcher` faster, leaner, safer than what you use now, on your machine? `python -m benchmarks` asks.

The short form takes a quarter of an hour at most: 1 GiB, 3 rounds, the nearest rivals. `--full` has everybody, 4 GiB,
and all scenarios; it takes the better part of an hour. Rounds go through everybody in turn; each is a process of its
own, whole, with its start-up. Tables go to standard output; what is measured goes as JSON lines to a file, from which
they can be made again. Caveats are in benchmarks/README.md.
"""

from __future__ import annotations

import argparse
import compileall
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path

from benchmarks.origins.links import links_here
from benchmarks.origins.nginx import nginx_here
from benchmarks.origins.s3 import rclone_here
from benchmarks.report import targets
from benchmarks.report.tables import tables
from benchmarks.rivals import RIVALS
from benchmarks.running import lines
from benchmarks.running.machine import Failed
from benchmarks.running.options import GIB, MIB, OURS, Options, at_least, core, size
from benchmarks.running.race import Row
from benchmarks.running.work import CHECKOUT, Unusable
from benchmarks.scenarios import SCENARIOS

SHORT = Options(size_bytes=GIB, link_bytes=GIB // 2, files=2000, objects=1000, kill_bytes=192 * MIB, snapshots=10_000)
FULL = Options()
ORIGINS: Mapping[str, Callable[[], str]] = {
    "nginx": nginx_here,
    "rclone serve s3 (s3, repeat)": rclone_here,
    "long links (link-…)": links_here,
}
"""What this machine has for each; one that lacks something raises Unusable. The embedded ones need nothing."""
RESULTS = CHECKOUT / "bench-results"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="benchmarks", description=__doc__)
    parser.add_argument(
        "--scenario",
        action="append",
        choices=SCENARIOS,
        metavar="NAME",
        help="one of those that --list names; default: all of the form",
    )
    parser.add_argument(
        "--rival",
        action="append",
        choices=RIVALS,
        metavar="NAME",
        help="one of those that --list names; default: all of the scenario",
    )
    parser.add_argument("--full", action="store_true", help="everybody, all scenarios, large")
    parser.add_argument("--rounds", type=at_least(1), help="3")
    parser.add_argument("--size", type=size, help="of the large file, and of four shards together (1GiB; full 4GiB)")
    parser.add_argument("--link-size", type=size, help="of the file over the long link (512MiB; full 1GiB)")
    parser.add_argument("--kill-size", type=size, help="of the file in which everybody is killed (192MiB; full 320MiB)")
    parser.add_argument("--files", type=at_least(1), help="of 4 KiB (2000; full 5000)")
    parser.add_argument("--medium-files", type=at_least(1), help="of 1 MiB (500)")
    parser.add_argument("--objects", type=at_least(1), help="in S3 (1000; full 2000)")
    parser.add_argument("--snapshots", type=at_least(200), help="in the cache, for `index` (10000; full 100000)")
    parser.add_argument("--seed", type=at_least(0), help="of the moments of killing (1)")
    parser.add_argument("--core", type=core, help="pin everybody to this core (nginx has core 0)")
    parser.add_argument("--warm", action="store_true", help="rivals overwrite files that are there: no fresh pages")
    parser.add_argument("--memory", type=Path, help="a tmpfs, for origins and outputs (/dev/shm)")
    parser.add_argument("--disk", type=Path, help=f"a disk, for what goes there ({tempfile.gettempdir()})")
    parser.add_argument("--output", type=Path, help="where JSON lines go (bench-results/TIME.jsonl)")
    parser.add_argument(
        "--list", action="store_true", help="measure nothing: scenarios, origins, rivals, and what is missing"
    )
    parser.add_argument(
        "--read", type=lines.rows_of, metavar="FILE", help="measure nothing: tables of the JSON lines in this file"
    )
    return parser


def options_of(given: argparse.Namespace) -> Options:
    """What was chosen, over the defaults of the form."""
    names = {"size": "size_bytes", "link_size": "link_bytes", "kill_size": "kill_bytes"}
    same = ("rounds", "files", "medium_files", "objects", "snapshots", "seed", "core", "memory", "disk")
    chosen = {names.get(name, name): getattr(given, name) for name in (*names, *same)}
    changes = {name: value for name, value in chosen.items() if value is not None}
    return replace(FULL if given.full else SHORT, rivals=tuple(given.rival or ()), warm=given.warm, **changes)


def measure(given: argparse.Namespace, options: Options) -> Iterator[tuple[str, Iterator[Row]]]:
    """Scenarios and their rows, as they were chosen."""
    chosen = given.scenario or [name for name, scenario in SCENARIOS.items() if given.full or scenario.short]
    for name in chosen:
        scenario = SCENARIOS[name]
        everybody = given.full or given.rival
        yield name, scenario.run(options if everybody else replace(options, rivals=scenario.nearest))


def _listing() -> str:
    found = ["scenarios (* in the short form):"]
    for name, scenario in SCENARIOS.items():
        found.append(f"  {'*' if scenario.short else ' '} {name:15} {scenario.asks}")
    found.append("\norigins:")
    for name, here in ORIGINS.items():
        try:
            outcome = here()
        except Unusable as reason:
            outcome = f"missing: {reason}"
        found.append(f"    {name:42} {outcome}")
    found.append("\nrivals:")
    for name, rival in RIVALS.items():
        found.append(f"    {name:42} {rival.missing or rival.version()}; verifies {rival.verifies}")
    return "\n".join(found)


def end_when_asked() -> None:
    """What was started has to end with us, however we are asked to; in the background an interrupt may be ignored."""
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda number, frame: sys.exit(128 + number))
    signal.signal(signal.SIGINT, signal.default_int_handler)


def compile_all(checkout: Path) -> None:
    """Else the first rounds would pay for what an installation has done long before."""
    for package in ("fetcher", "benchmarks"):
        compileall.compile_dir(checkout / package, quiet=1)


def keep_all(kept: lines.Lines, scenarios: Iterable[tuple[str, Iterator[Row]]]) -> list[str]:
    """Run scenarios, keep their rows, and say which could not be measured here, and why."""
    unusable = []
    for name, rows in scenarios:
        before = len(kept.rows)
        try:
            for _ in kept.keep(name, rows):
                pass
            if len(kept.rows) > before:
                continue
            reason: Exception = Unusable("nobody who was chosen takes part")
        # A place that is not there or has no room; a program that is asked for its version and does not end.
        except (Unusable, Failed, OSError, subprocess.SubprocessError) as found:
            reason = found
        unusable.append(f"{name}: {reason}")
        print(f"        {unusable[-1]}", file=sys.stderr)
    return unusable


def ours_failed(rows: Iterable[Row]) -> list[str]:
    """Which of us failed in what, and why."""
    some = (row for row in rows if "failed" in row and row.get("rival", "").startswith(OURS))
    return [f"{row['scenario']}: {row['rival']}: {row['failed']}" for row in some]


def say_where(kept: lines.Lines) -> None:
    """In which file the lines are, if there is one."""
    if kept.rows:
        print(f"\nJSON lines: {kept.path}", file=sys.stderr)


def report(rows: list[Row]) -> str:
    """Tables, and what of the goals was reached."""
    reached = targets.table(rows)
    sizes = "Goals are for the sizes of `--full`; in smaller ones the start of a process weighs more."
    return tables(rows) + (f"\n\n### What was to be reached\n\n{sizes}\n\n{reached}" if reached else "")


def main() -> None:
    given = _parser().parse_args()
    if given.list:
        print(_listing())
        return
    if given.read is not None:
        print(report(given.read))
        return
    end_when_asked()
    compile_all(CHECKOUT)
    kept = lines.Lines(given.output or RESULTS / f"{time.strftime('%Y-%m-%dT%H%M%S')}.jsonl", core=given.core)
    try:
        unusable = keep_all(kept, measure(given, options_of(given)))
    except KeyboardInterrupt:
        print(report(kept.rows))
        print("\nInterrupted.", file=sys.stderr)
        say_where(kept)
        sys.exit(130)
    print(report(kept.rows))
    for line in unusable:
        print(f"\nNot measured: {line}")
    say_where(kept)
    # A scenario that this machine can't have is no failure, unless it was asked for by name; one of us that fails is.
    if (unusable and given.scenario) or ours_failed(kept.rows):
        sys.exit(1)


if __name__ == "__main__":
    main()
