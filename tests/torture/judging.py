"""Judges of a cache after a client met its end, by force or by an error: what every such test of this room asks.

Nothing wrong is visible; what was promised is there; a rerun is right and asks for no byte twice; and what nobody owns
goes. Two resources of the embedded hub share a file of several blocks.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import blake3

from fetcher import hashing
from fetcher.cache import journal
from fetcher.cache.records import Snapshot
from fetcher.cache.store import Cache
from fetcher.testing import Hub, Quotas, Synthetic
from tests.cache.asking import blob_of
from tests.cache.world import Clock, files_below, settings
from tests.e2e.support import MIB, fetch, held_by, tree_of
from tests.torture.traced import Call, Ended

FIRST, SECOND, GOOD = "hf://acme/first", "hf://acme/second", "hf://acme/good"
LATER_S = 10 * 86_400.0
"""After all times of retention."""

UNLIMITED = Quotas(api=1 << 30, resolvers=1 << 30, pages=1 << 30)
"""Hundreds of clients ask in a minute; rate limits are tested elsewhere."""

CACHE_NAMES = frozenset(
    {"CACHEDIR.TAG", "cache-id-v1", "cache-id-v1.lock", "owners-v1", "partials-v1", "blobs-v1", "snapshots-v1"}
    | {"writable-v1", "index-v1.sqlite", "index-v1.sqlite-wal", "index-v1.sqlite-shm", "index-v1.lock"}
    | {"principal-key-v1", "markets-v1", "spare-v1"}
)
"""What docs/FORMAT.md lets a cache directory consist of that nobody is at work in."""


def add_repos(hub: Hub, *, shared_bytes: int = 7 * MIB + 123) -> None:
    """A file of several blocks that both have, one from the hub itself, and enough small files and folders for one
    barrier over all."""
    hub.quotas = UNLIMITED
    small = {f"folder {n:02}/{n}.txt": f"small file {n} " * (n + 1) for n in range(12)}
    shared = Synthetic(shared_bytes, 1)
    first = {"shared.safetensors": shared, "notes.txt": Synthetic(MIB + 5, 2), "empty": b"", **small}
    hub.add_repo("acme/first", files=first)
    hub.add_repo("acme/second", files={"again/shared.safetensors": shared, "own.txt": "own", "0.txt": "another"})
    hub.add_repo("acme/good", files={"old.bin": Synthetic(2 * MIB + 7, 3), "old.txt": "what was here before"})


def _repo_of(uri: str) -> str:
    return uri.removeprefix("hf://").partition("@")[0]


def root_of(path: Path) -> str:
    return blake3.blake3(path.read_bytes()).hexdigest()


def assert_nothing_wrong(cache_dir: Path, hub: Hub) -> None:
    """Every Snapshot that can be had is its origin's tree, every file with a Blob's name has that hash, all have their
    modes, the index is sound. Makes no cache where there is none."""
    if not (cache_dir / "index-v1.sqlite").exists() or not (cache_dir / "snapshots-v1").exists():
        assert not list(cache_dir.glob("snapshots-v1/[0-9a-f]*")), "a snapshot before there was an index"
        return
    with Cache.open(settings(cache_dir)) as cache:
        for snapshot in cache.snapshots():
            if cache.get_snapshot(snapshot.id) is not None:
                assert_right(snapshot, hub)
        for blob in cache.layout.blobs.glob("??/*"):
            if blob.suffix == ".tree":
                continue
            assert root_of(blob) == blob.name, f"{blob} has the name of other bytes"
            assert stat.S_IMODE(blob.stat().st_mode) == 0o444
        for place in cache.layout.writable.glob("[0-9a-f]*"):
            assert tree_of(place) in [held_by(hub, _repo_of(uri)) for uri in (FIRST, SECOND)], (
                "a copy of something else"
            )
        with cache.index.read() as rows:
            assert rows.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
            assert rows.execute("PRAGMA foreign_key_check").fetchall() == []


def assert_right(snapshot: Snapshot, hub: Hub) -> None:
    expected = held_by(hub, _repo_of(snapshot.uri))
    assert tree_of(snapshot.path) == expected, f"{snapshot.uri} has wrong bytes"
    assert (snapshot.files, snapshot.bytes) == (len(expected), sum(size for size, _ in expected.values()))
    for folder, _, names in os.walk(snapshot.path):
        assert stat.S_IMODE(os.stat(folder).st_mode) == 0o755, folder
        for name in names:
            assert stat.S_IMODE(os.lstat(os.path.join(folder, name)).st_mode) == 0o444, name


def assert_kept(cache_dir: Path, hub: Hub, facts: Sequence[Mapping[str, Any]]) -> None:
    """What it said to have published, and did not say to be removing, is there and right."""
    promised: dict[str, str] = {}
    for fact in facts:
        if fact["event"] == "published":
            promised[fact["uri"]] = fact["id"]
        elif fact["event"] == "removing":
            promised.pop(fact["uri"], None)
    with Cache.open(settings(cache_dir)) as cache:
        for uri, wanted in promised.items():
            found = cache.get_snapshot(wanted)
            assert found is not None, f"{uri} was told as published and is not there"
            assert_right(found, hub)
        for fact in facts:
            if fact["event"] == "copied" and fact["lease"] in {lease.id for lease in cache.leases()}:
                assert tree_of(Path(fact["path"])) == held_by(hub, _repo_of(fact["uri"]))


def bytes_allowed(cache_dir: Path, hub: Hub, uris: Iterable[str]) -> int:
    """What fetching these may ask for: no file of a Snapshot that is there, none that has its Blob and row, and of the
    others no block that a journal has proven."""
    missing: dict[str, int] = {}
    with Cache.open(settings(cache_dir)) as cache:
        here = {snapshot.uri.partition("@")[0] for snapshot in cache.snapshots() if cache.get_snapshot(snapshot.id)}
        proven = _proven_bytes(cache.layout.partials)
        for uri in uris:
            if uri in here:
                continue
            commit = hub.repo(_repo_of(uri), "models").resolve("main")
            assert commit is not None
            for entry in commit.entries.values():
                data = entry.content.read(0, entry.content.size)
                if data and blob_of(cache, blake3.blake3(data).hexdigest()) is None:
                    missing[entry.content.sha256] = len(data) - proven.get(len(data), 0)
    return sum(missing.values())


def _proven_bytes(partials: Path) -> dict[int, int]:
    """Size of a content (no two have the same) → bytes of blocks that its best journal vouches for."""
    best: dict[int, int] = {}
    for path in partials.glob("*.*/journal"):
        found = journal.read(path)
        if found is None or not hashing.HAS_TREE:
            continue
        size = found.head.size
        proven = sum(min(MIB, size - block * MIB) for block in found.blocks)
        best[size] = max(best.get(size, 0), proven)
    return best


def _is_published(data: Path) -> bool:
    """Whether a Blob has these bytes, too; a Partial's body is the last that is removed of it, or the last but one."""
    return not data.exists() or data.stat().st_nlink == 2


_BLOCK_WRITTEN = re.compile(r"<(?P<partial>[^>]*/partials-v1/[^>/]+)/data>, .* = (?P<bytes>\d+)$")


def assert_journalled(cache_dir: Path, calls: Sequence[Call]) -> None:
    """Each block that was written is journalled, but for the one that each thread may have been at."""
    written: dict[str, set[str]] = {}
    threads: dict[str, set[int]] = {}
    for call in calls:
        found = _BLOCK_WRITTEN.search(call.text) if call.kind == "pwrite64" else None
        if found and found["bytes"] == str(MIB):
            written.setdefault(found["partial"], set()).add(call.text)
            threads.setdefault(found["partial"], set()).add(call.thread)
    for partial, blocks in written.items():
        if Path(partial).exists():
            log = journal.read(Path(partial, "journal"))
            if log is None and _is_published(Path(partial, "data")):
                continue  # killed while it removed what it needed no more
            kept = 0 if log is None else len(log.blocks)
            assert kept >= len(blocks) - len(threads[partial]), f"{len(blocks)} blocks written, {kept} journalled"


def assert_rerun(cache_dir: Path, hub: Hub, uris: Sequence[str] = (FIRST, SECOND)) -> None:
    """Fetch again: right bytes, and none asked for that was whole."""
    allowed = bytes_allowed(cache_dir, hub, uris)
    sent = hub.body_bytes_sent()
    for uri in uris:
        assert_right(fetch(hub, cache_dir, uri, asker="operator").snapshot, hub)
    asked = hub.body_bytes_sent() - sent
    assert asked <= allowed, f"{asked} bytes asked for, of which {allowed} were not whole"


def assert_goes(cache_dir: Path) -> None:
    """After all times of retention nothing is left but what an empty cache consists of."""
    clock = Clock()
    with Cache.open(settings(cache_dir), clock=clock) as cache:
        for _ in range(3):
            clock.turn(LATER_S)
            cache.gc()
        assert files_below(cache) == [], "bytes that nobody owns"
        with cache.index.read() as rows:
            for table in ("snapshots", "blobs", "contents", "leases", "flights", "reservations", "blob_holds"):
                assert rows.execute(f"SELECT count(*) FROM {table}").fetchone() == (0,), f"rows of nobody in {table}"
    assert {*os.listdir(cache_dir)} <= CACHE_NAMES, "names that nobody owns"
    for name in ("owners-v1", "partials-v1", "snapshots-v1", "writable-v1"):
        assert os.listdir(cache_dir / name) == [], f"something is left in {name}"


def assert_survives(cache_dir: Path, hub: Hub, ended: Ended, *, rerun: bool, bounded: bool = True) -> None:
    """All of it, in the order in which it can be asked."""
    if hashing.HAS_TREE:
        assert_journalled(cache_dir, ended.calls)
    assert_nothing_wrong(cache_dir, hub)
    assert_kept(cache_dir, hub, ended.facts)
    if rerun and bounded:
        assert_rerun(cache_dir, hub)
    elif rerun:
        for uri in (FIRST, SECOND):
            assert_right(fetch(hub, cache_dir, uri, asker="operator").snapshot, hub)
    if rerun:
        assert_nothing_wrong(cache_dir, hub)
    assert_goes(cache_dir)


def complaint_of(judge: Callable[[], None]) -> str:
    """What a judge complains of; empty if it is content."""
    try:
        judge()
    except AssertionError as error:
        return str(error)
    return ""
