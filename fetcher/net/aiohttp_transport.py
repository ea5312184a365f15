"""The Transport over aiohttp: whatever goes through a proxy, and methods beside ``GET`` and ``HEAD`` (see ``roads``).
With ``response``, ``lanes`` and ``foreign`` the only module that knows aiohttp, and the border where its errors get our
names.

What aiohttp does by default and must not do here: re-quote URLs (breaks signatures), follow redirects, ask for gzip
(the Hub then drops Content-Length and ignores Range), decode bodies, keep cookies, read ~/.netrc and proxy variables,
cap connections by itself (the engine does).

Connections are pooled per lane (see ``door``); fresh ones have a session of their own because nothing is kept there.
"""

from __future__ import annotations

import asyncio
import base64
import ssl
from collections.abc import Iterable, Mapping
from typing import Any
from weakref import WeakSet

import aiohttp
from yarl import URL

from fetcher.config import Settings
from fetcher.errors import ForbiddenError, TransportError
from fetcher.model.proxy import Proxy
from fetcher.net.door import Door, Lane, user_agent
from fetcher.net.foreign import PROXY_WANTS_LOGIN, map_exceptions, proxy_refusal
from fetcher.net.guard import Lookup, look_up
from fetcher.net.lanes import open_lane
from fetcher.net.request import Address, Request, display_url
from fetcher.net.response import AiohttpResponse

READ_BUFFER_BYTES = 128 << 10
"""aiohttp stops reading from the socket beyond twice this, so with pieces of 256 KiB a connection holds 512 KiB at
most. What it holds is lost when the process is killed, hence no more than throughput needs: over loopback eight
connections together are as fast with 64 KiB to 512 KiB as far as can be measured; a single one, bound by the CPU at
some 600 MiB/s, gains a tenth from 512 KiB."""
HEADER_LINE_BYTES_MAX = 16 << 10
"""A Location with a signed policy takes 1 to 2 KiB; aiohttp's own 8190 is near what long policies need."""
HEADERS_MAX = 128


class AiohttpTransport:
    """See ``transport.Transport``. Cheap to make: sessions come with the first request of their lane.

    ``door``: shared with the engine's other transport; made of ``settings`` and ``environ`` if there is none.
    ``lookup`` and ``ssl_context`` are for tests and for origins with a private CA; by default the operating system
    resolves, and certificates are checked against its store (``SSL_CERT_FILE`` and ``SSL_CERT_DIR`` are honoured).
    """

    def __init__(
        self,
        settings: Settings,
        environ: Mapping[str, str] | None = None,
        *,
        door: Door | None = None,
        lookup: Lookup = look_up,
        ssl_context: ssl.SSLContext | None = None,
    ) -> None:
        self._connect_timeout_s = settings.connect_timeout_s
        self._door = door or Door(settings, environ)
        self._lookup = lookup
        self._ssl: ssl.SSLContext | bool = ssl_context if ssl_context is not None else True
        self._sessions: dict[tuple[Lane, bool], aiohttp.ClientSession] = {}
        self._answers: WeakSet[AiohttpResponse] = WeakSet()
        self._closed = False

    def __repr__(self) -> str:
        return f"<AiohttpTransport {len(self._sessions)} lanes, {self._door!r}>"

    async def send(self, request: Request, *, idle_timeout_s: float, fresh_connection: bool = False) -> AiohttpResponse:
        passage = self._door.admit(request)
        address, headers, proxy = passage.address, passage.headers, passage.lane.proxy
        url = _exact(request.url, address)
        session = self._session(passage.lane, fresh=fresh_connection or not passage.kept)
        timeout = aiohttp.ClientTimeout(
            total=None,
            connect=self._connect_timeout_s,
            sock_connect=self._connect_timeout_s,
            sock_read=idle_timeout_s,
        )
        through: dict[str, Any] = {}
        if proxy is not None:
            own = _headers_for(proxy)
            through = {"proxy": URL(str(proxy)), "proxy_headers": own}
            if address.scheme == "http":  # there is no tunnel: what the proxy is told stands beside what the origin is
                headers |= own
        where = display_url(request.url)
        with map_exceptions(
            where, connect_timeout_s=self._connect_timeout_s, idle_timeout_s=idle_timeout_s, proxy=proxy
        ):
            # The inner time-outs start again with every byte; a head that comes byte by byte meets this one.
            async with asyncio.timeout(self._connect_timeout_s + 2 * idle_timeout_s):
                response = await session.request(
                    request.method, url, headers=headers, allow_redirects=False, timeout=timeout, **through
                )
        if not 100 <= response.status <= 999:
            response.close()
            raise TransportError(f"{where}: the answer is not proper HTTP")
        if proxy is not None and address.scheme == "http" and response.status == PROXY_WANTS_LOGIN:
            response.close()
            raise proxy_refusal(where, proxy, response.status)
        answer = AiohttpResponse(response, request.url, idle_timeout_s)
        self._answers.add(answer)
        return answer

    def inner(self, origins: Iterable[str]) -> bool:
        return self._door.inner(origins)

    async def close(self) -> None:
        self._closed = True
        for answer in tuple(self._answers):
            answer.abort()  # whoever waits for it would wait for ever
        sessions, self._sessions = self._sessions, {}
        for session in sessions.values():
            await session.close()

    def _session(self, lane: Lane, *, fresh: bool) -> aiohttp.ClientSession:
        if self._closed:
            raise TransportError("the transport is closed")
        session = self._sessions.get((lane, fresh))
        if session is None:
            session = self._sessions[lane, fresh] = self._open(lane, fresh=fresh)
        return session

    def _open(self, lane: Lane, *, fresh: bool) -> aiohttp.ClientSession:
        connector = open_lane(lane, self._door, self._lookup, self._ssl, fresh=fresh)
        return aiohttp.ClientSession(
            connector=connector,
            auto_decompress=False,
            cookie_jar=aiohttp.DummyCookieJar(),
            headers={"User-Agent": user_agent(), "Accept-Encoding": "identity"},
            trust_env=False,
            requote_redirect_url=False,
            read_bufsize=READ_BUFFER_BYTES,
            max_line_size=HEADER_LINE_BYTES_MAX,
            max_field_size=HEADER_LINE_BYTES_MAX,
            max_headers=HEADERS_MAX,
        )


def _exact(text: str, address: Address) -> URL:
    """``text`` as aiohttp's URL, unchanged; both parsers must agree about where it leads.

    A fragment is no part of a request. A proxy would be sent it in plain http, and might read an address into it.
    """
    try:
        url = URL(text.partition("#")[0], encoded=True)
        if (url.scheme, (url.raw_host or "").lower(), url.port) == (address.scheme, address.host, address.port):
            return url
    except ValueError:
        pass
    raise ForbiddenError(f"not a usable URL: {display_url(text)}")


def _headers_for(proxy: Proxy) -> dict[str, str]:
    """What the proxy itself is told."""
    headers = {"User-Agent": user_agent()}
    if proxy.login is not None:
        headers["Proxy-Authorization"] = f"Basic {base64.b64encode(proxy.login.reveal().encode()).decode()}"
    return headers
