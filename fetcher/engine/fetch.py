"""The engine: from what is asked to Snapshots on the disk. Hops 4 to 10 of docs/ARCHITECTURE.md, in order of reading.

An Engine belongs to one event loop and one cache; all calls on it share its connections, windows, threads and slabs.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Any

from fetcher.cache.records import GoneError, NewSnapshot, Snapshot
from fetcher.config import Settings
from fetcher.engine.admission import Admission
from fetcher.engine.asks import Ask, Outcome
from fetcher.engine.buffers import SlabPool
from fetcher.engine.copy_out import copy_out
from fetcher.engine.flights import Flights
from fetcher.engine.jobs import FileJob
from fetcher.engine.limit import RateLimit
from fetcher.engine.observe import Observer
from fetcher.engine.planner import plan_hit, plan_manifest, plan_space
from fetcher.engine.run import Run, first_error
from fetcher.engine.source import Source
from fetcher.engine.tools import Tools
from fetcher.engine.workers import Workers, finish
from fetcher.errors import FetcherError, InternalError, NoSpaceError, OfflineError, TransportError
from fetcher.model.events import Event
from fetcher.model.manifest import Manifest
from fetcher.model.quantities import format_size
from fetcher.model.resource import Resource
from fetcher.net.aiohttp_transport import AiohttpTransport
from fetcher.net.api import ApiClient
from fetcher.net.request import origin_of
from fetcher.origins.base import Origin
from fetcher.origins.hf import HfOrigin
from fetcher.plan.fetch_plan import FetchPlan, PlannedFile, PlannedResource
from fetcher.plan.transfer import Transfer

if TYPE_CHECKING:
    from fetcher.cache.space import Reservation
    from fetcher.cache.store import Cache

API_CONNECTIONS_MAX = 8
"""Resources of one call that are asked for at once; each takes one connection at a time."""
SPACE_EVERY_S = 0.5
GONE_TRIES = 3
"""How often a plan is made again because something it relied on was cleaned away meanwhile."""


@dataclass(frozen=True, slots=True)
class Prepared:
    """An Ask whose answer is known: a Snapshot that is current, or a Manifest to make true."""

    ask: Ask
    key: str
    principal: str | None
    snapshot: Snapshot | None
    manifest: Manifest | None


class Engine:
    """Fetches; make it inside a running loop, close it there."""

    def __init__(self, settings: Settings, cache: Cache, on_event: Callable[[Event], None] | None = None) -> None:
        self._settings = settings
        self._cache = cache
        self._emit = on_event
        dice = Random()
        transport = AiohttpTransport(settings)
        workers = Workers()
        self._tools = Tools(
            settings=settings,
            cache=cache,
            transport=transport,
            workers=workers,
            slabs=SlabPool(),
            admission=Admission(settings, time.monotonic, dice),
            limit=RateLimit(settings.limit_rate_bytes_per_s, time.monotonic)
            if settings.limit_rate_bytes_per_s
            else None,
            clock=time.monotonic,
            dice=dice,
        )
        self._flights = Flights(cache, workers)
        self._api_gate = asyncio.Semaphore(min(API_CONNECTIONS_MAX, settings.connections_max))
        api = ApiClient(transport, settings)
        self._pacer = api.pacer
        self._origin: Origin = HfOrigin(api, settings)

    async def close(self) -> None:
        """Close connections, then threads, then buffers. No call may be under way."""
        await self._tools.transport.close()
        self._tools.workers.close()
        self._tools.slabs.close()

    async def copy_out(self, snapshot: Snapshot, directory: Path, *, merge: bool) -> int:
        """See ``engine.copy_out``. Cancelled, it leaves no half of a new directory behind."""
        stop = threading.Event()
        files = await self._tools.workers.slow(self._cache.files, snapshot.id)
        return await self._tools.workers.slow_until(
            stop, copy_out, snapshot, files, directory, merge=merge, stopped=stop.is_set
        )

    # -- hops 3 to 5: what has to be done ----------------------------------------------------------------------------

    async def plan(self, asks: Sequence[Ask]) -> FetchPlan:
        """All that ``fetch`` would do. Asks the origins; reserves and changes nothing."""
        observer = self._observe(asks)
        return (await self._plan(asks, observer))[1]

    def _observe(self, asks: Sequence[Ask]) -> Observer:
        return Observer(self._emit, asks[0].resource.uri() if asks else "", time.monotonic)

    async def _plan(self, asks: Sequence[Ask], observer: Observer) -> tuple[list[Prepared], FetchPlan]:
        observer.enter("resolve")
        try:
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(self._prepare(ask)) for ask in asks]
        except BaseExceptionGroup as errors:
            raise first_error(errors) from None
        answers = [task.result() for task in tasks]
        refusals = [answer for answer in answers if isinstance(answer, FetcherError)]
        if refusals:
            refusals[0].also = tuple(refusals[1:])
            raise refusals[0]
        prepared = [answer for answer in answers if isinstance(answer, Prepared)]
        observer.enter("plan")
        return prepared, await self._tools.workers.slow(self._plan_rows, prepared)

    def _plan_rows(self, prepared: Sequence[Prepared]) -> FetchPlan:
        resources: list[PlannedResource] = []
        for item in prepared:
            if item.manifest is None:
                assert item.snapshot is not None
                resources.append(plan_hit(item.snapshot))
            else:
                uri = item.ask.resource.uri()
                resources.append(plan_manifest(self._cache, item.manifest, item.principal, uri))
        return plan_space(self._cache, resources)

    async def _prepare(self, ask: Ask) -> Prepared | FetcherError:
        """Is a Snapshot here that this asker may have and that is current? Otherwise, what does the origin say?

        A refusal is returned: all of a call's resources are asked for, so that all refusals are told at once.
        """
        try:
            async with self._api_gate:
                return await self._prepare_one(ask)
        except FetcherError as error:
            return error.about(resource=ask.resource.uri(), at=ask.at)

    async def _prepare_one(self, ask: Ask) -> Prepared:
        settings = self._settings
        slow = self._tools.workers.slow
        key = ask.resource.key(origin_of(settings.hf_endpoint))
        principal = ask.asker.principal(self._cache.principal_key)
        known = await slow(self._cache.lookup, key, principal)
        now = time.time()
        hit = Prepared(ask, key, principal, known, None)
        if known is not None and (settings.offline or (known.fresh(now) and not settings.refresh)):
            return hit
        if settings.offline:
            raise OfflineError("not in the cache for this asker", hint="run it once without --offline")
        try:
            if known is not None:
                pinned = await self._origin.revision(ask.resource, ask.asker)
                if (pinned.commit, pinned.private) == (known.revision, known.private):
                    current = await slow(self._cache.revalidate, known.id, settings.fresh_for_s, settings.keep_for_s)
                    return replace(hit, snapshot=current)
            manifest = await self._origin.resolve(ask.resource, ask.asker)
        except TransportError as error:
            if known is None or not self._may_be_stale(known, now):
                raise
            self._notice(ask, f"the origin can't be reached, an older copy is used: {error.message}")
            return hit
        return Prepared(ask, key, principal, None, manifest)

    def _may_be_stale(self, known: Snapshot, now: float) -> bool:
        """Whether ``stale_if_error_s`` lets this Snapshot serve although its origin can't say that it is current."""
        allowed_s = self._settings.stale_if_error_s
        return allowed_s > 0 and now < max(known.fresh_until or 0.0, known.validated_at) + allowed_s

    def _notice(self, ask: Ask, message: str) -> None:
        Observer(self._emit, ask.resource.uri(), time.monotonic).notice(message)

    # -- hops 5 to 10: doing it --------------------------------------------------------------------------------------

    async def fetch(self, asks: Sequence[Ask]) -> list[Outcome]:
        """Make every Ask true, all or none of them returned; in the order of ``asks``."""
        for attempt in range(GONE_TRIES):
            try:
                return await self._fetch(asks)
            except GoneError:
                if attempt == GONE_TRIES - 1:
                    raise
        raise InternalError("unreachable")

    async def _fetch(self, asks: Sequence[Ask]) -> list[Outcome]:
        observer = self._observe(asks)
        unique = list(dict.fromkeys(asks))
        prepared, plan = await self._plan(unique, observer)
        if not plan.fits or plan.evictions:
            # Garbage goes before anybody's good copy does.
            await self._tools.workers.slow(self._cache.gc)
            plan = await self._tools.workers.slow(self._plan_rows, prepared)
        if not plan.fits:
            plan = await self._wait_for_space(prepared, plan, observer)
        jobs = self._jobs(prepared, plan)
        observer.bytes_total = sum(job.size for job in jobs.values())
        observer.files_total = len(jobs)
        if jobs or plan.linked_roots:
            async with self._reserved(plan) as reservation:
                observer.enter("fetch")
                await Run(self._tools, self._flights, observer, list(jobs.values()), reservation).execute()
                observer.enter("publish")
                outcomes = await self._publish_all(prepared, plan, jobs)
        else:
            outcomes = await self._publish_all(prepared, plan, jobs)
        await self._tidy(observer)
        observer.enter("done")
        by_ask = dict(zip(unique, outcomes, strict=True))
        return [by_ask[ask] for ask in asks]

    @asynccontextmanager
    async def _reserved(self, plan: FetchPlan) -> AsyncIterator[Reservation]:
        """The plan's bytes promised to us, its evictions carried out, its linked Blobs held."""
        slow = self._tools.workers.slow
        made: list[Reservation] = []

        def reserve() -> None:
            # Booked in the worker: what is promised is given back, also if we are cancelled meanwhile.
            evict = [item.snapshot_id for item in plan.evictions]
            made.append(self._cache.reserve(plan.bytes_to_fetch, evict=evict, hold=plan.linked_roots))

        try:
            await slow(reserve)
            yield made[0]
        finally:
            for reservation in made:
                await finish(asyncio.ensure_future(slow(reservation.release)))

    async def _wait_for_space(self, prepared: Sequence[Prepared], plan: FetchPlan, observer: Observer) -> FetchPlan:
        """Others under way have the space, perhaps for the very same files: look again until they are through.

        Holds neither connection nor slab nor worker. Raises NoSpaceError if nothing is under way, or gets nowhere.
        """
        changed_at = self._tools.clock()
        if plan.bytes_reserved:
            observer.notice("waiting for space: other downloads have reserved it")
        while not plan.fits:
            if not plan.bytes_reserved:
                raise out_of_space(plan)
            if self._tools.clock() - changed_at >= self._settings.no_progress_timeout_s:
                raise out_of_space(plan)
            await asyncio.sleep(SPACE_EVERY_S)
            before = (plan.bytes_reserved, plan.bytes_to_fetch, plan.bytes_free)
            plan = await self._tools.workers.slow(self._plan_rows, prepared)
            if (plan.bytes_reserved, plan.bytes_to_fetch, plan.bytes_free) != before:
                changed_at = self._tools.clock()
        return plan

    async def _tidy(self, observer: Observer) -> None:
        """What has had its time goes after the new is here: it may have given the new one its Blobs."""
        try:
            await self._tools.workers.slow(self._cache.tidy)
        except FetcherError as error:  # the resources are here; that something else could not be removed is a remark
            observer.notice(f"can't tidy the cache: {error.message}")

    def _jobs(self, prepared: Sequence[Prepared], plan: FetchPlan) -> dict[str, FileJob]:
        """One job per content to fetch; large ones first, largest first: they are the longest way."""
        jobs: dict[str, FileJob] = {}
        for item, planned in zip(prepared, plan.resources, strict=True):
            if item.manifest is None:
                continue
            digest = item.manifest.digest()
            for content, file in planned.transfers().items():
                if content not in jobs:
                    jobs[content] = self._job(item, item.manifest, digest, content, file)
        return dict(sorted(jobs.items(), key=lambda pair: -pair[1].size))

    def _job(
        self, item: Prepared, manifest: Manifest, manifest_digest: str, content: str, file: PlannedFile
    ) -> FileJob:
        settings = self._settings
        return FileJob(
            content_id=content,
            entry=file.entry,
            manifest=manifest,
            asker=item.ask.asker,
            manifest_digest=manifest_digest,
            principal=item.principal,
            resource=item.ask.resource.uri(),
            at=item.ask.at,
            source=Source(self._origin, self._pacer, manifest, file.entry, item.ask.asker),
            transfer=Transfer(
                file.entry.size,
                part_bytes=settings.part_bytes,
                window_bytes=max(settings.window_bytes, settings.part_bytes) if file.entry.digest else None,
            ),
        )

    async def _publish_all(
        self, prepared: Sequence[Prepared], plan: FetchPlan, jobs: dict[str, FileJob]
    ) -> list[Outcome]:
        outcomes: list[Outcome] = []
        for item, planned in zip(prepared, plan.resources, strict=True):
            if item.manifest is None:
                assert item.snapshot is not None
                outcomes.append(Outcome(item.snapshot, 0, hit=True))
                continue
            snapshot = await self._tools.workers.slow(self._publish, item, item.manifest, planned, jobs)
            contents = planned.transfers()
            downloaded = sum(jobs[content].bytes_fetched for content in contents)
            outcomes.append(Outcome(snapshot, downloaded, hit=False))
        return outcomes

    def _publish(
        self, item: Prepared, manifest: Manifest, planned: PlannedResource, jobs: dict[str, FileJob]
    ) -> Snapshot:
        settings = self._settings
        rows = []
        for file in planned.files:
            blob = jobs[file.content_id].blob if file.action == "fetch" else None
            root = blob.root if blob is not None else file.root
            # A file of no bytes is its own proof: its size says all there is to say.
            rows.append((file.entry, root, file.entry.digest.algorithm if file.entry.digest else "size"))
        record = NewSnapshot(
            key=item.key,
            uri=item.ask.resource.uri(),
            resource=describe_resource(item.ask.resource),
            endpoint=manifest.endpoint,
            manifest_digest=manifest.digest(),
            revision=manifest.revision,
            private=manifest.private,
            principal=item.principal if manifest.private else None,
            immutable=item.ask.resource.immutable,
            downloaded_at=time.time(),
            fresh_for_s=settings.fresh_for_s,
            keep_for_s=settings.keep_for_s,
        )
        return self._cache.publish(record, rows)


def describe_resource(resource: Resource) -> dict[str, Any]:
    """A Resource as JSON values, without secrets."""
    return {
        "type": "HF",
        "kind": resource.kind,
        "repo": resource.repo,
        "revision": resource.revision,
        "files": list(resource.files),
    }


def out_of_space(plan: FetchPlan) -> NoSpaceError:
    """The refusal of a plan that does not fit, with its numbers."""
    parts = [f"{format_size(plan.bytes_to_fetch)} are to be fetched, {format_size(plan.bytes_free)} can be used"]
    kept = []
    if plan.bytes_floor:
        kept.append(f"{format_size(plan.bytes_floor)} stay free (space_floor_bytes)")
    if plan.bytes_reserved:
        kept.append(f"{format_size(plan.bytes_reserved)} are reserved by other downloads")
    if kept:
        parts.append(f"of what the file system has, {' and '.join(kept)}")
    parts.append("removing all that is neither leased nor pinned would not make up for it")
    return NoSpaceError(
        "; ".join(parts), hint="free space on the disk, release leases, or use a cache directory on a larger disk"
    )
