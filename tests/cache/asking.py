"""Questions to a cache about one content, as tests ask them: the product asks for many at once."""

from __future__ import annotations

from fetcher.cache.records import Blob, FlightClaim
from fetcher.cache.store import Cache
from fetcher.model.digest import Digest

UNKNOWN = ""
"""A content that nobody has fetched."""


def blob_of(cache: Cache, root: str) -> Blob | None:
    """The Blob of this name, if it has a row and its body is there."""
    with cache.index.read() as rows:
        row = rows.execute("SELECT size FROM blobs WHERE root = ?", (root,)).fetchone()
    return cache.blobs.proven(root, row[0]) if row else None


def blob_with(cache: Cache, digest: Digest, size: int, *, principal: str | None) -> Blob | None:
    """A Blob with this sha256 that this principal may have."""
    return blob_of_content(cache, UNKNOWN, digest, size, principal=principal)


def blob_of_content(
    cache: Cache, content_id: str, digest: Digest | None, size: int, *, principal: str | None
) -> Blob | None:
    """What ``Blobs.of_contents`` says of one content."""
    (found,) = cache.blobs.of_contents([(content_id, digest, size)], principal=principal)
    return found


def claimed(cache: Cache, content_id: str, size: int) -> FlightClaim:
    """What ``Flights.claim`` says of one content."""
    (claim,) = cache.flights.claim([(content_id, size)])
    return claim
