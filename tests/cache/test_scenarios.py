"""Ways in which caches of this kind are known to have gone wrong elsewhere, tried here one by one.

Each test is named after the report that describes it; its docstring tells what happens there, in our words. The order
of events is forced at the marked steps of publishing and removing, so that a race happens each time.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest

from fetcher.cache import removal, steps
from fetcher.cache.records import GoneError, Snapshot
from fetcher.cache.store import Cache
from fetcher.errors import LeaseError
from fetcher.model.job import parse_job
from fetcher.testing import Hub, Synthetic
from tests.cache.asking import blob_of, blob_with
from tests.cache.world import (
    MIB,
    ROOT_OF_CHECKOUT,
    Clock,
    assert_sound,
    collect_twice,
    entry,
    files_below,
    key_of,
    new_snapshot,
    paint,
    publish,
    put,
    settings,
    sha256,
    tree_on_disk,
)
from tests.e2e.support import assert_whole, fetch, fetcher_of
from tests.e2e.test_faces import job_of

DAY_S = 86_400.0
CONTENTS: Mapping[str, bytes] = {"large": paint(2 * MIB + 5, 1), "folder/small": b"small"}
REMOVING = [step for step in steps.STEPS if step.startswith("removal:")]
PUBLISHING = [step for step in steps.STEPS if not step.startswith("removal:")]
BLOCKED_S = 0.4
"""As long as whoever is called at a step gets before the step's owner goes on: at some steps it holds the index's lock,
and he must wait for it anyway."""


class Intruder:
    """Does something when a step is first taken by this thread, in a thread of its own."""

    def __init__(self) -> None:
        self._thread: threading.Thread | None = None
        self._error: BaseException | None = None

    def at(self, step: str, action: Callable[[], object]) -> None:
        here = threading.current_thread()

        def run() -> None:
            try:
                action()
            except BaseException as error:
                self._error = error

        def listener(taken: str) -> None:
            if taken == step and self._thread is None and threading.current_thread() is here:
                self._thread = threading.Thread(target=run)
                self._thread.start()
                self._thread.join(BLOCKED_S)

        steps.listen(listener)

    def end(self) -> None:
        """Wait for it. It must have come, and done what it wanted."""
        steps.listen(None)
        assert self._thread is not None, "the step was never taken"
        self._thread.join(30)
        assert not self._thread.is_alive()
        if self._error is not None:
            raise self._error


@pytest.fixture
def intruder() -> Iterator[Intruder]:
    yield Intruder()
    steps.listen(None)


def link_again(cache: Cache, name: str, contents: Mapping[str, bytes] = CONTENTS) -> Snapshot:
    """As the engine does it: what is here already is held and linked, what is gone meanwhile is fetched again."""
    for _ in range(3):
        files, held = [], []
        for path, data in sorted(contents.items()):
            found = blob_with(cache, sha256(data), len(data), principal=None)
            if found is None:
                found = put(cache, data)
            assert found is not None
            held.append(found.root)
            files.append((entry(path, data), found.root, "sha256"))
        try:
            reservation = cache.reserve(0, hold=held)
            try:
                return cache.publish(new_snapshot(name, contents, cache._clock()), files)
            finally:
                reservation.release()
        except GoneError:
            continue
    raise AssertionError("it was removed three times")


def assert_kept(cache: Cache, snapshot: Snapshot, contents: Mapping[str, bytes] = CONTENTS) -> None:
    """It is visible and whole, and its Blobs have their rows and names."""
    assert [found.id for found in cache.snapshots()] == [snapshot.id]
    assert tree_on_disk(snapshot.path) == dict(contents)
    for file in cache.files(snapshot.id):
        assert file.root is not None
        assert blob_of(cache, file.root) is not None, f"{file.path} has lost its Blob"
    assert_sound(cache)


# --- iroh-blobs#247 --------------------------------------------------------------------------------------------------


def removed_while_wanted_again(
    open_cache: Callable[..., Cache], clock: Clock, intruder: Intruder, step: str
) -> tuple[Cache, Snapshot]:
    """The last directory of some Blobs is removed; at ``step`` somebody else wants the same bytes, and leases them."""
    collector, client = open_cache(gc_grace_s=0.0), open_cache()
    old = publish(collector, "old", CONTENTS)
    found: list[Snapshot] = []

    def want() -> None:
        found.append(link_again(client, "new"))
        client.lease_timed([found[0].id], 10 * DAY_S)

    intruder.at(step, want)
    collector.remove([old.id])
    intruder.end()
    clock.turn(2 * DAY_S)
    collector.gc()
    return collector, found[0]


@pytest.mark.parametrize("step", REMOVING)
def test_iroh_blobs_247_bytes_that_are_wanted_again_while_they_are_removed(
    open_cache: Callable[..., Cache], clock: Clock, intruder: Intruder, step: str
) -> None:
    """A collector notes what nothing refers to, and deletes it a moment later. Whoever begins to refer to it in between
    is left without his bytes, unless the note is looked at again under the lock under which it is carried out."""
    cache, snapshot = removed_while_wanted_again(open_cache, clock, intruder, step)
    assert_kept(cache, snapshot)


def test_a_collector_that_trusts_its_notes_is_caught(
    open_cache: Callable[..., Cache],
    clock: Clock,
    intruder: Intruder,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(removal, "_UNREFERENCED", "1")
    cache, snapshot = removed_while_wanted_again(open_cache, clock, intruder, "removal:snapshots-deleted")
    with pytest.raises(AssertionError, match="has lost its Blob"):
        assert_kept(cache, snapshot)


@pytest.mark.parametrize("step", ["removal:blob-condemned", "removal:snapshots-committed"])
def test_iroh_blobs_247_an_orphan_that_is_wanted_while_it_is_collected(
    open_cache: Callable[..., Cache], clock: Clock, intruder: Intruder, step: str
) -> None:
    """The same for bytes that nobody has wanted for long: their own row is what a collector and a client race for."""
    collector, client = open_cache(gc_grace_s=0.0), open_cache()
    for data in CONTENTS.values():
        put(collector, data)
    with collector.index.write(durable=True) as rows:
        rows.execute("DELETE FROM blob_holds")
    clock.turn(10)
    found: list[Snapshot] = []
    intruder.at(step, lambda: found.append(link_again(client, "new")))
    collector.gc()
    intruder.end()
    assert_kept(collector, found[0])


@pytest.mark.parametrize("step", PUBLISHING)
def test_iroh_blobs_247_collecting_at_each_step_of_publishing(
    open_cache: Callable[..., Cache], clock: Clock, intruder: Intruder, step: str
) -> None:
    """What is under way has no row that a collector could see, only its owner. With no grace for anything, at each
    step."""
    collector, client = open_cache(gc_grace_s=0.0, partial_keep_s=0.0), open_cache()
    intruder.at(step, collector.gc)
    snapshot = publish(client, "m", CONTENTS)
    intruder.end()
    collector.gc()
    assert_kept(collector, snapshot)


def test_iroh_blobs_247_leased_between_the_plan_and_its_execution(open_cache: Callable[..., Cache]) -> None:
    """The longest such gap is that between a plan shown to a user and his yes."""
    collector, client = open_cache(gc_grace_s=0.0), open_cache()
    snapshot = publish(collector, "m", CONTENTS)
    plan = collector.prune_plan(max_bytes=0)
    assert plan.snapshots == (snapshot.id,)
    client.lease_process([snapshot.id])
    assert plan.execute().snapshots == ()
    with pytest.raises(LeaseError):
        collector.remove([snapshot.id])
    assert_kept(collector, snapshot)


# --- dragonfly client#1813 -------------------------------------------------------------------------------------------

SLACK_BYTES = 64 << 10
"""Folders, trees and sidecars; bodies are megabytes."""


def allocated_bytes(cache: Cache) -> int:
    """What the disk holds of bodies and directories, each body once however many names it has."""
    found: dict[tuple[int, int], int] = {}
    for top in (cache.layout.blobs, cache.layout.snapshots):
        for path in top.rglob("*"):
            status = path.lstat()
            found[status.st_dev, status.st_ino] = status.st_blocks * 512
    return sum(found.values())


OWN_BYTES = 2 * MIB + 4096 + 4096
"""A body, its tree, and the sidecar of its directory."""


def test_dragonfly_client_1813_what_is_pruned_is_free_although_directories_share_bodies(
    cache: Cache, clock: Clock
) -> None:
    """Bodies have a name in the store and one in each directory that shows them. Who deletes the store's names and
    counts their sizes reclaims nothing, believes he did, and deletes on."""
    shared = paint(4 * MIB, 1)
    made = []
    for n in range(3):
        made.append(publish(cache, f"m{n}", {"shared": shared, "own": paint(2 * MIB, 10 + n)}))
        clock.turn(10)
    before = allocated_bytes(cache)
    assert abs(before - 10 * MIB) <= SLACK_BYTES
    assert cache.usage().blob_bytes + cache.usage().snapshot_bytes == pytest.approx(before, abs=SLACK_BYTES)

    lease = cache.lease_timed([made[1].id], 1000)
    plan = cache.prune_plan(max_bytes=0)
    assert [(item.snapshot_id, item.bytes) for item in plan.candidates] == [
        (made[0].id, OWN_BYTES),
        (made[2].id, OWN_BYTES),
    ], "what a leased directory shows is not ours to free"
    report = plan.execute()
    assert plan.bytes_expected == 2 * OWN_BYTES == report.bytes_freed
    assert before - allocated_bytes(cache) == pytest.approx(4 * MIB, abs=SLACK_BYTES)
    assert report.bytes_freed == pytest.approx(4 * MIB, abs=SLACK_BYTES)
    assert tree_on_disk(made[1].path) == {"shared": shared, "own": paint(2 * MIB, 11)}

    cache.lease_release(lease.id)
    assert cache.prune_plan(max_bytes=0).bytes_expected == OWN_BYTES + 4 * MIB + 4096, (
        "the last one frees what is shared"
    )
    report = cache.prune_plan(max_bytes=0).execute()
    assert report.bytes_freed == pytest.approx(6 * MIB, abs=SLACK_BYTES)
    assert allocated_bytes(cache) <= SLACK_BYTES
    assert cache.usage().blob_bytes <= SLACK_BYTES


def test_dragonfly_client_1813_a_name_outside_of_the_cache_is_not_counted_as_freed(
    cache: Cache, tmp_path: Path
) -> None:
    """Somebody made a hard link of his own: his bytes stay, and nobody says that they were freed."""
    snapshot = publish(cache, "m", {"shared": paint(4 * MIB, 1), "own": paint(2 * MIB, 2)})
    os.link(snapshot.path / "shared", tmp_path / "mine")
    report = cache.remove([snapshot.id])
    assert report.blobs == 2
    assert report.bytes_freed == pytest.approx(2 * MIB, abs=SLACK_BYTES)
    assert (tmp_path / "mine").read_bytes() == paint(4 * MIB, 1)


# --- modelexpress#168 ------------------------------------------------------------------------------------------------

WAYS: Mapping[str, Callable[[Cache, Clock, Snapshot], object]] = {
    "time": lambda cache, clock, snapshot: (clock.turn(2 * DAY_S), collect_twice(cache, clock)),
    "prune": lambda cache, clock, snapshot: cache.prune_plan(max_bytes=0).execute(),
    "space": lambda cache, clock, snapshot: cache.reserve(1, evict=[snapshot.id]).release(),
    "rm": lambda cache, clock, snapshot: cache.remove([snapshot.id]),
}


@pytest.mark.parametrize("way", WAYS)
def test_modelexpress_168_whoever_evicts_removes_the_files(cache: Cache, clock: Clock, way: str) -> None:
    """A record is deleted, its files stay: the list gets shorter and the disk fuller, and nobody will ever look for
    what nothing speaks of."""
    snapshot = publish(cache, "m", CONTENTS)
    WAYS[way](cache, clock, snapshot)
    assert cache.snapshots() == []
    assert files_below(cache) == [f"owners-v1/{cache.owner.id}"]
    with cache.index.read() as rows:
        for table in ("snapshots", "snapshot_blobs", "blobs"):
            assert rows.execute(f"SELECT COUNT(*) FROM {table}").fetchone() == (0,), table


@pytest.mark.parametrize("step", REMOVING)
def test_modelexpress_168_killed_between_the_record_and_the_files(place: Path, clock: Clock, step: str) -> None:
    """Whoever is killed between the two leaves files that no record speaks of; the next collection finds them."""
    script = (
        "import os, sys; from pathlib import Path\n"
        "from fetcher.cache import steps; from fetcher.cache.store import Cache\n"
        "from tests.cache.test_scenarios import CONTENTS; from tests.cache.world import publish, settings\n"
        "cache = Cache.open(settings(Path(sys.argv[1]))); snapshot = publish(cache, 'm', CONTENTS)\n"
        "steps.listen(lambda step: os._exit(9) if step == sys.argv[2] else None)\n"
        "cache.remove([snapshot.id])\n"
    )
    command = [sys.executable, "-c", script, str(place), step]
    assert subprocess.run(command, cwd=ROOT_OF_CHECKOUT, check=False, timeout=50).returncode == 9
    with Cache.open(settings(place, gc_grace_s=0.0), clock=clock) as cache:
        for snapshot in cache.snapshots():
            assert cache.lookup(key_of("m"), None) is None or tree_on_disk(snapshot.path) == dict(CONTENTS)
        clock.turn(10 * DAY_S)
        cache.gc()
        assert cache.snapshots() == []
        assert files_below(cache) == []


# --- modelexpress#408 ------------------------------------------------------------------------------------------------


def lose_directory(cache: Cache, snapshot: Snapshot) -> None:
    shutil.rmtree(snapshot.path)


def lose_directories(cache: Cache, snapshot: Snapshot) -> None:
    for directory in (cache.layout.snapshots, cache.layout.blobs):
        shutil.rmtree(directory)
        directory.mkdir(mode=0o700)


def lose_directory_and_a_blob(cache: Cache, snapshot: Snapshot) -> None:
    shutil.rmtree(snapshot.path)
    for file in cache.files(snapshot.id):
        if file.path == "large.bin" and file.root is not None:
            cache.layout.blob(file.root).unlink()


LOSSES: Mapping[str, tuple[Callable[[Cache, Snapshot], None], set[str]]] = {
    "directory": (lose_directory, set()),
    "directory-and-a-blob": (lose_directory_and_a_blob, {"large.bin"}),
    "everything": (lose_directories, {"large.bin", "middle.bin"}),
}
"""What somebody deletes by hand, and which files have to come again."""


@pytest.mark.parametrize("loss", LOSSES)
def test_modelexpress_408_a_record_without_files_heals(hub: Hub, cache_dir: Path, loss: str) -> None:
    """Somebody deletes files, the record stays: the resource is said to be there, is handed out, and nothing ever
    fetches it again. Here it is no hit, is not listed, and the next who asks gets it whole; what is still there is not
    fetched again."""
    hub.add_repo("acme/m", files={"large.bin": Synthetic(3 * MIB, 1), "middle.bin": Synthetic(2 * MIB, 2)})
    snapshot = fetch(hub, cache_dir, "hf://acme/m").snapshot
    lose, again = LOSSES[loss]
    with Cache.open(settings(cache_dir)) as cache:
        lose(cache, snapshot)
        assert cache.lookup(snapshot.key, None) is None
        assert cache.get_snapshot(snapshot.id) is None
        assert cache.snapshots() == []
        with pytest.raises(GoneError):
            cache.lease_timed([snapshot.id], 10)
        cache.gc()
    sent = {name: hub.body_bytes_sent(name) for name in ("large.bin", "middle.bin")}
    outcome = fetch(hub, cache_dir, "hf://acme/m")
    assert not outcome.hit
    assert_whole(outcome.snapshot, hub, "acme/m")
    assert {name for name in sent if hub.body_bytes_sent(name) > sent[name]} == again
    assert fetch(hub, cache_dir, "hf://acme/m").hit


@pytest.mark.parametrize("file", ["large.bin", "middle.bin"])
def test_modelexpress_408_a_file_without_its_directory_entry_is_found_by_verify(
    hub: Hub, cache_dir: Path, file: str
) -> None:
    """A hit costs one look at the directory, so a file that is deleted inside of it is a matter for ``verify``."""
    hub.add_repo("acme/m", files={"large.bin": Synthetic(3 * MIB, 1), "middle.bin": Synthetic(2 * MIB, 2)})
    (fetch(hub, cache_dir, "hf://acme/m").snapshot.path / file).unlink()

    def sound() -> bool:
        client = fetcher_of(hub, cache_dir)
        try:
            return client.verify().sound
        finally:
            client.close()

    assert not sound()
    sent = hub.body_bytes_sent()
    outcome = fetch(hub, cache_dir, "hf://acme/m")
    assert_whole(outcome.snapshot, hub, "acme/m")
    assert hub.body_bytes_sent() == sent, "the body is here, only a name of it was lost"
    assert sound()


# --- modelexpress#513 ------------------------------------------------------------------------------------------------


def used_in_order(hub: Hub, cache_dir: Path) -> list[str]:
    """Two resources are fetched, then the first is asked for again; the order in which they would be evicted."""
    for name in ("one", "two"):
        hub.add_repo(f"acme/{name}", files={"f.bin": Synthetic(2 * MIB, len(name) + ord(name[0]))})
        fetch(hub, cache_dir, f"hf://acme/{name}")
    asked = len(hub.requests)
    assert fetch(hub, cache_dir, "hf://acme/one").hit
    assert len(hub.requests) == asked
    with Cache.open(settings(cache_dir)) as cache:
        space = [candidate.resource for candidate in cache.space().evictable]
        assert [item.resource for item in cache.prune_plan(max_bytes=0).candidates] == space
    return space


def test_modelexpress_513_a_hit_is_a_use(hub: Hub, cache_dir: Path) -> None:
    """The time of last use is written when something is fetched, and not when it is found: what everybody uses all the
    time is then the oldest, and goes first."""
    assert used_in_order(hub, cache_dir) == ["hf://acme/two@main", "hf://acme/one@main"]
    client = fetcher_of(hub, cache_dir)
    try:
        client.prune(max_bytes=2 * MIB)
    finally:
        client.close()
    assert fetch(hub, cache_dir, "hf://acme/one").hit
    assert not fetch(hub, cache_dir, "hf://acme/two").hit


def test_hits_that_are_not_written_down_are_caught(hub: Hub, cache_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Cache, "touch", lambda self, snapshot_id: None)
    assert used_in_order(hub, cache_dir) == ["hf://acme/one@main", "hf://acme/two@main"]


@pytest.mark.parametrize("how", ["lease", "offline", "revalidated", "mount", "mount without a loop"])
def test_modelexpress_513_every_kind_of_hit_is_a_use(hub: Hub, cache_dir: Path, how: str) -> None:
    """Also one with a lease, one without network, one that the origin confirmed, and one that a job mounts."""
    for name in ("one", "two"):
        hub.add_repo(f"acme/{name}", files={"f.bin": Synthetic(2 * MIB, len(name) + ord(name[0]))})
        fetch(hub, cache_dir, f"hf://acme/{name}")
    job = parse_job(job_of({"type": "HF", "repo": "acme/one", "target": "/models"}))

    async def use() -> None:
        async with fetcher_of(hub, cache_dir, offline=how == "offline", refresh=how == "revalidated") as client:
            if how == "lease":
                async with client.lease("hf://acme/one"):
                    pass
            elif how == "mount":
                await client.mount_all(job)
            elif how == "mount without a loop":
                assert client.mount_hits(job) is not None
            else:
                await client.fetch("hf://acme/one")

    asyncio.run(use())
    with Cache.open(settings(cache_dir)) as cache:
        assert next(item.resource for item in cache.prune_plan(max_bytes=0).candidates) == "hf://acme/two@main"
