"""Hop 3, once for the library's hit path and for the engine: what of the cache an asker may be given without asking the
origin. Synchronous, no network; light, because a hit needs it.

Public Snapshots are everybody's. A private one is its principal's, and only while it is proven that the origin lets
that principal have it; what an operator got from his own network needs no proof, as nothing but being here opened it.
An operator may share what a market's pin got with the jobs of that market: that is theirs as long as it is fresh.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from fetcher.cache.records import Snapshot
from fetcher.config import Settings
from fetcher.engine.asks import Ask
from fetcher.model.pins import market_pin

if TYPE_CHECKING:
    from fetcher.cache.store import Cache


@dataclass(frozen=True, slots=True)
class Known:
    """What the cache has for an asker."""

    snapshot: Snapshot | None
    """The newest that is his, whether or not he may be given it unasked."""
    entitled: bool
    """It is everybody's, or it is proven to be his at this moment."""
    usable: bool
    """He may be given it, and nothing asks for a newer one."""


NOTHING = Known(None, False, False)


def known(cache: Cache, settings: Settings, ask: Ask, key: str, now: float) -> Known:
    """What this asker may have of what is in the cache. ``key``: of the Resource; ``now``: unix seconds."""
    asker = ask.asker
    secret = cache.principal_key

    def judged(snapshot: Snapshot | None) -> Known:
        if snapshot is None:
            return NOTHING
        from_inside = asker.role == "operator" and snapshot.principal == asker.inner(secret)
        entitled = not snapshot.private or from_inside or _proven(cache, settings, snapshot)
        current = settings.offline or (snapshot.fresh(now) and not settings.refresh)
        return Known(snapshot, entitled, entitled and current)

    found = judged(cache.lookup(key, *asker.principals(secret)))
    if found.snapshot is not None and not found.entitled:
        # One of his own whose proof is over keeps nobody from what is everybody's.
        public = judged(cache.lookup(key))
        found = public if public.usable else found
    if not found.usable and asker.role == "job" and settings.market is not None and not settings.refresh:
        pin = market_pin(settings.market)
        shared = cache.shared(key, pin) if pin in settings.shared_pins else None
        if shared is not None and shared.fresh(now):
            return Known(shared, True, True)
    return found


def _proven(cache: Cache, settings: Settings, snapshot: Snapshot) -> bool:
    return cache.proofs.holds(snapshot.id, snapshot.principal or "", for_s=settings.proof_for_s)
