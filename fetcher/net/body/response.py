"""An answer under way, on a connection of ours. Hands the body on as it comes; decodes and judges nothing."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from fetcher.errors import TransportError
from fetcher.net.answer import DRAIN_BYTES_MAX, DRAIN_TIME_MAX_S, Answer, joined
from fetcher.net.body.connection import Connection
from fetcher.net.body.head import Head, MisframedError
from fetcher.net.body.wire import CutError, SilentError
from fetcher.net.request import display_url
from fetcher.net.transport import Receiver


class BodyResponse(Answer):
    """See ``transport.Response``."""

    __slots__ = ("_connection", "_give_back", "_head", "_idle_timeout_s", "_over")

    def __init__(
        self,
        connection: Connection,
        head: Head,
        url: str,
        idle_timeout_s: float,
        give_back: Callable[[Connection], None] | None,
    ) -> None:
        """``give_back``: takes the connection once it may be asked again; None: it is closed then."""
        super().__init__(url, joined(head.fields) if head.repeats else head.fields)
        self._connection = connection
        self._head = head
        self._idle_timeout_s = idle_timeout_s
        self._give_back = give_back
        self._over = False

    def __repr__(self) -> str:
        return f"<BodyResponse {self.status} {display_url(self._url)}, {self._connection!r}>"

    @property
    def status(self) -> int:
        return self._head.status

    @property
    def content_length(self) -> int | None:
        return self._head.stated_length

    async def read_some(self, limit: int) -> bytes | memoryview:
        if self._rest is not None:
            return self._take(self._rest, limit)
        if self._over:
            raise self._closed()
        try:
            piece = await self._connection.read()
        except (CutError, SilentError, MisframedError) as error:
            raise self._failed(error) from None
        return piece if len(piece) <= limit else self._take(memoryview(piece), limit)

    async def receive(self, receiver: Receiver) -> None:
        if self._over:
            raise self._closed()
        if self._rest is not None:
            raise AssertionError("a body is read in pieces or received, not both")
        try:
            await self._connection.receive(receiver)
        except (CutError, SilentError, MisframedError) as error:
            raise self._failed(error) from None

    def resume(self) -> None:
        if not self._over:
            self._connection.resume()

    def _failed(self, error: CutError | SilentError | MisframedError) -> TransportError:
        """Our error for what ended the body."""
        where = display_url(self._url)
        if isinstance(error, SilentError):
            return TransportError(f"{where}: no answer within {self._idle_timeout_s:g} s")
        if isinstance(error, MisframedError):
            return TransportError(f"{where}: the answer is not proper HTTP")
        return self._closed()

    def _closed(self) -> TransportError:
        length = self.content_length
        of = f" of {length}" if length is not None else ""
        return TransportError(
            f"{display_url(self._url)}: connection closed after {self._connection.received}{of} bytes"
        )

    async def release(self) -> None:
        if self._over:
            return
        connection = self._connection
        self._rest = None
        if not connection.ended:
            length = self.content_length
            left = None if length is None else length - connection.received
            if left is None or left > DRAIN_BYTES_MAX:
                self.abort()
                return
            try:
                async with asyncio.timeout(DRAIN_TIME_MAX_S):
                    while await connection.read():
                        pass
            except asyncio.CancelledError:
                self.abort()
                raise
            except (CutError, SilentError, MisframedError, TimeoutError):  # it costs this connection and nothing else
                self.abort()
                return
        self._over = True
        if connection.settle() and self._give_back is not None:
            self._give_back(connection)
        else:
            connection.abort()

    def abort(self) -> None:
        if not self._over:
            self._over = True
            self._connection.abort()
