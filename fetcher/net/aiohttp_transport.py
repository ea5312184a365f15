"""The Transport over aiohttp: with ``lanes`` and ``foreign`` the only module that knows aiohttp, and the border where
its errors get our names.

What aiohttp does by default and must not do here: re-quote URLs (breaks signatures), follow redirects, ask for gzip
(the Hub then drops Content-Length and ignores Range), decode bodies, keep cookies, read ~/.netrc and proxy variables,
cap connections by itself (the engine does).

Connections are pooled per *lane*. Guarded and unguarded requests never share a connection, else a connection made for
an operator would carry a job's request past the guard. Plain and TLS have lanes of their own because the guard's
verdict depends on it, as do credentials in clear text; fresh connections have one because nothing is kept there.
What a proxy carries has a lane per proxy: its connections lead to an address that nobody has judged.
"""

from __future__ import annotations

import asyncio
import base64
import platform
import ssl
import time
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from typing import Any, Literal

import aiohttp
from yarl import URL

from fetcher.config import Settings
from fetcher.errors import ForbiddenError, TransportError
from fetcher.model.proxy import Proxy
from fetcher.net.authorize import authorization
from fetcher.net.foreign import PROXY_WANTS_LOGIN, map_exceptions, proxy_refusal
from fetcher.net.guard import Guard, Lookup, canonical_literal, look_up
from fetcher.net.lanes import KEPT_ALIVE_S, Lane, open_lane
from fetcher.net.proxies import proxies_of
from fetcher.net.request import Address, Request, address_of, display_url
from fetcher.net.response import AiohttpResponse

READ_BUFFER_BYTES = 128 << 10
"""aiohttp stops reading from the socket beyond twice this, so with pieces of 256 KiB a connection holds 512 KiB at
most. What it holds is lost when the process is killed, hence no more than throughput needs: over loopback eight
connections together are as fast with 64 KiB to 512 KiB as far as can be measured; a single one, bound by the CPU at
some 600 MiB/s, gains a tenth from 512 KiB."""
HEADER_LINE_BYTES_MAX = 16 << 10
"""A Location with a signed policy takes 1 to 2 KiB; aiohttp's own 8190 is near what long policies need."""
HEADERS_MAX = 128
ORIGINS_KEPT_MAX = 64
"""Connections to so many are kept open between requests; to more, each is closed after its answer. Documents of
strangers may name a thousand hosts, and redirects more of them, and what is kept costs descriptors that others need."""


class AiohttpTransport:
    """See ``transport.Transport``. Cheap to make: sessions come with the first request of their lane.

    ``lookup`` and ``ssl_context`` are for tests and for origins with a private CA; by default the operating system
    resolves, and certificates are checked against its store (``SSL_CERT_FILE`` and ``SSL_CERT_DIR`` are honoured).
    ``environ``: where the variables of proxies are read, unless the settings name one.
    """

    def __init__(
        self,
        settings: Settings,
        environ: Mapping[str, str] | None = None,
        *,
        lookup: Lookup = look_up,
        ssl_context: ssl.SSLContext | None = None,
    ) -> None:
        self._connect_timeout_s = settings.connect_timeout_s
        self._guard = Guard(settings.allow_net)
        self._proxies = proxies_of(settings.proxy, environ or {})
        self._proxy_filters = settings.proxy_filters
        self._lookup = lookup
        self._ssl: ssl.SSLContext | bool = ssl_context if ssl_context is not None else True
        self._sessions: dict[Lane, aiohttp.ClientSession] = {}
        self._kept: dict[str, float] = {}
        """Origins that connections are kept to, and when each was last asked; the one asked longest ago first."""
        self._verdicts: dict[str, bool] = {}
        """Origins that were asked unguarded, and whether that was where no job may ask."""
        self._closed = False

    def __repr__(self) -> str:
        return f"<AiohttpTransport {len(self._sessions)} lanes, {self._guard!r}>"

    async def send(self, request: Request, *, idle_timeout_s: float, fresh_connection: bool = False) -> AiohttpResponse:
        address = address_of(request.url)
        guarded = request.guarded
        literal = canonical_literal(address.host)
        proxy = self._proxies.for_address(address)
        if guarded and proxy is not None:
            self._judge_proxied(address, literal, proxy)
        elif guarded and literal is not None:
            self._guard.check(address.host, [literal], address.port, address.scheme)
        elif not guarded and proxy is not None:
            self._see_proxied(address, literal)
        elif literal is not None:
            self._see(address.host, [literal], address.port, address.scheme)
        url = self._exact(request.url, address)
        headers = dict(request.headers)
        if not all(value.isascii() and value.isprintable() for value in headers.values()):
            # Such as an ETag with raw bytes in it, on its way back as If-Range.
            raise ForbiddenError(f"{display_url(request.url)}: a header of the request can't be sent as it is")
        secret = request.secret_query or request.carried_credential is not None
        # Never readable on the way to a stranger. A guarded request over plain http reaches nothing but addresses that
        # FETCHER_ALLOW_NET holds, so only the others are judged once more.
        bare_credential = secret and not guarded and address.scheme == "http"
        headers |= authorization(request)
        if bare_credential and proxy is not None:
            self._guard.check_proxied_token(address.host, literal, str(proxy))
        elif bare_credential and literal is not None:
            self._guard.check_token(address.host, [literal], address.port)
        fresh = fresh_connection or not self._may_keep(address.origin)
        session = self._session(Lane(guarded, address.scheme, fresh, bare_credential, proxy))
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
        return AiohttpResponse(response, request.url, idle_timeout_s)

    def inner(self, origins: Iterable[str]) -> bool:
        return any(self._verdicts.get(origin, False) for origin in origins)

    def _see(self, host: str, addresses: Sequence[str], port: int, scheme: Literal["http", "https"]) -> None:
        """Take note of where an unguarded request leads. Raises ForbiddenError for a name that led to a public address
        before and leads inside now: what is under way was held to be everybody's."""
        barred = next((ip for ip in addresses if self._guard.judge_endpoint(ip, port, scheme) is not None), None)
        origin = Address(scheme, host.lower(), port).origin
        if barred is not None and not self._verdicts.setdefault(origin, True):
            raise ForbiddenError(
                f"{host} led to a public address before, and leads to {barred} now", hint="start the program again"
            )
        self._verdicts.setdefault(origin, False)

    def _see_proxied(self, address: Address, literal: str | None) -> None:
        """The same of a request through a proxy: of a name only the proxy knows where it leads, and whether a job could
        have asked there is told by one that filters alone."""
        if literal is not None:
            self._see(address.host, [literal], address.port, address.scheme)
            return
        barred = not self._proxy_filters
        if not barred:
            try:
                self._guard.check_unresolved(address.host, address.port, address.scheme)
            except ForbiddenError:
                barred = True
        self._verdicts.setdefault(address.origin, barred)

    async def close(self) -> None:
        self._closed = True
        sessions, self._sessions = self._sessions, {}
        for session in sessions.values():
            await session.close()

    def _exact(self, text: str, address: Address) -> URL:
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

    def _judge_proxied(self, address: Address, literal: str | None, proxy: Proxy) -> None:
        """Whether a guarded request may be handed to ``proxy``; raises ForbiddenError else.

        Where a proxy connects to can't be seen from here, so the operator has to say that it looks itself. Even then
        what can be seen is judged.
        """
        if literal is not None:
            self._guard.check(address.host, [literal], address.port, address.scheme)
        elif self._proxy_filters:
            self._guard.check_unresolved(address.host, address.port, address.scheme)
        if not self._proxy_filters:
            raise ForbiddenError(
                f"a request to {address.origin} is refused: it would go through the proxy {proxy} ({proxy.place}), and "
                "where that connects to can't be judged from here",
                hint="FETCHER_PROXY=none goes directly, NO_PROXY exempts hosts; if the proxy itself keeps jobs away "
                "from the host's own network, an operator can say so with FETCHER_PROXY_FILTERS=true",
            )

    def _may_keep(self, origin: str) -> bool:
        """Whether a connection to ``origin`` may stay open after the answer."""
        now = time.monotonic()
        if self._kept.pop(origin, None) is None:
            while self._kept and (oldest := next(iter(self._kept))) and self._kept[oldest] < now - KEPT_ALIVE_S:
                del self._kept[oldest]
            if len(self._kept) >= ORIGINS_KEPT_MAX:
                return False
        self._kept[origin] = now
        return True

    def _session(self, lane: Lane) -> aiohttp.ClientSession:
        if self._closed:
            raise TransportError("the transport is closed")
        session = self._sessions.get(lane)
        if session is None:
            session = self._sessions[lane] = self._open(lane)
        return session

    def _open(self, lane: Lane) -> aiohttp.ClientSession:
        see = None if lane.guarded or lane.proxy is not None else partial(self._see, scheme=lane.scheme)
        connector = open_lane(lane, self._guard, self._lookup, see, self._ssl)
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


def _headers_for(proxy: Proxy) -> dict[str, str]:
    """What the proxy itself is told."""
    headers = {"User-Agent": user_agent()}
    if proxy.login is not None:
        headers["Proxy-Authorization"] = f"Basic {base64.b64encode(proxy.login.reveal().encode()).decode()}"
    return headers


def user_agent() -> str:
    """``fetcher/<version>; python/<version>``: who asks, and nothing about the machine."""
    from importlib.metadata import PackageNotFoundError, version

    try:
        own = version("fetcher")
    except PackageNotFoundError:  # run from a source tree that was never installed
        own = "0"
    return f"fetcher/{own}; python/{platform.python_version()}"
