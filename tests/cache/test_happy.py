"""From bytes to a visible directory and back to nothing, with no fault on the way."""

from __future__ import annotations

import os
from pathlib import Path

import blake3
import pytest

from fetcher.cache.layout import content_id
from fetcher.cache.records import PartialHead, SmallFile
from fetcher.cache.store import Cache
from fetcher.cache.tree_file import TreeFile
from fetcher.errors import CacheError, ForbiddenError, InternalError
from fetcher.model.digest import Digest
from fetcher.model.manifest import FileEntry
from tests.cache.asking import blob_of, blob_of_content
from tests.cache.world import (
    MIB,
    Clock,
    assert_sound,
    block_of,
    entry,
    files_below,
    head_of,
    key_of,
    new_snapshot,
    paint,
    publish,
    put,
    put_large,
    put_small,
    sha256,
    tree_on_disk,
)

CONTENTS = {
    "a/b/deep.bin": paint(3 * MIB + 5),
    "a/exact": paint(MIB, 1),
    "a/two": paint(2 * MIB, 2),
    "empty": b"",
    "one": b"x",
    "one-more": b"x",
    "z/over": paint(MIB + 1, 3),
}


def test_a_snapshot_holds_the_files_of_its_manifest_and_nothing_else(cache: Cache) -> None:
    snapshot = publish(cache, "m", CONTENTS)
    assert tree_on_disk(snapshot.path) == CONTENTS
    assert (snapshot.files, snapshot.bytes) == (len(CONTENTS), sum(map(len, CONTENTS.values())))
    assert snapshot.verified_by == "sha256"
    assert cache.lookup(key_of("m"), None) == snapshot
    assert cache.get_snapshot(snapshot.id) == snapshot
    assert cache.snapshots() == [snapshot]
    assert_sound(cache)


def test_files_are_links_to_blobs_and_empty_ones_are_made(cache: Cache) -> None:
    snapshot = publish(cache, "m", CONTENTS)
    for file in cache.files(snapshot.id):
        status = (snapshot.path / file.path).stat()
        if file.root is None:
            assert (status.st_size, status.st_nlink) == (0, 1)
        else:
            blob = blob_of(cache, file.root)
            assert blob is not None and os.path.samestat(blob.path.stat(), status)
            assert file.root == blake3.blake3(CONTENTS[file.path]).hexdigest()


def test_what_is_listed_of_a_snapshot(cache: Cache) -> None:
    snapshot = publish(cache, "m", CONTENTS)
    listed = cache.files(snapshot.id)
    assert [file.path for file in listed] == sorted(CONTENTS)
    assert {file.path: file.digest for file in listed} == {path: sha256(data) for path, data in CONTENTS.items()}


@pytest.mark.needs("native")
def test_the_tree_beside_a_large_blob_says_what_was_proven(cache: Cache) -> None:
    data = paint(3 * MIB + 5)
    blob = put_large(cache, data)
    tree = TreeFile.decode(cache.layout.tree(blob.root).read_bytes())
    assert (tree.root, tree.size, tree.block_bytes) == (blob.root, len(data), MIB)
    assert tree.digests == (sha256(data),)
    assert tree.verified_by == "sha256"
    assert len(tree.chaining_values) == 4 * 32


def test_a_blob_of_one_block_is_its_own_tree(cache: Cache) -> None:
    blob = put(cache, paint(MIB))
    assert blob is not None and not cache.layout.tree(blob.root).exists()


def test_a_partial_may_hold_one_block(cache: Cache) -> None:
    data = paint(1000)
    blob = put_large(cache, data)
    assert blob.root == blake3.blake3(data).hexdigest()
    assert blob.path.read_bytes() == data


def test_publishing_the_same_again_restarts_its_times(cache: Cache, clock: Clock) -> None:
    first = publish(cache, "m", CONTENTS)
    clock.turn(1000)
    second = publish(cache, "m", CONTENTS)
    assert (second.id, second.downloaded_at) == (first.id, first.downloaded_at)
    assert second.validated_at == first.validated_at + 1000
    assert second.keep_until == first.keep_until + 1000


def test_the_snapshot_validated_last_answers(cache: Cache, clock: Clock) -> None:
    old = publish(cache, "m", {"f": b"old"})
    clock.turn(10)
    new = publish(cache, "m", {"f": b"new"})
    assert cache.lookup(key_of("m"), None) == new
    clock.turn(10)
    again = publish(cache, "m", {"f": b"old"})  # the branch went back
    assert again.id == old.id
    assert cache.lookup(key_of("m"), None) == again


def test_freshness(cache: Cache, clock: Clock) -> None:
    snapshot = publish(cache, "m", {"f": b"x"}, fresh_for_s=100.0)
    forever = publish(cache, "c", {"f": b"x"}, fresh_for_s=100.0, immutable=True)
    assert snapshot.fresh(clock() + 99) and not snapshot.fresh(clock() + 100)
    assert forever.fresh_until is None and forever.fresh(clock() + 1e9)
    clock.turn(150)
    current = cache.revalidate(snapshot.id, 100.0, 500.0)
    assert current.fresh(clock()) and current.downloaded_at == snapshot.downloaded_at
    assert (current.validated_at, current.keep_until) == (clock(), clock() + 500)
    assert cache.revalidate(forever.id, 100.0, 500.0).fresh_until is None


def test_a_snapshot_whose_directory_was_taken_away_is_forgotten(cache: Cache) -> None:
    snapshot = publish(cache, "m", {"f": b"x"})
    snapshot.path.rename(snapshot.path.with_name("elsewhere"))
    assert cache.lookup(key_of("m"), None) is None
    assert cache.snapshots() == []


def test_snapshot_at(cache: Cache, tmp_path: Path) -> None:
    snapshot = publish(cache, "m", {"a/f": b"x"})
    assert cache.snapshot_at(snapshot.path) == snapshot
    assert cache.snapshot_at(snapshot.path / "a" / "f") == snapshot
    (tmp_path / "link").symlink_to(snapshot.path / "a")
    assert cache.snapshot_at(tmp_path / "link" / "f") == snapshot
    assert cache.snapshot_at(cache.layout.snapshots) is None
    assert cache.snapshot_at(tmp_path) is None


def test_touch_is_written_once_a_minute(cache: Cache, clock: Clock) -> None:
    snapshot = publish(cache, "m", {"f": b"x"})
    for seconds, written in ((10, 10), (30, 10), (40, 80)):
        clock.turn(seconds)
        cache.touch(snapshot.id)
        found = cache.get_snapshot(snapshot.id)
        assert found is not None and found.last_used_at == pytest.approx(snapshot.last_used_at + written)


def test_keep_for_from_last_use(open_cache: object, clock: Clock) -> None:
    cache = open_cache(keep_from="use")  # type: ignore[operator]
    snapshot = publish(cache, "m", {"f": b"x"}, keep_for_s=1000.0)
    clock.turn(900)
    cache.touch(snapshot.id)
    found = cache.get_snapshot(snapshot.id)
    assert found is not None and found.keep_until == clock() + 1000


def test_remove_leaves_nothing(cache: Cache) -> None:
    snapshot = publish(cache, "m", CONTENTS)
    report = cache.remove([snapshot.id])
    assert report.snapshots == (snapshot.id,)
    assert report.blobs == len({data for data in CONTENTS.values() if data})
    assert report.bytes_freed >= sum(map(len, set(CONTENTS.values())))
    assert files_below(cache) == [f"owners-v1/{cache.owner.id}"]


def test_close_leaves_no_owner(cache: Cache) -> None:
    publish(cache, "m", CONTENTS)
    cache.close()
    cache.close()
    assert list(cache.layout.owners.iterdir()) == []


def test_two_contents_of_one_batch_may_be_equal(cache: Cache) -> None:
    items = [SmallFile(f"{number:064x}", b"same", (), "size") for number in range(3)]
    blobs = cache.commit_small(items, private=False, principal=None)
    assert len({blob.root for blob in blobs}) == 1
    for item in items:
        assert blob_of_content(cache, item.content_id, None, 4, principal=None) == blobs[0]


def test_a_large_batch_has_one_barrier(cache: Cache, monkeypatch: pytest.MonkeyPatch) -> None:
    from fetcher.cache import durable

    barriers: list[object] = []
    monkeypatch.setattr(durable, "sync_file_system", barriers.append)
    monkeypatch.setattr(durable, "sync_file", lambda path: pytest.fail("one fsync each"))
    items = [SmallFile(f"{number:064x}", b"%d" % number, (), "size") for number in range(100)]
    cache.commit_small(items, private=False, principal=None)
    assert len(barriers) == 1


def test_many_blocks_at_once(cache: Cache) -> None:
    from concurrent.futures import ThreadPoolExecutor

    data = paint(24 * MIB + 3)
    partial = cache.partial_open(head_of(data))
    with ThreadPoolExecutor(4) as pool:
        order = sorted(range(partial.block_count), key=lambda block: block * 7 % 25)
        list(pool.map(lambda block: partial.write_block(block, block_of(data, block)), order))
    view = memoryview(bytearray(MIB))
    assert partial.read_into(24 * MIB, view) == 3
    root = blake3.blake3(data).hexdigest()
    blob = cache.commit(partial, digests=[], verified_by="size", private=False, principal=None, root=root)
    assert (blob.root, blob.path.read_bytes()) == (root, data)


# --- misuse ----------------------------------------------------------------------------------------------------------


@pytest.mark.needs("native")
def test_an_incomplete_partial_is_not_published(cache: Cache) -> None:
    data = paint(2 * MIB)
    partial = cache.partial_open(head_of(data))
    partial.write_block(1, block_of(data, 1))
    with pytest.raises(InternalError, match="block 0 is not proven"):
        cache.commit(partial, digests=[], verified_by="size", private=False, principal=None)
    partial.close()


def test_a_block_has_its_length(cache: Cache) -> None:
    partial = cache.partial_open(head_of(paint(2 * MIB)))
    with pytest.raises(InternalError, match="is 1048576 bytes, not 5"):
        partial.write_block(0, b"short")
    with pytest.raises(InternalError, match="not a block 2"):
        partial.write_block(2, b"")
    partial.close()
    with pytest.raises(InternalError, match="after its end"):
        partial.write_block(0, paint(MIB))


def test_a_partial_is_open_once(cache: Cache) -> None:
    head = head_of(paint(MIB))
    partial = cache.partial_open(head)
    with pytest.raises(InternalError, match="open already"):
        cache.partial_open(head)
    partial.close()
    cache.partial_open(head).discard()
    assert list(cache.layout.partials.iterdir()) == []


def test_commit_needs_quiet(cache: Cache, monkeypatch: pytest.MonkeyPatch) -> None:
    import threading

    from fetcher import hashing

    data = paint(MIB)
    partial = cache.partial_open(head_of(data))
    inside, leave = threading.Event(), threading.Event()
    real = hashing.write_blocks

    def slow(*arguments: object, **options: object) -> bytes:
        inside.set()
        leave.wait(10)
        return real(*arguments, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(hashing, "write_blocks", slow)
    writer = threading.Thread(target=partial.write_block, args=(0, data))
    writer.start()
    inside.wait(10)
    try:
        for end in (partial.close, partial.discard, partial.reject, partial.forget_blocks, partial.give_up_writing):
            with pytest.raises(InternalError, match="1 calls in flight"):
                end()
    finally:
        leave.set()
        writer.join()
    partial.close()


@pytest.mark.parametrize("path", ["../f", "/f", "a/../../f", "a//f", "a\\f", "f\0", ".", "a/./b", "x" * 256, "\ud800"])
def test_hostile_names_are_refused(cache: Cache, path: str) -> None:
    blob = put_small(cache, b"x")
    files = [(FileEntry(path, 1, sha256(b"x")), blob.root, "sha256")]
    with pytest.raises(ForbiddenError):
        cache.publish(new_snapshot("m", {}, 0.0), files)
    assert list(cache.layout.snapshots.iterdir()) == []


@pytest.mark.parametrize("paths", [("f", "f"), ("f", "F"), ("f", "f/g"), ("a/f", "A/g")])
def test_names_that_collide_are_refused(cache: Cache, paths: tuple[str, str]) -> None:
    blob = put_small(cache, b"x")
    with pytest.raises(ForbiddenError):
        cache.publish(new_snapshot("m", {}, 0.0), [(entry(path, b"x"), blob.root, "sha256") for path in paths])
    assert list(cache.layout.snapshots.iterdir()) == []


@pytest.mark.parametrize("name", ["../../etc/passwd", "", "ab", "A" * 64, "a" * 63 + "/"])
def test_ids_that_are_none_never_become_paths(cache: Cache, name: str) -> None:
    with pytest.raises(CacheError, match="not an id"):
        cache.layout.snapshot(name)
    with pytest.raises(CacheError, match="not an id"):
        cache.layout.blob(name)
    with pytest.raises(CacheError, match="not an id"):
        cache.partial_open(PartialHead(name, "u", 1, "v", "m", False, None))


def test_a_symlink_in_a_staged_folder_is_not_followed(
    cache: Cache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = os.mkdir
    outside = tmp_path / "outside"
    outside.mkdir()

    def planted(path: object, *arguments: object, **options: object) -> None:
        if path == "folder":
            os.symlink(outside, "folder", dir_fd=options["dir_fd"])  # type: ignore[arg-type]
            raise FileExistsError
        real(path, *arguments, **options)  # type: ignore[arg-type]

    blob = put_small(cache, b"x")
    monkeypatch.setattr(os, "mkdir", planted)
    with pytest.raises(CacheError):
        cache.publish(new_snapshot("m", {}, 0.0), [(entry("folder/f", b"x"), blob.root, "sha256")])
    assert list(outside.iterdir()) == []


def test_content_ids_keep_scopes_apart() -> None:
    def of(**more: object) -> str:
        fields: dict[str, object] = {"digest": None, "url": "u", "validator": "v", "size": 1}
        return content_id(**{**fields, "private": False, "principal": None, **more})  # type: ignore[arg-type]

    digest = Digest("sha256", "0" * 64)
    ids = [
        of(),
        of(url="w"),
        of(validator="w"),
        of(size=2),
        of(private=True, principal="p"),
        of(private=True, principal="q"),
        of(digest=digest),
        of(digest=digest, private=True, principal="p"),
        of(url="uv", validator=""),
    ]
    assert len(set(ids)) == len(ids)
    assert of(digest=digest, url="https://a/x") == of(digest=digest, url="https://a/y/z", validator="w", principal="p")
    assert of(digest=digest, url="https://a/x") != of(digest=digest, url="https://b/x"), "a claim of another's"
    assert of(digest=Digest("git-sha1", "0" * 40)) == of()
