"""Lanes: as many loops as there may be connections, each taking a part or a small file, then the next.

``_pick`` decides in one plain step (look, choose, take a place, start the part, with no await between) and returns the
I/O to be done; the lane awaits it. A lane that finds nothing holds nothing and sleeps until something changed.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec

from fetcher.engine.admission import Place
from fetcher.engine.jobs import Active, FileJob, OriginChangedError, PartEnded
from fetcher.engine.receive import receive_part, receive_small
from fetcher.engine.small import examine_anywhere
from fetcher.errors import FetcherError, IntegrityError, RateLimitedError, TransportError
from fetcher.model.ranges import ByteRange
from fetcher.net.transport import Response
from fetcher.plan.transfer import Event, Outcome, Part, State
from fetcher.plan.watch import Pulse
from fetcher.plan.window import DOUBLINGS_MAX

if TYPE_CHECKING:
    from fetcher.engine.run import Run

P = ParamSpec("P")
Step = Coroutine[Any, Any, None]

SMALL_LOOK_AHEAD = 8
"""Small files looked at for one whose host has a place."""


class Lanes:
    """What the lanes of one run do."""

    def __init__(self, run: Run) -> None:
        self._run = run
        self._tools = run.tools
        self._settings = run.settings

    async def lane(self, *, prefers_small: bool) -> None:
        """One lane, until the run is finished."""
        run = self._run
        choices = [self._pick_large, self._pick_small]
        if prefers_small:
            choices.reverse()
        while not run.finished.is_set():
            step = choices[0]() or choices[1]()
            if step is None:
                run.changed.clear()
                await run.changed.wait()
            else:
                await step

    # -- deciding ----------------------------------------------------------------------------------------------------

    def _pick_large(self) -> Step | None:
        run, admission = self._run, self._tools.admission
        now = self._tools.clock()
        if len(run.actives) >= run.lanes_max:
            return None
        for job in run.begun:
            if job.drop is not None or job.not_before > now or job.transfer.state is not State.FETCHING:
                continue
            if (refused := self._refused(job)) is not None:
                return self._named(job, self._refuse, refused)
            if job.abandoned or job.source.scouting or job.source.pause_s() > 0:
                continue
            host = job.source.host
            if not admission.may_start(host):
                continue
            part = job.transfer.next_part()
            if part is not None:
                job.source.scouting = not job.source.known
                return self._named(job, self._do_part, part, admission.take(host))
        following = run.next_to_begin()
        return None if following is None else self._named(following, run.begin)

    def _pick_small(self) -> Step | None:
        run, admission = self._run, self._tools.admission
        now = self._tools.clock()
        for _ in range(min(len(run.small), SMALL_LOOK_AHEAD)):
            job = run.small[0]
            if (refused := self._refused(job)) is not None:
                run.small.popleft()
                return self._named(job, self._refuse, refused)
            if job.not_before <= now and job.source.pause_s() <= 0 and admission.may_start(job.source.host):
                run.small.popleft()
                return self._named(job, self._do_small, admission.take(job.source.host))
            run.small.rotate(-1)
        batch = run.next_small_to_claim()
        return run.claim(batch) if batch else None

    def _refused(self, job: FileJob) -> RateLimitedError | None:
        """The origin's announced rate leaves no request for longer than we may wait."""
        pause_s = job.source.pause_s()
        if pause_s <= self._settings.retry_after_max_s:
            return None
        return RateLimitedError(
            f"{job.source.host} allows no further request for {pause_s:.0f} s",
            hint="with a token the origin may allow more" if job.asker.credential is None else None,
            resource=job.resource,
        )

    async def _refuse(self, job: FileJob, error: FetcherError) -> None:
        raise error

    async def _named(
        self, job: FileJob, step: Callable[Concatenate[FileJob, P], Awaitable[None]], *arguments: P.args, **_: P.kwargs
    ) -> None:
        try:
            with job.named():
                await step(job, *arguments, **_)
        except FetcherError as error:
            await self._run.fail(job, error)

    # -- doing -------------------------------------------------------------------------------------------------------

    async def _do_part(self, job: FileJob, part: Part, place: Place) -> None:
        """One request for one part, from admission to the end of its last worker call."""
        slabs = self._tools.slabs.take_pair()
        # What would begin from zero elsewhere is never moved for being slow.
        moves = self._settings.part_moves_max if part.stream else part.moves
        active = Active(part, Pulse(self._tools.clock(), moves=moves))
        outcome = Outcome.CUT
        try:
            async with self._request(
                job, active, place, part.span, fresh=job.failures > 0 or part.moves > 0
            ) as response:
                job.source.scouting = False
                self._run.changed.set()
                await receive_part(job, part, response, slabs, self._tools.workers, self._run, active)
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
                data = await receive_small(job, response, slabs[0], self._run, active)
                job.entry = job.source.stated
            small = await examine_anywhere(job, data, self._tools.workers)
            if small is None:
                self._wrong_small(job)
        except PartEnded as ended:
            self._part_ended_early(job, ended, place.host)
        finally:
            self._tools.slabs.give_back(slabs)
            place.leave()
        if job.abandoned:
            await self._run.drop([job])  # it is under way no longer
        elif small is None:
            self._run.small.append(job)
            self._run.changed.set()
        else:
            self._run.observer.bytes_done += job.size
            self._run.progressed()
            job.handed_over = True
            await self._run.committer.add(job, small)

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
        self._run.actives.add(active)
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
            self._run.actives.discard(active)
            job.active.discard(active)
            if response is not None:
                response.abort()
        elapsed_s = self._tools.clock() - active.pulse.started_at
        if elapsed_s > 0 and active.part is not None:
            self._run.finished_rates.append(span.length / elapsed_s)
        self._tools.admission.served(place.host)

    def _part_ended_early(self, job: FileJob, ended: PartEnded, host: str) -> None:
        """Book an early end: who has to wait, what has to be looked up again."""
        now = self._tools.clock()
        outcome = ended.outcome
        if job.one_stream and not job.small and job.transfer.bytes_written:
            job.drop = outcome  # what another answer brings may be of another state
        if outcome in (Outcome.COMPLETE, Outcome.SHED):
            return  # located, but no place at that host; or given way: the part is simply taken up again
        self._run.last_failure = ended
        if outcome is Outcome.BUSY:
            self._tools.admission.busy(host, ended.retry_after_s)
            if ended.retry_after_s is not None and ended.retry_after_s > self._settings.retry_after_max_s:
                raise RateLimitedError(
                    f"{ended.reason} and asks to wait {ended.retry_after_s:.0f} s", resource=job.resource
                )
        elif outcome in (Outcome.STALLED, Outcome.SLOW):
            self._run.observer.parts_moved += 1
            job.failures += outcome is Outcome.STALLED
        elif outcome is Outcome.CHANGED:
            if job.entry.validator is not None:
                job.distrusted = True
                raise OriginChangedError(
                    f"{job.entry.path}: origin changed while it was being fetched: {ended.reason}",
                    hint="run the command again once the origin has settled",
                    resource=job.resource,
                )
            if job.small:
                self._changed_small(job, ended)
            else:
                job.drop = outcome
                for other in job.active:
                    other.end_with(Outcome.CHANGED, asyncio.get_running_loop().time())
        else:
            job.failures += 1
            if job.failures > 1:
                ceiling = min(
                    self._settings.backoff_max_s, self._settings.backoff_min_s * 2.0 ** min(job.failures, DOUBLINGS_MAX)
                )
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
