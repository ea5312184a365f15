"""An answer under way, on a connection of ours. Hands the body on as it comes; decodes and judges nothing."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping

from fetcher.errors import ForbiddenError, TransportError
from fetcher.net.body.connection import Connection, CutError, SilentError
from fetcher.net.body.head import Head, MisframedError, joined
from fetcher.net.request import display_url
from fetcher.net.transport import Receiver

DRAIN_BYTES_MAX = 64 << 10
"""An unread rest up to this (the text of a redirect) is read and thrown away: cheaper than a new TLS connection."""
DRAIN_TIME_MAX_S = 1.0


class BodyResponse:
    """See ``transport.Response``."""

    __slots__ = ("_connection", "_give_back", "_head", "_headers", "_idle_timeout_s", "_over", "_rest", "_url")

    def __init__(
        self, connection: Connection, head: Head, url: str, idle_timeout_s: float, give_back: Callable[[], None] | None
    ) -> None:
        """``give_back``: takes the connection once it may be asked again; None: it is closed then."""
        self._connection = connection
        self._head = head
        self._headers: Mapping[str, str] = joined(head)
        self._url = url
        self._idle_timeout_s = idle_timeout_s
        self._give_back = give_back
        self._rest: memoryview | None = None
        self._over = False

    def __repr__(self) -> str:
        return f"<BodyResponse {self.status} {display_url(self._url)}, {self._connection!r}>"

    @property
    def status(self) -> int:
        return self._head.status

    @property
    def url(self) -> str:
        return self._url

    @property
    def headers(self) -> Mapping[str, str]:
        return self._headers

    @property
    def content_length(self) -> int | None:
        value = self._headers.get("Content-Length", "")
        return int(value) if value.isascii() and value.isdigit() and len(value) < 20 else None

    @property
    def content_encoding(self) -> str | None:
        value = self._headers.get("Content-Encoding")
        return None if value is None else value.strip().lower()

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

    def _take(self, piece: memoryview, limit: int) -> memoryview:
        self._rest = piece[limit:] if len(piece) > limit else None
        return piece[:limit]

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

    async def read_all(self, bytes_max: int) -> bytes:
        length = self.content_length
        pieces: list[bytes | memoryview] = []
        total = 0
        while length is None or length <= bytes_max:
            piece = await self.read_some(bytes_max + 1)
            if not piece:
                return b"".join(pieces)
            total += len(piece)
            if total > bytes_max:
                break
            pieces.append(piece)
        self.abort()
        raise ForbiddenError(f"{display_url(self._url)}: the answer is longer than {bytes_max} bytes")

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
            self._give_back()
        else:
            connection.abort()

    def abort(self) -> None:
        if not self._over:
            self._over = True
            self._connection.abort()
