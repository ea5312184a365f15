"""Questions to S3 stores and web hosts: heads, listings, part sizes, each mended by what its refusal tells.

A refusal may say how to ask better: another region, another clock, a header that this host does not bear. Then the
question is asked once more, and what was learned is remembered for the next ones. All that is final is ``Told``.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import TypeVar
from urllib.parse import quote

from fetcher.errors import ForbiddenError, TransportError
from fetcher.model.asker import Asker
from fetcher.model.ranges import ByteRange
from fetcher.model.s3_address import Bucket
from fetcher.model.secret import AWSKeys
from fetcher.net.api import ApiClient, Refused
from fetcher.net.request import Request, display_url, origin_of
from fetcher.net.transport import Response
from fetcher.origins.s3_checks import Facts, facts_of_headers, grid_of
from fetcher.origins.s3_errors import S3Fault, Told
from fetcher.origins.s3_listing import (
    HEAD_BYTES,
    PAGE_BYTES_MAX,
    Listing,
    NotAListing,
    Page,
    Room,
    looks_like_xml_of_s3,
    read_page,
)
from fetcher.origins.s3_memory import Memory, region_told
from fetcher.origins.s3_request import CHECKSUM_MODE, Requests, query_of

MENDS_MAX = 4
"""Region, clock, header, and one to spare."""
COUNTED_BYTES_MAX = 64 << 20
"""Of a body whose length the host does not state: it is read once to count it. Larger ones are refused."""
PARSED_INLINE_BYTES_MAX = 64 << 10
"""A page of 150 keys; parsing it takes less than handing it to a thread does."""
LATE_PLACES_OF_HOST = 4
"""Buckets whose listings did not come in time: those of their host's others are not waited for either."""
TRIES_AGAIN_MAX = 2
"""After a refusal that ``is_passing``."""

Shape = TypeVar("Shape")
Made = Callable[[], Request]


@dataclass(frozen=True, slots=True)
class Head:
    """What a host says of one object."""

    facts: Facts
    url: str = field(repr=False)
    """Where the answer came from, after redirects."""


class Questions:
    """Asks as whatever asker it is given; remembers nothing but ``memory``."""

    def __init__(self, api: ApiClient, requests: Requests, memory: Memory, clock: Callable[[], float]) -> None:
        self._api = api
        self._requests = requests
        self._memory = memory
        self._clock = clock

    # -- questions ---------------------------------------------------------------------------------------------------

    async def head(self, bucket: Bucket, key: str, asker: Asker, *, version: str | None = None) -> Head:
        """What the host says of an object: HEAD, or where that is refused a GET of its first byte, which also says why.

        Raises Told; TransportError; ForbiddenError for an object whose length is not stated and can't be counted.
        """
        query = "" if version is None else f"versionId={quote(version, safe='')}"
        placed = self._memory.placed(bucket)
        site = self._memory.site(bucket)
        if not query_of(asker, placed.url(key)) and site.takes_heads:  # a presigned URL is good for GET only
            try:
                head = await self._by_head(bucket, key, asker, query, version)
            except Told as told:
                if told.fault.status in (404, 410):
                    raise
                if told.fault.status in (405, 501) and "x-amz-delete-marker" not in told.fault.headers:
                    site.takes_heads = False  # else it is that version that has nothing to say
            else:
                if head is not None:
                    return head
        return await self._by_get(bucket, key, asker, query, version)

    async def _by_head(self, bucket: Bucket, key: str, asker: Asker, query: str, version: str | None) -> Head | None:
        """None: it says nothing of the length."""

        def made() -> Request:
            placed = self._memory.placed(bucket)
            url = placed.url(key)
            headers = (CHECKSUM_MODE,) if self._requests.bears_checksum_mode(placed, url, asker) else ()
            return self._requests.request("HEAD", placed, url, asker, query=query, headers=headers)

        async def read(response: Response) -> Head | None:
            size = response.content_length
            if size is None:
                return None
            return Head(self._facts(bucket, response, size, whole=True, version=version), response.url)

        return await self._ask(bucket, made, read)

    async def _by_get(self, bucket: Bucket, key: str, asker: Asker, query: str, version: str | None) -> Head:
        def made(*, ranged: bool = True) -> Request:
            placed = self._memory.placed(bucket)
            headers = (("Range", "bytes=0-0"),) if ranged else ()
            return self._requests.request("GET", placed, placed.url(key), asker, query=query, headers=headers)

        async def read(response: Response) -> Head | None:
            whole = "Content-Range" not in response.headers
            size = response.content_length if whole else _total(response)
            if size is None and whole:
                size = await _counted(response)
            if size is None:
                return None
            return Head(self._facts(bucket, response, size, whole=whole, version=version), response.url)

        try:
            head = await self._ask(bucket, made, read)
        except Told as told:
            if told.fault.status != 416:
                raise
            head = None  # an empty object has no first byte
        if head is not None:
            return head
        head = await self._ask(bucket, lambda: made(ranged=False), read)
        if head is None:
            raise TransportError(f"{display_url(bucket.url(key))}: the host does not say how long it is")
        return head

    async def part_bytes(self, bucket: Bucket, key: str, facts: Facts, asker: Asker) -> int:
        """How long the parts were in which an object was uploaded; 0 if the host does not say. Its ETag is not looked
        at: Ceph states that of the part."""
        site = self._memory.site(bucket)
        if not site.takes_part_numbers or bucket.exact:
            return 0

        async def part(number: int) -> tuple[int, int]:
            """Length of one part, and how many there are; zeros where that is refused."""

            def made() -> Request:
                placed = self._memory.placed(bucket)
                return self._requests.request("HEAD", placed, placed.url(key), asker, query=f"partNumber={number}")

            async def read(response: Response) -> tuple[int, int]:
                stated = self._facts(bucket, response, facts.size, whole=False, version=None)
                return response.content_length or 0, stated.part_count

            try:
                return await self._ask(bucket, made, read)
            except Told:
                return 0, 0

        first_bytes, count = await part(1)
        if count == 0:
            site.takes_part_numbers = False
        grid = grid_of(facts, first_bytes, count)
        # Of three parts or more the sizes in between are not said: the last one tells of most that are not equal.
        if grid and count > 2 and (await part(count))[0] != facts.size - grid * (count - 1):
            return 0
        return grid

    async def listing(
        self, bucket: Bucket, prefix: str, what: str, asker: Asker, files_max: int, room: Room | None = None
    ) -> Listing:
        """All keys below ``prefix``. Raises Told, NotAListing, TransportError, ForbiddenError beyond bounds."""
        listing = Listing(prefix, what, files_max, room)

        def made() -> Request:
            placed = self._memory.placed(bucket)
            return self._requests.request("GET", placed, f"{placed.root}/", asker, query=listing.query)

        async def read(response: Response) -> Page:
            body = await _page_body(response)
            if len(body) <= PARSED_INLINE_BYTES_MAX:
                return read_page(body, prefix)
            return await asyncio.to_thread(read_page, body, prefix)

        try:
            while not listing.ended:
                listing.add(await self._ask(bucket, made, read))
        except BaseException:
            listing.drop()
            raise
        self._memory.site(bucket).lists = True
        return listing

    def lists_late(self, bucket: Bucket) -> bool:
        """Whether this call has waited for a listing of ``bucket``, or for several at its host, and none came."""
        late = self._api.late(origin_of(bucket.host_url))
        return bucket.identity in late or len(late) >= LATE_PLACES_OF_HOST

    def listed_late(self, bucket: Bucket) -> None:
        """A listing of ``bucket`` did not come. Other calls find out for themselves: it may be this one's prefix."""
        self._api.late(origin_of(bucket.host_url)).add(bucket.identity)

    # -- asking ------------------------------------------------------------------------------------------------------

    async def _ask(self, bucket: Bucket, made: Made, read: Callable[[Response], Awaitable[Shape]]) -> Shape:
        """The answer to what ``made`` makes, made anew after each thing learned. Raises Told for a final refusal."""
        mends = again = 0
        unborne = False
        while True:
            request = made()
            try:
                shape = await self._api.ask(request, read, refusal=_told, follow=self._requests.follow)
            except Told as told:
                fault = told.fault
                if fault.is_passing and again < TRIES_AGAIN_MAX:
                    again += 1
                    continue
                mends += 1
                if mends > MENDS_MAX or not self._mended(bucket, request, fault):
                    if unborne:
                        self._memory.site(bucket).takes_checksum_mode = True  # it was not that header
                    raise
                if _has_checksum_mode(request) and not self._memory.site(bucket).takes_checksum_mode:
                    unborne = True
            else:
                return shape

    def _mended(self, bucket: Bucket, request: Request, fault: S3Fault) -> bool:
        """Whether ``fault`` taught something by which the next request will differ."""
        keys = request.carried_credential
        asked_in = keys.region if isinstance(keys, AWSKeys) else self._memory.placed(bucket).region
        region = region_told(fault)
        matters = keys is not None or bucket.host_pattern is not None
        if matters and region is not None and self._memory.learn_region(bucket, asked_in, region):
            return True
        late = fault.status == 400 and fault.code == "AccessDenied"  # how rclone calls a signature from the past
        if keys is not None and (late or fault.code == "RequestTimeTooSkewed"):
            return self._memory.learn_clock(request.origin, fault.headers.get("Date"), self._clock())
        if _has_checksum_mode(request) and fault.status in (400, 403, 501):
            self._memory.site(bucket).takes_checksum_mode = False
            return True
        return False

    def _facts(self, bucket: Bucket, response: Response, size: int, *, whole: bool, version: str | None) -> Facts:
        of_an_s3 = bucket.speaks_s3 or self._requests.lists(response.url)
        return facts_of_headers(response.headers, size, whole=whole, of_an_s3=of_an_s3, version=version)


def _told(refused: Refused) -> Told:
    return Told(S3Fault.of(refused))


def _has_checksum_mode(request: Request) -> bool:
    return CHECKSUM_MODE in request.headers


def _total(response: Response) -> int | None:
    try:
        return ByteRange.of_content_range(response.headers.get("Content-Range", ""))[1]
    except ValueError:
        return None


async def _counted(response: Response) -> int:
    """Length of a body that says nothing of it, by reading it."""
    total = 0
    while piece := await response.read_some(1 << 20):
        total += len(piece)
        if total > COUNTED_BYTES_MAX:
            raise ForbiddenError(
                f"{display_url(response.url)}: the host does not say how long it is, and it is longer than "
                f"{COUNTED_BYTES_MAX >> 20} MiB",
                hint="serve it with Content-Length, or from an object store",
            )
    return total


async def _page_body(response: Response) -> bytes:
    """The body of a listing's page; of anything else only as much as it takes to see that it is none."""
    body = bytearray()
    while piece := await response.read_some(1 << 20):
        body += piece
        if len(body) >= HEAD_BYTES and not looks_like_xml_of_s3(bytes(body[:HEAD_BYTES])):
            raise NotAListing("the host sends something else where a listing was asked for")
        if len(body) > PAGE_BYTES_MAX:
            raise ForbiddenError(
                f"{display_url(response.url)}: a page of the listing is longer than {PAGE_BYTES_MAX} bytes"
            )
    return bytes(body)
