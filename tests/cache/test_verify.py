"""Scrubbing: what is damaged is found, named, and given to nobody again; what others do beside it is no damage."""

from __future__ import annotations

import errno
import json
import os
import shutil
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import blake3
import pytest

from fetcher import hashing
from fetcher.cache import condemn
from fetcher.cache.damage import Damage, VerifyReport
from fetcher.cache.publish import Publisher
from fetcher.cache.records import GoneError, Snapshot
from fetcher.cache.store import Cache
from fetcher.cache.tree_file import TreeFile
from fetcher.engine import verify as engine
from fetcher.errors import InterruptedByUser, LeaseError
from fetcher.model.events import Event, Progress
from tests.cache.asking import blob_of, blob_of_content
from tests.cache.world import (
    MIB,
    Clock,
    assert_sound,
    collect_twice,
    entry,
    files_below,
    head_of,
    key_of,
    many_files_by_os,
    new_snapshot,
    paint,
    publish,
    put,
    put_large,
    tree_on_disk,
)

BIG = 5 * MIB + 77
CONTENTS: Mapping[str, bytes] = {
    "big": paint(BIG),
    "nested/two": paint(2 * MIB, 3),
    "nested/deep/one": paint(MIB, 5),
    "small": b"hello",
    "empty": b"",
}
needs_tree = pytest.mark.skipif(not hashing.HAS_TREE, reason="plain mode names files, not blocks")


def root_of(data: bytes) -> str:
    return blake3.blake3(data).hexdigest()


def verify(cache: Cache, snapshots: Sequence[Snapshot] | None = None, **more: Any) -> VerifyReport:
    options: dict[str, Any] = {
        "subject": "all",
        "dry_run": False,
        "rate_bytes_per_s": None,
        "emit": None,
        "on_damage": None,
        "stopped": lambda: False,
    }
    return engine.verify(cache, snapshots, **{**options, **more})


def served(cache: Cache) -> list[str]:
    """Ids of what anybody may be given."""
    return [known.id for known in cache.snapshots() if not known.damaged]


def hidden(cache: Cache) -> list[str]:
    return [known.id for known in cache.snapshots() if known.damaged]


def only(report: VerifyReport) -> Damage:
    (damage,) = report.damage
    return damage


def change(path: Path, edit: Callable[[Any], object]) -> None:
    """What a disk does, or somebody with an editor: the same inode, other bytes."""
    mode = path.stat().st_mode
    path.chmod(0o644)
    with open(path, "r+b") as file:
        edit(file)
    path.chmod(mode)


def flip(path: Path, position: int) -> None:
    def edit(file: Any) -> None:
        file.seek(position)
        (byte,) = file.read(1)
        file.seek(position)
        file.write(bytes([byte ^ 0x20]))

    change(path, edit)


def blocks_or_none(*blocks: int) -> tuple[int, ...] | None:
    return blocks if hashing.HAS_TREE else None


def share(cache: Cache, name: str, contents: Mapping[str, bytes]) -> Snapshot:
    """Another resource of Blobs that are there."""
    files = [(entry(path, data), root_of(data) if data else None, "sha256") for path, data in contents.items()]
    return cache.publish(new_snapshot(name, contents, cache._clock()), files)


@pytest.fixture
def snapshot(cache: Cache) -> Snapshot:
    return publish(cache, "m", CONTENTS)


@pytest.fixture
def no_links(cache: Cache, monkeypatch: pytest.MonkeyPatch) -> Snapshot:
    """As ``snapshot``, where the file system has no hard links: each file has a body of its own."""

    def refused(*_: object, **__: object) -> None:
        raise OSError(errno.EPERM, "no links here")

    many_files_by_os(monkeypatch.setattr)
    monkeypatch.setattr(os, "link", refused)
    return publish(cache, "m", CONTENTS)


# --- nothing is wrong


def test_a_sound_cache(cache: Cache, snapshot: Snapshot) -> None:
    share(cache, "again", CONTENTS)
    put(cache, b"in no snapshot")
    before = files_below(cache)
    report = verify(cache)
    assert report.sound
    assert (report.snapshots, report.files, report.blobs) == (2, 10, 5)
    assert report.bytes == sum(len(data) for data in CONTENTS.values()) + len(b"in no snapshot"), "each body once"
    assert files_below(cache) == before
    assert cache.lookup(key_of("m"), None) == snapshot


def test_nothing(cache: Cache) -> None:
    report = verify(cache)
    assert (report.sound, report.snapshots, report.bytes) == (True, 0, 0)


def test_second_bodies_are_looked_at(cache: Cache, no_links: Snapshot) -> None:
    report = verify(cache)
    assert report.sound
    assert report.bytes == 2 * sum(len(data) for data in CONTENTS.values())


# --- a byte that changed

_FLIPS = [
    *(("big", place, place // MIB) for place in (0, MIB - 1, MIB, 2 * MIB + 9, 3 * MIB, 4 * MIB + 1, 5 * MIB, BIG - 1)),
    *(("nested/two", place, place // MIB) for place in (0, MIB - 1, MIB, 2 * MIB - 1)),
    *(("nested/deep/one", place, 0) for place in (0, MIB // 2, MIB - 1)),
    *(("small", place, 0) for place in (0, 4)),
]


@pytest.mark.parametrize(("path", "position", "block"), _FLIPS, ids=[f"{path}@{place}" for path, place, _ in _FLIPS])
def test_a_flipped_bit_is_found_and_named(
    cache: Cache, snapshot: Snapshot, path: str, position: int, block: int
) -> None:
    other = share(cache, "other", {name: data for name, data in CONTENTS.items() if name != path})
    root = root_of(CONTENTS[path])
    flip(cache.layout.blob(root), position)
    damage = only(verify(cache))
    assert (damage.reason, damage.path, damage.root) == ("content", cache.layout.blob(root), root)
    assert damage.size == len(CONTENTS[path])
    assert damage.blocks == ((block,) if len(CONTENTS[path]) <= MIB else blocks_or_none(block))
    assert [(file.resource, file.path, file.lease) for file in damage.files] == [(snapshot.uri, path, None)]
    assert damage.action == "removed"
    # Nobody gets it any more, neither by its resource nor by its digest; all else is there.
    assert hidden(cache) == [snapshot.id] and snapshot.path.exists(), "its sound files stay referenced"
    assert not cache.layout.sidecar(snapshot.id).exists(), "no index made anew adopts it"
    assert cache.lookup(key_of("m"), None) is None
    assert blob_of(cache, root) is None and not cache.layout.tree(root).exists()
    head = head_of(CONTENTS[path])
    assert blob_of_content(cache, head.content_id, None, head.size, principal=None) is None
    assert cache.get_snapshot(other.id) == other
    for name, data in CONTENTS.items():
        assert not data or (blob_of(cache, root_of(data)) is None) == (name == path)
    again = verify(cache)
    assert again.sound and again.hidden == 1
    assert [name for name in files_below(cache) if "/." in name] == []
    fresh = publish(cache, "m", CONTENTS)
    assert tree_on_disk(fresh.path) == CONTENTS
    assert cache.gc().snapshots == (snapshot.id,), "a sound one is there"
    assert cache.lookup(key_of("m"), None) == fresh and publish(cache, "m", CONTENTS).id == fresh.id
    assert_sound(cache)


def test_many_blocks_of_many_files(cache: Cache, snapshot: Snapshot) -> None:
    for position in (0, 3 * MIB, 3 * MIB + 5, 4 * MIB):
        flip(snapshot.path / "big", position)
    flip(snapshot.path / "small", 1)
    report = verify(cache)
    found = {damage.root: damage for damage in report.damage}
    assert found.keys() == {root_of(CONTENTS["big"]), root_of(CONTENTS["small"])}
    assert found[root_of(CONTENTS["big"])].blocks == blocks_or_none(0, 3, 4)
    assert all(damage.resources == (snapshot.uri,) for damage in report.damage), "the first has taken it away"
    assert hashing.HAS_TREE is ("0-1 MiB, 3-5 MiB" in found[root_of(CONTENTS["big"])].message)


def test_every_resource_that_shares_it_is_named(cache: Cache, snapshot: Snapshot) -> None:
    other = share(cache, "other", {"renamed": CONTENTS["big"]})
    flip(snapshot.path / "big", 7)
    damage = only(verify(cache, [snapshot]))  # asked about one of them
    assert {(file.resource, file.path) for file in damage.files} == {(snapshot.uri, "big"), (other.uri, "renamed")}
    assert served(cache) == []


def test_only_what_is_asked_about_is_read(cache: Cache, snapshot: Snapshot) -> None:
    other = publish(cache, "other", {"own": b"own"})
    flip(other.path / "own", 0)
    put(cache, b"in no snapshot")
    report = verify(cache, [snapshot])
    assert report.sound and (report.snapshots, report.blobs) == (1, 4)
    assert only(verify(cache)).resources == (other.uri,)


def test_a_blob_in_no_snapshot(cache: Cache) -> None:
    blob = put(cache, CONTENTS["big"])
    assert blob is not None
    flip(blob.path, 2 * MIB)
    damage = only(verify(cache))
    assert (damage.files, damage.action, damage.blocks) == ((), "removed", blocks_or_none(2))
    assert blob_of(cache, blob.root) is None


def test_a_hundred_small_ones(cache: Cache) -> None:
    contents = {f"{number:03}": f"content {number}".encode() for number in range(100)}
    snapshot = publish(cache, "many", contents)
    for name in ("013", "077"):
        flip(snapshot.path / name, 0)
    report = verify(cache)
    assert {file.path for damage in report.damage for file in damage.files} == {"013", "077"}
    assert (report.files, report.blobs) == (100, 100)
    with cache.index.read() as rows:
        assert rows.execute("SELECT COUNT(*) FROM blobs").fetchone() == (98,)


# --- the tree of a Blob


def _tree_edits() -> list[tuple[str, Callable[[Path], object], bool]]:
    """What is done to a ``.tree``, and whether its chaining values can still be trusted."""
    edits: list[tuple[str, Callable[[Path], object], bool]] = [
        ("magic", lambda tree: flip(tree, 0), True),
        ("length", lambda tree: flip(tree, 8), True),
        ("header", lambda tree: flip(tree, 40), True),
        ("crc", lambda tree: flip(tree, tree.stat().st_size - 1), True),
        ("missing", lambda tree: tree.unlink(), False),
        ("empty", lambda tree: change(tree, lambda file: file.truncate(0)), False),
        ("cut", lambda tree: change(tree, lambda file: file.truncate(tree.stat().st_size - 9)), False),
        ("longer", lambda tree: change(tree, lambda file: (file.seek(0, 2), file.write(b"more"))), False),
    ]
    if hashing.HAS_TREE:
        for number in range(6):
            position = -4 - 32 * 6 + 32 * number + 3
            edits.append((f"cv{number}", lambda tree, at=position: flip(tree, tree.stat().st_size + at), False))
    return edits


@pytest.mark.parametrize(("name", "edit", "trusted"), _tree_edits(), ids=[edit[0] for edit in _tree_edits()])
def test_a_damaged_tree_is_told_from_a_damaged_body(
    cache: Cache, snapshot: Snapshot, name: str, edit: Callable[[Path], object], trusted: bool
) -> None:
    root = root_of(CONTENTS["big"])
    tree = cache.layout.tree(root)
    before = TreeFile.decode(tree.read_bytes())
    edit(tree)
    damage = only(verify(cache, dry_run=True))
    assert (damage.reason, damage.path, damage.action, damage.blocks) == ("tree", tree, "none", None)
    damage = only(verify(cache))
    assert (damage.reason, damage.path, damage.action) == ("tree", tree, "repaired")
    assert "the file itself is right" in damage.message
    assert TreeFile.decode(tree.read_bytes()) == before
    assert tree.stat().st_mode & 0o777 == 0o444
    assert cache.lookup(key_of("m"), None) == snapshot, "what is right stays a hit"
    assert verify(cache).sound
    assert [path for path in files_below(cache) if "/." in path] == []


@pytest.mark.parametrize(("name", "edit", "trusted"), _tree_edits(), ids=[edit[0] for edit in _tree_edits()])
def test_a_damaged_tree_of_a_damaged_body(
    cache: Cache, snapshot: Snapshot, name: str, edit: Callable[[Path], object], trusted: bool
) -> None:
    root = root_of(CONTENTS["big"])
    edit(cache.layout.tree(root))
    flip(snapshot.path / "big", 4 * MIB)
    damage = only(verify(cache))
    assert (damage.reason, damage.path, damage.action) == ("content", cache.layout.blob(root), "removed")
    assert damage.blocks == ((4,) if trusted and hashing.HAS_TREE else None)
    assert "chaining values" in damage.message
    assert blob_of(cache, root) is None and not cache.layout.tree(root).exists()


def test_a_tree_of_another_file(cache: Cache, snapshot: Snapshot) -> None:
    other = put_large(cache, paint(BIG, 9))
    tree = cache.layout.tree(root_of(CONTENTS["big"]))
    tree.unlink()
    shutil.copy(cache.layout.tree(other.root), tree)
    assert "of another content" in only(verify(cache)).message
    assert verify(cache).sound


@needs_tree
def test_a_tree_that_was_made_in_plain_mode(cache: Cache, snapshot: Snapshot) -> None:
    root = root_of(CONTENTS["big"])
    tree = cache.layout.tree(root)
    tree.unlink()
    tree.write_bytes(TreeFile(root, BIG, 0, b"", (), "sha256").encode())
    assert verify(cache).sound
    flip(snapshot.path / "big", 0)
    damage = only(verify(cache))
    assert (damage.reason, damage.blocks) == ("content", None)


# --- files of another size, of another kind, of nobody


def _replace(path: Path, data: bytes) -> None:
    path.unlink()
    path.write_bytes(data)


def _grow(path: Path) -> None:
    change(path, lambda file: (file.seek(0, 2), file.write(b"!")))


@pytest.mark.parametrize("path", ["big", "nested/two", "nested/deep/one", "small"])
@pytest.mark.parametrize("edit", ["shorter", "longer", "nothing"])
def test_another_size(cache: Cache, snapshot: Snapshot, path: str, edit: str) -> None:
    size = len(CONTENTS[path])
    if edit == "longer":
        _grow(snapshot.path / path)
    else:
        change(snapshot.path / path, lambda file: file.truncate(0 if edit == "nothing" else size - 1))
    damage = only(verify(cache))
    assert (damage.reason, damage.action, damage.size) == ("size", "removed", size)
    assert f"should have {size}" in damage.message
    assert served(cache) == [] and blob_of(cache, root_of(CONTENTS[path])) is None


_SNAPSHOT_EDITS: Sequence[tuple[str, Callable[[Path], object], str, str]] = [
    ("a file is missing", lambda top: (top / "small").unlink(), "missing", "small"),
    ("the empty file is missing", lambda top: (top / "empty").unlink(), "missing", "empty"),
    ("the empty file has grown", lambda top: _grow(top / "empty"), "size", "empty"),
    ("swapped, same size", lambda top: _replace(top / "small", b"HELLO"), "content", "small"),
    ("swapped, large", lambda top: _replace(top / "big", paint(BIG, 1)), "content", "big"),
    ("swapped, other size", lambda top: _replace(top / "small", b"hello!"), "size", "small"),
    (
        "linked to another",
        lambda top: ((top / "small").unlink(), os.link(top / "nested/two", top / "small")),
        "size",
        "small",
    ),
    ("a symlink", lambda top: ((top / "small").unlink(), (top / "small").symlink_to("big")), "kind", "small"),
    ("a folder", lambda top: ((top / "empty").unlink(), (top / "empty").mkdir()), "kind", "empty"),
    ("extra", lambda top: (top / "nested" / "extra").write_bytes(b"x"), "extra", "nested/extra"),
    ("extra folder", lambda top: (top / "more").mkdir(), "extra", "more"),
    ("extra symlink", lambda top: (top / "more").symlink_to("/etc"), "extra", "more"),
    ("all of it", lambda top: shutil.rmtree(top), "missing", ""),
    ("a file for a directory", lambda top: (shutil.rmtree(top), top.write_bytes(b"")), "kind", ""),
]


@pytest.mark.parametrize(
    ("edit", "reason", "path"), [item[1:] for item in _SNAPSHOT_EDITS], ids=[item[0] for item in _SNAPSHOT_EDITS]
)
def test_a_snapshot_that_is_not_what_it_was(
    cache: Cache,
    snapshot: Snapshot,
    monkeypatch: pytest.MonkeyPatch,
    edit: Callable[[Path], object],
    reason: str,
    path: str,
) -> None:
    monkeypatch.setattr(condemn, "SETTLE_S", 0.1)
    edit(snapshot.path)
    dry = verify(cache, dry_run=True)
    assert {damage.action for damage in dry.damage} == {"none"}
    assert len(cache.snapshots()) == 1
    report = verify(cache)
    assert [(damage.reason, damage.path) for damage in report.damage] == [
        (damage.reason, damage.path) for damage in dry.damage
    ]
    damage = next(damage for damage in report.damage if damage.reason == reason)
    assert [(file.snapshot_id, file.path) for file in damage.files] == [(snapshot.id, path)]
    assert damage.action == "removed"
    assert served(cache) == []
    for data in CONTENTS.values():
        assert not data or blob_of(cache, root_of(data)) is not None, "the Blobs are right, and stay"
    assert verify(cache).sound
    assert tree_on_disk(publish(cache, "m", CONTENTS).path) == CONTENTS


def _sidecar_edit(**fields: Any) -> Callable[[Path], object]:
    def edit(sidecar: Path) -> None:
        value = json.loads(sidecar.read_text())
        for name, change_of in fields.items():
            value[name] = change_of(value[name])
        sidecar.write_text(json.dumps(value))

    return edit


def _other_root(files: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{**file, "root": "f" * 64} if file["path"] == "small" else file for file in files]


@pytest.mark.parametrize(
    "edit",
    [
        pytest.param(lambda sidecar: sidecar.unlink(), id="missing"),
        pytest.param(lambda sidecar: sidecar.write_text(""), id="empty"),
        pytest.param(lambda sidecar: sidecar.write_text("{}"), id="no fields"),
        pytest.param(lambda sidecar: flip(sidecar, 30), id="flipped"),
        pytest.param(_sidecar_edit(files=_other_root), id="another root"),
        pytest.param(_sidecar_edit(files=lambda files: files[1:]), id="a file less"),
        pytest.param(_sidecar_edit(key=lambda _: "0" * 64), id="another key"),
        pytest.param(_sidecar_edit(principals=lambda _: 5), id="odd principals"),
        pytest.param(_sidecar_edit(files=lambda files: [{**file, "size": 3} for file in files]), id="other sizes"),
    ],
)
def test_a_damaged_sidecar(cache: Cache, snapshot: Snapshot, edit: Callable[[Path], object]) -> None:
    sidecar = cache.layout.sidecar(snapshot.id)
    edit(sidecar)
    damage = only(verify(cache))
    assert (damage.reason, damage.path, damage.action) == ("sidecar", sidecar, "removed")
    assert damage.resources == (snapshot.uri,)
    assert not os.path.lexists(sidecar) and served(cache) == []
    assert verify(cache).sound


def test_a_blob_that_is_missing_harms_no_snapshot_that_has_its_bytes(cache: Cache, snapshot: Snapshot) -> None:
    root = root_of(CONTENTS["big"])
    cache.layout.blob(root).unlink()
    damage = only(verify(cache))
    assert (damage.reason, damage.path, damage.files) == ("missing", cache.layout.blob(root), ())
    assert cache.lookup(key_of("m"), None) == snapshot
    assert verify(cache).sound
    flip(snapshot.path / "big", MIB)
    assert only(verify(cache)).files[0].path == "big", "its own body is looked at"
    assert served(cache) == []


def test_something_else_has_a_blobs_name(cache: Cache) -> None:
    blob = put(cache, b"x")
    assert blob is not None
    blob.path.unlink()
    blob.path.symlink_to("/etc/passwd")
    damage = only(verify(cache))
    assert (damage.reason, damage.action) == ("kind", "removed")
    assert not os.path.lexists(blob.path)
    assert Path("/etc/passwd").exists()


@pytest.mark.parametrize(("path", "position"), [("big", 3 * MIB), ("small", 0), ("nested/two", 0)])
def test_a_damaged_second_body(cache: Cache, no_links: Snapshot, path: str, position: int) -> None:
    flip(no_links.path / path, position)
    damage = only(verify(cache))
    assert (damage.reason, damage.path) == ("content", no_links.path / path)
    assert damage.blocks == ((0,) if len(CONTENTS[path]) <= MIB else blocks_or_none(position // MIB))
    assert served(cache) == []
    assert blob_of(cache, root_of(CONTENTS[path])) is not None, "the Blob is right, and stays"
    assert tree_on_disk(publish(cache, "m", CONTENTS).path) == CONTENTS


def test_a_damaged_blob_of_sound_second_bodies(cache: Cache, no_links: Snapshot) -> None:
    root = root_of(CONTENTS["big"])
    flip(cache.layout.blob(root), 0)
    damage = only(verify(cache))
    assert (damage.path, damage.files) == (cache.layout.blob(root), ())
    assert cache.lookup(key_of("m"), None) == no_links
    assert verify(cache).sound


# --- a disk that gives errors


@needs_tree
def test_a_block_that_can_not_be_read_does_not_end_the_scan(
    cache: Cache, snapshot: Snapshot, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = hashing.scan_file
    target = (snapshot.path / "big").stat().st_ino

    def failing(fd: int, offset: int, length: int, expected: bytes, **options: int) -> list[int]:
        if os.fstat(fd).st_ino == target and offset <= 2 * MIB < offset + length:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return real(fd, offset, length, expected, **options)

    monkeypatch.setattr(hashing, "scan_file", failing)
    flip(snapshot.path / "big", BIG - 1)
    damage = only(verify(cache))
    assert (damage.reason, damage.blocks, damage.action) == ("unreadable", (2, 5), "removed")
    assert "the disk gives an error: 2-3 MiB; other bytes than were verified: 5-6 MiB" in damage.message
    assert blob_of(cache, root_of(CONTENTS["big"])) is None


@pytest.mark.parametrize(("path", "block"), [("small", 0), ("big", 4)])
def test_an_unreadable_file_without_chaining_values(
    cache: Cache, snapshot: Snapshot, monkeypatch: pytest.MonkeyPatch, path: str, block: int
) -> None:
    real = os.preadv
    target = (snapshot.path / path).stat().st_ino
    if path == "big":
        cache.layout.tree(root_of(CONTENTS["big"])).unlink()

    def failing(fd: int, buffers: Sequence[Any], offset: int, *more: int) -> int:
        if os.fstat(fd).st_ino == target and offset == block * MIB:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return real(fd, buffers, offset, *more)

    monkeypatch.setattr(os, "preadv", failing)
    damage = only(verify(cache))
    assert (damage.reason, damage.blocks, damage.action) == ("unreadable", (block,), "removed")


def test_no_descriptors_is_no_damage(cache: Cache, snapshot: Snapshot, monkeypatch: pytest.MonkeyPatch) -> None:
    from fetcher.cache import scrub
    from fetcher.errors import CacheError

    real = os.open

    def failing(path: Any, flags: int, *more: Any, **options: Any) -> int:
        if flags == scrub._FILE:
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
        return real(path, flags, *more, **options)

    monkeypatch.setattr(os, "open", failing)
    with pytest.raises(CacheError, match="Too many open files"):
        verify(cache)
    monkeypatch.undo()
    assert cache.lookup(key_of("m"), None) == snapshot


# --- leases and pins


def test_what_a_lease_holds_stays_for_its_job_and_for_nobody_else(
    cache: Cache, snapshot: Snapshot, clock: Clock
) -> None:
    lease = cache.lease_timed([snapshot.id], 3600)
    flip(snapshot.path / "big", 3 * MIB)
    before = tree_on_disk(snapshot.path)
    damage = only(verify(cache))
    assert (damage.action, damage.leases) == ("in_use", (lease.id,))
    assert [(file.path, file.lease) for file in damage.files] == [("big", lease.id)]
    assert tree_on_disk(snapshot.path) == before, "the directory of a job never changes"
    assert cache.lease(lease.id).snapshot_ids == (snapshot.id,)
    # Neither by hit, nor by revalidation, nor by a new lease, nor by a private copy, nor by its digest:
    assert cache.lookup(key_of("m"), None) is None
    with pytest.raises(GoneError):
        cache.revalidate(snapshot.id, 60, 60)
    with pytest.raises(GoneError):
        cache.lease_timed([snapshot.id], 60)
    with pytest.raises(GoneError):
        cache.copy_stage(snapshot.id)
    assert blob_of(cache, root_of(CONTENTS["big"])) is None
    assert [lease.id] == [known.id for known in cache.leases()], "the refused one left nothing"
    # It is still shown, and found again.
    (shown,) = cache.snapshots()
    assert (shown.id, shown.key, shown.damaged) == (snapshot.id, key_of("m"), True)
    again = only(verify(cache))
    assert (again.reason, again.action, again.leases) == ("known", "in_use", (lease.id,))
    assert "before" in again.message
    # A sound one is published beside it, for all others.
    fresh = publish(cache, "m", CONTENTS)
    assert fresh.id != snapshot.id and tree_on_disk(fresh.path) == CONTENTS
    assert cache.lookup(key_of("m"), None) == fresh
    assert publish(cache, "m", CONTENTS).id == fresh.id
    assert tree_on_disk(snapshot.path) == before
    assert cache.gc().snapshots == ()
    # With the lease it goes.
    cache.lease_release(lease.id)
    assert cache.gc().snapshots == (snapshot.id,)
    assert verify(cache).sound
    assert_sound(cache)


def test_once_released_it_is_told_no_more(cache: Cache, snapshot: Snapshot, clock: Clock) -> None:
    lease = cache.lease_timed([snapshot.id], 3600)
    flip(snapshot.path / "small", 0)
    assert only(verify(cache)).action == "in_use"
    cache.lease_release(lease.id)
    assert verify(cache).sound
    assert cache.gc().snapshots == (), "the next fetch finds what is sound of it"
    clock.turn(86_400)
    assert cache.gc().snapshots == (snapshot.id,)


def test_a_process_lease_of_another_cache(open_cache: Callable[..., Cache], cache: Cache, snapshot: Snapshot) -> None:
    other = open_cache()
    lease = other.lease_process([snapshot.id])
    flip(snapshot.path / "small", 0)
    assert only(verify(cache)).leases == (lease.id,)
    other.close()
    assert verify(cache).sound and hidden(cache) == [snapshot.id]


def test_an_index_made_anew_gives_it_to_nobody_either(
    open_cache: Callable[..., Cache], cache: Cache, snapshot: Snapshot
) -> None:
    cache.lease_timed([snapshot.id], 3600)
    flip(snapshot.path / "small", 0)
    verify(cache)
    fresh = publish(cache, "m", CONTENTS)
    cache.close()
    for path in cache.layout.index.parent.glob("index-v1.sqlite*"):
        path.unlink()
    cache = open_cache()
    assert cache.recovery.adopted == (fresh.id,) and cache.recovery.refused == (snapshot.id,)
    found = cache.lookup(key_of("m"), None)
    assert found is not None and found.id == fresh.id
    assert [known.id for known in cache.snapshots()] == [fresh.id]


def test_a_leased_one_and_another(cache: Cache, snapshot: Snapshot) -> None:
    other = share(cache, "other", {"renamed": CONTENTS["big"]})
    lease = cache.lease_timed([snapshot.id], 3600)
    flip(snapshot.path / "big", 0)
    damage = only(verify(cache))
    assert damage.action == "in_use"
    assert {file.snapshot_id: file.lease for file in damage.files} == {snapshot.id: lease.id, other.id: None}
    assert set(hidden(cache)) == {snapshot.id, other.id} and served(cache) == []


def test_a_pin_survives_and_keeps_the_next_one(cache: Cache, snapshot: Snapshot, clock: Clock) -> None:
    cache.pin("mine", snapshot.key)
    flip(snapshot.path / "big", 0)
    assert only(verify(cache)).action == "removed"
    assert [(pin.name, pin.resource_key) for pin in cache.pins()] == [("mine", snapshot.key)]
    clock.turn(1000 * 86_400)
    assert cache.gc().snapshots == ()
    for name, data in CONTENTS.items():
        assert not data or (blob_of(cache, root_of(data)) is None) == (name == "big"), "what is sound is still pinned"
    with pytest.raises(LeaseError, match="pinned"):
        cache.remove([snapshot.id])
    fresh = publish(cache, "m", CONTENTS)
    assert cache.gc().snapshots == (snapshot.id,)
    with pytest.raises(LeaseError, match="pinned"):
        cache.remove([fresh.id])


def test_a_pin_keeps_sound_files_of_a_directory_that_is_gone(
    cache: Cache, snapshot: Snapshot, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache.pin("mine", snapshot.key)
    shutil.rmtree(snapshot.path)
    assert only(verify(cache)).reason == "missing"
    clock.turn(1000 * 86_400)
    for _ in range(2):
        cache.gc()
    assert blob_of(cache, root_of(CONTENTS["big"])) is not None


def test_one_that_is_damaged_again_and_again(cache: Cache, snapshot: Snapshot) -> None:
    """Each has a place of its own, and all but the last go."""
    cache.pin("mine", snapshot.key)
    lease = cache.lease_timed([snapshot.id], 3600)
    made = [snapshot]
    for position in range(3):
        flip(made[-1].path / "big", position * MIB)
        assert not verify(cache).sound
        made.append(publish(cache, "m", CONTENTS))
    assert len({one.id for one in made}) == 4
    assert set(cache.gc().snapshots) == {made[1].id, made[2].id}
    cache.lease_release(lease.id)
    assert cache.gc().snapshots == (snapshot.id,)
    assert served(cache) == [made[3].id] and verify(cache).sound
    assert_sound(cache)


def test_of_several_leases_each_is_named(cache: Cache, snapshot: Snapshot) -> None:
    leases = tuple(cache.lease_timed([snapshot.id], 3600).id for _ in range(3))
    flip(snapshot.path / "small", 0)
    assert set(only(verify(cache)).leases) == set(leases)
    assert set(only(verify(cache)).leases) == set(leases)


def test_an_older_revision_does_not_take_the_place_of_a_damaged_one(
    cache: Cache, snapshot: Snapshot, clock: Clock
) -> None:
    clock.turn(10)
    newer = publish(cache, "m", {**CONTENTS, "small": b"HELLO"})
    cache.pin("mine", newer.key)
    flip(newer.path / "small", 0)
    verify(cache)
    clock.turn(1000 * 86_400)
    assert cache.gc().snapshots == (), "both are the newest of their kind"
    assert blob_of(cache, root_of(CONTENTS["big"])) is not None


def test_what_is_damaged_keeps_its_sound_files_for_the_next_fetch(
    cache: Cache, snapshot: Snapshot, clock: Clock
) -> None:
    clock.turn(86_400 - 1)  # its time is nearly over
    flip(snapshot.path / "big", 0)
    verify(cache)
    clock.turn(cache.settings.gc_grace_s - 60)
    cache.gc()
    assert blob_of(cache, root_of(CONTENTS["nested/two"])) is not None
    clock.turn(120)
    collect_twice(cache, clock)
    assert blob_of(cache, root_of(CONTENTS["nested/two"])) is None and cache.snapshots() == []


def test_what_a_living_owner_holds_is_not_spared(open_cache: Callable[..., Cache], cache: Cache) -> None:
    other = open_cache()
    blob = put(other, CONTENTS["big"])  # held until its Snapshot is published
    assert blob is not None
    flip(blob.path, 0)
    assert only(verify(cache)).action == "removed"
    with pytest.raises(GoneError) as caught:
        other.reserve(0, hold=[blob.root])
    assert caught.value.ids == (blob.root,)


# --- a dry run


def test_a_dry_run_changes_nothing(
    open_cache: Callable[..., Cache], cache: Cache, snapshot: Snapshot, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(condemn, "SETTLE_S", 0.1)
    leased = publish(cache, "leased", {"own": b"own"})
    lease = cache.lease_timed([leased.id], 60)
    flip(snapshot.path / "big", 0)
    flip(leased.path / "own", 0)
    (snapshot.path / "empty").unlink()
    cache.layout.tree(root_of(CONTENTS["nested/two"])).unlink()
    before = files_below(cache)
    with cache.index.read() as rows:
        dump = list(rows.iterdump())
    report = verify(open_cache(read_only=True), dry_run=True)
    assert sorted(damage.reason for damage in report.damage) == ["content", "content", "missing", "tree"]
    assert {damage.action for damage in report.damage} == {"none"}
    assert report.dry_run and [damage.leases for damage in report.damage if damage.leases] == [(lease.id,)]
    assert files_below(cache) == before
    with cache.index.read() as rows:
        assert list(rows.iterdump()) == dump
    assert len(verify(cache).damage) == 4


@pytest.mark.parametrize("kind", ["file", "blob"])
def test_what_comes_and_goes_is_no_damage_to_a_dry_run(
    cache: Cache, snapshot: Snapshot, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, kind: str
) -> None:
    """It looks without a lock, while others publish and remove the same over and over."""
    there = snapshot.path / "small" if kind == "file" else cache.layout.blob(root_of(CONTENTS["small"]))
    away = tmp_path / "away"
    there.rename(away)
    looks = 0

    def sleep(_: float) -> None:
        nonlocal looks
        looks += 1
        if looks == 2:
            away.rename(there)

    monkeypatch.setattr(condemn.time, "sleep", sleep)
    assert verify(cache, dry_run=True).sound
    assert looks == 2
    there.rename(away)
    monkeypatch.setattr(condemn, "SETTLE_S", 0.1)
    monkeypatch.setattr(condemn.time, "sleep", lambda _: None)
    assert only(verify(cache, dry_run=True)).reason == "missing", "what stays away is"


# --- others beside us


def _before_the_scan(monkeypatch: pytest.MonkeyPatch, action: Callable[[], object]) -> None:
    real, done = engine.check, threading.Lock()

    def check(*arguments: Any) -> Any:
        if done.acquire(blocking=False):
            action()
        return real(*arguments)

    monkeypatch.setattr(engine, "check", check)


def _after_the_scan(monkeypatch: pytest.MonkeyPatch, cache: Cache, action: Callable[[], object]) -> None:
    real = cache.condemning

    def condemning(*arguments: Any, **options: Any) -> Any:
        made = real(*arguments, **options)

        def after(method: Callable[..., Any]) -> Callable[..., Any]:
            def acting(found: Any, *arguments: Any, **options: Any) -> Any:
                if found:
                    action()
                return method(found, *arguments, **options)

            return acting

        made.seen, made.read = after(made.seen), after(made.read)
        return made

    monkeypatch.setattr(cache, "condemning", condemning)


def test_what_is_removed_under_the_scan_is_no_damage(
    cache: Cache, snapshot: Snapshot, monkeypatch: pytest.MonkeyPatch
) -> None:
    _before_the_scan(monkeypatch, lambda: cache.remove([snapshot.id]))
    report = verify(cache)
    assert report.sound and report.snapshots == 1
    assert served(cache) == []


@pytest.mark.parametrize("dry_run", [False, True])
def test_what_is_removed_after_it_was_found_is_no_damage(
    cache: Cache, snapshot: Snapshot, monkeypatch: pytest.MonkeyPatch, dry_run: bool
) -> None:
    flip(snapshot.path / "big", 0)
    (snapshot.path / "small").unlink()
    _after_the_scan(monkeypatch, cache, lambda: cache.remove([snapshot.id]))
    assert verify(cache, dry_run=dry_run).sound


@pytest.mark.parametrize("dry_run", [False, True])
@pytest.mark.parametrize("damage", ["content", "missing", "sidecar", "extra"])
def test_what_was_published_anew_is_left_alone(
    cache: Cache, snapshot: Snapshot, monkeypatch: pytest.MonkeyPatch, dry_run: bool, damage: str
) -> None:
    if damage == "content":
        flip(snapshot.path / "big", 0)
    elif damage == "missing":
        (snapshot.path / "small").unlink()
    elif damage == "extra":
        (snapshot.path / "more").write_bytes(b"")
    else:
        cache.layout.sidecar(snapshot.id).unlink()
    done: list[Snapshot] = []

    def again() -> None:
        if not done:
            cache.remove([snapshot.id])
            done.append(publish(cache, "m", CONTENTS))

    _after_the_scan(monkeypatch, cache, again)
    assert verify(cache, dry_run=dry_run).sound
    assert cache.lookup(key_of("m"), None) == done[0]
    assert tree_on_disk(done[0].path) == CONTENTS


def test_the_inode_of_another_body_is_no_damage(
    cache: Cache, snapshot: Snapshot, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file system gives the number of a removed file to the next one."""
    path = snapshot.path / "big"
    before = path.stat().st_ino
    flip(path, 0)
    _after_the_scan(monkeypatch, cache, lambda: change(path, lambda file: file.write(CONTENTS["big"])))
    assert verify(cache).sound
    assert path.stat().st_ino == before and cache.lookup(key_of("m"), None) == snapshot


def test_a_blob_whose_name_a_sound_body_took_stays(
    cache: Cache, snapshot: Snapshot, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A flight that meets a damaged body puts its own in its place; what links the old one is damaged still."""
    flip(snapshot.path / "big", 0)
    _after_the_scan(monkeypatch, cache, lambda: put_large(cache, CONTENTS["big"]))
    damage = only(verify(cache))
    assert [file.path for file in damage.files] == ["big"] and damage.action == "removed"
    blob = blob_of(cache, root_of(CONTENTS["big"]))
    assert blob is not None and blob.path.read_bytes() == CONTENTS["big"]
    assert verify(cache).sound


def test_gc_beside_it(cache: Cache, open_cache: Callable[..., Cache]) -> None:
    """Resources come and go, by rm, by time and by gc, while everything is read over and over."""
    other = open_cache(gc_grace_s=0.0)
    publish(cache, "stays", {"a": CONTENTS["big"]})
    over = threading.Event()
    failed: list[BaseException] = []

    def churn() -> None:
        number = 0
        try:
            while not over.is_set():
                number += 1
                contents = {"a": paint(2 * MIB, number % 7), "b": b"%d" % number, "c": CONTENTS["small"]}
                made = publish(other, "churn", contents)
                other.remove([made.id])
                if number % 3 == 0:
                    other.gc()
        except BaseException as error:
            failed.append(error)

    thread = threading.Thread(target=churn)
    thread.start()
    try:
        until = time.monotonic() + 2.0
        rounds = 0
        while time.monotonic() < until:
            assert verify(cache).damage == ()
            assert verify(cache, dry_run=True).damage == ()
            rounds += 1
    finally:
        over.set()
        thread.join()
    assert not failed and rounds > 2
    assert_sound(cache)


def test_a_snapshot_under_way_never_appears_with_a_damaged_file(
    cache: Cache, open_cache: Callable[..., Cache], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It has linked the body already; a scrub takes that out; only then it would become visible."""
    blob = put(cache, CONTENTS["big"])
    assert blob is not None
    flip(blob.path, MIB)
    scrubbing, real, reports = open_cache(), Publisher._make_visible, []

    def late(self: Publisher, *arguments: Any) -> Any:
        if not reports:
            reports.append(verify(scrubbing))
        return real(self, *arguments)

    monkeypatch.setattr(Publisher, "_make_visible", late)
    with pytest.raises(GoneError) as caught:
        cache.publish(new_snapshot("m", {}, 0.0), [(entry("big", CONTENTS["big"]), blob.root, "sha256")])
    assert caught.value.ids == (blob.root,)
    assert only(reports[0]).action == "removed"
    assert served(cache) == []
    assert [name for name in files_below(cache) if name.startswith("snapshots-v1")] == []


def test_a_snapshot_under_way_survives_damage_elsewhere(
    cache: Cache, open_cache: Callable[..., Cache], monkeypatch: pytest.MonkeyPatch
) -> None:
    other = put(cache, b"other")
    assert other is not None
    flip(other.path, 0)
    scrubbing, real, reports = open_cache(), Publisher._make_visible, []

    def late(self: Publisher, *arguments: Any) -> Any:
        if not reports:
            reports.append(verify(scrubbing))
        return real(self, *arguments)

    monkeypatch.setattr(Publisher, "_make_visible", late)
    snapshot = publish(cache, "m", CONTENTS)
    assert len(only(reports[0]).files) == 0
    assert tree_on_disk(snapshot.path) == CONTENTS


# --- being told, being stopped


def test_progress_and_damage_are_told(cache: Cache, snapshot: Snapshot) -> None:
    flip(snapshot.path / "big", 0)
    events: list[Event] = []
    told: list[Damage] = []
    report = verify(cache, emit=events.append, on_damage=told.append)
    assert tuple(told) == report.damage
    progress = [event for event in events if isinstance(event, Progress)]
    assert progress[-1].phase == "done"
    assert progress[-1].bytes_done == progress[-1].bytes_total == sum(len(data) for data in CONTENTS.values())
    assert (progress[-1].files_done, progress[-1].resource) == (4, "all")


def test_what_was_found_before_it_was_stopped_is_taken_out(cache: Cache, snapshot: Snapshot) -> None:
    (snapshot.path / "small").unlink()
    told: list[Damage] = []
    with pytest.raises(InterruptedByUser):
        verify(cache, on_damage=told.append, stopped=lambda: bool(told))
    assert [damage.reason for damage in told] == ["missing"]
    assert served(cache) == []


def test_a_stop_in_the_middle_of_a_slow_read(cache: Cache, snapshot: Snapshot) -> None:
    began = time.monotonic()
    with pytest.raises(InterruptedByUser):
        verify(cache, rate_bytes_per_s=MIB // 4, stopped=lambda: time.monotonic() - began > 0.3)
    assert time.monotonic() - began < 3


def test_an_error_of_the_callers_ends_it(cache: Cache, snapshot: Snapshot) -> None:
    flip(snapshot.path / "small", 0)

    def broken(_: Damage) -> None:
        raise RuntimeError("a display fell over")

    with pytest.raises(RuntimeError, match="fell over"):
        verify(cache, on_damage=broken)
    assert served(cache) == [], "it was acted on before it was told"


def test_a_limit_of_the_rate(cache: Cache, snapshot: Snapshot) -> None:
    """8 MiB, in steps of at most 4, of which the last is not waited for."""
    report = verify(cache, rate_bytes_per_s=4 * MIB)
    assert report.sound
    assert report.elapsed_s > 0.9
