"""Small contents, many at a time: written ahead or with their batch, named and booked together."""

from __future__ import annotations

import errno
import os
import sqlite3
import stat
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest

from fetcher.cache import durable
from fetcher.cache.index import BULK_PLACEHOLDERS, BULK_VALUES, insert_many, select_many
from fetcher.cache.records import SmallFile
from fetcher.cache.small_files import SmallStaging
from fetcher.cache.steps import listen
from fetcher.cache.store import Cache
from fetcher.errors import CacheError
from fetcher.hashing import root_of
from tests.cache.asking import blob_of_content, blob_with
from tests.cache.world import head_of, publish, settings, sha256


def unwritten(data: bytes) -> SmallFile:
    return SmallFile(head_of(data).content_id, data, (sha256(data),), "sha256")


def staged(staging: SmallStaging, data: bytes) -> SmallFile:
    (name,) = staging.write([data])
    root = root_of(data).hex()
    return SmallFile(head_of(data).content_id, b"", (sha256(data),), "sha256", root, name, len(data))


def leftovers(cache: Cache) -> list[Path]:
    return [path for path in cache.layout.partials.iterdir() if path.name.startswith(".")]


@pytest.fixture
def no_listener() -> Iterator[None]:
    yield
    listen(None)


def test_written_ahead_and_with_the_batch(cache: Cache) -> None:
    contents = [b"one", b"two", b"three", b"four"]
    with cache.small_staging() as staging:
        items = [staged(staging, data) if number % 2 else unwritten(data) for number, data in enumerate(contents)]
        blobs = cache.commit_small(items, private=False, principal=None, staging=staging)
        assert os.listdir(staging.path) == [], "published ones have one name less"
        more = cache.commit_small([staged(staging, b"five")], private=False, principal=None, staging=staging)
    for data, blob in zip([*contents, b"five"], [*blobs, *more], strict=True):
        assert (blob.root, blob.size, blob.path.read_bytes()) == (root_of(data).hex(), len(data), data)
        assert stat.S_IMODE(blob.path.stat().st_mode) == 0o444
        assert blob_with(cache, sha256(data), len(data), principal=None) == blob
    assert leftovers(cache) == []


def test_what_was_written_and_not_published_goes(cache: Cache) -> None:
    staging = cache.small_staging()
    staging.write([b"one", b"two"])
    assert len(leftovers(cache)) == 1
    staging.close()
    assert leftovers(cache) == []


def test_one_content_twice_in_a_batch_written_ahead(cache: Cache) -> None:
    with cache.small_staging() as staging:
        items = [staged(staging, b"same"), staged(staging, b"same"), unwritten(b"same")]
        blobs = cache.commit_small(items, private=False, principal=None, staging=staging)
        assert os.listdir(staging.path) == []
    assert len({blob.root for blob in blobs}) == 1
    assert blobs[0].path.stat().st_nlink == 1


def test_wrong_bytes_under_the_name_of_one_are_replaced(cache: Cache) -> None:
    (first,) = cache.commit_small([unwritten(b"right")], private=False, principal=None)
    os.unlink(first.path)
    first.path.write_bytes(b"wrong")
    blobs = cache.commit_small([unwritten(b"other"), unwritten(b"right")], private=False, principal=None)
    assert [blob.path.read_bytes() for blob in blobs] == [b"other", b"right"]


def test_a_name_swept_before_the_rows_is_given_back(cache: Cache, no_listener: None) -> None:
    items = [unwritten(b"%d" % number) for number in range(20)]
    gone: list[Path] = []

    def sweep(step: str) -> None:
        if step == "small:named":
            gone.extend(cache.layout.blob(root_of(item.data).hex()) for item in items[::3])
            for path in gone:
                path.unlink()

    listen(sweep)
    blobs = cache.commit_small(items, private=False, principal=None)
    assert len(gone) == 7
    assert [blob.path.read_bytes() for blob in blobs] == [item.data for item in items]


def test_a_directory_of_blobs_that_somebody_removed(cache: Cache) -> None:
    (first,) = cache.commit_small([unwritten(b"one")], private=False, principal=None)
    first.path.unlink()
    first.path.parent.rmdir()
    (again,) = cache.commit_small([unwritten(b"one")], private=False, principal=None)
    assert again == first
    assert first.path.read_bytes() == b"one"


def test_without_hard_links(cache: Cache, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(errno.EPERM, "no hard links here")

    monkeypatch.setattr(durable, "link_files", lambda folder, names, *_: [errno.EPERM] * len(names))
    monkeypatch.setattr(os, "link", refuse)
    contents = {"a": b"one", "b/c": b"two", "b/d": b"one"}
    snapshot = publish(cache, "model", contents)
    found = {path: (snapshot.path / path).read_bytes() for path in contents}
    assert found == contents
    assert leftovers(cache) == []


@pytest.mark.parametrize("error", [errno.ENOSPC, errno.EIO])
def test_a_disk_that_refuses_leaves_nothing(cache: Cache, monkeypatch: pytest.MonkeyPatch, error: int) -> None:
    from fetcher.errors import CacheError, NoSpaceError

    def refuse(*_: object) -> None:
        raise OSError(error, os.strerror(error))

    monkeypatch.setattr(durable, "write_files", refuse)
    with pytest.raises(NoSpaceError if error == errno.ENOSPC else CacheError):
        cache.commit_small([unwritten(b"one")], private=False, principal=None)
    assert leftovers(cache) == []
    assert blob_of_content(cache, head_of(b"one").content_id, None, 3, principal=None) is None


# --- many rows at once -----------------------------------------------------------------------------------------------

BULK_ROWS = BULK_PLACEHOLDERS // 2
COUNTS = sorted({0, 1, BULK_ROWS - 1, BULK_ROWS, BULK_ROWS + 1, BULK_VALUES, BULK_VALUES + 1, 3 * BULK_VALUES})


@pytest.mark.parametrize("count", COUNTS)
def test_any_number_of_rows(count: int) -> None:
    rows = sqlite3.connect(":memory:")
    try:
        rows.execute("CREATE TABLE things (name TEXT PRIMARY KEY, number INTEGER)")
        values = [(f"{number:04}", number) for number in range(count)]
        insert_many(rows, "INSERT INTO things", values)
        insert_many(rows, "INSERT OR IGNORE INTO things", [(name, -1) for name, _ in values])
        assert rows.execute("SELECT * FROM things ORDER BY name").fetchall() == values
        then = "ON CONFLICT (name) DO UPDATE SET number = excluded.number"
        insert_many(rows, "INSERT INTO things (name, number)", [(name, 7) for name, _ in (*values, *values)], then)
        assert rows.execute("SELECT count(*) FROM things WHERE number = 7").fetchone() == (count,)
        wanted = [name for name, _ in values] + ["unknown"]
        select = "SELECT name FROM things WHERE number = ? AND name IN"
        assert sorted(select_many(rows, select, wanted, 7)) == [(name,) for name, _ in values]
    finally:
        rows.close()


def test_many_contents_are_found_as_one_by_one(cache: Cache) -> None:
    public, secret = [b"public %d" % n for n in range(700)], b"secret"
    cache.commit_small([unwritten(data) for data in public], private=False, principal=None)
    private_id = head_of(secret, private=True, principal="alice").content_id
    item = SmallFile(private_id, secret, (sha256(secret),), "sha256")
    cache.commit_small([item], private=True, principal="alice")
    os.unlink(cache.layout.blob(root_of(public[3]).hex()))
    asked = [(head_of(data).content_id, sha256(data), len(data)) for data in public]
    asked += [(f"{n:064x}", sha256(data), len(data)) for n, data in enumerate(public)]  # known by their digest alone
    asked += [(private_id, None, 6), ("e" * 64, sha256(secret), 6), ("f" * 64, None, 6), (asked[0][0], None, 99)]
    for principal in (None, "alice", "bob"):
        single = [blob_of_content(cache, *one, principal=principal) for one in asked]
        assert cache.blobs.of_contents(asked, principal=principal) == single
        assert single[3] is None and single[703] is None
        assert (single[-3] is not None) == (principal == "alice")
        assert sum(blob is not None for blob in single[:1400]) == 1398


@pytest.mark.parametrize("fails", [False, True])
def test_rows_of_a_batch_refer_to_what_is_there_and_the_index_looks_again_afterwards(
    cache: Cache, fails: bool, no_listener: None
) -> None:
    """A batch's own rows are inserted unlooked-at; no other transaction of the same connection may be."""

    class Broken(Exception):
        pass

    def listener(step: str) -> None:
        if fails and step == "small:named":
            raise Broken

    listen(listener)
    batch = [unwritten(b"%d" % number) for number in range(50)]
    if fails:
        with pytest.raises(Broken):
            cache.commit_small(batch, private=False, principal=None)
        with pytest.raises(RuntimeError), cache.index.write(durable=False, references_hold=True) as rows:
            rows.execute("INSERT INTO blob_holds VALUES ('none', 'nobody')")
            raise RuntimeError
    else:
        cache.commit_small(batch, private=False, principal=None)
    with cache.index.read() as rows:
        assert rows.execute("PRAGMA foreign_key_check").fetchall() == []
        assert rows.execute("SELECT COUNT(*) FROM blob_holds").fetchone() == (0 if fails else len(batch),)
    with pytest.raises(CacheError), cache.index.write(durable=False) as rows:
        rows.execute("INSERT INTO blob_holds VALUES ('none', 'nobody')")


@pytest.mark.parametrize("mode", [0o700, 0o777])
def test_directories_of_blobs_that_others_made_meanwhile_are_looked_at(
    cache: Cache, monkeypatch: pytest.MonkeyPatch, mode: int
) -> None:
    """Who may write to one may replace what is in it."""
    data = b"a content"
    place = cache.layout.blobs / root_of(data).hex()[:2]
    make = durable.make_directories

    def too_late(folder: int, names: list[bytes], wanted: int, group: int | None) -> list[int]:
        place.mkdir()
        place.chmod(mode)
        return make(folder, names, wanted, group)

    monkeypatch.setattr(durable, "make_directories", too_late)
    trusted = mode == 0o700
    with nullcontext() if trusted else pytest.raises(CacheError):
        cache.commit_small([unwritten(data)], private=False, principal=None)
    found = blob_of_content(cache, head_of(data).content_id, None, len(data), principal=None)
    assert (found is not None) is trusted


@pytest.mark.parametrize("group", [None, os.getegid()])
def test_directories_of_blobs_are_open_to_whom_the_cache_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, group: int | None
) -> None:
    make, groups = durable.make_directories, []

    def made(folder: int, names: list[bytes], mode: int, group: int | None) -> list[int]:
        groups.append(group)
        return make(folder, names, mode, group)

    monkeypatch.setattr(durable, "make_directories", made)
    with Cache.open(settings(tmp_path, cache_group=group)) as cache:
        (blob,) = cache.commit_small([unwritten(b"a content")], private=False, principal=None)
        folder = cache.layout.blob(blob.root).parent
        assert stat.S_IMODE(folder.stat().st_mode) == (0o700 if group is None else 0o750)
    assert groups == [group]


def test_a_directory_of_blobs_that_cannot_be_made_is_said(cache: Cache, monkeypatch: pytest.MonkeyPatch) -> None:
    """Perhaps it is there, and not yet open to whom it should be: nothing is put into it."""
    make = durable.make_directories

    def half(*arguments: Any) -> list[int]:
        return [errno.EIO for _ in make(*arguments)]

    monkeypatch.setattr(durable, "make_directories", half)
    with pytest.raises(CacheError, match=os.strerror(errno.EIO)):
        cache.commit_small([unwritten(b"a content")], private=False, principal=None)
    assert not list(cache.layout.blobs.glob("??/*"))
