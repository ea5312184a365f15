"""Which transport a request takes: what a proxy carries, and what asks for more than ``GET`` and ``HEAD``, goes over
aiohttp, which is loaded then (85 ms of CPU); everything else over ``body``.

One ``Door`` for both: what the guard allows, what is kept, and where an operator's origins were seen to lead is one
thing, whichever road was taken.
"""

from __future__ import annotations

import ssl
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

from fetcher.config import Settings
from fetcher.net.body.transport import BodyTransport
from fetcher.net.door import Door
from fetcher.net.guard import Lookup, look_up
from fetcher.net.request import Request
from fetcher.net.transport import Response

if TYPE_CHECKING:
    from fetcher.net.aiohttp_transport import AiohttpTransport

OWN_METHODS = frozenset({"GET", "HEAD"})


class Roads:
    """See ``transport.Transport``."""

    def __init__(
        self,
        settings: Settings,
        environ: Mapping[str, str] | None = None,
        *,
        lookup: Lookup = look_up,
        ssl_context: ssl.SSLContext | None = None,
    ) -> None:
        """``environ``: where the variables of proxies are read, unless the settings name one. ``lookup`` and
        ``ssl_context`` are for tests and for origins with a private CA."""
        self._door = door = Door(settings, environ)
        self._settings, self._lookup, self._ssl = settings, lookup, ssl_context
        self._general: AiohttpTransport | None = None
        self._bodies = BodyTransport(settings, door=door, lookup=lookup, ssl_context=ssl_context)

    def __repr__(self) -> str:
        return f"<Roads {self._bodies!r}, {self._general!r}>"

    async def send(self, request: Request, *, idle_timeout_s: float, fresh_connection: bool = False) -> Response:
        if request.method in OWN_METHODS and self._door.proxy_for(request) is None:
            return await self._bodies.send(request, idle_timeout_s=idle_timeout_s, fresh_connection=fresh_connection)
        general = self._loaded()
        return await general.send(request, idle_timeout_s=idle_timeout_s, fresh_connection=fresh_connection)

    def _loaded(self) -> AiohttpTransport:
        if self._general is None:
            from fetcher.net.aiohttp_transport import AiohttpTransport

            self._general = AiohttpTransport(
                self._settings, door=self._door, lookup=self._lookup, ssl_context=self._ssl
            )
        return self._general

    def inner(self, origins: Iterable[str]) -> bool:
        return self._door.inner(origins)

    async def close(self) -> None:
        try:
            await self._bodies.close()
        finally:
            if self._general is not None:
                await self._general.close()
