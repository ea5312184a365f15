"""One call's transfers: lanes that take parts and small files, one attendant per large file, one watchdog.

Lanes decide in a plain method (``_pick``: look, choose, take a place, start the part, with no await between) and then
do the I/O they chose. All tasks live in one TaskGroup: the first error ends the run, what was proven stays.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec

from fetcher.engine.admission import Place
from fetcher.engine.attend import Attendant
from fetcher.engine.flights import Flights
from fetcher.engine.jobs import Active, FileJob, PartEnded
from fetcher.engine.observe import Observer
from fetcher.engine.receive import receive_part, receive_small
from fetcher.engine.small import SmallCommitter, examine_anywhere
from fetcher.engine.tools import Tools
from fetcher.engine.workers import finish
from fetcher.errors import FetcherError, IntegrityError, RateLimitedError, TransportError
from fetcher.model.ranges import ByteRange
from fetcher.net.transport import Response
from fetcher.plan.transfer import Event, Outcome, Part, State
from fetcher.plan.watch import Limits, Pulse, connections_to_keep, judge

if TYPE_CHECKING:
    from fetcher.cache.partials import Partial
    from fetcher.cache.space import Reservation

P = ParamSpec("P")

TICK_S = 0.1
FLIGHTS_EVERY_S = 0.3
FINISHED_RATES = 64
SMALL_LANE = 4
"""Every so many-th lane takes small files first: their round trips overlap the large files' bytes."""


class Run:
    """Gets the contents of ``jobs``; ``execute`` once."""

    def __init__(
        self,
        tools: Tools,
        flights: Flights,
        observer: Observer,
        jobs: Sequence[FileJob],
        reservation: Reservation,
    ) -> None:
        self._tools = tools
        self._settings = tools.settings
        self._flights = flights
        self._observer = observer
        self._jobs = tuple(jobs)
        self._reservation = reservation
        self._unbooked_bytes = 0
        self._lanes_max = tools.settings.connections_max
        self._missing = len(jobs)
        self._large: deque[FileJob] = deque()
        self._small: deque[FileJob] = deque()
        self._begun: list[FileJob] = []
        self._elsewhere: list[FileJob] = []
        self._finished = asyncio.Event()
        self._changed = asyncio.Event()
        self._actives: set[Active] = set()
        self._finished_rates: deque[float] = deque(maxlen=FINISHED_RATES)
        self._committer = SmallCommitter(tools.cache, tools.workers)
        self._progressed_at = tools.clock()
        self._last_failure: PartEnded | None = None
        self._group: asyncio.TaskGroup | None = None

    # -- the whole ---------------------------------------------------------------------------------------------------

    async def execute(self) -> None:
        """Return when every job has its blob. Raises the first typed error; Partials of what is missing are kept."""
        if not self._jobs:
            return
        unwatch = self._tools.admission.watch(self._changed.set)
        try:
            await self._claim(self._jobs)
            async with asyncio.TaskGroup() as group:
                self._group = group
                helpers = [group.create_task(self._watch()), group.create_task(self._commit_small())]
                for index in range(self._lane_count()):
                    group.create_task(self._lane(prefers_small=index % SMALL_LANE == SMALL_LANE - 1))
                await self._finished.wait()
                for helper in helpers:
                    helper.cancel()
        except BaseExceptionGroup as errors:
            raise first_error(errors) from None
        finally:
            unwatch()
            await self._let_go()

    def _lane_count(self) -> int:
        parts = sum(max(1, -(-job.size // self._settings.part_bytes)) for job in self._jobs)
        return min(self._settings.connections_max, parts)

    async def _let_go(self) -> None:
        """Close what is open and give up what we hold; to its end, however often we are cancelled."""

        async def close_all() -> None:
            for job in self._jobs:
                if job.partial is not None and job.blob is None:
                    await self._tools.workers.slow(job.partial.close)
            await self._flights.release(self._jobs)

        await finish(asyncio.ensure_future(close_all()))

    async def _claim(self, jobs: Sequence[FileJob]) -> None:
        """Take the flights that are free, queue what is ours, remember what is not."""
        await self._flights.claim(jobs)
        asked = {job.content_id for job in jobs}
        self._elsewhere = [job for job in self._elsewhere if job.content_id not in asked]
        for job in jobs:
            if job.blob is not None:
                job.transfer.on(Event.FOUND)
                self._observer.bytes_done += job.size
                await self._complete([job])
            elif job.mine:
                (self._small if job.small else self._large).append(job)
            else:
                self._elsewhere.append(job)
        self._changed.set()

    async def _complete(self, jobs: Sequence[FileJob]) -> None:
        """The jobs have their blobs: tell the waiters, and end the run with the last one."""
        await self._flights.release(jobs)
        self._missing -= len(jobs)
        self._observer.files_done += len(jobs)
        self._progress()
        if self._missing == 0:
            self._finished.set()
        self._changed.set()

    def _progress(self) -> None:
        self._progressed_at = self._tools.clock()

    # -- lanes -------------------------------------------------------------------------------------------------------

    async def _lane(self, *, prefers_small: bool) -> None:
        choices = [self._pick_large, self._pick_small]
        if prefers_small:
            choices.reverse()
        while not self._finished.is_set():
            step = choices[0]() or choices[1]()
            if step is None:
                self._changed.clear()
                await self._changed.wait()
            else:
                await step

    def _pick_large(self) -> Coroutine[Any, Any, None] | None:
        now = self._tools.clock()
        admission = self._tools.admission
        if len(self._actives) >= self._lanes_max:
            return None
        for job in self._begun:
            if job.drop is not None or job.not_before > now or job.transfer.state is not State.FETCHING:
                continue
            if job.source.scouting or self._paused(job):
                continue
            host = job.source.host
            if not admission.may_start(host):
                continue
            part = job.transfer.next_part()
            if part is not None:
                job.source.scouting = not job.source.known
                return self._named(job, self._do_part, part, admission.take(host))
        if self._large and len(self._begun) < self._settings.connections_max:
            job = self._large.popleft()
            self._begun.append(job)
            return self._named(job, self._begin)
        return None

    async def _named(
        self, job: FileJob, step: Callable[Concatenate[FileJob, P], Awaitable[None]], *arguments: P.args, **_: P.kwargs
    ) -> None:
        with job.named():
            await step(job, *arguments, **_)

    def _paused(self, job: FileJob) -> bool:
        """The origin's announced rate leaves no request for now; raises if that takes longer than we may wait."""
        pause_s = job.source.pause_s()
        if pause_s > self._settings.retry_after_max_s:
            raise RateLimitedError(
                f"{job.source.host} allows no further request for {pause_s:.0f} s",
                hint="with a token the origin may allow more" if job.asker.token is None else None,
                resource=job.resource,
            )
        return pause_s > 0

    def _pick_small(self) -> Coroutine[Any, Any, None] | None:
        now = self._tools.clock()
        admission = self._tools.admission
        for _ in range(min(len(self._small), 8)):
            job = self._small[0]
            if job.not_before <= now and not self._paused(job) and admission.may_start(job.source.host):
                self._small.popleft()
                return self._named(job, self._do_small, admission.take(job.source.host))
            self._small.rotate(-1)
        return None

    async def _begin(self, job: FileJob) -> None:
        """Open the Partial, with what an earlier run or a dead owner left in it."""

        def open_partial() -> Partial:
            # Booked in the worker: whatever is opened is closed in the end, also if we are cancelled meanwhile.
            job.partial = self._tools.cache.partial_open(job.head(), previous_owner=job.previous_owner)
            return job.partial

        partial = await self._tools.workers.slow(open_partial)
        job.transfer.adopt(partial.proven)
        job.bytes_adopted = job.transfer.bytes_written
        self._observer.bytes_done += job.bytes_adopted
        job.transfer.on(Event.BEGIN)
        assert self._group is not None
        self._group.create_task(self._named(job, self._attend))
        self._progress()
        self._changed.set()

    async def _attend(self, job: FileJob) -> None:
        await Attendant(job, self._tools, self._observer, self._changed.set, self._progress).execute()
        self._begun.remove(job)
        job.fetched = True
        await self._complete([job])

    async def _do_part(self, job: FileJob, part: Part, place: Place) -> None:
        """One request for one part, from admission to the end of its last worker call."""
        slabs = self._tools.slabs.take_pair()
        active = Active(part, Pulse(self._tools.clock(), moves=part.moves))
        outcome = Outcome.CUT
        try:
            async with self._request(
                job, active, place, part.span, fresh=job.failures > 0 or part.moves > 0
            ) as response:
                job.source.scouting = False
                self._changed.set()
                await receive_part(job, part, response, slabs, self._tools.workers, self, active)
            outcome = Outcome.COMPLETE
        except PartEnded as ended:
            outcome = ended.outcome
            self._part_ended_early(job, ended, place.host)
        finally:
            job.source.scouting = False
            job.transfer.end(part, outcome)
            self._tools.slabs.give_back(slabs)
            place.leave()
            job.wake()

    async def _do_small(self, job: FileJob, place: Place) -> None:
        """One request for one small file, its check, and its way to the committer."""
        slabs = self._tools.slabs.take_pair()
        active = Active(None, Pulse(self._tools.clock()))
        small = None
        try:
            if job.transfer.state is State.WAITING:
                job.transfer.on(Event.BEGIN)
            span = ByteRange(0, job.size)
            async with self._request(job, active, place, span, fresh=job.failures > 0) as response:
                data = await receive_small(job, response, slabs[0], self, active)
            small = await examine_anywhere(job, data, self._tools.workers)
            if small is None:
                self._wrong_small(job)
        except PartEnded as ended:
            self._part_ended_early(job, ended, place.host)
        finally:
            self._tools.slabs.give_back(slabs)
            place.leave()
        if small is None:
            self._small.append(job)
            self._changed.set()
        else:
            self._observer.bytes_done += job.size
            self._progress()
            await self._committer.add(job, small)

    def _wrong_small(self, job: FileJob) -> None:
        job.transfer.wrong_digests += 1
        job.source.forget()
        job.failures += 1
        if job.transfer.wrong_digests > job.transfer.RESTARTS_MAX:
            raise IntegrityError(
                f"{job.entry.path}: the origin twice sent bytes that are not {job.digest}",
                hint="nothing of it was published; the origin's copy is damaged, or somebody changes it on the way",
                resource=job.resource,
            )

    @asynccontextmanager
    async def _request(
        self, job: FileJob, active: Active, place: Place, span: ByteRange, *, fresh: bool
    ) -> AsyncIterator[Response]:
        """One request under the watchdog's eyes: gives the judged answer, and ends the connection as it deserves.

        What breaks inside becomes PartEnded; where the watchdog ended it, its verdict is the reason.
        """
        response: Response | None = None
        self._actives.add(active)
        job.active.add(active)
        try:
            async with asyncio.timeout(None) as active.deadline:
                # The watchdog times the silence of a part; the transport's own limit only backs it up.
                response = await job.source.open(
                    self._tools.transport,
                    place,
                    span,
                    fresh=fresh,
                    idle_timeout_s=4 * self._settings.part_idle_timeout_s,
                )
                yield response
                await response.release()
        except TimeoutError:
            assert active.verdict is not None
            raise PartEnded(active.verdict, f"{place.host}: {active.verdict.value}") from None
        finally:
            self._actives.discard(active)
            job.active.discard(active)
            if response is not None:
                response.abort()
        elapsed_s = self._tools.clock() - active.pulse.started_at
        if elapsed_s > 0 and active.part is not None:
            self._finished_rates.append(span.length / elapsed_s)
        self._tools.admission.served(place.host)

    def _part_ended_early(self, job: FileJob, ended: PartEnded, host: str) -> None:
        """Book an early end: who has to wait, what has to be looked up again."""
        now = self._tools.clock()
        outcome = ended.outcome
        if outcome in (Outcome.COMPLETE, Outcome.SHED):
            return  # located, but no place at that host; or given way: the part is simply taken up again
        self._last_failure = ended
        if outcome is Outcome.BUSY:
            self._tools.admission.busy(host, ended.retry_after_s)
            if ended.retry_after_s is not None and ended.retry_after_s > self._settings.retry_after_max_s:
                raise RateLimitedError(
                    f"{ended.reason} and asks to wait {ended.retry_after_s:.0f} s", resource=job.resource
                )
        elif outcome in (Outcome.STALLED, Outcome.SLOW):
            self._observer.parts_moved += 1
            job.failures += outcome is Outcome.STALLED
        elif outcome is Outcome.CHANGED:
            if job.small:
                self._changed_small(job, ended)
            else:
                job.drop = outcome
                for other in job.active:
                    other.end_with(Outcome.CHANGED, asyncio.get_running_loop().time())
        else:
            job.failures += 1
            if job.failures > 1:
                ceiling = min(self._settings.backoff_max_s, self._settings.backoff_min_s * 2**job.failures)
                job.not_before = (
                    now
                    + self._settings.backoff_min_s
                    + self._tools.dice.random() * (ceiling - self._settings.backoff_min_s)
                )

    def _changed_small(self, job: FileJob, ended: PartEnded) -> None:
        job.transfer.origin_changes += 1
        job.source.forget()
        if job.transfer.origin_changes > job.transfer.RESTARTS_MAX:
            raise TransportError(f"origin changed: {ended.reason}", resource=job.resource)

    # -- what bodies report (receive.Meter) --------------------------------------------------------------------------

    def received(self, active: Active, count: int) -> None:
        active.pulse.received(count, self._tools.clock())
        self._observer.bytes_downloaded += count

    async def pay(self, active: Active, count: int) -> None:
        if self._tools.limit is not None:
            active.pulse.holding = True
            await self._tools.limit.pay(count)
            active.pulse.holding = False
            self._progress()  # a user's own limit is no fault of the line

    def block_written(self, job: FileJob, byte_count: int) -> None:
        job.failures = 0
        job.source.served()
        job.unsynced_bytes += byte_count
        self._unbooked_bytes += byte_count
        self._lanes_max = min(self._settings.connections_max, self._lanes_max + 1)
        self._observer.bytes_done += byte_count
        self._progress()

    # -- committer and watchdog --------------------------------------------------------------------------------------

    async def _commit_small(self) -> None:
        while True:
            batch = await self._committer.next_batch()
            await self._committer.commit(batch)
            for job, _ in batch:
                job.transfer.on(Event.LAST_BLOCK)
                job.transfer.on(Event.DIGEST_RIGHT)
                job.transfer.on(Event.COMMITTED)
                job.fetched = True
            await self._complete([job for job, _ in batch])

    async def _watch(self) -> None:
        """Everything that happens because time goes by."""
        settings = self._settings
        limits = Limits(
            idle_timeout_s=settings.part_idle_timeout_s,
            slow_bytes_per_s=settings.part_slow_bytes_per_s,
            slow_window_s=settings.part_slow_window_s,
            slow_moves_max=settings.part_moves_max,
        )
        flights_at = progress_at = self._tools.clock()
        while True:
            await asyncio.sleep(TICK_S)
            now = self._tools.clock()
            by_pulse = {active.pulse: active for active in self._actives}
            for pulse, outcome in judge(by_pulse, now, limits, self._finished_rates):
                by_pulse[pulse].end_with(outcome, asyncio.get_running_loop().time())
            self._shed(now)
            self._observer.connections = len(self._actives)
            self._observer.tick()
            if self._elsewhere and now - flights_at >= FLIGHTS_EVERY_S:
                flights_at = now
                before = sum(job.others_bytes for job in self._elsewhere)
                await self._claim(list(self._elsewhere))
                if sum(job.others_bytes for job in self._elsewhere) != before:
                    self._progress()
            if now - progress_at >= 1.0:
                progress_at = now
                await self._flights.progress(self._begun)
                written, self._unbooked_bytes = self._unbooked_bytes, 0
                await self._tools.workers.slow(self._reservation.shrink, written)
            if now - self._progressed_at >= settings.no_progress_timeout_s:
                raise self._no_progress()
            self._changed.set()  # places and jobs whose waiting time is over

    def _shed(self, now: float) -> None:
        """No block for a while: the line may be too thin for so many. The latest parts give way to the first ones."""
        keep = connections_to_keep(
            self._settings.connections_max, now - self._progressed_at, self._settings.no_progress_timeout_s
        )
        if keep >= self._lanes_max:
            return
        self._lanes_max = keep
        parts = [active for active in self._actives if active.part is not None]
        parts.sort(key=lambda active: active.pulse.bytes_received, reverse=True)
        for active in parts[keep:]:
            active.end_with(Outcome.SHED, asyncio.get_running_loop().time())

    def _no_progress(self) -> TransportError:
        reason = f"; last: {self._last_failure.reason}" if self._last_failure else ""
        return TransportError(
            f"no new byte was proven for {self._settings.no_progress_timeout_s:.0f} s{reason}",
            hint="what is here is kept; run the same command again to go on from there",
            resource=self._observer.resource,
        )


def first_error(errors: BaseExceptionGroup[BaseException]) -> BaseException:
    """The one error that a caller should see: a typed one if there is any, else the first."""
    flat: list[BaseException] = []
    pending: list[BaseException] = list(errors.exceptions)
    while pending:
        error = pending.pop(0)
        if isinstance(error, BaseExceptionGroup):
            pending.extend(error.exceptions)
        else:
            flat.append(error)
    return next((error for error in flat if isinstance(error, FetcherError)), flat[0])
