"""What the command line chose: sizes, counts, places, and who is let in."""

from __future__ import annotations

import argparse
import os
import re
import tempfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

KIB, MIB, GIB = 1 << 10, 1 << 20, 1 << 30
BIG = "model.bin"
"""Name of the one large file."""

_UNITS = {"": 1, "KiB": KIB, "MiB": MIB, "GiB": GIB}


def size(text: str) -> int:
    """``4GiB``, ``256MiB`` or bytes."""
    found = re.fullmatch(r"([0-9]+)([KMG]iB|)", text)
    if not found:
        raise argparse.ArgumentTypeError(f"not a size such as 256MiB: {text}")
    if int(found[1]) == 0:
        raise argparse.ArgumentTypeError(f"nothing can be measured with a size of {text}")
    return int(found[1]) * _UNITS[found[2]]


def at_least(least: int) -> Callable[[str], int]:
    """Reads whole numbers from there on."""

    def read(text: str) -> int:
        if not re.fullmatch("[0-9]+", text) or int(text) < least:
            raise argparse.ArgumentTypeError(f"not a whole number from {least} on: {text}")
        return int(text)

    return read


def core(text: str) -> int:
    """The number of a CPU that we may use."""
    allowed = sorted(os.sched_getaffinity(0))
    if text not in map(str, allowed):
        raise argparse.ArgumentTypeError(f"not one of the cores here, {', '.join(map(str, allowed))}: {text}")
    return int(text)


OURS = "fetcher"
"""How all of our own names begin."""


@dataclass(frozen=True, slots=True)
class Base:
    """Another revision of fetcher."""

    name: str
    checkout: Path
    """Where its files are, with a core that was built there."""

    def twin_of(self, name: str) -> str:
        """What one of us is called at that revision."""
        return f"{name} at {self.name}"


@dataclass(frozen=True, slots=True)
class Options:
    """What the command line chose."""

    rounds: int = 3
    size_bytes: int = 4 * GIB
    """Of the one large file, and of four shards together."""
    link_bytes: int = GIB
    """Of the one over a long link."""
    kill_bytes: int = 320 * MIB
    """Of the one in the middle of which everybody is killed."""
    files: int = 5000
    medium_files: int = 500
    objects: int = 2000
    snapshots: int = 100_000
    """In the cache."""
    memory: Path = Path("/dev/shm")
    """A tmpfs: origins serve from it, and rivals write to it unless a scenario says otherwise."""
    disk: Path = Path(tempfile.gettempdir())
    rivals: tuple[str, ...] = ()
    """Only these; empty: all of the scenario."""
    core: int | None = None
    warm: bool = False
    """Rivals who can overwrite an existing file do so."""
    seed: int = 1
    """Of the moments of killing, and of flipped bits."""
    base: Base | None = None
    """Another revision of fetcher, which takes part wherever fetcher does."""

    def of(self, names: Iterable[str], able: Iterable[str] = ()) -> list[str]:
        """Who of these was chosen; and of those who are ``able`` who was asked for by name, such as a new rival."""
        usual, others = list(names), [name for name in able if not name.startswith(OURS)]
        chosen = [name for name in usual if not self.rivals or name in self.rivals]
        chosen += [name for name in others if name in self.rivals and name not in usual]
        return [each for name in chosen for each in (name, *self._twin(name))]

    def _twin(self, name: str) -> tuple[str, ...]:
        return (self.base.twin_of(name),) if self.base and name.startswith(OURS) else ()
