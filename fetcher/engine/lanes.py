"""Lanes: as many loops as there may be connections, each taking a part or a small file, then the next.

``_pick`` decides in one plain step (look, choose, take a place, start the part, with no await between) and returns the
I/O to be done; the lane awaits it. A lane that finds nothing holds nothing and sleeps until something changed.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec

from fetcher.engine.admission import Place
from fetcher.engine.asking import Asking, renew
from fetcher.engine.early_ends import ended_early, wrong_small
from fetcher.engine.jobs import Active, FileJob, OriginChangedError, PartEnded
from fetcher.engine.queues import SMALL_READY_MAX
from fetcher.engine.receive import receive_part
from fetcher.engine.receive_small import receive_small
from fetcher.engine.small import INLINE_BYTES_MAX
from fetcher.errors import (
    DeniedError,
    FetcherError,
    ForbiddenError,
    NotFoundError,
    RateLimitedError,
    ResourceError,
    TransportError,
)
from fetcher.model.ranges import ByteRange
from fetcher.plan.transfer import Event, Outcome, Part, State
from fetcher.plan.watch import Pulse

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
        self._watch = asyncio.Lock()

    async def lane(self, *, prefers_small: bool) -> None:
        """One lane, until the run is finished."""
        run = self._run
        while not run.finished.is_set():
            step = self.pick(prefers_small=prefers_small)
            if step is None:
                step = await self._wait_for_step(prefers_small=prefers_small)
            if step is not None:
                await step
                if self._tools.admission.shared:
                    await asyncio.sleep(0)  # other runs look first whether they want the place that is free now

    async def _wait_for_step(self, *, prefers_small: bool) -> Step | None:
        """What to do, once there is something; None when the run is finished.

        Of all idle lanes one is awake. There may be far more of them than a host is worth connections, and whatever
        changes, there is mostly work for one; that one lets the next look.
        """
        run = self._run
        async with self._watch:
            while not run.finished.is_set():
                step = self.pick(prefers_small=prefers_small)
                if step is not None:
                    return step
                run.changed.clear()
                await run.changed.wait()
        return None

    # -- deciding ----------------------------------------------------------------------------------------------------

    def pick(self, *, prefers_small: bool) -> Step | None:
        """What a lane does next; None: there is nothing to do now."""
        if not self._run.begun and not self._run.queues.large_follow:
            return self._pick_small()  # as mostly where files are small: nothing else there is to do
        choices = [self._pick_large, self._pick_small]
        if prefers_small:
            choices.reverse()
        return self._pick_held_up() or choices[0]() or choices[1]() or self._pick_hedge()

    def _pick_held_up(self) -> Step | None:
        """The first missing part of a file that waits for it comes before all else, and first where nothing else of the
        file can go on: whoever's connection is free next, it is for this one."""
        held_up = [job for job in self._run.begun if job.transfer.is_held_up]
        if not held_up:
            return None
        stopped = [job for job in held_up if job.transfer.is_stopped]
        others = [] if self._is_kept() else [job for job in held_up if job not in stopped and not job.failures]
        return self._pick_part(stopped + others)

    def _pick_large(self) -> Step | None:
        if self._is_kept():
            return None
        # Files begun are finished first, but none that gets nowhere stands in the way of the others.
        step = self._pick_part([job for job in self._run.begun if not job.failures])
        if step is not None or self._run.line_is_full:
            return step
        following = self._run.queues.next_to_begin(self._run.begun)
        if following is not None:
            return self._named(following, self._run.begin)
        return self._pick_part(sorted((job for job in self._run.begun if job.failures), key=lambda job: job.failures))

    def _is_kept(self) -> bool:
        """The last place is kept for the first missing part of a file whose window is full: it only waits for its time
        to be asked for again, and nothing else of that file can go on."""
        run, now = self._run, self._tools.clock()
        taken, most = max(len(run.actives), self._tools.admission.active), run.lanes_max
        if most < 2 or taken + 1 < most:
            return False
        host = self._tools.admission.host
        return any(
            job.transfer.is_stopped
            and (job.source.is_outdated or max(job.not_before, host(job.source.host).not_before) > now)
            for job in run.begun
        )

    def _pick_hedge(self) -> Step | None:
        if not self._run.begun or self._is_kept() or self._run.line_is_full:
            return None
        found = self._run.hedging.pick()
        if found is None:
            return None
        job, part = found
        return self._named(job, self._do_hedge, part, self._tools.admission.take(job.source.host))

    def _pick_part(self, jobs: Sequence[FileJob]) -> Step | None:
        run, admission = self._run, self._tools.admission
        now = self._tools.clock()
        if not jobs or run.line_is_full:
            return None
        for job in jobs:
            # Given up, it is begun until its attendant has had a turn: it must not be refused again until then.
            if job.abandoned or job.drop is not None or job.not_before > now:
                continue
            if job.source.scouting or not job.transfer.has_part:
                continue  # what is under way may be all that it needs
            if (refused := self._refused(job)) is not None:
                return self._named(job, self._refuse, refused)
            host = job.source.host
            if job.source.pause_s() > 0:
                continue
            if job.source.is_outdated:
                if (step := self._pick_renewal(job)) is not None:
                    return step
                continue
            # A place is only asked for by who would take it: others wait for those that were refused.
            if not admission.may_start(host):
                continue
            part = job.transfer.next_part(run.part_bytes(job))
            if part is not None:
                job.source.scouting = not job.source.known
                return self._named(job, self._do_part, part, admission.take(host, run.changed.set))
        return None

    def _pick_small(self) -> Step | None:
        run, queues = self._run, self._run.queues
        batch = queues.next_small_to_claim()  # before the last one is taken: the lanes do not wait for the index
        if batch:
            return run.claim(batch)
        if run.line_is_full or ((queues.small or queues.small_failed) and self._is_kept()):
            return None
        if (step := self._pick_small_of(queues.small)) is not None:
            return step
        if queues.small and queues.rests(queues.small[0]):  # others' hosts may want a request
            batch = queues.next_small_to_claim(enough=SMALL_READY_MAX)
            if batch:
                return run.claim(batch)
        if not queues.small and queues.small_to_come:
            return None  # what is being claimed meanwhile goes first
        return self._pick_small_of(queues.small_failed)

    def _pick_small_of(self, queue: deque[FileJob]) -> Step | None:
        """The first of a queue whose host has a place."""
        admission, now = self._tools.admission, self._tools.clock()
        full: str | None = None
        for _ in range(min(len(queue), SMALL_LOOK_AHEAD)):
            job = queue[0]
            host, pause_s = job.source.host, job.source.pause_s()
            if pause_s > 0 and (refused := self._refused(job)) is not None:
                queue.popleft()
                return self._named(job, self._refuse, refused)
            if job.not_before <= now and pause_s <= 0 and host != full:
                if job.source.is_outdated:
                    if (step := self._pick_renewal(job)) is not None:
                        return step  # and the file stays where it is: it is not asked for yet
                elif admission.may_start(host):
                    queue.popleft()
                    return self._named(job, self._do_small, admission.take(host, self._run.changed.set))
                else:
                    full = host  # mostly that of all the others, too
            queue.rotate(-1)
        return None

    def _pick_renewal(self, job: FileJob) -> Step | None:
        """Ask for something fresh for a file; None: somebody does, or half of the lanes are at that already. What other
        origins give goes on."""
        if job.source.renewing or len(self._run.renewals) >= max(1, self._settings.connections_max // 2):
            return None
        return self._named(job, self._renew)

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
        await asyncio.sleep(0)  # a step without a turn of the loop, and the next one may be the same for ever
        raise error

    async def _named(
        self, job: FileJob, step: Callable[Concatenate[FileJob, P], Awaitable[None]], *arguments: P.args, **_: P.kwargs
    ) -> None:
        try:
            await step(job, *arguments, **_)
        except FetcherError as error:
            error.about(resource=job.resource, at=job.at)
            await self._run.fail(job, error)

    # -- doing -------------------------------------------------------------------------------------------------------

    async def _renew(self, job: FileJob) -> None:
        """What the origin gave for it has expired, and nobody has asked for something fresh yet."""
        await renew(self._run, job)
        if job.abandoned:
            await self._run.drop([job])  # nothing of it is under way any longer

    async def _do_part(self, job: FileJob, part: Part, place: Place) -> None:
        """One request for one part, from admission to the end of its last worker call."""
        slabs = self._tools.slabs.take_pair()
        # What would begin from zero elsewhere is never moved for being slow.
        moves = self._settings.part_moves_max if part.stream else part.moves
        active = Active(part, Pulse(self._tools.clock(), moves=moves))
        outcome = Outcome.CUT
        try:
            # Those that are kept are the good ones, as a rule; what crawled twice does not rely on that.
            fresh = job.failures > 0 or part.distrusts or part.moves > 1
            async with Asking(self._run, job, active, place, part.span, fresh=fresh) as response:
                job.source.scouting = False
                self._run.changed.set()
                await receive_part(job, part, response, slabs, self._tools, self._run, active)
            outcome = Outcome.COMPLETE
        except PartEnded as ended:
            outcome = ended.outcome
            ended_early(self._run, job, ended, place.host)
        finally:
            job.source.scouting = False
            job.transfer.end(part, outcome)
            self._run.hedging.over(job, part, outcome, active.pulse.bytes_received)
            self._tools.slabs.give_back(slabs)
            place.leave()
            job.wake()

    async def _do_hedge(self, job: FileJob, part: Part, place: Place) -> None:
        """As ``_do_part``, for a second request. What is final for one that nobody needs is no end of the file: the
        first goes on, and if that ends early, too, whoever asks next is told for himself."""
        try:
            await self._do_part(job, part, place)
        except OriginChangedError:
            raise
        except (DeniedError, ForbiddenError, NotFoundError, RateLimitedError, ResourceError, TransportError):
            job.refused = True

    async def _do_small(self, job: FileJob, place: Place) -> None:
        """One request for one small file, its check, and its way to the committer."""
        run = self._run
        # It begins from zero each time: on a connection that is kept it may be as slow again, and again.
        active = Active(None, Pulse(self._tools.clock(), moves=job.moves))
        fresh = job.failures > 0 or job.moves > 0
        slab = self._tools.slabs.take() if job.size > INLINE_BYTES_MAX else None
        small = None
        try:
            if job.transfer.state is State.WAITING:
                job.transfer.on(Event.BEGIN)
            span = ByteRange(0, job.size)
            async with Asking(run, job, active, place, span, fresh=fresh) as response:
                data = await receive_small(job, response, slab, run, active)
                job.entry = job.source.stated
            small = await run.committer.examine(job, data)
            if small is None:
                wrong_small(job)
        except PartEnded as ended:
            ended_early(run, job, ended, place.host)
        finally:
            if slab is not None:
                self._tools.slabs.give_back((slab,))
            place.leave()
        if job.abandoned:
            await run.drop([job])  # it is under way no longer
        elif small is None:
            run.queues.add_small(job)
            run.changed.set()
        else:
            run.came(job.size)
            run.queues.small_came(job.resource)
            job.handed_over = True
            await run.committer.add(job, small)
