"""What every embedded origin does besides its protocol: life, log, and the questions a test asks of it.

Subclasses open their listeners and make the replies. The module knows nothing of any protocol.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from types import TracebackType
from typing import TypeVar

from fetcher.testing.faultplan import Exchange, FaultPlan
from fetcher.testing.messages import Reply, Request
from fetcher.testing.records import PLACES, RequestLog, RequestRecord
from fetcher.testing.wire import Listener

_ItselfT = TypeVar("_ItselfT", bound="Origin")


class Origin:
    """Base of embedded origins: an async context manager with a log of requests and a plan of faults."""

    secret_headers: frozenset[str] = frozenset({"authorization"})
    """Lower-case names of headers that no record may hold."""

    def __init__(self, faults: FaultPlan | None) -> None:
        self.faults = faults if faults is not None else FaultPlan()
        self.requests = RequestLog()
        """Every request to any listener, in order of arrival."""
        self.failures: list[Exception] = []
        """Exceptions of the origin itself or of callbacks; the request got a 500. Raised again when it is left."""
        self._numbers = count()
        self._open: dict[int, RequestRecord] = {}
        self._listeners: list[Listener] = []
        self._loop: asyncio.AbstractEventLoop | None = None

    # Life

    def _open_listeners(self) -> None:
        """Append to ``_listeners`` what has to be there before the first request."""
        raise NotImplementedError

    async def start(self) -> None:
        """Open the listeners. Called by ``async with``."""
        self._open_listeners()
        self._loop = asyncio.get_running_loop()
        for listener in self._listeners:
            listener.start()

    def _add_listener(self, listener: Listener) -> None:
        """Let one more listener live and die with the origin; from any thread."""
        self._listeners.append(listener)
        if self._loop is not None:
            self._loop.call_soon_threadsafe(listener.start)

    async def close(self) -> None:
        """Close every listener and every connection. Called by ``async with``."""
        self._loop = None
        for listener in self._listeners:
            await listener.close()

    async def __aenter__(self: _ItselfT) -> _ItselfT:
        try:
            await self.start()
        except OSError:  # one of the addresses is taken: let go of the others
            await self.close()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()
        if error is None and self.failures:
            raise self.failures[0]

    # Questions for tests

    def count(self, place: str = "*", *, path: str = "*", method: str | None = None, status: int | None = None) -> int:
        """Return how many requests came to ``place`` (a group or route of ``records.PLACES``)."""
        return len(self.requests.select(place, path=path, method=method, status=status))

    def body_bytes_sent(self, path: str = "*") -> int:
        """Return how many bytes of contents whose path matches the glob ``path`` were sent, repeats included."""
        return self.requests.body_bytes(path)

    def open_bodies(self, route: str) -> int:
        """Return how many bodies are under way at ``route`` right now."""
        for number in [number for number, record in self._open.items() if record.ended]:
            del self._open[number]
        return sum(1 for record in self._open.values() if record.route == route)

    # For subclasses

    def _record(self, request: Request, route: str, *, credentials: bool) -> RequestRecord:
        headers = {name: value for name, value in request.headers.items() if name not in self.secret_headers}
        record = RequestRecord(
            next(self._numbers),
            time.time(),
            request.connection,
            request.method,
            request.target,
            headers,
            credentials,
            route=route,
        )
        self.requests.append(record)
        return record

    def _finish(self, exchange: Exchange, reply: Reply) -> Reply:
        """Let the late faults act and note in the record what will be sent."""
        self.faults.after(exchange, reply)
        self._encode(exchange, reply)
        record = exchange.record
        headless = reply.pace.head_cut_after is not None or reply.pace.endless_head
        record.status = None if headless else reply.status
        record.span = reply.span if reply.content is not None and reply.status in (200, 206) else None
        record.body_bytes_due = 0 if record.method == "HEAD" else reply.span[1] - reply.span[0]
        if record.span is not None and record.method == "GET" and record.route in PLACES["bodies"]:
            self._open[record.number] = record
        reply.record = record
        return reply

    def _encode(self, exchange: Exchange, reply: Reply) -> None:
        """Make the reply's content the bytes that go out. A subclass with a front end lets it act here."""
        reply.encode()


OriginT = TypeVar("OriginT", bound=Origin)


@contextmanager
def in_thread(origin: OriginT) -> Iterator[OriginT]:
    """Run an origin, not started yet, on a loop of its own in a thread until the block is left.

    Then sockets and thread are gone, and an exception of the origin itself is raised.
    """
    loop = asyncio.new_event_loop()
    try:
        loop.run_until_complete(origin.__aenter__())
        thread = threading.Thread(target=loop.run_forever, name="embedded-origin", daemon=True)
        thread.start()
        try:
            yield origin
        finally:
            loop.call_soon_threadsafe(loop.stop)
            thread.join()
            loop.run_until_complete(origin.close())
    finally:
        loop.close()
    if origin.failures:
        raise origin.failures[0]
