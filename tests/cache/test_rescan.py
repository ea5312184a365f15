"""What an earlier run left of a body: whose it is, and what of it is believed."""

from __future__ import annotations

import errno
import os
import stat
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from fetcher import hashing
from fetcher.cache import durable, rescan
from fetcher.cache.rescan import confirmed, leave_blob
from fetcher.hashing import BLOCK_BYTES
from tests.cache.world import paint


def test_a_body_that_was_closed_for_a_blob_that_never_came_is_opened_again(tmp_path: Path) -> None:
    data = tmp_path / "data"
    data.write_bytes(b"x")
    data.chmod(0o400)
    before = data.stat().st_ino
    leave_blob(tmp_path, "data")
    assert stat.S_IMODE(data.stat().st_mode) == 0o600
    assert data.stat().st_ino == before, "nobody else has it, so it is no copy"


@pytest.mark.parametrize("copied_before", [False, True])
def test_a_body_that_is_a_blob_by_now_is_left_to_it(tmp_path: Path, copied_before: bool) -> None:
    data, blob = tmp_path / "data", tmp_path / "blob"
    blob.write_bytes(b"whole")
    blob.chmod(0o400)
    os.link(blob, data)
    if copied_before:  # by somebody who was killed at it
        (tmp_path / "copy").write_bytes(b"half of something longer")
    leave_blob(tmp_path, "data")
    assert data.read_bytes() == blob.read_bytes() == b"whole"
    assert (stat.S_IMODE(data.stat().st_mode), stat.S_IMODE(blob.stat().st_mode)) == (0o600, 0o400)
    assert sorted(os.listdir(tmp_path)) == ["blob", "data"]


def named_twice(folder: Path) -> tuple[Path, Path]:
    """A Partial's body that is a Blob's, too; both names."""
    data, blob = folder / "data", folder / "blob"
    blob.write_bytes(b"whole")
    os.link(blob, data)
    return data, blob


def test_a_copy_is_drawn_before_it_is_made_and_may_be_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data, blob = named_twice(tmp_path)
    monkeypatch.setattr(durable, "reflink", lambda *_: False)
    monkeypatch.setattr(durable, "copy_into", partial(durable.copy_into, step_bytes=2))
    told: list[int | str] = []

    def give_up() -> None:
        told.append("step")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        leave_blob(tmp_path, "data", give_up, told.append)
    assert told == [5, "step"]
    assert sorted(os.listdir(tmp_path)) == ["blob", "data"], "no half of a copy stays"
    told.clear()
    leave_blob(tmp_path, "data", lambda: told.append("step"), told.append)
    assert told == [5, "step", "step"]
    assert data.read_bytes() == b"whole" and not data.samefile(blob)


def test_a_body_that_the_disk_does_not_give_can_not_be_copied_and_is_in_nobodys_way(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data, blob = named_twice(tmp_path)
    number = errno.ENOSPC

    def failing(*_: Any, **__: Any) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(durable, "clone_into", failing)
    with pytest.raises(OSError, match=os.strerror(errno.ENOSPC)):
        leave_blob(tmp_path, "data")
    assert data.samefile(blob) and len(os.listdir(tmp_path)) == 2
    number = errno.EIO
    leave_blob(tmp_path, "data")
    assert os.listdir(tmp_path) == ["blob"]


def test_where_nothing_is_left_there_is_nothing_to_do(tmp_path: Path) -> None:
    leave_blob(tmp_path, "data")
    assert not os.listdir(tmp_path)


@pytest.mark.needs("native")
def test_only_blocks_of_the_file_with_the_bytes_they_are_said_to_have_are_believed_and_each_step_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    size = 6 * BLOCK_BYTES + 5
    data = paint(size)
    values = {block: hashing.hash_blocks(data[start : start + BLOCK_BYTES], start) for block, start in starts(size)}
    damaged = bytearray(data)
    damaged[BLOCK_BYTES] ^= 1
    place = tmp_path / "data"
    place.write_bytes(damaged + bytes(BLOCK_BYTES))  # more than the file has
    scanned: list[tuple[int, int]] = []
    steps: list[int] = []
    scan = hashing.scan_file

    def scan_file(fd: int, offset: int, length: int, *arguments: Any, **options: Any) -> list[int]:
        scanned.append((offset // BLOCK_BYTES, length))
        return scan(fd, offset, length, *arguments, **options)

    monkeypatch.setattr(hashing, "scan_file", scan_file)
    monkeypatch.setattr(rescan, "SCAN_STEP_BLOCKS", 3)
    claimed = {block: value for block, value in values.items() if block != 4} | {7: bytes(32)}
    with open(place, "rb") as file:
        found = confirmed(file.fileno(), size, claimed, lambda: steps.append(len(scanned)))
    assert found == {block: values[block] for block in (0, 2, 3, 5, 6)}
    assert scanned == [(0, 3 * BLOCK_BYTES), (3, BLOCK_BYTES), (5, BLOCK_BYTES + 5)]
    assert steps == [1, 2, 3]


@pytest.mark.needs("native")
def test_a_block_that_can_not_be_read_is_not_believed_and_its_neighbours_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    size = 6 * BLOCK_BYTES + 5
    data = paint(size)
    values = {block: hashing.hash_blocks(data[start : start + BLOCK_BYTES], start) for block, start in starts(size)}
    place = tmp_path / "data"
    place.write_bytes(data)
    scan, number, steps = hashing.scan_file, errno.EIO, list[int]()

    def scan_file(fd: int, offset: int, length: int, *arguments: Any, **options: Any) -> list[int]:
        if offset <= 2 * BLOCK_BYTES < offset + length:
            raise OSError(number, os.strerror(number))
        return scan(fd, offset, length, *arguments, **options)

    monkeypatch.setattr(hashing, "scan_file", scan_file)
    with open(place, "rb") as file:
        found = confirmed(file.fileno(), size, values, lambda: steps.append(1))
        assert found == {block: value for block, value in values.items() if block != 2}
        assert len(steps) == len(values) + 1, "a disk may try for seconds at each"
        number = errno.ENOMEM  # this says nothing of the disk
        with pytest.raises(OSError, match=os.strerror(errno.ENOMEM)):
            confirmed(file.fileno(), size, values, None)


def starts(size: int) -> list[tuple[int, int]]:
    return list(enumerate(range(0, size, BLOCK_BYTES)))
