"""Small files on their way to the disk: examined, written ahead or kept in memory, gathered into batches."""

from __future__ import annotations

import asyncio
import gc
import hashlib
import threading
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from fetcher.cache.layout import fields_digest
from fetcher.cache.store import Cache
from fetcher.engine import loop, small
from fetcher.engine.jobs import FileJob
from fetcher.engine.small import (
    HELD_BYTES_MAX,
    HELD_FILES_MAX,
    INLINE_BYTES_MAX,
    SmallCommitter,
)
from fetcher.engine.workers import Workers
from fetcher.hashing import root_of
from fetcher.model.digest import Digest
from tests.cache.world import settings
from tests.engine.fakes import a_job, paint


class FakeReservation:
    """Books of what is drawn and written."""

    def __init__(self) -> None:
        self.drawn = 0
        self.in_flight = 0
        self.in_flight_max = 0

    def draw(self, byte_count: int) -> None:
        self.drawn += byte_count
        self.in_flight += byte_count
        self.in_flight_max = max(self.in_flight_max, self.in_flight)

    def wrote(self, byte_count: int) -> None:
        self.in_flight -= byte_count

    def in_turn(self) -> Callable[[int], None]:
        def draw(byte_count: int) -> None:
            self.drawn += byte_count

        return draw


@pytest.fixture
def cache(tmp_path: Path) -> Iterator[Cache]:
    opened = Cache.open(settings(tmp_path / "cache"))
    yield opened
    opened.close()


@pytest.fixture
def workers() -> Iterator[Workers]:
    made = Workers()
    yield made
    made.close()


def job_of(data: bytes) -> FileJob:
    job = a_job(len(data))
    job.content_id = fields_digest(hashlib.sha256(data).hexdigest())
    job.entry = replace(job.entry, digest=Digest("sha256", hashlib.sha256(data).hexdigest()))
    return job


def with_committer(
    cache: Cache,
    workers: Workers,
    use: Callable[[SmallCommitter, FakeReservation], Awaitable[None]],
    more: Callable[[int], bool] = lambda count: False,
) -> None:
    async def main() -> None:
        reservation: Any = FakeReservation()
        committer = SmallCommitter(cache, workers, reservation, more)
        try:
            await use(committer, reservation)
        finally:
            await committer.close()
        assert not [path for path in cache.layout.partials.iterdir() if path.name.startswith(".")]

    async def bounded() -> None:
        await asyncio.wait_for(main(), 50)

    asyncio.run(bounded())


SIZES = [1, INLINE_BYTES_MAX, INLINE_BYTES_MAX + 1, 1 << 20]


@pytest.mark.parametrize("size", SIZES)
def test_what_was_examined_is_published_whatever_becomes_of_the_buffer(
    cache: Cache, workers: Workers, size: int
) -> None:
    data = paint(size)

    async def use(committer: SmallCommitter, reservation: FakeReservation) -> None:
        buffer, job = bytearray(data), job_of(data)
        found = await committer.examine(job, memoryview(buffer))
        assert found is not None
        assert (found.staged is not None) == (size > INLINE_BYTES_MAX)
        assert found.size == size
        buffer[:] = bytes(size)  # another file comes into the slab
        await committer.add(job, found)
        await committer.commit(await committer.next_batch())
        assert job.blob is not None
        assert (job.blob.root, job.blob.path.read_bytes()) == (root_of(data).hex(), data)
        assert reservation.drawn >= size
        assert reservation.in_flight == 0

    with_committer(cache, workers, use)


@pytest.mark.parametrize("size", SIZES)
def test_wrong_bytes_are_neither_kept_nor_written(cache: Cache, workers: Workers, size: int) -> None:
    async def use(committer: SmallCommitter, reservation: FakeReservation) -> None:
        job = job_of(paint(size, shade=1))
        assert await committer.examine(job, memoryview(paint(size))) is None
        assert reservation.drawn == 0
        assert not list(cache.layout.partials.iterdir())

    with_committer(cache, workers, use)


def test_what_was_written_and_never_handed_over_goes(cache: Cache, workers: Workers) -> None:
    async def use(committer: SmallCommitter, reservation: FakeReservation) -> None:
        datas = [paint(1 << 20, shade) for shade in range(6)]
        found = await asyncio.gather(*(committer.examine(job_of(data), memoryview(data)) for data in datas))
        assert len({one.staged for one in found if one}) == 6
        assert len(list(cache.layout.partials.iterdir())) == 1, "one directory for all of a run"

    with_committer(cache, workers, use)


def test_what_no_more_will_come_after_is_not_held_back(
    cache: Cache, workers: Workers, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(small, "HELD_S", 1000.0)

    async def use(committer: SmallCommitter, _: FakeReservation) -> None:
        for data in (b"one", b"two", b"three"):
            job = job_of(data)
            found = await committer.examine(job, memoryview(data))
            assert found is not None
            await committer.add(job, found)
        batch = await committer.next_batch()
        assert [one.data for _, one in batch] == [b"one", b"two", b"three"]

    with_committer(cache, workers, use, lambda count: count < 3)


@pytest.mark.parametrize("by", ["files", "bytes"])
def test_a_batch_that_is_large_enough_goes(
    cache: Cache, workers: Workers, monkeypatch: pytest.MonkeyPatch, by: str
) -> None:
    monkeypatch.setattr(small, "HELD_S", 1000.0)
    count = HELD_FILES_MAX if by == "files" else HELD_BYTES_MAX >> 16

    async def use(committer: SmallCommitter, _: FakeReservation) -> None:
        data = b"x" if by == "files" else bytes(1 << 16)
        waiting = asyncio.create_task(committer.next_batch())
        for number in range(count):
            assert not waiting.done(), number
            found = await committer.examine(job_of(data), memoryview(data))
            assert found is not None
            await committer.add(job_of(data), found)
            await asyncio.sleep(0)
        assert len(await waiting) == count

    with_committer(cache, workers, use, lambda _: True)


def test_all_batches_of_a_run_are_written_in_one_directory(cache: Cache, workers: Workers, tmp_path: Path) -> None:
    partials = tmp_path / "cache/partials-v1"

    async def use(committer: SmallCommitter, _: FakeReservation) -> None:
        for data in (b"one", b"two"):
            job = job_of(data)
            found = await committer.examine(job, memoryview(data))
            assert found is not None
            await committer.commit([(job, found)])
            assert job.blob is not None and job.blob.path.read_bytes() == data
            assert len(list(partials.iterdir())) == 1
        await committer.close()
        assert list(partials.iterdir()) == []

    with_committer(cache, workers, use, lambda _: True)


def test_what_waits_for_more_waits_a_moment_only(cache: Cache, workers: Workers) -> None:
    async def use(committer: SmallCommitter, _: FakeReservation) -> None:
        found = await committer.examine(job_of(b"one"), memoryview(b"one"))
        assert found is not None
        await committer.add(job_of(b"one"), found)
        assert len(await committer.next_batch()) == 1

    with_committer(cache, workers, use, lambda _: True)


@pytest.mark.parametrize("size", [INLINE_BYTES_MAX, INLINE_BYTES_MAX + 1])
def test_what_waits_for_the_disk_is_bounded_and_what_is_under_commit_counts(
    cache: Cache, workers: Workers, monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    """Memory as a whole; what is written already only bounds what a kill can lose, per batch."""
    in_memory, room = size <= INLINE_BYTES_MAX, 8
    monkeypatch.setattr(small, "KEPT_BYTES_MAX" if in_memory else "GATHERED_BYTES_MAX", room * size)
    began, may_end = threading.Event(), threading.Event()
    commit_small = cache.commit_small

    def commit(*arguments: Any, **more: Any) -> Any:
        began.set()
        assert may_end.wait(50)
        return commit_small(*arguments, **more)

    monkeypatch.setattr(cache, "commit_small", commit)
    files = [number.to_bytes(2, "big") + bytes(size - 2) for number in range(5 * room)]
    jobs = [job_of(data) for data in files]
    added: list[FileJob] = []

    async def use(committer: SmallCommitter, _: FakeReservation) -> None:
        async def add(job: FileJob, data: bytes) -> None:
            found = await committer.examine(job, memoryview(data))
            assert found is not None
            await committer.add(job, found)
            added.append(job)

        async def publish() -> None:
            while True:
                await committer.commit(await committer.next_batch())

        publishing = asyncio.create_task(publish())
        adding = [asyncio.create_task(add(job, data)) for job, data in zip(jobs, files, strict=True)]
        try:
            while not began.is_set() or len(added) < room:  # noqa: ASYNC110 — half of it comes of a thread
                await asyncio.sleep(0.001)
            await asyncio.sleep(0.1)  # whoever had room would take it now
            assert len(added) == room if in_memory else len(added) <= 2 * room
            may_end.set()
            await asyncio.gather(*adding)
            while not all(job.blob is not None for job in jobs):  # noqa: ASYNC110
                await asyncio.sleep(0.001)
        finally:
            may_end.set()
            for task in (publishing, *adding):
                task.cancel()
            await asyncio.wait([publishing, *adding])

    with_committer(cache, workers, use, lambda _: False)


def test_a_command_leaves_the_collector_as_it_was() -> None:
    before, seen = gc.get_threshold(), []

    async def main() -> None:
        seen.append(gc.get_threshold())
        raise KeyError

    with pytest.raises(KeyError):
        loop.run(main)
    assert gc.get_threshold() == before
    assert seen == [(loop.COLLECTED_EVERY, *before[1:])]
