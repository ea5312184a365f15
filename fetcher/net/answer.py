"""What an answer says of itself and how its pieces are cut, whichever transport it came by. No sockets."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping

from multidict import CIMultiDict, MultiMapping

from fetcher.errors import ForbiddenError
from fetcher.net.request import display_url

DRAIN_BYTES_MAX = 64 << 10
"""An unread rest up to this (the text of a redirect) is read and thrown away: cheaper than a new TLS connection."""
DRAIN_TIME_MAX_S = 1.0


class Answer(ABC):
    """The part of ``transport.Response`` that needs no connection."""

    __slots__ = ("__weakref__", "_headers", "_rest", "_url")

    def __init__(self, url: str, headers: Mapping[str, str]) -> None:
        self._url = url
        self._headers = headers
        self._rest: memoryview | None = None
        """Of a piece that was longer than what was asked for."""

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

    @abstractmethod
    async def read_some(self, limit: int) -> bytes | memoryview: ...

    @abstractmethod
    def abort(self) -> None: ...

    def _take(self, piece: memoryview, limit: int) -> memoryview:
        self._rest = piece[limit:] if len(piece) > limit else None
        return piece[:limit]

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
            if total == length:
                return bytes(piece) if len(pieces) == 1 else b"".join(pieces)
        self.abort()
        raise ForbiddenError(f"{display_url(self._url)}: the answer is longer than {bytes_max} bytes")


def joined(fields: MultiMapping[str]) -> Mapping[str, str]:
    """``fields`` with those of one name joined, as RFC 9110 (5.3) allows."""
    found: CIMultiDict[str] = CIMultiDict()
    for name in fields:
        if name not in found:
            found[name] = ", ".join(fields.getall(name))
    return found
