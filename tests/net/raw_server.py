"""A server on a real socket that says exactly what it is told, byte for byte, and knows what was said to it."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

Reply = Callable[["Connection"], Awaitable[None]]


@dataclass
class Connection:
    """One accepted connection."""

    number: int
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    async def head(self) -> bytes:
        """The next request head, up to and with the empty line; empty if the client is gone."""
        try:
            return await self.reader.readuntil(b"\r\n\r\n")
        except (asyncio.IncompleteReadError, ConnectionError):
            return b""

    async def say(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    def reset(self) -> None:
        """Close with RST instead of FIN."""
        raw = self.writer.get_extra_info("socket")
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.writer.transport.abort()

    async def stall(self) -> None:
        await asyncio.sleep(3600)


@dataclass
class RawServer:
    """Its address, and the heads of all requests so far."""

    port: int = 0
    scheme: str = "http"
    heads: list[bytes] = field(default_factory=list)
    connections: int = 0

    @property
    def origin(self) -> str:
        return f"{self.scheme}://127.0.0.1:{self.port}"

    def head_lines(self, index: int = -1) -> list[str]:
        return self.heads[index].decode("latin-1").split("\r\n")

    def header(self, name: str, index: int = -1) -> str | None:
        for line in self.head_lines(index)[1:]:
            key, _, value = line.partition(":")
            if key.lower() == name.lower():
                return value.strip()
        return None


@asynccontextmanager
async def serving(*replies: Reply, tls: ssl.SSLContext | None = None) -> AsyncIterator[RawServer]:
    """Answer the n-th request, counted over all connections, with the n-th reply, and all later ones with the last."""
    server = RawServer(scheme="https" if tls else "http")
    tasks: set[asyncio.Task[None]] = set()

    async def attend(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        tasks.add(task)
        connection = Connection(server.connections, reader, writer)
        server.connections += 1
        try:
            while head := await connection.head():
                server.heads.append(head)
                await replies[min(len(server.heads), len(replies)) - 1](connection)
                if writer.is_closing():
                    break
        except (ConnectionError, asyncio.CancelledError):
            pass
        finally:
            tasks.discard(task)
            writer.close()
            with contextlib.suppress(OSError, ssl.SSLError):
                await writer.wait_closed()

    listener = await asyncio.start_server(attend, "127.0.0.1", 0, ssl=tls)
    server.port = listener.sockets[0].getsockname()[1]
    try:
        yield server
    finally:
        listener.close()
        for task in tuple(tasks):
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await listener.wait_closed()


def bytes_reply(data: bytes, *, then: str = "keep") -> Reply:
    """Say ``data``; ``then``: keep the connection, close it (``fin``), reset it (``rst``), or say nothing more
    (``stall``)."""

    async def reply(connection: Connection) -> None:
        if data:
            await connection.say(data)
        if then == "fin":
            connection.writer.close()
        elif then == "rst":
            await asyncio.sleep(0.02)  # what was said must arrive first: a RST overtakes it
            connection.reset()
        elif then == "stall":
            await connection.stall()

    return reply


def body_reply(body: bytes, *headers: str, status: str = "200 OK", then: str = "keep") -> Reply:
    """A proper answer with ``body``."""
    lines = [f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", *headers, "", ""]
    return bytes_reply("\r\n".join(lines).encode("utf-8") + body, then=then)
