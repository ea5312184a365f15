"""Another host: where objects may be redirected to, and whose answers no credential opens.

Each address is good for one object. Whoever brings a signature or a token along has sent it to a stranger.
"""

from __future__ import annotations

import hashlib
from urllib.parse import quote

from fetcher.testing.messages import Reply, Request
from fetcher.testing.s3 import access, objects
from fetcher.testing.s3.buckets import Bucket
from fetcher.testing.s3.errors import Refused
from fetcher.testing.s3.quirks import Quirks


class Elsewhere:
    """Objects by address, for the second listener."""

    def __init__(self) -> None:
        self._places: dict[str, tuple[Bucket, str]] = {}

    def address(self, bucket: Bucket, key: str) -> str:
        """Return the path under which the object is to be had, as it stands in a URL."""
        token = hashlib.sha256(f"{bucket.name}\0{key}".encode()).hexdigest()[:32]
        path = f"/{token}/{quote(key, safe='')}"
        self._places[path] = bucket, key
        return path

    def owner_of(self, request: Request) -> tuple[str, str] | tuple[None, None]:
        """Return bucket and key of the object that an address is for."""
        bucket, key = self._places.get(request.path, (None, None))
        return (bucket.name, key) if bucket is not None and key is not None else (None, None)

    def answer(self, request: Request, quirks: Quirks) -> Reply:
        """Answer a request to the other host."""
        if access.carries_credentials(request):
            raise Refused("InvalidArgument", "Credentials were sent to a host that they are not for")
        if request.method not in ("GET", "HEAD"):
            raise Refused("MethodNotAllowed")
        bucket, key = self._places.get(request.path, (None, ""))
        stored = bucket.objects.get(key) if bucket is not None else None
        if stored is None:
            raise Refused("NoSuchKey")
        return objects.answer(request, None, stored, quirks)
