"""What it costs to make verified bytes a Blob for good, beside writing and syncing the same bytes with plain calls.

The plain calls come before and after, and the faster of the two counts. The disk's own time is told apart by the marks
of the steps of publishing: what lies between two of them is an fsync, or the transaction of the index, whose fsync
SQLite makes.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Protocol

from benchmarks.running.options import KIB, MIB
from fetcher import hashing
from fetcher.cache import durable, steps
from fetcher.cache.records import NewSnapshot, PartialHead, SmallFile
from fetcher.cache.store import Cache
from fetcher.model.digest import Digest
from fetcher.model.manifest import FileEntry

SMALL_BYTES = 16 * KIB
BATCHES = (1, 100, 1000)
"""Small files with one barrier: the engine takes what has gathered while the disk was busy."""
SINGLE = 20
"""Batches of one file in a round."""


class Sheet(Protocol):
    """Where figures go."""

    def add(self, what: str, unit: str, value: float, *, than: str = "", other: float = 0.0) -> None:
        """One round's value."""


@contextmanager
def _stepping() -> Iterator[dict[str, float]]:
    """When each step was taken last."""
    taken: dict[str, float] = {}

    def note(step: str) -> None:
        taken[step] = time.perf_counter()

    steps.listen(note)
    try:
        yield taken
    finally:
        steps.listen(None)


# --- small files -----------------------------------------------------------------------------------------------------


def small_commits(cache: Cache, reference: Path, figures: Sheet) -> None:
    """One round: batches, one file at a time, and directories of them."""
    for batch in BATCHES:
        times = [_small_batch(cache, reference, batch) for _ in range(SINGLE if batch == 1 else 1)]
        commit, barrier, rows, plain, publishing = (1e6 * median(column) / batch for column in zip(*times, strict=True))
        name = "one file of 16 KiB" if batch == 1 else f"{batch:,} files of 16 KiB at once, per file"
        than = "write, fsync" if batch == 1 else "write all, syncfs"
        figures.add(f"commit {name}", "µs", commit, than=than, other=plain)
        figures.add(f"… of it the barrier, {batch:,}", "µs", barrier)
        figures.add(f"… of it the rows, durable, {batch:,}", "µs", rows)
        figures.add(f"then publish a snapshot of {batch:,}, per file", "µs", publishing)


def _small_batch(cache: Cache, reference: Path, batch: int) -> tuple[float, float, float, float, float]:
    """Seconds: commit, of it the barrier and the rows, the same bytes plainly, publishing."""
    items = [_small_file() for _ in range(batch)]
    contents = [bytes(item.data) for item in items]
    before_s = _write_plainly(reference, contents)
    with _stepping() as at:
        start = time.perf_counter()
        blobs = cache.commit_small(items, private=False, principal=None)
        commit_s = time.perf_counter() - start
    barrier_s, rows_s = at["small:durable"] - at["small:written"], at["small:rows"] - at["small:named"]
    plain_s = min(before_s, _write_plainly(reference, contents))
    files = [
        (FileEntry(f"{number:05d}", blob.size, item.digests[0]), blob.root, "sha256")
        for number, (blob, item) in enumerate(zip(blobs, items, strict=True))
    ]
    start = time.perf_counter()
    cache.publish(_new_snapshot(), files)
    return commit_s, barrier_s, rows_s, plain_s, time.perf_counter() - start


def _small_file() -> SmallFile:
    """Never the same twice. Root and digest are known by then: the engine hashes what comes before it commits."""
    data = os.urandom(SMALL_BYTES)
    digest = Digest("sha256", hashing.digest_bytes("sha256", data))
    return SmallFile(os.urandom(32).hex(), data, (digest,), "sha256", hashing.root_of(data).hex())


def _new_snapshot() -> NewSnapshot:
    key = os.urandom(32).hex()
    return NewSnapshot(
        key=key,
        uri="hf://bench/committed",
        resource={},
        endpoint="http://127.0.0.1:9",
        manifest_digest=key,
        revision=None,
        private=False,
        principal=None,
        immutable=False,
        downloaded_at=time.time(),
        fresh_for_s=86_400.0,
        keep_for_s=86_400.0,
    )


def _write_plainly(directory: Path, contents: list[bytes]) -> float:
    """Seconds for files of these contents, made durable by the cheapest call; they are removed again."""
    start = time.perf_counter()
    paths = [directory / f"{number}" for number in range(len(contents))]
    for path, data in zip(paths, contents, strict=True):
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
        os.write(descriptor, data)
        if len(contents) == 1:
            os.fsync(descriptor)
        os.close(descriptor)
    if len(contents) > 1:
        durable.sync_file_system(directory)
    taken_s = time.perf_counter() - start
    for path in paths:
        path.unlink()
    return taken_s


# --- a large file ----------------------------------------------------------------------------------------------------


def large_commits(cache: Cache, reference: Path, size_mib: int, figures: Sheet) -> None:
    """One round: a complete Partial of which nothing was synced, and one that is durable already."""
    blocks = [os.urandom(MIB) for _ in range(8)]
    name = f"{size_mib:,} MiB"
    before = _write_large(reference, blocks, size_mib)
    write_s, at, commit_s = _commit_large(cache, blocks, size_mib, sync=False)
    plain_write_s, plain_sync_s = min(before, _write_large(reference, blocks, size_mib), key=sum)
    plain_s = plain_write_s + plain_sync_s
    figures.add(
        f"{name}: write blocks, commit", "ms", 1e3 * (write_s + commit_s), than="write, fsync", other=1e3 * plain_s
    )
    figures.add(f"{name}: commit alone", "ms", 1e3 * commit_s, than="fsync alone", other=1e3 * plain_sync_s)
    _parts(f"{name}: commit", at, commit_s, figures)
    _, at, commit_s = _commit_large(cache, blocks, size_mib, sync=True)
    figures.add(f"{name}, durable already: commit alone", "ms", 1e3 * commit_s)
    _parts(f"{name}, durable already: commit", at, commit_s, figures)


def _parts(name: str, at: dict[str, float], commit_s: float, figures: Sheet) -> None:
    disk = {
        "fsync of the bytes": at["blob:durable"] - at["blob:closed"],
        "fsync of names and tree": at["blob:names-durable"] - at["blob:durable"],
        "the rows, durable": at["blob:rows"] - at["blob:names-durable"],
    }
    for what, seconds in (disk | {"all the rest": commit_s - sum(disk.values())}).items():
        figures.add(f"{name}, of it {what}", "ms", 1e3 * seconds)


def _commit_large(
    cache: Cache, blocks: Sequence[bytes], size_mib: int, *, sync: bool
) -> tuple[float, dict[str, float], float]:
    """Seconds of writing, when the commit's steps were taken, and its seconds. The Blob is removed again."""
    content = os.urandom(32).hex()
    size = size_mib * MIB
    head = PartialHead(content, "http://127.0.0.1:9/large", size, content, content, private=False, principal=None)
    partial = cache.partial_open(head)
    salt = os.urandom(8)
    root = hashing.InOrderDigest.new("blake3", size)
    os.sync()
    start = time.perf_counter()
    for number in range(size_mib):
        block = blocks[number % len(blocks)]
        partial.write_block(number, block if number else salt + block[len(salt) :])
    write_s = time.perf_counter() - start
    if sync:
        partial.sync()
    if not hashing.HAS_TREE:
        for number in range(size_mib):
            block = blocks[number % len(blocks)]
            root.update(block if number else salt + block[len(salt) :])
    with _stepping() as at:
        start = time.perf_counter()
        blob = cache.commit(
            partial,
            digests=[],
            verified_by="size",
            private=False,
            principal=None,
            root=None if hashing.HAS_TREE else root.hexdigest(),
        )
        commit_s = time.perf_counter() - start
    blob.path.unlink()  # the next one needs its space; its row is found to be without a body
    return write_s, at, commit_s


def _write_large(directory: Path, blocks: Sequence[bytes], size_mib: int) -> tuple[float, float]:
    """Seconds of writing and of syncing a file of as many bytes."""
    os.sync()  # what others left dirty is not this one's burden
    path = directory / "large"
    start = time.perf_counter()
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
    for number in range(size_mib):
        os.write(descriptor, blocks[number % len(blocks)])
    write_s = time.perf_counter() - start
    start = time.perf_counter()
    os.fsync(descriptor)
    sync_s = time.perf_counter() - start
    os.close(descriptor)
    path.unlink()
    return write_s, sync_s
