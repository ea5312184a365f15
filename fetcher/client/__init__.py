"""The library face. A hit is answered here, once for everybody: synchronously, without network, without an event loop.

::

    async with fetcher.Fetcher(cache_dir="/var/cache/fetcher") as f:
        async with f.lease("hf://org/name", asker="job") as lease:
            use(lease.path)

Importing this module loads neither asyncio nor aiohttp; the engine is imported when something has to be fetched, what
belongs to jobs when there is one.
"""

from __future__ import annotations

import os
import time
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fetcher import config
from fetcher.cache.records import GcReport, GoneError, ReplacedError, Snapshot
from fetcher.cache.records import Lease as LeaseRecord
from fetcher.cache.store import Cache
from fetcher.client.blocking import get, run
from fetcher.config import Settings, resource_key
from fetcher.credentials import for_resource, may_wait
from fetcher.engine.asks import Ask, Outcome
from fetcher.engine.entitled import known
from fetcher.errors import FetcherError, LeaseError, UsageError
from fetcher.model.asker import Role
from fetcher.model.resource import RESOURCE_TYPES, Resource
from fetcher.model.uri import parse_uri

if TYPE_CHECKING:
    from types import TracebackType

    from fetcher.cache.damage import Damage, VerifyReport
    from fetcher.client.mounts import Lease, MountSet
    from fetcher.client.prefetching import Market
    from fetcher.credentials.aws import KeysOf
    from fetcher.engine.fetch import Engine
    from fetcher.engine.market_lists import MarketSource
    from fetcher.engine.prefetch import Prefetch, PrefetchReport
    from fetcher.model.events import Event
    from fetcher.model.mount import JobResources
    from fetcher.plan.fetch_plan import FetchPlan

LEASE_TRIES = 3
"""A Snapshot may be evicted between its publication and its lease; then it is fetched again."""


class Fetcher:
    """A cache and the engine that fills it.

    Methods without ``async`` touch the local disk only and need no event loop. The others belong to the loop in which
    the object was entered. ``on_event`` is called with ``Progress`` and ``Notice`` values from that loop; an exception
    in it detaches it. While it, or anything else, holds the loop up nothing is fetched, and after
    ``owner_lost_after_s`` others that wait for the same files fetch them themselves.
    """

    def __init__(
        self,
        settings: Settings | None = None,
        *,
        on_event: Callable[[Event], None] | None = None,
        environ: Mapping[str, str] | None = None,
        looking: bool = False,
        **options: object,
    ) -> None:
        """``options`` are fields of Settings (``cache_dir=…``); they win over environment and file. ``looking``: good
        for plans only; creates and changes nothing, not even a cache where there is none."""
        self._environ = os.environ if environ is None else environ
        if settings is None:
            settings = config.load(arguments=options, environ=self._environ)
        elif options:
            settings = config.override(settings, options)
        self.settings = settings
        self._on_event = on_event
        self._looking = looking
        self._cache: Cache | None = None
        self._engine: Engine | None = None
        self._closed = False

    # -- life --------------------------------------------------------------------------------------------------------

    @property
    def cache(self) -> Cache:
        """The local side; opened on first use. Raises CacheError if the directory can't be used."""
        if self._cache is None:
            if self._closed:
                raise UsageError("this Fetcher was closed", hint="make a new one, or stay inside its async with block")
            self._cache = Cache.open(self.settings, read_only=self._looking)
            self._tell(str(self._cache.recovery))
        return self._cache

    def _tell(self, remark: str) -> None:
        """To whoever listens; an exception of his is his own."""
        if remark and self._on_event is not None:
            from fetcher.model.events import Notice

            try:
                self._on_event(Notice("", remark))
            except Exception:
                self._on_event = None

    async def __aenter__(self) -> Fetcher:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Close connections, threads and the index; process leases end."""
        engine, self._engine = self._engine, None
        try:
            if engine is not None:
                await engine.close()
        finally:
            self.close()

    def close(self) -> None:
        """Close the index; enough where nothing asynchronous was called."""
        self._closed = True
        cache, self._cache = self._cache, None
        if cache is not None:
            cache.close()

    def _start_engine(self) -> Engine:
        if self._engine is None:
            from fetcher.engine.fetch import Engine

            self._engine = Engine(self.settings, self.cache, self._on_event, self._environ)
        return self._engine

    # -- asking ------------------------------------------------------------------------------------------------------

    def resource(self, item: str | Resource | Mapping[str, Any]) -> Resource:
        """What a caller may say, as a value: a URI, a Resource, or a resource object of a Job Definition."""
        if isinstance(item, RESOURCE_TYPES):
            return item
        if isinstance(item, str):
            return parse_uri(item)
        if isinstance(item, Mapping):
            from fetcher.model.job import parse_resource

            return parse_resource(item)
        raise UsageError(f"a resource is a URI, an HF, S3 or Ollama value or a mapping, not {type(item).__name__}")

    def _ask(
        self,
        item: str | Resource | Mapping[str, Any],
        role: Role,
        at: str | None = None,
        keys_of: KeysOf | None = None,
    ) -> Ask:
        if role not in ("job", "operator"):
            raise UsageError(f"an asker is 'job' or 'operator', not {str(role)[:40]!r}")
        resource = self.resource(item)
        return Ask(resource, for_resource(resource, role, self.settings, self._environ, keys_of), at=at)

    async def _asks(self, items: Iterable[tuple[str | Resource | Mapping[str, Any], Role, str | None]]) -> list[Ask]:
        """As ``_ask``, for each. An operator's keys that others have to be asked for are asked for once, and whatever
        else goes on in this event loop goes on."""
        found = [(self.resource(item), role, at) for item, role, at in items]
        keys_of: KeysOf | None = None
        if any(may_wait(resource, role, self.settings, self._environ) for resource, role, _ in found):
            from fetcher.client.keys import operator_keys_in_time

            keys_of = await operator_keys_in_time(self._environ, self.settings.api_time_max_s)
        return [self._ask(resource, role, at, keys_of) for resource, role, at in found]

    def hit(self, resource: str | Resource | Mapping[str, Any], asker: Role = "job") -> Snapshot | None:
        """A fresh Snapshot that this asker may have, or None. No network; well under a millisecond.

        Except where ``may_wait``: that takes its time, and need not end.
        """
        return self._hit(self._ask(resource, asker))

    def may_wait(self, resource: str | Resource | Mapping[str, Any], asker: Role = "job") -> bool:
        """Whether somebody has to be asked for the keys of this asker first: an operator's S3 where a profile, or what
        else AWS's programs know, leads to them. ``fetch`` does that beside all else, once per call, and not for ever.
        """
        return may_wait(self.resource(resource), asker, self.settings, self._environ)

    def _hit(self, ask: Ask) -> Snapshot | None:
        if ask.copies:
            return None
        found = known(self.cache, self.settings, ask, resource_key(ask.resource, self.settings), time.time())
        if found.snapshot is None or not found.usable:
            return None
        self.cache.touch(found.snapshot.id)
        return found.snapshot

    async def plan(self, resource: str | Resource | Mapping[str, Any], asker: Role = "job") -> FetchPlan:
        """All that fetching it would do. Asks the origin, reserves and changes nothing."""
        return await self._start_engine().plan(await self._asks([(resource, asker, None)]))

    async def plan_all(self, items: Sequence[tuple[str | Resource | Mapping[str, Any], Role]]) -> FetchPlan:
        """One plan for several resources: what they share is counted once."""
        return await self._start_engine().plan(await self._asks((resource, role, None) for resource, role in items))

    async def plan_job(self, job: JobResources | Mapping[str, Any] | str, *, asker: Role = "job") -> FetchPlan:
        """All that ``mount_all`` would do, the private copies of writable mounts included."""
        return await self._start_engine().plan(list(dict.fromkeys(await self._asks_of(self._job(job), asker))))

    async def fetch(self, resource: str | Resource | Mapping[str, Any], asker: Role = "job") -> Outcome:
        """The Snapshot of a resource, fetched if need be. It takes no lease."""
        (outcome,) = await self.fetch_all([(resource, asker)])
        return outcome

    async def fetch_all(self, items: Sequence[tuple[str | Resource | Mapping[str, Any], Role]]) -> list[Outcome]:
        """Several resources in one run; all or an error."""
        return await self._fetch(await self._asks((resource, role, None) for resource, role in items))

    async def fetch_each(
        self, items: Sequence[tuple[str | Resource | Mapping[str, Any], Role]]
    ) -> list[Outcome | FetcherError]:
        """Several resources in one run, each for itself: what can't be had is an error in its place."""
        return await self._start_engine().fetch_each(
            await self._asks((resource, role, None) for resource, role in items)
        )

    async def _fetch(self, asks: Sequence[Ask]) -> list[Outcome]:
        """Hits are answered here; only what is left wakes the engine."""
        hits = [self._hit(ask) for ask in asks]
        missing = [ask for ask, snapshot in zip(asks, hits, strict=True) if snapshot is None]
        fetched = iter(await self._start_engine().fetch(missing) if missing else ())
        return [next(fetched) if snapshot is None else Outcome(snapshot, 0, hit=True) for snapshot in hits]

    @asynccontextmanager
    async def lease(self, resource: str | Resource | Mapping[str, Any], asker: Role = "job") -> AsyncIterator[Lease]:
        """The Snapshot of a resource with the right to use it, until the block ends or this process is gone."""
        from fetcher.client.mounts import Lease

        asks = await self._asks([(resource, asker, None)])
        record, outcomes = await self._fetch_and_lease(asks, self.cache.lease_process)
        ended: tuple[type[FetcherError], ...] = (LeaseError, ReplacedError)  # by hand; or now it is its process's
        try:
            yield Lease(record.id, outcomes[0].snapshot, record.expires_at)
        except BaseException:
            ended = (FetcherError,)  # what comes out of the block counts for more
            raise
        finally:
            if self._cache is not None:  # closed inside the block: process leases have ended with it
                with suppress(*ended):
                    self._cache.lease_release(record.id)

    async def _fetch_and_lease(
        self, asks: Sequence[Ask], take: Callable[[Sequence[str]], LeaseRecord]
    ) -> tuple[LeaseRecord, list[Outcome]]:
        for attempt in range(LEASE_TRIES):
            outcomes = await self._fetch(asks)
            try:
                return take(list(dict.fromkeys(outcome.snapshot.id for outcome in outcomes))), outcomes
            except BaseException as error:
                from fetcher.client.mounts import discard

                discard(self.cache, (path for outcome in outcomes for path in outcome.copies))
                if not isinstance(error, GoneError) or attempt == LEASE_TRIES - 1:
                    raise
        raise AssertionError("unreachable")

    async def mount_all(
        self,
        job: JobResources | Mapping[str, Any] | str | bytes,
        *,
        lease_s: float | None = None,
        owner_pid: int | None = None,
        asker: Role = "job",
    ) -> MountSet:
        """Every resource of a Job Definition, under one lease: all or an error.

        ``lease_s``: a timed lease of so many seconds, that also ends with process ``owner_pid``; None: a process lease.
        """
        from fetcher.client.mounts import MountSet, mount_set, places_of

        job = self._job(job)
        if not job.mounts:
            return MountSet(None, (), job.deferred)
        asks = await self._asks_of(job, asker)
        record, outcomes = await self._fetch_and_lease(asks, self._taker(lease_s, owner_pid))
        places = places_of(self.cache, job, asks, record, outcomes)
        return mount_set(job, record, [outcome.snapshot for outcome in outcomes], places, self.engine_path)

    def _job(self, job: JobResources | Mapping[str, Any] | str | bytes) -> JobResources:
        from fetcher.model.job import parse_job
        from fetcher.model.mount import JobResources

        return job if isinstance(job, JobResources) else parse_job(job)

    async def _asks_of(self, job: JobResources, asker: Role) -> list[Ask]:
        from fetcher.client.mounts import with_copies

        return with_copies(job, await self._asks((request.resource, asker, request.at) for request in job.mounts))

    def mount_hits(
        self,
        job: JobResources,
        *,
        lease_s: float | None = None,
        owner_pid: int | None = None,
        asker: Role = "job",
    ) -> MountSet | None:
        """As ``mount_all``, if every resource is a hit, else None. No event loop, and network as for ``hit``."""
        from fetcher.client.mounts import MountSet, mount_set, with_copies

        if not job.mounts:
            return MountSet(None, (), job.deferred)
        asks = [self._ask(request.resource, asker, request.at) for request in job.mounts]
        hits = [self._hit(ask) for ask in with_copies(job, asks)]
        snapshots = [snapshot for snapshot in hits if snapshot is not None]
        if len(snapshots) < len(hits):
            return None
        try:
            record = self._taker(lease_s, owner_pid)(list(dict.fromkeys(snapshot.id for snapshot in snapshots)))
        except GoneError:  # evicted between the look and the lease
            return None
        return mount_set(job, record, snapshots, [snapshot.path for snapshot in snapshots], self.engine_path)

    def _taker(self, lease_s: float | None, owner_pid: int | None) -> Callable[[Sequence[str]], LeaseRecord]:
        def take(snapshot_ids: Sequence[str]) -> LeaseRecord:
            if lease_s is None:
                return self.cache.lease_process(snapshot_ids)
            return self.cache.lease_timed(snapshot_ids, lease_s, owner_pid=owner_pid)

        return take

    def engine_path(self, path: Path) -> Path:
        """``path`` as the container engine sees it (``FETCHER_ENGINE_CACHE_DIR``)."""
        if self.settings.engine_cache_dir is None:
            return path
        return self.settings.engine_cache_dir / path.relative_to(self.settings.cache_dir)

    # -- markets -----------------------------------------------------------------------------------------------------

    async def market_list(self, market: str, *, keep: bool = True) -> MarketSource:
        """What a market (its address, or the URL of its list) requires: the current list, or the last good one if its
        endpoint does not answer. ``keep``: remember it for that day."""
        from fetcher.client.prefetching import market_list

        return await market_list(self._start_engine(), self.settings, self.cache, self._environ, market, keep=keep)

    async def prefetch(
        self,
        items: Market,
        *,
        pin: str | None = None,
        images: bool = True,
        on_plan: Callable[[FetchPlan], None] | None = None,
    ) -> PrefetchReport:
        """Everything on a list, items independent of each other: a market's document, what ``market_list`` gave, or a
        sequence of whatever ``fetch`` takes. Equal items are fetched once.

        ``pin``: a name, as ``market:<address>``, that keeps the items until it is unpinned, and lets go of what a
        current list no longer has. ``images``: whether the container engine that is found pulls what is missing.
        """
        return await self._prefetch(items).fetch(images=images, pin=pin, on_plan=on_plan)

    async def plan_prefetch(self, items: Market, *, images: bool = True) -> PrefetchReport:
        """What ``prefetch`` would do; changes nothing."""
        return await self._prefetch(items).plan(images=images)

    def _prefetch(self, items: Market) -> Prefetch:
        from fetcher.client.prefetching import prefetch_of

        return prefetch_of(self._start_engine(), self.settings, self.cache, self._environ, items, self.resource)

    # -- keeping -----------------------------------------------------------------------------------------------------

    async def copy_out(self, snapshot: Snapshot, directory: Path, *, merge: bool = False) -> int:
        """Copy a Snapshot's files into a directory of the caller's; returns their number."""
        for own in (self.settings.cache_dir, self.settings.state_dir):
            if Path(os.path.realpath(directory)).is_relative_to(os.path.realpath(own)):
                raise UsageError(f"{directory} is inside the cache", hint="name a directory of your own")
        return await self._start_engine().copy_out(snapshot, directory, merge=merge)

    def tidy(self) -> str | None:
        """Remove what has had its time, if it is due: for the end of a command. Returns what went wrong, in words: the
        command itself has done its work."""
        try:
            self.cache.tidy()
        except FetcherError as error:
            return error.message
        return None

    def prune(self, *, max_bytes: int | None = None) -> GcReport:
        """Remove what nobody needs; with ``max_bytes`` also what was used longest ago, down to that size."""
        return self.cache.prune_plan(max_bytes=max_bytes).execute()

    def verify(
        self,
        resource: str | Resource | Mapping[str, Any] | None = None,
        *,
        dry_run: bool = False,
        rate_bytes_per_s: int | None = None,
        on_damage: Callable[[Damage], None] | None = None,
        stopped: Callable[[], bool] = lambda: False,
    ) -> VerifyReport:
        """Read all of a resource, or of the whole cache, and take what is no longer what was verified out of service.

        May take minutes; inside an event loop ``await asyncio.to_thread(f.verify)``, callbacks then come from there.
        ``dry_run`` only reports. ``rate_bytes_per_s`` limits the reading. ``on_damage`` is told each damage as it is
        found; ``on_event`` gets Progress. ``stopped`` is asked now and then: true raises InterruptedByUser.
        """
        from fetcher.client.verify import verify

        return verify(
            self.cache,
            None if resource is None else self.resource(resource),
            dry_run=dry_run,
            rate_bytes_per_s=rate_bytes_per_s,
            emit=self._on_event,
            on_damage=on_damage,
            stopped=stopped,
        )


__all__ = ["Fetcher", "get", "run"]
