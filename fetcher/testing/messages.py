"""Requests and replies of the embedded origins: plain values, and how a reply's head is written.

A ``Reply`` says what is to be sent and, in its ``Pace``, how badly. No sockets here.
"""

from __future__ import annotations

import json
import time
from dataclasses import dataclass, field
from email.utils import formatdate
from http import HTTPStatus
from typing import Literal

from fetcher.testing.contents import BytesContent, Content
from fetcher.testing.records import RequestRecord

CutHow = Literal["rst", "fin"]
"""How a connection ends before its time: reset, or closed as if all were said."""


@dataclass(frozen=True, slots=True)
class Request:
    """A request as it came: nothing is decoded or normalised, so that a signature can cover every byte."""

    method: str
    target: str
    headers: dict[str, str]
    """Names in lower case; of a repeated header the last one counts, but lines of Accept are joined."""
    body: bytes = b""
    peer: str = ""
    """Address of the client, without port."""
    connection: int = 0
    """Number of the connection, unique within one listener."""

    @property
    def path(self) -> str:
        """The target before the question mark, still quoted."""
        return self.target.partition("?")[0]

    @property
    def query(self) -> str:
        """The target after the question mark, still quoted."""
        return self.target.partition("?")[2]


@dataclass(slots=True)
class Pace:
    """How a reply leaves. The default is: all of it, as fast as the client reads."""

    head_cut_after: int | None = None
    """End the connection after so many bytes of the head."""
    cut_after: int | None = None
    """End the connection after so many bytes of the body."""
    cut_how: CutHow = "rst"
    stall_after: int | None = None
    """Send nothing more for ``stall_s`` once so many bytes of the body are out."""
    stall_s: float = 0.0
    bytes_per_s: float | None = None
    """Speed limit of the body."""
    endless_head: bool = False
    """Send header lines until the client gives up, never the end of the head."""
    hang_up: bool = False
    """Close the kept-alive connection after the reply without having announced it."""


@dataclass(slots=True)
class Reply:
    """A reply to be sent: status, headers, and a body that is part of a content, or JSON, or nothing."""

    status: int
    headers: dict[str, str] = field(default_factory=dict)
    content: Content | None = None
    start: int = 0
    stop: int | None = None
    """The body is ``[start, stop)`` of the content; None means to its end."""
    rows: object = None
    """The body as JSON values, until ``encode`` turns it into content; a fault may change it before."""
    chunked: bool = False
    """Send in chunks without Content-Length, as a compressing front end does."""
    patches: dict[int, int] = field(default_factory=dict)
    """Offset in the content → mask that is XORed into that byte."""
    pace: Pace = field(default_factory=Pace)
    record: RequestRecord | None = None

    def encode(self) -> None:
        """Make ``rows``, if any, the content."""
        if self.rows is not None:
            text = json.dumps(self.rows, separators=(",", ":"), ensure_ascii=False)
            # Hostile names may hold lone surrogates; they go out as they would from a careless server.
            self.content = BytesContent(text.encode("utf-8", "surrogatepass"))
            self.start, self.stop, self.rows = 0, None, None
            self.headers.setdefault("Content-Type", "application/json; charset=utf-8")

    @property
    def span(self) -> tuple[int, int]:
        """The half-open range of the content that is the body."""
        size = self.content.size if self.content is not None else 0
        return self.start, size if self.stop is None else self.stop


def head_of(reply: Reply) -> bytes:
    """Return status line and headers, with the empty line that ends them."""
    headers = {"Date": _http_date(int(time.time())), **reply.headers}
    if reply.chunked:
        headers["Transfer-Encoding"] = "chunked"
    elif reply.status not in (204, 304):
        start, stop = reply.span
        headers.setdefault("Content-Length", str(max(0, stop - start)))
    try:
        phrase = HTTPStatus(reply.status).phrase
    except ValueError:
        phrase = "Unknown"
    lines = [f"HTTP/1.1 {reply.status} {phrase}", *(f"{name}: {value}" for name, value in headers.items())]
    return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1", "replace")


_date_cache: tuple[int, str] = (0, "")


def _http_date(now: int) -> str:
    global _date_cache
    if _date_cache[0] != now:
        _date_cache = (now, formatdate(now, usegmt=True))
    return _date_cache[1]
