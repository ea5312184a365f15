"""The byte quota, by interleavings that are forced: what is measured, promised, drawn and evicted while others do the
same. That real fetches keep within it is looked at in ``tests/e2e/test_quota.py``."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import blake3
import pytest

from fetcher.cache import space as space_room
from fetcher.cache import usage as usage_room
from fetcher.cache.records import GoneError
from fetcher.cache.removal import Removal
from fetcher.cache.space import INDEX_ROOM_BYTES
from fetcher.cache.store import Cache
from fetcher.config import load
from fetcher.errors import NoSpaceError, UsageError
from tests.cache.asking import blob_of, blob_with
from tests.cache.world import MIB, Clock, block_of, head_of, key_of, paint, publish, put_large, sha256, tree_on_disk

QUOTA = 128 * MIB
Open = Callable[..., Cache]


@pytest.fixture
def limited(open_cache: Open) -> Cache:
    return open_cache(quota_bytes=QUOTA)


def du(place: Path) -> int:
    answer = subprocess.run(["du", "-s", "--block-size=1", place], capture_output=True, text=True, check=True)
    return int(answer.stdout.split()[0])


def between(monkeypatch: pytest.MonkeyPatch, name: str, action: Callable[[], object]) -> None:
    """Do something once, after ``name`` (partials, blobs, snapshots) was walked and before what comes next."""
    real, done = usage_room.allocated, list[bool]()

    def allocated(top: Path, seen: set[tuple[int, int]], **more: Any) -> int:
        found = real(top, seen, **more)
        if top.name == f"{name}-v1" and not done:
            done.append(True)
            action()
        return found

    monkeypatch.setattr(usage_room, "allocated", allocated)


# --- what is measured ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("walked", ["partials", "blobs"])
def test_a_commit_during_the_walk_is_neither_missed_nor_counted_twice(
    cache: Cache, monkeypatch: pytest.MonkeyPatch, walked: str
) -> None:
    """The bytes move from one room to the next, as the walk does."""
    data = paint(8 * MIB)
    partial = cache.partial_open(head_of(data))
    for block in range(partial.block_count):
        partial.write_block(block, block_of(data, block))

    def commit() -> None:
        root = blake3.blake3(data).hexdigest()  # only plain mode looks at it
        cache.commit(partial, digests=[sha256(data)], verified_by="sha256", private=False, principal=None, root=root)

    before = cache.usage().cache_bytes
    between(monkeypatch, walked, commit)
    assert usage_room.used_bytes(cache.layout) == pytest.approx(before, abs=MIB // 4)


def test_what_is_used_is_what_du_says(cache: Cache) -> None:
    shared = paint(3 * MIB)
    snapshots = [publish(cache, f"m{n}", {"s": shared, "own": paint(MIB, n), "d/small": b"%d" % n}) for n in range(5)]
    lease = cache.lease_timed([snapshots[0].id], 1000.0)
    cache.copy_adopt(cache.copy_stage(snapshots[0].id), lease.id, 0)
    partial = cache.partial_open(head_of(paint(4 * MIB, 77)))
    partial.write_block(0, block_of(paint(4 * MIB, 77), 0))
    (cache.layout.cache_dir / "mine").write_bytes(b"")  # a stranger's, of no bytes
    assert cache.usage().cache_bytes == pytest.approx(du(cache.layout.cache_dir), rel=0.01)
    assert usage_room.used_bytes(cache.layout) == cache.usage().cache_bytes


# --- what is promised ------------------------------------------------------------------------------------------------


def test_all_or_nothing_with_the_numbers(limited: Cache, open_cache: Open, clock: Clock) -> None:
    old = publish(limited, "old", {"f": paint(20 * MIB)})
    clock.turn(100)
    leased = publish(limited, "leased", {"f": paint(10 * MIB, 1)})
    limited.lease_timed([leased.id], 1000.0)
    left = limited.space().quota_left_bytes
    assert left == pytest.approx(QUOTA - 30 * MIB - INDEX_ROOM_BYTES, abs=2 * MIB)
    with pytest.raises(NoSpaceError, match=r"quota_bytes") as caught:
        limited.reserve(left + MIB)
    assert "`fetcher prune`" in (caught.value.hint or "") and "21.0 MB" in (caught.value.hint or "")
    with pytest.raises(NoSpaceError):
        limited.reserve(left + 21 * MIB, evict=[old.id])
    assert len(limited.snapshots()) == 2, "nothing is evicted for what would not fit then either"
    limited.reserve(left + 19 * MIB, evict=[old.id])
    assert [found.id for found in limited.snapshots()] == [leased.id]
    other = open_cache(quota_bytes=QUOTA)
    with pytest.raises(NoSpaceError, match="promised to other downloads"):
        other.reserve(4 * MIB)


def test_what_was_promised_and_spent_during_a_walk_counts(
    limited: Cache, open_cache: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another reserves, writes and is through, all while we walk where it has not written yet."""
    other = open_cache(quota_bytes=QUOTA)
    spent = limited.space().quota_left_bytes - 20 * MIB

    def spend() -> None:
        reservation = other.reserve(spent)
        reservation.draw(spent)
        filler = other.layout.partials / "filler"
        with open(filler, "wb") as file:
            os.posix_fallocate(file.fileno(), 0, spent)
        reservation.release()

    between(monkeypatch, "partials", spend)
    with pytest.raises(NoSpaceError):
        limited.reserve(40 * MIB)
    limited.reserve(10 * MIB).release()


def test_evictions_are_deleted_before_their_space_is_promised(
    limited: Cache, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = publish(limited, "old", {"f": paint(60 * MIB)})
    clock.turn(10)
    seen: list[int] = []
    real = space_room.Room._raise

    def raising(room: Any, rows: Any, reservation_id: str, byte_count: int) -> None:
        real(room, rows, reservation_id, byte_count)
        if byte_count:
            seen.append(du(limited.layout.cache_dir) + byte_count)

    monkeypatch.setattr(space_room.Room, "_raise", raising)
    reservation = limited.reserve(100 * MIB, evict=[old.id])
    assert seen and max(seen) <= QUOTA
    reservation.release()


def test_what_a_plan_holds_is_held_while_it_evicts(
    limited: Cache, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A second run of the same process ends in the middle of it, and with its reservation would go what we hold."""
    old = publish(limited, "old", {"f": paint(60 * MIB)})
    blob = put_large(limited, paint(2 * MIB, 3))
    limited.reserve(0).release()
    another = limited.reserve(1)
    real = space_room.Room._reserve_freed

    def after_another(room: Any, *arguments: Any) -> None:
        another.release()
        limited.gc(at_once=True)
        real(room, *arguments)

    monkeypatch.setattr(space_room.Room, "_reserve_freed", after_another)
    reservation = limited.reserve(90 * MIB, evict=[old.id], hold=[blob.root])
    assert blob_of(limited, blob.root) == blob
    reservation.release()


@pytest.mark.parametrize(
    "where", [(Removal, "finish"), (space_room.Room, "_reserve_freed")], ids=["removing", "promising"]
)
def test_a_failed_reservation_holds_nothing(
    limited: Cache, clock: Clock, monkeypatch: pytest.MonkeyPatch, where: tuple[type, str]
) -> None:
    old = publish(limited, "old", {"f": paint(60 * MIB)})
    blob = put_large(limited, paint(2 * MIB, 3))
    limited.reserve(0).release()

    def faster(*_: Any) -> None:
        raise NoSpaceError("others were faster")

    monkeypatch.setattr(*where, faster)
    with pytest.raises(NoSpaceError):
        limited.reserve(90 * MIB, evict=[old.id], hold=[blob.root])
    with limited.index.read() as rows:
        for table in ("reservations", "blob_holds"):
            assert rows.execute(f"SELECT COUNT(*) FROM {table}").fetchone() == (0,)
    with pytest.raises(GoneError):
        limited.reserve(1, hold=["f" * 64])


# --- what makes room -------------------------------------------------------------------------------------------------


def test_bodies_that_several_share_make_room_together(limited: Cache, clock: Clock) -> None:
    shared = paint(40 * MIB)
    ids = []
    for number in range(2):
        clock.turn(10)
        ids.append(publish(limited, "m", {"f": shared, "own": b"%d" % number}, revision=str(number) * 40).id)
    choice = limited.evictions(30 * MIB)
    assert [item.snapshot_id for item, _ in choice.chosen] == ids
    assert choice.bytes_freed == pytest.approx(40 * MIB, abs=MIB)
    limited.reserve(100 * MIB, evict=ids).release()
    assert limited.snapshots() == []


def test_what_is_about_to_be_linked_is_no_garbage(limited: Cache, clock: Clock) -> None:
    """The old revision's time is over, the new one has the same weights: making room must not take them."""
    weights = paint(4 * MIB)
    publish(limited, "m", {"weights": weights}, keep_for_s=10.0)
    expired = publish(limited, "other", {"f": paint(2 * MIB, 5)}, keep_for_s=10.0)
    clock.turn(11)
    blob = blob_with(limited, sha256(weights), len(weights), principal=None)
    assert blob is not None
    report = limited.gc(at_once=True, spare_roots=[blob.root])
    assert report.snapshots == (expired.id,)
    assert blob_of(limited, blob.root) == blob and limited.lookup(key_of("m"), None) is not None
    loose = put_large(limited, paint(2 * MIB, 9))
    limited.reserve(0).release()
    clock.turn(1)
    limited.gc(at_once=True, spare_roots=[loose.root])
    assert blob_of(limited, loose.root) == loose
    limited.gc(at_once=True)
    assert blob_of(limited, loose.root) is None


# --- without a quota, and a silly one --------------------------------------------------------------------------------


def test_without_a_quota_nobody_walks(cache: Cache, monkeypatch: pytest.MonkeyPatch) -> None:
    def walked(*_: Any) -> int:
        raise AssertionError("it was walked")

    monkeypatch.setattr(space_room, "used_bytes", walked)
    cache.reserve(10 * MIB).release()
    assert cache.space().quota_bytes is None


def test_a_quota_has_to_hold_a_cache(tmp_path: Path) -> None:
    environ = {"HOME": str(tmp_path), "FETCHER_QUOTA_BYTES": "10MiB"}
    with pytest.raises(UsageError, match="quota_bytes") as caught:
        load(environ=environ)
    assert "FETCHER_QUOTA_BYTES" in (caught.value.hint or "")
    assert load(environ={**environ, "FETCHER_QUOTA_BYTES": "500GB"}).quota_bytes == 500_000_000_000


# --- a dry run -------------------------------------------------------------------------------------------------------


def test_a_dry_run_says_what_comes_and_touches_nothing(cache: Cache, clock: Clock) -> None:
    publish(cache, "gone", {"f": paint(2 * MIB)}, keep_for_s=10.0)
    kept = publish(cache, "kept", {"f": paint(3 * MIB, 1), "small": b"s"}, keep_for_s=1e9)
    clock.turn(11)
    cache.gc()
    publish(cache, "expired", {"f": paint(4 * MIB, 2), "g": b"g"}, keep_for_s=10.0)
    clock.turn(20)
    stale = cache.layout.snapshots / ("f" * 64)
    stale.mkdir()
    os.utime(stale, (clock() + 1e9, clock() + 1e9))
    before = {path: path.lstat().st_mtime_ns for path in cache.layout.cache_dir.rglob("*")}
    for size in (None, 4 * MIB, 0):
        plan = cache.prune_plan(max_bytes=size)
        assert plan.bytes_expected > 0
    assert {path: path.lstat().st_mtime_ns for path in before} == before
    plan = cache.prune_plan()
    expected = plan.report
    report = plan.execute()
    assert (report.snapshots, report.blobs, report.bytes_freed) == (
        expected.snapshots,
        expected.blobs,
        expected.bytes_freed,
    )
    assert tree_on_disk(kept.path) == {"f": paint(3 * MIB, 1), "small": b"s"}
