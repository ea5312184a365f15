"""Reading a request to the embedded S3: which bucket and key are meant, and what is asked of them.

Names only; whether any of them exists is for others to say.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from dataclasses import dataclass

from fetcher.testing.messages import Request
from fetcher.testing.s3 import signing
from fetcher.testing.s3.buckets import KEY_BYTES_MAX
from fetcher.testing.s3.errors import Refused

# What changes the meaning of a GET on a bucket or an object, and is not read here.
_NAMES = (
    "accelerate acl analytics attributes cors encryption inventory legal-hold lifecycle logging metrics notification "
    "object-lock ownershipControls policy policyStatus publicAccessBlock replication requestPayment retention select "
    "session tagging torrent uploadId uploads versions versioning website"
)
_SUBRESOURCES = frozenset(_NAMES.split(" "))


@dataclass(frozen=True, slots=True)
class Route:
    """What a request is about."""

    name: str
    """``list``, ``object``, ``bucket`` or ``other``: a route of ``records.ROUTES``."""
    bucket: str | None = None
    """None: the service as a whole."""
    key: str = ""
    subresource: str | None = None
    """``location``, or one that is not implemented."""


def host_of(request: Request) -> str:
    """Return the host a request is for, in lower case, without port."""
    host = request.headers["host"].lower()
    return host if host.endswith("]") else host.rpartition(":")[0] or host


def bucket_of_host(host: str, domains: Iterable[str]) -> str | None:
    """Return the bucket that a virtual-hosted name means; None for path style, as with every IP address."""
    try:
        ipaddress.ip_address(host.strip("[]"))
        return None
    except ValueError:
        pass
    # The longest first: of two domains one may lie below the other, and is then no bucket of it.
    for domain in sorted((domain.lower() for domain in domains), key=len, reverse=True):
        if host == domain:
            return None
        if host.endswith(f".{domain}"):
            return host.removesuffix(f".{domain}") or None
    return None


def parse(request: Request, bucket: str | None, *, plus_is_space: bool = True) -> Route:
    """Return the route of a request; ``bucket`` is that of its host, if that names one.

    S3 reads a plus in a path as a space; a host that is no S3 may not. Never refuses: a path that can't be read is
    ``other``, and ``check`` says why.
    """
    path = request.path.removeprefix("/")
    if not plus_is_space:
        path = path.replace("+", "%2B")
    if bucket is None:
        name, slash, path = path.partition("/")
        if not name:
            return Route("bucket" if not slash else "other")
        bucket = _decoded(name)
        if bucket is None:
            return Route("other")
    key = _decoded(path)
    if key is None:
        return Route("other", bucket)
    names = {item.partition("=")[0] for item in request.query.split("&")}
    subresource = "location" if "location" in names and not key else next(iter(sorted(names & _SUBRESOURCES)), None)
    if key:
        return Route("object", bucket, key, subresource)
    lists = request.method == "GET" and subresource is None
    return Route("list" if lists else "bucket", bucket, "", subresource)


def check(request: Request, route: Route) -> None:
    """Refuse what no S3 would answer: a path that is not UTF-8, a key that is too long, a method we do not know."""
    if _decoded(request.path) is None or route.name == "other":
        raise Refused("InvalidURI")
    if len(route.key.encode()) > KEY_BYTES_MAX:
        raise Refused("KeyTooLongError", elements={"MaxSizeAllowed": str(KEY_BYTES_MAX)})
    if request.method not in ("GET", "HEAD"):
        raise Refused("MethodNotAllowed", elements={"Method": request.method}, headers={"Allow": "GET, HEAD"})
    if route.subresource not in (None, "location"):
        raise Refused("NotImplemented", elements={"Query": str(route.subresource)})


def _decoded(text: str) -> str | None:
    try:
        return signing.decoded(text)
    except UnicodeDecodeError:
        return None
