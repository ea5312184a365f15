"""An answer under way, over aiohttp. Hands pieces of the body on as they come; decodes and judges nothing."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

import aiohttp
from multidict import CIMultiDictProxy

from fetcher.errors import ForbiddenError, TransportError
from fetcher.net.answer import DRAIN_BYTES_MAX, DRAIN_TIME_MAX_S, Answer, joined
from fetcher.net.foreign import map_exceptions
from fetcher.net.request import display_url
from fetcher.net.transport import Receiver

READ_BYTES = 256 << 10


class AiohttpResponse(Answer):
    """See ``transport.Response``."""

    __slots__ = ("_aborted", "_idle_timeout_s", "_received", "_response", "_room")

    def __init__(self, response: aiohttp.ClientResponse, url: str, idle_timeout_s: float) -> None:
        super().__init__(url, _joined(response.headers))
        self._response = response
        self._idle_timeout_s = idle_timeout_s
        self._received = 0
        self._room = asyncio.Event()
        self._aborted = False

    def __repr__(self) -> str:
        return f"<AiohttpResponse {self.status} {display_url(self._url)}, {self._received} bytes received>"

    @property
    def status(self) -> int:
        return self._response.status

    async def read_some(self, limit: int) -> bytes | memoryview:
        if self._rest is not None:
            return self._take(self._rest, limit)
        try:
            # Chunk by chunk as the socket gave them: readany() would join them into fresh memory, one copy more.
            piece, chunk_ended = await self._response.content.readchunk()
            # The end of a chunk (RFC 9112, 7.1) is none of the body; aiohttp's answer to a HEAD says so for ever.
            while not piece and chunk_ended and not self._response.content.at_eof():
                piece, chunk_ended = await self._response.content.readchunk()
        except asyncio.CancelledError:
            raise
        except Exception as error:
            raise self._failed(error) from None
        self._received += len(piece)
        return piece if len(piece) <= limit else self._take(memoryview(piece), limit)

    def _failed(self, error: Exception) -> TransportError | ForbiddenError:
        """Our error for one that ended the body."""
        where = display_url(self._url)
        length = self.content_length
        if isinstance(error, aiohttp.ClientError | ConnectionError) and not isinstance(error, TimeoutError):
            of = f" of {length}" if length is not None else ""
            return TransportError(f"{where}: connection closed after {self._received}{of} bytes")
        try:
            with map_exceptions(where, idle_timeout_s=self._idle_timeout_s):
                raise error
        except (TransportError, ForbiddenError) as ours:
            return ours

    async def receive(self, receiver: Receiver) -> None:
        while piece := await self.read_some(READ_BYTES):
            with memoryview(piece) as view:
                position = 0
                while position < len(view):
                    room = receiver.get_buffer()
                    if room is None:
                        await self._room.wait()
                        self._room.clear()
                        if self._aborted:
                            raise self._failed(aiohttp.ClientConnectionError())
                        continue
                    count = min(len(room), len(view) - position)
                    room[:count] = view[position : position + count]
                    position += count
                    receiver.buffer_updated(count)

    def resume(self) -> None:
        self._room.set()

    async def release(self) -> None:
        response, content = self._response, self._response.content
        self._rest = None
        if not content.at_eof():
            length = self.content_length
            left = None if length is None else length - self._received
            if left is None or left > DRAIN_BYTES_MAX:
                self.abort()
                return
            try:
                async with asyncio.timeout(DRAIN_TIME_MAX_S):
                    while await content.readany():
                        pass
            except asyncio.CancelledError:
                self.abort()
                raise
            except Exception:  # whatever it is, it costs this connection and nothing else
                self.abort()
                return
        response.release()

    def abort(self) -> None:
        connection = self._response.connection
        if connection is not None and connection.transport is not None:
            connection.transport.abort()
        self._response.close()
        self._aborted = True
        self._room.set()  # who waits for that waits no longer


def _joined(headers: CIMultiDictProxy[str]) -> Mapping[str, str]:
    """``headers`` with fields of one name joined, as RFC 9110 allows."""
    return headers if len({name.lower() for name in headers}) == len(headers) else joined(headers)
