"""The head of an answer, parsed by llhttp (through httptools), and what it says of how its body is framed.

Strict, as a client of strangers has to be: a head whose framing two readers could understand in two ways (two lengths,
a length beside a transfer coding, lines that end in a bare LF, folded fields) is no proper HTTP.
"""

from __future__ import annotations

import httptools
from multidict import CIMultiDict

HEAD_BYTES_MAX = 64 << 10
LINE_BYTES_MAX = 16 << 10
"""A Location with a signed policy takes 1 to 2 KiB."""
FIELDS_MAX = 128
HEADS_MAX = 32
"""Of one answer, those that only announce it (1xx) included; servers send one or two."""

_BEGINNING = b"HTTP/"
_END = b"\r\n\r\n"
_BODILESS = frozenset({204, 304})


class MisframedError(Exception):
    """What came is no answer that a client could understand in one way only; never leaves this room."""


class Head:
    """Status, fields and framing. Also takes what llhttp finds in a chunked body."""

    __slots__ = (
        *("_ended", "_framing", "_parser", "_trailers"),
        *("chunked", "fields", "keep_alive", "length", "pieces", "repeats", "status", "whole"),
    )

    def __init__(self) -> None:
        self.fields: CIMultiDict[str] = CIMultiDict()
        self.repeats = False
        """A field came more than once."""
        self.status = 0
        self.keep_alive = False
        """The connection may carry another request, once the body has ended."""
        self.length: int | None = None
        """Of the body; None: chunked, or up to the end of the connection."""
        self.chunked = False
        self.pieces: list[bytes] = []
        """Of a chunked body, as they were found."""
        self.whole = False
        """The chunked body has ended."""
        self._ended = False
        self._framing = 0
        """Bytes in a row that were none of the chunked body."""
        self._trailers = 0
        self._parser = httptools.HttpResponseParser(self)

    def __repr__(self) -> str:
        return f"<Head {self.status}, length {self.length}>"

    # -- what llhttp tells -------------------------------------------------------------------------------------------

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._ended:
            self._trailers += 1
            if self._trailers > FIELDS_MAX:
                raise MisframedError
            return
        if len(value) > LINE_BYTES_MAX or len(self.fields) >= FIELDS_MAX:
            raise MisframedError
        # As aiohttp reads them: bytes that are no UTF-8 survive a way back.
        key = name.decode("ascii")
        self.repeats = self.repeats or key in self.fields
        self.fields.add(key, value.decode("utf-8", "surrogateescape").rstrip(" \t"))

    def on_headers_complete(self) -> None:
        self._ended = True
        self.keep_alive = self._parser.should_keep_alive()

    def on_body(self, data: bytes) -> None:
        self.pieces.append(data)

    def on_message_complete(self) -> None:
        self.whole = True

    # -- what the connection asks ------------------------------------------------------------------------------------

    def parse(self, data: bytes, *, method: str) -> None:
        """Take the head, all of it and nothing behind. Raises MisframedError."""
        self._feed(data)
        if not self._ended:
            raise MisframedError
        self.status = self._parser.get_status_code()
        if not 100 <= self.status <= 999 or self._parser.get_http_version() not in ("1.1", "1.0"):
            raise MisframedError
        length = self.fields.get("Content-Length")
        coding = self.fields.get("Transfer-Encoding")
        if self.status < 200 or self.status in _BODILESS or method == "HEAD":
            self.length = 0
        elif coding is not None:
            codings = [each.strip().lower() for each in coding.split(",")]
            if codings != ["chunked"]:
                raise MisframedError  # a transfer coding that we did not ask for
            self.chunked = True
            self.keep_alive = self.keep_alive and self._parser.get_http_version() != "1.0"  # RFC 9112, 6.1
        elif length is not None:
            self.length = int(length)
        else:
            self.keep_alive = False

    def parse_chunked(self, data: bytes) -> None:
        """Take what follows a head that says ``chunked``; the body is in ``pieces``. Raises MisframedError, also for
        anything behind its end."""
        if self.whole:
            raise MisframedError
        found = len(self.pieces)
        self._feed(data)
        # Extensions of chunks, and trailers, which httptools holds in memory until their line ends.
        self._framing = 0 if len(self.pieces) > found else self._framing + len(data)
        if self._framing > HEAD_BYTES_MAX:
            raise MisframedError

    def on_message_begin(self) -> None:
        if self.whole:
            raise MisframedError

    def _feed(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade):  # what a callback raised is among them
            raise MisframedError from None


def end_of_head(data: bytearray | bytes, seen: int) -> int:
    """Where the first head in ``data`` ends; 0: not here yet. ``seen`` bytes were looked at before.

    Raises MisframedError for what will never be a head within bounds.
    """
    if not data.startswith(_BEGINNING[: len(data)]):
        raise MisframedError  # llhttp would skip empty lines before it, if they come together with it
    end = data.find(_END, max(0, seen - 3))
    if end < 0:
        if len(data) > HEAD_BYTES_MAX:
            raise MisframedError
        if data.find(b"\n\n", max(0, seen - 1)) >= 0:
            raise MisframedError
        return 0
    if end > HEAD_BYTES_MAX:
        raise MisframedError
    return end + len(_END)
