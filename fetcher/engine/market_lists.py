"""The list of a market: asked for, and kept for the day when nobody answers.

What is kept has no credentials. Where an item came with one, only its keyed hash is kept: it tells whether what is in
the cache was fetched with it, and opens nothing.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from fetcher.cache.markets import KeptList
from fetcher.config import Settings, resource_key
from fetcher.errors import (
    DeniedError,
    FetcherError,
    ForbiddenError,
    NotFoundError,
    OfflineError,
    RateLimitedError,
    TransportError,
)
from fetcher.model.asker import Asker
from fetcher.model.market import MarketItem, MarketList, parse_market
from fetcher.net.request import display_url
from fetcher.net.transport import Transport
from fetcher.origins.market import FoundList, MarketOrigin

if TYPE_CHECKING:
    from fetcher.cache.store import Cache

AskerOf = Callable[[MarketItem], Asker]


@dataclass(frozen=True, slots=True)
class MarketSource:
    """A list to prefetch."""

    list: MarketList
    name: str
    """What it was asked for by: a market's address, or a URL without query."""
    url: str | None = None
    """Where it came from, without query."""
    kept_since: float | None = None
    """It is the last good one, of then (unix seconds), because nobody answers now; None: it is current."""
    reason: str | None = None
    """Why it is not current."""
    principals: Mapping[str, str] = field(default_factory=dict)
    """Of a kept list: key of an item's resource → keyed hash of the credential that came with it."""
    not_kept: str | None = None
    """Why a current list could not be kept for later."""


NO_LIST = (TransportError, RateLimitedError, DeniedError, NotFoundError, ForbiddenError)
"""For what the last good list stands in. Not found, too: an endpoint that has moved says so of every market. Forbidden,
too: a network that wants a login first redirects everything to an address of its own."""


class MarketLists:
    """Fetches lists with one engine's transport."""

    def __init__(self, settings: Settings, cache: Cache, transport: Transport) -> None:
        self._settings = settings
        self._cache = cache
        self._origin = MarketOrigin(transport, settings)

    async def get(self, name: str, asker_of: AskerOf, *, keep: bool = True) -> MarketSource:
        """The list of a market (its address), or the one at a URL.

        Where nobody gives one, the last good one is given and says so. ``keep``: remember this one. Raises what the
        endpoints said if there is none.
        """
        if self._settings.offline:
            return self._kept(name, OfflineError("no network is to be used", hint="run it once without --offline"))
        try:
            if "://" in name:
                found = await self._origin.at_url(name, parse_market)
            else:
                found = await self._origin.of_market(name, parse_market)
        except NO_LIST as error:
            return self._kept(name, error)
        not_kept = None
        if keep and _worth_keeping(found.value):
            try:
                self._keep(name, found, asker_of)
            except FetcherError as error:  # the list is here; that a later day will lack it is a remark
                not_kept = error.message
        return MarketSource(found.value, display_url(name), found.url, not_kept=not_kept)

    def _kept(self, name: str, error: FetcherError) -> MarketSource:
        try:
            kept = self._cache.markets.load(self._name_to_keep(name))
            parsed = None if kept is None else parse_market(kept.document, saved=True)
        except FetcherError:  # foreign or damaged: as if there were none
            raise error from None
        if kept is None or parsed is None:
            raise error
        return MarketSource(
            parsed,
            display_url(name),
            kept.url,
            kept_since=kept.saved_at,
            reason=error.message,
            principals=kept.principals,
        )

    def _keep(self, name: str, found: FoundList[MarketList], asker_of: AskerOf) -> None:
        key = self._cache.principal_key
        principals: dict[str, str] = {}
        for item in found.value.resources:
            if item.resource is None or not item.had_credential:
                continue
            try:
                principal = asker_of(item).principal(key)
            except FetcherError:  # a credential that can't be sent: told of the item
                continue
            if principal is not None:
                principals[resource_key(item.resource, self._settings)] = principal
        document = found.value.without_secrets()
        kept = KeptList(self._name_to_keep(name), time.time(), found.url, document, principals)
        self._cache.markets.save(kept)

    def _name_to_keep(self, name: str) -> str:
        """What a list is kept under. Queries and logins of URLs may be secrets; a keyed hash tells them apart."""
        shown = display_url(name)
        if shown == name:
            return name
        return f"{shown}#{hashlib.blake2b(name.encode(), key=self._cache.principal_key, digest_size=16).hexdigest()}"


def _worth_keeping(found: MarketList) -> bool:
    """Whether it may replace the list of before: one of which nothing can be read may not."""
    faults = [item.fault for item in found.resources] + [image.fault for image in found.images]
    return not faults or None in faults
