"""What a run has still to begin, and whose turn it is. Decides and moves jobs between queues; it starts nothing.

Whoever can't be served now (his host has named a time, or his bytes don't come) holds up nobody else.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Sequence

from fetcher.engine.jobs import FileJob
from fetcher.engine.tools import Tools

SMALL_CLAIM = 64
SMALL_CLAIM_MAX = 512
"""Flights of small files are taken so many at a time: one transaction, and the rest stays free for others. Twice as
many as before where those were taken less than CLAIM_EVERY_S ago."""
CLAIM_EVERY_S = 0.1
OPENING_MAX = 2
"""Partials being opened at once: re-hashing what an earlier run left is the disk's work."""
STUCK_MAX = 128
"""Large files begun that get nowhere, or wait for their host's time, beside which others are begun all the same. Each
holds a few descriptors."""
SMALL_READY_MAX = 4096
"""Small files ready to be asked for, where the first ones can't be had now."""
RESTS_S = 1.0
"""A host that wants no request for longer than this holds up nobody else."""


class Queues:
    """The jobs of one run that are not under way."""

    def __init__(self, tools: Tools, jobs: Sequence[FileJob]) -> None:
        self.small: deque[FileJob] = deque()
        """Ours, ready to be asked for."""
        self.small_failed: deque[FileJob] = deque()
        """Ours, and to be asked for once no others are ready: they would take the places of those."""
        self.ready_large: deque[FileJob] = deque()
        """Ours, Partial not opened yet."""
        self.claiming_small = False
        """Flights of small files are being taken."""
        self.opening = 0
        """Large files that are being begun."""
        self._tools = tools
        self._unclaimed_large = deque(job for job in jobs if not job.small)
        self._unclaimed_small = deque(job for job in jobs if job.small)
        self._stalling: set[str] = set()
        """Resources of which a small file has stalled since one came."""
        self._small_claim = SMALL_CLAIM
        self._small_claimed_at = float("-inf")

    @property
    def follows(self) -> bool:
        """Whether anything is still to be begun."""
        return any(self._all)

    @property
    def large_follow(self) -> bool:
        """Whether a large file is still to be begun."""
        return bool(self.ready_large or self._unclaimed_large)

    @property
    def _all(self) -> tuple[deque[FileJob], ...]:
        return self.ready_large, self._unclaimed_large, self.small, self.small_failed, self._unclaimed_small

    def remove(self, content_ids: Collection[str]) -> None:
        """Nobody needs these any more."""
        for queue in self._all:
            kept = [job for job in queue if job.content_id not in content_ids]
            queue.clear()
            queue.extend(kept)

    def next_to_begin(self, begun: Sequence[FileJob]) -> FileJob | None:
        """A large file to begin now. Files begun are finished first, so there is one only where those offer no part."""
        if self.opening >= OPENING_MAX or not (self.ready_large or self._unclaimed_large):
            return None
        failing = sum(job.failures > 0 for job in begun)
        resting = sum(job.failures == 0 and self.rests(job) for job in begun)
        most = self._tools.settings.connections_max
        job = None
        if len(begun) - min(failing + resting, STUCK_MAX) < most:
            job = self._take_large(resting=False)
        if job is None and len(begun) - min(failing, STUCK_MAX) < most:
            job = self._take_large(resting=True)
        self.opening += job is not None
        return job

    def _take_large(self, *, resting: bool) -> FileJob | None:
        """The next of the queues; without ``resting`` the first one whose host wants a request."""
        for queue in (self.ready_large, self._unclaimed_large):
            for index, job in enumerate(queue):
                if resting or not self.rests(job):
                    del queue[index]
                    return job
        return None

    def rests(self, job: FileJob) -> bool:
        """Whether no request for it is wanted for a while."""
        not_before = max(job.not_before, self._tools.admission.host(job.source.host).not_before)
        return max(not_before - self._tools.clock(), job.source.pause_s()) > RESTS_S

    def next_small_to_claim(self, *, enough: int | None = None) -> list[FileJob]:
        """Small files whose flights to take now; none while there are enough ready, or some being claimed."""
        if enough is None:
            enough = self._small_claim // 2
        if self.claiming_small or not self._unclaimed_small or len(self.small) > enough:
            return []
        self.claiming_small = True
        now = self._tools.clock()
        soon = now - self._small_claimed_at < CLAIM_EVERY_S
        self._small_claim = min(SMALL_CLAIM_MAX, 2 * self._small_claim) if soon else SMALL_CLAIM
        self._small_claimed_at = now
        return [self._unclaimed_small.popleft() for _ in range(min(self._small_claim, len(self._unclaimed_small)))]

    @property
    def small_to_come(self) -> bool:
        """Whether small files are still to be claimed that may be had sooner than those that have failed."""
        return (self.claiming_small or bool(self._unclaimed_small)) and len(self.small_failed) < SMALL_READY_MAX

    def add_small(self, job: FileJob) -> None:
        """Ours, and ready to be asked for, for the first time or again."""
        (self.small_failed if job.failures or job.resource in self._stalling else self.small).append(job)

    def small_stalled(self, resource: str) -> None:
        """Of a small file nothing came: what else there is of its resource waits until the others' have had their turn.
        One by one they would take all connections for as long as the run may go without a byte."""
        self._stalling.add(resource)
        stalling = [job for job in self.small if job.resource == resource]
        if stalling:
            kept = [job for job in self.small if job.resource != resource]
            self.small.clear()
            self.small.extend(kept)
            self.small_failed.extend(stalling)

    def small_came(self, resource: str) -> None:
        """A small file of the resource is here."""
        self._stalling.discard(resource)
