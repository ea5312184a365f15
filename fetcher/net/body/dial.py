"""New connections to where the guard lets a lane go: look-ups, addresses in turn, sockets, TLS.

All addresses of a name are judged, then the very address of the socket, as ``guard`` asks for. They are used in turn,
so that many connections spread over all machines behind a name; where one does not answer the next is tried beside it
(RFC 8305, through aiohappyeyeballs).
"""

from __future__ import annotations

import asyncio
import socket
import ssl
import time
from collections.abc import Callable
from typing import Any

import aiohappyeyeballs

from fetcher.errors import ForbiddenError, TransportError
from fetcher.net.body.connection import Connection
from fetcher.net.door import Door, Lane
from fetcher.net.guard import Barred, Lookup
from fetcher.net.request import Address

DNS_KEPT_S = 10.0
TURNS_MAX = 4096
"""Names whose turn is known; the one that was asked longest ago goes first, and begins anew."""
NEXT_ADDRESS_AFTER_S = 0.25
"""RFC 8305, 8: "Connection Attempt Delay"."""

AddressInfo = tuple[int, int, int, str, tuple[Any, ...]]


class Addresses:
    """What names lead to, for some seconds; everybody who asks meanwhile waits for the same look-up."""

    def __init__(self, lookup: Lookup, door: Door) -> None:
        self._lookup = lookup
        self._door = door
        self._found: dict[tuple[Lane, str, int], tuple[float, list[str]]] = {}
        self._asking: dict[tuple[Lane, str, int], asyncio.Task[list[str]]] = {}
        self._turns: dict[tuple[Lane, str, int], int] = {}
        """Calls so far, over all look-ups: who asks anew because a machine has stalled wants another."""

    async def of(self, lane: Lane, address: Address, *, anew: bool) -> list[str]:
        """Addresses to try, in turn: each call begins with another one. ``anew``: as the name says now.

        Raises ForbiddenError for a name that leads where the lane may not go, socket.gaierror, TransportError once it
        is closed.
        """
        key = (lane, address.host, address.port)
        now = time.monotonic()
        ends_at, found = self._found.get(key, (0.0, []))
        if anew or now >= ends_at:
            asking = self._asking.get(key)
            if asking is None:
                asking = self._asking[key] = asyncio.create_task(self._ask(lane, address))
                asking.add_done_callback(lambda task: self._asked(key, task))
            await asyncio.wait([asking])
            if asking.cancelled():
                raise TransportError("the transport is closed")
            found = asking.result()
            self._found = {each: kept for each, kept in self._found.items() if kept[0] > now}
            self._found[key] = (now + DNS_KEPT_S, found)
        turn = self._turns.pop(key, 0)
        self._turns[key] = turn + 1
        if len(self._turns) > TURNS_MAX:  # jobs name hosts at will
            del self._turns[next(iter(self._turns))]
        first = turn % len(found)
        return found[first:] + found[:first]

    def _asked(self, key: tuple[Lane, str, int], task: asyncio.Task[list[str]]) -> None:
        self._asking.pop(key, None)
        if not task.cancelled():
            task.exception()  # seen: whoever asked may be gone

    async def _ask(self, lane: Lane, address: Address) -> list[str]:
        try:
            addresses = await self._lookup(address.host, address.port)
        except UnicodeError:  # a label that is empty or too long for a name
            raise socket.gaierror(f"{address.host[:80]!r} is not a host name") from None
        except OSError as error:
            raise socket.gaierror(*error.args) from None
        if not addresses:
            raise socket.gaierror("the name has no address")
        self._door.judge(lane, address.host, addresses, address.port)
        if not lane.guarded:
            self._door.see(address.host, addresses, address.port, lane.scheme)
        return list(addresses)

    async def close(self) -> None:
        """End the look-ups under way."""
        for task in tuple(self._asking.values()):
            task.cancel()
        await asyncio.gather(*self._asking.values(), return_exceptions=True)


async def connect(
    lane: Lane, address: Address, addresses: list[str], door: Door, tls: Callable[[], ssl.SSLContext]
) -> Connection:
    """A new connection to one of ``addresses``. Raises OSError (``Barred`` for what the guard refuses), ssl.SSLError,
    TimeoutError."""
    loop = asyncio.get_running_loop()

    def open_socket(info: Any) -> socket.socket:
        family, kind, protocol, _, sockaddr = info
        ip, port = str(sockaddr[0]), int(sockaddr[1])
        try:
            door.judge(lane, ip, [ip], port)
        except ForbiddenError as error:
            raise Barred(error) from None
        return socket.socket(family=family, type=kind, proto=protocol)

    infos = [_info(ip, address.port) for ip in addresses]
    connected = await aiohappyeyeballs.start_connection(
        infos, happy_eyeballs_delay=NEXT_ADDRESS_AFTER_S, interleave=1, loop=loop, socket_factory=open_socket
    )
    made: list[Connection] = []

    def make() -> Connection:
        made.append(Connection(loop))
        return made[0]

    try:
        connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        secure: dict[str, Any] = {}
        if lane.scheme == "https":
            secure = {"ssl": tls(), "server_hostname": address.host.removesuffix(".")}
        _, connection = await loop.create_connection(make, sock=connected, **secure)
    except BaseException:
        if (
            not made
        ):  # else the loop has taken it, and closes it: a descriptor closed beside that may be another's by then
            connected.close()
        raise
    return connection


def _info(ip: str, port: int) -> AddressInfo:
    if ":" in ip:
        return (socket.AF_INET6, socket.SOCK_STREAM, socket.IPPROTO_TCP, "", (ip, port, 0, 0))
    return (socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP, "", (ip, port))
