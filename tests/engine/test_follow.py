"""The follower of a file: digests while blocks come in any order, the window it moves, what it saves and gives up."""

from __future__ import annotations

import asyncio
import hashlib
import random
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from fetcher import hashing
from fetcher.engine import follow
from fetcher.engine.follow import Follower
from fetcher.engine.jobs import FileJob
from fetcher.engine.readback import ReadBack
from fetcher.engine.unsynced import Unsynced
from fetcher.engine.workers import Workers
from fetcher.errors import CacheError
from fetcher.model.digest import Digest
from fetcher.model.manifest import FileEntry
from fetcher.plan.transfer import Event, Outcome, Transfer
from fetcher.plan.tree import BLOCK_BYTES, block_count, block_length
from tests.engine.fakes import a_job, paint
from tests.native.test_digests import composite_of

MIB = BLOCK_BYTES
SIZE = 12 * MIB + 77
DATA = paint(SIZE)
SHA256 = Digest("sha256", hashlib.sha256(DATA).hexdigest())
MD5 = Digest("md5", hashlib.md5(DATA).hexdigest())
OF_PARTS = Digest("md5", composite_of("md5", DATA, 5 * MIB), 5 * MIB)
OFF_GRID = Digest("md5", composite_of("md5", DATA, MIB + 999), MIB + 999)
CRC = Digest("crc64nvme", hashing.digest_bytes("crc64nvme", DATA))


class Partial:
    """A file that blocks are written to, as a follower sees it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.file = path.open("w+b")
        self.file.truncate(SIZE)
        self.midstate: bytes | None = None
        self.proven: dict[int, bytes] = {}
        self.saved: list[bytes] = []
        self.synced = 0
        self.readers = 0
        self.gate = threading.Event()
        self.gate.set()
        self.trouble: Exception | None = None

    @contextmanager
    def reading(self) -> Iterator[int]:
        if self.trouble is not None:
            raise self.trouble
        self.readers += 1
        try:
            assert self.gate.wait(20)
            yield self.file.fileno()
        finally:
            self.readers -= 1

    def read_into(self, offset: int, view: memoryview) -> int:
        self.file.seek(offset)
        return self.file.readinto(view)

    def save_midstate(self, midstate: bytes) -> None:
        self.saved.append(midstate)

    def sync(self) -> None:
        self.synced += 1


class Desk:
    """A job with its file, and the follower's tools."""

    def __init__(self, tmp_path: Path) -> None:
        self.workers = Workers()
        self.partial = Partial(tmp_path / "data")
        self.changes = 0
        self.progress = 0
        self.unsynced = Unsynced(8 * MIB)

    def close(self) -> None:
        self.partial.gate.set()
        self.workers.close()
        self.partial.file.close()

    def job(self, *claims: Digest, window: int | None = None, adopted: Sequence[int] = ()) -> FileJob:
        """Of a file that is claimed to be all of ``claims``; several are guesses. ``adopted`` blocks are here."""
        job = a_job(SIZE, partial=cast(Any, self.partial))
        one = claims[0] if len(claims) == 1 else None
        job.entry = FileEntry("model.bin", SIZE, one, guesses=() if one else claims)
        job.transfer = Transfer(SIZE, part_bytes=MIB, window_bytes=None if window is None else window * MIB)
        for block in adopted:
            self._put(block)
            self.partial.proven[block] = b"cv"
        job.transfer.adopt(adopted)
        job.transfer.on(Event.BEGIN)
        if crc := follow.crc_of(job.entry):
            job.crcs = hashing.BlockCrcs(crc, SIZE)
        return job

    def _put(self, block: int) -> None:
        start = block * MIB
        self.partial.file.seek(start)
        self.partial.file.write(DATA[start : start + MIB])
        self.partial.file.flush()

    def write(self, job: FileJob, block: int) -> None:
        assert job.transfer.claim(block)
        self._put(block)
        if job.crcs is not None:
            job.crcs.add(block, DATA[block * MIB : (block + 1) * MIB])
        job.transfer.wrote(block, proven=True)
        self.unsynced.wrote(job, block_length(SIZE, block))
        job.wake()

    def follower(self, job: FileJob, *, cores: int = 2, changed: Callable[[], None] | None = None) -> Follower:
        self.workers.followers_max = cores
        tools = SimpleNamespace(workers=self.workers, readback=ReadBack(self.workers), unsynced=self.unsynced)

        def count() -> None:
            self.changes += 1
            if changed is not None:
                changed()

        def progressed() -> None:
            self.progress += 1

        return Follower(job, cast(Any, tools), count, progressed)


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    made = Desk(tmp_path)
    yield made
    made.close()


async def turns() -> None:
    """Long enough for whoever could go on to do so."""
    for _ in range(10):
        await asyncio.sleep(0.001)


def right(job: FileJob, computed: dict[str, str] | None) -> bool:
    assert computed is not None
    claims = [job.entry.digest] if job.entry.digest else job.entry.guesses
    return all(computed[claim.name] == claim.hex for claim in claims if claim is not None)


CASES = [(SHA256,), (MD5,), (OF_PARTS,), (OFF_GRID,), (CRC,), (OF_PARTS, OFF_GRID, MD5)]


@pytest.mark.parametrize("claims", CASES, ids=lambda claims: "+".join(claim.name.replace("/", "_") for claim in claims))
@pytest.mark.parametrize("order", ["forward", "backward", "random"])
@pytest.mark.parametrize("cores", [1, 2, 8])
def test_blocks_in_any_order(desk: Desk, claims: tuple[Digest, ...], order: str, cores: int) -> None:
    dice = random.Random(f"{order} {cores}")
    blocks = list(range(block_count(SIZE)))
    if order == "backward":
        blocks.reverse()
    elif order == "random":
        dice.shuffle(blocks)

    async def main() -> dict[str, str] | None:
        task = asyncio.create_task(desk.follower(job, cores=cores).execute())
        for block in blocks:
            desk.write(job, block)
            if dice.random() < 0.4:
                await asyncio.sleep(0.001)
        return await task

    job = desk.job(*claims)
    assert right(job, asyncio.run(main()))
    assert desk.progress or claims == (CRC,)


@pytest.mark.parametrize("claims", [case for case in CASES if case != (CRC,)], ids=len)
@pytest.mark.parametrize("cores", [1, 8])
@pytest.mark.parametrize("window", [1, 2, 5])
@pytest.mark.parametrize("adopted", [(), (0, 1, 5, 6, 7)], ids=["new", "resumed"])
def test_through_the_smallest_window(
    desk: Desk, claims: tuple[Digest, ...], cores: int, window: int, adopted: tuple[int, ...]
) -> None:
    """A part starts when the digests have come close enough, all of them; and that they always do."""

    closer = asyncio.Event()

    def behind() -> None:
        assert job.transfer.frontier_bytes == min(trail.frontier for trail in follower._trails)
        closer.set()

    async def main() -> dict[str, str] | None:
        task = asyncio.create_task(follower.execute())
        async with asyncio.timeout(20):
            while not job.transfer.whole:
                closer.clear()
                while (part := job.transfer.next_part()) is not None:
                    for block in part.blocks:
                        desk.write(job, block)
                    job.transfer.end(part, Outcome.COMPLETE)
                if not job.transfer.whole:
                    await closer.wait()
            return await task

    job = desk.job(*claims, window=window, adopted=adopted)
    follower = desk.follower(job, cores=cores, changed=behind)
    assert right(job, asyncio.run(main()))
    assert job.transfer.frontier_bytes == SIZE


def test_of_guesses_the_one_that_is_furthest_behind_goes_on(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    """None of them reads what the others have long read, and the cache may have lost."""
    monkeypatch.setattr(follow, "FOLLOW_BYTES", MIB)
    apart: list[int] = []

    def measure() -> None:
        frontiers = [trail.frontier for trail in follower._trails]
        apart.append(max(frontiers) - min(frontiers))

    job = desk.job(MD5, OF_PARTS)
    for block in range(block_count(SIZE)):
        desk.write(job, block)
    follower = desk.follower(job, cores=1, changed=measure)
    assert right(job, asyncio.run(follower.execute()))
    assert max(apart) <= MIB


# --- midstates -------------------------------------------------------------------------------------------------------

SAVES = pytest.mark.skipif(not (hashing.Sha256.can_export and hashing.HAS_TREE), reason="this build resumes no SHA-256")


@SAVES
@pytest.mark.needs("native")
def test_it_saves_how_far_it_came(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(follow, "FOLLOW_BYTES", MIB)
    monkeypatch.setattr(follow, "MIDSTATE_BYTES", 4 * MIB)
    job = desk.job(SHA256)
    for block in range(block_count(SIZE)):
        desk.write(job, block)
    assert right(job, asyncio.run(desk.follower(job).execute()))
    saved = [hashing.Sha256.load(midstate) for midstate in desk.partial.saved]
    assert [hasher.tell() for hasher in saved] == [4 * MIB, 8 * MIB, 12 * MIB]
    for hasher in saved:
        assert hasher.hexdigest() == hashlib.sha256(DATA[: hasher.tell()]).hexdigest()


@SAVES
@pytest.mark.needs("native")
@pytest.mark.parametrize("claims", [(SHA256, MD5), (MD5,), (OF_PARTS,)], ids=["with others", "md5", "of parts"])
def test_others_save_nothing_and_go_on_from_nothing(
    desk: Desk, monkeypatch: pytest.MonkeyPatch, claims: tuple[Digest, ...]
) -> None:
    monkeypatch.setattr(follow, "MIDSTATE_BYTES", MIB)
    begun = hashing.Sha256()
    begun.update(DATA[: 4 * MIB])
    desk.partial.midstate = begun.export()
    job = desk.job(*claims, adopted=range(block_count(SIZE)))
    assert right(job, asyncio.run(desk.follower(job).execute()))
    assert desk.partial.saved == []


@SAVES
@pytest.mark.needs("native")
def test_it_goes_on_from_what_was_saved(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    """The bytes before are not read, and the window begins behind them."""
    monkeypatch.setattr(follow, "FOLLOW_BYTES", MIB)
    monkeypatch.setattr(follow, "MIDSTATE_BYTES", 4 * MIB)
    begun = hashing.Sha256()
    begun.update(DATA[: 6 * MIB])
    desk.partial.midstate = begun.export()
    job = desk.job(SHA256, window=1, adopted=range(7))
    desk.partial.file.seek(0)
    desk.partial.file.write(bytes(6 * MIB))
    follower = desk.follower(job)
    assert job.transfer.frontier_bytes == 6 * MIB

    async def main() -> dict[str, str] | None:
        task = asyncio.create_task(follower.execute())
        for block in range(7, block_count(SIZE)):
            desk.write(job, block)
        return await task

    assert right(job, asyncio.run(main()))
    assert [hashing.Sha256.load(midstate).tell() for midstate in desk.partial.saved] == [10 * MIB]


# --- what else it does -----------------------------------------------------------------------------------------------


def test_what_an_earlier_run_left_is_read_back_for_its_crcs(desk: Desk) -> None:
    async def main() -> dict[str, str] | None:
        task = asyncio.create_task(desk.follower(job).execute())
        await turns()
        for block in (2, 9):
            desk.write(job, block)
        return await task

    job = desk.job(CRC, adopted=[block for block in range(block_count(SIZE)) if block not in (2, 9)])
    assert right(job, asyncio.run(main()))


@pytest.mark.parametrize("claims", [(SHA256,), (CRC,)], ids=["digest", "crc"])
def test_what_was_written_is_made_durable_now_and_then(desk: Desk, claims: tuple[Digest, ...]) -> None:
    async def main() -> dict[str, str] | None:
        task = asyncio.create_task(desk.follower(job).execute())
        for block in range(block_count(SIZE)):
            desk.write(job, block)
            await turns()
        return await task

    job = desk.job(*claims)
    assert right(job, asyncio.run(main()))
    assert desk.partial.synced == 3, "at each 4 of 12 MiB"


@pytest.mark.parametrize("claims", CASES, ids=len)
@pytest.mark.parametrize("why", ["dropped", "abandoned"])
def test_what_nobody_needs_ends(desk: Desk, claims: tuple[Digest, ...], why: str) -> None:
    async def main() -> dict[str, str] | None:
        task = asyncio.create_task(desk.follower(job, cores=8).execute())
        for block in (0, 1, 5):
            desk.write(job, block)
        await turns()
        if why == "dropped":
            job.drop = Outcome.CHANGED
        else:
            job.abandoned = True
        job.wake()
        async with asyncio.timeout(20):
            return await task

    job = desk.job(*claims)
    assert asyncio.run(main()) is None
    assert desk.partial.readers == 0


def test_trouble_of_the_disk_is_said_as_it_is(desk: Desk) -> None:
    desk.partial.trouble = CacheError("its disk is in trouble")
    for claims in [(SHA256,), (OF_PARTS, MD5)]:
        job = desk.job(*claims)
        desk.write(job, 0)
        with pytest.raises(CacheError, match="its disk"):
            asyncio.run(desk.follower(job).execute())


@pytest.mark.parametrize("claims", [(SHA256,), (OF_PARTS,)], ids=["whole", "parts"])
def test_cancelled_it_ends_with_its_calls(desk: Desk, claims: tuple[Digest, ...]) -> None:
    async def main() -> None:
        desk.partial.gate.clear()
        job = desk.job(*claims)
        for block in (0, 1, 5, 6):
            desk.write(job, block)
        task = asyncio.create_task(desk.follower(job, cores=4).execute())
        await turns()
        assert desk.partial.readers
        task.cancel()
        await turns()
        assert not task.done(), "its file is being read"
        desk.partial.gate.set()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert desk.partial.readers == 0

    asyncio.run(main())
