"""Answers to GET and HEAD of one object: conditions, ranges, parts, checksums, as Amazon's or as a quirk says.

Whether the asker may have it was decided before. Sends nothing.
"""

from __future__ import annotations

import re
from calendar import timegm
from email.utils import parsedate
from hashlib import md5

from fetcher.testing import bodies
from fetcher.testing.messages import Reply, Request
from fetcher.testing.s3.access import http_date
from fetcher.testing.s3.buckets import S3Object
from fetcher.testing.s3.errors import Refused
from fetcher.testing.s3.quirks import Quirks

_KMS_KEY = "arn:aws:kms:us-east-1:111122223333:key/00000000-0000-0000-0000-000000000000"


def answer(request: Request, part_number: str | None, stored: S3Object, quirks: Quirks) -> Reply:
    """Answer with the object, a range or a part of it: 200 or 206; refuse with 304, 403, 412 or 416."""
    if request.method == "GET" and stored.is_archived:
        raise Refused("InvalidObjectState", elements={"StorageClass": stored.storage_class})
    index = _part_index(request, part_number, stored, quirks)
    etag = etag_of(stored, quirks, index)
    _check_conditions(request, etag, stored, quirks)
    reply = Reply(200, _describe(stored, quirks), stored.content)
    if etag is not None:
        reply.headers["ETag"] = etag
    if index is None:
        span = _range(request, etag, stored, quirks)
    else:
        span = stored.spans[index]
        if stored.part_sizes is not None:
            reply.headers["x-amz-mp-parts-count"] = str(len(stored.part_sizes))
    if index is not None or span is not None:
        reply.start, reply.stop = span or (0, 0)
        reply.status = 200 if quirks.ranges == "as-200" and index is None else 206
        if span is not None and span[0] < span[1]:
            reply.headers["Content-Range"] = bodies.content_range(span, stored.content.size)
    reply.headers |= _checksum(request, stored, quirks, index, ranged=span is not None)
    reply.chunked = quirks.content_length == "missing"
    return reply


def etag_of(stored: S3Object, quirks: Quirks, part_index: int | None = None) -> str | None:
    """Return the ETag header of an object, with its quotes; None where the server sends none."""
    if quirks.validator in ("last-modified", "none"):
        return None
    tag = stored.etag
    if quirks.edge_etag:
        tag = md5(f"an edge's copy of {tag}".encode(), usedforsecurity=False).hexdigest()
    if part_index is not None and quirks.part_number == "part-etag" and stored.part_sizes is not None:
        tag = stored.part_etag(part_index)
    return f'W/"{tag}"' if quirks.validator == "weak" else f'"{tag}"'


def _describe(stored: S3Object, quirks: Quirks) -> dict[str, str]:
    headers = {"Content-Type": stored.content_type}
    if quirks.ranges == "206":
        headers["Accept-Ranges"] = "bytes"
    if quirks.validator != "none":
        headers["Last-Modified"] = http_date(stored.last_modified_s)
    encoding = quirks.content_encoding or stored.content_encoding
    if encoding is not None:
        headers["Content-Encoding"] = encoding
    if stored.sse is not None:
        headers["x-amz-server-side-encryption"] = stored.sse
        if stored.sse != "AES256":
            headers["x-amz-server-side-encryption-aws-kms-key-id"] = _KMS_KEY
    if stored.storage_class != "STANDARD":
        headers["x-amz-storage-class"] = stored.storage_class
    return headers


def _check_conditions(request: Request, etag: str | None, stored: S3Object, quirks: Quirks) -> None:
    """Refuse when a condition fails. If-Match wins over the dates, as in RFC 9110 13.2.2."""
    asked = request.headers
    if "if-match" in asked:
        if quirks.if_match == "obeyed" and not _matches(asked["if-match"], etag, strongly=True):
            raise Refused("PreconditionFailed", elements={"Condition": "If-Match"})
    elif "if-unmodified-since" in asked:
        since = _date(asked["if-unmodified-since"])
        if since is not None and stored.last_modified_s > since:
            raise Refused("PreconditionFailed", elements={"Condition": "If-Unmodified-Since"})
    unchanged = {} if etag is None else {"ETag": etag}
    if "if-none-match" in asked:
        if _matches(asked["if-none-match"], etag, strongly=False):
            raise Refused("NotModified", headers=unchanged)
    elif "if-modified-since" in asked:
        since = _date(asked["if-modified-since"])
        if since is not None and stored.last_modified_s <= since:
            raise Refused("NotModified", headers=unchanged)


def _matches(header: str, etag: str | None, *, strongly: bool) -> bool:
    if header.strip() == "*":
        return True
    if etag is None or (strongly and etag.startswith("W/")):
        return False
    # S3 takes a tag without quotes too; a weak one equals nothing strongly.
    bare = etag.removeprefix("W/").strip('"')
    tags = [tag.strip() for tag in header.split(",")]
    return any(tag.removeprefix("W/").strip('"') == bare for tag in tags if not (strongly and tag.startswith("W/")))


def _date(text: str) -> int | None:
    parsed = parsedate(text)
    return None if parsed is None else timegm(parsed)


def _part_index(request: Request, part_number: str | None, stored: S3Object, quirks: Quirks) -> int | None:
    if part_number is None or quirks.part_number == "ignored":
        return None
    if not re.fullmatch(r"[0-9]{1,5}", part_number) or not 1 <= int(part_number) <= 10_000:
        raise Refused("InvalidArgument", "Part number must be an integer between 1 and 10000, inclusive")
    if "range" in request.headers:
        raise Refused("InvalidRequest", "Cannot specify both Range header and partNumber query parameter")
    if int(part_number) > len(stored.spans):
        elements = {"PartNumberRequested": part_number, "ActualPartCount": str(len(stored.spans))}
        raise Refused("InvalidPartNumber", elements=elements)
    return int(part_number) - 1


def _range(request: Request, etag: str | None, stored: S3Object, quirks: Quirks) -> tuple[int, int] | None:
    if quirks.ranges == "ignored":
        return None
    strong = None if etag is None or etag.startswith("W/") else etag
    if quirks.if_range == "obeyed" and "if-range" in request.headers and request.headers["if-range"] != strong:
        return None
    span = bodies.parse_range(request.headers.get("range"), stored.content.size)
    if span is not None and span[0] >= span[1]:
        size = str(stored.content.size)
        elements = {"RangeRequested": request.headers["range"], "ActualObjectSize": size}
        raise Refused("InvalidRange", elements=elements, headers={"Content-Range": f"bytes */{size}"})
    return span


def _checksum(
    request: Request, stored: S3Object, quirks: Quirks, part_index: int | None, *, ranged: bool
) -> dict[str, str]:
    """Headers of the additional checksum: of the whole object, or of the part asked for by its number."""
    if request.headers.get("x-amz-checksum-mode", "").upper() != "ENABLED":
        return {}
    if quirks.checksum_mode == "denied":
        raise Refused("AccessDenied")
    if quirks.checksum_mode == "unknown":
        raise Refused("InvalidArgument", "Unsupported header 'x-amz-checksum-mode' received for this API call.")
    if quirks.checksum_mode == "ignored" or stored.checksum is None:
        return {}
    name = f"x-amz-checksum-{stored.checksum}"
    if part_index is not None:
        in_parts = stored.part_sizes is not None
        value = stored.part_checksum(part_index) if in_parts else stored.checksum_value
    elif ranged and not quirks.checksum_on_range:
        return {}
    else:
        value = stored.checksum_value
    return {name: value, "x-amz-checksum-type": stored.checksum_type}
