"""Which bucket on which host a URL means. Pure rules over URLs; nothing here asks anybody.

What a host's name says wins over guessing: the makers below are known by their names, and the configured endpoint by
being configured. Every other host may be a bucket behind a domain of its own, or a store whose first path segment is
the bucket; then there are two readings, and the origin tries the likelier one first.

Sources: Amazon S3 User Guide ("Methods for accessing a bucket", "Virtual hosting of buckets"), the documentation of R2,
B2 and Cloud Storage on their S3 faces.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Final, Literal
from urllib.parse import quote, unquote, urlsplit

from fetcher.errors import ResourceError
from fetcher.model.text import shown

Maker = Literal["aws", "r2", "b2", "gcs", "endpoint", "custom", "web"]
"""Who serves it. ``endpoint``: what ``settings.s3_endpoint`` names. ``custom``: taken for a store of somebody's own.
``web``: taken for a domain that is one bucket, or for no S3 at all."""

REGION_FIRST: Final = "us-east-1"
"""Where an AWS bucket is looked for until an answer names its region."""

_REGION = re.compile(r"[a-z0-9][a-z0-9-]{1,30}[a-z0-9]")
_SIMPLE_BUCKET = re.compile(r"[a-z0-9][a-z0-9-]{1,61}[a-z0-9]")
"""A name that can stand in a host name before a wildcard certificate: no dots, no upper case, no underscore."""
_IP_OR_LOCAL = re.compile(r"[0-9.]+|.*:.*|localhost")

_AWS = re.compile(
    r"(?:(?P<bucket>.+)\.)?s3(?P<kind>(?:-fips)?(?:\.dualstack)?)(?:[.-](?P<region>[a-z0-9-]+))?\.(?P<top>amazonaws\.com(?:\.cn)?)"
)
_AWS_ACCELERATE = re.compile(r"(?P<bucket>[^.]+)\.s3-accelerate(?:\.dualstack)?\.amazonaws\.com")
_AWS_ACCESS_POINT = re.compile(
    r"(?P<bucket>[^.]+)\.s3-accesspoint(?:-fips)?(?:\.dualstack)?\.(?P<region>[a-z0-9-]+)\.amazonaws\.com(?:\.cn)?"
)
_AWS_WEBSITE = re.compile(r".+\.s3-website[.-][a-z0-9-]+\.amazonaws\.com(?:\.cn)?")
_AWS_UNSUPPORTED: Final = (
    (re.compile(r".*\.accesspoint\.s3-global\.amazonaws\.com"), "a multi-region access point"),
    (re.compile(r".*\.s3express-[a-z0-9-]+\..*amazonaws\.com(?:\.cn)?"), "an S3 Express directory bucket"),
    (re.compile(r".*\.s3-outposts\..*amazonaws\.com(?:\.cn)?"), "a bucket on S3 Outposts"),
    (re.compile(r".*\.s3-object-lambda\..*amazonaws\.com(?:\.cn)?"), "an S3 Object Lambda access point"),
)
_R2 = re.compile(
    r"(?:(?P<bucket>.+)\.)?(?P<host>(?!eu\.|fedramp\.)[^.]+(?:\.eu|\.fedramp)?\.r2\.cloudflarestorage\.com)"
)
_R2_PUBLIC = re.compile(r"[^.]+\.r2\.dev")
_B2 = re.compile(r"(?:(?P<bucket>.+)\.)?(?P<host>s3\.(?P<region>[a-z0-9-]+)\.backblazeb2\.com)")
_B2_NATIVE = re.compile(r"f[0-9]+\.backblazeb2\.com")
_GCS = re.compile(r"(?:(?P<bucket>.+)\.)?(?P<host>storage\.googleapis\.com)")


@dataclass(frozen=True, slots=True)
class Bucket:
    """One bucket and where it is asked."""

    maker: Maker
    host_url: str
    """``scheme://host[:port]``, no slash at its end."""
    name: str | None
    """None: the host is the bucket, or no bucket at all."""
    in_path: bool
    """Whether its name is the first segment of every path."""
    region: str | None = None
    """What signatures for it must name, as far as it is known."""
    host_pattern: str | None = None
    """``host_url`` with ``{region}`` in it, where another region means another host (AWS)."""
    lists: bool = True
    """False: a host known never to list."""
    exact: bool = False
    """Its keys are paths as somebody wrote them, percent-encoded: a signature may be over their very bytes."""

    @property
    def root(self) -> str:
        """The URL that a listing is asked at, without its last slash."""
        return _root(self.host_url, self.name) if self.in_path else self.host_url

    @property
    def identity(self) -> str:
        """What stays the same in whatever region it is asked."""
        return f"{self.host_pattern} {self.name}" if self.host_pattern else self.root

    @property
    def speaks_s3(self) -> bool:
        """Whether the host is an S3 by its name or by configuration, not by our guess."""
        return self.maker in ("aws", "r2", "b2", "gcs", "endpoint")

    def url(self, key: str) -> str:
        """The exact URL of an object: each byte percent-encoded as signatures count it, once."""
        if self.exact:
            return f"{self.root}/{key}"
        return f"{self.root}/{quote(key, safe='/~', errors='surrogateescape')}"

    def at_region(self, region: str) -> Bucket:
        """The same bucket, asked in another region. ``region`` may come from a stranger: only AWS's host names depend
        on it, and they stay AWS's."""
        if self.host_pattern is None or not is_region(region):
            return replace(self, region=region)
        return replace(self, region=region, host_url=self.host_pattern.replace("{region}", region))


@dataclass(frozen=True, slots=True)
class Reading:
    """One meaning of a URL."""

    bucket: Bucket
    key: str
    """Decoded; of an object, or a prefix with or without its slash; empty for the whole bucket."""


def is_region(text: str) -> bool:
    """Whether ``text`` can be the name of a region."""
    return _REGION.fullmatch(text) is not None


def is_api_host(url: str, endpoint: str) -> bool:
    """Whether ``url`` leads to an S3: ``s3://``, AWS, R2, B2 and GCS by their names, or the configured ``endpoint``."""
    if url.startswith("s3://"):
        return True
    found = known_host(url, endpoint)
    return found is not None and found.speaks_s3


def readings(
    url: str, *, bucket: str | None, endpoint: str, region: str | None = None, signed: bool = False
) -> tuple[Reading, ...]:
    """What a location's ``url`` can mean, the likeliest first; at most two.

    ``bucket``: what the document names beside the URL. ``endpoint``: where ``s3://`` leads. ``region``: what the keys
    come with. ``signed``: whether requests will be signed. Raises ResourceError for what we can't read, or won't.
    """
    scheme = url.partition("://")[0]
    path = _decoded_path(url)
    if scheme == "s3":
        name = urlsplit(url).netloc
        _refuse_unsupported_bucket(name, url)
        return (Reading(_at_endpoint(name, endpoint, region), path),)
    known = known_host(url, endpoint)
    if known is not None:
        return (_at_known_host(known, path, url, bucket, region),)
    return _at_unknown_host(url, path, bucket, signed=signed)


def as_written(url: str) -> Reading:
    """An http(s) ``url`` as it stands: for what is asked with a query of its own, and with nothing else."""
    parts = urlsplit(url)
    bucket = Bucket("web", f"{parts.scheme}://{parts.netloc}", None, in_path=False, lists=False, exact=True)
    return Reading(bucket, parts.path.removeprefix("/"))


def known_host(url: str, endpoint: str) -> Bucket | None:
    """What the host of an http(s) ``url`` says by itself; None for a host that says nothing.

    Where the path names the bucket, ``name`` is None and ``in_path`` True. Raises ResourceError for hosts that are S3
    of a kind we don't speak.
    """
    scheme, _, rest = url.partition("://")
    found = _of_host(scheme, rest.partition("/")[0], endpoint)
    if isinstance(found, str):
        raise _unsupported(found, url)
    return found


@lru_cache(maxsize=256)
def _of_host(scheme: str, netloc: str, endpoint: str) -> Bucket | str | None:
    """As ``known_host``; the name of the kind that we don't speak, instead of an error. Remembered, because each object
    of a bucket asks the same."""
    host_url = f"{scheme}://{netloc}"
    host = urlsplit(host_url).hostname or ""
    for pattern, what in _AWS_UNSUPPORTED:
        if pattern.fullmatch(host):
            return what
    if _AWS_WEBSITE.fullmatch(host) or _R2_PUBLIC.fullmatch(host) or _B2_NATIVE.fullmatch(host):
        return Bucket("web", host_url, None, in_path=False, lists=False)
    if found := _AWS_ACCELERATE.fullmatch(host) or _AWS_ACCESS_POINT.fullmatch(host):
        return Bucket("aws", host_url, found["bucket"], in_path=False, region=found.groupdict().get("region"))
    if found := _AWS.fullmatch(host):
        return _aws(scheme, host_url, found)
    if found := _R2.fullmatch(host):
        return _of_maker("r2", scheme, found, "auto")
    if found := _B2.fullmatch(host):
        return _of_maker("b2", scheme, found, found["region"])
    if found := _GCS.fullmatch(host):
        return _of_maker("gcs", scheme, found, "auto")
    own = endpoint.rstrip("/")
    if host_url == own:
        return Bucket("endpoint", host_url, None, in_path=True)
    own_scheme, _, own_netloc = own.partition("://")
    if scheme == own_scheme and netloc.endswith(f".{own_netloc}"):
        return Bucket("endpoint", host_url, netloc.removesuffix(f".{own_netloc}"), in_path=False)
    return None


@lru_cache(maxsize=256)
def _root(host_url: str, name: str | None) -> str:
    return f"{host_url}/{quote(name or '', safe='')}"


def _aws(scheme: str, host_url: str, found: re.Match[str]) -> Bucket:
    bucket, kind, region, top = found["bucket"], found["kind"], found["region"], found["top"]
    if region == "external-1":  # the old name of us-east-1's own endpoint
        region = REGION_FIRST
    in_path = bucket is None or not _SIMPLE_BUCKET.fullmatch(bucket)
    pattern = f"{scheme}://{'' if in_path else f'{bucket}.'}s3{kind}.{{region}}.{top}"
    if bucket is not None and in_path:
        # A wildcard certificate is good for one label; such a bucket can be asked by path only.
        host_url = pattern.replace("{region}", region or REGION_FIRST)
    return Bucket("aws", host_url, bucket, in_path, region, pattern)


def _of_maker(maker: Maker, scheme: str, found: re.Match[str], region: str) -> Bucket:
    bucket = found["bucket"]
    in_path = bucket is None or not _SIMPLE_BUCKET.fullmatch(bucket)
    host = found["host"] if in_path else f"{bucket}.{found['host']}"
    return Bucket(maker, f"{scheme}://{host}", bucket, in_path, region)


def _at_endpoint(name: str, endpoint: str, region: str | None) -> Bucket:
    """Where ``s3://name`` leads: by host name at AWS, by path at every other endpoint."""
    host = known_host(endpoint, endpoint)
    assert host is not None  # it is the endpoint
    if host.maker != "aws":
        return replace(host, name=name, in_path=True)
    pattern = host.host_pattern or host.host_url
    in_path = not _SIMPLE_BUCKET.fullmatch(name)
    if not in_path:
        pattern = pattern.replace("://", f"://{name}.", 1)
    at = host.region or region or REGION_FIRST
    return Bucket("aws", pattern.replace("{region}", at), name, in_path, at, pattern)


def _at_known_host(host: Bucket, path: str, url: str, bucket: str | None, region: str | None) -> Reading:
    if host.name is not None or host.maker == "web":
        if bucket is not None and host.name is not None and bucket.lower() != host.name.lower():
            raise ResourceError(
                f"the host of {shown(url)} is the bucket {host.name!r}, but the bucket is said to be {bucket!r}",
                hint="leave bucket out, or name the endpoint's host without a bucket in front",
            )
        key = path
    else:
        first, _, rest = path.partition("/")
        if bucket is not None and first != bucket:
            first, rest = bucket, path
        if not first:
            raise ResourceError(
                f"{shown(url)} names no bucket", hint="the bucket is the first segment of the path, or give bucket"
            )
        host, key = replace(host, name=first), rest
    _refuse_unsupported_bucket(host.name or "", url)
    if host.maker == "aws" and host.region is None and region and is_region(region):
        host = host.at_region(region)
    return Reading(host, key)


def _at_unknown_host(url: str, path: str, bucket: str | None, *, signed: bool) -> tuple[Reading, ...]:
    parts = urlsplit(url)
    host_url = f"{parts.scheme}://{parts.netloc}"
    domain = Reading(Bucket("web", host_url, None, in_path=False), path)
    first, _, rest = path.partition("/")
    if bucket is not None:
        if parts.netloc.lower().startswith(f"{bucket.lower()}."):
            return (Reading(Bucket("custom", host_url, bucket, in_path=False), path),)
        store = Reading(Bucket("custom", host_url, bucket, in_path=True), rest if first == bucket else path)
        return (store, domain)
    if not first:
        return (domain,)
    store = Reading(Bucket("custom", host_url, first, in_path=True), rest)
    # Nobody's domain is an IP address, and nobody signs for a domain that is one bucket.
    return (store, domain) if signed or _IP_OR_LOCAL.fullmatch(parts.hostname or "") else (domain, store)


def _decoded_path(url: str) -> str:
    """The path of ``url`` as a key: ``%XX`` resolved, a literal ``+`` kept."""
    try:
        return unquote(urlsplit(url).path.removeprefix("/"), errors="strict")
    except UnicodeDecodeError:
        raise ResourceError(
            f"the path of {shown(url)} is not UTF-8", hint="encode its letters as UTF-8 before percent-encoding them"
        ) from None


def _refuse_unsupported_bucket(name: str, url: str) -> None:
    if name.endswith("--x-s3"):
        raise _unsupported("an S3 Express directory bucket", url)
    if name.endswith(".mrap"):
        raise _unsupported("a multi-region access point", url)


def _unsupported(what: str, url: str) -> ResourceError:
    return ResourceError(
        f"{shown(url)} is {what}, which takes requests of another kind", hint="name a general purpose bucket instead"
    )
