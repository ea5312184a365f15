"""The head of an answer, parsed by llhttp (through httptools), and what it says of how its body is framed.

Strict, as a client of strangers has to be: a head whose framing two readers could understand in two ways (two lengths,
a length beside a transfer coding, lines that end in a bare LF, folded fields) is no proper HTTP.
"""

from __future__ import annotations

from collections.abc import Callable

import httptools
from multidict import CIMultiDict

HEAD_BYTES_MAX = 64 << 10
LINE_BYTES_MAX = 16 << 10
"""A Location with a signed policy takes 1 to 2 KiB."""
FIELDS_MAX = 128
PLAIN_BYTES_MAX = 4 << 10
"""Nothing in a head of so many bytes is longer than it may be, so it is read without looking at each field."""
HEADS_MAX = 32
"""Of one answer, those that only announce it (1xx) included; servers send one or two."""

_BEGINNING = b"HTTP/"
_END = b"\r\n\r\n"
_UTF8 = ("utf-8", "surrogateescape")
"""As aiohttp reads values: bytes that are no UTF-8 survive a way back."""
_BODILESS = frozenset({204, 304})


class MisframedError(Exception):
    """What came is no answer that a client could understand in one way only; never leaves this room."""


class Head:
    """Status, fields and framing. Also takes what llhttp finds in a chunked body."""

    __slots__ = (
        *("_ended", "_framing", "_parser", "_trailers", "on_header"),
        *("chunked", "fields", "keep_alive", "length", "pieces", "repeats", "stated_length", "status", "whole"),
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
        self.stated_length: int | None = None
        """What the head says of it, be it that of a body that does not come (HEAD, 304)."""
        self.chunked = False
        self.pieces: list[bytes] = []
        """Of a chunked body, as they were found."""
        self.whole = False
        """The chunked body has ended."""
        self._ended = False
        self._framing = 0
        """Bytes in a row that were none of the chunked body."""
        self._trailers = 0
        self._parser: httptools.HttpResponseParser | None = None
        """Knows us, so we let go of it once the head is read, or both would wait for the garbage collector. Of a
        chunked body it reads the rest."""
        self.on_header: Callable[[bytes, bytes], object] | None = None
        """What llhttp tells the fields to."""

    def __repr__(self) -> str:
        return f"<Head {self.status}, length {self.length}>"

    # -- what llhttp tells -------------------------------------------------------------------------------------------

    def _add(self, name: bytes, value: bytes) -> None:
        """A field, looked at as it comes: of a long head, of one that names something twice, of trailers."""
        if self._ended:
            self._trailers += 1
            if self._trailers > FIELDS_MAX:
                raise MisframedError
            return
        if len(value) > LINE_BYTES_MAX or len(self.fields) >= FIELDS_MAX:
            raise MisframedError
        key = name.decode("ascii")
        self.repeats = self.repeats or key in self.fields
        self.fields.add(key, value.decode(*_UTF8).rstrip(" \t"))

    def on_headers_complete(self) -> None:
        self._ended = True
        assert self._parser is not None
        self.keep_alive = self._parser.should_keep_alive()  # which it forgets where no body follows

    def on_body(self, data: bytes) -> None:
        self.pieces.append(data)

    def on_message_complete(self) -> None:
        self.whole = True

    # -- what the connection asks ------------------------------------------------------------------------------------

    def parse(self, data: bytes, *, method: str) -> None:
        """Take the head, all of it and nothing behind. Raises MisframedError."""
        parser = None if len(data) > PLAIN_BYTES_MAX else self._read_plain(data)
        if parser is None:
            parser = self._read_with_care(data)
        self.status = parser.get_status_code()
        version = data[len(_BEGINNING) : len(_BEGINNING) + 3]
        if not 100 <= self.status <= 999 or version not in (b"1.1", b"1.0"):
            raise MisframedError
        length = self.fields.get("Content-Length")
        coding = self.fields.get("Transfer-Encoding")
        if length is not None and coding is None:
            self.stated_length = int(length)
        if self.status < 200 or self.status in _BODILESS or method == "HEAD":
            self.length = 0
        elif coding is not None:
            codings = [each.strip().lower() for each in coding.split(",")]
            if codings != ["chunked"]:
                raise MisframedError  # a transfer coding that we did not ask for
            self.chunked = True
            self.keep_alive = self.keep_alive and version != b"1.0"  # RFC 9112, 6.1
        elif length is not None:
            self.length = self.stated_length
        else:
            self.keep_alive = False
        if not self.chunked:
            self._parser = self.on_header = None

    def _read_plain(self, data: bytes) -> httptools.HttpResponseParser | None:
        """Most heads: fields with names of their own, and no coding. None for any other: it is read once more, with
        care."""
        found: dict[bytes, bytes] = {}
        self.on_header = found.setdefault  # no call of Python's for a field
        parser = self._parser = httptools.HttpResponseParser(self)
        self._feed(data)
        names = {name.lower() for name in found}
        # A line for the status, one for each field, and the empty one.
        if len(names) != len(found) or len(found) != data.count(b"\r\n") - 2 or b"transfer-encoding" in names:
            return None
        if len(found) > FIELDS_MAX or not self._ended:
            raise MisframedError
        self.fields = CIMultiDict(
            [(name.decode("ascii"), value.decode(*_UTF8).rstrip(" \t")) for name, value in found.items()]
        )
        return parser

    def _read_with_care(self, data: bytes) -> httptools.HttpResponseParser:
        self._ended = self.keep_alive = self.whole = False
        self.on_header = self._add
        parser = self._parser = httptools.HttpResponseParser(self)
        self._feed(data)
        if not self._ended:
            raise MisframedError
        return parser

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
        assert self._parser is not None
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
