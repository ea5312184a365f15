"""Sending a reply over a socket at the pace it asks for: cut at a byte, stalled, trickled, or as fast as it goes.

It owns the socket without an asyncio transport, because only so can it say exactly which bytes left, end a connection
by RST or by FIN, and send large bodies without copying them.
"""

from __future__ import annotations

import asyncio
import os
import socket
import struct
from collections.abc import Callable, Iterator
from itertools import count
from typing import NoReturn

from fetcher.testing.contents import BLOCK_BYTES
from fetcher.testing.messages import CutHow, Pace, Reply, Request, head_of

_SENDFILE_BYTES = 4 << 20
_TRICKLE_TICK_S = 0.02
_PLAIN = Pace()


class Closed(Exception):
    """The client has gone, or a reply asked for the connection to end. Caught where the connection is served."""


class Sender:
    """The sending half of one connection. Every method raises ``Closed`` or ``OSError`` when the connection is over."""

    def __init__(self, peer: socket.socket) -> None:
        self._socket = peer
        self._loop = asyncio.get_running_loop()

    async def send_reply(self, request: Request, reply: Reply) -> None:
        """Send head and body of ``reply`` to ``request``; its record is kept up to date."""
        reply.encode()
        try:
            await self._send_encoded(request, reply)
        finally:
            if reply.record is not None:
                reply.record.ended = True

    async def _send_encoded(self, request: Request, reply: Reply) -> None:
        pace, head = reply.pace, head_of(reply)
        if pace.endless_head:
            await self._send_endless_head(head)
        if pace.head_cut_after is not None:
            await self.send(head[: pace.head_cut_after])
            await self._end(pace.cut_how)
        start, stop = reply.span
        if request.method == "HEAD" or reply.content is None or start >= stop:
            await self.send(head)
            if reply.chunked and request.method != "HEAD":
                await self.send(b"0\r\n\r\n")  # an empty body has an end too
            if pace.cut_after is not None:
                await self._end(pace.cut_how)
        elif stop - start <= BLOCK_BYTES and pace == _PLAIN and not reply.chunked:
            # Head and small body in one segment: thousands of small files are the common case.
            body = b"".join(_patched(reply, start, stop))
            _count(reply, len(body))
            await self.send(head + body)
        else:
            await self.send(head)
            await self._send_body(reply)

    async def _send_body(self, reply: Reply) -> None:
        """Send the body in stretches that end where the pace wants something to happen."""
        assert reply.content is not None
        start, stop = reply.span
        pace = reply.pace
        stalls = [] if pace.stall_after is None else [pace.stall_after]
        cuts = [] if pace.cut_after is None else [pace.cut_after]
        position = start
        for mark in sorted({min(start + mark, stop) for mark in (*stalls, *cuts)} | {stop}):
            if pace.bytes_per_s is not None:
                await self._send_slowly(reply, position, mark, pace.bytes_per_s)
            elif reply.content.file is not None and not reply.patches and not reply.chunked and hasattr(os, "sendfile"):
                await self._send_from_file(reply, position, mark)
            else:
                for view in _patched(reply, position, mark):
                    await self._send_piece(reply, view)
                    await asyncio.sleep(0)  # a client as fast as we are would otherwise keep the loop to itself
            position = mark
            if pace.stall_after is not None and position == min(start + pace.stall_after, stop):
                await self._stall(pace.stall_s)
            if pace.cut_after is not None and position == min(start + pace.cut_after, stop):
                await self._end(pace.cut_how)
        if reply.chunked:
            await self.send(b"0\r\n\r\n")

    async def _send_piece(self, reply: Reply, piece: bytes | memoryview) -> None:
        if reply.chunked:
            await self.send(b"%x\r\n" % len(piece))
        await self.send(piece, reply)
        if reply.chunked:
            await self.send(b"\r\n")

    async def _send_slowly(self, reply: Reply, start: int, stop: int, bytes_per_s: float) -> None:
        began, position = self._loop.time(), start
        while position < stop:
            length = min(max(1, int(bytes_per_s * _TRICKLE_TICK_S)), stop - position)
            for view in _patched(reply, position, position + length):
                await self._send_piece(reply, view)
            position += length
            await self._stall(began + (position - start) / bytes_per_s - self._loop.time())

    async def _send_from_file(self, reply: Reply, start: int, stop: int) -> None:
        assert reply.content is not None and reply.content.file is not None
        with reply.content.file.open("rb", buffering=0) as file:
            while start < stop:
                length, sent = min(_SENDFILE_BYTES, stop - start), 0
                _count(reply, length)
                try:
                    sent = os.sendfile(self._socket.fileno(), file.fileno(), start, length)
                except BlockingIOError:
                    await self._writable()
                    continue
                finally:
                    _count(reply, sent - length)
                if sent == 0:
                    raise EOFError(f"{reply.content.file} became shorter than {stop} bytes while it was served")
                start += sent
                await asyncio.sleep(0)

    async def send(self, data: bytes | memoryview, reply: Reply | None = None) -> None:
        """Hand all of ``data`` to the kernel, counting it as body of ``reply``."""
        view = memoryview(data)
        # Counted first, and what did not leave taken back: whoever has received a byte must find it counted.
        _count(reply, len(view))
        try:
            while view:
                try:
                    view = view[self._socket.send(view) :]
                except BlockingIOError:
                    await self._writable()
        finally:
            _count(reply, -len(view))

    async def _send_endless_head(self, head: bytes) -> None:
        await self.send(head[:-2])
        for number in count():
            await self.send(b"".join(b"X-More-%d: %s\r\n" % (number * 64 + line, b"m" * 200) for line in range(64)))
            await asyncio.sleep(0)

    # Waiting and ending

    async def _writable(self) -> None:
        await self._ready(self._loop.add_writer, self._loop.remove_writer, float("inf"))

    async def _stall(self, seconds: float) -> None:
        """Send nothing for a time. Ends early, with ``Closed``, when the client hangs up."""
        deadline = self._loop.time() + seconds
        while (left := deadline - self._loop.time()) > 0:
            if not await self._ready(self._loop.add_reader, self._loop.remove_reader, left):
                return
            try:
                if not self._socket.recv(1, socket.MSG_PEEK):
                    raise Closed
            except BlockingIOError:
                continue
            await asyncio.sleep(min(left, 0.05))  # a pipelined request waits: look again later

    async def _ready(self, add: Callable[..., object], remove: Callable[[int], object], timeout_s: float) -> bool:
        """Wait until the socket can be read or written; return False when that took ``timeout_s``."""
        ready: asyncio.Future[None] = self._loop.create_future()
        descriptor = self._socket.fileno()
        add(descriptor, lambda: None if ready.done() else ready.set_result(None))
        try:
            if timeout_s == float("inf"):
                await ready
                return True
            done, _ = await asyncio.wait((ready,), timeout=timeout_s)
            return bool(done)
        finally:
            remove(descriptor)

    async def _end(self, how: CutHow) -> NoReturn:
        """End the connection in the middle of a reply, after what was sent has left."""
        if how == "rst":
            # A reset discards what the kernel has not delivered yet; the point of the cut must be exact.
            deadline = self._loop.time() + 5.0
            while _unsent_bytes(self._socket) and self._loop.time() < deadline:  # noqa: ASYNC110  # the kernel tells nobody
                await asyncio.sleep(0.002)
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        raise Closed


def _count(reply: Reply | None, length: int) -> None:
    if reply is not None and reply.record is not None:
        reply.record.body_bytes += length


def _patched(reply: Reply, start: int, stop: int) -> Iterator[bytes | memoryview]:
    """Yield ``[start, stop)`` of the reply's content with its patches applied."""
    assert reply.content is not None
    for view in reply.content.views(start, stop):
        hits = [offset for offset in reply.patches if start <= offset < start + len(view)]
        if hits:
            changed = bytearray(view)
            for offset in hits:
                changed[offset - start] ^= reply.patches[offset]
            yield bytes(changed)
        else:
            yield view
        start += len(view)


def _unsent_bytes(peer: socket.socket) -> int:
    """Return how many bytes the peer's kernel has not acknowledged; 0 where the system cannot tell."""
    try:
        import fcntl
        import termios

        return int(struct.unpack("i", fcntl.ioctl(peer.fileno(), termios.TIOCOUTQ, b"\0" * 4))[0])
    except (ImportError, OSError):
        return 0
