"""Rounds in which everybody does the same work in turns, each in an empty directory; and who judges what they bring."""

from __future__ import annotations

import json
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from benchmarks.hotpath.machine import Conditions, Failed, facts, run
from benchmarks.hotpath.rivals import RIVALS
from benchmarks.hotpath.servers import Server
from benchmarks.hotpath.work import Command, Way, Work

MIB = 1 << 20
GIB = 1 << 30
BIG = "model.bin"
"""Name of the one large file."""

Row = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Options:
    """What the command line chose."""

    rounds: int = 3
    size_bytes: int = 4 * GIB
    """Of the one large file."""
    link_bytes: int = GIB
    """Of the one over a long link."""
    files: int = 5000
    medium_files: int = 500
    objects: int = 2000
    memory: Path = Path("/dev/shm")
    """A tmpfs: origins serve from it, and rivals write to it unless a row says otherwise."""
    disk: Path = Path(tempfile.gettempdir())
    rivals: tuple[str, ...] = ()
    """Only these; empty: all of the row."""
    core: int | None = None
    warm: bool = False
    """Rivals who can overwrite an existing file do so."""


@contextmanager
def room_in(parent: Path) -> Iterator[Path]:
    """A new directory, removed afterwards."""
    directory = Path(tempfile.mkdtemp(prefix="fetcher-hotpath-", dir=parent))
    try:
        yield directory
    finally:
        shutil.rmtree(directory, ignore_errors=True)


@dataclass(frozen=True, slots=True)
class Race:
    """Rounds in which everybody does the same work once, in turns."""

    row: str
    options: Options
    way: Way
    entrants: Sequence[str]
    work: Work
    """Its directory is the room in which each gets an empty one."""
    originals: Path
    """Where the files lie that are fetched: each rival's first outputs are compared byte for byte."""
    conditions: Conditions
    server: Server

    def rows(self) -> Iterator[Row]:
        chosen = [name for name in self.entrants if not self.options.rivals or name in self.options.rivals]
        common = {"row": self.row, "way": self.way, **facts()}
        entrants = []
        for name in chosen:
            if missing := RIVALS[name].missing:
                yield {**common, "rival": name, "missing": missing}
            else:
                entrants.append(name)
        versions = {name: RIVALS[name].version() for name in entrants}
        total = sum((self.originals / name).stat().st_size for name in self.work.names)
        for round_number in range(self.options.rounds):
            for name in tuple(entrants):
                labels = {"rival": name, "version": versions[name], "verifies": RIVALS[name].verifies}
                row = {**common, **labels, "round": round_number, "bytes": total, "files": len(self.work.names)}
                try:
                    yield row | self._one(name, compare=round_number == 0)
                except Failed as failed:
                    yield row | {"failed": str(failed)}
                    entrants.remove(name)

    def _one(self, name: str, *, compare: bool) -> Row:
        with room_in(self.work.directory) as directory:
            work = replace(self.work, directory=directory)
            command = RIVALS[name].ways[self.way](work)
            if self.options.warm:
                self._lay_out(work, command)

            def outputs() -> list[Path]:
                return [output_of(directory, command, file) for file in work.names]

            measured = run(command, self.conditions, server_cpu_s=self.server.cpu_s, outputs=outputs)
            for file, path in zip(work.names, outputs(), strict=True):
                original = self.originals / file
                if path.stat().st_size != original.stat().st_size:
                    raise Failed(f"{file} has another size than at the origin")
                if compare and subprocess.run(["cmp", "-s", str(original), str(path)], check=False).returncode != 0:
                    raise Failed(f"{file} has other bytes than at the origin")
            row: Row = measured.row()
            if own := _own_figures(measured.stdout):
                row["transfer"] = own
            (directory.parent / f"{directory.name}.names").unlink(missing_ok=True)
            return row

    def _lay_out(self, work: Work, command: Command) -> None:
        """Files of the right size where the rival will write, so that it finds their pages there."""
        if "*" in command.output:
            return  # in a cache of its own
        for name, path in work.paths().items():
            with path.open("wb") as file:
                for _ in range(-(-(self.originals / name).stat().st_size // MIB)):
                    file.write(b"\xff" * MIB)


def output_of(directory: Path, command: Command, name: str) -> Path:
    """Where a file has landed."""
    pattern = command.output.format(name=name, base=name.rpartition("/")[2])
    if "*" not in pattern:
        path = directory / pattern
        if path.is_file():
            return path
        raise Failed(f"{name} is not there")
    found = list(directory.glob(pattern))
    if len(found) != 1:
        raise Failed(f"{name} is there {len(found)} times")
    return found[0]


def _own_figures(stdout: str) -> dict[str, float] | None:
    """What a program says of its own transfer phase, if it does."""
    try:
        told = json.loads(stdout)
    except ValueError:
        return None
    if not isinstance(told, dict) or "wall_s" not in told:
        return None
    return {name: round(told[name], 4) for name in ("wall_s", "user_s", "system_s")}


def touching(total: int) -> int:
    """How much memory is touched before a run that makes so many fresh pages: a little more (facts of the machine)."""
    return total + total // 20 + 100 * MIB
