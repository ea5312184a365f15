"""The work of a fetch on both cores: blocks that arrive out of order, written, hashed, and followed in order."""

from __future__ import annotations

import os
import random
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.measures.contests import BLOCK, POOL, Contest, ratios, scratch_file, size_of, speed_of, timed
from fetcher import hashing

FILES = 4
ARRIVAL_WINDOW = 64
"""Blocks of a file that arrive in any order among themselves, as parts of one file do."""
FOLLOW_BLOCKS = 8
"""Blocks that a follower takes of each file at a time."""


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
            self.wall_s[name].append(timed(partial(self.helper.both, work)))
            self.cpu_s[name].append(time.process_time() - before)

    def rows(self) -> Iterator[dict[str, Any]]:
        count = self.arrival.bytes
        what = f"{FILES} files of {size_of(count // FILES)}, two cores: "
        for name, seconds in self.wall_s.items():
            if name != "all together":
                speed = speed_of(count, min(seconds))
                yield {"what": what + name, "unit": "GiB/s", "ours": speed}
        together, alone = _split(self.wall_s)
        bounds: dict[str, Callable[[Iterable[float]], float]] = {"the slowest alone": max, "the sum of all alone": sum}
        for than, combine in bounds.items():
            row = self._row(together, alone, combine)
            figures = {"ours": speed_of(count, min(together)), "than": than, "other": speed_of(count, row.pop("bound"))}
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
        row = ratios(together, [combine(parts) for parts in zip(*alone, strict=True)])
        return {**row, "ratio": round(bound / min(together), 3), "bound": bound}


def _split(seconds: dict[str, list[float]]) -> tuple[list[float], list[list[float]]]:
    """All together, and the parts alone."""
    return seconds["all together"], [some for name, some in seconds.items() if name != "all together"]


@contextmanager
def everything(pool: bytes, directory: Path, helper: Helper, file_bytes: int) -> Iterator[Everything]:
    """Over scratch files of ``directory``, which are gone when the block is left."""
    with ExitStack() as stack:
        descriptors = [stack.enter_context(scratch_file(directory)) for _ in range(FILES)]
        arrival = Arrival(pool, descriptors, file_bytes // BLOCK)
        helper.both(arrival.write)  # pages are there from now on
        yield Everything(arrival, helper)
