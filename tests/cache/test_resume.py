"""Partials: what a later run may believe of an earlier one, and what it never may touch."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import signal
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import blake3
import pytest

from fetcher import hashing
from fetcher.cache import durable, journal, takeover
from fetcher.cache.records import PartialHead
from fetcher.cache.store import Cache
from fetcher.errors import CacheError, InternalError
from tests.cache.actor import STEP_CONTENTS
from tests.cache.asking import claimed
from tests.cache.world import MIB, Clock, believed, block_of, child, head_of, paint, put_large, settings, tell, told

SIZE = 5 * MIB + 9

journals = pytest.mark.needs("native")
"""About what is in a journal; in plain mode that is nothing."""


def begun(cache: Cache, data: bytes, *blocks: int) -> Path:
    """A Partial with these blocks, closed; its directory."""
    partial = cache.partial_open(head_of(data))
    for block in blocks:
        partial.write_block(block, block_of(data, block))
    partial.sync()
    partial.close()
    return partial.path


@journals
def test_proven_blocks_are_found_again(cache: Cache) -> None:
    data = paint(SIZE)
    begun(cache, data, 0, 3, 5)
    partial = cache.partial_open(head_of(data))
    assert sorted(partial.proven) == [0, 3, 5]
    assert partial.bytes_proven == 2 * MIB + 9
    partial.close()
    assert put_large(cache, data).root == blake3.blake3(data).hexdigest()


def test_after_close_the_next_process_takes_it_over(open_cache: Callable[..., Cache]) -> None:
    data = paint(SIZE)
    first = open_cache()
    path = begun(first, data, 1, 2)
    inode = path.stat().st_ino
    first.close()
    second = open_cache()
    partial = second.partial_open(head_of(data), previous_owner=first.owner.id)
    assert sorted(partial.proven) == believed([1, 2])
    assert partial.path.stat().st_ino == inode, "taken by rename, not copied"
    assert not path.exists()
    partial.close()


@journals
def test_all_that_one_dead_owner_left_can_be_taken_at_the_same_time(
    open_cache: Callable[..., Cache], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each heir has the dead owner's lock in hand for a moment. Found by cutting the power: to the others that looked
    like a living owner, so that they started from zero."""
    contents = [paint(2 * MIB + shade, shade) for shade in range(6)]
    first = open_cache()
    for data in contents:
        begun(first, data, 1)
    first.close()
    second = open_cache()
    rename = os.rename

    def slow_rename(source: Path, target: Path) -> None:
        time.sleep(0.02)
        rename(source, target)

    monkeypatch.setattr(takeover.os, "rename", slow_rename)
    found: dict[int, list[int]] = {}

    def take(number: int) -> None:
        partial = second.partial_open(head_of(contents[number]), previous_owner=first.owner.id)
        found[number] = sorted(partial.proven)
        partial.close()

    threads = [threading.Thread(target=take, args=(number,)) for number in range(len(contents))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == {number: [1] for number in range(len(contents))}


@journals
def test_another_heir_at_a_dead_owners_lock_is_no_sign_of_life(open_cache: Callable[..., Cache]) -> None:
    """The other one takes another Partial, in a process of its own."""
    data = paint(SIZE)
    first = open_cache()
    begun(first, data, 1, 2)
    first.close()
    second = open_cache()
    with ThreadPoolExecutor(1) as executor:
        with second._owners.holding(first.owner.id) as held:
            assert held
            opening = executor.submit(second.partial_open, head_of(data))
            time.sleep(0.05)
        partial = opening.result()
    assert sorted(partial.proven) == [1, 2]
    partial.close()


@journals
@pytest.mark.parametrize("block", [0, 4, 5])
def test_a_flipped_byte_costs_its_block_only(cache: Cache, block: int) -> None:
    data = paint(SIZE)
    path = begun(cache, data, 0, 1, 4, 5)
    with (path / "data").open("r+b") as file:
        file.seek(block * MIB + 3)
        file.write(b"\xff")
    partial = cache.partial_open(head_of(data))
    assert sorted(partial.proven) == sorted({0, 1, 4, 5} - {block})
    partial.close()


@journals
@pytest.mark.parametrize("cut", [1, 47, 48, 49, 96])
def test_a_torn_journal_keeps_its_whole_records(cache: Cache, cut: int) -> None:
    data = paint(SIZE)
    path = begun(cache, data, 0, 1, 2)
    size = (path / "journal").stat().st_size
    os.truncate(path / "journal", size - cut)
    kept = [0, 1, 2][: 3 - -(-cut // 48)]
    partial = cache.partial_open(head_of(data))
    assert sorted(partial.proven) == kept
    partial.write_block(4, block_of(data, 4))  # what is appended now must be readable behind the torn place
    partial.close()
    partial = cache.partial_open(head_of(data))
    assert sorted(partial.proven) == [*kept, 4]
    partial.close()


@journals
def test_a_damaged_record_in_the_middle_counts_for_nothing(cache: Cache) -> None:
    data = paint(SIZE)
    path = begun(cache, data, 0, 1, 2)
    with (path / "journal").open("r+b") as file:
        file.seek(-2 * 48 + 20, os.SEEK_END)
        file.write(b"\xff\xff")
    partial = cache.partial_open(head_of(data))
    assert sorted(partial.proven) == [0, 2]
    partial.close()


def test_every_damage_of_the_head_means_a_new_start(cache: Cache) -> None:
    data = paint(SIZE)
    for position in (0, 8, 12, 16, 40):
        path = begun(cache, data, 0)
        raw = bytearray((path / "journal").read_bytes())
        raw[position] ^= 0xFF
        (path / "journal").write_bytes(raw)
        partial = cache.partial_open(head_of(data))
        assert partial.proven == {}
        partial.discard()


@journals
def test_journalled_blocks_beyond_the_end_are_ignored(cache: Cache) -> None:
    data = paint(SIZE)
    path = begun(cache, data, 0)
    with (path / "journal").open("ab") as file:
        file.write(journal.block_record(1 << 60, bytes(32)))
    partial = cache.partial_open(head_of(data))
    assert sorted(partial.proven) == [0]
    partial.close()


def test_a_journal_without_its_data_proves_nothing(cache: Cache) -> None:
    data = paint(SIZE)
    path = begun(cache, data, 0, 1)
    (path / "data").unlink()
    partial = cache.partial_open(head_of(data))
    assert partial.proven == {}
    partial.close()


def test_another_scope_shares_nothing(cache: Cache) -> None:
    data = paint(SIZE)
    begun(cache, data, 0, 1)
    private = cache.partial_open(head_of(data, private=True, principal="p" * 32))
    assert private.proven == {}
    private.close()


def test_a_head_that_lies_about_its_name_is_not_believed(cache: Cache) -> None:
    data = paint(SIZE)
    path = begun(cache, data, 0)
    other = head_of(data, private=True, principal="p")
    path.rename(path.with_name(f"{other.content_id}.{cache.owner.id}"))
    partial = cache.partial_open(other)
    assert partial.proven == {}
    partial.close()


def test_the_journal_survives_a_round_trip(tmp_path: Path) -> None:
    head = PartialHead("c" * 64, "https://h/ü", 1 << 50, '"etag"', "m", True, "p", "origin")
    record = journal.block_record((1 << 50) - 1, bytes(range(32)))
    (tmp_path / "journal").write_bytes(journal.head_bytes(head) + record + record[:-1])
    assert journal.read(tmp_path / "journal") == journal.Found(
        head, {(1 << 50) - 1: bytes(range(32))}, (), len(journal.head_bytes(head)) + 48
    )


# --- the wrong content -----------------------------------------------------------------------------------------------


def test_a_rejected_copy_is_kept_apart_and_compared(cache: Cache) -> None:
    right, wrong = paint(SIZE), bytearray(paint(SIZE))
    wrong[2 * MIB + 1] ^= 1
    wrong[-1] ^= 1
    partial = cache.partial_open(head_of(right))
    for block in range(partial.block_count):
        partial.write_block(block, block_of(bytes(wrong), block))
    partial.reject()
    assert partial.proven == {}
    assert (partial.path / "rejected-data").read_bytes() == wrong
    for block in range(partial.block_count):
        partial.write_block(block, block_of(right, block))
    assert partial.rejected_blocks() == believed([2, 5])
    partial.reject()  # a second one: the first is the one to report
    assert (partial.path / "rejected-data").read_bytes() == wrong
    for block in range(partial.block_count):
        partial.write_block(block, block_of(right, block))
    root = blake3.blake3(right).hexdigest()
    cache.commit(partial, digests=[], verified_by="size", private=False, principal=None, root=root)
    assert list(cache.layout.partials.iterdir()) == []


def test_forgotten_blocks_do_not_come_back(cache: Cache) -> None:
    data = paint(SIZE)
    partial = cache.partial_open(head_of(data))
    partial.write_block(0, block_of(data, 0))
    partial.forget_blocks()
    assert partial.proven == {} and partial.bytes_proven == 0
    partial.write_block(1, block_of(data, 1))
    partial.close()
    partial = cache.partial_open(head_of(data))
    assert sorted(partial.proven) == believed([1])
    partial.close()


# --- other processes -------------------------------------------------------------------------------------------------


def test_after_kill_9_the_blocks_are_adopted_by_rename(place: Path) -> None:
    data = paint(SIZE, 7)
    with child("write", place, str(SIZE), "7", "4") as writer:
        before = told(writer)
        inode = Path(before["path"]).stat().st_ino
        writer.kill()
        writer.wait()
    with Cache.open(settings(place)) as cache:
        claim = claimed(cache, head_of(data).content_id, SIZE)
        assert (claim.mine, claim.owner_state, claim.previous_owner) == (True, "dead", before["owner"])
        partial = cache.partial_open(head_of(data), previous_owner=claim.previous_owner)
        assert sorted(partial.proven) == believed([0, 1, 2, 3])
        assert partial.path.stat().st_ino == inode
        partial.close()
        assert put_large(cache, data).root == blake3.blake3(data).hexdigest()


@journals
@pytest.mark.parametrize("lock", [fcntl.LOCK_EX, fcntl.LOCK_SH], ids=["heir", "looker"])
def test_whoever_has_a_dead_owners_lock_for_a_moment_is_waited_for(place: Path, lock: int) -> None:
    """Another heir, of another content of the same owner, or somebody who only looks whether that one lives."""
    data = paint(SIZE)
    with child("write", place, str(SIZE), "0", "4") as writer:
        owner = told(writer)["owner"]
        writer.kill()
        writer.wait()
    with Cache.open(settings(place)) as cache, ExitStack() as stack:
        held = os.open(cache.layout.owner(owner), os.O_RDWR)
        stack.callback(os.close, held)
        fcntl.flock(held, lock)
        letting_go = threading.Timer(0.05, lambda: fcntl.flock(held, fcntl.LOCK_UN))
        letting_go.start()
        stack.callback(letting_go.join)
        partial = cache.partial_open(head_of(data))
        assert sorted(partial.proven) == [0, 1, 2, 3]
        assert list(cache.layout.partials.iterdir()) == [partial.path], "taken by rename"


@journals
def test_two_partials_of_one_dead_owner_are_both_adopted(place: Path, open_cache: Callable[..., Cache]) -> None:
    """At the same time: each heir needs that owner's lock."""
    contents = [paint(2 * MIB, shade) for shade in range(6)]
    before = open_cache()
    for data in contents:
        partial = before.partial_open(head_of(data))
        for block in range(2):
            partial.write_block(block, block_of(data, block))
        partial.close()
    before.close()
    cache = open_cache()
    start = threading.Barrier(len(contents))

    def adopt(data: bytes) -> list[int]:
        start.wait()
        return sorted(cache.partial_open(head_of(data)).proven)

    with ThreadPoolExecutor(len(contents)) as pool:
        assert list(pool.map(adopt, contents)) == [[0, 1]] * len(contents)


def test_a_living_writer_is_left_alone(place: Path) -> None:
    data = paint(SIZE, 7)
    with child("write", place, str(SIZE), "7", "4") as writer, Cache.open(settings(place)) as cache:
        path = Path(told(writer)["path"])
        assert not claimed(cache, head_of(data).content_id, SIZE).mine
        partial = cache.partial_open(head_of(data))
        assert partial.proven == {}
        assert path.is_dir() and path != partial.path
        partial.discard()


def test_a_stopped_writer_is_copied_and_never_changes_a_blob(place: Path) -> None:
    data = paint(SIZE, 7)
    with (
        child("write", place, str(SIZE), "7", "4") as writer,
        Cache.open(settings(place, owner_lost_after_s=0.5)) as cache,
    ):
        before = told(writer)
        writer.send_signal(signal.SIGSTOP)
        deadline = time.monotonic() + 20
        while not (claim := claimed(cache, head_of(data).content_id, SIZE)).mine:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        assert (claim.owner_state, claim.previous_owner) == ("lost", before["owner"])
        partial = cache.partial_open(head_of(data), previous_owner=claim.previous_owner)
        assert sorted(partial.proven) == believed([0, 1, 2, 3])
        old = Path(before["path"], "data")
        assert old.exists() and not os.path.samefile(old, partial.path / "data")
        partial.close()
        blob = put_large(cache, data)
        writer.send_signal(signal.SIGCONT)
        tell(writer, "again")
        assert told(writer)["wrote"]
        assert old.read_bytes()[:7] == b"rubbish", "it did write"
        assert blake3.blake3(blob.path.read_bytes()).hexdigest() == blob.root


def test_a_writer_whose_file_is_gone_is_copied(open_cache: Callable[..., Cache]) -> None:
    """Without the owner's lock in hand nothing proves that nobody writes any more."""
    data = paint(SIZE)
    first, second = open_cache(), open_cache()
    partial = first.partial_open(head_of(data))
    partial.write_block(2, block_of(data, 2))
    first.layout.owner(first.owner.id).unlink()
    heir = second.partial_open(head_of(data))
    assert sorted(heir.proven) == believed([2])
    assert (partial.path / "data").exists()
    partial.write_block(1, paint(MIB, 99))
    heir.close()
    partial.close()


def test_bytes_that_have_to_be_copied_are_not_present(open_cache: Callable[..., Cache]) -> None:
    data = paint(SIZE)
    content = head_of(data).content_id
    first, second = open_cache(), open_cache()
    begun(first, data, 0, 1)
    assert first.partial_bytes({content})[content] >= 2 * MIB, "ours"
    first.close()
    assert second.partial_bytes({content})[content] >= 2 * MIB, "to be taken by rename"
    first.layout.owner(first.owner.id).unlink()
    assert second.partial_bytes({content}) == {}, "whoever has no lock is copied"


@journals
def test_of_two_dead_owners_the_one_who_has_more_is_taken(open_cache: Callable[..., Cache]) -> None:
    """No flight says who was the last. Their names are random, and so was the choice."""
    data = paint(SIZE)
    less, more = sorted((open_cache(), open_cache()), key=lambda cache: cache.owner.id)
    begun(less, data, 0)
    begun(more, data, 1, 2, 3)
    less.close()
    more.close()
    heir = open_cache().partial_open(head_of(data))
    assert sorted(heir.proven) == [1, 2, 3]
    heir.close()


def test_what_has_no_owner_in_its_name_is_no_partial(cache: Cache) -> None:
    data = paint(SIZE)
    content = head_of(data).content_id
    stranger = cache.layout.partials / f"{content}.of-a-stranger"
    stranger.mkdir()
    (stranger / "data").write_bytes(data)
    assert cache.partial_bytes({content}) == {}
    partial = cache.partial_open(head_of(data))
    assert partial.proven == {}
    partial.close()


@journals
def test_of_a_changing_copy_only_what_is_right_is_taken(open_cache: Callable[..., Cache]) -> None:
    data = paint(SIZE)
    first, second = open_cache(), open_cache()
    partial = first.partial_open(head_of(data))
    for block in range(3):
        partial.write_block(block, block_of(data, block))
    os.pwrite(partial.fd, b"changed", MIB)
    first.layout.owner(first.owner.id).unlink()
    heir = second.partial_open(head_of(data))
    assert sorted(heir.proven) == [0, 2]
    heir.close()
    partial.close()


@journals
def test_of_a_copy_what_the_disk_gives_is_taken(
    open_cache: Callable[..., Cache], monkeypatch: pytest.MonkeyPatch
) -> None:
    data = paint(SIZE)
    first, second = open_cache(), open_cache()
    partial = first.partial_open(head_of(data))
    for block in range(3):
        partial.write_block(block, block_of(data, block))
    first.layout.owner(first.owner.id).unlink()
    pread = os.pread

    def failing(descriptor: int, length: int, offset: int) -> bytes:
        if offset == MIB:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return pread(descriptor, length, offset)

    with monkeypatch.context() as patch:
        patch.setattr(os, "pread", failing)
        heir = second.partial_open(head_of(data))
    assert sorted(heir.proven) == [0, 2]
    heir.close()
    partial.close()


def test_a_partial_that_shares_its_body_with_a_blob_is_not_written_to(
    open_cache: Callable[..., Cache], clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The crash between link(2) and the removal of the Partial."""
    data = paint(SIZE)
    first = open_cache()
    partial = first.partial_open(head_of(data))
    for block in range(partial.block_count):
        partial.write_block(block, block_of(data, block))
    monkeypatch.setattr(type(partial), "discard", lambda self: self.close())
    root = blake3.blake3(data).hexdigest()
    blob = first.commit(partial, digests=[], verified_by="size", private=False, principal=None, root=root)
    monkeypatch.undo()
    first.close()
    heir = open_cache().partial_open(head_of(data))
    assert sorted(heir.proven) == believed([0, 1, 2, 3, 4, 5])
    whole: contextlib.AbstractContextManager[object] = pytest.raises(CacheError)
    with whole if hashing.HAS_TREE else contextlib.nullcontext():  # in plain mode it begins with a new one
        heir.write_block(0, paint(MIB, 99))
    assert blake3.blake3(blob.path.read_bytes()).hexdigest() == blob.root
    assert blob.path.stat().st_mode & 0o777 == 0o444
    heir.close()


@journals
def test_a_body_that_has_its_name_and_no_row_is_published_as_it_is(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Gone between the two. Nothing is copied, and what was just hashed is not hashed once more."""
    data = STEP_CONTENTS["big"]
    with child("crash-at", place, "blob:named") as process:
        assert process.wait() == 9
    scan, scanned = hashing.scan_file, list[int]()

    def scan_file(fd: int, offset: int, length: int, *arguments: Any, **options: Any) -> list[int]:
        scanned.append(length)
        return scan(fd, offset, length, *arguments, **options)

    with Cache.open(settings(place)) as cache:
        named = cache.layout.blob(blake3.blake3(data).hexdigest())
        inode = named.stat().st_ino
        monkeypatch.setattr(hashing, "scan_file", scan_file)
        monkeypatch.setattr(durable, "clone_into", lambda *_, **__: pytest.fail("copied"))
        blob = put_large(cache, data)
        assert (blob.path, blob.path.stat().st_ino) == (named, inode)
        assert blob.path.read_bytes() == data
        assert scanned == [len(data)]
        assert list(cache.layout.partials.iterdir()) == []


@journals
def test_a_named_body_with_a_bad_block_is_left_for_a_copy_that_is_drawn(place: Path) -> None:
    data = STEP_CONTENTS["big"]
    with child("crash-at", place, "blob:named") as process:
        assert process.wait() == 9
    with Cache.open(settings(place)) as cache:
        named = cache.layout.blob(blake3.blake3(data).hexdigest())
        named.chmod(0o600)
        with named.open("r+b") as file:
            file.seek(MIB)
            file.write(b"\xff" * 9)
        damaged = named.read_bytes()
        drawn: list[int] = []
        heir = cache.partial_open(head_of(data), draw=drawn.append)
        assert (sorted(heir.proven), drawn) == ([0, 2], [len(data)])
        heir.write_block(1, block_of(data, 1))
        assert named.read_bytes() == damaged
        heir.close()
        assert put_large(cache, data).path.read_bytes() == data


# --- news while re-hashing, and closing too early --------------------------------------------------------------------


@journals
def test_rehashing_tells_that_it_goes_on_and_may_be_given_up(open_cache: Callable[..., Cache]) -> None:
    data = paint(SIZE)
    first = open_cache()
    begun(first, data, 0, 2, 5)
    first.close()
    second = open_cache()
    calls = 0

    def step() -> None:
        nonlocal calls
        calls += 1
        if calls == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        second.partial_open(head_of(data), step=step)
    assert calls == 2, "once for each run of blocks"
    partial = second.partial_open(head_of(data))
    assert sorted(partial.proven) == [0, 2, 5], "nothing was lost"
    partial.close()


@journals
def test_copying_tells_that_it_goes_on_and_may_be_given_up(place: Path) -> None:
    data = paint(SIZE, 7)
    with (
        child("write", place, str(SIZE), "7", "4") as writer,
        Cache.open(settings(place, owner_lost_after_s=0.5)) as cache,
    ):
        told(writer)
        writer.send_signal(signal.SIGSTOP)
        time.sleep(0.7)
        calls = 0

        def step() -> None:
            nonlocal calls
            calls += 1
            if calls == 3:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            cache.partial_open(head_of(data), step=step)
        partial = cache.partial_open(head_of(data))
        assert len(partial.proven) >= 2, "what was copied stays"
        partial.close()


def test_a_closed_cache_writes_to_no_partial(open_cache: Callable[..., Cache]) -> None:
    """Its heir takes the file by rename: who could still write to it could change a Blob."""
    data = paint(SIZE)
    first, second = open_cache(), open_cache()
    partial = first.partial_open(head_of(data))
    partial.write_block(0, block_of(data, 0))
    inode = partial.path.stat().st_ino
    first.close()
    assert partial.closed
    with pytest.raises(InternalError, match="after its end"):
        partial.write_block(1, block_of(data, 1))
    heir = second.partial_open(head_of(data))
    assert sorted(heir.proven) == believed([0]) and heir.path.stat().st_ino == inode
    heir.close()


def test_closing_waits_for_a_call_in_flight(open_cache: Callable[..., Cache]) -> None:
    first, second = open_cache(), open_cache()
    data = paint(SIZE)
    partial = first.partial_open(head_of(data))
    at_work = partial._call()
    at_work.__enter__()
    closing = threading.Thread(target=first.close)
    closing.start()
    closing.join(0.1)
    assert closing.is_alive() and not partial.closed
    at_work.__exit__(None, None, None)
    closing.join()
    assert partial.closed
    assert second._owners.state(first.owner.id) == "dead"


@pytest.mark.parametrize("busy", ["writing", "publishing"])
def test_who_can_not_stop_keeps_its_lock(
    open_cache: Callable[..., Cache], monkeypatch: pytest.MonkeyPatch, busy: str
) -> None:
    monkeypatch.setattr(takeover, "CLOSE_WAIT_S", 0.0)
    first, second = open_cache(), open_cache()
    data = paint(SIZE)
    partial = first.partial_open(head_of(data))
    partial.write_block(0, block_of(data, 0))
    owner = first.owner
    reader = partial.give_up_writing() if busy == "publishing" else None
    with contextlib.ExitStack() as work:
        if reader is None:
            work.enter_context(partial._call())
        else:
            work.callback(os.close, reader)
        first.close()
        assert second._owners.state(owner.id) == "alive"
        heir = second.partial_open(head_of(data))
        assert heir.path != partial.path and partial.path.is_dir(), "not taken"
        heir.close()
    partial.close()
    os.close(owner._descriptor)  # what the end of the process does


@journals
def test_a_closed_cache_opens_no_partial(open_cache: Callable[..., Cache]) -> None:
    cache = open_cache()
    data = paint(SIZE)
    begun(cache, data, 0)
    room = cache._rooms.partials

    def closed_meanwhile() -> None:
        room._closed = True

    with pytest.raises(CacheError, match="was closed"):
        room.open(head_of(data), step=closed_meanwhile)
    assert room._open == {}
    with pytest.raises(CacheError, match="was closed"):
        room.open(head_of(data))
