"""Hosts that serve one bucket without being S3: a CDN, a public bucket domain, a plain web server.

The bucket is implied and the path is the key. Nobody's signature means anything here.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal, TypeAlias

from fetcher.testing.messages import Reply, Request
from fetcher.testing.s3 import errors, listing, objects
from fetcher.testing.s3.buckets import Bucket
from fetcher.testing.s3.errors import Refused
from fetcher.testing.s3.quirks import Quirks
from fetcher.testing.s3.routes import Route
from fetcher.testing.s3.signing import query_pairs

SiteKind: TypeAlias = Literal["cloudfront", "r2", "plain"]

_PLAIN_TITLES = {
    304: "Not Modified",
    403: "Forbidden",
    404: "Not Found",
    405: "Not Allowed",
    412: "Precondition Failed",
}


@dataclass
class Site:
    """A site in front of a bucket. Make it with ``S3.add_site``; change its flags freely while it is served."""

    bucket: Bucket
    kind: SiteKind = "cloudfront"
    """``cloudfront``: a CDN that passes on what S3 answers to nobody in particular: XML errors, and the listing if the
    bucket is public and ``list_allowed``. ``r2``: a public bucket domain (r2.dev, custom domains of R2): no listing,
    HTML errors. ``plain``: a web server over a directory: no header of S3, ETags of its own, HTML errors."""
    hosts: frozenset[str] = frozenset()
    """Names for which the main endpoint too serves this site (in the Host header)."""
    drops_query: bool = False
    """The query never reaches the bucket: ``/?list-type=2&prefix=p/`` lists the root, in version 1 (a CDN whose cache
    key leaves the query out, as CloudFront does by default)."""
    allows_head: bool = True
    """Otherwise HEAD is a 405 (some web servers and functions)."""
    quirks: Quirks | None = None
    """Instead of the bucket's."""
    endpoint: str = ""
    """Origin of the site, as in ``http://127.0.0.1:40002``."""

    def route(self, route: Route) -> Route:
        """Return what a request means here, where the query may not count."""
        if self.drops_query or self.kind != "cloudfront":
            route = replace(route, subresource=None)
        if route.name == "bucket" and route.subresource is None:
            route = replace(route, name="list")
        return route

    def answer(self, request: Request, route: Route, quirks: Quirks, *, page_keys: int) -> Reply:
        """Answer a request for the site; refuse with what S3 would say, which ``refusal`` words as the site does."""
        if request.method == "HEAD" and not self.allows_head:
            raise Refused("MethodNotAllowed", headers={"Allow": "GET"})
        pairs = [] if self.drops_query else query_pairs(request.query)
        if not route.key:
            if self.kind != "cloudfront" or not self.bucket.may_list(None):
                raise Refused("AccessDenied" if self.kind == "cloudfront" else "NoSuchKey")
            return listing.answer(self.bucket, pairs, quirks, page_keys=page_keys)
        stored = self.bucket.objects.get(route.key)
        if stored is None:
            hides = self.kind == "cloudfront" and not self.bucket.may_list(None)
            raise Refused("AccessDenied" if hides else "NoSuchKey", elements={} if hides else {"Key": route.key})
        part = dict(pairs).get("partNumber") if self.kind == "cloudfront" else None
        if self.kind == "plain":
            # As nginx makes them: of time and length. The same bytes uploaded again have another.
            etag = f"{stored.last_modified_s:x}-{stored.content.size:x}"
            stored = replace(stored, etag=etag, checksum=None, sse=None, storage_class="STANDARD")
        return objects.answer(request, part, stored, quirks)

    def refusal(self, refused: Refused, number: int, *, bare: bool) -> Reply:
        """Return the reply to request ``number`` in the words of this kind of site."""
        if self.kind == "cloudfront":
            return errors.reply(refused, number, bare=bare)
        reply = errors.page(refused.status, _PLAIN_TITLES.get(refused.status, "Error"))
        if bare or refused.status == 304:
            reply.content = None
        reply.headers |= refused.headers
        return reply

    def headers(self, number: int) -> dict[str, str]:
        """Return what every answer of this kind of site carries."""
        id_ = errors.request_id(number)
        if self.kind == "cloudfront":
            return {
                "Server": "AmazonS3",
                "x-amz-request-id": id_,
                "Via": "1.1 embedded.cloudfront.net (CloudFront)",
                "X-Amz-Cf-Id": f"{id_.lower()}==",
                "X-Cache": "Miss from cloudfront",
            }
        if self.kind == "r2":
            return {"Server": "cloudflare", "CF-RAY": f"{id_.lower()}-ZRH", "CF-Cache-Status": "MISS"}
        return {"Server": "nginx"}
