"""Where a market's list is: asked at the published addresses in order. Knows no shape of the list and no disk.

The addresses are the operator's own (an argument, ``FETCHER_MARKET_URL``, or the defaults), so they are not judged;
what they redirect to is. Whether an answer is a list says the caller, who knows the shapes: an answer that is none
counts as an address that failed, and the next one is asked.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Generic, TypeVar
from urllib.parse import quote

from fetcher.config import Settings
from fetcher.errors import DeniedError, FetcherError, NotFoundError, RateLimitedError, ResourceError, TransportError
from fetcher.model.setting_values import MARKET_PLACE
from fetcher.net.api import ApiClient, Refused
from fetcher.net.request import Request, display_url, origin_of
from fetcher.net.transport import Transport

List = TypeVar("List")

LIST_BYTES_MAX = 4 << 20
"""Real lists have a few KiB."""
TRIES_MAX = 3
TIME_MAX_S = 20.0
"""Per address: there are others, and a list of yesterday."""
HINT = "FETCHER_MARKET_URL names the addresses to ask"


@dataclass(frozen=True, slots=True)
class FoundList(Generic[List]):
    """A list and where it came from."""

    value: List
    url: str
    """Without query."""


class MarketOrigin:
    """The endpoints of markets."""

    def __init__(self, transport: Transport, settings: Settings) -> None:
        self._settings = settings
        hurried = replace(
            settings,
            api_tries_max=min(TRIES_MAX, settings.api_tries_max),
            api_time_max_s=min(TIME_MAX_S, settings.api_time_max_s),
        )
        self._api = ApiClient(transport, hurried)

    async def of_market(self, market: str, parse: Callable[[bytes], List]) -> FoundList[List]:
        """The list of ``market``. Raises the error of the address that came nearest to an answer."""
        urls = [url.replace(MARKET_PLACE, quote(market, safe="")) for url in self._settings.market_url]
        return await self._first(urls, parse)

    async def at_url(self, url: str, parse: Callable[[bytes], List]) -> FoundList[List]:
        """The list at one URL."""
        return await self._first([url], parse)

    async def _first(self, urls: Sequence[str], parse: Callable[[bytes], List]) -> FoundList[List]:
        errors: list[FetcherError] = []
        for url in urls:
            try:
                return await self._ask(url, parse)
            except FetcherError as error:
                error.hint = error.hint or HINT
                errors.append(error)
        if len(errors) == 1:
            raise errors[0]
        nearest = min(errors, key=lambda error: _FARNESS.get(type(error), len(_FARNESS)))
        told = "; ".join(error.message for error in errors)
        raise type(nearest)(f"none of {len(errors)} addresses gave the list: {told}", hint=nearest.hint)

    async def _ask(self, url: str, parse: Callable[[bytes], List]) -> FoundList[List]:
        origin = origin_of(url)
        request = Request(
            "GET",
            url,
            headers=(("Accept", "application/json"),),
            trusted_origins=frozenset({origin}),
            purpose="api",
        )
        found = await self._api.get_bytes(request, refusal=_refusal, bytes_max=LIST_BYTES_MAX)
        try:
            return FoundList(parse(found.value), display_url(found.url))
        except ResourceError as error:
            first = error.message.splitlines()[0]
            raise TransportError(
                f"{display_url(url)} answered with something that is no list of a market: {first}",
                hint=HINT,
            ) from None


_FARNESS: dict[type[FetcherError], int] = {NotFoundError: 0, DeniedError: 1, RateLimitedError: 2, TransportError: 3}
"""A plain "no such market" tells more than an address that can't be reached."""


def _refusal(refused: Refused) -> FetcherError:
    where = display_url(refused.url)
    if refused.status in (404, 410):
        return NotFoundError(
            f"{where}: there is no such market, or no such address", hint="look at the market's address"
        )
    if refused.status in (401, 403):
        return DeniedError(f"{where} answered {refused.status}", hint=HINT)
    return TransportError(f"{where} answered {refused.status}", hint=HINT)
