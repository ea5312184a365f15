"""The Transport of bodies: requests over connections of our own, no library between the socket and the slabs.

The same contract as ``aiohttp_transport``, and the same tests. What it does not do: proxies. Connections are pooled per
lane and origin, the one used last first; it is the one whose congestion window is open.
"""

from __future__ import annotations

import asyncio
import ssl
from collections import defaultdict
from collections.abc import Iterable, Mapping

from fetcher.config import Settings
from fetcher.errors import FetcherError, ForbiddenError, InternalError, TransportError
from fetcher.net.body.connection import Connection, CutError, SilentError, Stage
from fetcher.net.body.dial import Addresses, connect
from fetcher.net.body.head import Head, MisframedError
from fetcher.net.body.response import BodyResponse
from fetcher.net.door import KEPT_ALIVE_S, Door, Lane, user_agent
from fetcher.net.guard import Lookup, canonical_literal, look_up
from fetcher.net.naming import system_error
from fetcher.net.request import Address, Request, display_url

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
        passage = self._door.admit(request)
        if passage.lane.proxy is not None:
            raise InternalError("a request for a proxy came to the transport that knows none")
        address = passage.address
        text = _text(request, address, passage.headers)
        place = (passage.lane, address.origin)
        try:
            connection = None if fresh_connection else self._kept(place)
            head = None if connection is None else await self._ask_again(connection, request, text, idle_timeout_s)
            if connection is None or head is None:
                connection = await self._connect(passage.lane, address, request, anew=fresh_connection)
                head = await self._ask(connection, request, text, idle_timeout_s)
        except FetcherError:
            raise
        except (OSError, RuntimeError) as error:
            ours = system_error(error, display_url(request.url), idle_timeout_s=idle_timeout_s)
            if ours is None:
                raise
            raise ours from None  # a foreign text may have the URL in it, and a traceback in a log would show it
        give_back = (lambda: self._keep(place, connection)) if passage.kept else None
        return BodyResponse(connection, head, request.url, idle_timeout_s, give_back)

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

    async def _ask(self, connection: Connection, request: Request, text: bytes, idle_timeout_s: float) -> Head:
        """The head of the answer; what ends it comes out as an error that can be named."""
        try:
            return await connection.ask(
                text, request.method, idle_timeout_s, self._connect_timeout_s + 2 * idle_timeout_s
            )
        except CutError as error:
            if isinstance(error.args[0], OSError):
                raise error.args[0] from None
            raise TransportError(
                f"{display_url(request.url)}: the connection was closed before the answer was complete"
            ) from None
        except SilentError:
            raise TransportError(f"{display_url(request.url)}: no answer within {idle_timeout_s:g} s") from None
        except MisframedError:
            raise TransportError(f"{display_url(request.url)}: the answer is not proper HTTP") from None
        except BaseException:
            connection.abort()
            raise

    async def _ask_again(
        self, connection: Connection, request: Request, text: bytes, idle_timeout_s: float
    ) -> Head | None:
        """On a kept connection; None where its server closed it as we asked, which says nothing of the request
        (RFC 9112, 9.3.1)."""
        try:
            return await self._ask(connection, request, text, idle_timeout_s)
        except (TransportError, OSError):
            if connection.heard or connection.silent:
                raise
            return None

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

    async def _connect(self, lane: Lane, address: Address, request: Request, *, anew: bool) -> Connection:
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
        if connection.stage is not Stage.CLOSED:
            connection.on_closed = self._open.discard
            self._open.add(connection)
        return connection

    def _tls(self) -> ssl.SSLContext:
        if self._ssl is None:
            self._ssl = ssl.create_default_context()
            self._ssl.set_alpn_protocols(["http/1.1"])
        return self._ssl


def _text(request: Request, address: Address, headers: Mapping[str, str]) -> bytes:
    """The request as it goes out: the URL byte for byte as it was given, its authority in ``Host``."""
    after = request.url.partition("#")[0].partition("://")[2]
    start = min((at for at in (after.find("/"), after.find("?")) if at >= 0), default=len(after))
    target = after[start:]
    if not target.startswith("/"):
        target = f"/{target}"
    host = f"[{address.host}]" if ":" in address.host else address.host
    if address.port != (443 if address.scheme == "https" else 80):
        host = f"{host}:{address.port}"
    own = "".join([f"{name}: {value}\r\n" for name, value in headers.items()])
    if "Accept" not in headers:
        own = f"Accept: */*\r\n{own}"
    if "\r" in target or not request.method.isalpha():
        raise ForbiddenError(f"not a usable URL: {display_url(request.url)}")
    return (
        f"{request.method} {target} HTTP/1.1\r\nHost: {host}\r\nUser-Agent: {user_agent()}\r\n"
        f"Accept-Encoding: identity\r\n{own}\r\n"
    ).encode("ascii")
