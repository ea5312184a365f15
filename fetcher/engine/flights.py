"""Who fetches which content: first among the runs of this engine, then, by rows in the index, among processes.

A flight is one *file content*. Whoever holds it fetches; everybody else first starts all that is unclaimed, then looks
again a few times a second, holding neither connection nor slab nor worker meanwhile. A flight whose owner is gone is
taken over, with what its Partial has proven.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import TYPE_CHECKING

from fetcher.engine.jobs import FileJob, compared
from fetcher.engine.workers import Workers

if TYPE_CHECKING:
    from fetcher.cache.store import Cache


class Flights:
    """The flights of one engine."""

    def __init__(self, cache: Cache, workers: Workers) -> None:
        self._cache = cache
        self._workers = workers
        self._held: dict[str, FileJob] = {}

    async def claim(self, jobs: Sequence[FileJob]) -> None:
        """Try to become the one who fetches each job's content. Afterwards a job has its ``blob`` (somebody published
        it), or is ``mine``, or tells in ``others_bytes`` how far its owner is."""
        free: list[FileJob] = []
        for job in jobs:
            holder = self._held.get(job.content_id)
            if holder is None:
                self._held[job.content_id] = job
                free.append(job)
            else:
                job.others_bytes = holder.bytes_done
        try:
            await self._workers.index(self._claim_rows, free)
        except BaseException:
            await self.release(free)
            raise
        for job in free:
            if not job.mine:
                del self._held[job.content_id]

    def _claim_rows(self, jobs: Sequence[FileJob]) -> None:
        claims = self._cache.flights.claim([(job.content_id, job.size) for job in jobs])
        ours: defaultdict[str | None, list[FileJob]] = defaultdict(list)
        for job, claim in zip(jobs, claims, strict=True):
            job.mine = claim.mine
            job.previous_owner = claim.previous_owner
            job.others_bytes = claim.bytes_proven
            if claim.mine:
                ours[job.principal].append(job)
        for principal, members in ours.items():
            wanted = [(job.content_id, job.entry.digest, job.size) for job in members]
            for job, blob in zip(members, self._cache.blobs.of_contents(wanted, principal=principal), strict=True):
                job.blob = blob
                if blob is not None:
                    found = compared(self._cache, job.entry, blob.root)
                    job.verified = (found,) if found else ()

    async def release(self, jobs: Sequence[FileJob]) -> None:
        """The contents are published, or we give them up: whoever waits goes on."""
        held = [job for job in jobs if self._held.get(job.content_id) is job]
        mine = [job.content_id for job in held if job.mine]
        try:
            if mine:
                # The rows first: another run of ours that takes the flight meanwhile would lose its row with ours.
                await self._workers.index(lambda: self._cache.flights.release(mine))
        finally:
            for job in held:
                del self._held[job.content_id]
                job.mine = False

    async def progress(self, jobs: Sequence[FileJob]) -> None:
        """Tell the waiters of other processes how far our flights are."""
        rows = [(job.content_id, job.transfer.bytes_written) for job in jobs if job.mine]
        if rows:
            await self._workers.index(lambda: self._cache.flights.progress(rows))
