"""Files of at most one block: hashed as soon as they are here, published in batches with one durability barrier.

While a batch is being made durable the next one gathers, so the batch size finds itself: one file on a slow line,
hundreds where files come faster than the disk can promise them.
"""

from __future__ import annotations

import asyncio
import threading
from collections import defaultdict
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING

from fetcher import hashing
from fetcher.cache.fetch_records import SmallFile
from fetcher.engine.jobs import FileJob
from fetcher.engine.workers import Workers, finish
from fetcher.plan import allocation

if TYPE_CHECKING:
    from fetcher.cache.records import Blob
    from fetcher.cache.reservation import Reservation
    from fetcher.cache.small_files import SmallStaging
    from fetcher.cache.store import Cache

INLINE_BYTES_MAX = 64 << 10
"""Hashing this much costs about 50 µs, what handing it to a thread and back costs; above, a worker does it."""
GATHERED_BYTES_MAX = 32 << 20
"""Lanes wait when this much waits for the disk: what a kill can lose stays bounded, to this and the batch before."""
KEPT_BYTES_MAX = 32 << 20
"""Lanes wait when files that are not written yet hold this much memory, those of the batch under commit included."""
HELD_S = 0.15
HELD_FILES_MAX = 1000
HELD_BYTES_MAX = 4 << 20
"""A batch is held back until it has one of these, if more is coming. Names of contents are random, so a transaction of
some hundred rows changes nearly every page of the tables: a batch of 300 files costs half as much again for each file
as one of 1,000. What a kill can lose by it is what comes in this time."""


def examine(job: FileJob, data: memoryview | bytes, kept: bytes = b"") -> SmallFile | None:
    """Hash a small file; None if it is not what the origin stated. ``kept``: its bytes, if it is to keep them."""
    at_once = len(data) <= INLINE_BYTES_MAX
    if job.digest is not None:
        if not hashing.matches(job.digest, data, at_once=at_once):
            return None
        job.verified = (job.digest,)
    else:
        job.verified = tuple(guess for guess in job.entry.guesses if hashing.matches(guess, data, at_once=at_once))[:1]
    return SmallFile(
        content_id=job.content_id,
        data=kept,
        root=None if kept else hashing.root_of(data).hex(),  # with its bytes whoever commits hashes many at once
        digests=job.verified,
        verified_by=job.verified_by,
        asked=job.asked,
    )


class SmallCommitter:
    """Publishes small files of a run; ``run`` is one task of it."""

    def __init__(self, cache: Cache, workers: Workers, reservation: Reservation, more: Callable[[int], bool]) -> None:
        """``more``: whether other files may come, when so many have gathered."""
        self._cache = cache
        self._workers = workers
        self._reservation = reservation
        self._draw = reservation.in_turn()
        self._more = more
        self._gathered: list[tuple[FileJob, SmallFile]] = []
        self._gathered_bytes = 0
        self._kept_bytes = 0
        """In memory: what has gathered, and what is being committed."""
        self._leaving_bytes = 0
        """Of these, what is being committed."""
        self._held_until = 0.0
        """Loop's time at which what has gathered goes, whether or not more is coming."""
        self._staging: SmallStaging | None = None
        self._staging_lock = threading.Lock()
        self._wake = asyncio.Event()
        self._room = asyncio.Event()
        self._room.set()

    async def examine(self, job: FileJob, data: memoryview | bytes) -> SmallFile | None:
        """What came, verified; None if it is not what the origin stated. ``data`` is the caller's again afterwards.

        What a worker has to look at anyway, because it takes a while, it writes as well: such files do not wait in
        memory for their batch.
        """
        if len(data) > INLINE_BYTES_MAX:
            return await finish(self._workers.small(self._examine_and_write, job, data))
        kept = bytes(data)  # no copy of what is bytes
        return examine(job, kept, kept)

    def _examine_and_write(self, job: FileJob, data: memoryview | bytes) -> SmallFile | None:
        """In a worker."""
        small = examine(job, data)
        if small is None:
            return None
        staging = self._stage()
        self._reservation.draw(len(data))
        try:
            (name,) = staging.write([data])
        finally:
            self._reservation.wrote(len(data))
        return replace(small, staged=name, staged_bytes=len(data))

    def _stage(self) -> SmallStaging:
        """In a worker: where all batches are written."""
        with self._staging_lock:
            if self._staging is None:
                self._staging = self._cache.small_staging()
            return self._staging

    async def close(self) -> None:
        """Remove what was written and not published; no other call may be under way."""
        if self._staging is not None:
            await self._workers.slow(self._staging.close)
            self._staging = None

    async def add(self, job: FileJob, small: SmallFile) -> None:
        """Hand over a verified file; returns at once unless the disk is far behind."""
        while not self._room.is_set():  # somebody who waited as well may have taken it
            await self._room.wait()
        self._gathered.append((job, small))
        self._gathered_bytes += small.size
        self._kept_bytes += len(small.data)  # none of what is written already
        self._look_for_room()
        if len(self._gathered) == 1:
            self._held_until = asyncio.get_running_loop().time() + HELD_S
        if len(self._gathered) == 1 or not self._holds:
            self._wake.set()

    @property
    def _holds(self) -> bool:
        """Whether what has gathered may wait for more."""
        count = len(self._gathered)
        return count < HELD_FILES_MAX and self._gathered_bytes < HELD_BYTES_MAX and self._more(count)

    def _look_for_room(self) -> None:
        if self._gathered_bytes < GATHERED_BYTES_MAX and self._kept_bytes < KEPT_BYTES_MAX:
            self._room.set()
        else:
            self._room.clear()

    async def next_batch(self) -> list[tuple[FileJob, SmallFile]]:
        """All that has gathered; waits until there is something, and then a moment for more. The batch before is
        committed, and nobody holds it any more."""
        self._kept_bytes -= self._leaving_bytes
        self._leaving_bytes = 0
        self._look_for_room()
        await self._wake.wait()
        self._wake.clear()
        if self._holds:
            with suppress(TimeoutError):
                async with asyncio.timeout_at(self._held_until):
                    await self._wake.wait()
            self._wake.clear()
        batch, self._gathered, self._gathered_bytes = self._gathered, [], 0
        self._leaving_bytes = self._kept_bytes
        self._look_for_room()
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
        unwritten = sum(small.size for small in files if small.staged is None)
        self._draw(unwritten + sum(allocation.beside_bytes(small.size) for small in files))
        return self._cache.commit_small(files, private=private, principal=principal, staging=self._stage())
