"""Listings of S3 buckets: from XML to rows, judged before anything of them is believed. Values in, values out.

A host that is asked for a listing may send anything: its home page, the root of the bucket because a CDN dropped the
query, the same page for ever. ``read_page`` takes nothing but a whole ``ListBucketResult`` that echoes what was asked;
``Listing`` sees to it that pages lead on and end.

Sources: Amazon S3 API reference (ListObjectsV2, ListObjects), and what Ceph, Swift and rclone send.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from urllib.parse import quote, unquote_plus
from xml.parsers import expat

from fetcher.errors import ForbiddenError, TransportError
from fetcher.model.text import shown

PAGE_BYTES_MAX = 16 << 20
"""A page of 1000 keys has 370 KB; with keys of 1024 bytes, all of them percent-encoded, 4 MB. Several are in memory at
once."""
PAGE_ROWS_MAX = 20_000
"""Stores give 1000 keys in a page, some 10,000 if they are told to."""
LEAVES_MAX = 64
"""Of a row, and of the root: all that count are among them."""
DEPTH_MAX = 16
HEAD_BYTES = 1024
"""Within these the root element must have begun."""

_ROOT = re.compile(
    rb"\s*(?:<\?xml[^>]*>\s*)?(?:<!--(?>.*?-->)\s*)*+<(?:[\w.-]+:)?(ListBucketResult|Error)[\s/>]", re.DOTALL
)
"""A comment ends at the first ``-->``, once and for all: with a choice, a head full of them would take for ever."""


class NotAListing(Exception):
    """The host answered with something that is no listing of what was asked. The text ends "the host …"."""


@dataclass(frozen=True, slots=True)
class Row:
    """One key of a listing."""

    key: str
    size: int
    etag: str | None
    """As listed, without any quotes."""
    last_modified: str | None
    """ISO 8601, as listed."""
    storage_class: str


@dataclass(frozen=True, slots=True)
class Page:
    """One answer."""

    rows: tuple[Row, ...]
    truncated: bool
    token: str | None
    """Opaque; leads to the next page."""
    marker: str | None
    """Version 1: where the next page begins, if it says so."""
    version: int
    """2 if it counts its keys, else 1: a store that does not know ``list-type=2`` leaves it unsaid."""


def looks_like_xml_of_s3(head: bytes) -> bool:
    """Whether a body that begins with ``head`` is a listing or an error of S3, whole or broken."""
    return _ROOT.match(head.removeprefix(b"\xef\xbb\xbf")) is not None


def read_page(body: bytes, prefix: str) -> Page:
    """The page that ``body`` is. Takes some 5 ms for 1000 keys.

    Raises NotAListing for what is no listing of ``prefix``; TransportError for a broken one, or an error in disguise
    (S3 may send one with status 200), which may be better next time.
    """
    if not looks_like_xml_of_s3(body[:HEAD_BYTES]):
        raise NotAListing("the host sends something else where a listing was asked for")
    reader = _Reader()
    reader.feed(body)
    fields = reader.fields
    if reader.root == "Error":
        raise TransportError(f"the listing is an error: {shown(fields.get('Code', 'without a code'))}")
    encoded = fields.get("EncodingType", "").lower() == "url"
    echoed = fields.get("Prefix", "")
    if prefix not in (echoed, _decoded(echoed) if encoded else echoed):
        raise NotAListing("the host lists another folder than the one asked for (a CDN that drops the query)")
    rows = tuple(_row(found, encoded=encoded) for found in reader.contents)
    if any(not row.key.startswith(prefix) for row in rows):
        raise NotAListing("the host lists keys outside of the folder asked for")
    marker = fields.get("NextMarker")
    return Page(
        rows,
        fields.get("IsTruncated", "").strip().lower() == "true",
        fields.get("NextContinuationToken") or None,
        (_decoded(marker) if encoded else marker) if marker else None,
        2 if "KeyCount" in fields else 1,
    )


@dataclass(slots=True)
class Room:
    """How many keys may still be listed: for all locations of one resource together, whatever they are listed in."""

    keys_left: int


@dataclass(slots=True)
class Listing:
    """The pages of one prefix, as they come: ``query`` of the next one, then ``add`` it, until ``ended``."""

    prefix: str
    what: str
    """As a person names it."""
    files_max: int
    room: Room | None = None
    """Shared with the listings beside it; None: there are none."""
    rows: dict[str, Row] = field(default_factory=dict)
    ended: bool = False
    _version: int = 2
    _next: tuple[str, str] | None = None
    _seen: set[str] = field(default_factory=set)
    _page_count: int = 0

    @property
    def query(self) -> str:
        """The query of the next page: sorted, and quoted as signatures count it."""
        pairs = [("encoding-type", "url"), ("prefix", self.prefix)]
        if self._version == 2:
            pairs.append(("list-type", "2"))
        if self._next is not None:
            pairs.append(self._next)
        return "&".join(f"{name}={_quoted(value)}" for name, value in sorted(pairs))

    def add(self, page: Page) -> None:
        """Take a page. Raises ForbiddenError beyond bounds, TransportError for pages that lead nowhere."""
        self._page_count += 1
        if page.version == 1:
            self._version = 1
        known = len(self.rows)
        for row in page.rows:
            self.rows[row.key] = row
        fresh = len(self.rows) - known
        if self.room is not None:
            self.room.keys_left -= fresh
        if len(self.rows) > self.files_max or (self.room is not None and self.room.keys_left < 0):
            together = "" if len(self.rows) > self.files_max else ", together with the URLs beside it,"
            raise ForbiddenError(
                f"{self.what}{together} lists more than {self.files_max} keys", hint="manifest_files_max sets the bound"
            )
        if not page.truncated:
            self.ended = True
            return
        if page.rows and len(self.rows) == known:
            raise self._endless("repeats earlier ones")
        # Pages may be short, even empty; a listing of ever new crumbs would otherwise take a million requests to end.
        if self._page_count > 100 + len(self.rows) // 50:
            raise self._endless("names a next one")
        self._next = self._following(page)
        if self._next[1] in self._seen:
            raise self._endless("leads back to an earlier one")
        self._seen.add(self._next[1])

    def drop(self) -> None:
        """What it holds is not wanted: there is room for as many keys again."""
        if self.room is not None:
            self.room.keys_left += len(self.rows)

    def _following(self, page: Page) -> tuple[str, str]:
        if page.token is not None and self._version == 2:
            return "continuation-token", page.token
        last = page.marker or (page.rows[-1].key if page.rows else None)
        if last is None:
            raise self._endless("does not say where the next one begins")
        return ("start-after" if self._version == 2 else "marker"), last

    def _endless(self, why: str) -> TransportError:
        return TransportError(f"the listing of {self.what} does not end: page {self._page_count} {why}")


def _row(found: dict[str, str], *, encoded: bool) -> Row:
    if "Key" not in found:
        raise TransportError("the listing has a row without a key")
    key = _decoded(found["Key"]) if encoded else found["Key"]
    size = found.get("Size", "")
    if not (size.isascii() and size.isdigit() and len(size) < 20):
        raise TransportError(f"the listing states no size of {shown(key)!r}")
    return Row(
        key,
        int(size),
        found.get("ETag", "").strip().strip('"') or None,
        found.get("LastModified") or None,
        found.get("StorageClass", ""),
    )


def _quoted(text: str) -> str:
    return quote(text, safe="-_.~", errors="surrogateescape")


def _decoded(text: str) -> str:
    # AWS and rclone write a space as "+", Ceph and Swift as "%20"; all write a plus as "%2B".
    return unquote_plus(text, errors="surrogateescape")


class _Reader:
    """Expat, without what XML can do to its readers: a document type ends it, and so does depth."""

    def __init__(self) -> None:
        self.root = ""
        self.fields: dict[str, str] = {}
        """Leaves right below the root."""
        self.contents: list[dict[str, str]] = []
        """Leaves of each ``Contents``."""
        self._depth = 0
        self._text: list[str] = []
        self._row: dict[str, str] | None = None
        # Stores write UTF-8. A declared encoding that expat does not know it hands to Python, whose codecs are many and
        # raise what they like; one that is given here counts instead.
        self._parser = expat.ParserCreate("utf-8")
        self._parser.buffer_text = True
        self._parser.StartElementHandler = self._start
        self._parser.EndElementHandler = self._end
        self._parser.CharacterDataHandler = self._text.append
        self._parser.StartDoctypeDeclHandler = self._refuse

    def feed(self, body: bytes) -> None:
        try:
            self._parser.Parse(body, True)
        except (expat.ExpatError, UnicodeDecodeError):
            raise TransportError("the listing is not whole or not well-formed XML") from None

    def _start(self, name: str, _: dict[str, str]) -> None:
        name = name.rpartition(":")[2]
        self._text.clear()
        self._depth += 1
        if self._depth == 1:
            self.root = name
        elif self._depth == 2 and name == "Contents":
            self._row = {}
        elif self._depth > DEPTH_MAX:
            raise NotAListing("the host sends XML that is no listing")

    def _end(self, name: str) -> None:
        name = name.rpartition(":")[2]
        if self._depth == 3 and self._row is not None:
            _note(self._row, name, self._text)
        elif self._depth == 2:
            if self._row is None:
                _note(self.fields, name, self._text)
            elif len(self.contents) >= PAGE_ROWS_MAX:
                raise NotAListing(f"the host sends more than {PAGE_ROWS_MAX} keys in one page")
            else:
                self.contents.append(self._row)
                self._row = None
        self._text.clear()
        self._depth -= 1

    def _refuse(self, *_: object) -> None:
        raise NotAListing("the host sends XML with a document type, which no S3 does")


def _note(leaves: dict[str, str], name: str, text: list[str]) -> None:
    if name not in leaves and len(leaves) < LEAVES_MAX:
        leaves[name] = "".join(text)


def read_error(body: bytes) -> dict[str, str]:
    """The leaves of an S3 ``Error`` document; empty for anything else."""
    if not looks_like_xml_of_s3(body[:HEAD_BYTES]):
        return {}
    reader = _Reader()
    try:
        reader.feed(body)
    except (TransportError, NotAListing):
        return {}
    return reader.fields if reader.root == "Error" else {}
