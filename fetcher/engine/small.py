"""Files of at most one block: hashed as soon as they are here, published in batches with one durability barrier.

While a batch is being made durable the next one gathers, so the batch size finds itself: one file on a slow line,
hundreds where files come faster than the disk can promise them.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Callable
from typing import TYPE_CHECKING

from fetcher import hashing
from fetcher.engine.jobs import FileJob
from fetcher.engine.workers import Workers
from fetcher.plan import allocation

if TYPE_CHECKING:
    from fetcher.cache.records import Blob, SmallFile
    from fetcher.cache.store import Cache

INLINE_BYTES_MAX = 64 << 10
"""Hashing this much costs about 50 µs, what handing it to a thread and back costs; above, a worker does it."""
GATHERED_BYTES_MAX = 32 << 20
"""Lanes wait when this much waits for the disk: memory stays bounded."""


def examine(job: FileJob, data: memoryview) -> SmallFile | None:
    """Hash a small file; None if it is not what the origin stated."""
    from fetcher.cache.records import SmallFile

    if job.digest is not None:
        if not hashing.matches(job.digest, data):
            return None
        job.verified = (job.digest,)
    else:
        job.verified = tuple(guess for guess in job.entry.guesses if hashing.matches(guess, data))[:1]
    return SmallFile(
        content_id=job.content_id,
        data=bytes(data),
        root=hashing.root_of(data).hex(),
        digests=job.verified,
        verified_by=job.verified_by,
    )


async def examine_anywhere(job: FileJob, data: memoryview, workers: Workers) -> SmallFile | None:
    """``examine``, on the loop if that is cheaper than leaving it."""
    if len(data) <= INLINE_BYTES_MAX:
        return examine(job, data)
    return await workers.slow(examine, job, data)


class SmallCommitter:
    """Publishes small files of a run; ``run`` is one task of it."""

    def __init__(self, cache: Cache, workers: Workers, draw: Callable[[int], None]) -> None:
        """``draw`` is told of bytes about to be written: they are reserved, or NoSpaceError."""
        self._cache = cache
        self._workers = workers
        self._draw = draw
        self._gathered: list[tuple[FileJob, SmallFile]] = []
        self._gathered_bytes = 0
        self._wake = asyncio.Event()
        self._room = asyncio.Event()
        self._room.set()

    async def add(self, job: FileJob, small: SmallFile) -> None:
        """Hand over a verified file; returns at once unless the disk is far behind."""
        await self._room.wait()
        self._gathered.append((job, small))
        self._gathered_bytes += len(small.data)
        if self._gathered_bytes >= GATHERED_BYTES_MAX:
            self._room.clear()
        self._wake.set()

    async def next_batch(self) -> list[tuple[FileJob, SmallFile]]:
        """All that has gathered; waits until there is something."""
        await self._wake.wait()
        self._wake.clear()
        batch, self._gathered, self._gathered_bytes = self._gathered, [], 0
        self._room.set()
        return batch

    async def commit(self, batch: list[tuple[FileJob, SmallFile]]) -> None:
        """Publish a batch; afterwards each job has its ``blob``."""
        groups: defaultdict[tuple[bool, str | None], list[tuple[FileJob, SmallFile]]] = defaultdict(list)
        for job, small in batch:
            groups[job.manifest.private, job.principal].append((job, small))
        for (private, principal), members in groups.items():
            blobs = await self._workers.slow(self._commit, [small for _, small in members], private, principal)
            for (job, _), blob in zip(members, blobs, strict=True):
                job.blob = blob

    def _commit(self, files: list[SmallFile], private: bool, principal: str | None) -> list[Blob]:
        """In a worker."""
        self._draw(sum(len(small.data) + allocation.beside_bytes(len(small.data)) for small in files))
        return self._cache.commit_small(files, private=private, principal=principal)
