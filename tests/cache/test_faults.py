"""What a disk may answer: full, failing, without hard links. A typed error or the next best way, never wrong bytes."""

from __future__ import annotations

import errno
import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import blake3
import pytest

from fetcher import hashing
from fetcher.cache import durable, rescan
from fetcher.cache.records import Blob, GoneError
from fetcher.cache.store import Cache
from fetcher.cache.tree_file import TreeFile, tree_of
from fetcher.errors import CacheError, NoSpaceError
from tests.cache.world import (
    MIB,
    assert_sound,
    believed,
    block_of,
    child,
    entry,
    head_of,
    many_files_by_os,
    new_snapshot,
    paint,
    publish,
    put,
    put_large,
    settings,
    sha256,
    told,
    tree_on_disk,
)

CONTENTS = {"a/large": paint(MIB + 3), "small": b"small"}


def failing(number: int) -> Callable[..., None]:
    def fail(*_: object, **__: object) -> None:
        raise OSError(number, os.strerror(number))

    return fail


@pytest.mark.parametrize("number", [errno.EMLINK, errno.EPERM, errno.EXDEV, errno.EOPNOTSUPP])
def test_without_hard_links_bodies_are_copied(cache: Cache, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    many_files_by_os(monkeypatch.setattr)
    monkeypatch.setattr(os, "link", failing(number))
    snapshot = publish(cache, "m", CONTENTS)
    assert tree_on_disk(snapshot.path) == CONTENTS
    for path in CONTENTS:
        assert (snapshot.path / path).stat().st_mode & 0o777 == 0o444
    assert_sound(cache)


def test_too_many_links_to_one_body(cache: Cache, monkeypatch: pytest.MonkeyPatch) -> None:
    """ext4 allows 65,000; the files beyond get a body of their own."""
    blob = put(cache, b"licence")
    assert blob is not None
    real, made = os.link, 0

    def limited(*arguments: object, **options: object) -> None:
        nonlocal made
        made += 1
        if made > 3:
            raise OSError(errno.EMLINK, "too many links")
        real(*arguments, **options)  # type: ignore[arg-type]

    many_files_by_os(monkeypatch.setattr)
    monkeypatch.setattr(os, "link", limited)
    files = [(entry(f"{number}/licence", b"licence"), blob.root, "sha256") for number in range(5)]
    snapshot = cache.publish(new_snapshot("m", {}, 0.0), files)
    assert tree_on_disk(snapshot.path) == {f"{number}/licence": b"licence" for number in range(5)}
    assert blob.path.stat().st_nlink == 4


def test_any_other_refusal_of_a_link_is_an_error(cache: Cache, monkeypatch: pytest.MonkeyPatch) -> None:
    blob = put(cache, b"x")
    assert blob is not None
    many_files_by_os(monkeypatch.setattr)
    monkeypatch.setattr(os, "link", failing(errno.EIO))
    with pytest.raises(CacheError, match="Input/output error"):
        cache.publish(new_snapshot("m", {}, 0.0), [(entry("f", b"x"), blob.root, "sha256")])
    assert list(cache.layout.snapshots.iterdir()) == []


def test_a_blob_that_vanished_is_named(cache: Cache) -> None:
    blob = put(cache, b"x")
    assert blob is not None
    blob.path.unlink()
    with pytest.raises(GoneError) as caught:
        cache.publish(new_snapshot("m", {}, 0.0), [(entry("f", b"x"), blob.root, "sha256")])
    assert caught.value.ids == (blob.root,)
    assert list(cache.layout.snapshots.iterdir()) == []


def test_a_blob_of_another_size_is_not_published(cache: Cache) -> None:
    blob = put(cache, b"xyz")
    assert blob is not None
    with pytest.raises(CacheError, match="has 3 bytes"):
        cache.publish(new_snapshot("m", {}, 0.0), [(entry("f", b"longer"), blob.root, "sha256")])
    assert cache.snapshots() == []


def test_what_could_not_be_made_durable_loses_its_journal_at_once(
    cache: Cache, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Other calls in flight keep the Partial open for a while. Whoever is killed meanwhile leaves nothing to resume."""
    data = paint(2 * MIB)
    partial = cache.partial_open(head_of(data))
    partial.write_block(0, block_of(data, 0))
    with partial.reading(), monkeypatch.context() as patched:
        patched.setattr(os, "fdatasync", failing(errno.EIO))
        with pytest.raises(CacheError, match="Input/output error"):
            partial.sync()
        assert [path.name for path in partial.path.iterdir()] == ["data"]
    partial.close()
    assert not partial.path.exists()


@pytest.mark.parametrize("call", ["fsync", "fdatasync"])
def test_an_fsync_error_poisons(cache: Cache, monkeypatch: pytest.MonkeyPatch, call: str) -> None:
    data = paint(2 * MIB)
    partial = cache.partial_open(head_of(data))
    for block in range(2):
        partial.write_block(block, block_of(data, block))
    monkeypatch.setattr(os, call, failing(errno.EIO))
    with pytest.raises(CacheError, match="Input/output error"):
        if call == "fdatasync":
            partial.sync()
        else:
            cache.commit(partial, digests=[], verified_by="size", private=False, principal=None, root="0" * 64)
    monkeypatch.undo()
    if call == "fdatasync":
        with pytest.raises(CacheError, match="could not be made durable"):
            partial.write_block(0, block_of(data, 0))
        with pytest.raises(CacheError, match="could not be made durable"):
            cache.commit(partial, digests=[], verified_by="size", private=False, principal=None)
        partial.close()
    assert list(cache.layout.partials.iterdir()) == [], "a rescan would believe pages that the disk never got"
    assert put_large(cache, data).path.read_bytes() == data


def test_a_failed_commit_keeps_what_is_proven(cache: Cache, monkeypatch: pytest.MonkeyPatch) -> None:
    data = paint(2 * MIB)
    many_files_by_os(monkeypatch.setattr)
    monkeypatch.setattr(os, "link", failing(errno.ENOSPC))
    with pytest.raises(NoSpaceError):
        put_large(cache, data)
    monkeypatch.undo()
    partial = cache.partial_open(head_of(data))
    assert len(partial.proven) == (2 if partial.proven else 0)
    partial.close()
    assert put_large(cache, data).path.read_bytes() == data


def test_a_wrong_leftover_under_the_name_of_a_blob_is_replaced(cache: Cache) -> None:
    for data in (paint(2 * MIB + 1), b"small"):
        root = blake3.blake3(data).hexdigest()
        place = cache.layout.blob(root)
        place.parent.mkdir(exist_ok=True)
        place.write_bytes(bytes(len(data)))
        blob = put(cache, data)
        assert blob is not None and blob.path.read_bytes() == data


def test_a_right_leftover_is_adopted(cache: Cache) -> None:
    for data in (paint(2 * MIB + 1), b"small"):
        root = blake3.blake3(data).hexdigest()
        place = cache.layout.blob(root)
        place.parent.mkdir(exist_ok=True)
        place.write_bytes(data)
        inode = place.stat().st_ino
        blob = put(cache, data)
        assert blob is not None and blob.path.stat().st_ino == inode


def test_a_body_that_is_here_already_is_hashed_in_steps_and_that_may_be_given_up(
    cache: Cache, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As of a second principal, who downloads as if nothing were there."""
    data = paint(5 * MIB + 9)
    head = head_of(data, private=True, principal="bob")
    monkeypatch.setattr(rescan, "SCAN_STEP_BLOCKS", 2)
    blob = put_large(cache, data, private=True, principal="alice")
    steps: list[int] = []

    def give_up() -> None:
        steps.append(1)
        if len(steps) == 2:
            raise KeyboardInterrupt

    def commit(step: Callable[[], None]) -> Blob:
        partial = cache.partial_open(head)
        for block in range(partial.block_count):
            if block not in partial.proven:
                partial.write_block(block, block_of(data, block))
        root = blake3.blake3(data).hexdigest()
        options: dict[str, Any] = {"verified_by": "sha256", "private": True, "principal": "bob", "root": root}
        return cache.commit(partial, digests=[sha256(data)], step=step, **options)

    with pytest.raises(KeyboardInterrupt):
        commit(give_up)
    assert len(steps) == 2
    [left] = cache.layout.partials.iterdir()
    assert left.name.startswith(head.content_id), "nothing was lost"
    steps.clear()
    assert commit(lambda: steps.append(1)) == blob
    assert len(steps) == (3 if hashing.HAS_TREE else 6)
    assert list(cache.layout.partials.iterdir()) == []


def test_a_leftover_whose_last_block_is_wrong_is_replaced(cache: Cache, monkeypatch: pytest.MonkeyPatch) -> None:
    data = paint(2 * MIB + 1)
    monkeypatch.setattr(rescan, "SCAN_STEP_BLOCKS", 1)
    place = cache.layout.blob(blake3.blake3(data).hexdigest())
    place.parent.mkdir(exist_ok=True)
    place.write_bytes(data[:-1] + b"\xff")
    assert put_large(cache, data).path.read_bytes() == data


def test_a_name_swept_before_its_row_is_linked_again(cache: Cache, monkeypatch: pytest.MonkeyPatch) -> None:
    """gc of another process between link(2) and the transaction."""
    real = cache.index.write
    for data in (paint(2 * MIB + 1), b"small"):
        place = cache.layout.blob(blake3.blake3(data).hexdigest())

        def swept(place: Path = place, **options: bool) -> object:
            place.unlink(missing_ok=True)
            return real(**options)

        with monkeypatch.context() as patch:
            patch.setattr(cache.index, "write", swept)
            blob = put(cache, data)
        assert blob is not None and blob.path.read_bytes() == data


def test_a_record_that_could_not_be_written_harms_no_other(cache: Cache, monkeypatch: pytest.MonkeyPatch) -> None:
    data = paint(4 * MIB)
    partial = cache.partial_open(head_of(data))
    partial.write_block(0, block_of(data, 0))
    if not partial.proven:
        partial.discard()
        return
    real = durable.write_all_at

    def torn(descriptor: int, record: bytes, offset: int) -> None:
        real(descriptor, record[:20], offset)
        raise OSError(errno.ENOSPC, "full")

    monkeypatch.setattr(durable, "write_all_at", torn)
    with pytest.raises(NoSpaceError):
        partial.write_block(1, block_of(data, 1))
    monkeypatch.undo()
    partial.write_block(2, block_of(data, 2))
    partial.close()
    partial = cache.partial_open(head_of(data))
    assert sorted(partial.proven) == [0, 2]
    partial.close()


def test_a_limit_of_file_size_is_a_full_disk(place: Path) -> None:
    with child("limited", place, str(3 * MIB)) as actor:
        assert told(actor) == {"error": "NoSpaceError", "proven": believed([0])}


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 8 MiB."""
    directory = tmp_path / "disk"
    directory.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", str(directory)], check=True)
    try:
        yield directory
    finally:
        subprocess.run(["umount", str(directory)], check=True)


@pytest.mark.needs("root")
def test_a_full_disk(small_disk: Path) -> None:
    data = paint(10 * MIB)
    with Cache.open(settings(small_disk / "cache")) as cache:
        with pytest.raises(NoSpaceError, match="are needed"):
            cache.reserve(len(data))
        partial = cache.partial_open(head_of(data))
        written = []
        with pytest.raises(NoSpaceError, match="No space left"):
            for block in range(10):
                partial.write_block(block, block_of(data, block))
                written.append(block)
        assert 4 <= len(written) < 8
        assert sorted(partial.proven) == believed(written)
        partial.close()
        partial = cache.partial_open(head_of(data))
        assert sorted(partial.proven) == believed(written)
        partial.discard()
        assert cache.space().free_bytes > 6 * MIB
        put(cache, paint(MIB + 1))


@pytest.mark.needs("root")
def test_a_disk_too_full_to_publish(small_disk: Path) -> None:
    with Cache.open(settings(small_disk / "cache")) as cache:
        kept = publish(cache, "m", CONTENTS)
        ballast = small_disk / "ballast"
        with ballast.open("wb", buffering=0) as file, pytest.raises(OSError, match="No space"):
            while True:
                file.write(bytes(4096))
        with pytest.raises(NoSpaceError):
            publish(cache, "n", {"f": paint(2 * MIB)})
        assert tree_on_disk(kept.path) == CONTENTS
        ballast.unlink()
        assert tree_on_disk(publish(cache, "n", {"f": b"f"}).path) == {"f": b"f"}
        assert_sound(cache)


# --- what the disk lost ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [1000, 3 * MIB])
def test_fetched_bytes_are_not_dropped_for_damaged_ones(cache: Cache, size: int) -> None:
    data = paint(size)
    old = publish(cache, "old", {"f": data})
    body = next(path for path in cache.layout.blobs.glob("??/*") if path.suffix != ".tree")
    body.chmod(0o644)
    with body.open("r+b") as file:
        file.write(b"\xff" * 100)
    body.chmod(0o444)
    new = publish(cache, "new", {"f": data}, private=True, principal="p" * 32)
    assert (new.path / "f").read_bytes() == data == body.read_bytes()
    assert (old.path / "f").stat().st_ino != body.stat().st_ino


@pytest.mark.parametrize("kind", ["rubbish", "another's"])
def test_a_wrong_tree_does_not_stay(cache: Cache, kind: str) -> None:
    data = paint(3 * MIB)
    place = cache.layout.tree(blake3.blake3(data).hexdigest())
    place.parent.mkdir(mode=0o700)
    other = tree_of("0" * 64, 3 * MIB, MIB, [bytes(32)] * 3, [], "sha256")
    place.write_bytes(b"left over" if kind == "rubbish" else other)
    blob = put_large(cache, data)
    tree = TreeFile.decode(place.read_bytes())
    assert tree.root == blob.root and tree.block_bytes == (MIB if hashing.HAS_TREE else 0)
    before = place.stat().st_ino
    put_large(cache, data, private=True, principal="p" * 32)
    assert place.stat().st_ino == before, "one that says the same stays"
