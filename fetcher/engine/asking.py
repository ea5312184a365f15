"""One request from admission to its end, under the watchdog's eyes; and what may have to be asked of the origin before.

A block of a class of its own: what the standard library offers for this (a generator that manages a context, a timeout
of asyncio) costs a small file as much as hashing it.
"""

from __future__ import annotations

import asyncio
from types import TracebackType
from typing import TYPE_CHECKING

from fetcher.engine.admission import Place
from fetcher.engine.jobs import Active, FileJob, PartEnded
from fetcher.model.ranges import ByteRange
from fetcher.net.transport import Response
from fetcher.plan.watch import Pulse

if TYPE_CHECKING:
    from fetcher.engine.run import Run


class Asking:
    """``async with`` gives the judged answer; leaving it ends the connection as it deserves.

    What breaks inside becomes PartEnded; where the watchdog ended it, its verdict is the reason.
    """

    __slots__ = ("_active", "_fresh", "_job", "_place", "_response", "_run", "_span")

    def __init__(self, run: Run, job: FileJob, active: Active, place: Place, span: ByteRange, *, fresh: bool) -> None:
        """``fresh``: over a new connection."""
        self._run = run
        self._job = job
        self._active = active
        self._place = place
        self._span = span
        self._fresh = fresh
        self._response: Response | None = None

    async def __aenter__(self) -> Response:
        run, job, active, place = self._run, self._job, self._active, self._place
        tools, clock = run.tools, run.tools.clock
        active.job, active.place = job, place
        run.actives.add(active)
        job.active.add(active)
        active.begin()
        try:
            asked_at = clock()
            # The watchdog times the silence of a part; the transport's own limit only backs it up.
            self._response = await job.source.open(
                tools.transport,
                place,
                self._span,
                fresh=self._fresh,
                idle_timeout_s=4 * run.settings.part_idle_timeout_s,
            )
            active.answered_s = clock() - asked_at
            tools.admission.answered(place.host, active.answered_s)
        except BaseException as error:
            self._over(error)
            raise
        return self._response

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if error is not None:
            self._over(error)
            return
        assert self._response is not None
        try:
            if self._active.part is None or not self._run.crawling.is_through(self._active, self._place.host):
                await self._response.release()
        except BaseException as late:
            self._over(late)
            raise
        self._over(None)
        run, active = self._run, self._active
        if active.part is not None:
            elapsed_s = run.tools.clock() - active.pulse.started_at
            if elapsed_s > 0:
                run.finished_rates.append(self._span.length / elapsed_s)
        run.tools.admission.served(self._place.host)

    def _over(self, error: BaseException | None) -> None:
        """Raises PartEnded where the watchdog ended it."""
        run, active = self._run, self._active
        run.book(active)
        run.actives.discard(active)
        self._job.active.discard(active)
        if self._response is not None:
            self._response.abort()
        if active.leave(error):
            assert active.verdict is not None
            raise PartEnded(active.verdict, f"{self._place.host}: {active.verdict.value}") from None


async def renew(run: Run, job: FileJob) -> None:
    """Get something fresh in place of what has expired, once for all parts of the file. That may take as long as we may
    wait for an origin's API: it is no connection to the host of the bytes, holds no place and no slabs, and ends early
    only where nobody needs it any more."""
    renewal = Active(None, Pulse(run.tools.clock()), job=job)
    run.renewals.add(renewal)
    job.active.add(renewal)
    renewal.begin()
    try:
        await job.source.renew()
    except asyncio.CancelledError as error:
        if not renewal.leave(error):
            raise
    finally:
        renewal.leave(None)
        job.active.discard(renewal)
        run.renewals.discard(renewal)
        run.changed.set()
