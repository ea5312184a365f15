"""Contests on one core: two ways to the same bytes, in slices in turns, of each of which the fastest counts."""

from __future__ import annotations

import hashlib
import os
import random
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from itertools import cycle
from pathlib import Path
from typing import Any

import blake3

from benchmarks.running.options import GIB, KIB, MIB
from fetcher import hashing

BLOCK = hashing.BLOCK_BYTES
POOL = 8 * MIB
"""Content that contests share: in the last-level cache, as received bytes are, and no larger."""
WRITTEN = 64 * MIB
"""Of a file that is written over and over: more than the caches hold."""
MERGED_CVS = 100_000

Slice = Callable[[], object]


@dataclass(slots=True)
class Contest:
    """Two ways to the same bytes, or one way alone."""

    what: str
    bytes: int
    """Per slice; 0: the slice has a duration and no speed."""
    ours: Slice
    than: str = ""
    other: Slice | None = None
    ours_s: list[float] = field(default_factory=list)
    """The fastest slice of each round."""
    other_s: list[float] = field(default_factory=list)

    def run(self, slices: int) -> None:
        """One round: the sides in turns."""
        ours_s = other_s = float("inf")
        for _ in range(slices):
            ours_s = min(ours_s, timed(self.ours))
            if self.other:
                other_s = min(other_s, timed(self.other))
        self.ours_s.append(ours_s)
        if self.other:
            self.other_s.append(other_s)

    def row(self) -> dict[str, Any]:
        row: dict[str, Any] = {"what": self.what, "unit": "GiB/s" if self.bytes else "ms"}
        row["ours"] = self._figure(self.ours_s)
        if self.other:
            row |= {"than": self.than, "other": self._figure(self.other_s)}
            row |= ratios(self.ours_s, self.other_s)
        return row

    def _figure(self, seconds: list[float]) -> float:
        return speed_of(self.bytes, min(seconds)) if self.bytes else round(1e3 * min(seconds), 3)


def timed(work: Slice) -> float:
    """Seconds of one call."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def speed_of(count: int, seconds: float) -> float:
    """GiB per second."""
    return round(count / seconds / GIB, 3)


def ratios(ours_s: list[float], other_s: list[float]) -> dict[str, Any]:
    """How many times as fast ours is: by the fastest slices of all, and the spread of the rounds."""
    rounds = [other / ours for ours, other in zip(ours_s, other_s, strict=True)]
    return {
        "ratio": round(min(other_s) / min(ours_s), 3),
        "ratio_median": round(statistics.median(rounds), 3),
        "ratio_low": round(min(rounds), 3),
        "ratio_high": round(max(rounds), 3),
        "ratios": [round(ratio, 3) for ratio in rounds],
    }


def size_of(count: int) -> str:
    """For a person."""
    return f"{count // MIB} MiB" if count >= MIB and count % MIB == 0 else f"{count // KIB} KiB"


def whole_buffers(pool: bytes) -> Iterator[Contest]:
    for count in (64 * KIB, 256 * KIB, MIB, POOL):
        content = pool[:count]
        times = max(1, 256 * KIB // count)

        def ours(content: bytes = content, times: int = times) -> None:
            for _ in range(times):
                hashing.root_of(content)

        def package(content: bytes = content, times: int = times) -> None:
            for _ in range(times):
                blake3.blake3(content).digest()

        assert hashing.root_of(content) == blake3.blake3(content).digest()
        yield Contest(f"BLAKE3, {size_of(count)}", count * times, ours, "blake3 package", package)


def updates(pool: bytes) -> Iterator[Contest]:
    for label, count in (
        ("1460 B", 1460),
        ("16 KiB", 16 * KIB),
        ("64 KiB", 64 * KIB),
        ("64 KiB - 24 B", 64 * KIB - 24),
    ):
        pieces = [pool[start : start + count] for start in range(0, 2 * MIB, count)]

        def ours(pieces: list[bytes] = pieces) -> bytes:
            hasher = hashing.SubtreeHasher(0)
            for piece in pieces:
                hasher.update(piece)
            return hasher.root()

        def package(pieces: list[bytes] = pieces) -> bytes:
            hasher = blake3.blake3()
            for piece in pieces:
                hasher.update(piece)
            return hasher.digest()

        assert ours() == package()
        streamed = sum(map(len, pieces))
        yield Contest(f"BLAKE3 by updates of {label}", streamed, ours, "blake3 package", package)


def merge() -> Iterator[Contest]:
    cvs = random.Random(1).randbytes(MERGED_CVS * hashing.CV_BYTES)
    yield Contest(f"merge of {MERGED_CVS:,} CVs", 0, lambda: hashing.merge_root(cvs, MERGED_CVS * BLOCK, block=BLOCK))


def sha256(pool: bytes) -> Iterator[Contest]:
    content, other_content = pool[:BLOCK], pool[BLOCK : 2 * BLOCK]
    ours, also_ours, package = hashing.Sha256(), hashing.Sha256(), hashlib.sha256()
    yield Contest(
        "SHA-256, one stream", BLOCK, lambda: ours.update(content), "hashlib", lambda: package.update(content)
    )

    def one_after_the_other() -> None:
        package.update(content)
        package.update(other_content)

    yield Contest(
        "SHA-256, two streams on one core",
        2 * BLOCK,
        lambda: hashing.sha256_pair(ours, content, also_ours, other_content),
        "hashlib, one after the other",
        one_after_the_other,
    )


def writing(pool: bytes, directory: Path, stack: ExitStack) -> Iterator[Contest]:
    """Into pages that are there already: a first write would measure the kernel's allocation."""
    descriptor = stack.enter_context(scratch_file(directory))
    turns = WRITTEN // POOL
    ours_turn, other_turn = cycle(range(turns)), cycle(range(turns))

    def ours() -> None:
        hashing.write_blocks(descriptor, next(ours_turn) * POOL, pool)

    def plain() -> None:
        os.pwrite(descriptor, pool, next(other_turn) * POOL)

    for _ in range(turns):
        plain()
    yield Contest("write_blocks, 8 MiB", POOL, ours, "pwrite", plain)


@contextmanager
def scratch_file(directory: Path) -> Iterator[int]:
    """A file without a name: it is gone when this process is."""
    with tempfile.TemporaryFile(dir=directory) as file:
        yield file.fileno()
