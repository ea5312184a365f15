"""Where measurements go: one JSON line each, with what the machine and the project were; and a word to who waits."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from benchmarks.running.machine import facts, priority
from benchmarks.running.work import CHECKOUT, Unusable

Row = dict[str, Any]


@cache
def revision(checkout: Path = CHECKOUT) -> str:
    """Of the project, with ``+`` where files are changed since; empty outside of a repository."""

    def git(*arguments: str) -> str:
        try:
            done = subprocess.run(["git", *arguments], cwd=checkout, capture_output=True, text=True, check=False)
        except FileNotFoundError:  # there is no git
            return ""
        return done.stdout.strip() if done.returncode == 0 else ""

    return git("rev-parse", "--short=12", "HEAD") + ("+" if git("status", "--porcelain", "-uno") else "")


@dataclass(slots=True)
class Lines:
    """Keeps rows, appends them to a file, and tells a person how far it is."""

    path: Path | None = None
    rows: list[Row] = field(default_factory=list)
    run: str = field(default_factory=lambda: time.strftime("%Y-%m-%dT%H:%M:%S"))
    """When it began; rounds of different runs do not compare."""
    core: int | None = None
    """That whoever is measured was pinned to."""
    _start: float = field(default_factory=time.monotonic)

    def keep(self, scenario: str, rows: Iterable[Row]) -> Iterator[Row]:
        """The rows of one scenario, as they come."""
        for row in rows:
            when = {"date": time.strftime("%Y-%m-%d"), "run": self.run}
            how = {"core": self.core, "priority": priority()}
            whole = {"scenario": scenario, **when, "revision": revision(), **facts(), **how, **row}
            self.rows.append(whole)
            if self.path is not None:
                self.path.parent.mkdir(parents=True, exist_ok=True)
                with self.path.open("a") as file:
                    print(json.dumps(whole), file=file)
            minutes, seconds = divmod(int(time.monotonic() - self._start), 60)
            print(f"{minutes:3d}:{seconds:02d}  {_said(whole)}", file=sys.stderr, flush=True)
            yield whole


def read(path: Path) -> list[Row]:
    """The rows that a file holds. Raises Unusable."""
    try:
        lines = path.read_text().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise Unusable(f"{path} can't be read: {getattr(error, 'strerror', None) or 'no text'}") from None
    rows: list[Row] = []
    for number, line in enumerate(lines, 1):
        try:
            row = json.loads(line)
        except ValueError:
            row = None
        if not isinstance(row, dict) or "scenario" not in row:
            raise Unusable(f"{path}, line {number}: no measurement of this suite (those are in bench-results/)")
        rows.append(row)
    return rows


def rows_of(text: str) -> list[Row]:
    """``read`` for a command line."""
    try:
        return read(Path(text))
    except Unusable as reason:
        raise argparse.ArgumentTypeError(str(reason)) from None


def _said(row: Row) -> str:
    """What a person wants to know of a row while waiting."""
    who = row.get("rival") or row.get("what") or ""
    turn = f", round {row['round'] + 1}" if "round" in row else ""
    if reason := row.get("missing") or row.get("failed"):
        outcome = reason.partition("\n")[0]
    elif "wall_s" in row:
        outcome = f"{row['wall_s']:.2f} s" + (f", {row['cpu_s']:.2f} s of CPU" if "cpu_s" in row else "")
    elif "ratio" in row:
        outcome = f"{row['ratio']} times as fast as {row['than']}"
    else:
        outcome = "measured"
    return f"{row['scenario']}{turn}: {who}: {outcome}"
