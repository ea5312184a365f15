"""The embedded S3 itself: its listeners, what each request is answered, and the log of what was asked.

Puts together what its neighbours decide: ``routes`` reads requests, ``access`` and ``regions`` refuse, ``buckets``
knows the objects, ``listing`` and ``objects`` answer, ``sites`` answer as hosts that are no S3, and the fault plan
spoils it all.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, Literal
from urllib.parse import quote

from fetcher.testing import bodies
from fetcher.testing.contents import ContentLike
from fetcher.testing.faultplan import Exchange, FaultPlan
from fetcher.testing.messages import Reply, Request
from fetcher.testing.origin import Origin, in_thread
from fetcher.testing.s3 import access, answers, errors, listing, objects, regions, routes, signing
from fetcher.testing.s3.access import Key
from fetcher.testing.s3.buckets import Bucket, WrongRegion, make_bucket
from fetcher.testing.s3.elsewhere import Elsewhere
from fetcher.testing.s3.errors import Refused
from fetcher.testing.s3.quirks import AWS, Quirks
from fetcher.testing.s3.routes import Route
from fetcher.testing.s3.sites import Site, SiteKind
from fetcher.testing.wire import Listener

_GZIP_BYTES_MIN = 1024


class S3(Origin):
    """An S3 on loopback ports, read only, strict where Amazon's is.

        async with S3(keys={"AKIDEXAMPLE": "secret"}) as s3:
            bucket = s3.add_bucket("models")
            bucket.put("tiny/model.bin", Synthetic(50 << 20), part_bytes=8 << 20, checksum="sha256")
            ...  # point a client at s3.endpoint

    Buckets, objects and sites may be added and changed before it starts and while it runs, from any thread. So may who
    gets what be changed: ``bucket.public`` and ``bucket.readers``, ``remove_bucket``; a key is revoked with
    ``del s3.keys[id]``.

    ``keys``: key id → ``Key``, or just the secret of one that is good for everything; no two keys share a user then.
    ``region``: of the main endpoint; ``regions``: others with a listener of their own. ``any_region``: take signatures
    for whatever region, as most stores that are not Amazon's do. ``domains``: names below which a host is a bucket.
    ``page_keys``: keys on a page of a listing, at most. ``quirks``: of all buckets that have none of their own.
    ``clock``: unix seconds, for signatures, Date headers and times of objects.
    """

    secret_headers = access.SECRET_HEADERS

    def __init__(
        self,
        *,
        keys: Mapping[str, Key | str] | None = None,
        region: str = "us-east-1",
        regions: Iterable[str] = (),
        any_region: bool = False,
        domains: Sequence[str] = ("s3.test",),
        page_keys: int = 1000,
        quirks: Quirks = AWS,
        faults: FaultPlan | None = None,
        host: str = "127.0.0.1",
        port: int = 0,
        clock: Callable[[], float] = time.time,
    ) -> None:
        super().__init__(faults)
        self.keys = {id_: Key(key, id_) if isinstance(key, str) else key for id_, key in (keys or {}).items()}
        self.region = region
        self.any_region = any_region
        self.domains = tuple(domains)
        self.page_keys = page_keys
        self.quirks = quirks
        self._clock = clock
        self._address = (host, port)
        self._regions = tuple(regions)
        self._buckets: dict[str, Bucket] = {}
        self._sites: list[Site] = []
        self._elsewhere = Elsewhere()
        self._endpoints: dict[str, str] = {}
        """Region → origin, for regions with a listener of their own."""
        self._elsewhere_origin = ""

    def __repr__(self) -> str:
        where = self._endpoints.get(self.region, "not started")
        return f"<S3 {where}, {len(self._buckets)} buckets, {len(self.requests)} requests>"

    # Life

    def _open_listeners(self) -> None:
        host, port = self._address
        for region, at in ((self.region, port), *((region, 0) for region in self._regions)):
            listener = Listener(partial(self._answer_s3, region), host, at)
            self._listeners.append(listener)
            self._endpoints[region] = listener.origin
        listener = Listener(self._answer_elsewhere, host)
        self._listeners.append(listener)
        self._elsewhere_origin = listener.origin
        for site in self._sites:
            self._open_site(site)

    def _open_site(self, site: Site) -> None:
        listener = Listener(partial(self._answer_site, site), self._address[0])
        site.endpoint = listener.origin
        self._add_listener(listener)

    @property
    def endpoint(self) -> str:
        """Origin of the main region, for a client's ``endpoint_url``."""
        return self.endpoint_of(self.region)

    def endpoint_of(self, region: str) -> str:
        """Return the origin of a region that has a listener of its own."""
        if not self._endpoints:
            raise RuntimeError("the S3 has not been started: use 'async with S3() as s3' or s3_in_thread()")
        return self._endpoints[region]

    # Content

    def add_bucket(
        self,
        name: str,
        objects: Mapping[str, ContentLike] | None = None,
        *,
        public: bool = False,
        readers: Iterable[str] | None = None,
        list_allowed: bool | Literal["signed"] = True,
        region: str | None = None,
        wrong_region: WrongRegion = "permanent",
        quirks: Quirks | None = None,
    ) -> Bucket:
        """Make a bucket that holds ``objects``; replaces one of the same name. The rest is as in ``Bucket``."""
        bucket = make_bucket(name, self._clock, readers, objects or {})
        bucket.public, bucket.list_allowed = public, list_allowed
        bucket.region, bucket.wrong_region = region or self.region, wrong_region
        bucket.quirks = quirks
        self._buckets[name] = bucket
        return bucket

    def bucket(self, name: str) -> Bucket:
        """Return a bucket added before."""
        return self._buckets[name]

    @property
    def buckets(self) -> list[Bucket]:
        """All buckets, in the order they were added."""
        return list(self._buckets.values())

    def remove_bucket(self, name: str) -> None:
        """Forget a bucket with all it holds."""
        del self._buckets[name]

    def add_site(
        self,
        bucket: Bucket | str,
        kind: SiteKind = "cloudfront",
        *,
        hosts: Iterable[str] = (),
        drops_query: bool = False,
        allows_head: bool = True,
        quirks: Quirks | None = None,
    ) -> Site:
        """Serve a bucket at a host of its own that is no S3; see ``Site``. Its ``endpoint`` is known once started."""
        where = self._buckets[bucket] if isinstance(bucket, str) else bucket
        names = frozenset(name.lower() for name in hosts)
        site = Site(where, kind, names, drops_query, allows_head, quirks)
        self._sites.append(site)
        if self._endpoints:
            self._open_site(site)
        return site

    # Addresses

    def url(self, bucket: Bucket | str, key: str = "", *, endpoint: str | None = None) -> str:
        """Return the path-style URL of a bucket, or of an object in it, quoted as signers want it."""
        name = bucket if isinstance(bucket, str) else bucket.name
        return f"{endpoint or self.endpoint}/{name}/{quote(key, safe='/-_.~')}"

    def presign(
        self, bucket: Bucket | str, key: str, key_id: str, *, method: str = "GET", expires_s: int = 3600
    ) -> str:
        """Return a URL of an object that is good for ``expires_s`` seconds, for ``method`` only."""
        url = self.url(bucket, key)
        host, _, path = url.removeprefix("http://").partition("/")
        name = bucket if isinstance(bucket, str) else bucket.name
        signer = self.keys[key_id]
        query = signing.presigned_query(
            method=method,
            host=host,
            path=f"/{path}",
            key_id=key_id,
            secret=signer.secret,
            session_token=signer.session_token,
            region=self._buckets[name].region if name in self._buckets else self.region,
            amz_date=access.amz_date(self._clock()),
            expires_s=expires_s,
        )
        return f"{url}?{query}"

    def elsewhere_url(self, bucket: Bucket | str, key: str) -> str:
        """Return the URL of an object at another host, which refuses whoever sends a credential along."""
        where = self._buckets[bucket] if isinstance(bucket, str) else bucket
        return self._elsewhere_origin + self._elsewhere.address(where, key)

    # Answering

    async def _answer_s3(self, region: str, request: Request) -> Reply:
        host = routes.host_of(request)
        site = next((site for site in self._sites if host in site.hosts), None)
        if site is not None:
            return await self._answer_site(site, request)
        route = routes.parse(request, routes.bucket_of_host(host, self.domains))
        exchange = self._begin(request, route)

        async def answer() -> Reply:
            routes.check(request, route)
            pairs = _pairs(request)
            claim = access.read_claim(request, pairs)
            bucket = self._buckets.get(route.bucket or "")
            if not self.any_region:
                regions.check(
                    request, route, bucket, claim, here=region, endpoints=self._endpoints, domain=self.domains[0]
                )
            user = None
            if claim is not None:
                user = access.verify(claim, request, pairs, self.keys, self._clock()).user
            exchange.record.principal = user
            early = await self.faults.before(exchange)
            return early or self._answer_route(exchange, route, bucket, user)

        headers = {"Server": "AmazonS3", "x-amz-request-id": errors.request_id(exchange.record.number)}
        return await self._settle(exchange, answer, headers | {"x-amz-id-2": "ZW1iZWRkZWQ="}, errors.reply)

    async def _answer_site(self, site: Site, request: Request) -> Reply:
        route = site.route(routes.parse(request, site.bucket.name, plus_is_space=site.kind == "cloudfront"))
        exchange = self._begin(request, route)
        quirks = site.quirks or site.bucket.quirks or self.quirks

        async def answer() -> Reply:
            routes.check(request, route)
            early = await self.faults.before(exchange)
            reply = early or site.answer(exchange.request, route, quirks, page_keys=self.page_keys)
            return reply if early is not None else _compressed(exchange.request, reply, quirks)

        return await self._settle(exchange, answer, site.headers(exchange.record.number), site.refusal)

    async def _answer_elsewhere(self, request: Request) -> Reply:
        bucket, key = self._elsewhere.owner_of(request)
        exchange = self._begin(request, Route("cdn", bucket, key or ""))

        async def answer() -> Reply:
            return await self.faults.before(exchange) or self._elsewhere.answer(exchange.request, self.quirks)

        return await self._settle(exchange, answer, {"Server": "elsewhere"}, errors.reply)

    def _begin(self, request: Request, route: Route) -> Exchange:
        record = self._record(request, route.name, credentials=access.carries_credentials(request))
        record.repo, record.path = route.bucket, route.key or None
        return Exchange(request, record, self)

    async def _settle(
        self,
        exchange: Exchange,
        answer: Callable[[], Awaitable[Reply]],
        headers: Mapping[str, str],
        refusal: Callable[..., Reply],
    ) -> Reply:
        """Await ``answer``, turn what it raises into a reply, and let the late faults act."""
        number, is_head = exchange.record.number, exchange.request.method == "HEAD"
        try:
            reply = await answer()
        except Refused as refused:
            reply = refusal(refused, number, bare=is_head)
        except Exception as error:
            self.failures.append(error)
            reply = errors.reply(Refused("InternalError", f"the embedded S3 failed: {error!r}"), number, bare=is_head)
        reply.headers = {"Date": access.http_date(self._clock()), **headers, **reply.headers}
        return self._finish(exchange, reply)

    def first_page(self, exchange: Exchange) -> listing.PageReply:
        """Answer a listing as if it had come without a token or marker. For faults whose tokens are their own."""
        bucket = self._buckets.get(exchange.record.repo or "")
        if bucket is None or not bucket.may_list(exchange.record.principal):
            raise Refused("NoSuchBucket" if bucket is None else "AccessDenied")
        pairs = [pair for pair in _pairs(exchange.request) if pair[0] not in ("continuation-token", "marker")]
        return listing.answer(bucket, pairs, bucket.quirks or self.quirks, page_keys=self.page_keys)

    # Routes

    def _answer_route(self, exchange: Exchange, route: Route, bucket: Bucket | None, user: str | None) -> Reply:
        pairs = _pairs(exchange.request)
        if route.bucket is None:
            if user is None:
                raise Refused("AccessDenied")
            return answers.buckets([each for each in self.buckets if each.may_read(user)])
        if bucket is None:
            raise Refused("NoSuchBucket", elements={"BucketName": route.bucket})
        quirks = bucket.quirks or self.quirks
        if route.name != "object":
            if not bucket.may_list(user):
                raise Refused("AccessDenied", headers={"x-amz-bucket-region": bucket.region})
            if route.name == "list":
                return listing.answer(bucket, pairs, quirks, page_keys=self.page_keys)
            return answers.bucket(bucket, route.subresource)
        if not bucket.may_read(user):
            raise Refused("AccessDenied")
        query = dict(pairs)
        stored = bucket.objects.get(route.key)
        if stored is None:
            # Who may not list is not told what there is not.
            if not bucket.may_list(user):
                raise Refused("AccessDenied")
            raise Refused("NoSuchKey", elements={"Key": route.key})
        if query.get("versionId", "null") != "null":
            raise Refused("InvalidArgument", "Invalid version id specified")
        if user is None and stored.sse is not None and stored.sse.startswith("aws:kms"):
            message = (
                "Requests specifying Server Side Encryption with AWS KMS managed keys require AWS Signature Version 4."
            )
            raise Refused("InvalidArgument", message)
        reply = objects.answer(exchange.request, query.get("partNumber"), stored, quirks)
        return _compressed(exchange.request, reply, quirks)


@contextmanager
def s3_in_thread(s3: S3 | None = None, **settings: Any) -> Iterator[S3]:
    """Run an S3 in a thread until the block is left.

    Takes an ``S3`` that has not been started, or the keyword arguments to make one.
    """
    with in_thread(s3 if s3 is not None else S3(**settings)) as running:
        yield running


def _pairs(request: Request) -> signing.Pairs:
    try:
        return signing.query_pairs(request.query)
    except UnicodeDecodeError:
        raise Refused("InvalidURI") from None


def _compressed(request: Request, reply: Reply, quirks: Quirks) -> Reply:
    """Compress as a front end does: complete or not, what is text and of some length."""
    content = reply.content
    if not quirks.compresses or content is None or content.size < _GZIP_BYTES_MIN or not content.is_text:
        return reply
    if reply.status in (200, 206) and bodies.accepts_gzip(request):
        bodies.compress(reply)
    return reply
