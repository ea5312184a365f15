"""Rounds in which everybody does the same work in turns, each in an empty directory; and who judges what they bring.

What would be unfair ends a rival's part: an output that is there before the start, an origin that has sent less than
the files have, another size, other bytes.
"""

from __future__ import annotations

import filecmp
import json
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol, TypeVar

from benchmarks.rivals import RIVALS
from benchmarks.running.machine import Conditions, Failed, file_system, run
from benchmarks.running.options import KIB, MIB, Options
from benchmarks.running.work import Command, Unusable, Way, Work

SMALL_BYTES = 8 * MIB

SPARE_BYTES = 256 * MIB + 16 * MIB
"""Beside what is fetched: what fetcher leaves free unless it is told otherwise, and indexes, lists of names, logs."""
EACH_FILE_BYTES = 16 * KIB
"""Beside the bytes of a file where there are many: pages that are not full, and what clients keep of each."""

ROOM = "fetcher-bench-"
"""How names of directories begin that are a run's own."""

Row = dict[str, Any]
T = TypeVar("T")


@contextmanager
def room_in(parent: Path, byte_count: int = 0, *, chosen_by: str = "--size") -> Iterator[Path]:
    """A new directory, removed afterwards, where there is room for so much and to spare. Raises Unusable.

    ``chosen_by``: the option of which so much comes; empty where none has a say.
    """
    if not parent.is_dir():
        raise Unusable(f"{parent} is no directory")
    if byte_count:
        refuse_too_little_room(parent, byte_count, chosen_by=chosen_by)
    directory = Path(tempfile.mkdtemp(prefix=ROOM, dir=parent))
    try:
        yield directory
    finally:
        shutil.rmtree(directory, ignore_errors=True)


def refuse_too_little_room(place: Path, byte_count: int, *, chosen_by: str) -> None:
    """Else everybody would fail for it, in ways of their own. Raises Unusable."""
    needed_bytes = byte_count + SPARE_BYTES
    if (free := shutil.disk_usage(place).free) < needed_bytes:
        had, needed = free // MIB, -(-needed_bytes // MIB)
        cures = [f"a smaller {chosen_by}"] if chosen_by and free > SPARE_BYTES else []
        cures.append("another place (--memory DIRECTORY of a tmpfs, --disk DIRECTORY)")
        if left := sorted(path.name for path in place.glob(f"{ROOM}*")):
            cures.insert(0, f"removing what killed runs have left ({', '.join(left)})")
        raise Unusable(f"{place} has room for {had} MiB, and {needed} are needed: {', or '.join(cures)}")


def there_and_back(everybody: Iterable[T], round_number: int) -> list[T]:
    """In which order a round goes: who comes first has the machine as somebody else has left it."""
    some = list(everybody)
    return some if round_number % 2 == 0 else some[::-1]


def those_able(way: Way) -> list[str]:
    """Everybody who can do such work."""
    return [name for name, rival in RIVALS.items() if way in rival.ways]


def command_of(name: str, way: Way, work: Work) -> Command:
    """What a rival does to get it done. Raises Failed: what one lacks, such as a header, the others can do without."""
    try:
        return RIVALS[name].ways[way](work)
    except Unusable as reason:
        raise Failed(str(reason)) from None


def in_turns(common: Row, rounds: int, entrants: Iterable[str], one: Callable[[str, int], Row]) -> Iterator[Row]:
    """A row for each turn of each round: what ``one`` says of a rival's turn, and whose it is.

    Also a row for who is missing, and one for whoever drops out: that is who fails.
    """
    here = []
    for name in entrants:
        if missing := RIVALS[name].missing:
            yield {**common, "rival": name, "missing": missing}
        else:
            here.append(name)
    versions = {name: RIVALS[name].version() for name in here}
    for round_number in range(rounds):
        for name in there_and_back(here, round_number):
            row = {**common, "rival": name, "version": versions[name], "verifies": RIVALS[name].verifies}
            row["round"] = round_number
            try:
                row |= one(name, round_number)
            except Failed as failed:
                row["failed"] = str(failed)
                here.remove(name)
            yield row


class Server(Protocol):
    """What a race wants to know of its origin."""

    def version(self) -> str:
        """Its name and version."""
        ...

    def cpu_s(self) -> float:
        """CPU seconds that it has taken until now."""
        ...

    def sent_bytes(self) -> int:
        """Bytes that it has written until now, heads of answers included; origins write to sockets only."""
        ...


@dataclass(frozen=True, slots=True)
class Race:
    """Rounds in which everybody does the same work once, in turns."""

    scenario: str
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
        """A row for each turn; one for who is missing, and one for whoever drops out."""
        total = sum((self.originals / name).stat().st_size for name in self.work.names)
        common = {
            **{"scenario": self.scenario, "way": self.way, "origin": self.server.version()},
            **{"onto": file_system(self.work.directory), **self.conditions.row()},
            **{"bytes": total, "files": len(self.work.names)},
        }

        def one(name: str, round_number: int) -> Row:
            return self._one(name, total, compare=round_number == 0)

        able = those_able(self.way)
        yield from in_turns(common, self.options.rounds, self.options.of(self.entrants, able), one)

    def _one(self, name: str, total: int, *, compare: bool) -> Row:
        with room_in(self.work.directory) as directory:
            work = replace(self.work, directory=directory)
            command = command_of(name, self.way, work)
            if warm := self.options.warm and "*" not in command.output:  # not in a cache of its own
                self._lay_out(work)
            else:
                refuse_what_is_there(work, command)

            def outputs() -> list[Path]:
                return [output_of(directory, command, file) for file in work.names]

            sent_before = self.server.sent_bytes()
            measured = run(command, self.conditions, server_cpu_s=self.server.cpu_s, outputs=outputs)
            sent = self.server.sent_bytes() - sent_before
            refuse_bytes_from_elsewhere(sent, total)
            judge(work, command, self.originals, compare=compare)
            row: Row = measured.row() | {"sent_bytes": sent, "pages": "warm" if warm else "fresh"}
            if own := _own_figures(measured.stdout):
                row["transfer"] = own
            (directory.parent / f"{directory.name}.names").unlink(missing_ok=True)
            return row

    def _lay_out(self, work: Work) -> None:
        """Files of the right size where the rival will write, so that it finds their pages there."""
        for name, path in work.paths().items():
            with path.open("wb") as file:
                for _ in range(-(-(self.originals / name).stat().st_size // MIB)):
                    file.write(b"\xff" * MIB)


def refuse_what_is_there(work: Work, command: Command) -> None:
    """Nobody starts with a part of the outcome. Raises Failed."""
    for name in work.names:
        if outputs_of(work.directory, command, name):
            raise Failed(f"{name} is there before the start")


def refuse_bytes_from_elsewhere(sent: int, needed: int) -> None:
    """Whoever has bytes has them from the origin. Raises Failed."""
    if sent < needed:
        raise Failed(f"the origin has sent {sent} bytes of {needed}: the others came from somewhere else")


def judge(work: Work, command: Command, originals: Path, *, compare: bool) -> None:
    """Whether the outputs have the originals' sizes and, if ``compare``, their bytes. Raises Failed."""
    for name in work.names:
        path, original = output_of(work.directory, command, name), originals / name
        if path.samefile(original):
            raise Failed(f"{name} is a link to the file of the origin")
        if path.stat().st_size != original.stat().st_size:
            raise Failed(f"{name} has another size than at the origin")
        if compare and not _same_bytes(original, path):
            raise Failed(f"{name} has other bytes than at the origin")


def _same_bytes(one: Path, other: Path) -> bool:
    if one.stat().st_size < SMALL_BYTES:  # a process each takes longer than thousands of these
        return filecmp.cmp(one, other, shallow=False)
    return subprocess.run(["cmp", "-s", str(one), str(other)], check=False).returncode == 0


def outputs_of(directory: Path, command: Command, name: str) -> list[Path]:
    """What is there under a file's final name, once or more than once."""
    pattern = command.output.format(name=name, base=name.rpartition("/")[2])
    return [path for path in directory.glob(pattern) if path.is_file()]


def output_of(directory: Path, command: Command, name: str) -> Path:
    """Where a file has landed. Raises Failed where that is no or more than one place."""
    found = outputs_of(directory, command, name)
    if not found:
        raise Failed(f"{name} is not there")
    if len(found) > 1:
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


def room_for_many(count: int, size_bytes: int) -> int:
    """What so many files take at most, once: at the origin, or where a client has put them."""
    return count * (size_bytes + EACH_FILE_BYTES)


def touching(total: int) -> int:
    """How much memory is touched before a run that makes so many fresh pages: a little more (facts of the machine)."""
    return total + total // 20 + 100 * MIB
