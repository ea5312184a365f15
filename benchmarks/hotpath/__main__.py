"""The hot path's rows: `python -m benchmarks.hotpath --row http --rounds 3 --size 4GiB`.

Rounds go through everybody in turn; each is a process of its own, whole, with its start-up. Prints one JSON line per
measurement (also to --output), then tables in Markdown. Caveats are in benchmarks/README.md.
"""

from __future__ import annotations

import argparse
import compileall
import json
import re
import signal
import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.hotpath import targets
from benchmarks.hotpath.race import GIB, Options
from benchmarks.hotpath.report import tables
from benchmarks.hotpath.rivals import RIVALS
from benchmarks.hotpath.rows import ROWS
from benchmarks.hotpath.work import CHECKOUT, Unusable

_UNITS = {"": 1, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30}


def size(text: str) -> int:
    """``4GiB``, ``256MiB`` or bytes."""
    found = re.fullmatch(r"([0-9]+)([KMG]iB|)", text)
    if not found:
        raise argparse.ArgumentTypeError(f"not a size such as 256MiB: {text}")
    return int(found[1]) * _UNITS[found[2]]


def _say(row: dict[str, Any], output: Path | None) -> None:
    line = json.dumps(row)
    print(line, flush=True)
    if output is not None:
        with output.open("a") as file:
            print(line, file=file)


def main() -> None:
    parser = argparse.ArgumentParser(prog="benchmarks.hotpath", description=__doc__)
    parser.add_argument("--row", action="append", choices=ROWS, help="default: all, in this order")
    parser.add_argument("--rival", action="append", choices=RIVALS, help="default: all of the row")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument(
        "--size", type=size, default=4 * GIB, help="of the large file, and of four shards together (4GiB)"
    )
    parser.add_argument("--link-size", type=size, default=GIB, help="of the file over the long link (1GiB)")
    parser.add_argument("--files", type=int, default=5000, help="of 4 KiB (5000)")
    parser.add_argument("--medium-files", type=int, default=500, help="of 1 MiB (500)")
    parser.add_argument("--objects", type=int, default=2000, help="in S3 (2000)")
    parser.add_argument("--core", type=int, help="pin everybody to this core (nginx has core 0)")
    parser.add_argument("--warm", action="store_true", help="rivals overwrite files that are there: no fresh pages")
    parser.add_argument("--memory", type=Path, default=Path("/dev/shm"), help="a tmpfs, for origin and outputs")
    parser.add_argument("--disk", type=Path, default=Path(tempfile.gettempdir()), help="a disk, for the row `disk`")
    parser.add_argument("--output", type=Path, help="append the JSON lines to this file, too")
    parser.add_argument("--read", type=Path, help="measure nothing: tables of the JSON lines in this file")
    given = parser.parse_args()
    if given.read is not None:
        read = [json.loads(line) for line in given.read.read_text().splitlines()]
        print(f"{tables(read)}\n\n### to reach\n\n{targets.table(read)}")
        return
    options = Options(
        rounds=given.rounds,
        size_bytes=given.size,
        link_bytes=given.link_size,
        files=given.files,
        medium_files=given.medium_files,
        objects=given.objects,
        memory=given.memory,
        disk=given.disk,
        rivals=tuple(given.rival or ()),
        core=given.core,
        warm=given.warm,
    )
    # What was started has to end with us, however we are asked to; in the background an interrupt may be ignored.
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    signal.signal(signal.SIGINT, signal.default_int_handler)
    # Else the first rounds would pay for what an installation has done long before.
    compileall.compile_dir(CHECKOUT / "fetcher", quiet=1)
    compileall.compile_dir(CHECKOUT / "benchmarks", quiet=1)
    rows: list[dict[str, Any]] = []
    for name in given.row or ROWS:
        try:
            for row in ROWS[name](options):
                rows.append(row)
                _say(row, given.output)
        except Unusable as reason:
            raise SystemExit(f"{name}: {reason}") from None
    print()
    print(tables(rows))
    print(f"\n### to reach\n\n{targets.table(rows)}")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
