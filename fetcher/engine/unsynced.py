"""What was written to Partials and is not yet known to be on the disk: over all files of an engine never more than
``sync_bytes``, because that is what a power cut may cost.

A file is made durable once it has its share of half of that, by its follower, beside the writing. Where blocks come
faster than the disk takes them for good, their connections are held: then the disk is the limit, and not the memory.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager

from fetcher.engine.jobs import FileJob


class Unsynced:
    """The books of one engine; used in its event loop only."""

    def __init__(self, bytes_max: int) -> None:
        self._bytes_max = bytes_max
        self._bytes: dict[FileJob, int] = {}
        """Those that have some."""
        self._tended: set[FileJob] = set()
        self._waiting: list[Callable[[], None]] = []

    @property
    def total_bytes(self) -> int:
        return sum(self._bytes.values())

    def wrote(self, job: FileJob, byte_count: int) -> None:
        """A block of it was written; its follower hears of it once that is due."""
        self._bytes[job] = self._bytes.get(job, 0) + byte_count
        if self.due(job):
            job.wake()

    def forget(self, job: FileJob) -> None:
        """It is durable as a whole, or gone."""
        self._bytes.pop(job, None)
        self._ease()

    # --- for the follower

    @contextmanager
    def tended(self, job: FileJob) -> Iterator[None]:
        """As long as this lasts ``sync`` is called when it is ``due``. Only then a file's connections may be held: they
        must never wait for somebody who waits for them."""
        self._tended.add(job)
        try:
            yield
        finally:
            self._tended.discard(job)
            self._ease()

    def due(self, job: FileJob) -> bool:
        """Whether it is this file's turn. Of all that have something at least one is at its turn before all is full."""
        return self._bytes.get(job, 0) * 2 * len(self._bytes) >= self._bytes_max and job in self._bytes

    async def sync(self, job: FileJob, call: Awaitable[None]) -> None:
        """Wait for the call that makes it durable; what is written meanwhile is for the next one."""
        covered = self._bytes.get(job, 0)
        await call
        left = self._bytes.get(job, 0) - covered
        if left > 0:
            self._bytes[job] = left
        else:
            self._bytes.pop(job, None)
        self._ease()

    # --- for connections

    def has_room(self, job: FileJob) -> bool:
        """Whether another block may be written now."""
        if job not in self._tended or self.total_bytes < self._bytes_max:
            return True
        for other in tuple(self._bytes):
            other.wake()  # with fewer files at work each had a larger share
        return False

    def when_eased(self, look: Callable[[], None]) -> None:
        """Call ``look`` once, when that may have changed."""
        self._waiting.append(look)

    def _ease(self) -> None:
        waiting, self._waiting = self._waiting, []
        for look in waiting:
            look()
