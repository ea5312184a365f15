"""What is removed when, and what never is."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fetcher.cache import due
from fetcher.cache.index import Rows
from fetcher.cache.records import GoneError
from fetcher.cache.removal import Removal
from fetcher.cache.reservation import STEP_BYTES
from fetcher.cache.snapshots import HANDED_OUT_S
from fetcher.cache.space import Room
from fetcher.cache.store import Cache
from fetcher.errors import CacheError, InternalError, LeaseError, NoSpaceError
from tests.cache.asking import blob_of, blob_with, claimed
from tests.cache.world import (
    MIB,
    Clock,
    block_of,
    collect_twice,
    entry,
    files_below,
    head_of,
    key_of,
    new_snapshot,
    paint,
    publish,
    put,
    settings,
    sha256,
    tree_on_disk,
)
from tests.support.disk import SimulatedDisk

DAY_S = 86_400.0


def test_an_expired_snapshot_goes_with_its_blobs(cache: Cache, clock: Clock) -> None:
    old = publish(cache, "old", {"f": paint(2 * MIB)}, keep_for_s=100.0)
    new = publish(cache, "new", {"f": b"new"}, keep_for_s=2 * DAY_S)
    assert cache.gc().snapshots == ()
    clock.turn(101)
    would = cache.gc(dry_run=True)
    assert (would.snapshots, would.dry_run) == ((old.id,), True)
    assert would.bytes_freed == 2 * MIB + 2 * 4096, "body, tree, sidecar"
    assert old.path.exists()
    report = cache.gc()
    assert (report.snapshots, report.blobs) == ((old.id,), 0)
    assert cache.snapshots() == [new]
    assert not old.path.exists() and not cache.layout.sidecar(old.id).exists()
    clock.turn(cache.settings.gc_grace_s - 1)
    assert cache.gc().blobs == 0
    clock.turn(1)
    would = cache.gc(dry_run=True)
    report = cache.gc()
    assert (report.snapshots, report.blobs, report.leftovers) == ((), 1, 2)
    assert report.bytes_freed == would.bytes_freed and 2 * MIB <= report.bytes_freed < 2 * MIB + 64 * 1024
    assert len(list(cache.layout.blobs.glob("??/*"))) == 1


def test_what_mounted_a_condemned_snapshot_reads_on_and_who_asks_again_downloads_nothing(
    cache: Cache, clock: Clock
) -> None:
    data = paint(2 * MIB)
    old = publish(cache, "old", {"f": data}, keep_for_s=100.0)
    mounted = os.open(old.path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        clock.turn(101)
        assert cache.gc().snapshots == (old.id,)
        assert cache.lookup(key_of("old"), None) is None
        descriptor = os.open("f", os.O_RDONLY, dir_fd=mounted)
        assert os.read(descriptor, 100) == data[:100]
        os.close(descriptor)
    finally:
        os.close(mounted)
    assert blob_with(cache, sha256(data), len(data), principal=None) is not None
    again = publish(cache, "old", {"f": data})
    clock.turn(cache.settings.gc_grace_s + 1)
    assert cache.gc().blobs == 0
    assert tree_on_disk(again.path) == {"f": data}


def test_whoever_needs_the_space_waits_for_no_grace(cache: Cache, clock: Clock) -> None:
    old = publish(cache, "old", {"f": paint(2 * MIB)}, keep_for_s=100.0)
    clock.turn(101)
    cache.gc()
    would = cache.gc(dry_run=True, at_once=True)
    report = cache.gc(at_once=True)
    assert (report.blobs, report.bytes_freed) == (1, would.bytes_freed) and report.bytes_freed >= 2 * MIB
    assert not old.path.exists() and list(cache.layout.snapshots.iterdir()) == []


def test_only_names_of_ours_are_removed(cache: Cache, clock: Clock) -> None:
    """Whatever others put into our directories stays, however old."""
    layout = cache.layout
    publish(cache, "m", {"f": paint(2 * MIB)})
    strange = [
        layout.blobs / "ab" / "README",
        layout.blobs / "ab" / f"{'cd' * 32}",
        layout.blobs / "abc" / f"{'ab' * 32}",
        layout.snapshots / "notes.json",
        layout.snapshots / ".trash",
        layout.snapshots / ".condemned-soon",
        layout.partials / "mine",
        layout.partials / f"{'a' * 64}.somebody",
        layout.owners / "root",
        layout.writable / "mine",
        layout.cache_dir / "data" / f"{'ab' * 32}",
    ]
    for path in strange:
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"theirs")
        os.utime(path, (1, 1))
    clock.turn(100 * DAY_S)
    cache.prune_plan(max_bytes=0).execute()
    collect_twice(cache, clock)
    cache.gc(at_once=True)
    assert cache.snapshots() == [] and all(path.read_bytes() == b"theirs" for path in strange)


def test_a_shared_blob_stays_as_long_as_one_needs_it(cache: Cache, clock: Clock) -> None:
    shared = paint(2 * MIB)
    one = publish(cache, "one", {"f": shared, "g": b"1"})
    two = publish(cache, "two", {"f": shared, "g": b"2"})
    assert cache.remove([one.id]).blobs == 1
    assert tree_on_disk(two.path) == {"f": shared, "g": b"2"}
    assert cache.remove([two.id]).blobs == 2


def test_timed_leases(cache: Cache, clock: Clock) -> None:
    snapshot = publish(cache, "m", {"f": b"x"}, keep_for_s=10.0)
    lease = cache.lease_timed([snapshot.id], 100.0)
    assert (lease.kind, lease.expires_at) == ("timed", clock() + 100)
    clock.turn(60)
    assert cache.gc().snapshots == ()
    renewed = cache.lease_renew(lease.id, 100.0)
    assert renewed.expires_at == clock() + 100
    clock.turn(99)
    assert cache.leases() == [renewed]
    assert cache.gc().snapshots == ()
    clock.turn(1)
    assert cache.leases() == []
    with pytest.raises(LeaseError):
        cache.lease_renew(lease.id, 10.0)
    report = cache.gc()
    assert (report.snapshots, report.leases_ended) == ((snapshot.id,), 1)


def test_a_lease_may_hold_several(cache: Cache) -> None:
    ids = [publish(cache, name, {"f": name.encode()}).id for name in "abc"]
    lease = cache.lease_process(ids)
    assert cache.leases()[0].snapshot_ids == tuple(sorted(ids))
    for snapshot_id in ids:
        with pytest.raises(LeaseError, match=lease.id):
            cache.remove([snapshot_id])
    with pytest.raises(LeaseError, match="as long as its process"):
        cache.lease_renew(lease.id, 10)
    cache.lease_release(lease.id)
    assert len(cache.remove(ids).snapshots) == 3
    with pytest.raises(LeaseError, match="no lease"):
        cache.lease_release(lease.id)


def test_removing_several_is_all_or_nothing(cache: Cache) -> None:
    one, two = publish(cache, "one", {"f": b"1"}), publish(cache, "two", {"f": b"2"})
    cache.lease_timed([two.id], 100)
    with pytest.raises(LeaseError):
        cache.remove([one.id, two.id])
    assert len(cache.snapshots()) == 2
    report = cache.remove([one.id, two.id, "f" * 64], force=True)
    assert set(report.snapshots) == {one.id, two.id}


def test_pins(cache: Cache, clock: Clock) -> None:
    old = publish(cache, "m", {"f": b"old"}, keep_for_s=10.0)
    clock.turn(1)
    new = publish(cache, "m", {"f": b"new"}, keep_for_s=10.0)
    private = publish(cache, "m", {"f": b"own"}, keep_for_s=10.0, private=True, principal="p")
    cache.pin("market:one", key_of("m"))
    cache.pin("market:one", key_of("m"))
    cache.pin("market:two", key_of("m"))
    assert [pin.name for pin in cache.pins()] == ["market:one", "market:two"]
    clock.turn(100)
    assert cache.gc().snapshots == (old.id,), "the newest of each scope is kept"
    with pytest.raises(LeaseError, match="pinned as market"):
        cache.remove([new.id])
    assert cache.unpin("market:one") == 1
    assert cache.gc().snapshots == ()
    assert cache.unpin("market:two") == 1
    assert set(cache.gc().snapshots) == {new.id, private.id}
    assert cache.unpin("market:two") == 0


def test_an_unreferenced_blob_has_its_grace(cache: Cache, clock: Clock) -> None:
    reservation = cache.reserve(1)
    put(cache, paint(2 * MIB))
    clock.turn(10 * DAY_S)
    assert cache.gc().blobs == 0, "held for a snapshot under way"
    reservation.release()
    put(cache, paint(2 * MIB))
    cache.reserve(0).release()
    clock.turn(cache.settings.gc_grace_s - 1)
    assert cache.gc().blobs == 0
    clock.turn(2)
    assert cache.gc(dry_run=True).blobs == 1
    assert cache.gc().blobs == 1
    assert list(cache.layout.blobs.glob("??/*")) == []


def test_what_the_dead_held_is_free(open_cache: Callable[..., Cache], clock: Clock) -> None:
    one, two = open_cache(), open_cache()
    one.reserve(MIB)
    claimed(one, "c" * 64, 1)
    put(one, paint(2 * MIB))
    assert two.space().reserved_bytes == MIB
    one.close()
    assert two.space().reserved_bytes == 0
    clock.turn(DAY_S)
    assert two.gc().blobs == 1
    with two.index.read() as rows:
        for table in ("reservations", "flights", "blob_holds", "blobs", "blob_digests", "blob_access", "contents"):
            assert rows.execute(f"SELECT COUNT(*) FROM {table}").fetchone() == (0,), table


def test_partials_of_the_dead_are_kept_for_a_day(open_cache: Callable[..., Cache], clock: Clock) -> None:
    data = paint(3 * MIB)
    one, two = open_cache(), open_cache()
    partial = one.partial_open(head_of(data))
    partial.write_block(0, block_of(data, 0))
    clock.turn(10 * DAY_S)
    assert two.gc().partials == 0, "its owner lives"
    partial.close()
    one.close()
    clock.turn(-10 * DAY_S)
    assert two.gc().partials == 0
    assert two.layout.owner(one.owner.id).exists(), "its lock is what the next one takes the partial with"
    clock.turn(DAY_S + 60)
    report = two.gc()
    assert report.partials == 1 and report.bytes_freed >= MIB
    assert files_below(two) == []


def test_strangers_files_are_swept_after_the_grace(cache: Cache, clock: Clock) -> None:
    snapshot = publish(cache, "m", {"f": b"x"})
    strange = "f" * 64
    (cache.layout.blobs / "ff").mkdir()
    cache.layout.blob(strange).write_bytes(b"no row")
    cache.layout.tree(strange).write_bytes(b"no row")
    cache.layout.snapshot(strange).mkdir()
    (cache.layout.snapshot(strange) / "f").write_bytes(b"no row")
    cache.layout.sidecar(strange).write_bytes(b"{}")
    (cache.layout.snapshots / f".trash-{'1' * 32}").mkdir()
    outside = cache.layout.cache_dir / "mine.txt"
    outside.write_text("not ours")
    assert cache.gc().leftovers == 1, "trash at once, the rest may be under way"
    clock.turn(cache.settings.gc_grace_s + 60)
    report = cache.gc()
    assert report.leftovers == 4
    assert tree_on_disk(snapshot.path) == {"f": b"x"}
    assert outside.exists()
    blobs = [f"blobs-v1/{root[:2]}/{root}" for root in (file.root for file in cache.files(snapshot.id)) if root]
    expected = [*blobs, f"snapshots-v1/{snapshot.id}", f"snapshots-v1/{snapshot.id}.json"]
    assert [
        name for name in files_below(cache) if not name.startswith("owners") and not name.endswith("/f")
    ] == expected


def test_what_a_crash_left_beside_the_directories_is_swept(cache: Cache, clock: Clock) -> None:
    """A power cut between making a file and naming it (cache-id-v1, the key, a probe of locks, a market's list)."""
    layout = cache.layout
    layout.markets.mkdir(mode=0o700)
    random = "0123456789abcdef"
    ours = [layout.cache_dir / f".{name}{random}" for name in ("cache-id-v1.", "principal-key-v1.", "probe-")]
    ours.append(layout.markets / f".new-{random}")
    others = [layout.cache_dir / name for name in (f".new-{random}", ".cache-id-v1.short", f".probe-{random}.mine")]
    for path in (*ours, *others):
        path.write_bytes(b"x")
        os.utime(path, (clock(), clock()))
    cache.gc()
    assert all(path.exists() for path in (*ours, *others))
    clock.turn(cache.settings.gc_grace_s + 1)
    assert cache.gc().leftovers == len(ours)
    assert not any(path.exists() for path in ours)
    assert all(path.exists() for path in others)


def test_a_row_without_a_directory_is_dropped(cache: Cache) -> None:
    snapshot = publish(cache, "m", {"f": b"x"})
    os.rename(snapshot.path, cache.layout.cache_dir / "away")
    cache.gc()
    assert cache.snapshots() == []


# --- at the end of a command -----------------------------------------------------------------------------------------


def test_a_command_removes_what_has_expired(cache: Cache, clock: Clock) -> None:
    expired = publish(cache, "expired", {"f": b"1"}, keep_for_s=100.0)
    told = publish(cache, "told", {"f": b"2"}, keep_for_s=100.0)
    assert cache.tidy() is None, "a new cache has no garbage"
    clock.turn(101)
    with cache.index.write(durable=False) as rows:  # a hit that was slow to say so
        rows.execute("UPDATE snapshots SET last_used_at = ? WHERE id = ?", (clock(), told.id))
    report = cache.tidy()
    assert report is not None and report.snapshots == (expired.id,)
    assert told.path.is_dir(), "its path was handed out a moment ago"
    clock.turn(due.JUST_USED_S)
    report = cache.tidy()
    assert report is not None and report.snapshots == (told.id,)


def test_without_anything_expired_commands_share_the_work(cache: Cache, clock: Clock) -> None:
    leftover = cache.layout.snapshots / f".trash-{'1' * 32}"
    leftover.mkdir()
    clock.turn(due.COLLECT_EVERY_S - 1)
    assert cache.tidy() is None and leftover.exists()
    clock.turn(1)
    assert cache.tidy() is not None and not leftover.exists()
    clock.turn(-3600)
    assert cache.tidy() is not None, "the clock was set back"


def test_an_index_made_over_something_is_due_at_once(tmp_path: Path) -> None:
    """Nobody knows what those left who were there before."""
    with Cache.open(settings(tmp_path)) as cache:
        assert cache.tidy() is None
    os.unlink(cache.layout.index)
    leftover = cache.layout.blobs / f".trash-{'1' * 32}"
    leftover.mkdir()
    with Cache.open(settings(tmp_path)) as cache:
        assert cache.tidy() is not None and not leftover.exists()
    cache.layout.index.write_bytes(b"this is no database" * 1000)
    with Cache.open(settings(tmp_path)) as cache:
        assert cache.tidy() is not None, "also where all that is left is an index"


def test_a_directory_that_cannot_be_looked_into_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def closed(place: object) -> list[str]:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    monkeypatch.setattr(os, "listdir", closed)
    with pytest.raises(CacheError, match="Permission denied"):
        Cache.open(settings(tmp_path))


def test_what_was_told_stays_for_an_hour(cache: Cache, clock: Clock) -> None:
    snapshot = publish(cache, "m", {"f": b"x"}, keep_for_s=10.0)
    clock.turn(20)
    cache.touch(snapshot.id)
    clock.turn(HANDED_OUT_S - 1)
    assert cache.gc().snapshots == ()
    clock.turn(1)
    assert cache.gc().snapshots == (snapshot.id,)


# --- making room -----------------------------------------------------------------------------------------------------


def three(cache: Cache, clock: Clock) -> list[str]:
    """Three Snapshots, the first used longest ago; each of 2 MiB of its own and 2 MiB that all share."""
    ids = []
    for shade in range(3):
        clock.turn(100)
        ids.append(publish(cache, f"m{shade}", {"own": paint(2 * MIB, shade), "all": paint(2 * MIB, 9)}).id)
    return ids


def test_what_could_be_evicted(cache: Cache, clock: Clock) -> None:
    ids = three(cache, clock)
    clock.turn(100)
    cache.touch(ids[0])
    assert [(item.snapshot_id, item.bytes) for item in cache.space().evictable] == [
        (ids[1], 2 * MIB + 4096),
        (ids[2], 2 * MIB + 4096),
        (ids[0], 2 * (2 * MIB + 4096)),
    ], "with their trees; what all share goes with the last"
    assert cache.evictions(1 << 40, spared=ids[:1]).bytes_freed == 2 * (2 * MIB + 4096)
    cache.lease_timed([ids[1]], 1000)
    cache.pin("p", key_of("m2"))
    assert [item.snapshot_id for item in cache.space().evictable] == [ids[0]]


def test_prune_to_a_size(cache: Cache, clock: Clock) -> None:
    ids = three(cache, clock)
    assert cache.prune_plan(max_bytes=8 * MIB + MIB // 2).snapshots == ()
    plan = cache.prune_plan(max_bytes=5 * MIB)
    with_all = 2 * MIB + 4096 + 4096
    assert (plan.snapshots, plan.bytes_expected) == ((ids[0], ids[1]), 2 * with_all)
    assert cache.prune_plan(max_bytes=0).bytes_expected == 4 * with_all - 4096, "the shared one with the last"
    cache.lease_timed([ids[1]], 1000)  # since the plan was made
    assert plan.execute().snapshots == (ids[0],)
    assert {snapshot.id for snapshot in cache.snapshots()} == {ids[1], ids[2]}


def test_prune_without_a_size_is_what_had_its_time(cache: Cache, clock: Clock) -> None:
    old = publish(cache, "old", {"f": b"old"}, keep_for_s=10.0)
    publish(cache, "new", {"f": b"new"})
    clock.turn(11)
    plan = cache.prune_plan()
    assert (plan.snapshots, plan.bytes_expected) == ((old.id,), 2 * 4096)
    assert plan.execute().snapshots == (old.id,)


def test_what_others_collect_while_a_plan_is_made_is_not_counted(
    open_cache: Callable[..., Cache], clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, two = open_cache(), open_cache()
    old = publish(one, "old", {"f": paint(2 * MIB)}, keep_for_s=100.0)
    clock.turn(101)
    assert one.gc().snapshots == (old.id,)
    really = Removal.unreferenced

    def collected_meanwhile(self: Removal, rows: Rows, *arguments: Any, **more: Any) -> list[str]:
        roots = really(self, rows, *arguments, **more)
        monkeypatch.setattr(Removal, "unreferenced", really)
        assert roots and two.gc(at_once=True).blobs == 1
        return roots

    monkeypatch.setattr(Removal, "unreferenced", collected_meanwhile)
    assert one._rooms.collector.blob_bytes(at_once=True) == 0


def test_reserve_is_all_or_nothing(
    open_cache: Callable[..., Cache], clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache, other = open_cache(space_floor_bytes=MIB), open_cache()
    ids = three(cache, clock)
    free = 10 * MIB + MIB // 2
    monkeypatch.setattr(os, "statvfs", SimulatedDisk(cache.layout.cache_dir, cache.usage().cache_bytes + free).statvfs)
    held = other.reserve(4 * MIB)
    assert cache.space().available_bytes == pytest.approx(free - 5 * MIB, abs=MIB // 4)
    with pytest.raises(NoSpaceError, match=r"4\.2 MB are promised") as caught:
        cache.reserve(8 * MIB, evict=[ids[0]])
    assert "fetcher prune" in (caught.value.hint or "")
    assert len(cache.snapshots()) == 3, "nothing was evicted for a plan that does not fit"
    assert cache.space().reserved_bytes == 4 * MIB
    mine = cache.reserve(7 * MIB, evict=[ids[0], ids[0], "f" * 64])
    assert {snapshot.id for snapshot in cache.snapshots()} == {ids[1], ids[2]}
    assert cache.space().reserved_bytes == 11 * MIB
    held.release()
    held.release()
    mine.draw(100)
    assert mine.bytes == 7 * MIB - 100
    assert cache.space().reserved_bytes == 7 * MIB, "drawn, and perhaps not written yet"
    assert cache.undrawn_bytes() == 0
    mine.release()
    assert cache.space().reserved_bytes == 0


def test_drawing_is_written_in_steps_and_ahead(cache: Cache, open_cache: Callable[..., Cache]) -> None:
    """At each instant the row says at most what is not written yet, and with what is ahead at least that."""
    whole = 200 * MIB
    reservation = cache.reserve(whole)
    other = open_cache()
    handed = 0
    while handed < whole:
        reservation.draw(MIB)
        if handed:
            reservation.wrote(MIB)  # the one before
        handed += MIB
        undrawn, counted = other.undrawn_bytes(), other.space().reserved_bytes
        assert undrawn <= whole - handed, "what is written is promised no more"
        assert counted >= whole - handed, "what is promised is promised to nobody else"
        assert counted - undrawn <= STEP_BYTES + 2 * MIB
    assert (reservation.bytes, other.undrawn_bytes()) == (0, 0)
    reservation.draw(MIB)
    assert reservation.bytes == STEP_BYTES, "more was reserved, a step at a time"
    reservation.release()
    assert other.space().reserved_bytes == 0
    with pytest.raises(InternalError):
        reservation.draw(MIB)
    assert other.space().reserved_bytes == 0


def test_the_floor_is_looked_at_while_writing(cache: Cache, monkeypatch: pytest.MonkeyPatch) -> None:
    """Something else fills the disk."""
    reservation = cache.reserve(1024 * MIB)
    monkeypatch.setattr(Room, "refuse_below_floor", lambda _: (_ for _ in ()).throw(NoSpaceError("full")))
    with pytest.raises(NoSpaceError):
        for _ in range(1024):
            reservation.draw(MIB)
    assert 256 * MIB <= 1024 * MIB - reservation.bytes <= 256 * MIB + STEP_BYTES


def test_a_leased_snapshot_is_not_evicted(cache: Cache, clock: Clock) -> None:
    ids = three(cache, clock)
    cache.lease_timed([ids[0]], 1000)
    cache.reserve(0, evict=[ids[0], ids[1]])
    assert {snapshot.id for snapshot in cache.snapshots()} == {ids[0], ids[2]}


def test_what_a_plan_links_survives_its_own_evictions(cache: Cache, clock: Clock) -> None:
    snapshot = publish(cache, "m", {"f": paint(2 * MIB), "g": b"g"})
    root = next(file.root for file in cache.files(snapshot.id) if file.path == "f")
    assert root is not None
    reservation = cache.reserve(0, evict=[snapshot.id], hold=[root])
    assert cache.snapshots() == [] and blob_of(cache, root) is not None
    again = cache.publish(new_snapshot("n", {}, clock()), [(entry("f", paint(2 * MIB)), root, "sha256")])
    assert tree_on_disk(again.path) == {"f": paint(2 * MIB)}
    reservation.release()
    with pytest.raises(GoneError):
        cache.reserve(0, hold=["f" * 64])


def test_usage(cache: Cache) -> None:
    publish(cache, "m", {"f": paint(2 * MIB), "g": b"g"})
    publish(cache, "n", {"f": paint(2 * MIB)})
    partial = cache.partial_open(head_of(paint(3 * MIB, 1)))
    partial.write_block(0, paint(MIB, 1))
    reservation = cache.reserve(5)
    usage = cache.usage()
    assert (usage.snapshots, usage.blobs, usage.partials, usage.leases, usage.pins) == (2, 2, 1, 0, 0)
    assert 2 * MIB <= usage.blob_bytes < 3 * MIB, "each body once"
    assert MIB <= usage.partial_bytes < 2 * MIB, "what is allocated, not the size"
    assert usage.snapshot_bytes < MIB
    assert usage.index_bytes > 0 and usage.reserved_bytes == 5
    assert usage.cache_bytes <= usage.total_bytes
    reservation.release()
    partial.close()


def test_what_never_got_its_name_in_the_roots_goes_after_the_grace(cache: Cache, clock: Clock) -> None:
    """A process that is killed while it opens a cache leaves such files; names that are not ours stay."""
    layout = cache.layout
    layout.markets.mkdir(mode=0o700)
    random = "0123456789abcdef"
    ours = [
        layout.cache_dir / f".probe-{random}",
        layout.cache_dir / f".cache-id-v1.{random}",
        layout.state_dir / f".principal-key-v1.{random}",
        layout.markets / f".new-{random}",
    ]
    others = [layout.cache_dir / f".probe-{random}.txt", layout.cache_dir / f".new-{random}", layout.markets / ".new-x"]
    for path in ours + others:
        path.write_bytes(b"x")
    cache.gc()
    assert all(path.exists() for path in ours)
    clock.turn(DAY_S)
    assert cache.gc().leftovers == len(ours)
    assert [path.exists() for path in ours + others] == [False] * len(ours) + [True] * len(others)


# --- the calendar was set while a cache was open, and nobody looked anything up since (found by the state machine) ----


def test_pruning_and_tidying_after_the_calendar_was_set_forward_take_nothing_early(cache: Cache, clock: Clock) -> None:
    snapshot = publish(cache, "m", {"f": b"x"}, keep_for_s=DAY_S)
    clock.turn(100)
    clock.jump(3 * DAY_S)
    assert cache.prune_plan().snapshots == ()
    clock.jump(3 * DAY_S)
    cache.tidy()
    assert [found.id for found in cache.snapshots()] == [snapshot.id]


def test_what_is_published_after_the_calendar_was_set_back_has_all_of_its_time(cache: Cache, clock: Clock) -> None:
    """Its times are of the new calendar, and are not moved with the others'."""
    publish(cache, "before", {"f": b"x"}, keep_for_s=DAY_S)
    clock.jump(-3 * DAY_S)
    after = publish(cache, "after", {"f": b"y"}, keep_for_s=DAY_S)
    clock.turn(DAY_S / 2)
    assert cache.lookup(key_of("after"), None) == after
    assert cache.gc().snapshots == ()
    clock.turn(DAY_S / 2 + 1)
    assert after.id in cache.gc().snapshots


def test_of_equally_new_ones_a_pin_keeps_the_one_that_is_given(cache: Cache, clock: Clock) -> None:
    for version in range(6):
        publish(cache, "m", {"f": b"%d" % version}, keep_for_s=10.0)
    cache.pin("p", key_of("m"))
    found = cache.lookup(key_of("m"), None)
    assert found is not None
    clock.turn(11)
    cache.gc()
    assert [snapshot.id for snapshot in cache.snapshots()] == [found.id]


def test_a_row_without_a_directory_does_not_take_the_pin_of_a_good_one(cache: Cache, clock: Clock) -> None:
    """As a removal that was killed in its transaction leaves it."""
    good = publish(cache, "m", {"f": b"good"}, keep_for_s=10.0)
    clock.turn(1)
    gone = publish(cache, "m", {"f": b"gone"}, keep_for_s=10.0)
    gone.path.rename(cache.layout.trash(cache.layout.snapshots))
    cache.pin("p", key_of("m"))
    clock.turn(11)
    cache.gc()
    assert cache.lookup(key_of("m"), None) == good


def test_what_is_drawn_beside_takes_nothing_of_what_was_promised(
    open_cache: Callable[..., Cache], clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = open_cache(space_floor_bytes=MIB)
    free = 10 * MIB
    monkeypatch.setattr(os, "statvfs", SimulatedDisk(cache.layout.cache_dir, cache.usage().cache_bytes + free).statvfs)
    reservation = cache.reserve(6 * MIB)
    reservation.draw(2 * MIB)
    reservation.draw_beside(2 * MIB)
    assert reservation.bytes == 4 * MIB, "for who was promised them"
    with pytest.raises(NoSpaceError):
        reservation.draw_beside(2 * MIB)
    assert reservation.bytes == 4 * MIB
    reservation.draw(4 * MIB)
    reservation.undraw(2 * MIB)
    reservation.release()
    with pytest.raises(InternalError):
        reservation.draw_beside(MIB)
