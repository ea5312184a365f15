"""The engine: from what is asked to Snapshots on the disk. Hops 4 to 10 of docs/ARCHITECTURE.md, in order of reading.

An Engine belongs to one event loop and one cache; all calls on it share its connections, windows, threads and slabs.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING

from fetcher.cache.records import GoneError, Snapshot
from fetcher.config import Settings
from fetcher.engine.admission import Admission
from fetcher.engine.asks import Ask, Outcome
from fetcher.engine.buffers import SlabPool
from fetcher.engine.disk import Disk
from fetcher.engine.flights import Flights
from fetcher.engine.jobs import OriginChangedError
from fetcher.engine.limit import RateLimit
from fetcher.engine.observe import Observer
from fetcher.engine.planner import plan_hit, plan_manifest, plan_space, without_room
from fetcher.engine.publish import Publishing
from fetcher.engine.readback import ReadBack
from fetcher.engine.remembering import Remembering
from fetcher.engine.resolve import Prepared, Resolver
from fetcher.engine.room import Room, out_of_space
from fetcher.engine.rounds import CHANGED_TRIES, Round
from fetcher.engine.run import Run
from fetcher.engine.tools import Tools
from fetcher.engine.unsynced import Unsynced
from fetcher.engine.workers import Workers, first_error
from fetcher.errors import CacheError, FetcherError, NoSpaceError
from fetcher.model.events import Event
from fetcher.net.api import ApiClient
from fetcher.net.roads import Roads
from fetcher.plan.fetch_plan import FetchPlan, PlannedResource

if TYPE_CHECKING:
    from fetcher.cache.store import Cache

PUBLISH_EVERY_S = 0.5
"""What is complete is there for others, and for the day after a crash, while larger resources are still coming."""
GONE_TRIES = 3
"""How often a plan is made again because something it relied on was cleaned away meanwhile."""
PlanShown = Callable[[FetchPlan], None]


class Engine:
    """Fetches; make it inside a running loop, close it there."""

    def __init__(
        self,
        settings: Settings,
        cache: Cache,
        on_event: Callable[[Event], None] | None = None,
        environ: Mapping[str, str] | None = None,
    ) -> None:
        """``environ``: where proxies are read, unless the settings name one."""
        self._settings = settings
        self._cache = cache
        self._emit = on_event
        dice = Random()
        self.transport = transport = Roads(settings, environ)
        workers = Workers()
        self._tools = Tools(
            settings=settings,
            cache=cache,
            transport=transport,
            workers=workers,
            disk=Disk(),
            readback=ReadBack(workers),
            slabs=SlabPool(),
            admission=Admission(settings, time.monotonic, dice),
            limit=RateLimit(settings.limit_rate_bytes_per_s, time.monotonic)
            if settings.limit_rate_bytes_per_s
            else None,
            unsynced=Unsynced(settings.sync_bytes),
            clock=time.monotonic,
            dice=dice,
        )
        self._remembering = Remembering(cache, workers, self._tools.admission)
        self._flights = Flights(cache, workers)
        self.api = ApiClient(transport, settings)
        """For questions beside the resources: lists of markets, sizes of images."""
        self._resolver = Resolver(settings, cache, workers, self.api, transport, self._notice)
        self._room = Room(self._tools, self._plan_rows)
        self._publishing = Publishing(self._tools)

    async def close(self) -> None:
        """Close connections, then threads, then buffers. No call may be under way."""
        await self._tools.transport.close()
        self._tools.disk.close()
        self._tools.workers.close()
        self._tools.slabs.close()

    async def copy_out(self, snapshot: Snapshot, directory: Path, *, merge: bool) -> int:
        """See ``engine.copy_out``. Cancelled, it leaves no half of a new directory behind."""
        from fetcher.engine.copy_out import copy_out  # few ask for it, and it comes with shutil

        stop = threading.Event()
        files = await self._tools.workers.slow(self._cache.files, snapshot.id)

        def sound() -> bool:
            found = self._cache.get_snapshot(snapshot.id)
            return found is not None and not found.damaged

        return await self._tools.workers.slow_until(
            stop, copy_out, snapshot, files, directory, merge=merge, stopped=stop.is_set, sound=sound
        )

    def _notice(self, ask: Ask, message: str) -> None:
        Observer(self._emit, ask.resource.uri(), time.monotonic).notice(message)

    def observe(self, asks: Sequence[Ask]) -> Observer:
        """The numbers of one call, told to whoever listens."""
        return Observer(self._emit, asks[0].resource.uri() if asks else "", time.monotonic)

    # -- hops 3 to 5: what has to be done ----------------------------------------------------------------------------

    async def plan(self, asks: Sequence[Ask]) -> FetchPlan:
        """All that ``fetch`` would do. Asks the origins; reserves and changes nothing."""
        observer = self.observe(asks)
        prepared = _all_or_raise(await self._resolve(asks, observer, looking=True))
        return await self._plan(prepared, observer)

    async def plan_each(self, asks: Sequence[Ask]) -> tuple[FetchPlan, list[PlannedResource | FetcherError]]:
        """All that ``fetch_each`` would do if it had the room, and what it would do with each of ``asks``."""
        observer = self.observe(asks)
        answers = await self._resolve(asks, observer, looking=True)
        plan = await self._plan([answer for answer in answers if isinstance(answer, Prepared)], observer)
        lacking: dict[int, FetchPlan] = {}
        if not plan.fits:
            lacking = await self._tools.workers.slow(without_room, self._cache, plan.resources)
        planned = iter(
            out_of_space(lacking[index]) if index in lacking else item for index, item in enumerate(plan.resources)
        )
        return plan, [answer if isinstance(answer, FetcherError) else next(planned) for answer in answers]

    async def _resolve(
        self, asks: Sequence[Ask], observer: Observer, *, looking: bool = False
    ) -> list[Prepared | FetcherError]:
        observer.enter("resolve")
        with self.api.own_places():
            return await self._resolver.prepare_all(asks, looking=looking)

    async def _plan(self, prepared: Sequence[Prepared], observer: Observer) -> FetchPlan:
        observer.enter("plan")
        return await self._tools.workers.slow(self._plan_rows, prepared)

    def _plan_rows(self, prepared: Sequence[Prepared]) -> FetchPlan:
        resources: list[PlannedResource] = []
        for item in prepared:
            if item.manifest is None:
                assert item.snapshot is not None
                resources.append(plan_hit(item.snapshot, copies=item.ask.copies))
            else:
                uri = item.ask.resource.uri()
                resources.append(plan_manifest(self._cache, item.manifest, item.principal, uri, copies=item.ask.copies))
        return plan_space(self._cache, resources)

    # -- hops 5 to 10: doing it --------------------------------------------------------------------------------------

    async def fetch(self, asks: Sequence[Ask], on_plan: PlanShown | None = None) -> list[Outcome]:
        """Make every Ask true, all or none of them returned; in the order of ``asks``."""
        gone = changed = 0
        while True:
            try:
                return await self._fetch(asks, on_plan)
            except GoneError:
                gone += 1
                if gone == GONE_TRIES:
                    raise
            except OriginChangedError as error:
                changed += 1
                if changed == CHANGED_TRIES:
                    raise
                self.observe(asks).notice(f"{error.message}; asking it once more")

    async def _fetch(self, asks: Sequence[Ask], on_plan: PlanShown | None) -> list[Outcome]:
        observer = self.observe(asks)
        unique = list(dict.fromkeys(asks))
        prepared = _all_or_raise(await self._resolve(unique, observer))
        plan = await self._room.for_plan(prepared, await self._plan(prepared, observer), observer)
        if on_plan is not None:
            on_plan(plan)
        made = Round(prepared, plan)
        async with self._carried_out(made, observer):
            outcomes = [await self._publishing.one(made, index) for index in range(len(prepared))]
            outcomes = await self._publishing.with_copies(unique, outcomes, made.draw)
        await self._tidy(observer)
        observer.enter("done")
        by_ask = dict(zip(unique, outcomes, strict=True))
        return [by_ask[ask] for ask in asks]

    async def fetch_each(
        self, asks: Sequence[Ask], on_plan: PlanShown | None = None, *, observer: Observer | None = None
    ) -> list[Outcome | FetcherError]:
        """Make as many of the Asks true as can be: one plan and one run, and none fails because of another.

        ``observer``: whose numbers are shown, where more goes on than this; whoever gives it says when all is done.
        """
        whole, observer = observer is None, observer or self.observe(asks)
        if not asks and on_plan is not None:
            on_plan(await self._plan([], observer))
            observer.bytes_total = observer.files_total = 0
        results: dict[Ask, Outcome | FetcherError] = {}
        pending = list(dict.fromkeys(asks))
        tries: dict[Ask, int] = {}
        while pending:
            answers = await self._resolve(pending, observer)
            prepared = [answer for answer in answers if isinstance(answer, Prepared)]
            refused = zip(pending, answers, strict=True)
            results |= {ask: answer for ask, answer in refused if isinstance(answer, FetcherError)}
            prepared, plan, too_large = await self._room.that_fit(prepared, observer)
            results |= too_large
            if on_plan is not None:
                on_plan(plan)
                on_plan = None
            made = Round(prepared, plan)
            try:
                async with self._carried_out(made, observer, results=results):
                    await self._publishing.each(made, made.had, results)
            except (CacheError, NoSpaceError) as error:  # no reservation: what needs none is had all the same
                made.fail_missing(error)
                await self._publishing.each(made, made.had, results)
            pending = made.once_more(tries)
            results |= {prepared[index].ask: error for index, error in made.failed.items()}
        await self._tidy(observer)
        if whole and any(isinstance(result, Outcome) for result in results.values()):
            observer.enter("done")
        return [results[ask] for ask in asks]

    @asynccontextmanager
    async def _carried_out(
        self, made: Round, observer: Observer, *, results: dict[Ask, Outcome | FetcherError] | None = None
    ) -> AsyncIterator[None]:
        """Inside, all that the plan fetches is here, and stays until the block ends.

        ``results``: asks are independent. Gets what is complete before the others; ``made`` says what failed.
        """
        made.make_jobs(self._settings, self.api.pacer)
        observer.bytes_total = observer.bytes_done = observer.files_total = observer.files_done = 0
        if not made.jobs and not made.plan.linked_roots and not made.plan.bytes_to_copy:
            yield
            return
        async with self._room.reserved(made.prepared, made.plan, observer) as (plan, reservation):
            if plan is not made.plan:
                made.plan = plan
                made.make_jobs(self._settings, self.api.pacer)
            jobs = list(made.jobs.values())
            observer.bytes_total = sum(job.size for job in jobs)
            observer.files_total = len(jobs)
            if made.plan.bytes_to_reserve:  # small directories of links alone are always had
                made.draw = reservation.in_turn()
            observer.enter("fetch")
            if jobs:
                await self._remembering.recall()
            failed = None if results is None else made.failing()
            run = Run(self._tools, self._flights, observer, jobs, reservation, failed=failed)
            try:
                with self.api.own_places():  # addresses are renewed on the way
                    if results is None:
                        await run.execute()
                    else:
                        await self._execute_publishing(run, made, results)
            except FetcherError as error:
                # Nothing came for too long, or the disk is in trouble: that ends all that is missing.
                if results is None:
                    raise
                made.fail_missing(error)
                for job in jobs:
                    if not job.ended:
                        observer.without(job.size, job.transfer.bytes_written + job.bytes_counted)
            if self._tools.limit is None:  # else it is the limit that was found out, not the host
                await self._remembering.keep()
            observer.enter("publish")
            yield

    async def _execute_publishing(self, run: Run, made: Round, results: dict[Ask, Outcome | FetcherError]) -> None:
        """The run, and what is complete published meanwhile."""
        over, failure = asyncio.Event(), None

        async def publish() -> None:
            files_done = -1
            while not over.is_set():
                with suppress(TimeoutError):
                    await asyncio.wait_for(over.wait(), PUBLISH_EVERY_S)
                if run.observer.files_done != files_done and not over.is_set():
                    files_done = run.observer.files_done
                    await self._publishing.each(made, made.complete, results)

        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(publish())
                try:
                    await run.execute()
                except FetcherError as error:
                    failure = error  # what is being published is published to its end
                over.set()
        except BaseExceptionGroup as errors:
            raise first_error(errors) from None
        if failure is not None:
            raise failure

    async def _tidy(self, observer: Observer) -> None:
        """What has had its time goes after the new is here: it may have given the new one its Blobs."""
        try:
            await self._tools.workers.slow(self._cache.tidy)
        except FetcherError as error:  # the resources are here; that something else could not be removed is a remark
            observer.notice(f"can't tidy the cache: {error.message}")


def _all_or_raise(answers: Sequence[Prepared | FetcherError]) -> list[Prepared]:
    refusals = [answer for answer in answers if isinstance(answer, FetcherError)]
    if refusals:
        refusals[0].also = tuple(refusals[1:])
        raise refusals[0]
    return [answer for answer in answers if isinstance(answer, Prepared)]
