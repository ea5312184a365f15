"""A real forward proxy on loopback: CONNECT tunnels and absolute-form requests. It knows what it was asked.

Names need no DNS: ``routes`` says where ``host:port`` really is, else it is taken for an address. ``fronting``
puts TLS in front of an origin that speaks plain http, so that a tunnel leads somewhere.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import ssl
import threading
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from tests.net.wiring import CERTIFICATE

ORIGIN = "origin.test"
"""The name that the certificate of these tests is for."""


@dataclass
class ForwardProxy:
    """Its address, and what has reached it so far."""

    routes: Mapping[str, tuple[str, int]] = field(default_factory=dict)
    login: str | None = None
    """``user:password`` that it wants."""
    answers: int | None = None
    """Instead of passing anything on."""
    scheme: str = "http"
    port: int = 0
    connections: int = 0
    heads: list[str] = field(default_factory=list)
    """All heads that it was sent itself; not what went through its tunnels."""

    @property
    def url(self) -> str:
        return f"{self.scheme}://127.0.0.1:{self.port}"

    @property
    def targets(self) -> list[str]:
        """``CONNECT host:port`` and ``GET http://host/…``, without queries, in order of arrival."""
        return [head.split(" HTTP/")[0].partition("?")[0] for head in self.heads]

    async def attend(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        self.heads.append(head)
        method, target, _ = head.split(" ", 2)
        lines = head.split("\r\n")[1:-2]
        if self.answers is not None:
            await _say(writer, self.answers)
        elif self.login is not None and _header(lines, "Proxy-Authorization") != _basic(self.login):
            await _say(writer, 407)
        elif method == "CONNECT":
            await self._tunnel(target, reader, writer)
        else:
            await self._pass_on(method, target, lines, reader, writer)

    def _route(self, place: str) -> tuple[str, int]:
        host, _, port = place.rpartition(":")
        return self.routes.get(place) or (host.strip("[]"), int(port))

    async def _tunnel(self, target: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            there = await asyncio.open_connection(*self._route(target))
        except OSError:
            return await _say(writer, 502)
        writer.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
        await _relay((reader, writer), there)

    async def _pass_on(
        self, method: str, target: str, lines: list[str], reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        parts = urlsplit(target)
        assert parts.scheme == "http", "https is for tunnels"
        try:
            there = await asyncio.open_connection(*self._route(f"{parts.hostname}:{parts.port or 80}"))
        except OSError:
            return await _say(writer, 502)
        path = target.partition("://")[2].partition("/")[2]
        kept = [line for line in lines if not line.lower().startswith(("proxy-", "connection:"))]
        there[1].write(
            "\r\n".join([f"{method} /{path} HTTP/1.1", *kept, "Connection: close", "", ""]).encode("latin-1")
        )
        # One request per connection, or the next one would pass unread.
        answer = (await there[0].readuntil(b"\r\n\r\n")).split(b"\r\n")[:-2]
        kept_of_it = [line for line in answer if not line.lower().startswith(b"connection:")]
        writer.write(b"\r\n".join([*kept_of_it, b"Connection: close", b"", b""]))
        await _relay((reader, writer), there)


Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]


async def _say(writer: asyncio.StreamWriter, status: int) -> None:
    writer.write(f"HTTP/1.1 {status} Said the proxy\r\nContent-Length: 0\r\nConnection: close\r\n\r\n".encode())
    await writer.drain()


async def _relay(here: Streams, there: Streams) -> None:
    async def pump(source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while piece := await source.read(65_536):
                target.write(piece)
                await target.drain()

    ways = [asyncio.ensure_future(pump(here[0], there[1])), asyncio.ensure_future(pump(there[0], here[1]))]
    try:
        await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
    finally:
        there[1].transport.abort()
        for way in ways:
            way.cancel()
        await asyncio.gather(*ways, return_exceptions=True)


def _header(lines: list[str], name: str) -> str | None:
    found = (line.partition(":")[2].strip() for line in lines if line.partition(":")[0].lower() == name.lower())
    return next(found, None)


def _basic(login: str) -> str:
    return f"Basic {base64.b64encode(login.encode()).decode()}"


@asynccontextmanager
async def _listening(attend: object, tls: ssl.SSLContext | None) -> AsyncIterator[int]:
    tasks: set[asyncio.Task[None]] = set()

    async def one(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        tasks.add(task)
        try:
            await attend(reader, writer)  # type: ignore[operator]
        except (OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass
        finally:
            tasks.discard(task)
            writer.transport.abort()
            with contextlib.suppress(OSError, ssl.SSLError, asyncio.CancelledError):
                await writer.wait_closed()

    listener = await asyncio.start_server(one, "127.0.0.1", 0, ssl=tls)
    try:
        yield listener.sockets[0].getsockname()[1]
    finally:
        listener.close()
        for task in tuple(tasks):
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await listener.wait_closed()


def server_context() -> ssl.SSLContext:
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    made.load_cert_chain(CERTIFICATE)
    return made


@asynccontextmanager
async def forwarding(*, tls: bool = False, **fields: object) -> AsyncIterator[ForwardProxy]:
    """A proxy in this loop. ``tls``: it is spoken to over TLS itself."""
    proxy = ForwardProxy(scheme="https" if tls else "http", **fields)  # type: ignore[arg-type]
    async with _listening(proxy.attend, server_context() if tls else None) as proxy.port:
        yield proxy


@asynccontextmanager
async def fronting(port: int) -> AsyncIterator[int]:
    """The port of a TLS front for the plain http origin at ``port``."""

    async def attend(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await _relay((reader, writer), await asyncio.open_connection("127.0.0.1", port))

    async with _listening(attend, server_context()) as front:
        yield front


@contextmanager
def _in_thread(manager: AbstractAsyncContextManager[object]) -> Iterator[object]:
    """What ``manager`` gives, alive in the loop of a thread until the block is left."""
    ready = threading.Event()
    given: list[object] = []
    ends: list[tuple[asyncio.AbstractEventLoop, asyncio.Event]] = []

    async def main() -> None:
        end = asyncio.Event()
        async with manager as value:
            given.append(value)
            ends.append((asyncio.get_running_loop(), end))
            ready.set()
            await end.wait()

    def run() -> None:
        try:
            asyncio.run(main())
        finally:
            ready.set()

    thread = threading.Thread(target=run, name="forward proxy")
    thread.start()
    try:
        assert ready.wait(10) and given, "it did not start"
        yield given[0]
    finally:
        for loop, end in ends:
            loop.call_soon_threadsafe(end.set)
        thread.join(10)


@contextmanager
def proxy_in_thread(**fields: object) -> Iterator[ForwardProxy]:
    with _in_thread(forwarding(**fields)) as proxy:  # type: ignore[arg-type]
        assert isinstance(proxy, ForwardProxy)
        yield proxy


@contextmanager
def front_in_thread(port: int) -> Iterator[int]:
    with _in_thread(fronting(port)) as front:
        assert isinstance(front, int)
        yield front
