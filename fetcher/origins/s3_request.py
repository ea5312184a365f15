"""Requests to S3 stores and web hosts: made as an asker, aimed at the right region, followed where redirects lead.

Sends nothing. What it takes from ``Memory`` is what hosts are like; what a request may carry is the asker's alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache

from fetcher.errors import ResourceError
from fetcher.model.asker import Asker
from fetcher.model.s3_address import REGION_FIRST, Bucket, known_host
from fetcher.model.secret import AWSKeys, Secret
from fetcher.net.request import REDIRECT_STATUSES, Answer, Purpose, Request, origin_of, redirected
from fetcher.origins.s3_errors import Who
from fetcher.origins.s3_memory import Memory

CHECKSUM_MODE = ("x-amz-checksum-mode", "ENABLED")


class Requests:
    """Makes requests; one for an origin."""

    def __init__(self, endpoint: str, memory: Memory) -> None:
        self._endpoint = endpoint
        self._memory = memory

    def request(
        self,
        method: str,
        bucket: Bucket,
        url: str,
        asker: Asker,
        *,
        query: str = "",
        headers: Sequence[tuple[str, str]] = (),
        purpose: Purpose = "api",
    ) -> Request:
        """A request to ``url`` of ``bucket`` (as ``Memory.placed`` has it), as ``asker``: signed, anonymous, or with
        the query that is its credential, which stands instead of ``query``."""
        origin = origin_of(url)
        keys = keys_for(bucket, asker)
        own_query = query_of(asker, url)
        query = own_query or query
        return Request(
            method,
            f"{url}?{query}" if query else url,
            headers=tuple(headers),
            credential=keys,
            credential_origin=None if keys is None else origin,
            clock_skew_s=self._memory.host(origin).clock_skew_s if keys is not None else 0.0,
            trusted_origins=asker.trusted_origins,
            purpose=purpose,
            secret_query=bool(own_query),
        )

    def lists(self, url: str) -> bool:
        """Whether the bucket of an object has shown that it is an S3's: that of its path, or the host as a whole."""
        whole = _whole(_host_and_name(url)[0])
        return self._memory.site(whole).lists or self._memory.site(self.bucket_of(url)).lists

    def bears_checksum_mode(self, bucket: Bucket, url: str, asker: Asker) -> bool:
        """Whether a request there may ask for checksums: of an S3, and not where a signature covers the URL only."""
        taken_for_s3 = isinstance(asker.credential, AWSKeys) or (not bucket.speaks_s3 and self.lists(url))
        is_s3 = bucket.maker != "b2" if bucket.speaks_s3 else taken_for_s3  # B2 takes no header that it does not know
        return is_s3 and self._memory.site(bucket).takes_checksum_mode and not isinstance(asker.credential, Secret)

    def follow(self, request: Request, response: Answer) -> Request | None:
        """Where a redirect leads; None if it is none, or does not say (then its body may: see ``_mended``).

        Keys go along only to where AWS has the same bucket; they are never sent to a host that merely says so.
        """
        region = response.headers.get("x-amz-bucket-region", "")
        if response.status in REDIRECT_STATUSES or response.status == 400:
            moved = self._in_region(request, region)
            if moved is not None:
                return moved
        if response.status not in REDIRECT_STATUSES or not response.headers.get("Location"):
            return None
        following = redirected(request, response)
        if following is None or following.origin == request.origin:
            return following
        headers = tuple((name, value) for name, value in following.headers if not name.lower().startswith("x-amz-"))
        bucket, target = self._aws_bucket(request.url), self._aws_bucket(following.url)
        keys = request.carried_credential
        if (
            isinstance(keys, AWSKeys)
            and bucket is not None
            and target is not None
            and target.identity == bucket.identity
            and not (request.url.startswith("https:") and not following.url.startswith("https:"))
        ):
            if target.region:
                self._memory.learn_region(bucket, None, target.region)
                keys = replace(keys, region=target.region)
            origin = following.origin
            return replace(following, headers=request.headers, credential=keys, credential_origin=origin)
        return replace(following, headers=headers)

    def _in_region(self, request: Request, region: str) -> Request | None:
        """``request`` to the same bucket in ``region``, if that is another than it was made for."""
        bucket = self.bucket_of(request.url)
        keys = request.carried_credential
        asked_in = keys.region if isinstance(keys, AWSKeys) else bucket.region
        if not region or not self._memory.learn_region(bucket, asked_in, region):
            return None
        placed = self._memory.placed(bucket)
        if not request.url.startswith(f"{bucket.host_url}/"):
            return None
        url = placed.host_url + request.url[len(bucket.host_url) :]
        if url == request.url and keys is None:
            return None
        if isinstance(keys, AWSKeys):
            return replace(request, url=url, credential=replace(keys, region=region), credential_origin=origin_of(url))
        return replace(request, url=url)

    def _aws_bucket(self, url: str) -> Bucket | None:
        found = self.bucket_of(url)
        return found if found.maker == "aws" and found.name is not None else None

    def bucket_of(self, url: str) -> Bucket:
        """The bucket of an exact object URL that we made, or were led to. Where a host does not say where its bucket's
        name stands, the first segment of the path is taken for it: it names what is remembered, nothing else."""
        host_url, name = _host_and_name(url)
        try:
            found = known_host(host_url, self._endpoint)
        except ResourceError:  # a redirect to an S3 of a kind we don't speak: a host like any other
            found = None
        if found is None:
            found = _store(host_url)
        return _called(found, name) if found.name is None and found.in_path else found


def _host_and_name(url: str) -> tuple[str, str]:
    """``scheme://host:port`` as it is written in an exact URL, and the first segment of its path."""
    scheme, _, rest = url.partition("?")[0].partition("#")[0].partition("://")
    netloc, _, path = rest.partition("/")
    return f"{scheme}://{netloc}", path.partition("/")[0]


# Made for each object of a bucket, several times; made anew they would cost as much as a signature.


@lru_cache(maxsize=256)
def _whole(host_url: str) -> Bucket:
    return Bucket("web", host_url, None, in_path=False)


@lru_cache(maxsize=256)
def _store(host_url: str) -> Bucket:
    return Bucket("custom", host_url, None, in_path=True)


@lru_cache(maxsize=256)
def _called(host: Bucket, name: str) -> Bucket:
    return replace(host, name=name)


def keys_for(bucket: Bucket, asker: Asker) -> AWSKeys | None:
    """The keys of ``asker`` for requests to ``bucket``: with the region that an answer or the host named, else the one
    that came with them."""
    keys = asker.credential
    if not isinstance(keys, AWSKeys):
        return None
    region = bucket.region or keys.region or REGION_FIRST
    return keys if keys.region == region else replace(keys, region=region)


def query_of(asker: Asker, url: str) -> str:
    """The query with which ``asker`` may ask for ``url``; empty if there is none.

    Its secret holds, joined by NUL, the URL that each query came with, a space and the query (``credentials.for_s3``).
    A query that came with a folder's URL counts for all below it (Azure's and CDNs' signatures can).
    """
    if not isinstance(asker.credential, Secret):
        return ""
    best = ""
    found = ""
    for pair in asker.credential.reveal().split("\0"):
        place, _, query = pair.partition(" ")
        if (url == place or url.startswith(f"{place.rstrip('/')}/")) and len(place) > len(best):
            best, found = place, query
    return found


def who(asker: Asker) -> Who:
    """With what ``asker`` asks."""
    if isinstance(asker.credential, Secret):
        return "query"
    return "keys" if asker.credential is not None else "anonymous"
