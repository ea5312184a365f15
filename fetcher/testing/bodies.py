"""Conditional and ranged answers for one content, by the rules of RFC 9110.

Decides the reply to a GET or HEAD whose resource is already found and permitted; sends nothing.
"""

from __future__ import annotations

import gzip
import re

from fetcher.testing.contents import BytesContent, Content
from fetcher.testing.messages import Reply, Request

_RANGE = re.compile(r"bytes=(?:(\d{1,18})-(\d{0,18})|-(\d{1,18}))")


def parse_range(header: str | None, size: int) -> tuple[int, int] | None:
    """Return the half-open range that a Range header selects of ``size`` bytes.

    None means: no range, several ranges, or a form we do not know; RFC 9110 14.2 lets a server then ignore it.
    An unsatisfiable range gives an empty one, ``(size, size)``.
    """
    match = _RANGE.fullmatch(header.replace(" ", "") if header else "")
    if not match:
        return None
    first, last, suffix = match.groups()
    if suffix is not None:
        return max(0, size - int(suffix)), size
    if last and int(last) < int(first):
        return None
    if int(first) >= size:
        return size, size
    return int(first), min(int(last) + 1, size) if last else size


def answer(request: Request, content: Content, etag: str, headers: dict[str, str]) -> Reply:
    """Answer with all or the asked part of ``content``: 200, 206, 304, 412 or 416.

    ``etag`` is the bare strong validator; ``headers`` go on every successful answer.
    """
    quoted = f'"{etag}"'
    asked = request.headers
    if "if-match" in asked and not _matches(asked["if-match"], etag):
        return Reply(412, {"ETag": quoted})
    if "if-none-match" in asked and _matches(asked["if-none-match"], etag):
        return Reply(304, {**headers, "ETag": quoted})
    complete = Reply(200, {**headers, "ETag": quoted, "Accept-Ranges": "bytes"}, content)
    # If-Range compares strongly, so a weak form of the same tag does not do; neither does a date.
    if request.method != "GET" or asked.get("if-range", quoted) != quoted:
        return complete
    span = parse_range(asked.get("range"), content.size)
    if span is None:
        return complete
    if span[0] >= span[1]:
        return Reply(416, {"Content-Range": f"bytes */{content.size}", "Accept-Ranges": "bytes"})
    complete.status = 206
    complete.start, complete.stop = span
    complete.headers["Content-Range"] = content_range(span, content.size)
    return complete


def content_range(span: tuple[int, int], size: int) -> str:
    """Return the Content-Range value for a half-open ``span`` of ``size`` bytes."""
    return f"bytes {span[0]}-{span[1] - 1}/{size}"


def accepts_gzip(request: Request) -> bool:
    """Whether the client said that it takes gzip."""
    for item in request.headers.get("accept-encoding", "").split(","):
        coding, _, parameters = item.partition(";")
        if coding.strip().lower() in ("gzip", "*"):
            return not re.fullmatch(r"\s*q=0(\.0*)?\s*", parameters)
    return False


def compress(reply: Reply) -> None:
    """Turn a reply into what a compressing front end makes of it.

    The whole body, whatever range was asked; chunked, because the length is not known beforehand; the ETag weak,
    because the bytes are not those that the tag names.
    """
    assert reply.content is not None
    reply.content = BytesContent(gzip.compress(reply.content.read(), compresslevel=1, mtime=0))
    reply.start, reply.stop, reply.chunked = 0, None, True
    if reply.status == 206:
        reply.status = 200
    for name in ("Content-Range", "Accept-Ranges", "Content-Length"):
        reply.headers.pop(name, None)
    reply.headers["Content-Encoding"] = "gzip"
    reply.headers["Vary"] = "Accept-Encoding"
    etag = reply.headers.get("ETag")
    if etag is not None and not etag.startswith("W/"):
        reply.headers["ETag"] = f"W/{etag}"


def _matches(header: str, etag: str) -> bool:
    """Weak comparison with any tag of a list, or ``*``."""
    return any(tag.strip().removeprefix("W/").strip('"') in (etag, "*") for tag in header.split(","))
