"""Hops 3 and 4: what is asked for, as a Snapshot that is current or as a Manifest to make true.

Each Ask is answered by its own origin with its own credential, and never joined with another's.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from fetcher.cache.records import Asked, GoneError, Snapshot
from fetcher.config import Settings, resource_key
from fetcher.engine.asks import Ask
from fetcher.engine.entitled import known
from fetcher.engine.workers import Workers
from fetcher.errors import DeniedError, FetcherError, NotFoundError, OfflineError, TransportError
from fetcher.model.manifest import Manifest
from fetcher.model.resource import HF, S3, Resource, stem_of
from fetcher.net.api import ApiClient
from fetcher.net.transport import Transport
from fetcher.origins.base import Origin, Pinned

if TYPE_CHECKING:
    from fetcher.cache.store import Cache

ASKED_AT_ONCE_MAX = 8
"""Resources of one call that are asked for at once; each takes one connection at a time."""


@dataclass(frozen=True, slots=True)
class Prepared:
    """An Ask whose answer is known: a Snapshot that is current, or a Manifest to make true."""

    ask: Ask
    key: str
    principal: str | None
    """Whose the Manifest's bytes are, if it is private; else nobody's in particular, and none of his own are linked
    into what everybody will see."""
    asked_at_s: float
    """When the origin was asked, by the boot's clock; what its answer proves begins then."""
    origin: Origin[Any] | None
    """Who resolved the Manifest; None for a Snapshot."""
    snapshot: Snapshot | None
    manifest: Manifest | None

    def asked(self) -> Asked | None:
        """What the cache asks before it makes anything of the Manifest everybody's; None: it is private anyway."""
        if self.manifest is None or self.manifest.private:
            return None
        return Asked(self.asked_at_s, self.key, self.manifest.endpoint, stem_of(self.ask.resource))


class Resolver:
    """Asks the origins. One per engine."""

    def __init__(
        self,
        settings: Settings,
        cache: Cache,
        workers: Workers,
        api: ApiClient,
        transport: Transport,
        notice: Callable[[Ask, str], None],
    ) -> None:
        self._settings = settings
        self._cache = cache
        self._workers = workers
        self._api = api
        self._transport = transport
        self._notice = notice
        self._origins: dict[str, Origin[Any]] = {}

    def _origin_of(self, resource: Resource) -> Origin[Any]:
        """The dialect of a resource, made when it is first needed."""
        kind = type(resource).__name__
        if kind not in self._origins:
            self._origins[kind] = self._make(resource)
        return self._origins[kind]

    def _make(self, resource: Resource) -> Origin[Any]:
        if isinstance(resource, HF):
            from fetcher.origins.hf import HfOrigin

            return HfOrigin(self._api, self._settings)
        if isinstance(resource, S3):
            from fetcher.origins.s3 import S3Origin

            return S3Origin(self._api, self._settings)
        from fetcher.origins.ollama import OllamaOrigin

        return OllamaOrigin(self._api, self._settings)

    async def prepare_all(self, asks: Sequence[Ask], *, looking: bool = False) -> list[Prepared | FetcherError]:
        """In the order of ``asks``. A refusal is returned: all are asked for, so that all refusals are told at once.

        ``looking``: for a plan that changes nothing; what the origin says of a Snapshot is not written down.
        """
        # Of this call: somebody else's slow hosts are no reason to wait here.
        gate = asyncio.Semaphore(min(ASKED_AT_ONCE_MAX, self._settings.connections_max))
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(self._prepare(ask, looking, gate)) for ask in asks]
        return [task.result() for task in tasks]

    async def _prepare(self, ask: Ask, looking: bool, gate: asyncio.Semaphore) -> Prepared | FetcherError:
        try:
            async with gate:
                return await self._prepare_one(ask, looking)
        except FetcherError as error:
            return error.about(resource=ask.resource.uri(), at=ask.at)

    async def _prepare_one(self, ask: Ask, looking: bool) -> Prepared:
        """Is a Snapshot here that this asker may have and that is current? Otherwise, what does the origin say?"""
        settings, cache, slow = self._settings, self._cache, self._workers.slow
        key = resource_key(ask.resource, settings)
        now, asked_at_s = time.time(), cache.proofs.now_s()
        found = await slow(known, cache, settings, ask, key, now)
        own = ask.asker.principal(cache.principal_key)
        hit = Prepared(ask, key, own, asked_at_s, None, found.snapshot, None)
        if found.usable:
            return hit
        if settings.offline:
            raise OfflineError("not in the cache for this asker", hint="run it once without --offline")
        origin = self._origin_of(ask.resource)
        try:
            if found.snapshot is not None:
                pinned = await origin.revision(ask.resource, ask.asker)
                scope = self._scope(ask, own, pinned.private)
                if pinned.closed and own is not None and not looking:
                    await slow(self._withdraw, ask.resource, key, found.snapshot.endpoint, scope.principal)
                if says(found.snapshot, pinned, scope):
                    if looking:
                        return hit
                    with suppress(GoneError):  # it was tidied away since we looked, and is made true again
                        return await slow(self._current, hit, scope)
            manifest = await origin.resolve(ask.resource, ask.asker)
        except TransportError as error:
            if found.snapshot is None or not found.entitled or not self._may_be_stale(found.snapshot, now):
                raise
            self._notice(ask, f"the origin can't be reached, an older copy is used: {error.message}")
            return hit
        except (DeniedError, NotFoundError):
            if own is not None and not looking:
                await slow(self._take_back, ask, key, own)
            raise
        scope = self._scope(ask, own, manifest.private)
        if manifest.closed and own is not None and not looking:
            await slow(self._withdraw, ask.resource, key, manifest.endpoint, scope.principal)
            await slow(cache.close_digests, sha256_of(manifest), scope.principal)
        return Prepared(ask, key, scope.principal, asked_at_s, origin, None, replace(manifest, private=scope.private))

    def _scope(self, ask: Ask, own: str | None, private: bool) -> Scope:
        """Whose an answer is that came just now. What an operator's request got where no job may ask is his alone."""
        key = self._cache.principal_key
        if ask.asker.role == "operator" and self._transport.inner(ask.asker.trusted_origins):
            return Scope(True, ask.asker.inner(key, own=private))
        return Scope(private, own if private else None)

    def _current(self, hit: Prepared, scope: Scope) -> Prepared:
        """In a worker: the Snapshot is what its origin has, and this asker may have it."""
        assert hit.snapshot is not None
        settings = self._settings
        current = self._cache.revalidate(hit.snapshot.id, settings.fresh_for_s, settings.keep_for_s)
        if scope.private and scope.principal is not None:
            self._cache.proofs.grant(current.id, scope.principal, asked_at_s=hit.asked_at_s, for_s=settings.proof_for_s)
        return replace(hit, snapshot=current)

    def _withdraw(self, resource: Resource, key: str, endpoint: str, principal: str | None) -> None:
        """In a worker: the origin says that not everybody may read this, which at the Hub is said of all revisions.

        It counts if a credential was shown: a mirror may repeat what the Hub says and let anybody read all the same.
        """
        self._cache.withdraw(key, principal, endpoint=endpoint, stem=stem_of(resource))

    def _take_back(self, ask: Ask, key: str, own: str) -> None:
        """In a worker: the origin has refused this asker's credential; what was proven before is so no more."""
        secret = self._cache.principal_key
        for principal in {own, *ask.asker.principals(secret)} - {ask.asker.inner(secret)}:
            self._cache.proofs.take_back(key, principal)

    def _may_be_stale(self, known: Snapshot, now: float) -> bool:
        """Whether ``stale_if_error_s`` lets this Snapshot serve although its origin can't say that it is current."""
        allowed_s = self._settings.stale_if_error_s
        return allowed_s > 0 and now < max(known.fresh_until or 0.0, known.validated_at) + allowed_s


def sha256_of(manifest: Manifest) -> list[str]:
    """What the origin states of its files."""
    digests = (entry.digest for entry in manifest.files)
    return [digest.hex for digest in digests if digest is not None and digest.name == "sha256"]


@dataclass(frozen=True, slots=True)
class Scope:
    """For whose eyes an answer is."""

    private: bool
    principal: str | None


def says(known: Snapshot, pinned: Pinned, scope: Scope) -> bool:
    """Whether ``pinned`` is what this Snapshot holds, and for the same eyes."""
    if scope.private != known.private or (known.private and scope.principal != known.principal):
        return False
    if pinned.revision is not None:
        return pinned.revision == known.revision
    return pinned.manifest_digest == known.manifest_digest
