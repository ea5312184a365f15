"""aiohttp's side of a lane of connections: what is judged as they are made, and how much a server may say before it
answers.
"""

from __future__ import annotations

import asyncio
import functools
import socket
import ssl
from collections.abc import Callable
from typing import Any

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult
from aiohttp.client_proto import ResponseHandler
from aiohttp.http_exceptions import HttpProcessingError

from fetcher.errors import ForbiddenError
from fetcher.net.door import KEPT_ALIVE_S, Door, Lane
from fetcher.net.guard import Barred, Lookup

HEADS_MAX = 32
"""Of one answer, those that only announce it (1xx) included; servers send one or two. aiohttp has no bound: it keeps
all that come, also where nobody waits for any."""
DNS_KEPT_S = 10
"""Addresses are used in turn meanwhile, so that many connections spread over all of them."""


def open_lane(
    lane: Lane, door: Door, lookup: Lookup, tls: ssl.SSLContext | bool, *, fresh: bool
) -> aiohttp.TCPConnector:
    """The connections of one lane; ``fresh`` ones are closed after their answer. Bound to the running event loop."""
    judged = lane.proxy is None and (lane.guarded or lane.bare_credential)
    judge = Judge(door, lane) if judged else None
    see = None if lane.guarded or lane.proxy is not None else functools.partial(door.see, scheme=lane.scheme)
    keep: dict[str, Any] = {"force_close": True} if fresh else {"keepalive_timeout": KEPT_ALIVE_S}
    connector = aiohttp.TCPConnector(
        limit=0,
        ssl=tls,
        resolver=Resolver(lookup, judge, see),
        ttl_dns_cache=DNS_KEPT_S,
        socket_factory=judge.socket if judge else None,
        **keep,
    )
    connector._factory = functools.partial(Bounded, loop=asyncio.get_running_loop())  # type: ignore[assignment]
    return connector


class Bounded(ResponseHandler):
    """aiohttp's side of a connection, less its patience with heads that follow each other for ever, and with a server
    that speaks without being asked: it would take that for the answer to the next request."""

    _heads = 0
    _body: Any = None
    """Of the answer under way, once its head is here."""

    def set_response_params(self, **options: Any) -> None:
        """A request goes out: from here heads are counted anew."""
        self._heads = 0
        self._body = None
        super().set_response_params(**options)

    @property
    def _answered(self) -> bool:
        return self._body is not None and bool(self._body.is_eof())

    def data_received(self, data: bytes) -> None:
        if not data or not self._answered:  # aiohttp calls with none to go on with what it has
            super().data_received(data)
        elif self.transport is not None:
            self.transport.abort()

    def feed_data(self, data: Any, size: int = 0) -> None:
        """A head has come."""
        if self._answered:  # it came together with the one that was asked for
            self.force_close()
            return
        self._heads += 1
        if data[0].code >= 200:
            self._body = data[1]
        if self._heads <= HEADS_MAX:
            super().feed_data(data, size)
        elif self._heads == HEADS_MAX + 1:
            self.set_exception(HttpProcessingError(message="heads without end"))
            if self.transport is not None:
                self.transport.abort()


class Judge:
    """The guard, for the connections of one lane."""

    def __init__(self, door: Door, lane: Lane) -> None:
        self._door = door
        self._lane = lane

    def check(self, host: str, addresses: list[str], port: int) -> None:
        self._door.judge(self._lane, host, addresses, port)

    def socket(self, info: tuple[Any, ...]) -> socket.socket:
        """A socket for the very address that is about to be connected to; the last belt."""
        family, kind, protocol, _, sockaddr = info
        ip, port = str(sockaddr[0]), int(sockaddr[1])
        try:
            self.check(ip, [ip], port)
        except ForbiddenError as error:
            raise Barred(error) from None
        return socket.socket(family=family, type=kind, proto=protocol)


class Resolver(AbstractResolver):
    """Name look-ups of a lane, each answer judged, or seen, as the lane asks for it."""

    def __init__(self, lookup: Lookup, judge: Judge | None, see: Callable[[str, list[str], int], None] | None) -> None:
        self._lookup = lookup
        self._judge = judge
        self._see = see

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        try:
            addresses = await self._lookup(host, port)
        except UnicodeError:  # a label that is empty or too long for a name
            raise OSError(f"{host[:80]!r} is not a host name") from None
        if not addresses:
            raise OSError("the name has no address")
        if self._judge is not None:
            self._judge.check(host, addresses, port)
        if self._see is not None:
            self._see(host, addresses, port)
        return [
            ResolveResult(
                hostname=host,
                host=ip,
                port=port,
                family=socket.AF_INET6 if ":" in ip else socket.AF_INET,
                proto=socket.IPPROTO_TCP,
                flags=socket.AI_NUMERICHOST | socket.AI_NUMERICSERV,
            )
            for ip in addresses
        ]

    async def close(self) -> None:
        """Nothing is kept."""
