"""One call's transfers: beginnings, endings and books of a run. Lanes take from its queues, attendants finish files, a
watchdog keeps time.

All tasks live in one TaskGroup: the first error ends the run, and what was proven stays.
"""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import Callable, Collection, Sequence
from typing import TYPE_CHECKING

from fetcher.engine.attend import Attendant
from fetcher.engine.crawling import Crawling
from fetcher.engine.flights import Flights
from fetcher.engine.hedging import Hedging
from fetcher.engine.jobs import Active, FileJob, PartEnded
from fetcher.engine.lanes import Lanes
from fetcher.engine.observe import Observer
from fetcher.engine.queues import Queues
from fetcher.engine.small import SmallCommitter
from fetcher.engine.tools import Tools
from fetcher.engine.watchdog import Watchdog
from fetcher.engine.workers import finish, first_error
from fetcher.errors import (
    DeniedError,
    FetcherError,
    ForbiddenError,
    IntegrityError,
    InterruptedByUser,
    NotFoundError,
    RateLimitedError,
    ResourceError,
    TransportError,
)
from fetcher.plan import allocation
from fetcher.plan.part_size import part_bytes
from fetcher.plan.transfer import Event, Outcome

if TYPE_CHECKING:
    from fetcher.cache.fetch_records import SmallFile
    from fetcher.cache.partials import Partial
    from fetcher.cache.reservation import Reservation

Failed = Callable[[FileJob, FetcherError], Collection[FileJob]]

OF_ONE_JOB = (
    DeniedError,
    ForbiddenError,
    IntegrityError,
    NotFoundError,
    RateLimitedError,
    ResourceError,
    TransportError,
)
"""Errors that say nothing about the other jobs. A disk in trouble, or a user who stops, concerns all."""
FINISHED_RATES = 64
SMALL_LANE = 4
"""Every so many-th lane takes small files first: their round trips overlap the large files' bytes."""


class Run:
    """Gets the contents of ``jobs``; ``execute`` once. Attributes are for the lanes and the watchdog of this run."""

    def __init__(
        self,
        tools: Tools,
        flights: Flights,
        observer: Observer,
        jobs: Sequence[FileJob],
        reservation: Reservation,
        *,
        failed: Failed | None = None,
    ) -> None:
        """``failed``: told of a job that can't be had; returns the jobs that nobody needs any more, that one among
        them, and the run goes on with the others. None: the first error ends the run."""
        self.tools = tools
        self.settings = tools.settings
        self.observer = observer
        self.committer = SmallCommitter(
            tools.cache, tools.workers, reservation, lambda gathered: self._missing > gathered
        )
        self.queues = Queues(tools, jobs)
        """Of what is not under way."""
        self.begun: list[FileJob] = []
        """Large, Partial open or about to be."""
        self.elsewhere: list[FileJob] = []
        """Fetched by somebody else."""
        self.actives: set[Active] = set()
        self.renewals: set[Active] = set()
        """Of those who ask an origin for something fresh before they may ask for bytes."""
        self.lanes_max = tools.settings.connections_max
        """Parts at once; lowered on a line that is too thin for so many."""
        self.finished_rates: deque[float] = deque(maxlen=FINISHED_RATES)
        self.progressed_at = tools.clock()
        self.last_failure: PartEnded | None = None
        self.changed = asyncio.Event()
        """Look again: a place, a part, a file may be free."""
        self.finished = asyncio.Event()
        self.hedging = Hedging(self, sum(job.size for job in jobs))
        self.crawling = Crawling(self)
        self._failed = failed
        self._flights = flights
        self._jobs = tuple(jobs)
        self._reservation = reservation
        self._missing = len(jobs)
        self._claiming: set[str] = set()
        """Content ids of jobs that are in no queue, as their flights are being taken."""
        self._group: asyncio.TaskGroup | None = None

    def __repr__(self) -> str:
        return (
            f"<Run {self._missing} of {len(self._jobs)} missing, {len(self.begun)} begun, "
            f"{len(self.elsewhere)} elsewhere, {len(self.actives)}/{self.lanes_max} requests>"
        )

    # -- the whole ---------------------------------------------------------------------------------------------------

    async def execute(self) -> None:
        """Return when every job has its blob. Raises the first typed error; Partials of what is missing are kept."""
        if not self._jobs:
            return
        with self.tools.cache.owner.answering(asyncio.get_running_loop().call_soon_threadsafe):
            await self._execute()

    async def _execute(self) -> None:
        unwatch = self.tools.admission.watch(self.changed.set, self.left_bytes)
        lanes = Lanes(self)
        try:
            async with asyncio.TaskGroup() as group:
                self._group = group
                servants = [group.create_task(Watchdog(self).watch()), group.create_task(self._commit_small())]
                for index in range(self._lane_count()):
                    group.create_task(lanes.lane(prefers_small=index % SMALL_LANE == SMALL_LANE - 1))
                await self.finished.wait()
                for servant in servants:
                    servant.cancel()
        except BaseExceptionGroup as errors:
            raise first_error(errors) from None
        finally:
            unwatch()
            await self._let_go()

    def _lane_count(self) -> int:
        parts = sum(max(1, -(-job.size // self.settings.part_bytes)) for job in self._jobs)
        # One more than parts, or there were nobody to ask for the last one a second time.
        spare = self.settings.hedges_max if any(not job.small for job in self._jobs) else 0
        return min(self.settings.connections_max, parts + spare)

    async def _let_go(self) -> None:
        """Close what is open and give up what we hold; to its end, however often we are cancelled."""

        async def close_all() -> None:
            try:
                for job in self._jobs:
                    if job.partial is not None and job.blob is None:
                        try:
                            await self.tools.workers.slow(_close_or_discard, job)
                        except FetcherError as error:  # its disk is in trouble; the others' may not be
                            self.observer.notice(f"{job.entry.path}: {error.message}")
                try:
                    await self.committer.close()
                except FetcherError as error:  # gc finds it
                    self.observer.notice(error.message)
            finally:
                await self._flights.release(self._jobs)

        await finish(asyncio.ensure_future(close_all()))

    def progressed(self) -> None:
        """Something was proven; the run gets somewhere."""
        self.progressed_at = self.tools.clock()

    # -- whose turn --------------------------------------------------------------------------------------------------

    def part_bytes(self, job: FileJob) -> int:
        """How long the next part of ``job`` may be."""
        window = self.tools.admission.host(job.source.host)
        left = float("inf") if self.queues.follows else sum(begun.transfer.bytes_to_start for begun in self.begun)
        return part_bytes(
            self.settings.part_bytes,
            speed_bytes_per_s=window.connection_bytes_per_s,
            left_bytes=left,
            connections=min(int(window.cap), self.lanes_max),
            window_bytes=job.transfer.part_bytes_max,
        )

    def left_bytes(self, host: str) -> float:
        """What is still to be asked of ``host`` for; without an end as long as files are still to be begun."""
        if self.queues.follows:
            return float("inf")
        return sum(job.transfer.bytes_to_start for job in self.begun if job.source.host == host)

    async def claim(self, jobs: Sequence[FileJob]) -> None:
        """Take the flights that are free: queue what is ours, remember what is not, book what is here already."""
        self._claiming.update(job.content_id for job in jobs)
        try:
            await self._flights.claim(jobs)
        finally:
            self._claiming.difference_update(job.content_id for job in jobs)
            self.queues.claiming_small = False
        asked = {job.content_id for job in jobs}
        self.elsewhere = [job for job in self.elsewhere if job.content_id not in asked]
        found = []
        for job in jobs:
            if job.blob is not None and not job.abandoned:
                job.transfer.on(Event.FOUND)
                self._count(job, job.size)
                found.append(job)
            elif job.abandoned:
                found.append(job)
            elif job.mine and job.small:
                self._count(job, 0)
                self.queues.add_small(job)
            elif job.mine:
                # What a former owner had done stays counted until his Partial has been looked at.
                self.queues.ready_large.append(job)
            else:
                # An heir begins at zero, and soon has what the former owner had: no step back for that.
                bytes_done = max(job.bytes_counted, job.bytes_done)
                if bytes_done > job.bytes_counted:
                    self.progressed()  # what others have proven comes to us as well
                self._count(job, bytes_done)
                self.elsewhere.append(job)
        if found:
            await self._complete(found)
        self.changed.set()

    def _count(self, job: FileJob, bytes_done: int) -> None:
        """Others have so much of it."""
        self.observer.bytes_done += bytes_done - job.bytes_counted
        job.bytes_counted = bytes_done

    async def begin(self, job: FileJob) -> None:
        """Take the flight, if we have not, and open the Partial with what an earlier run or a dead owner left in it."""
        try:
            if not job.mine:
                await self.claim([job])
                return  # it is in a queue now, perhaps in the one of what is ready to be opened
            self.begun.append(job)
            await self._open(job)
        finally:
            self.queues.opening -= 1
            self.changed.set()
        assert self._group is not None
        self._group.create_task(self._attend(job))

    async def _open(self, job: FileJob) -> None:
        stop = threading.Event()

        def step() -> None:
            """Between pieces of the re-hashing: it is progress, and may be given up."""
            self.progressed()
            if stop.is_set():
                raise InterruptedByUser("stopped")

        def open_partial() -> Partial:
            draw = self._reservation.in_turn()
            draw(allocation.beside_bytes(job.size))
            job.draw, job.wrote = self._reservation.draw, self._reservation.wrote
            job.undraw, job.draw_beside = self._reservation.undraw, self._reservation.draw_beside
            # Booked in the worker: whatever is opened is closed in the end, also if we are cancelled meanwhile.
            job.partial = self.tools.cache.partial_open(
                job.head(), previous_owner=job.previous_owner, step=step, draw=draw
            )
            self._reservation.write_over(job.partial.bytes_unproven)
            draw(0)
            return job.partial

        partial = await self.tools.workers.slow_until(stop, open_partial)
        job.transfer.adopt(partial.proven)
        job.bytes_adopted = job.transfer.bytes_written
        self._count(job, 0)
        self.observer.bytes_done += job.bytes_adopted
        job.transfer.on(Event.BEGIN)
        self.progressed()

    @property
    def sharing(self) -> int:
        """Requests that share the line: those that have been silent for a while do not."""
        return sum(active.place is None or not active.place.silent for active in self.actives)

    @property
    def line_is_full(self) -> bool:
        """As many share it as it bears. Before some had to give way that is never so: there are as many lanes as there
        may be requests, and a lane that looks has none."""
        return self.lanes_max < self.settings.connections_max and self.sharing >= self.lanes_max

    def is_left_alone(self, active: Active) -> bool:
        """Whether what a request brings might not be had by another one: slow is better than not at all."""
        job = active.job
        return job is not None and (job.refused or job.source.pause_s() > self.settings.retry_after_max_s)

    @property
    def only_waits(self) -> bool:
        """All that is missing is fetched by others."""
        return len(self.elsewhere) == self._missing

    def told_to_wait(self, now: float) -> bool:
        """Whether an origin has named the time before which it wants no request of ours."""
        waiting = [*self.begun, *list(self.queues.small)[:1], *list(self.queues.small_failed)[:1]]
        admission = self.tools.admission
        return any(admission.host(job.source.host).not_before > now or job.source.pause_s() > 0 for job in waiting)

    # -- endings -----------------------------------------------------------------------------------------------------

    async def _attend(self, job: FileJob) -> None:
        try:
            with job.named():
                await Attendant(job, self.tools, self.observer, self.changed.set, self.progressed).execute()
        except FetcherError as error:
            await self.fail(job, error)
            await self._parts_over(job)
        finally:
            self.tools.unsynced.forget(job)
        self.begun.remove(job)
        job.fetched = job.blob is not None
        if job.blob is None and job.partial is not None:
            await self.tools.workers.slow(_close_or_discard, job)
        await self._complete([job])

    async def _parts_over(self, job: FileJob) -> None:
        while job.transfer.parts_open:
            job.progressed.clear()
            await job.progressed.wait()

    async def fail(self, job: FileJob, error: FetcherError) -> None:
        """A job can't be had: the run goes on without it and what only it was good for, or ends with ``error``."""
        if self._failed is None or not isinstance(error, OF_ONE_JOB):
            raise error
        await self.drop(self._failed(job, error))

    async def drop(self, jobs: Collection[FileJob]) -> None:
        """Nobody needs these any more. Those under way end by themselves, as soon as they notice."""
        idle = []
        for job in jobs:
            if job.ended:
                continue
            job.abandoned = True
            if job.active:
                for active in job.active:
                    active.end_with(Outcome.SHED)
            elif job not in self.begun:
                idle.append(job)
            job.wake()
        gone = {job.content_id for job in idle}
        self.queues.remove(gone)
        self.elsewhere = [job for job in self.elsewhere if job.content_id not in gone]
        await self._complete([job for job in idle if not self._is_on_its_way(job)])
        self.changed.set()

    def _is_on_its_way(self, job: FileJob) -> bool:
        """Being claimed or opened, or handed to the committer: whoever does that looks at ``abandoned`` then."""
        return job.content_id in self._claiming or job.handed_over

    async def _commit_small(self) -> None:
        while True:
            await self._publish_small(await self.committer.next_batch())  # and its bytes go, before one waits for more

    async def _publish_small(self, batch: list[tuple[FileJob, SmallFile]]) -> None:
        await self.committer.commit(batch)
        for job, _ in batch:
            job.transfer.on(Event.LAST_BLOCK)
            job.transfer.on(Event.DIGEST_RIGHT)
            job.transfer.on(Event.COMMITTED)
            job.fetched = True
        await self._complete([job for job, _ in batch])

    async def _complete(self, jobs: Sequence[FileJob]) -> None:
        """The jobs have their blobs, or were given up: tell the waiters, and end the run with the last one."""
        jobs = [job for job in jobs if not job.ended]
        for job in jobs:
            job.ended = True
            if job.abandoned and job.blob is None:
                self.observer.without(job.size, job.transfer.bytes_written + job.bytes_counted)
        await self._flights.release(jobs)
        self._missing -= len(jobs)
        self.observer.files_done += sum(job.blob is not None for job in jobs)
        self.progressed()
        if self._missing == 0:
            self.finished.set()
        self.changed.set()

    # -- books, and what bodies report (receive.Meter) ---------------------------------------------------------------

    async def keep_books(self) -> None:
        """Tell the other processes how far we are."""
        await self._flights.progress(self.begun)

    def book(self, active: Active) -> None:
        """Tell the window of its host what a request has brought since it was last looked at."""
        count = active.pulse.bytes_received - active.booked_bytes
        if active.place is not None and count > 0:
            active.booked_bytes += count
            self.tools.admission.received(active.place.host, count)

    def received(self, active: Active, count: int) -> None:
        active.pulse.received(count, self.tools.clock())
        self.observer.bytes_downloaded += count

    def owed_s(self, active: Active, count: int) -> float | None:
        if self.tools.limit is None:
            return None
        owed_s = self.tools.limit.owed_s(count)
        if owed_s:
            self.progressed()  # a user's own limit is no fault of the line
        return owed_s

    def has_room(self, job: FileJob) -> bool:
        return self.tools.unsynced.has_room(job)

    def when_room(self, look: Callable[[], None]) -> None:
        self.tools.unsynced.when_eased(look)

    def block_written(self, job: FileJob, byte_count: int) -> None:
        job.failures = 0
        self.tools.unsynced.wrote(job, byte_count)
        self.came(byte_count)

    def came(self, byte_count: int) -> None:
        """So much more is here, and right: the line bears one request more."""
        self.lanes_max = min(self.settings.connections_max, self.lanes_max + 1)
        self.observer.bytes_done += byte_count
        self.progressed()


def _close_or_discard(job: FileJob) -> None:
    """In a worker: keep what another run may go on from; what belongs to this run alone goes."""
    assert job.partial is not None
    if job.entry.resumable and not job.distrusted:
        job.partial.close()
    else:
        job.partial.discard()
