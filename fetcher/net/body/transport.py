"""The Transport of bodies: requests over connections of our own, no library between the socket and the slabs.

The same contract as ``aiohttp_transport``, and the same tests. What it does not do: proxies. Connections are pooled per
lane and origin, the one used last first; it is the one whose congestion window is open.
"""

from __future__ import annotations

import asyncio
import re
import ssl
from collections import defaultdict
from collections.abc import Iterable, Mapping
from functools import lru_cache, partial

from fetcher.config import Settings
from fetcher.errors import FetcherError, ForbiddenError, InternalError, TransportError
from fetcher.net.body.connection import Connection
from fetcher.net.body.dial import Addresses, connect
from fetcher.net.body.head import Head, MisframedError
from fetcher.net.body.response import BodyResponse
from fetcher.net.body.wire import CutError, SilentError, Stage
from fetcher.net.door import KEPT_ALIVE_S, Door, Lane, user_agent
from fetcher.net.guard import Lookup, canonical_literal, look_up
from fetcher.net.naming import system_error
from fetcher.net.request import Address, Request, display_url

_TARGET = re.compile(r"[^:/?#]+://[^/?#]*([^#\s]*)(?:#|\Z)")
"""What of a URL goes out behind the method: path and query. No blank, which would end it, is in one that was let in."""
CLOSING_TURNS_MAX = 8
"""Of the event loop, until connections that were aborted are gone; TLS takes two more than a bare socket."""

Place = tuple[Lane, str]
"""Lane and origin: what a kept connection can be used for."""


class BodyTransport:
    """See ``transport.Transport``. Bound to the event loop that first uses it.

    ``lookup`` and ``ssl_context`` are for tests and for origins with a private CA.
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
        self._addresses = Addresses(lookup, self._door)
        self._ssl = ssl_context
        self._idle: defaultdict[Place, list[Connection]] = defaultdict(list)
        self._open: set[Connection] = set()
        self._sweeper: asyncio.TimerHandle | None = None
        self._closed = False

    def __repr__(self) -> str:
        return f"<BodyTransport {len(self._open)} connections, {self._door!r}>"

    async def send(self, request: Request, *, idle_timeout_s: float, fresh_connection: bool = False) -> BodyResponse:
        address, headers, lane, kept = self._door.admit(request)
        if lane.proxy is not None:
            raise InternalError("a request for a proxy came to the transport that knows none")
        text = _text(request, address, headers)
        place = (lane, address.origin)
        head: Head | None = None
        connection = None if fresh_connection else self._kept(place)
        if connection is not None:
            try:
                head = await connection.ask(text, request.method, idle_timeout_s, self._head_timeout_s(idle_timeout_s))
            except BaseException as error:
                # Its server may have closed it as we asked, which says nothing of the request (RFC 9112, 9.3.1).
                if connection.heard or connection.silent or not isinstance(error, CutError | OSError):
                    if (ours := _named(error, connection, request, idle_timeout_s)) is None:
                        raise
                    raise ours from None
        if connection is None or head is None:
            connection = await self._connect(lane, address, request, idle_timeout_s, anew=fresh_connection)
            head = await self._ask(connection, request, text, idle_timeout_s)
        return BodyResponse(connection, head, request.url, idle_timeout_s, partial(self._keep, place) if kept else None)

    def inner(self, origins: Iterable[str]) -> bool:
        return self._door.inner(origins)

    async def close(self) -> None:
        self._closed = True
        if self._sweeper is not None:
            self._sweeper.cancel()
            self._sweeper = None
        self._idle.clear()
        await self._addresses.close()
        for connection in tuple(self._open):
            connection.abort()
        for _ in range(CLOSING_TURNS_MAX):
            if not self._open:
                break
            await asyncio.sleep(0)  # the loop closes sockets in one of its next turns

    def _head_timeout_s(self, idle_timeout_s: float) -> float:
        return self._connect_timeout_s + 2 * idle_timeout_s

    async def _ask(self, connection: Connection, request: Request, text: bytes, idle_timeout_s: float) -> Head:
        """On a new connection: the head of the answer."""
        try:
            return await connection.ask(text, request.method, idle_timeout_s, self._head_timeout_s(idle_timeout_s))
        except BaseException as error:
            if (ours := _named(error, connection, request, idle_timeout_s)) is None:
                raise
            raise ours from None

    # -- connections -------------------------------------------------------------------------------------------------

    def _kept(self, place: Place) -> Connection | None:
        if self._closed:
            raise TransportError("the transport is closed")
        idle = self._idle.get(place)
        while idle:
            connection = idle.pop()
            if connection.reusable:
                return connection
            connection.abort()  # what came may be no end, and nobody would look at it again
        return None

    def _keep(self, place: Place, connection: Connection) -> None:
        """The answer has ended, and the connection is good for another."""
        if self._closed:
            connection.abort()
            return
        loop = asyncio.get_running_loop()
        connection.kept_until = loop.time() + KEPT_ALIVE_S
        self._idle[place].append(connection)
        if self._sweeper is None:
            self._sweeper = loop.call_later(KEPT_ALIVE_S, self._sweep)

    def _sweep(self) -> None:
        """Close what nobody has used for long."""
        loop = asyncio.get_running_loop()
        now = loop.time()
        self._sweeper = None
        for place, idle in tuple(self._idle.items()):
            kept = [connection for connection in idle if connection.reusable and connection.kept_until > now]
            for connection in set(idle).difference(kept):
                connection.abort()
            self._idle[place] = kept
            if not kept:
                del self._idle[place]
        if self._idle:
            self._sweeper = loop.call_later(KEPT_ALIVE_S / 2, self._sweep)

    async def _connect(
        self, lane: Lane, address: Address, request: Request, idle_timeout_s: float, *, anew: bool
    ) -> Connection:
        if self._closed:
            raise TransportError("the transport is closed")
        try:
            async with asyncio.timeout(self._connect_timeout_s):
                literal = canonical_literal(address.host)
                addresses = [literal] if literal else await self._addresses.of(lane, address, anew=anew)
                connection = await connect(lane, address, addresses, self._door, self._tls)
        except TimeoutError:
            where = display_url(request.url)
            raise TransportError(f"{where}: no connection within {self._connect_timeout_s:g} s") from None
        except (OSError, RuntimeError) as error:
            if (ours := system_error(error, display_url(request.url), idle_timeout_s=idle_timeout_s)) is None:
                raise
            raise ours from None  # a foreign text may have the URL in it, and a traceback in a log would show it
        if connection.stage is not Stage.CLOSED:
            connection.on_closed = partial(self._open.discard, connection)
            self._open.add(connection)
        return connection

    def _tls(self) -> ssl.SSLContext:
        if self._ssl is None:
            self._ssl = ssl.create_default_context()
            self._ssl.set_alpn_protocols(["http/1.1"])
        return self._ssl


def _named(
    error: BaseException, connection: Connection, request: Request, idle_timeout_s: float
) -> FetcherError | None:
    """Our error for what ended an answer before its head was here. None for what is to be raised as it is: a
    cancellation, a bug."""
    where = display_url(request.url)
    if isinstance(error, SilentError):
        return TransportError(f"{where}: no answer within {idle_timeout_s:g} s")
    if isinstance(error, MisframedError):
        return TransportError(f"{where}: the answer is not proper HTTP")
    if isinstance(error, CutError):
        if not isinstance(error.args[0], OSError):
            return TransportError(f"{where}: the connection was closed before the answer was complete")
        error = error.args[0]
    else:
        connection.abort()
    if isinstance(error, OSError | RuntimeError):
        # A foreign text may have the URL in it, and a traceback in a log would show it.
        return system_error(error, where, idle_timeout_s=idle_timeout_s)
    return None


@lru_cache(maxsize=256)
def _host_lines(address: Address) -> str:
    """What follows the target in each request to one address."""
    host = f"[{address.host}]" if ":" in address.host else address.host
    if address.port != (443 if address.scheme == "https" else 80):
        host = f"{host}:{address.port}"
    return f" HTTP/1.1\r\nHost: {host}\r\nUser-Agent: {user_agent()}\r\nAccept-Encoding: identity\r\n"


def _text(request: Request, address: Address, headers: Mapping[str, str]) -> bytes:
    """The request as it goes out: the URL byte for byte as it was given, its authority in ``Host``."""
    match = _TARGET.match(request.url)
    if match is None or not request.method.isalpha():
        raise ForbiddenError(f"not a usable URL: {display_url(request.url)}")
    target = match[1]
    if not target.startswith("/"):
        target = f"/{target}"
    own = "".join([f"{name}: {value}\r\n" for name, value in headers.items()]) if headers else ""
    accept = "" if "Accept" in headers else "Accept: */*\r\n"
    return f"{request.method} {target}{_host_lines(address)}{accept}{own}\r\n".encode("ascii")
