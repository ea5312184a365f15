"""``Fetcher.market_list`` and ``Fetcher.prefetch``: what may be given as a list, and on whose behalf its items are
asked for."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from fetcher.credentials import for_market
from fetcher.engine.market_lists import MarketLists, MarketSource
from fetcher.engine.prefetch import Prefetch, listed
from fetcher.model.asker import Asker
from fetcher.model.market import MarketItem, MarketList, parse_market
from fetcher.model.resource import Resource

if TYPE_CHECKING:
    from fetcher.cache.store import Cache
    from fetcher.config import Settings
    from fetcher.engine.fetch import Engine

Market = MarketSource | MarketList | Mapping[str, Any] | str | bytes | Sequence[str | Resource | Mapping[str, Any]]


async def market_list(
    engine: Engine, settings: Settings, cache: Cache, environ: Mapping[str, str], market: str, *, keep: bool
) -> MarketSource:
    """The current list of a market, or the last good one if its endpoint does not answer."""
    return await MarketLists(settings, cache, engine.transport).get(market, _asker(settings, environ), keep=keep)


def prefetch_of(
    engine: Engine,
    settings: Settings,
    cache: Cache,
    environ: Mapping[str, str],
    items: Market,
    resource: Callable[[str | Resource | Mapping[str, Any]], Resource],
) -> Prefetch:
    """The prefetch of a list, or of a sequence of whatever ``resource`` takes."""
    if not isinstance(items, MarketSource):
        if isinstance(items, Mapping | str | bytes):
            items = parse_market(items)
        elif not isinstance(items, MarketList):
            items = listed(items, resource)
        items = MarketSource(items, "the list")
    return Prefetch(engine, cache, settings, environ, items, _asker(settings, environ))


def _asker(settings: Settings, environ: Mapping[str, str]) -> Callable[[MarketItem], Asker]:
    def asker(item: MarketItem) -> Asker:
        assert item.resource is not None
        return for_market(item.resource, settings, environ)

    return asker
