"""An index that is missing, old or damaged is made anew from what is on the disk; pins and leases are taken over as far
as the old one can be read. What a crash left without a row is adopted if it proves itself."""

from __future__ import annotations

import os
import sqlite3
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fetcher.cache import index, recovery, steps
from fetcher.cache.layout import Layout
from fetcher.cache.records import Recovery, ReplacedError, Snapshot
from fetcher.cache.schema import SCHEMA_VERSION
from fetcher.cache.store import Cache
from fetcher.cache.tree_file import TreeFile
from fetcher.engine.verify import verify
from fetcher.errors import CacheError, LeaseError, NoSpaceError
from tests.cache.asking import blob_of, blob_of_content, blob_with
from tests.cache.world import (
    MIB,
    Clock,
    assert_sound,
    child,
    collect_twice,
    files_below,
    head_of,
    key_of,
    paint,
    publish,
    put_large,
    put_small,
    settings,
    sha256,
    tree_on_disk,
)

BIG = paint(2 * MIB + 17)
CONTENTS = {"big": BIG, "deep/small": b"small"}
Open = Callable[..., Cache]


def lose_index(cache: Cache) -> None:
    cache.close()
    for path in cache.layout.state_dir.glob("index-v1.sqlite*"):
        path.unlink()


def damage_index(cache: Cache, how: str) -> None:
    """``header``: nothing of it can be read any more. ``page``: one page of a table."""
    cache.close()
    path = cache.layout.index
    with sqlite3.connect(path) as rows:
        rows.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        (page,) = rows.execute("SELECT rootpage FROM sqlite_master WHERE name = 'snapshots'").fetchone()
        (page_bytes,) = rows.execute("PRAGMA page_size").fetchone()
    rows.close()
    with open(path, "r+b") as file:
        file.seek(0 if how == "header" else (page - 1) * page_bytes)
        file.write(b"\xa5" * (64 if how == "header" else page_bytes))


def age_index(cache: Cache) -> None:
    """As version 1 wrote it: leases knew no boot, reservations nothing ahead."""
    cache.close()
    with sqlite3.connect(cache.layout.index) as rows:
        for column in ("ends_boot_s", "boot_id"):
            rows.execute(f"ALTER TABLE leases DROP COLUMN {column}")
        rows.execute("ALTER TABLE reservations DROP COLUMN ahead_bytes")
        rows.execute("PRAGMA user_version = 1")
    rows.close()


# --- what is taken over ----------------------------------------------------------------------------------------------


def leased_and_pinned(cache: Cache) -> tuple[Snapshot, Snapshot, str]:
    leased = publish(cache, "leased", CONTENTS, keep_for_s=1.0)
    pinned = publish(cache, "pinned", {"f": b"pinned"}, keep_for_s=1.0)
    cache.pin("market:one", key_of("pinned"))
    return leased, pinned, cache.lease_timed([leased.id], 1000.0).id


def test_an_index_of_the_version_before_is_made_anew_with_its_pins_and_leases(
    cache: Cache, open_cache: Open, clock: Clock
) -> None:
    leased, pinned, lease_id = leased_and_pinned(cache)
    age_index(cache)
    again = open_cache()
    assert set(again.recovery.adopted) == {leased.id, pinned.id}
    assert (again.recovery.outdated, again.recovery.pins, again.recovery.leases) == (True, 1, 1)
    assert "older version" in str(again.recovery) and "2 resources, 1 pin, 1 lease" in str(again.recovery)
    clock.turn(999)
    assert again.gc().snapshots == ()
    assert [lease.id for lease in again.leases()] == [lease_id]
    with pytest.raises(LeaseError):
        again.remove([pinned.id])
    clock.turn(2)
    assert again.gc().snapshots == (leased.id,), "its lease has ended when it would have ended"
    again.close()
    assert open_cache().recovery.adopted == (), "once"


def test_of_a_damaged_index_what_can_be_read_is_taken_over(cache: Cache, open_cache: Open, clock: Clock) -> None:
    leased, pinned, lease_id = leased_and_pinned(cache)
    damage_index(cache, "page")
    with pytest.raises(CacheError, match="malformed") as caught:
        open_cache().snapshots()
    assert "run the command again" in (caught.value.hint or "")
    again = open_cache()
    assert set(again.recovery.adopted) == {leased.id, pinned.id}
    assert (again.recovery.pins, again.recovery.leases) == (1, 1)
    assert again.recovery.set_aside is not None and again.recovery.set_aside.exists()
    assert "was damaged" in str(again.recovery) and again.recovery.set_aside.name in str(again.recovery)
    clock.turn(10)
    assert again.gc().snapshots == () and [lease.id for lease in again.leases()] == [lease_id]
    assert_sound(again)
    again.close()
    assert str(open_cache().recovery) == "", "once"


def test_a_suspicion_without_damage_is_forgotten(cache: Cache, open_cache: Open) -> None:
    snapshot = publish(cache, "m", CONTENTS)
    cache.close()
    index.suspect(cache.layout.index)
    again = open_cache()
    assert again.recovery == Recovery() and [found.id for found in again.snapshots()] == [snapshot.id]
    assert not Path(f"{cache.layout.index}{index.SUSPECT}").exists()


def test_of_an_index_that_nobody_can_read_nothing_is_lost_but_rights(
    cache: Cache, open_cache: Open, clock: Clock
) -> None:
    leased, pinned, _ = leased_and_pinned(cache)
    damage_index(cache, "header")
    again = open_cache()
    assert (again.recovery.pins, again.recovery.leases) == (0, 0)
    clock.turn(0.5)
    assert again.gc().snapshots == (), "somebody may be using them: their time starts anew"
    assert {found.id for found in again.snapshots()} == {leased.id, pinned.id}


def test_leases_of_another_boot_are_not_brought_back(cache: Cache, open_cache: Open, clock: Clock) -> None:
    leased_and_pinned(cache)
    cache.close()
    with sqlite3.connect(cache.layout.index) as rows:
        rows.execute("PRAGMA user_version = 1")
    rows.close()
    clock.reboot()
    again = open_cache()
    assert again.recovery.pins == 1 and again.leases() == []


def test_odd_rows_of_an_old_index_are_left_out(cache: Cache, open_cache: Open) -> None:
    leased, _, lease_id = leased_and_pinned(cache)
    cache.close()
    with sqlite3.connect(cache.layout.index) as rows:
        rows.execute("PRAGMA foreign_keys = OFF")
        rows.execute("INSERT INTO pins VALUES ('odd', 'no key', 1, NULL)")
        rows.execute("INSERT INTO pins VALUES (x'00', ?, 1, NULL)", ("a" * 64,))
        for odd, kind, expires in (("x", "timed", 1.0), ("b" * 32, "process", None), ("c" * 32, "timed", "soon")):
            rows.execute(
                "INSERT INTO leases (id, kind, created_at, expires_at, ends_boot_s, boot_id, owner_id)"
                " VALUES (?, ?, 1.0, ?, 1.0, 'boot', 'nobody')",
                (odd, kind, expires),
            )
            rows.execute("INSERT INTO lease_snapshots VALUES (?, ?)", (odd, leased.id))
        rows.execute("PRAGMA user_version = 1")
    rows.close()
    again = open_cache()
    assert (again.recovery.pins, again.recovery.leases) == (1, 1)
    assert [lease.id for lease in again.leases()] == [lease_id]


def test_a_new_cache_has_nothing_to_tell(cache: Cache) -> None:
    assert str(cache.recovery) == ""


def test_a_lost_index_is_told(cache: Cache, open_cache: Open) -> None:
    publish(cache, "m", CONTENTS)
    lose_index(cache)
    text = str(open_cache().recovery)
    assert text.startswith("the index was missing and was made anew") and "leases and pins are lost" in text
    assert str(open_cache().recovery) == "", "once"


def test_a_leased_damaged_directory_stays_for_its_job(cache: Cache, open_cache: Open, clock: Clock) -> None:
    """It has no sidecar, and nobody but its row tells that somebody uses it."""
    snapshot = publish(cache, "m", CONTENTS)
    lease = cache.lease_timed([snapshot.id], 100_000.0)
    (snapshot.path / "deep" / "small").unlink()
    report = verify(cache, None, subject="all", dry_run=False, rate_bytes_per_s=None, emit=None, on_damage=None,
                    stopped=lambda: False)  # fmt: skip
    assert not report.sound and not cache.layout.sidecar(snapshot.id).exists()
    age_index(cache)
    again = open_cache()
    assert again.recovery.refused == () and [known.id for known in again.leases()] == [lease.id]
    clock.turn(again.settings.gc_grace_s + 1)
    again.gc()
    again.gc(at_once=True)
    assert tree_on_disk(snapshot.path) == {"big": BIG}
    assert again.lookup(key_of("m"), None) is None
    again.lease_release(lease.id)
    clock.turn(86_400)
    collect_twice(again, clock)
    assert not snapshot.path.exists()


def test_an_index_is_not_made_anew_at_the_price_of_the_old_one(
    cache: Cache, open_cache: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No space for a new one: the old one is there still, with its pins, for the next try."""
    leased_and_pinned(cache)
    age_index(cache)
    with monkeypatch.context() as patch:
        patch.setattr(recovery, "adopt_blobs", lambda *_: (_ for _ in ()).throw(NoSpaceError("full")))
        with pytest.raises(NoSpaceError):
            open_cache()
    again = open_cache()
    assert (again.recovery.pins, again.recovery.leases) == (1, 1)


# --- who has the old one open ----------------------------------------------------------------------------------------


def outdate(cache: Cache) -> None:
    """The package is updated beside a process that goes on."""
    rows = sqlite3.connect(cache.layout.index)
    rows.execute("PRAGMA user_version = 1")
    rows.close()


def remove_index(cache: Cache) -> None:
    for path in cache.layout.state_dir.glob("index-v1.sqlite*"):
        path.unlink()


@pytest.mark.parametrize("change", [outdate, remove_index])
@pytest.mark.parametrize("read_only", [False, True])
def test_whoever_has_the_old_index_open_is_told(
    cache: Cache, open_cache: Open, change: Callable[[Cache], None], read_only: bool
) -> None:
    """What he leased from now on would be known to nobody."""
    leased, pinned, lease_id = leased_and_pinned(cache)
    old = open_cache(read_only=True) if read_only else cache
    assert old.lookup(key_of("leased"), None) == leased
    change(cache)
    again = open_cache()
    assert set(again.recovery.adopted) == {leased.id, pinned.id}
    asks: list[Callable[[], object]] = [lambda: old.lookup(key_of("leased"), None), old.leases]
    if not read_only:
        asks += [lambda: old.lease_timed([leased.id], 100.0), lambda: publish(old, "new", {"f": b"new"}), old.gc]
    for ask in asks:
        with pytest.raises(CacheError, match="made anew by another process") as caught:
            ask()
        assert "start it again" in (caught.value.hint or "")
    mine = again.lease_timed([pinned.id], 100.0)
    old.close()
    cache.close()
    known = {lease.id for lease in open_cache().leases()}
    assert known == ({lease_id, mine.id} if change is outdate else {mine.id}), "he takes nothing with him as he goes"
    assert again.index_is_sound()
    assert_sound(again)


@pytest.mark.parametrize("kind", ["timed", "process"])
def test_what_was_leased_before_can_be_given_back_after(cache: Cache, open_cache: Open, kind: str) -> None:
    """In the new index, where the lease is now."""
    snapshot = publish(cache, "m", CONTENTS)
    taken = cache.lease_timed([snapshot.id], 100.0) if kind == "timed" else cache.lease_process([snapshot.id])
    copy = cache.copy_adopt(cache.copy_stage(snapshot.id), taken.id, 0)
    outdate(cache)
    again = open_cache()
    assert [lease.id for lease in again.leases()] == [taken.id] and copy.exists()
    cache.lease_release(taken.id)
    assert again.leases() == [] and not copy.exists()
    with pytest.raises(LeaseError, match="no lease"):
        cache.lease_release(taken.id)


@pytest.mark.parametrize("now", ["of a later version", "removed", "no database"])
def test_what_can_not_be_given_back_leaves_no_copy(cache: Cache, open_cache: Open, now: str) -> None:
    """Nobody may write to the index that has the name now; the lease has its end there, or its process."""
    snapshot = publish(cache, "m", CONTENTS)
    taken = cache.lease_timed([snapshot.id], 100.0)
    copy = cache.copy_adopt(cache.copy_stage(snapshot.id), taken.id, 0)
    outdate(cache)
    open_cache().close()
    if now == "of a later version":
        rows = sqlite3.connect(cache.layout.index)
        rows.execute(f"PRAGMA user_version = {SCHEMA_VERSION + 1}")
        rows.close()
    else:
        remove_index(cache)
    if now == "no database":
        cache.layout.index.write_bytes(b"this is no database" * 1000)
    before = cache.layout.index.read_bytes() if now != "removed" else None
    with pytest.raises(ReplacedError, match="made anew by another process"):
        cache.lease_release(taken.id)
    assert not copy.exists()
    assert (cache.layout.index.read_bytes() if now != "removed" else None) == before


def test_nobody_writes_to_an_index_while_it_is_replaced(
    cache: Cache, open_cache: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    """He waits, and is told; a lease that is given is a lease."""
    leased, _, lease_id = leased_and_pinned(cache)
    outdate(cache)
    given: list[str] = []
    told: list[CacheError] = []

    def lease() -> None:
        try:
            given.append(cache.lease_timed([leased.id], 100.0).id)
        except CacheError as error:
            told.append(error)

    beside = threading.Thread(target=lease)
    real = index.replace

    def replace(*arguments: Any) -> Any:
        beside.start()
        beside.join(0.5)  # he has had his chance
        return real(*arguments)

    monkeypatch.setattr(index, "replace", replace)
    try:
        again = open_cache()
    finally:
        if beside.ident is not None:
            beside.join()
    assert ([error.message.partition(" was ")[2] for error in told], given) == (
        ["made anew by another process, or removed"],
        [],
    )
    assert [found.id for found in again.leases()] == [lease_id]


def test_an_old_index_in_which_somebody_is_frozen_is_not_replaced(
    cache: Cache, open_cache: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    leased_and_pinned(cache)
    outdate(cache)
    monkeypatch.setattr(index, "BUSY_TIMEOUT_S", 0.05)
    with cache.index.write(durable=False):
        with pytest.raises(CacheError, match="locked") as caught:
            open_cache()
        assert "frozen" in (caught.value.hint or "")
    assert open_cache().recovery.leases == 1


# --- snapshots without their JSON ------------------------------------------------------------------------------------


def test_a_directory_without_its_sidecar_goes_in_two_phases(cache: Cache, open_cache: Open, clock: Clock) -> None:
    snapshot = publish(cache, "m", CONTENTS)
    other = publish(cache, "other", {"f": b"other"})
    cache.layout.sidecar(snapshot.id).unlink()
    lose_index(cache)
    again = open_cache()
    assert again.recovery.refused == (snapshot.id,)
    assert not snapshot.path.exists() and again.lookup(key_of("m"), None) is None
    condemned = [path for path in again.layout.snapshots.iterdir() if path.name.startswith(".condemned-")]
    assert [tree_on_disk(path) for path in condemned] == [CONTENTS], "who has mounted it reads on"
    collect_twice(again, clock)
    collect_twice(again, clock)
    assert tree_on_disk(other.path) == {"f": b"other"}
    left = [name for name in files_below(again) if not name.startswith(("owners", f"snapshots-v1/{other.id}"))]
    assert len(left) == 1 and left[0].startswith("blobs-v1/")


def test_looking_renames_nothing(cache: Cache, open_cache: Open) -> None:
    snapshot = publish(cache, "m", CONTENTS)
    cache.layout.sidecar(snapshot.id).unlink()
    lose_index(cache)
    assert open_cache(read_only=True).recovery.refused == (snapshot.id,)
    assert snapshot.path.is_dir()


# --- blobs without a row ---------------------------------------------------------------------------------------------


@pytest.mark.needs("native")
@pytest.mark.parametrize("lost", ["row", "index"])
@pytest.mark.parametrize("principal", [None, "alice"])
def test_a_body_whose_tree_proves_it_is_adopted_for_whom_it_was_fetched(
    cache: Cache, open_cache: Open, lost: str, principal: str | None
) -> None:
    blob = put_large(cache, BIG, private=principal is not None, principal=principal)
    if lost == "row":
        with cache.index.write(durable=True) as rows:
            rows.execute("DELETE FROM blobs")
        assert blob_with(cache, sha256(BIG), len(BIG), principal=principal) is None
        cache.gc()
        again = cache
    else:
        lose_index(cache)
        again = open_cache()
        assert again.recovery.blobs == 1
    assert blob_of(again, blob.root) == blob
    content = head_of(BIG, private=principal is not None, principal=principal).content_id
    assert blob_of_content(again, content, None, len(BIG), principal=principal) == blob
    for asker in (None, "alice", "bob"):
        may = principal is None or asker == principal
        assert (blob_with(again, sha256(BIG), len(BIG), principal=asker) is not None) == may


@pytest.mark.needs("native")
def test_a_crash_between_name_and_row_costs_no_download(place: Path, clock: Clock) -> None:
    """The process is gone where the body has its name and the index does not know it."""
    with child("crash-at", place, "blob:names-durable") as process:
        assert process.wait() == 9
    with Cache.open(settings(place), clock=clock) as cache:
        assert blob_with(cache, sha256(BIG), len(BIG), principal=None) is None
        cache.gc()
        found = blob_with(cache, sha256(BIG), len(BIG), principal=None)
        assert found is not None and found.path.read_bytes() == BIG
        assert_sound(cache)


def spoil(layout: Layout, root: str, how: str) -> None:
    place = layout.tree(root)
    tree = TreeFile.decode(place.read_bytes())
    values = {name: getattr(tree, name) for name in TreeFile.__dataclass_fields__}
    body = layout.blob(root)
    if how == "cut":
        os.chmod(body, 0o644)
        os.truncate(body, tree.size - 1)
        return
    if how == "values":
        values["chaining_values"] = bytes(32) + tree.chaining_values[32:]
    elif how == "size":
        values["size"] = tree.size + MIB
        values["chaining_values"] += bytes(32)
    elif how == "scope":
        values["scope"] = None
    elif how == "content":
        values["content_id"] = "../../etc/passwd"
    elif how == "root":
        values["root"] = "0" * 64
    elif how == "plain":
        values["block_bytes"], values["chaining_values"] = 0, b""
    place.unlink()
    place.write_bytes(b"rubbish" if how == "rubbish" else TreeFile(**values).encode())


@pytest.mark.needs("native")
@pytest.mark.parametrize("how", ["cut", "values", "size", "scope", "content", "root", "plain", "rubbish"])
def test_what_does_not_prove_itself_is_swept(cache: Cache, open_cache: Open, clock: Clock, how: str) -> None:
    blob = put_large(cache, BIG)
    spoil(cache.layout, blob.root, how)
    lose_index(cache)
    again = open_cache()
    assert again.recovery.blobs == 0 and blob_of(again, blob.root) is None
    again.gc()
    assert blob_of(again, blob.root) is None and blob.path.exists(), "its grace: somebody may be about to name it"
    clock.turn(again.settings.gc_grace_s + 60)
    again.gc()
    assert [name for name in files_below(again) if not name.startswith("owners")] == []


def test_a_small_body_without_a_row_is_swept(cache: Cache, open_cache: Open, clock: Clock) -> None:
    """It has no tree that could tell for whom it is."""
    put_small(cache, b"small")
    lose_index(cache)
    again = open_cache()
    assert again.recovery.blobs == 0
    clock.turn(again.settings.gc_grace_s + 60)
    again.gc()
    assert [name for name in files_below(again) if not name.startswith("owners")] == []


@pytest.mark.needs("native")
def test_an_adopted_body_that_nobody_asks_for_goes_after_the_grace(
    cache: Cache, open_cache: Open, clock: Clock
) -> None:
    put_large(cache, BIG)
    lose_index(cache)
    again = open_cache()
    clock.turn(again.settings.gc_grace_s - 1)
    assert again.gc().blobs == 0
    clock.turn(2)
    assert again.gc().blobs == 1
    assert [name for name in files_below(again) if not name.startswith("owners")] == []


# --- crashes of the recovery itself ----------------------------------------------------------------------------------


def test_recovery_may_be_killed_at_any_point(tmp_path: Path, clock: Clock) -> None:
    """A process is gone at the n-th change of the disk while it makes the index anew; the next one finds all of it."""
    for count in range(0, 200, 3):
        place = tmp_path / str(count)
        with Cache.open(settings(place), clock=clock) as cache:
            snapshot = publish(cache, "m", CONTENTS)
            cache.pin("p", key_of("m"))
            lease = cache.lease_timed([snapshot.id], 1000.0)
        age_index(cache)
        with child("crash-opening", place, str(count)) as process:
            status = process.wait()
        assert status in (0, 9)
        with Cache.open(settings(place), clock=clock) as again:
            assert [found.id for found in again.snapshots()] == [snapshot.id]
            assert [pin.name for pin in again.pins()] == ["p"], count
            assert [known.id for known in again.leases()] == [lease.id]
            assert tree_on_disk(snapshot.path) == CONTENTS
            assert_sound(again)
        if status == 0:
            break
    else:
        raise AssertionError("it never got through")


# --- the marks themselves --------------------------------------------------------------------------------------------


def test_the_steps_are_taken_in_the_order_of_the_format(cache: Cache, clock: Clock) -> None:
    seen: list[steps.Step] = []
    steps.listen(seen.append)
    try:
        snapshot = publish(cache, "m", {"big": BIG, "small": b"small"})
        cache.remove([snapshot.id])
    finally:
        steps.listen(None)
    blob = [step for step in steps.STEPS if step.startswith("blob:")]
    small = [step for step in steps.STEPS if step.startswith("small:")]
    named = [step for step in steps.STEPS if step.startswith("snapshot:")]
    removal = [step for step in steps.STEPS if step.startswith("removal:")]
    twice = removal.index("removal:blob-condemned")
    assert seen == [*blob, *small, *named, *removal[:twice], removal[twice], *removal[twice:]]


@pytest.mark.parametrize("step", steps.STEPS)
def test_a_process_may_be_gone_after_each_step(place: Path, clock: Clock, step: str) -> None:
    command = "crash-removing-at" if step.startswith("removal:") else "crash-at"
    if command == "crash-removing-at":
        with Cache.open(settings(place), clock=clock) as cache:
            publish(cache, "m", CONTENTS)
    with child(command, place, step) as process:
        assert process.wait() == 9, "it did not come by"
    with Cache.open(settings(place), clock=clock) as cache:
        assert_sound(cache)
        if step == "snapshot:rows":
            assert cache.lookup(key_of("m"), None) is not None
        again = publish(cache, "m", CONTENTS)
        assert tree_on_disk(again.path) == CONTENTS
        cache.remove([again.id])
        clock.turn(10 * 86_400)
        collect_twice(cache, clock)
        collect_twice(cache, clock)
        assert files_below(cache) == [f"owners-v1/{cache.owner.id}"]
