"""Private copies: a job may write to its own, nothing it writes is seen by anybody else, and its end is the lease's."""

from __future__ import annotations

import hashlib
import os
import shutil
import signal
import stat
import subprocess
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest

from fetcher.cache import due, durable
from fetcher.cache.records import GoneError, Snapshot
from fetcher.cache.recovery import COPY_LEASE_S
from fetcher.cache.store import Cache
from fetcher.errors import CacheError, InternalError, InterruptedByUser, LeaseError, NoSpaceError
from tests.cache.world import (
    MIB,
    Clock,
    assert_sound,
    child,
    paint,
    publish,
    settings,
    tell,
    told,
    tree_on_disk,
)

CONTENTS = {
    "a/b/large": paint(2 * MIB + 3),
    "a/b/other": b"other",
    "a/c": b"c",
    "a.txt": b"text",
    "empty": b"",
    "deep/" * 9 + "empty": b"",
    "Größe, mit\u3000Leerraum": b"name",
}
DAY_S = 86_400.0


def adopted(cache: Cache, snapshot: Snapshot, number: int = 0, lease_id: str | None = None) -> Path:
    """A copy as a job gets it; without a lease given, it has one of 100 s of its own."""
    taken = lease_id or cache.lease_timed([snapshot.id], 100.0).id
    return cache.copy_adopt(cache.copy_stage(snapshot.id), taken, number)


def names(cache: Cache) -> list[str]:
    return sorted(os.listdir(cache.layout.writable))


def hashes(directory: Path) -> dict[str, str]:
    return {name: hashlib.sha256(data).hexdigest() for name, data in tree_on_disk(directory).items()}


@pytest.fixture
def snapshot(cache: Cache) -> Snapshot:
    return publish(cache, "m", CONTENTS)


# --- making ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("umask", [0o022, 0o077, 0o777])
def test_a_copy_is_whole_and_open_to_all_who_reach_it(cache: Cache, snapshot: Snapshot, umask: int) -> None:
    before = os.umask(umask)
    try:
        staged = cache.copy_stage(snapshot.id)
    finally:
        os.umask(before)
    assert staged.name.startswith(".staging-copy.") and staged.parent == cache.layout.writable
    lease = cache.lease_timed([snapshot.id], 100.0)
    copy = cache.copy_adopt(staged, lease.id, 3)
    assert copy == cache.layout.cache_dir / "writable-v1" / f"{lease.id}.3"
    assert names(cache) == [copy.name]
    assert tree_on_disk(copy) == CONTENTS
    for path in (copy, *copy.rglob("*")):
        assert stat.S_IMODE(path.stat().st_mode) == (0o777 if path.is_dir() else 0o666), path
        if path.is_file():
            assert path.stat().st_nlink == 1, "never a hard link"


@pytest.mark.parametrize("reflinks", [True, False])
def test_what_is_written_reaches_neither_snapshot_nor_blob(
    cache: Cache, snapshot: Snapshot, monkeypatch: pytest.MonkeyPatch, reflinks: bool
) -> None:
    if not reflinks:  # the file system may have them, and then the copy is never tried
        monkeypatch.setattr(durable, "reflink", lambda target, source: False)
    originals = hashes(snapshot.path), hashes(cache.layout.blobs)
    one, two = adopted(cache, snapshot), adopted(cache, snapshot)
    with (one / "a/b/large").open("r+b") as file:
        file.write(b"overwritten")
        file.seek(0, os.SEEK_END)
        file.write(b"and longer")
    (one / "a/c").write_bytes(b"")
    (one / "a.txt").unlink()
    (one / "a/b/other").rename(one / "moved")
    (one / "a/b/new").write_bytes(b"new")
    assert (hashes(snapshot.path), hashes(cache.layout.blobs)) == originals
    assert tree_on_disk(two) == CONTENTS, "nor another job's copy"
    assert_sound(cache)


@pytest.mark.needs("root")
def test_any_user_may_write(cache: Cache, snapshot: Snapshot) -> None:
    """As an ordinary user who was put there, as a container's mount puts him: on his own he can't get there."""
    copy = adopted(cache, snapshot)
    script = (
        "echo more >>a.txt && echo new >a/new && rm a/b/other && mkdir -p a/b/x/y && mv a/c a/b/x/y/c"
        " && cat a/b/x/y/c && ! cat $0/a.txt 2>/dev/null"
    )
    answer = subprocess.run(
        ["sh", "-c", script, str(copy)],
        cwd=copy,
        user=1234,
        group=1234,
        extra_groups=[],
        capture_output=True,
        check=False,
    )
    assert (answer.returncode, answer.stdout) == (0, b"c"), answer.stderr
    changed = tree_on_disk(copy)
    assert (changed["a.txt"], changed["a/new"], changed["a/b/x/y/c"]) == (b"textmore\n", b"new\n", b"c")
    assert "a/b/other" not in changed and (copy / "a/new").stat().st_uid == 1234
    assert tree_on_disk(snapshot.path) == CONTENTS


def test_several_copies_of_one_lease(cache: Cache, snapshot: Snapshot) -> None:
    other = publish(cache, "n", {"f": b"n"})
    lease = cache.lease_timed([snapshot.id, other.id], 100.0)
    copies = [adopted(cache, which, number, lease.id) for number, which in enumerate((snapshot, other, other))]
    stays = adopted(cache, other)
    assert [tree_on_disk(copy) for copy in copies] == [CONTENTS, {"f": b"n"}, {"f": b"n"}]
    assert cache.usage().copies == 4
    cache.lease_release(lease.id)
    assert names(cache) == [stays.name]


def test_an_empty_snapshot(cache: Cache) -> None:
    assert list(adopted(cache, publish(cache, "nothing", {})).iterdir()) == []


@pytest.fixture
def reflinking(tmp_path: Path) -> Iterator[Path]:
    """A file system that shares extents."""
    image, directory = tmp_path / "image", tmp_path / "disk"
    directory.mkdir()
    with image.open("wb") as file:
        file.truncate(128 * MIB)
    subprocess.run(["mkfs.btrfs", "-q", str(image)], check=True, capture_output=True)
    subprocess.run(["mount", "-o", "loop", str(image), str(directory)], check=True)
    try:
        yield directory
    finally:
        subprocess.run(["umount", str(directory)], check=True)


@pytest.mark.needs("root", "debian:mkfs.btrfs")
def test_extents_are_shared_where_they_can_be(reflinking: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with Cache.open(settings(reflinking / "cache")) as cache:
        snapshot = publish(cache, "m", CONTENTS)
        with monkeypatch.context() as patch:
            patch.setattr(durable, "copy_into", lambda *_, **__: pytest.fail("copied"))
            copy = adopted(cache, snapshot)
        assert tree_on_disk(copy) == CONTENTS
        with (copy / "a/b/large").open("r+b") as file:
            file.write(b"overwritten")
        assert tree_on_disk(snapshot.path) == CONTENTS
        assert_sound(cache)
        cache.lease_release(cache.leases()[0].id)
        assert names(cache) == []


# --- nothing stays of what failed ------------------------------------------------------------------------------------


def test_a_snapshot_that_is_gone(cache: Cache, snapshot: Snapshot) -> None:
    cache.remove([snapshot.id])
    with pytest.raises(GoneError) as caught:
        cache.copy_stage(snapshot.id)
    assert caught.value.ids == (snapshot.id,) and caught.value.retryable


def test_a_snapshot_that_goes_meanwhile(cache: Cache, snapshot: Snapshot) -> None:
    looks = 0

    def removes_it() -> bool:
        nonlocal looks
        looks += 1
        if looks == 3:
            cache.remove([snapshot.id])
        return False

    with pytest.raises(GoneError):
        cache.copy_stage(snapshot.id, stopped=removes_it)
    assert looks == 3 and names(cache) == []


@pytest.mark.parametrize("damage", ["missing", "shorter", "a link", "no list", "a list that leads out"])
def test_a_damaged_snapshot(cache: Cache, snapshot: Snapshot, damage: str) -> None:
    place, sidecar = snapshot.path / "a/c", cache.layout.sidecar(snapshot.id)
    if damage == "no list":
        sidecar.unlink()
    elif damage == "a list that leads out":
        sidecar.write_text(sidecar.read_text().replace('"a/c"', '"../../../c"'))
    else:
        place.unlink()
        if damage == "shorter":
            place.write_bytes(b"")
        elif damage == "a link":
            place.symlink_to("b/other")
    with pytest.raises(CacheError) as caught:
        cache.copy_stage(snapshot.id)
    assert not isinstance(caught.value, GoneError) and str(cache.layout.snapshots) in str(caught.value)
    assert names(cache) == []


@pytest.mark.parametrize("looks", [0, 1, 4, 30])
def test_given_up(cache: Cache, snapshot: Snapshot, monkeypatch: pytest.MonkeyPatch, looks: int) -> None:
    """Before the first file, between two, and in the middle of a large one."""
    monkeypatch.setattr(durable, "reflink", lambda target, source: False)
    monkeypatch.setattr(durable, "copy_into", partial(durable.copy_into, step_bytes=50_000))
    answers = iter([False] * looks)
    with pytest.raises(InterruptedByUser):
        cache.copy_stage(snapshot.id, stopped=lambda: next(answers, True))
    assert names(cache) == []


@pytest.mark.needs("root")
def test_no_space_in_the_middle(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", str(disk)], check=True)
    try:
        with Cache.open(settings(disk / "cache")) as cache:
            snapshot = publish(cache, "m", {"a": paint(MIB), "b": paint(3 * MIB)})
            free = cache.space().free_bytes
            assert MIB < free < 4 * MIB
            with pytest.raises(NoSpaceError) as caught:
                cache.copy_stage(snapshot.id)
            assert caught.value.hint and names(cache) == []
            assert cache.space().free_bytes == free
            assert_sound(cache)
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def test_one_who_only_looks_makes_none(cache: Cache, snapshot: Snapshot, open_cache: Callable[..., Cache]) -> None:
    with pytest.raises(InternalError):
        open_cache(read_only=True).copy_stage(snapshot.id)


# --- names -----------------------------------------------------------------------------------------------------------


def test_a_lease_that_has_ended_gets_none(cache: Cache, snapshot: Snapshot) -> None:
    lease = cache.lease_timed([snapshot.id], 100.0)
    staged = cache.copy_stage(snapshot.id)
    cache.lease_release(lease.id)
    with pytest.raises(LeaseError):
        cache.copy_adopt(staged, lease.id, 0)
    assert names(cache) == [staged.name], "the caller's to discard"
    cache.copy_discard(staged)
    cache.copy_discard(staged)
    assert names(cache) == []


def test_a_copy_in_the_way_is_not_replaced(cache: Cache, snapshot: Snapshot) -> None:
    lease = cache.lease_timed([snapshot.id], 100.0)
    copy = adopted(cache, snapshot, 0, lease.id)
    shutil.rmtree(copy)
    copy.mkdir()  # rename(2) would replace it
    staged = cache.copy_stage(snapshot.id)
    with pytest.raises(InternalError):
        cache.copy_adopt(staged, lease.id, 0)
    assert list(copy.iterdir()) == [] and tree_on_disk(staged) == CONTENTS


def test_only_copies_are_adopted_and_discarded(cache: Cache, snapshot: Snapshot, tmp_path: Path) -> None:
    lease = cache.lease_timed([snapshot.id], 100.0)
    (tmp_path / ".staging-copy").mkdir()
    for path in (
        snapshot.path,
        tmp_path / ".staging-copy",
        cache.layout.writable,
        cache.layout.writable / "x/.staging-",
    ):
        with pytest.raises(InternalError):
            cache.copy_discard(path)
        with pytest.raises(InternalError):
            cache.copy_adopt(path, lease.id, 0)
    for lease_id, number in (("../" + "0" * 29, 0), (lease.id, -1)):
        with pytest.raises(CacheError):
            cache.copy_adopt(cache.copy_stage(snapshot.id), lease_id, number)
    assert tree_on_disk(snapshot.path) == CONTENTS and (tmp_path / ".staging-copy").is_dir()


# --- the end ---------------------------------------------------------------------------------------------------------


def bytes_of(directory: Path) -> int:
    """What its bodies take."""
    return sum(path.lstat().st_blocks * 512 for path in directory.rglob("*") if not path.is_dir())


@pytest.mark.parametrize("by", ["release", "gc", "tidy", "prune"])
def test_a_copy_ends_with_its_lease(cache: Cache, snapshot: Snapshot, clock: Clock, by: str) -> None:
    stays = adopted(cache, snapshot, 0, cache.lease_timed([snapshot.id], 1000.0).id)
    lease = cache.lease_timed([snapshot.id], 100.0)
    copy = adopted(cache, snapshot, 0, lease.id)
    (copy / "written").write_bytes(paint(MIB))
    size = bytes_of(copy)
    clock.turn(99)
    assert cache.gc().copies == 0 and copy.is_dir()
    assert cache.tidy() is None, "nothing is due"
    if by == "release":
        cache.lease_release(lease.id)
    else:
        clock.turn(1)
        would = cache.gc(dry_run=True)
        assert would.copies == 1 and size <= would.bytes_freed < size + MIB and copy.is_dir()
        plan = cache.prune_plan()
        report = {"gc": cache.gc, "tidy": cache.tidy, "prune": plan.execute}[by]()
        assert report is not None
        assert (report.copies, report.leases_ended, report.bytes_freed, report.leftovers) == (1, 1, size, 0)
    assert names(cache) == [stays.name]
    assert tree_on_disk(stays) == tree_on_disk(snapshot.path) == CONTENTS


@pytest.mark.parametrize("end", ["release", "kill", "close"])
def test_a_process_lease(cache: Cache, snapshot: Snapshot, place: Path, end: str) -> None:
    with child("lease-copy", place, "m") as actor:
        fact = told(actor)
        copy = Path(fact["path"])
        assert cache.gc().copies == 0 and tree_on_disk(copy) == CONTENTS
        if end == "release":
            tell(actor, "release")
            assert told(actor)["left"] == []
        elif end == "kill":
            actor.send_signal(signal.SIGKILL)
        else:
            tell(actor, "")
        if end != "release":
            actor.wait()
            assert copy.is_dir()
            assert cache.tidy() is not None
    assert names(cache) == []


@pytest.mark.parametrize("gone", ["process", "boot"])
def test_a_timed_lease_that_ends_with_a_process(cache: Cache, snapshot: Snapshot, gone: str) -> None:
    with subprocess.Popen(["sleep", "60"]) as process:
        lease = cache.lease_timed([snapshot.id], 1000.0, owner_pid=process.pid)
        adopted(cache, snapshot, 0, lease.id)
        assert cache.gc().copies == 0
        if gone == "boot":
            with cache.index.write(durable=False) as rows:
                (birth,) = rows.execute("SELECT owner_pid_birth FROM leases").fetchone()
                rows.execute("UPDATE leases SET owner_pid_birth = ?", (f"another:{birth.partition(':')[2]}",))
            assert cache.gc().copies == 1
        process.kill()
    if gone == "process":
        assert cache.gc().copies == 1
    assert names(cache) == []


def test_the_copy_of_a_living_lease_is_never_removed(cache: Cache, snapshot: Snapshot, clock: Clock) -> None:
    copy = adopted(cache, snapshot, 0, cache.lease_timed([snapshot.id], 100 * DAY_S).id)
    clock.turn(10 * DAY_S)
    with pytest.raises(LeaseError):
        cache.remove([snapshot.id])
    assert cache.prune_plan(max_bytes=0).execute().snapshots == (), "the lease keeps what was copied, too"
    cache.reserve(0, evict=[snapshot.id]).release()
    cache.remove([snapshot.id], force=True)
    cache.gc()
    assert cache.snapshots() == [] and tree_on_disk(copy) == CONTENTS
    clock.turn(90 * DAY_S)
    assert cache.gc().copies == 1 and names(cache) == []


def test_killed_before_it_is_anybodys(cache: Cache, snapshot: Snapshot, place: Path) -> None:
    with child("copy", place, "m") as actor:
        staged = Path(told(actor)["path"])
        assert cache.gc().leftovers == 0 and tree_on_disk(staged) == CONTENTS, "its maker lives"
        size = bytes_of(staged)
        actor.send_signal(signal.SIGKILL)
        actor.wait()
    assert staged.is_dir()
    report = cache.gc()
    assert report.leftovers == 2, "it, and its maker's sign of life"
    assert (report.copies, report.bytes_freed) == (0, size)
    assert names(cache) == []


def test_killed_between_the_end_of_a_lease_and_its_copy(cache: Cache, snapshot: Snapshot) -> None:
    adopted(cache, snapshot)
    with cache.index.write(durable=False) as rows:
        rows.execute("DELETE FROM leases")
    assert cache.gc(dry_run=True).copies == 1
    assert cache.gc().copies == 1 and names(cache) == []


def test_killed_while_one_is_removed(cache: Cache, snapshot: Snapshot) -> None:
    os.rename(adopted(cache, snapshot), cache.layout.writable / ".trash-1")
    assert cache.gc().leftovers == 1 and names(cache) == []


def test_names_that_are_not_ours_stay(cache: Cache, snapshot: Snapshot, clock: Clock) -> None:
    (cache.layout.writable / "mine").mkdir()
    (cache.layout.writable / ("0" * 32)).mkdir()
    clock.turn(10 * DAY_S)
    cache.gc()
    assert names(cache) == ["0" * 32, "mine"]


def test_a_lost_index_takes_no_copy_away(place: Path, clock: Clock) -> None:
    """Whose lease is forgotten may still be at work; the same id ends it."""
    with Cache.open(settings(place), clock=clock) as cache:
        snapshot = publish(cache, "m", CONTENTS)
        lease = cache.lease_timed([snapshot.id], 100.0)
        copies = [adopted(cache, snapshot, number, lease.id) for number in range(2)]
        other = adopted(cache, snapshot)
    for path in place.glob("index-v1.sqlite*"):
        path.unlink()
    with Cache.open(settings(place), clock=clock) as cache:
        clock.turn(COPY_LEASE_S - 1)
        assert cache.gc().copies == 0
        assert {tree_on_disk(copy) == CONTENTS for copy in (*copies, other)} == {True}
        cache.lease_release(lease.id)
        assert names(cache) == [other.name]
        clock.turn(1)
        assert cache.gc().copies == 1 and names(cache) == []


# --- the directory ---------------------------------------------------------------------------------------------------


def test_usage(cache: Cache, snapshot: Snapshot) -> None:
    before = cache.usage()
    copy = adopted(cache, snapshot)
    (copy / "written").write_bytes(paint(MIB))
    (copy / "twice").hardlink_to(copy / "written")
    (copy / "link").symlink_to("/")
    usage = cache.usage()
    answer = subprocess.run(["du", "-s", "--block-size=1", cache.layout.writable], capture_output=True, check=True)
    assert usage.copy_bytes == int(answer.stdout.split()[0]) - cache.layout.writable.stat().st_blocks * 512
    assert (usage.copies, before.copies, before.copy_bytes) == (1, 0, 0)
    assert usage.cache_bytes - before.cache_bytes == usage.copy_bytes + usage.index_bytes - before.index_bytes
    assert (usage.blob_bytes, usage.snapshot_bytes) == (before.blob_bytes, before.snapshot_bytes)


def test_a_cache_made_before_there_were_copies(place: Path, open_cache: Callable[..., Cache]) -> None:
    with Cache.open(settings(place)) as cache:
        snapshot = publish(cache, "m", CONTENTS)
    (place / "writable-v1").rmdir()
    looking = open_cache(read_only=True)
    assert looking.usage().copies == looking.usage().copy_bytes == 0
    assert looking.gc(dry_run=True).copies == 0 and not (place / "writable-v1").exists()
    cache = open_cache()
    assert tree_on_disk(adopted(cache, snapshot)) == CONTENTS


def test_a_directory_that_went_while_we_run(cache: Cache, snapshot: Snapshot) -> None:
    lease = cache.lease_timed([snapshot.id], 100.0)
    cache.layout.writable.rmdir()
    with pytest.raises(CacheError):
        cache.copy_stage(snapshot.id)
    assert cache.gc().copies == 0
    cache.lease_release(lease.id)


@pytest.mark.parametrize("group", [None, os.getegid()])
def test_other_users_of_the_host_do_not_get_there(place: Path, group: int | None) -> None:
    """Nor does the cache's group: a file that a container's root made setuid would be root's for whoever runs it."""
    with Cache.open(settings(place, cache_group=group)) as cache:
        assert stat.S_IMODE(cache.layout.writable.stat().st_mode) == 0o700
    (place / "writable-v1").chmod(0o702)
    with pytest.raises(CacheError, match="other users may write"):
        Cache.open(settings(place))


def test_a_symlink_in_its_place_is_refused(place: Path, tmp_path: Path) -> None:
    Cache.open(settings(place)).close()
    (place / "writable-v1").rmdir()
    (place / "writable-v1").symlink_to(tmp_path)
    with pytest.raises(CacheError):
        Cache.open(settings(place))


@pytest.mark.needs("root")
def test_one_that_another_user_made_is_refused(place: Path) -> None:
    Cache.open(settings(place)).close()
    os.chown(place / "writable-v1", 65534, 65534)
    with pytest.raises(CacheError, match="another user"):
        Cache.open(settings(place))


def test_due_is_not_asked_for_ever(cache: Cache, snapshot: Snapshot, clock: Clock) -> None:
    adopted(cache, snapshot)
    clock.turn(due.COLLECT_EVERY_S)
    assert cache.tidy() is not None
    assert cache.tidy() is None
