"""What an earlier run left of a Partial, before anybody goes on from it: nothing of it is believed unseen."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

from fetcher import hashing
from fetcher.cache import durable
from fetcher.cache.layout import MEDIA_ERRNOS

SCAN_STEP_BLOCKS = 256
"""Blocks per rescan call: the core holds no lock of Python's meanwhile, and can't be interrupted either."""


def leave_blob(
    folder: Path, name: str, step: Callable[[], None] | None = None, draw: Callable[[int], None] | None = None
) -> None:
    """A crash between naming a Blob and removing its Partial leaves a body with two names, read-only. We must never
    write to that one: go on with a copy. ``draw`` is told of its bytes before; ``step`` is called between its pieces,
    and may raise to give it up."""
    data, copy = folder / name, folder / "copy"
    try:
        status = os.lstat(data)
    except FileNotFoundError:
        return
    durable.remove_file(copy)  # of somebody who was killed at it
    if status.st_nlink == 1:
        if status.st_mode & 0o777 != 0o600:  # a commit that ended before the Blob had its name
            reader = os.open(data, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
            try:
                os.fchmod(reader, 0o600)
            finally:
                os.close(reader)
        return
    if draw is not None:
        draw(status.st_size)
    try:
        _copy(data, copy, status.st_size, step)
    except BaseException as error:
        durable.remove_file(copy)
        if isinstance(error, OSError) and error.errno in MEDIA_ERRNOS:
            durable.remove_file(data)  # a disk that does not give all of it: what we want of it is fetched again
            return
        raise
    os.rename(copy, data)


def _copy(data: Path, copy: Path, size: int, step: Callable[[], None] | None) -> None:
    source = os.open(data, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        target = os.open(copy, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        try:
            durable.clone_into(source, target, size, look=step)
        finally:
            os.close(target)
    finally:
        os.close(source)


def confirmed(fd: int, size: int, claimed: dict[int, bytes], step: Callable[[], None] | None) -> dict[int, bytes]:
    """The journalled blocks whose bytes are what the journal says. What the disk does not give is not."""
    if not hashing.HAS_TREE:
        return {}
    count = hashing.block_count(size)
    found = {block: value for block, value in claimed.items() if block < count}
    for start, stop in _runs(sorted(found)):
        for block in _not_right(fd, start, stop, size, found, step):
            del found[block]
        if step is not None:
            step()
    return found


def _not_right(
    fd: int, start: int, stop: int, size: int, claimed: dict[int, bytes], step: Callable[[], None] | None
) -> list[int]:
    offset = start * hashing.BLOCK_BYTES
    length = min(stop * hashing.BLOCK_BYTES, size) - offset
    expected = b"".join(claimed[block] for block in range(start, stop))
    try:
        return hashing.scan_file(fd, offset, length, expected, block=hashing.BLOCK_BYTES)
    except OSError as error:
        if error.errno not in MEDIA_ERRNOS:
            raise
    if stop - start == 1:
        return [start]
    found: list[int] = []
    for block in range(start, stop):  # one that can't be read says nothing of its neighbours
        if step is not None:
            step()  # a disk may try for seconds
        found += _not_right(fd, block, block + 1, size, claimed, step)
    return found


def _runs(blocks: list[int]) -> Iterator[tuple[int, int]]:
    """Sorted block numbers as half-open runs of bounded length."""
    start = previous = None
    for block in blocks:
        if start is None or previous is None or block != previous + 1 or block - start >= SCAN_STEP_BLOCKS:
            if start is not None and previous is not None:
                yield start, previous + 1
            start = block
        previous = block
    if start is not None and previous is not None:
        yield start, previous + 1
