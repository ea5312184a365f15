"""The follower of one large file: what the origin claims of its bytes, computed while the blocks come.

A SHA-256 of the whole trails the first missing block and reads back what was just written from the page cache, as it
can't be computed out of order; digests of an upload's parts trail the blocks of each part. CRCs came with the blocks
(``engine.disk``); only those of blocks that an earlier run left are read back. The follower never stops a part
that has started: how far it trails decides which part may start (``plan.transfer``). In plain mode (no native core) our
own BLAKE3 root rides with it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from fetcher import hashing
from fetcher.engine.jobs import FileJob
from fetcher.engine.tools import Tools
from fetcher.engine.workers import first_error
from fetcher.model.digest import Digest
from fetcher.model.manifest import FileEntry
from fetcher.plan.tree import BLOCK_BYTES, block_length

FOLLOW_BYTES = 8 << 20
"""Read back per worker call: long enough that the call itself does not count, short enough to be waited for."""
MIDSTATE_BYTES = 64 << 20
"""How often the SHA-256 under way is journalled: what a resume has to hash again at most, some 40 ms of it."""


def crc_of(entry: FileEntry) -> str | None:
    """The CRC that the origin states of the whole: combined from those of the blocks, in whatever order they come."""
    claim = entry.digest
    return claim.algorithm if claim is not None and claim.whole and claim.algorithm in hashing.CRC_BYTES else None


def trailing(entry: FileEntry) -> tuple[Digest, ...]:
    """What of the origin's claims has to be read back, from the first byte to the last or part by part."""
    if entry.digest is not None:
        return () if crc_of(entry) else (entry.digest,)
    return entry.guesses


class Follower:
    """Follows a job's blocks from where its Partial stands to the end; ``execute`` once."""

    def __init__(self, job: FileJob, tools: Tools, changed: Callable[[], None], progressed: Callable[[], None]) -> None:
        """``changed``: another part may start now. ``progressed``: something was done."""
        self._job = job
        self._tools = tools
        self._changed = changed
        self._progressed = progressed
        self._trails = [hashing.Trail.like(claim, job.size) for claim in trailing(job.entry)]
        if not hashing.HAS_TREE and not any(trail.name == "blake3" for trail in self._trails):
            self._trails.append(hashing.Trail("blake3", job.size))  # blocks have no chaining values
        assert job.partial is not None
        self._partial = job.partial
        self._saves = hashing.HAS_TREE and len(self._trails) == 1 and self._trails[0].saves
        self._saved_bytes = 0
        if self._saves and self._partial.midstate is not None:
            self._trails[0].resume(self._partial.midstate)
            self._saved_bytes = job.transfer.frontier_bytes = self._trails[0].frontier
        missing = job.crcs.missing() if job.crcs is not None else []
        self._unsummed = [block for block in reversed(missing) if block in self._partial.proven]
        """Blocks that an earlier run left, last first: their CRCs have to be read back."""

    async def execute(self) -> dict[str, str] | None:
        """Digests of the whole content, name → hex; None if its blocks have to be dropped, or nobody needs them."""
        job = self._job
        feeders = min(self._tools.workers.followers_max, sum(trail.runs_max for trail in self._trails))
        try:
            async with asyncio.TaskGroup() as group:
                for _ in range(feeders):
                    group.create_task(self._feed())
                await self._tend()
        except BaseExceptionGroup as errors:
            raise first_error(errors) from None
        if self._over:
            return None
        computed = {trail.name: trail.hexdigest() for trail in self._trails}
        if job.crcs is not None:
            computed[job.crcs.algorithm] = await self._tools.workers.slow(job.crcs.hexdigest)
        return computed

    @property
    def _over(self) -> bool:
        """What is computed here is of no use any more."""
        return self._job.drop is not None or self._job.abandoned

    @property
    def _fed(self) -> bool:
        return all(trail.done for trail in self._trails)

    async def _news(self) -> None:
        self._job.progressed.clear()
        await self._job.progressed.wait()

    async def _tend(self) -> None:
        """What else has to be done until all blocks are here and fed."""
        job, workers = self._job, self._tools.workers
        unsynced = self._tools.unsynced
        with unsynced.tended(job):
            while not self._over and not (job.transfer.whole and self._fed and not self._unsummed):
                if unsynced.due(job):
                    await unsynced.sync(job, workers.slow(self._partial.sync))
                    self._progressed()
                elif self._unsummed:
                    await workers.slow(self._sum_some)
                    self._progressed()
                else:
                    await self._news()

    async def _feed(self) -> None:
        """Feed one run after the other while there is one, of the digest that is furthest behind."""
        job = self._job
        while not self._over and not self._fed:
            for trail in sorted(self._trails, key=lambda trail: trail.frontier):
                if (run := trail.next_run(job.transfer.holds)) is not None:
                    await self._feed_some(trail, run)
                    break
            else:
                job.hungry = True
                await self._news()

    async def _feed_some(self, trail: hashing.Trail, run: hashing.Run) -> None:
        transfer = self._job.transfer
        stop = transfer.readable_to(run.position, min(run.stop, run.position + FOLLOW_BYTES))
        run.busy = True
        try:
            await self._tools.readback.feed(run, self._partial, stop - run.position)
        finally:
            run.busy = False
        trail.fed(run)
        await self._save(trail)
        transfer.frontier_bytes = min(each.frontier for each in self._trails)
        self._progressed()
        self._changed()
        self._job.wake()  # the other feeders, too: this may have been the end

    async def _save(self, trail: hashing.Trail) -> None:
        """Now and then, for a resume."""
        if not self._saves or trail.frontier - self._saved_bytes < MIDSTATE_BYTES:
            return
        # The journal takes midstates of whole messages only; between the ends of blocks there are none.
        if trail.frontier % BLOCK_BYTES == 0 and (midstate := trail.midstate()) is not None:
            self._saved_bytes = trail.frontier
            await self._tools.workers.slow(self._partial.save_midstate, midstate)

    def _sum_some(self) -> None:
        """In a worker: read some blocks back for their CRCs, and take them off."""
        job = self._job
        assert job.crcs is not None
        view = memoryview(bytearray(BLOCK_BYTES))
        for _ in range(min(FOLLOW_BYTES // BLOCK_BYTES, len(self._unsummed))):
            block = self._unsummed[-1]
            count = self._partial.read_into(block * BLOCK_BYTES, view[: block_length(job.size, block)])
            job.crcs.add(block, view[:count])
            self._unsummed.pop()
