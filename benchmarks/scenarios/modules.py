"""Scenarios that are measured inside of one process: the hashing core, the cache on the local disk, a refusal.

Against another revision each round is a process for each of the two, in turns; the measures are those of this checkout,
whatever they measure.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path

from benchmarks.measures.arrival import FILES
from benchmarks.measures.contests import WRITTEN
from benchmarks.running.lines import revision
from benchmarks.running.machine import Conditions, Failed, run
from benchmarks.running.options import KIB, MIB, OURS, Base, Options
from benchmarks.running.race import Row, room_in, there_and_back
from benchmarks.running.work import CHECKOUT, Command

SNAPSHOT_BYTES = 40 * KIB
"""What one of the largest cache takes in all caches together, what gc is given to remove included."""
LACKING = ("ImportError", "ModuleNotFoundError", "AttributeError", "TypeError")
"""How a program ends that calls what is not there."""


def hashing(options: Options) -> Iterator[Row]:
    """How many times as fast BLAKE3, SHA-256, writing and all of them together are; see measures/hashing.py."""
    file_bytes = _file_bytes(options)
    with room_in(options.disk, FILES * file_bytes + WRITTEN):
        yield from _measured("hashing", options, f"--file-size={file_bytes}")


def index(options: Options) -> Iterator[Row]:
    """A hit and a lease among many Snapshots, commits, gc, an index made anew; see measures/cache.py."""
    file_bytes = _file_bytes(options)
    sizes = (f"--snapshots={options.snapshots // 10}", f"--file-size={file_bytes}")
    needed = file_bytes + SNAPSHOT_BYTES * options.snapshots
    with room_in(options.disk, needed, chosen_by="--size or --snapshots"):
        yield from _measured("cache", options, *sizes)


def denied(options: Options) -> Iterator[Row]:
    """Whether a refusal takes longer, or less long, where another's copy is in the cache; see measures/denied.py."""
    yield from _measured("denied", options)


def _file_bytes(options: Options) -> int:
    return max(MIB, options.size_bytes // 4)


def _measured(name: str, options: Options, *arguments: str) -> Iterator[Row]:
    if options.base is not None:
        yield from _compared(name, options, options.base, *arguments)
        return
    yield from _module(name, options, CHECKOUT, options.rounds, *arguments)


def _module(name: str, options: Options, checkout: Path, rounds: int, *arguments: str) -> list[Row]:
    """What a measure says of the fetcher of one checkout. Raises Failed."""
    with room_in(options.memory) as room:
        # Also of a checkout that has measures of its own.
        for package, where in (("benchmarks", CHECKOUT), ("fetcher", checkout)):
            (room / package).symlink_to(where / package)
        asked = (*arguments, f"--rounds={rounds}", "--directory", str(options.disk))
        command = (sys.executable, "-P", "-m", f"benchmarks.measures.{name}", *asked)
        # Which kernel is measured may be chosen; nothing else of the environment reaches anybody.
        chosen = {name: os.environ[name] for name in ("FETCHER_SIMD", "FETCHER_NATIVE") if name in os.environ}
        output = run(Command(command, {"PYTHONPATH": str(room), **chosen}), Conditions(options.core)).stdout
    lines = output.partition("\n\n")[0].splitlines()
    more = {"version": f"fetcher {revision(checkout)}"} | ({"chosen": chosen} if chosen else {})
    return [json.loads(line) | more for line in lines]


def _compared(name: str, options: Options, base: Base, *arguments: str) -> Iterator[Row]:
    """A row for each figure of each round, of both sides; and one for a side that can't be measured like this."""
    sides = {OURS: CHECKOUT, base.twin_of(OURS): base.checkout}
    figures: dict[str, set[str]] = {}
    for round_number in range(options.rounds):
        for side, checkout in there_and_back(sides.items(), round_number):
            try:
                measured = _module(name, options, checkout, 1, *arguments)
            except Failed as failed:
                del sides[side]
                yield {
                    "rival": side,
                    "round": round_number,
                    "failed": str(failed) if side == OURS else _reason(str(failed)),
                }
                continue
            known: set[str] = set()
            for what, row in _by_name(measured):
                known.add(what)
                called = what if side == OURS else base.twin_of(what)
                yield row | {"what": called, "rival": called, "round": round_number}
            figures.setdefault(side, known)
        if round_number == 0 and len(figures) == len(sides) == 2:
            for side, known in figures.items():
                if lacking := set.union(*figures.values()) - known:
                    yield {"rival": side, "round": 0, "failed": f"has no figures of: {'; '.join(sorted(lacking))}"}


def _reason(said: str) -> str:
    """Why another revision could not be measured."""
    last = said.rpartition("\n")[2]
    return f"this revision lacks what the measure calls: {last}" if last.startswith(LACKING) else said


def _by_name(measured: list[Row]) -> Iterator[tuple[str, Row]]:
    """Each figure of one round once: its name, and the row with what it took, of which less is better."""
    seen = set()
    for row in measured:
        for what, taken in _taken(row):
            if what not in seen:
                seen.add(what)
                yield what, row | {"taken": taken}


def _taken(row: Row) -> Iterator[tuple[str, float]]:
    if "values" in row:
        yield row["what"], row["values"][0]
    elif "cached_median_ms" in row:
        yield "refusal, a copy is there", row["cached_median_ms"]
        yield "refusal, nothing is there", row["absent_median_ms"]
    elif row["unit"] == "GiB/s":
        yield row["what"], 1 / max(row["ours"], 1e-3)
    else:
        yield row["what"] if row["unit"] == "ms" else f"{row['what']}, {row['unit']}", row["ours"]
