"""The hashing core against what one would otherwise use: the blake3 package, hashlib, a plain pwrite. In one process.

Every figure is a ratio of two things done in turns, in slices short enough that many of them run undisturbed; of each
the fastest slice counts. Rounds go through all contests, and each round has its own minima: their spread says how far
to trust a ratio. Prints one JSON line per contest, then a table. The caveats are in benchmarks/README.md.

Run alone, or as a scenario, in a process of its own.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import statistics
import tempfile
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from itertools import cycle
from pathlib import Path
from typing import Any

import blake3

from benchmarks.report.others import ratio_table
from benchmarks.running.options import MIB, size
from benchmarks.running.race import room_in
from fetcher import hashing

KIB = 1 << 10
BLOCK = hashing.BLOCK_BYTES
POOL = 8 * MIB
"""Content that contests share: in the last-level cache, as received bytes are, and no larger."""
WRITTEN = 64 * MIB
"""Of a file that is written over and over: more than the caches hold."""
MERGED_CVS = 100_000
FILES = 4
ARRIVAL_WINDOW = 64
"""Blocks of a file that arrive in any order among themselves, as parts of one file do."""
FOLLOW_BLOCKS = 8
"""Blocks that a follower takes of each file at a time."""

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
            ours_s = min(ours_s, _timed(self.ours))
            if self.other:
                other_s = min(other_s, _timed(self.other))
        self.ours_s.append(ours_s)
        if self.other:
            self.other_s.append(other_s)

    def row(self) -> dict[str, Any]:
        row: dict[str, Any] = {"what": self.what, "unit": "GiB/s" if self.bytes else "ms"}
        row["ours"] = self._figure(self.ours_s)
        if self.other:
            row |= {"than": self.than, "other": self._figure(self.other_s)}
            row |= _ratios(self.ours_s, self.other_s)
        return row

    def _figure(self, seconds: list[float]) -> float:
        return _speed(self.bytes, min(seconds)) if self.bytes else round(1e3 * min(seconds), 3)


def _timed(work: Slice) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def _speed(count: int, seconds: float) -> float:
    return round(count / seconds / (1 << 30), 3)


def _ratios(ours_s: list[float], other_s: list[float]) -> dict[str, Any]:
    """How many times as fast ours is: by the fastest slices of all, and the spread of the rounds."""
    rounds = [other / ours for ours, other in zip(ours_s, other_s, strict=True)]
    return {
        "ratio": round(min(other_s) / min(ours_s), 3),
        "ratio_median": round(statistics.median(rounds), 3),
        "ratio_low": round(min(rounds), 3),
        "ratio_high": round(max(rounds), 3),
        "ratios": [round(ratio, 3) for ratio in rounds],
    }


def _size(count: int) -> str:
    return f"{count // MIB} MiB" if count >= MIB and count % MIB == 0 else f"{count // KIB} KiB"


# --- one core --------------------------------------------------------------------------------------------------------


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
        yield Contest(f"BLAKE3, {_size(count)}", count * times, ours, "blake3 package", package)


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
    descriptor = stack.enter_context(_scratch_file(directory))
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
def _scratch_file(directory: Path) -> Iterator[int]:
    """A file without a name: it is gone when this process is."""
    with tempfile.TemporaryFile(dir=directory) as file:
        yield file.fileno()


# --- both cores ------------------------------------------------------------------------------------------------------


class Helper:
    """A second thread on a CPU of its own, which does what it is given while the first does the same."""

    def __init__(self, cpus: tuple[int, int]) -> None:
        self._work: Callable[[int], object] | None = None
        self._given = threading.Semaphore(0)
        self._done = threading.Semaphore(0)
        self._failure: BaseException | None = None
        self._cpus = cpus
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def both(self, work: Callable[[int], object]) -> None:
        """``work(0)`` here and ``work(1)`` in the other thread."""
        self._work = work
        self._given.release()
        try:
            work(0)
        finally:
            self._done.acquire()
        if self._failure:
            raise self._failure

    def close(self) -> None:
        self._work = None
        self._given.release()
        self._thread.join()

    def _run(self) -> None:
        os.sched_setaffinity(0, {self._cpus[1]})  # of this thread alone
        while self._given.acquire() and self._work:
            try:
                self._work(1)
            except BaseException as error:
                self._failure = error
            finally:
                self._done.release()


def two_threads(pool: bytes, helper: Helper) -> Iterator[Contest]:
    """Two parts of half the pool each; several times over, because starting the other thread takes its time, too."""
    half = POOL // 2
    parts = (pool[:half], pool[half:])
    times = 4

    def one(number: int) -> None:
        for _ in range(times):
            hashing.hash_blocks(parts[number], number * half)

    def one_after_the_other() -> None:
        one(0)
        one(1)

    yield Contest(
        "BLAKE3, two threads on two parts", times * POOL, lambda: helper.both(one), "one thread", one_after_the_other
    )


class Arrival:
    """Files whose blocks arrive out of order: written, hashed as blocks, and followed in order by SHA-256.

    Content comes from the pool; nothing is kept of it but the file. Each of the two threads does what is next: a pair
    of files that a follower can go on with, else the next block that arrives.
    """

    def __init__(self, pool: bytes, descriptors: list[int], blocks: int) -> None:
        self._pool = memoryview(pool)
        self._descriptors = descriptors
        self._blocks = blocks
        self._digests: dict[int, tuple[bytes, bytes]] = {}
        dice = random.Random(1)
        self._order: list[tuple[int, int]] = []
        for start in range(0, blocks, ARRIVAL_WINDOW):
            window = range(start, min(start + ARRIVAL_WINDOW, blocks))
            arriving = [(file, block) for file in range(len(descriptors)) for block in window]
            dice.shuffle(arriving)
            self._order += arriving

    @property
    def bytes(self) -> int:
        return len(self._order) * BLOCK

    def write(self, number: int) -> None:
        """One of two threads' share."""
        for file, block in self._order[number::2]:
            os.pwrite(self._descriptors[file], self._content(file, block), block * BLOCK)

    def blake3(self, number: int) -> None:
        for file, block in self._order[number::2]:
            hashing.hash_blocks(self._content(file, block), block * BLOCK)

    def sha256(self, number: int) -> None:
        pair = Follower(self._descriptors[2 * number : 2 * number + 2])
        while pair.taken < self._blocks:
            pair.follow(min(FOLLOW_BLOCKS, self._blocks - pair.taken))
        self._digests[number] = pair.digests()

    def together(self) -> Callable[[int], None]:
        """All three of all files, by both threads."""
        lock = threading.Lock()
        waiting = iter(self._order)
        pairs = [Follower(self._descriptors[at : at + 2]) for at in range(0, len(self._descriptors), 2)]
        free = list(pairs)
        arrived: list[set[int]] = [set() for _ in self._descriptors]
        frontier = [0] * len(self._descriptors)

        def ready(pair: Follower) -> int:
            """Blocks that both files of a pair have, from where it stands."""
            at = 2 * pairs.index(pair)
            return min(frontier[at], frontier[at + 1]) - pair.taken

        def next_pair() -> tuple[Follower, int] | None:
            for pair in free:
                there = ready(pair)
                if there >= FOLLOW_BLOCKS or (there and pair.taken + there == self._blocks):
                    free.remove(pair)
                    return pair, min(there, FOLLOW_BLOCKS)
            return None

        def note(file: int, block: int) -> None:
            arrived[file].add(block)
            while frontier[file] in arrived[file]:
                arrived[file].remove(frontier[file])
                frontier[file] += 1

        def work(number: int) -> None:
            while True:
                with lock:
                    following = next_pair()
                    arriving = None if following else next(waiting, None)
                if following:
                    pair, count = following
                    pair.follow(count)
                    with lock:
                        free.append(pair)
                elif arriving:
                    file, block = arriving
                    hashing.write_blocks(self._descriptors[file], block * BLOCK, self._content(file, block))
                    with lock:
                        note(file, block)
                elif all(pair.taken == self._blocks for pair in pairs):
                    assert pairs[number].digests() == self._digests[number]
                    return
                else:
                    time.sleep(0)  # the other thread has the last pair

        return work

    def _content(self, file: int, block: int) -> memoryview:
        at = (file + FILES * block) * BLOCK % POOL
        return self._pool[at : at + BLOCK]


class Follower:
    """SHA-256 of two files in order, read from the page cache."""

    def __init__(self, descriptors: list[int]) -> None:
        self._descriptors = descriptors
        self._hashers = hashing.Sha256(), hashing.Sha256()
        self.taken = 0
        """Blocks of each; kept here because a hasher at work in another thread can't be asked."""

    def digests(self) -> tuple[bytes, bytes]:
        return self._hashers[0].digest(), self._hashers[1].digest()

    def follow(self, blocks: int) -> None:
        """Take so many more of each."""
        (a, b), (fd_a, fd_b) = self._hashers, self._descriptors
        offset = self.taken * BLOCK
        hashing.sha256_pair_files(a, fd_a, offset, b, fd_b, offset, blocks * BLOCK)
        self.taken += blocks


@dataclass(slots=True)
class Everything:
    """The work of a fetch on both cores: how near all of it together comes to its parts."""

    arrival: Arrival
    helper: Helper
    wall_s: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    cpu_s: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))

    def run(self) -> None:
        for name, work in {
            "write alone": self.arrival.write,
            "BLAKE3 alone": self.arrival.blake3,
            "SHA-256 alone": self.arrival.sha256,
            "all together": self.arrival.together(),
        }.items():
            before = time.process_time()
            self.wall_s[name].append(_timed(partial(self.helper.both, work)))
            self.cpu_s[name].append(time.process_time() - before)

    def rows(self) -> Iterator[dict[str, Any]]:
        count = self.arrival.bytes
        what = f"{FILES} files of {_size(count // FILES)}, two cores: "
        for name, seconds in self.wall_s.items():
            if name != "all together":
                speed = _speed(count, min(seconds))
                yield {"what": what + name, "unit": "GiB/s", "ours": speed}
        together, alone = _split(self.wall_s)
        bounds: dict[str, Callable[[Iterable[float]], float]] = {"the slowest alone": max, "the sum of all alone": sum}
        for than, combine in bounds.items():
            row = self._row(together, alone, combine)
            figures = {"ours": _speed(count, min(together)), "than": than, "other": _speed(count, row.pop("bound"))}
            yield {"what": what + "all together", "unit": "GiB/s", **figures, **row}
        together, alone = _split(self.cpu_s)
        row = self._row(together, alone, sum)
        figures = {"ours": round(min(together), 3), "than": "the sum of all alone", "other": round(row.pop("bound"), 3)}
        yield {"what": what + "all together", "unit": "CPU s", **figures, **row}

    def _row(
        self, together: list[float], alone: list[list[float]], combine: Callable[[Iterable[float]], float]
    ) -> dict[str, Any]:
        # Of the minima, not the least of the rounds' bounds: one undisturbed part is enough to count.
        bound = combine(min(seconds) for seconds in alone)
        row = _ratios(together, [combine(parts) for parts in zip(*alone, strict=True)])
        return {**row, "ratio": round(bound / min(together), 3), "bound": bound}


def _split(seconds: dict[str, list[float]]) -> tuple[list[float], list[list[float]]]:
    """All together, and the parts alone."""
    return seconds["all together"], [some for name, some in seconds.items() if name != "all together"]


@contextmanager
def _everything(pool: bytes, directory: Path, helper: Helper, file_bytes: int) -> Iterator[Everything]:
    with ExitStack() as stack:
        descriptors = [stack.enter_context(_scratch_file(directory)) for _ in range(FILES)]
        arrival = Arrival(pool, descriptors, file_bytes // BLOCK)
        helper.both(arrival.write)  # pages are there from now on
        yield Everything(arrival, helper)


# --- the run ---------------------------------------------------------------------------------------------------------


def measure(directory: Path, *, rounds: int, slices: int, file_bytes: int) -> list[dict[str, Any]]:
    """All contests, round by round; each is said when the last round is over."""
    cpus = sorted(os.sched_getaffinity(0))
    pool = random.Random(0).randbytes(POOL)
    rows: list[dict[str, Any]] = []
    os.sched_setaffinity(0, {cpus[0]})
    with ExitStack() as stack:
        contests = [*whole_buffers(pool), *updates(pool), *merge(), *sha256(pool), *writing(pool, directory, stack)]
        everything = None
        if len(cpus) > 1:
            helper = Helper((cpus[0], cpus[1]))
            stack.callback(helper.close)
            contests += two_threads(pool, helper)
            everything = stack.enter_context(_everything(pool, directory, helper, file_bytes))
        for _ in range(rounds):
            for contest in contests:
                contest.run(slices)
            if everything:
                everything.run()
        rows += [contest.row() for contest in contests]
        if everything:
            rows += everything.rows()
    os.sched_setaffinity(0, cpus)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="benchmarks.measures.hashing", description=(__doc__ or "").partition("\n\n")[0]
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--slices", type=int, default=200, help="of each side in a round, in turns (200)")
    parser.add_argument("--file-size", type=size, default=1024 * MIB, help=f"of each of {FILES} files (1024)")
    parser.add_argument("--directory", type=Path, default=Path(tempfile.gettempdir()), help="where files are written")
    options = parser.parse_args()
    if not hashing.HAS_TREE:
        raise SystemExit(f"there is no compiled core to measure: {hashing.describe()}")
    with room_in(options.directory) as directory:
        rows = measure(directory, rounds=options.rounds, slices=options.slices, file_bytes=options.file_size)
    for row in rows:
        print(json.dumps(row), flush=True)
    print()
    print(ratio_table(rows))


if __name__ == "__main__":
    main()
