"""Scrubbing in trouble: no descriptors, no rights, a full disk, a disk that hiccups or is gone, writers, odd files, and
others who publish what is being taken out. What is sound is never lost, and what is damaged goes to nobody."""

from __future__ import annotations

import errno
import gc
import os
import shutil
import threading
import time
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from fetcher import hashing
from fetcher.cache import condemn, durable, leases, scrub, snapshots, survey
from fetcher.cache.damage import Damage
from fetcher.cache.publish import Publisher
from fetcher.cache.records import GoneError, Snapshot
from fetcher.cache.staged import StagedDirectory
from fetcher.cache.store import Cache
from fetcher.cache.survey import UNREADABLE_MAX
from fetcher.engine import verify as engine
from fetcher.errors import CacheError, FetcherError, NoSpaceError
from tests.cache.asking import blob_of
from tests.cache.test_verify import (
    CONTENTS,
    _after_the_scan,
    blocks_or_none,
    change,
    flip,
    hidden,
    needs_tree,
    only,
    root_of,
    served,
    share,
    verify,
)
from tests.cache.world import (
    MIB,
    Clock,
    assert_sound,
    entry,
    files_below,
    key_of,
    many_files_by_os,
    new_snapshot,
    paint,
    publish,
    put,
    tree_on_disk,
)

TWO = {"a": paint(2 * MIB), "b": paint(2 * MIB, 3)}


@pytest.fixture
def snapshot(cache: Cache) -> Snapshot:
    return publish(cache, "m", CONTENTS)


def failing_open(
    monkeypatch: pytest.MonkeyPatch, number: int, wanted: Callable[[str], bool], times: int = 1 << 30
) -> None:
    real, left = os.open, [times]

    def opening(path: Any, flags: int, *more: Any, **options: Any) -> int:
        if wanted(str(path)) and left[0] > 0:
            left[0] -= 1
            raise OSError(number, os.strerror(number), str(path))
        return real(path, flags, *more, **options)

    monkeypatch.setattr(os, "open", opening)


# --- others publish what is being taken out


def test_published_again_between_two_findings(cache: Cache) -> None:
    """With a sound body in place of the damaged one that was found, and the other one, which was not found yet."""
    snapshot = publish(cache, "m", TWO)
    flip(snapshot.path / "a", 0)
    flip(snapshot.path / "b", MIB + 5)
    made: list[Snapshot] = []

    def on_damage(damage: Damage) -> None:
        if not made:
            put(cache, TWO[damage.files[0].path])
            made.append(share(cache, "m", TWO))

    report = verify(cache, on_damage=on_damage)
    assert made[0].id != snapshot.id
    assert {file.snapshot_id for file in report.damage[1].files} == {snapshot.id, made[0].id}
    assert cache.lookup(key_of("m"), None) is None and served(cache) == []
    assert tree_on_disk(publish(cache, "m", TWO).path) == TWO


def test_a_new_one_with_a_damaged_list_does_not_keep_it(cache: Cache, monkeypatch: pytest.MonkeyPatch) -> None:
    snapshot = publish(cache, "m", TWO)
    other = share(cache, "other", TWO)
    flip(snapshot.path / "a", 0)
    cache.layout.sidecar(other.id).write_text("{}")
    report = verify(cache, [snapshot])  # asked about the one, found in the other, whose list can't be asked
    assert {file.snapshot_id for file in only(report).files} == {snapshot.id, other.id}
    assert served(cache) == []


@pytest.mark.parametrize("linked", [True, False])
def test_publishing_does_not_starve(cache: Cache, monkeypatch: pytest.MonkeyPatch, linked: bool) -> None:
    """However much is taken out elsewhere, a directory is made once."""
    filled: list[int] = []
    fill, make_visible = StagedDirectory.fill, Publisher._make_visible

    def counting(self: StagedDirectory, files: Any) -> None:
        filled.append(1)
        fill(self, files)

    def late(self: Publisher, *arguments: Any) -> Any:
        blob = put(cache, b"other %d" % len(filled))
        assert blob is not None
        flip(blob.path, 0)
        assert not verify(cache).sound
        return make_visible(self, *arguments)

    for data in TWO.values():
        put(cache, data)
    monkeypatch.setattr(StagedDirectory, "fill", counting)
    monkeypatch.setattr(Publisher, "_make_visible", late)
    if not linked:

        def refused(source: Any, target: Any, **options: Any) -> None:
            if "dst_dir_fd" in options:
                raise OSError(errno.EPERM, "no links here")
            real(source, target, **options)

        real = os.link
        many_files_by_os(monkeypatch.setattr)
        monkeypatch.setattr(os, "link", refused)
    made = share(cache, "m", TWO)
    assert len(filled) == 1 and tree_on_disk(made.path) == TWO


def test_a_copy_of_a_damaged_body_does_not_appear(cache: Cache, monkeypatch: pytest.MonkeyPatch) -> None:
    blob = put(cache, TWO["a"])
    assert blob is not None
    flip(blob.path, 0)
    real_link, make_visible, done = os.link, Publisher._make_visible, []

    def refused(source: Any, target: Any, **options: Any) -> None:
        if "dst_dir_fd" in options:
            raise OSError(errno.EPERM, "no links here")
        real_link(source, target, **options)

    def late(self: Publisher, *arguments: Any) -> Any:
        if not done:
            done.append(verify(cache))
            put(cache, TWO["a"])  # the name is taken again, by a sound body
        return make_visible(self, *arguments)

    many_files_by_os(monkeypatch.setattr)
    monkeypatch.setattr(os, "link", refused)
    monkeypatch.setattr(Publisher, "_make_visible", late)
    made = cache.publish(new_snapshot("m", {}, 0.0), [(entry("a", TWO["a"]), blob.root, "sha256")])
    assert len(done) == 1 and tree_on_disk(made.path) == {"a": TWO["a"]}


def test_a_body_that_a_flight_finds_damaged_does_not_appear(cache: Cache, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another flight puts its own in place of it, while a directory with the old one is under way."""
    blob = put(cache, TWO["a"])
    assert blob is not None
    flip(blob.path, 0)
    make_visible, done = Publisher._make_visible, []

    def late(self: Publisher, *arguments: Any) -> Any:
        if not done:
            done.append(put(cache, TWO["a"]))
        return make_visible(self, *arguments)

    monkeypatch.setattr(Publisher, "_make_visible", late)
    made = cache.publish(new_snapshot("m", {}, 0.0), [(entry("a", TWO["a"]), blob.root, "sha256")])
    assert tree_on_disk(made.path) == {"a": TWO["a"]}


@pytest.mark.parametrize("edit", ["size", "extra", "sidecar"])
def test_what_was_published_anew_under_the_same_id(
    cache: Cache, snapshot: Snapshot, monkeypatch: pytest.MonkeyPatch, edit: str
) -> None:
    if edit == "size":
        change(snapshot.path / "empty", lambda file: file.write(b"x"))
    elif edit == "extra":
        (snapshot.path / "nested" / "more").mkdir()
    else:
        cache.layout.sidecar(snapshot.id).write_text("")
    done: list[Snapshot] = []

    def again() -> None:
        if not done:
            cache.remove([snapshot.id])
            done.append(publish(cache, "m", CONTENTS))

    _after_the_scan(monkeypatch, cache, again)
    assert verify(cache).sound
    assert done[0].id == snapshot.id and served(cache) == [snapshot.id]


# --- trouble of our own


@pytest.mark.parametrize("number", [errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EACCES])
@pytest.mark.parametrize("what", ["folder", "directory", "sidecar", "body", "tree"])
def test_trouble_of_our_own_is_no_damage(
    cache: Cache, snapshot: Snapshot, monkeypatch: pytest.MonkeyPatch, number: int, what: str
) -> None:
    before = files_below(cache)
    wanted: dict[str, Callable[[str], bool]] = {
        "folder": lambda path: path == "nested",
        "directory": lambda path: path == str(snapshot.path),
        "sidecar": lambda path: path == str(cache.layout.sidecar(snapshot.id)),
        "body": lambda path: path == str(cache.layout.blob(root_of(CONTENTS["big"]))),
        "tree": lambda path: path == str(cache.layout.tree(root_of(CONTENTS["big"]))),
    }
    failing_open(monkeypatch, number, wanted[what])
    if (what, number) == ("tree", errno.EACCES):  # nothing is lost where one that can be read is put in its place
        assert only(verify(cache)).action == "repaired"
    else:
        with pytest.raises(CacheError, match=os.strerror(number)):
            verify(cache)
    monkeypatch.undo()
    assert served(cache) == [snapshot.id] and files_below(cache) == before
    assert verify(cache).sound


def test_real_shortage_of_descriptors(cache: Cache, snapshot: Snapshot) -> None:
    """With any number of free descriptors it ends with what is sound still there."""
    import resource

    for number in range(8):
        publish(cache, f"m{number}", {"deep/er/file": b"%d" % number, "big": CONTENTS["big"]})
    verify(cache)  # what it imports is imported
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    highest = max(int(name) for name in os.listdir("/proc/self/fd"))
    ended: list[str] = []
    try:
        for free in range(16):
            resource.setrlimit(resource.RLIMIT_NOFILE, (highest + 1 + free, hard))
            try:
                assert verify(cache).damage == ()
                ended.append("sound")
            except FetcherError as error:
                ended.append(type(error).__name__)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert "CacheError" in ended and len(served(cache)) == 9
    assert verify(cache).sound
    assert_sound(cache)


def test_without_descriptors_no_process_is_gone(
    cache: Cache, snapshot: Snapshot, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A lease that ends with a process does not end because nothing can be learned of that."""
    lease = cache.lease_timed([snapshot.id], 3600, owner_pid=os.getpid())
    real = open

    def opening(path: Any, *more: Any, **options: Any) -> Any:
        if str(path).endswith("/stat"):
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
        return real(path, *more, **options)

    monkeypatch.setattr(leases, "open", opening, raising=False)
    assert [known.id for known in cache.leases()] == [lease.id]
    with pytest.raises(CacheError, match="Too many open files"):
        cache.lease_timed([snapshot.id], 3600, owner_pid=os.getpid())


def test_an_index_made_anew_without_descriptors(
    open_cache: Callable[..., Cache], cache: Cache, snapshot: Snapshot, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache.close()
    for path in cache.layout.index.parent.glob("index-v1.sqlite*"):
        path.unlink()
    with monkeypatch.context() as patch:
        failing_open(patch, errno.EMFILE, lambda path: path.endswith(".json"))
        with pytest.raises(CacheError, match="Too many open files"):
            open_cache()
    assert open_cache().recovery.adopted == (snapshot.id,)


def test_a_full_disk(cache: Cache, monkeypatch: pytest.MonkeyPatch) -> None:
    """What has to be hidden needs no room beyond the index's."""
    snapshot = publish(cache, "m", TWO)
    lease = cache.lease_timed([snapshot.id], 1000)
    flip(snapshot.path / "a", 0)

    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(durable, "write_file", full)
    assert only(verify(cache)).leases == (lease.id,)
    assert cache.lookup(key_of("m"), None) is None


def test_a_full_disk_while_a_tree_is_mended(cache: Cache, snapshot: Snapshot, monkeypatch: pytest.MonkeyPatch) -> None:
    cache.layout.tree(root_of(CONTENTS["big"])).unlink()
    (snapshot.path / "small").unlink()
    told: list[Damage] = []

    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(durable, "write_file", full)
    with pytest.raises(NoSpaceError):
        verify(cache, on_damage=told.append)
    monkeypatch.undo()
    assert [damage.reason for damage in told] == ["missing"]
    assert only(verify(cache)).action == "repaired"


def test_an_error_of_one_thread_ends_it_for_all(cache: Cache, monkeypatch: pytest.MonkeyPatch) -> None:
    publish(cache, "m", {str(number): b"%d" % number for number in range(8)})
    publish(cache, "big", {"big": paint(24 * MIB)})
    real, began = engine.check, time.monotonic()

    def check(body: Any, *more: Any) -> Any:
        if body.size == 1:
            raise CacheError("no descriptors")
        return real(body, *more)

    monkeypatch.setattr(engine, "check", check)
    with pytest.raises(CacheError, match="no descriptors"):
        verify(cache, rate_bytes_per_s=2 * MIB)
    assert time.monotonic() - began < 6


def test_what_others_had_found_when_one_thread_failed_is_told(cache: Cache, monkeypatch: pytest.MonkeyPatch) -> None:
    publish(cache, "m", {"a": b"first", "b": b"second one"})
    flip(cache.layout.blob(root_of(b"second one")), 3)
    monkeypatch.setattr(engine.os, "cpu_count", lambda: 2)
    real, read, failed = engine.check, threading.Event(), threading.Event()

    def check(body: Any, *more: Any) -> Any:
        if body.size == 5:
            assert read.wait(20)
            failed.set()
            raise CacheError("no descriptors")
        verdict = real(body, *more)
        read.set()
        assert failed.wait(20)
        time.sleep(0.2)  # the error is noticed meanwhile
        return verdict

    monkeypatch.setattr(engine, "check", check)
    told: list[Damage] = []
    with pytest.raises(CacheError, match="no descriptors"):
        verify(cache, on_damage=told.append)
    assert [damage.path for damage in told] == [cache.layout.blob(root_of(b"second one"))]
    assert blob_of(cache, root_of(b"second one")) is None


# --- a disk that fails once, or altogether


@needs_tree
@pytest.mark.parametrize("times", [1, 2])
def test_wrong_bytes_are_read_twice(
    cache: Cache, snapshot: Snapshot, monkeypatch: pytest.MonkeyPatch, times: int
) -> None:
    """A cable that turns a bit, once and again."""
    real, left = hashing.scan_file, [times]
    target = (snapshot.path / "big").stat().st_ino

    def scan(fd: int, offset: int, length: int, expected: bytes, **options: int) -> list[int]:
        bad = real(fd, offset, length, expected, **options)
        if os.fstat(fd).st_ino == target and offset <= 2 * MIB < offset + length and left[0]:
            left[0] -= 1
            return [2]
        return bad

    monkeypatch.setattr(hashing, "scan_file", scan)
    report = verify(cache)
    assert report.sound is (times == 1)
    assert served(cache) == ([snapshot.id] if times == 1 else [])
    if times == 2:
        assert only(report).blocks == (2,)


@pytest.mark.parametrize("path", ["small", "nested/deep/one", "nested/two"])
@pytest.mark.parametrize(("fault", "times"), [("bytes", 1), ("bytes", 2), ("error", 1), ("error", 2)])
def test_a_hiccup_is_no_damage(
    cache: Cache, snapshot: Snapshot, monkeypatch: pytest.MonkeyPatch, path: str, fault: str, times: int
) -> None:
    """Also where there are no chaining values."""
    if path == "nested/two":
        cache.layout.tree(root_of(CONTENTS[path])).unlink()
    real, left = os.preadv, [times]
    target = (snapshot.path / path).stat().st_ino

    def preadv(fd: int, buffers: Any, offset: int, *more: int) -> int:
        count = real(fd, buffers, offset, *more)
        if os.fstat(fd).st_ino == target and offset == 0 and left[0]:
            left[0] -= 1
            if fault == "error":
                raise OSError(errno.EIO, os.strerror(errno.EIO))
            buffers[0][0] ^= 1
        return count

    monkeypatch.setattr(os, "preadv", preadv)
    reasons = {damage.reason for damage in verify(cache).damage} - {"tree"}
    assert reasons == (set() if times == 1 else {"content" if fault == "bytes" else "unreadable"})
    assert served(cache) == ([snapshot.id] if times == 1 else [])


@pytest.mark.parametrize("what", ["directory", "folder", "sidecar", "body"])
def test_a_hiccup_of_opening(cache: Cache, snapshot: Snapshot, monkeypatch: pytest.MonkeyPatch, what: str) -> None:
    wanted: dict[str, Callable[[str], bool]] = {
        "directory": lambda path: path == str(snapshot.path),
        "folder": lambda path: path == "nested",
        "sidecar": lambda path: path == str(cache.layout.sidecar(snapshot.id)),
        "body": lambda path: path == str(cache.layout.blob(root_of(CONTENTS["big"]))),
    }
    failing_open(monkeypatch, errno.EIO, wanted[what], times=1)
    assert verify(cache).sound and served(cache) == [snapshot.id]


@pytest.mark.parametrize("what", ["directory", "folder", "sidecar", "body"])
def test_an_error_that_stays(cache: Cache, snapshot: Snapshot, monkeypatch: pytest.MonkeyPatch, what: str) -> None:
    wanted: dict[str, Callable[[str], bool]] = {
        "directory": lambda path: path == str(snapshot.path),
        "folder": lambda path: path == "nested",
        "sidecar": lambda path: path == str(cache.layout.sidecar(snapshot.id)),
        "body": lambda path: path == str(cache.layout.blob(root_of(CONTENTS["big"]))),
    }
    failing_open(monkeypatch, errno.EIO, wanted[what])
    assert {damage.reason for damage in verify(cache).damage} >= {"unreadable"}
    assert served(cache) == []


@pytest.fixture
def many(cache: Cache) -> Snapshot:
    return publish(cache, "many", {f"{number:03}": b"content %d" % number for number in range(3 * UNREADABLE_MAX)})


def _gone_disk(monkeypatch: pytest.MonkeyPatch, gone: Callable[[int], bool]) -> None:
    real = os.preadv

    def preadv(fd: int, buffers: Any, offset: int, *more: int) -> int:
        if gone(os.fstat(fd).st_ino):
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return real(fd, buffers, offset, *more)

    monkeypatch.setattr(os, "preadv", preadv)


@pytest.mark.parametrize("after", [0, 20, 3 * UNREADABLE_MAX - 2])
def test_a_disk_that_is_gone_takes_nothing_with_it(
    cache: Cache, many: Snapshot, monkeypatch: pytest.MonkeyPatch, after: int
) -> None:
    """From the first file on, in the middle, and before the last two."""
    before = files_below(cache)
    asked: list[int] = []

    def gone(inode: int) -> bool:
        asked.append(inode)
        return len(asked) > after

    _gone_disk(monkeypatch, gone)
    with pytest.raises(CacheError, match="one file after another"):
        verify(cache)
    monkeypatch.undo()
    assert files_below(cache) == before and served(cache) == [many.id]
    assert verify(cache).sound


def test_a_region_that_is_gone_is_believed(cache: Cache, many: Snapshot, monkeypatch: pytest.MonkeyPatch) -> None:
    """More files in a row than make a disk that is gone, while others are given still."""
    inodes = sorted((many.path / f"{number:03}").stat().st_ino for number in range(3 * UNREADABLE_MAX))
    bad = set(inodes[5 : 5 + 2 * UNREADABLE_MAX])
    _gone_disk(monkeypatch, bad.__contains__)
    report = verify(cache)
    assert {damage.reason for damage in report.damage} == {"unreadable"} and len(report.damage) == len(bad)
    with cache.index.read() as rows:
        assert rows.execute("SELECT COUNT(*) FROM blobs").fetchone() == (UNREADABLE_MAX,)


def test_many_snapshots_that_are_refused(cache: Cache, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(UNREADABLE_MAX):
        publish(cache, f"m{number}", {"a": b"%d" % number})
    failing_open(monkeypatch, errno.EIO, lambda path: path.endswith(".json"))
    with pytest.raises(CacheError, match="one file after another"):
        verify(cache)
    monkeypatch.undo()
    assert len(served(cache)) == UNREADABLE_MAX


def test_the_only_file_there_is(cache: Cache, monkeypatch: pytest.MonkeyPatch) -> None:
    publish(cache, "m", {"a": b"a"})
    _gone_disk(monkeypatch, lambda _: True)
    assert only(verify(cache)).reason == "unreadable"


# --- somebody writes


@pytest.fixture
def writing(snapshot: Snapshot) -> Iterator[Callable[[int, bytes], None]]:
    stop = threading.Event()
    threads: list[threading.Thread] = []

    def start(position: int, data: bytes) -> None:
        path = snapshot.path / "big"
        path.chmod(0o644)

        def write() -> None:
            descriptor = os.open(path, os.O_RDWR)
            while not stop.is_set():
                os.pwrite(descriptor, data, position)
                time.sleep(0.0005)
            os.close(descriptor)

        threads.append(threading.Thread(target=write))
        threads[0].start()
        time.sleep(0.05)

    yield start
    stop.set()
    for thread in threads:
        thread.join()


@pytest.mark.parametrize("dry_run", [False, True])
def test_what_is_being_written_to_and_wrong(
    cache: Cache, snapshot: Snapshot, writing: Callable[[int, bytes], None], dry_run: bool
) -> None:
    flip(snapshot.path / "big", 3 * MIB)
    writing(4 * MIB, CONTENTS["big"][4 * MIB : 4 * MIB + 1])
    assert only(verify(cache, dry_run=dry_run)).blocks == blocks_or_none(3)
    assert dry_run or served(cache) == []


def test_what_is_being_written_to_and_right(
    cache: Cache, snapshot: Snapshot, writing: Callable[[int, bytes], None]
) -> None:
    writing(4 * MIB, CONTENTS["big"][4 * MIB : 4 * MIB + 1])
    assert verify(cache).sound


# --- odd files


def _fifo(path: Path) -> None:
    os.mkfifo(path)


@pytest.mark.parametrize(
    "make", [Path.mkdir, _fifo, lambda path: path.symlink_to("/etc/passwd")], ids=["dir", "fifo", "link"]
)
@pytest.mark.parametrize("what", ["tree", "sidecar"])
def test_something_else_has_its_name(
    cache: Cache, snapshot: Snapshot, what: str, make: Callable[[Path], object]
) -> None:
    root = root_of(CONTENTS["big"])
    path = cache.layout.tree(root) if what == "tree" else cache.layout.sidecar(snapshot.id)
    path.unlink()
    make(path)
    (snapshot.path / "small").unlink()
    reasons = {damage.reason: damage.action for damage in verify(cache).damage}
    assert reasons == ({"tree": "repaired", "missing": "removed"} if what == "tree" else {"sidecar": "removed"})
    assert verify(cache).sound and Path("/etc/passwd").exists()
    assert what == "sidecar" or path.is_file()


def test_a_fetch_meets_a_tree_that_is_none(cache: Cache) -> None:
    blob = put(cache, TWO["a"])
    assert blob is not None
    tree = cache.layout.tree(blob.root)
    tree.unlink()
    tree.mkdir()
    put(cache, TWO["a"])
    assert tree.is_file() and verify(cache).sound


_ODD = {
    "deep": lambda raw: b"[" * 200_000,
    "deep inside": lambda raw: raw.replace(
        b'"resource":', b'"odd":' + b"[" * 200_000 + b"]" * 200_000 + b',"resource":'
    ),
    "infinite edition": lambda raw: raw.replace(b'"edition":0', b'"edition":1e999'),
    "infinite size": lambda raw: raw.replace(b'"size":5,', b'"size":1e999,'),
    "no utf-8": lambda raw: b"\xff" + raw,
    "a list": lambda raw: b"[]",
    "principals": lambda raw: raw.replace(b'"principals":[]', b'"principals":{"a":1}'),
    "an odd root": lambda raw: raw.replace(b'"root":"', b'"root":"../'),
}


@pytest.mark.parametrize("odd", _ODD)
def test_an_odd_sidecar(open_cache: Callable[..., Cache], cache: Cache, snapshot: Snapshot, odd: str) -> None:
    sidecar = cache.layout.sidecar(snapshot.id)
    raw = sidecar.read_bytes()
    sidecar.write_bytes(_ODD[odd](raw))
    other = publish(cache, "other", {"a": b"a"})
    assert only(verify(cache, dry_run=True)).reason == "sidecar"
    cache.close()
    for path in cache.layout.index.parent.glob("index-v1.sqlite*"):
        path.unlink()
    again = open_cache()
    assert (again.recovery.adopted, again.recovery.refused) == ((other.id,), (snapshot.id,))


def test_odd_times_are_not_adopted(open_cache: Callable[..., Cache], cache: Cache, snapshot: Snapshot) -> None:
    sidecar = cache.layout.sidecar(snapshot.id)
    sidecar.write_bytes(sidecar.read_bytes().replace(b'"fresh_for_s":86400.0', b'"fresh_for_s":NaN'))
    assert b"NaN" in sidecar.read_bytes()
    cache.close()
    for path in cache.layout.index.parent.glob("index-v1.sqlite*"):
        path.unlink()
    assert open_cache().recovery.refused == (snapshot.id,)


def test_a_file_in_place_of_a_folder_of_blobs(cache: Cache, snapshot: Snapshot) -> None:
    folder = cache.layout.blob(root_of(CONTENTS["big"])).parent
    shutil.rmtree(folder)
    folder.write_bytes(b"")
    assert {damage.reason for damage in verify(cache).damage} == {"missing"}
    assert served(cache) == [snapshot.id], "it has the bytes still"
    assert verify(cache).sound
    put(cache, CONTENTS["big"])
    assert folder.is_dir() and verify(cache).sound


def test_a_body_that_became_a_symlink(cache: Cache, snapshot: Snapshot, monkeypatch: pytest.MonkeyPatch) -> None:
    """After the survey, before it is read."""
    blob, real, turn = cache.layout.blob(root_of(CONTENTS["big"])), engine.check, threading.Lock()
    bodies = [blob]

    def check(*arguments: Any) -> Any:
        with turn:  # nobody reads before the first has done it
            if bodies:
                bodies.pop().unlink()
                blob.symlink_to("/etc/passwd")
        return real(*arguments)

    monkeypatch.setattr(engine, "check", check)
    damage = only(verify(cache))
    assert (damage.reason, damage.path) == ("kind", blob)
    assert not os.path.lexists(blob) and Path("/etc/passwd").exists()
    assert served(cache) == [snapshot.id]


# --- private copies, memory


def test_a_private_copy_of_one_that_is_found_damaged_meanwhile(
    cache: Cache, snapshot: Snapshot, monkeypatch: pytest.MonkeyPatch
) -> None:
    flip(snapshot.path / "big", 0)
    real, done = snapshots.Snapshots.files, []

    def files(self: Any, wanted: str) -> Any:
        if not done:
            done.append(verify(cache))
        return real(self, wanted)

    monkeypatch.setattr(snapshots.Snapshots, "files", files)
    with pytest.raises(GoneError):
        cache.copy_stage(snapshot.id)
    assert hidden(cache) == [snapshot.id]


def test_memory_of_a_survey(cache: Cache) -> None:
    count = 2000
    publish(cache, "many", {f"folder/{number:05}": b"%d" % number for number in range(count)})
    cache.survey([], lambda: None)  # what it imports is imported
    gc.collect()
    tracemalloc.start()
    try:
        found = cache.survey(None, lambda: None)
        gc.collect()
        # Of the survey alone: what else lives in this process allocates, too.
        ours = tracemalloc.take_snapshot().filter_traces([tracemalloc.Filter(True, "*/fetcher/cache/survey.py")])
    finally:
        tracemalloc.stop()
    assert len(found.bodies) == count
    assert sum(trace.size for trace in ours.traces) / count < 700, "bytes kept per file"


def test_one_place_knows_what_an_error_says() -> None:
    known = {errno.ENOENT: "missing", errno.ENOTDIR: "missing", errno.ELOOP: "kind", errno.EIO: "unreadable"}
    for number in errno.errorcode:
        reason = survey.reason_of(OSError(number, ""))
        assert reason == known.get(number, reason)
        if number in (errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EACCES, errno.EPERM, errno.ESTALE, errno.ENOSPC):
            assert reason is None


def test_ranges() -> None:
    assert scrub.ranges([0, 3, 4]) == "0-1 MiB, 3-5 MiB"


def test_the_clock_of_what_is_hidden(cache: Cache, snapshot: Snapshot, clock: Clock) -> None:
    """Fresh until it was found."""
    flip(snapshot.path / "small", 0)
    verify(cache)
    (shown,) = cache.snapshots()
    assert shown.fresh_until == clock.now and shown.keep_until >= snapshot.keep_until


@pytest.mark.parametrize("leased", [False, True])
def test_a_crash_before_the_commit(
    cache: Cache, snapshot: Snapshot, monkeypatch: pytest.MonkeyPatch, leased: bool
) -> None:
    """The list has its trash name, the row is as it was: the next scrub hides it, and what is sound is there."""
    if leased:
        cache.lease_timed([snapshot.id], 3600)
    flip(snapshot.path / "big", 0)

    class KilledError(Exception):
        pass

    def killed(_: object) -> None:
        raise KilledError

    monkeypatch.setattr(condemn, "taken_out", killed)
    with pytest.raises(KilledError):
        verify(cache)
    monkeypatch.undo()
    assert served(cache) == [snapshot.id] and not cache.layout.sidecar(snapshot.id).exists()
    reasons = {damage.reason for damage in verify(cache).damage}
    assert reasons == {"sidecar", "missing"}, "the Blob had lost its name"
    assert served(cache) == [] and hidden(cache) == [snapshot.id]
    assert blob_of(cache, root_of(CONTENTS["nested/two"])) is not None
    assert tree_on_disk(publish(cache, "m", CONTENTS).path) == CONTENTS
    cache.gc()
    assert verify(cache).sound is not leased
