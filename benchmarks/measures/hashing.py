"""The hashing core against what one would otherwise use: the blake3 package, hashlib, a plain pwrite. In one process.

Every figure is a ratio of two things done in turns, in slices short enough that many of them run undisturbed; of each
the fastest slice counts. Rounds go through all contests, and each round has its own minima: their spread says how far
to trust a ratio. Prints one JSON line per contest, then a table. The caveats are in benchmarks/README.md.

What is contested is in ``contests`` (one core) and ``arrival`` (both). Run alone, or as a scenario, in a process of
its own.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import ssl
import tempfile
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from benchmarks.measures.arrival import FILES, Helper, everything, two_threads
from benchmarks.measures.contests import POOL, merge, sha256, updates, whole_buffers, writing
from benchmarks.report.others import ratio_table
from benchmarks.running.options import MIB, at_least, size
from benchmarks.running.race import room_in
from benchmarks.running.work import module_version
from fetcher import hashing

AGAINST: Mapping[str, Callable[[], str]] = {
    "blake3 package": module_version("blake3"),
    "hashlib": lambda: f"{ssl.OPENSSL_VERSION}, Python {platform.python_version()}",
}
"""How the names of those begin whom we are held against, and which versions of them are here; the others are ours."""


def against(than: str) -> dict[str, str]:
    """The version of who is measured against, as it goes into a line."""
    say = next((say for name, say in AGAINST.items() if than.startswith(name)), None)
    return {"than_version": say()} if say else {}


def measure(directory: Path, *, rounds: int, slices: int, file_bytes: int) -> list[dict[str, Any]]:
    """All contests, round by round; each is said when the last round is over."""
    cpus = sorted(os.sched_getaffinity(0))
    pool = random.Random(0).randbytes(POOL)
    rows: list[dict[str, Any]] = []
    os.sched_setaffinity(0, {cpus[0]})
    with ExitStack() as stack:
        contests = [*whole_buffers(pool), *updates(pool), *merge(), *sha256(pool), *writing(pool, directory, stack)]
        together = None
        if len(cpus) > 1:
            helper = Helper((cpus[0], cpus[1]))
            stack.callback(helper.close)
            contests += two_threads(pool, helper)
            together = stack.enter_context(everything(pool, directory, helper, file_bytes))
        for _ in range(rounds):
            for contest in contests:
                contest.run(slices)
            if together:
                together.run()
        rows += [contest.row() for contest in contests]
        if together:
            rows += together.rows()
    os.sched_setaffinity(0, cpus)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="benchmarks.measures.hashing", description=(__doc__ or "").partition("\n\n")[0]
    )
    parser.add_argument("--rounds", type=at_least(1), default=5)
    parser.add_argument("--slices", type=at_least(1), default=200, help="of each side in a round, in turns (200)")
    parser.add_argument("--file-size", type=size, default=1024 * MIB, help=f"of each of {FILES} files (1024)")
    parser.add_argument("--directory", type=Path, default=Path(tempfile.gettempdir()), help="where files are written")
    options = parser.parse_args()
    if not hashing.HAS_TREE:
        raise SystemExit(f"there is no compiled core to measure: {hashing.describe()}")
    with room_in(options.directory) as directory:
        rows = measure(directory, rounds=options.rounds, slices=options.slices, file_bytes=options.file_size)
    for row in rows:
        print(json.dumps(row | against(row.get("than", ""))), flush=True)
    print()
    print(ratio_table(rows))


if __name__ == "__main__":
    main()
