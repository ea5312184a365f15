"""Blocks that a sink writes: the Partial gives out places and keeps its books, and finds all of it again."""

from __future__ import annotations

import errno
import os
import random
import select
import stat
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from fetcher import hashing
from fetcher.cache import direct as direct_room
from fetcher.cache import journal
from fetcher.cache.partials import Partial
from fetcher.cache.store import Cache
from fetcher.errors import CacheError, InternalError, NoSpaceError
from tests.cache.world import MIB, block_of, head_of, paint

SIZE = 5 * MIB + 4321
journals = pytest.mark.needs("native")


@pytest.fixture
def sink() -> Iterator[hashing.BlockSink]:
    with closing(hashing.BlockSink(2)) as made:
        yield made


def collected(sink: hashing.BlockSink) -> Iterator[tuple[object, bytes, int, int]]:
    while sink.pending:
        assert select.select([sink.fileno()], [], [], 30)[0]
        yield from sink.completions()


def write(sink: hashing.BlockSink, partial: Partial, data: bytes, *blocks: int, direct: bool = False) -> None:
    for block in blocks:
        fd, direct_fd, journal_fd, place = partial.begin_block(block, direct=direct)
        sink.submit(block, fd, block * MIB, block_of(data, block), journal_fd, place, direct_fd=direct_fd)
    for block, value, error, stage in collected(sink):
        assert isinstance(block, int) and (error, stage) == (0, 0)
        partial.end_block(block, value)


def test_blocks_of_a_sink_are_proven_and_found_again(cache: Cache, sink: hashing.BlockSink) -> None:
    data = paint(SIZE)
    order = [0, 1, 2, 3, 5]
    random.Random(7).shuffle(order)
    partial = cache.partial_open(head_of(data))
    write(sink, partial, data, *order)
    if hashing.HAS_TREE:
        assert partial.proven == {b: hashing.hash_blocks(block_of(data, b), b * MIB) for b in order}
    else:
        assert partial.proven == {}
    assert Path(partial.path, "data").read_bytes()[5 * MIB :] == data[5 * MIB :]
    partial.close()
    partial = cache.partial_open(head_of(data))
    assert sorted(partial.proven) == (sorted(order) if hashing.HAS_TREE else [])
    partial.discard()


@journals
def test_places_are_in_the_order_in_which_blocks_begin(cache: Cache) -> None:
    data = paint(SIZE)
    partial = cache.partial_open(head_of(data))
    start = len(journal.head_bytes(partial.head))
    assert [partial.begin_block(block)[3] for block in (3, 0, 1)] == [start, start + 48, start + 96]
    assert partial.next_slot() == start + 144
    for block in (3, 0, 1):
        partial.fail_block(block)
    partial.discard()


@journals
def test_a_block_that_failed_is_a_hole_and_harms_no_other(cache: Cache, sink: hashing.BlockSink) -> None:
    data = paint(SIZE)
    partial = cache.partial_open(head_of(data))
    write(sink, partial, data, 0)
    *_, place = partial.begin_block(1)
    partial.fail_block(1)
    write(sink, partial, data, 2)
    partial.close()
    assert Path(partial.path, "journal").read_bytes()[place : place + 48] == bytes(48)
    partial = cache.partial_open(head_of(data))
    assert sorted(partial.proven) == [0, 2]
    partial.close()


@journals
def test_a_record_that_fails_leaves_its_block_unproven(cache: Cache, sink: hashing.BlockSink) -> None:
    data = paint(SIZE)
    partial = cache.partial_open(head_of(data))
    write(sink, partial, data, 4)
    fd, _, _, place = partial.begin_block(1)
    with open("/dev/full", "wb") as full:
        sink.submit(1, fd, MIB, block_of(data, 1), full.fileno(), place)
        ((_, _, error, stage),) = collected(sink)
    assert (error, stage) == (errno.ENOSPC, 2)
    partial.fail_block(1)
    assert isinstance(partial.block_error(error), NoSpaceError)
    assert isinstance(partial.block_error(errno.EIO), CacheError)
    assert sorted(partial.proven) == [4]
    partial.close()
    partial = cache.partial_open(head_of(data))
    assert sorted(partial.proven) == [4]
    partial.close()


@journals
def test_midstates_stand_behind_the_blocks_they_speak_of(cache: Cache, sink: hashing.BlockSink) -> None:
    data = paint(SIZE)
    partial = cache.partial_open(head_of(data))
    write(sink, partial, data, 2, 0, 1)
    midstate = bytes(32) + (2 * MIB).to_bytes(8, "little")
    partial.save_midstate(midstate)
    write(sink, partial, data, 3)
    partial.close()
    partial = cache.partial_open(head_of(data))
    assert partial.midstate == midstate
    write(sink, partial, data, 1)  # written again: other bytes, as far as the midstate knows
    partial.close()
    partial = cache.partial_open(head_of(data))
    assert sorted(partial.proven) == [0, 1, 2, 3]
    assert partial.midstate is None
    partial.close()


def test_a_block_under_way_is_a_call_in_flight(cache: Cache) -> None:
    data = paint(SIZE)
    partial = cache.partial_open(head_of(data))
    partial.begin_block(0)
    for end in (partial.close, partial.discard, partial.reject, partial.forget_blocks, partial.give_up_writing):
        with pytest.raises(InternalError, match="in flight"):
            end()
    partial.fail_block(0)
    with pytest.raises(InternalError, match="no call in flight"):
        partial.fail_block(0)
    with pytest.raises(InternalError, match="no call in flight"):
        partial.end_block(0, b"")
    partial.close()


def test_nothing_begins_after_the_end_or_on_a_broken_disk(cache: Cache) -> None:
    data = paint(SIZE)
    partial = cache.partial_open(head_of(data))
    with pytest.raises(InternalError, match="not a block 6"):
        partial.begin_block(6)
    partial.poison()
    with pytest.raises(CacheError):
        partial.begin_block(0)
    partial.close()
    with pytest.raises(InternalError, match="after its end"):
        partial.begin_block(0)


def test_places_are_given_once_among_threads(cache: Cache) -> None:
    data = paint(SIZE)
    partial = cache.partial_open(head_of(data))
    found: list[int] = []

    def take() -> None:
        found.extend([partial.next_slot() for _ in range(500)])

    threads = [threading.Thread(target=take) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(found)) == 2000
    partial.discard()


# --- past the page cache ---------------------------------------------------------------------------------------------


@pytest.fixture
def large(monkeypatch: pytest.MonkeyPatch) -> None:
    """Files of some MiB count as large enough for it."""
    monkeypatch.setattr(direct_room, "BYTES_MIN", MIB)


def test_a_small_file_is_left_to_the_page_cache(cache: Cache, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(direct_room, "file_system_type", lambda _: "ext4")
    partial = cache.partial_open(head_of(paint(SIZE)))
    assert partial.begin_block(0, direct=True)[1] == -1
    partial.fail_block(0)
    partial.discard()


@pytest.mark.usefixtures("large")
def test_a_direct_descriptor_is_of_the_same_file_and_closed_with_it(cache: Cache, sink: hashing.BlockSink) -> None:
    data = paint(SIZE)
    partial = cache.partial_open(head_of(data))
    assert partial.begin_block(0)[1] == -1  # nobody asked
    fd, direct_fd, _, _ = partial.begin_block(1, direct=True)
    again = partial.begin_block(2, direct=True)[1]
    assert again == direct_fd
    for block in (0, 1, 2):
        partial.fail_block(block)
    if direct_fd >= 0:
        assert os.path.sameopenfile(fd, direct_fd)
    write(sink, partial, data, 5, 0, 4, direct=True)
    assert Path(partial.path, "data").read_bytes()[4 * MIB :] == data[4 * MIB :]
    partial.close()
    if direct_fd >= 0:
        with pytest.raises(OSError) as closed:
            os.fstat(direct_fd)
        assert closed.value.errno == errno.EBADF


@pytest.mark.usefixtures("large")
def test_where_there_is_no_direct_descriptor_the_page_cache_is_used(
    cache: Cache, sink: hashing.BlockSink, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = paint(SIZE)
    partial = cache.partial_open(head_of(data))
    real, asked = os.open, []
    monkeypatch.setattr(direct_room, "file_system_type", lambda _: "xfs")

    def refused(path: str, flags: int, *rest: int, **options: int) -> int:
        if flags & os.O_DIRECT:
            asked.append(path)
            raise OSError(errno.EINVAL, "no such thing here")
        return real(path, flags, *rest, **options)

    with monkeypatch.context() as patch:
        patch.setattr(os, "open", refused)
        assert [partial.begin_block(block, direct=True)[1] for block in (0, 1)] == [-1, -1]
    assert len(asked) == 1
    for block in (0, 1):
        partial.fail_block(block)
    write(sink, partial, data, 3, direct=True)
    assert stat.S_ISREG(os.fstat(partial.fd).st_mode)
    partial.discard()


@pytest.mark.usefixtures("large")
@pytest.mark.parametrize("kind", ["tmpfs", "btrfs", "nfs4", ""])
def test_a_file_system_for_which_it_is_no_gain_is_written_through_the_cache(
    cache: Cache, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    monkeypatch.setattr(direct_room, "file_system_type", lambda _: kind)
    partial = cache.partial_open(head_of(paint(SIZE)))
    assert partial.begin_block(0, direct=True)[1] == -1
    assert partial.preallocate(0, 6) is False
    partial.fail_block(0)
    partial.discard()


@pytest.mark.usefixtures("large")
def test_what_was_allocated_ahead_is_seen_as_unproven(
    cache: Cache, sink: hashing.BlockSink, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = paint(SIZE)
    monkeypatch.setattr(direct_room, "file_system_type", lambda _: "ext4")
    partial = cache.partial_open(head_of(data))
    assert partial.bytes_unproven == 0
    if not partial.preallocate(2, 4):
        partial.discard()
        pytest.skip("no O_DIRECT where the tests' files are, or no fallocate, or no compiled core")
    assert 2 * MIB <= partial.bytes_unproven < 3 * MIB
    write(sink, partial, data, 3, 2, direct=True)
    assert partial.bytes_unproven < MIB
    assert partial.preallocate(4, 6)
    assert MIB + 4321 <= partial.bytes_unproven < 3 * MIB
    status = os.fstat(partial.fd)
    assert status.st_size == SIZE
    partial.close()
    partial = cache.partial_open(head_of(data))
    assert sorted(partial.proven) == [2, 3]
    assert os.pread(partial.fd, 2 * MIB, 2 * MIB) == data[2 * MIB : 4 * MIB]
    with pytest.raises(InternalError, match="not a block 6"):
        partial.preallocate(5, 7)
    partial.discard()


@pytest.mark.usefixtures("large")
def test_space_that_is_not_there_is_said_when_it_is_asked_for(cache: Cache, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: int, **__: int) -> bool:
        raise OSError(errno.ENOSPC, "full")

    monkeypatch.setattr(direct_room, "file_system_type", lambda _: "ext4")
    monkeypatch.setattr(hashing, "preallocate", full)
    partial = cache.partial_open(head_of(paint(SIZE)))
    if partial.begin_block(0, direct=True)[1] >= 0:
        with pytest.raises(NoSpaceError):
            partial.preallocate(0, 6)
    partial.fail_block(0)
    partial.discard()


def test_looking_for_what_is_mounted_holds_up_no_block(cache: Cache, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is a worker that looks; blocks begin on the event loop."""
    partial = cache.partial_open(head_of(paint(SIZE)))
    looking, seen = threading.Event(), threading.Event()

    def look(_: Path) -> str:
        looking.set()
        assert seen.wait(30)
        return ""

    monkeypatch.setattr(direct_room, "BYTES_MIN", 0)
    monkeypatch.setattr(direct_room, "file_system_type", look)
    worker = threading.Thread(target=partial.preallocate, args=(0, 2))
    beginning = threading.Thread(target=partial.begin_block, args=(3,))
    worker.start()
    try:
        assert looking.wait(30)
        beginning.start()
        beginning.join(10)
        assert not beginning.is_alive(), "a block waits for the look at what is mounted"
    finally:
        seen.set()
        worker.join(30)
        beginning.join(30)
    partial.fail_block(3)
    partial.discard()
