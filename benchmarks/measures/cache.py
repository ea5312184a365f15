"""The cache on the local disk: hits among many Snapshots, commits, gc, and an index made anew. In one process.

Rounds go through all figures in turn, so that a noisy minute hits all of them alike; of each round the median of its
samples counts (of latencies also the 99th percentile). Prints one JSON line per figure, then a table. The caveats are
in benchmarks/README.md.

Run alone, or as a scenario, in a process of its own. Nobody is asked: what is in the caches
is made by ``filling``.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.measures.commits import large_commits, small_commits
from benchmarks.measures.filling import Filling, fill, loose_blobs, make_private
from benchmarks.report.others import layer_table
from benchmarks.running.options import MIB, at_least, size
from benchmarks.running.race import room_in
from fetcher import Fetcher
from fetcher.cache.store import Cache

HITS = 2000
"""Samples of a latency in one round."""
WORKING_SET = 10
FILES_EACH = 100
"""Of a Snapshot that is no single file."""
GARBAGE = 0.1


class Figures:
    """What was measured, by name, one value a round."""

    def __init__(self) -> None:
        self._values: dict[tuple[str, str], list[float]] = defaultdict(list)
        self._others: dict[tuple[str, str], list[float]] = defaultdict(list)
        self._than: dict[tuple[str, str], str] = {}

    def add(self, what: str, unit: str, value: float, *, than: str = "", other: float = 0.0) -> None:
        """One round's value; ``other`` is what it is held against, of the same round."""
        self._values[what, unit].append(value)
        if than:
            self._than[what, unit] = than
            self._others[what, unit].append(other)

    def percentiles(self, what: str, taken_s: list[float]) -> None:
        """One round of latencies."""
        taken = sorted(taken_s)
        self.add(f"{what}, p50", "µs", 1e6 * taken[len(taken) // 2])
        self.add(f"{what}, p99", "µs", 1e6 * taken[len(taken) * 99 // 100])

    def rows(self) -> list[dict[str, Any]]:
        """As JSON rows, in the order in which they came up."""
        rows: list[dict[str, Any]] = []
        for (what, unit), values in self._values.items():
            row: dict[str, Any] = {"what": what, "unit": unit, "values": _rounded(values)}
            if (what, unit) in self._than:
                row |= {"than": self._than[what, unit], "others": _rounded(self._others[what, unit])}
            rows.append(row)
        return rows


def _rounded(values: list[float]) -> list[float]:
    return [float(f"{value:.4g}") for value in values]


def client_of(directory: Path) -> Fetcher:
    """A Fetcher with a cache in ``directory``. Its endpoint answers nobody: a hit asks nobody."""
    environ = {"HF_ENDPOINT": "http://127.0.0.1:9", "FETCHER_CACHE_DIR": str(directory)}
    return Fetcher(environ=environ, space_floor_bytes=0)


@contextmanager
def open_client(directory: Path) -> Iterator[Fetcher]:
    """The same, closed when the block is left."""
    client = client_of(directory)
    try:
        yield client
    finally:
        client.close()


def timed_s(work: Callable[[], object]) -> float:
    """Seconds of one call."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


# --- hits ------------------------------------------------------------------------------------------------------------


class Hits:
    """Latency of hits and leases in one cache."""

    def __init__(self, directory: Path, filling: Filling) -> None:
        self._directory = directory
        self._filling = filling
        self._dice = random.Random(filling.snapshots)
        self._name = f"among {filling.snapshots:,} snapshots"

    def round(self, figures: Figures) -> None:
        """Samples of each kind."""
        uris = [self._filling.uri(number) for number in range(self._filling.snapshots)]
        with open_client(self._directory) as client:
            few = self._dice.sample(uris, min(WORKING_SET, len(uris)))
            self._hits(client, few * 10)  # warm: pages of the index, code, and their use is noted for a minute
            figures.percentiles(f"hit {self._name}", self._hits(client, self._dice.choices(few, k=HITS)))
            figures.percentiles(f"private hit, proven, {self._name}", self._private_hits(client))
            snapshots = [client.hit(uri, "operator") for uri in few]
            ids = [snapshot.id for snapshot in snapshots if snapshot is not None]
            leases = [self._lease(client.cache, wanted) for wanted in self._dice.choices(ids, k=HITS)]
            figures.percentiles(f"lease and release {self._name}", leases)
        first: list[float] = []
        while len(first) < min(HITS, 20 * len(uris)):  # each Snapshot once in the life of a client
            with open_client(self._directory) as client:
                self._hits(client, uris[:1])
                asked = self._dice.sample(uris[1:], min(HITS, len(uris) - 1))
                first += self._hits(client, asked)
        figures.percentiles(f"hit {self._name}, first of a minute", first)

    def _private_hits(self, client: Fetcher) -> list[float]:
        """Of a job that brings its token, with a proof of a moment ago."""
        item = {"type": "HF", "repo": "bench/private", "accessToken": "hf_benchmark"}
        made = make_private(client, item, "hf_benchmark")
        taken: list[float] = []
        for _ in range(HITS):
            start = time.perf_counter()
            found = client.hit(item, "job")
            taken.append(time.perf_counter() - start)
            assert found is not None and found.private, "not a hit"
        client.cache.remove([made])
        return taken

    def _hits(self, client: Fetcher, uris: list[str]) -> list[float]:
        taken: list[float] = []
        for uri in uris:
            start = time.perf_counter()
            found = client.hit(uri, "operator")
            taken.append(time.perf_counter() - start)
            assert found is not None, "not a hit"
        return taken

    def _lease(self, cache: Cache, wanted: str) -> float:
        return timed_s(lambda: cache.lease_release(cache.lease_process([wanted]).id))


# --- gc --------------------------------------------------------------------------------------------------------------


class Collection:
    """gc in one cache, with and without garbage."""

    def __init__(self, directory: Path, filling: Filling) -> None:
        self._directory = directory
        self._filling = filling
        self._blobs = filling.snapshots * filling.files_each
        self._rounds = 0
        self._name = f"of {self._blobs:,} blobs in {filling.snapshots:,} snapshots"

    def round(self, figures: Figures) -> None:
        """Nothing to do; then a tenth of Blobs that nobody refers to; then a tenth of Snapshots whose time is over."""
        self._rounds += 1
        blobs, snapshots = int(GARBAGE * self._blobs), int(GARBAGE * self._filling.snapshots)
        figures.add(f"gc {self._name}, nothing to do", "ms", 1e3 * self._collect(0, 0))
        with open_client(self._directory) as client:
            client.cache.gc()  # the last one was in the future
            figures.add(f"tidy {self._name}, not due", "ms", 1e3 * timed_s(client.cache.tidy))
            loose_blobs(client.cache, f"{self._filling.name} {self._rounds}", blobs)
        figures.add(f"gc {self._name}, and {blobs:,} unreferenced", "ms", 1e3 * self._collect(0, blobs))
        with open_client(self._directory) as client:
            name = f"{self._filling.name}-{self._rounds}"
            fill(client, Filling(name, snapshots, self._filling.files_each, age_s=2 * 86_400.0))
        taken_s = self._collect(snapshots, snapshots * self._filling.files_each, at_once=True)
        figures.add(f"gc {self._name}, and {snapshots:,} snapshots out of time", "ms", 1e3 * taken_s)

    def _collect(self, snapshots: int, blobs: int, *, at_once: bool = False) -> float:
        """Seconds of a gc that takes so many, with a clock at which no file has grace any more; ``at_once``: both
        phases."""
        with open_client(self._directory) as client:
            settings = client.settings
        with Cache.open(settings, clock=lambda: time.time() + 2 * settings.gc_grace_s) as cache:
            start = time.perf_counter()
            report = cache.gc(at_once=at_once)
            taken_s = time.perf_counter() - start
        assert (len(report.snapshots), report.blobs) == (snapshots, blobs), report
        return taken_s


# --- opening ---------------------------------------------------------------------------------------------------------


def openings(directory: Path, filling: Filling, figures: Figures) -> None:
    """One round: opening with an index, and without."""
    with open_client(directory) as client:
        settings = client.settings
    blobs = filling.snapshots * filling.files_each
    of = f"{blobs:,} blobs in {filling.snapshots:,} snapshots"
    figures.add(f"open with an index of {of}", "ms", 1e3 * median([_open_s(directory, 0) for _ in range(20)]))
    for suffix in ("", "-wal", "-shm"):
        (settings.state_dir / f"index-v1.sqlite{suffix}").unlink(missing_ok=True)
    figures.add(f"open without, {of}", "ms", 1e3 * _open_s(directory, filling.snapshots))


def _open_s(directory: Path, adopted: int) -> float:
    with open_client(directory) as client:
        taken_s = timed_s(lambda: client.cache)
        assert len(client.cache.recovery.adopted) == adopted, client.cache.recovery
        return taken_s


# --- all of it -------------------------------------------------------------------------------------------------------


def _measure(options: argparse.Namespace, place: Path) -> list[dict[str, Any]]:
    some, many, figures = options.snapshots, 10 * options.snapshots, Figures()
    fillings = {
        name: Filling(name, snapshots, files_each)
        for name, snapshots, files_each in (
            ("few", WORKING_SET, 1),
            ("some", some, 1),
            ("many", many, 1),
            ("some-in-hundreds", max(1, some // FILES_EACH), FILES_EACH),
            ("many-in-hundreds", max(1, many // FILES_EACH), FILES_EACH),
        )
    }
    for name, filling in fillings.items():
        with open_client(place / name) as client:
            fill(client, filling)
    os.sync()  # what filling left dirty is nobody's burden
    hits = [Hits(place / name, fillings[name]) for name in ("few", "some", "many")]
    collections = [Collection(place / name, fillings[name]) for name in ("many", "many-in-hundreds")]
    for _ in range(options.rounds):
        for each in hits:
            each.round(figures)
        with ExitStack() as stack:
            client = stack.enter_context(open_client(place / "commits"))
            reference = stack.enter_context(room_in(place))
            small_commits(client.cache, reference, figures)
            large_commits(client.cache, reference, options.file_size // MIB, figures)
        for collection in collections:
            collection.round(figures)
        for name in ("some", "some-in-hundreds"):
            openings(place / name, fillings[name], figures)
    return figures.rows()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=at_least(1), default=5)
    parser.add_argument(
        "--snapshots",
        type=at_least(2 * WORKING_SET),
        default=10_000,
        help="in the middle cache; ten times as many in one",
    )
    parser.add_argument("--file-size", type=size, default=1024 * MIB, help="of the large file")
    parser.add_argument("--directory", type=Path, default=Path(tempfile.gettempdir()))
    options = parser.parse_args()
    with room_in(options.directory) as place:
        rows = _measure(options, place)
    for row in rows:
        print(json.dumps(row), flush=True)
    print()
    print(layer_table(rows))


if __name__ == "__main__":
    main()
