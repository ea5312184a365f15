"""What a power cut may cost: over all files never more than was set, without anybody waiting for who waits for him."""

from __future__ import annotations

import asyncio
import random
from contextlib import ExitStack

import pytest

from fetcher.engine.jobs import FileJob
from fetcher.engine.unsynced import Unsynced
from tests.engine.fakes import a_job

MIB = 1 << 20


class Disk:
    """Files that are written to as fast as they may, each with a follower that makes it durable."""

    def __init__(self, unsynced: Unsynced, sync_s: float) -> None:
        self.unsynced = unsynced
        self.sync_s = sync_s
        self.most = 0
        self.syncs = 0

    async def sync(self) -> None:
        self.syncs += 1
        await asyncio.sleep(self.sync_s)

    async def follow(self, job: FileJob) -> None:
        with self.unsynced.tended(job):
            while True:
                job.progressed.clear()
                if self.unsynced.due(job):
                    await self.unsynced.sync(job, self.sync())
                else:
                    await job.progressed.wait()

    async def write(self, job: FileJob, blocks: int, dice: random.Random) -> None:
        for _ in range(blocks):
            await asyncio.sleep(dice.choice((0, 0, 0.002)))
            self.unsynced.wrote(job, MIB)
            self.most = max(self.most, self.unsynced.total_bytes)
            await room(self.unsynced, job)


async def room(unsynced: Unsynced, job: FileJob) -> None:
    """Wait as a connection does: look, and be told to look again."""
    while not unsynced.has_room(job):
        eased = asyncio.Event()
        unsynced.when_eased(eased.set)
        await eased.wait()


@pytest.mark.parametrize("files", [1, 2, 7, 16])
@pytest.mark.parametrize("sync_s", [0.0, 0.02])
def test_never_more_than_was_set(files: int, sync_s: float, rng: random.Random) -> None:
    connections = 3
    unsynced = Unsynced(8 * MIB)
    disk = Disk(unsynced, sync_s)

    async def main() -> None:
        jobs = [a_job(100 * MIB) for _ in range(files)]
        followers = [asyncio.create_task(disk.follow(job)) for job in jobs]
        async with asyncio.timeout(30):
            async with asyncio.TaskGroup() as group:
                for job in jobs:
                    for _ in range(connections):
                        # Some files end early, and keep what they have until somebody makes them durable.
                        group.create_task(disk.write(job, rng.choice((1, 10, 20)), rng))
        for follower in followers:
            follower.cancel()
        await asyncio.gather(*followers, return_exceptions=True)

    asyncio.run(main())
    assert disk.most <= 8 * MIB + files * connections * MIB
    assert disk.syncs > 0


def test_who_is_not_tended_is_not_held() -> None:
    """A follower that waits for its parts to end can't make them wait for itself."""

    async def main() -> None:
        unsynced = Unsynced(4 * MIB)
        job, other = a_job(100 * MIB), a_job(100 * MIB)
        unsynced.wrote(job, 5 * MIB)
        await asyncio.wait_for(room(unsynced, job), 5)
        with ExitStack() as stack:
            stack.enter_context(unsynced.tended(job))
            stack.enter_context(unsynced.tended(other))
            held = [asyncio.create_task(room(unsynced, each)) for each in (job, other)]
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            assert not any(task.done() for task in held)
            assert job.progressed.is_set(), "whoever can make room is woken"
        await asyncio.wait_for(asyncio.gather(*held), 5)

    asyncio.run(main())


def test_what_is_gone_makes_room() -> None:
    async def main() -> None:
        unsynced = Unsynced(4 * MIB)
        job, other = a_job(100 * MIB), a_job(100 * MIB)
        unsynced.wrote(job, 4 * MIB)
        with unsynced.tended(other):
            held = asyncio.create_task(room(unsynced, other))
            await asyncio.sleep(0.01)
            assert not held.done()
            unsynced.forget(job)
            await asyncio.wait_for(held, 5)
        assert unsynced.total_bytes == 0

    asyncio.run(main())


def test_who_waits_is_told_once_and_may_wait_again_at_once() -> None:
    """A look that finds no room asks to be told anew, from within the telling."""
    unsynced = Unsynced(4 * MIB)
    job = a_job(100 * MIB)
    looks = 0

    def look() -> None:
        nonlocal looks
        looks += 1
        unsynced.when_eased(look)

    unsynced.when_eased(look)
    for expected in (1, 2, 3):
        unsynced.forget(job)
        assert looks == expected


def test_what_is_written_during_a_sync_is_for_the_next_one() -> None:
    async def main() -> None:
        unsynced = Unsynced(4 * MIB)
        job = a_job(100 * MIB)
        unsynced.wrote(job, 3 * MIB)
        assert unsynced.due(job)

        async def call() -> None:
            unsynced.wrote(job, MIB)

        await unsynced.sync(job, call())
        assert unsynced.total_bytes == MIB
        assert not unsynced.due(job)

    asyncio.run(main())


def test_a_block_wakes_nobody_but_who_waits_for_it() -> None:
    async def scenario() -> None:
        unsynced, job = Unsynced(8 * MIB), a_job(4 * MIB)

        def write(block: int) -> bool:
            """Whether anybody was woken."""
            job.progressed.clear()
            assert job.transfer.claim(block)
            job.transfer.wrote(block, proven=True)
            unsynced.wrote(job, MIB)
            job.block_came()
            return job.progressed.is_set()

        assert not write(2), "nothing is due, and nobody reads back"
        job.hungry = True
        assert write(0), "somebody reads back"
        assert not write(1), "he was told, and has not asked again"
        assert write(3), "it is the last"
        job.progressed.clear()
        unsynced.wrote(job, MIB)
        assert job.progressed.is_set(), "half of what may be lost is on its way"

    asyncio.run(scenario())
