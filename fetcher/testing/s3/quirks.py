"""Manners in which real object stores and front ends differ from Amazon's, each with where it was seen.

Plain values. A whole ``S3``, a bucket or a site can have them; who answers asks here and nowhere else.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True)
class Quirks:
    """How a server behaves where servers differ. The defaults are Amazon's."""

    if_match: Literal["obeyed", "ignored"] = "obeyed"
    """``ignored``: an object that changed is served as if nothing were wrong (rclone, s3rver)."""
    if_range: Literal["obeyed", "ignored"] = "ignored"
    """All real servers tried ignore it: Ceph, Swift, rclone, moto. ``obeyed``: as RFC 9110 says."""
    ranges: Literal["206", "ignored", "as-200"] = "206"
    """``ignored``: 200 and the whole object (moto for several ranges, CloudFront before a chunked origin).
    ``as-200``: 200 with Content-Range and only the part (rclone)."""
    validator: Literal["strong", "weak", "last-modified", "none"] = "strong"
    """``weak``: ``W/"…"``, and no If-Match succeeds (a front end that compresses). ``last-modified``: no ETag, also not
    in listings (simple web servers). ``none``: neither (generated pages, some proxies)."""
    edge_etag: bool = False
    """Objects come with another strong ETag than the listing states, and If-Match knows only that one (a CDN whose copy
    is older than the bucket, or that makes its own tags)."""
    part_number: Literal["obeyed", "ignored", "part-etag"] = "obeyed"
    """``ignored``: the whole object and no count of parts (Ceph 16, rclone). ``part-etag``: the part comes with the MD5
    of its own as ETag, with which no later If-Match succeeds (Ceph)."""
    checksum_mode: Literal["obeyed", "ignored", "denied", "unknown"] = "obeyed"
    """Answer to ``x-amz-checksum-mode``. ``ignored``: no checksums (Ceph, Swift). ``denied``: 403, as without the right
    to use the KMS key (Amazon). ``unknown``: 400, as servers that know not every header (B2)."""
    checksum_on_range: bool = False
    """A range comes with the checksum of the whole object (rclone, MinIO before 2023)."""
    content_length: Literal["stated", "missing"] = "stated"
    """``missing``: chunked (a proxy that streams)."""
    content_encoding: str | None = None
    """Put on every object though its bytes are as stored, such as ``aws-chunked`` (stores that keep the header of an
    upload)."""
    compresses: bool = False
    """Text is compressed for who accepts it: chunked, whole, weak ETag (Cloudflare, CloudFront)."""
    list_versions: Literal["both", "v1"] = "both"
    """``v1``: ``list-type=2`` is not known: no KeyCount, no token, but Marker and NextMarker (old stores)."""
    list_encoding: Literal["aws", "ceph", "ignored"] = "aws"
    """How ``encoding-type=url`` writes a space and a slash: ``+`` and ``/`` (Amazon, rclone), or ``%20`` and ``%2F``
    (Ceph). ``ignored``: not at all, and a control byte then breaks the page (s3rver)."""
    list_token: Literal["opaque", "last-key"] = "opaque"
    """``last-key``: the continuation token is the last key itself (Ceph)."""
    list_etag_quote: str = "&quot;"
    """Around an ETag in a listing: ``&quot;`` (Amazon), ``&#34;`` (Go), or nothing (rclone)."""


AWS = Quirks()
CEPH = Quirks(part_number="ignored", checksum_mode="ignored", list_encoding="ceph", list_token="last-key")
"""Ceph RGW 16, as far as these manners go."""
RCLONE = Quirks(if_match="ignored", ranges="as-200", part_number="ignored", checksum_on_range=True, list_etag_quote="")
"""``rclone serve s3`` 1.75."""
