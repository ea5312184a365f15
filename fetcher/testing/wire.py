"""A small HTTP/1.1 server: it reads requests, hands them to a handler and sends the reply, broken as the reply says.

Requests reach the handler as they came, byte for byte. It knows nothing of the Hub, of files or of which fault is due.
"""

from __future__ import annotations

import asyncio
import errno
import socket
from collections.abc import Awaitable, Callable
from itertools import count
from typing import NoReturn

from fetcher.testing.messages import Reply, Request, head_of
from fetcher.testing.sending import Closed, Sender

_HEAD_BYTES_MAX = 64 << 10
_REQUEST_BODY_BYTES_MAX = 16 << 20
_TLS_HANDSHAKE = 0x16

Handler = Callable[[Request], Awaitable[Reply]]


class Listener:
    """An HTTP server on one address. ``start`` once, ``close`` once; both on the same event loop."""

    def __init__(self, handler: Handler, host: str = "127.0.0.1", port: int = 0) -> None:
        self._handler = handler
        self._socket = socket.create_server((host, port), backlog=4096)
        self._socket.setblocking(False)
        self._tasks: set[asyncio.Task[None]] = set()
        self._numbers = count()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._again: asyncio.TimerHandle | None = None
        """When to accept again, out of descriptors."""

    @property
    def origin(self) -> str:
        """Scheme, host and port, as in ``http://127.0.0.1:40001``."""
        host, port = self._socket.getsockname()[:2]
        return f"http://{host}:{port}"

    def start(self) -> None:
        """Begin to accept connections."""
        self._loop = asyncio.get_running_loop()
        # Not a task: one that is cancelled between the kernel's accept and its own next step loses the connection.
        self._loop.add_reader(self._socket, self._accept, self._loop)

    async def close(self) -> None:
        """Stop accepting, end every connection and wait until they are gone."""
        if self._loop is not None:
            self._loop.remove_reader(self._socket)
        if self._again is not None:
            self._again.cancel()
        tasks = [*self._tasks]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._socket.close()

    def _accept(self, loop: asyncio.AbstractEventLoop) -> None:
        try:
            peer, address = self._socket.accept()
        except (BlockingIOError, InterruptedError):
            return
        except OSError as error:
            if error.errno not in (errno.EMFILE, errno.ENFILE, errno.ECONNABORTED):
                raise
            # Out of descriptors: the client waits in the backlog meanwhile.
            loop.remove_reader(self._socket)
            self._again = loop.call_later(0.05, loop.add_reader, self._socket, self._accept, loop)
            return
        connection = _Connection(peer, address[0], next(self._numbers), self._handler)
        task = loop.create_task(connection.serve())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        # Not by the task itself: of one that is cancelled before its first step nothing runs, not even a `finally`.
        task.add_done_callback(lambda _: peer.close())


class _Connection:
    """One accepted socket, from its first request to its end."""

    def __init__(self, peer: socket.socket, address: str, number: int, handler: Handler) -> None:
        peer.setblocking(False)
        peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._socket = peer
        self._address = address
        self._number = number
        self._handler = handler
        self._loop = asyncio.get_running_loop()
        self._sender = Sender(peer)
        self._received = bytearray()

    async def serve(self) -> None:
        try:
            while True:
                request = await self._receive_request()
                reply = await self._handler(request)
                await self._sender.send_reply(request, reply)
                if request.headers.get("connection", "").lower() == "close" or reply.pace.hang_up:
                    break
        except (Closed, ConnectionError, EOFError):
            pass

    # Receiving

    async def _receive_request(self) -> Request:
        while (end := self._received.find(b"\r\n\r\n")) < 0 and len(self._received) <= _HEAD_BYTES_MAX:
            await self._receive_more()
            # Container engines try TLS first: whoever says nothing to that keeps them waiting for ten seconds.
            if self._received[0] == _TLS_HANDSHAKE:
                await self._refuse(400)
        if not 0 <= end <= _HEAD_BYTES_MAX:
            await self._refuse(431)
        lines = self._received[:end].decode("latin-1").split("\r\n")
        del self._received[: end + 4]
        words = lines[0].split(" ")
        if len(words) != 3 or not words[2].startswith("HTTP/1.") or not words[1].startswith("/"):
            await self._refuse(400)
        headers: dict[str, str] = {}
        for line in lines[1:]:
            name, colon, value = line.partition(":")
            if not colon or name != name.strip():
                await self._refuse(400)
            name, value = name.lower(), value.strip()
            # Container engines send each type they take in an Accept line of its own.
            headers[name] = f"{headers[name]}, {value}" if name == "accept" and name in headers else value
        if "host" not in headers:
            await self._refuse(400)
        if words[2] == "HTTP/1.0":
            headers.setdefault("connection", "close")
        return Request(words[0], words[1], headers, await self._receive_body(headers), self._address, self._number)

    async def _receive_body(self, headers: dict[str, str]) -> bytes:
        if "transfer-encoding" in headers:
            await self._refuse(411)
        length = headers.get("content-length", "0")
        if not length.isdecimal():
            await self._refuse(400)
        if int(length) > _REQUEST_BODY_BYTES_MAX:
            await self._refuse(413)
        if headers.get("expect", "").lower() == "100-continue":
            await self._sender.send(b"HTTP/1.1 100 Continue\r\n\r\n")
        while len(self._received) < int(length):
            await self._receive_more()
        body = bytes(self._received[: int(length)])
        del self._received[: int(length)]
        return body

    async def _receive_more(self) -> None:
        data = await self._loop.sock_recv(self._socket, 64 << 10)
        if not data:
            raise Closed
        self._received += data

    async def _refuse(self, status: int) -> NoReturn:
        await self._sender.send(head_of(Reply(status, {"Connection": "close"})))
        raise Closed
