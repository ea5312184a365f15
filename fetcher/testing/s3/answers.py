"""Answers about buckets: which there are, and where one lives. Whether the asker may know was decided before."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime
from xml.sax.saxutils import escape

from fetcher.testing.contents import BytesContent
from fetcher.testing.messages import Reply
from fetcher.testing.s3 import errors
from fetcher.testing.s3.buckets import Bucket

_NAMESPACE = "http://s3.amazonaws.com/doc/2006-03-01/"
_CREATED_UNIX_S = 1_700_000_000


def buckets(found: Iterable[Bucket]) -> Reply:
    """Answer GET on the service: ListBuckets."""
    created = datetime.fromtimestamp(_CREATED_UNIX_S, UTC).strftime("%Y-%m-%dT%H:%M:%S.000Z")
    rows = "".join(
        f"<Bucket><Name>{escape(bucket.name)}</Name><CreationDate>{created}</CreationDate></Bucket>" for bucket in found
    )
    owner = "<Owner><ID>0123456789abcdef</ID><DisplayName>tester</DisplayName></Owner>"
    return _xml(
        f'<ListAllMyBucketsResult xmlns="{_NAMESPACE}">{owner}<Buckets>{rows}</Buckets></ListAllMyBucketsResult>'
    )


def bucket(found: Bucket, subresource: str | None) -> Reply:
    """Answer HEAD on a bucket, or GET of its location; the region of old is written as nothing."""
    if subresource is None:
        return Reply(200, {"Content-Type": errors.XML, "x-amz-bucket-region": found.region})
    region = "" if found.region == "us-east-1" else found.region
    return _xml(f'<LocationConstraint xmlns="{_NAMESPACE}">{region}</LocationConstraint>')


def _xml(inner: str) -> Reply:
    text = f'<?xml version="1.0" encoding="UTF-8"?>\n{inner}'
    return Reply(200, {"Content-Type": errors.XML}, BytesContent(text.encode()))
