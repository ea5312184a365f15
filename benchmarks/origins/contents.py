"""The files that are fetched: random bytes on the tmpfs that the origin serves from."""

from __future__ import annotations

import os
import random
from pathlib import Path

from benchmarks.running.options import MIB

SEED = 20
PATTERN_BYTES = 4 * MIB
STRIDE = 2_654_435_761
"""Odd, so that it comes to each offset of the pattern before it comes to one again."""


def large(path: Path, size_bytes: int) -> Path:
    """One file; each block of 1 MiB is another window into random bytes, so that no two of the first four million are
    alike, and no two files either."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pattern = memoryview(os.urandom(PATTERN_BYTES + MIB))
    with path.open("wb", buffering=0) as file:
        start = 0
        while start < size_bytes:
            window = start // MIB * STRIDE % PATTERN_BYTES
            start += file.write(pattern[window : window + min(MIB, size_bytes - start)])
    return path


def many(directory: Path, count: int, size_bytes: int) -> tuple[str, ...]:
    """So many files in one folder; their names. One folder, since not every rival makes folders."""
    directory.mkdir(parents=True, exist_ok=True)
    dice = random.Random(SEED)
    names = tuple(f"file-{number:05d}.dat" for number in range(count))
    for name in names:
        (directory / name).write_bytes(dice.randbytes(size_bytes))
    return names
