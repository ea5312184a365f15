"""Listings of the embedded S3: which keys a page holds, and the XML of ListObjects in both versions.

A page is a value that a fault may falsify before it is written. Whether the asker may list was decided before.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from base64 import b64decode, b64encode
from collections.abc import Callable
from dataclasses import dataclass, field
from urllib.parse import quote, quote_plus
from xml.sax.saxutils import escape

from fetcher.testing.contents import BytesContent
from fetcher.testing.messages import Reply
from fetcher.testing.s3 import errors
from fetcher.testing.s3.buckets import Bucket, S3Object
from fetcher.testing.s3.errors import Refused
from fetcher.testing.s3.quirks import Quirks
from fetcher.testing.s3.signing import Pairs

_NAMESPACE = "http://s3.amazonaws.com/doc/2006-03-01/"
_TOKEN_KEY = b"continuation tokens of the embedded S3"
_TOKEN_HEAD = '1+/"'
"""Every token starts with what a careless client does not quote."""
_NOT_IN_XML = re.compile(r"[\x00-\x08\x0b-\x1f\x7f]")


@dataclass(slots=True)
class Row:
    """One key of a page, as texts, so that a fault can make anything of it."""

    key: str
    size: int | str = 0
    etag: str | None = "d41d8cd98f00b204e9800998ecf8427e"
    last_modified: str = "2025-01-01T00:00:00.000Z"
    storage_class: str = "STANDARD"
    checksum_algorithm: str | None = None
    checksum_type: str | None = None


@dataclass(slots=True)
class Page:
    """One answer to ListObjects."""

    bucket: str
    prefix: str
    """As it will be echoed."""
    delimiter: str
    max_keys: int
    version: int
    """1 or 2."""
    encodes: bool
    """Whether keys were asked for, and will be given, URL-encoded."""
    after: str = ""
    """Echoed as StartAfter or Marker."""
    token: str | None = None
    """The continuation token of the request, echoed."""
    rows: list[Row] = field(default_factory=list)
    prefixes: list[str] = field(default_factory=list)
    is_truncated: bool = False
    next_token: str | None = None
    next_marker: str | None = None


@dataclass(slots=True)
class PageReply(Reply):
    """A reply whose body is a page. After changing ``page``, ``draw`` it again."""

    page: Page | None = None
    quirks: Quirks = field(default_factory=Quirks)

    def draw(self) -> None:
        """Make the page, as it is now, the body."""
        assert self.page is not None
        self.content = BytesContent(render(self.page, self.quirks).encode("utf-8", "surrogatepass"))
        self.start, self.stop = 0, None


def answer(bucket: Bucket, pairs: Pairs, quirks: Quirks, *, page_keys: int) -> PageReply:
    """Answer GET on a bucket: ListObjects, or ListObjectsV2 with ``list-type=2``."""
    query = dict(pairs)
    version = 2 if query.get("list-type") == "2" and quirks.list_versions == "both" else 1
    encoding = query.get("encoding-type")
    if encoding not in (None, "url"):
        raise Refused("InvalidArgument", "Invalid Encoding Method specified in Request")
    asked = query.get("max-keys", "1000")
    if not re.fullmatch(r"[0-9]{1,10}", asked):
        raise Refused("InvalidArgument", "Provided max-keys not an integer or within integer range")
    page = Page(
        bucket=bucket.name,
        prefix=query.get("prefix", ""),
        delimiter=query.get("delimiter", ""),
        max_keys=min(int(asked), 1000),
        version=version,
        encodes=encoding == "url" and quirks.list_encoding != "ignored",
        after=query.get("start-after" if version == 2 else "marker", ""),
        token=query.get("continuation-token") if version == 2 else None,
    )
    _fill(page, bucket, quirks, page_keys)
    reply = PageReply(200, {"Content-Type": errors.XML, "x-amz-bucket-region": bucket.region}, page=page, quirks=quirks)
    reply.draw()
    return reply


def _fill(page: Page, bucket: Bucket, quirks: Quirks, page_keys: int) -> None:
    limit = min(page.max_keys, page_keys)
    if limit == 0:
        return
    after = page.after if page.token is None else _read_token(page, quirks)
    found, page.is_truncated = bucket.listing(page.prefix, after, page.delimiter, limit)
    page.prefixes = [entry for entry in found if isinstance(entry, str)]
    page.rows = [row_of(entry, quirks) for entry in found if isinstance(entry, S3Object)]
    if page.is_truncated:
        last = found[-1] if isinstance(found[-1], str) else found[-1].key
        if page.version == 2:
            page.next_token = last if quirks.list_token == "last-key" else make_token(page, last)
        elif page.delimiter:
            page.next_marker = last  # without a delimiter the client is expected to take the last key


def row_of(stored: S3Object, quirks: Quirks) -> Row:
    """Return how an object is listed."""
    return Row(
        stored.key,
        stored.content.size,
        stored.etag if quirks.validator in ("strong", "weak") else None,
        stored.listed_at,
        stored.storage_class,
        None if stored.checksum is None else stored.checksum.upper(),
        None if stored.checksum is None else stored.checksum_type,
    )


# Continuation tokens


def make_token(page: Page, last: str) -> str:
    """Return a token that leads behind ``last``; good for this bucket, prefix and delimiter only."""
    data = last.encode()
    return _TOKEN_HEAD + b64encode(_token_tag(page, data) + data).decode() + "="


def _read_token(page: Page, quirks: Quirks) -> str:
    assert page.token is not None
    if quirks.list_token == "last-key":
        return page.token
    try:
        data = b64decode(page.token.removeprefix(_TOKEN_HEAD)[:-1], validate=True)
    except ValueError:
        data = b""
    if not page.token.startswith(_TOKEN_HEAD) or not hmac.compare_digest(data[:8], _token_tag(page, data[8:])):
        raise Refused("InvalidArgument", "The continuation token provided is incorrect")
    return data[8:].decode()


def _token_tag(page: Page, data: bytes) -> bytes:
    bound = "\0".join((page.bucket, page.prefix, page.delimiter, "")).encode()
    return hmac.digest(_TOKEN_KEY, bound + hashlib.sha256(data).digest(), "sha256")[:8]


# XML


def render(page: Page, quirks: Quirks) -> str:
    """Return the XML of a page, in the order in which Amazon writes it."""
    text = _encoder(page, quirks)
    parts = [_element("Name", page.bucket), _element("Prefix", text(page.prefix))]
    if page.version == 2:
        parts += [] if page.token is None else [_element("ContinuationToken", _escaped(page.token))]
        parts += [_element("StartAfter", text(page.after))] if page.after else []
        parts.append(_element("KeyCount", str(len(page.rows) + len(page.prefixes))))
    else:
        parts.append(_element("Marker", text(page.after)))
        parts += [] if page.next_marker is None else [_element("NextMarker", text(page.next_marker))]
    if page.next_token is not None:
        parts.append(_element("NextContinuationToken", _escaped(page.next_token)))
    parts.append(_element("MaxKeys", str(page.max_keys)))
    parts += [_element("Delimiter", text(page.delimiter))] if page.delimiter else []
    parts += [_element("EncodingType", "url")] if page.encodes else []
    parts.append(_element("IsTruncated", str(page.is_truncated).lower()))
    parts += [_element("Contents", _row(row, text, page.version, quirks)) for row in page.rows]
    parts += [_element("CommonPrefixes", _element("Prefix", text(prefix))) for prefix in page.prefixes]
    return (
        f'<?xml version="1.0" encoding="UTF-8"?>\n<ListBucketResult xmlns="{_NAMESPACE}">'
        f"{''.join(parts)}</ListBucketResult>"
    )


def _row(row: Row, text: Callable[[str], str], version: int, quirks: Quirks) -> str:
    parts = [_element("Key", text(row.key)), _element("LastModified", row.last_modified)]
    if row.etag is not None:
        parts.append(_element("ETag", f"{quirks.list_etag_quote}{_escaped(row.etag)}{quirks.list_etag_quote}"))
    if row.checksum_algorithm is not None:
        parts.append(_element("ChecksumAlgorithm", row.checksum_algorithm))
    if row.checksum_type is not None:
        parts.append(_element("ChecksumType", row.checksum_type))
    parts.append(_element("Size", str(row.size)))
    if version == 1:
        parts.append("<Owner><ID>0123456789abcdef</ID><DisplayName>tester</DisplayName></Owner>")
    parts.append(_element("StorageClass", row.storage_class))
    return "".join(parts)


def _element(name: str, inner: str) -> str:
    return f"<{name}>{inner}</{name}>"


def _encoder(page: Page, quirks: Quirks) -> Callable[[str], str]:
    """Return how keys, prefixes and the like are written."""
    if not page.encodes:
        return _escaped
    if quirks.list_encoding == "ceph":
        return lambda text: quote(text, safe="", errors="surrogatepass")
    return lambda text: quote_plus(text, safe="/*", errors="surrogatepass").replace("~", "%7E")


def _escaped(text: str) -> str:
    # Amazon and Ceph write a control byte as a reference that XML 1.0 forbids: that is what encoding-type is for.
    return _NOT_IN_XML.sub(lambda match: f"&#x{ord(match[0]):x};", escape(text))
