"""S3 buckets, and hosts of plain HTTPS: objects or prefixes, listed where a host lists, named where it does not.

A location is read in at most two ways (``model.s3_address``), and what it holds is asked with a HEAD and a listing at
once (``s3_survey``). A listing states sizes and ETags, so only large objects are asked one by one, for checksums and
part sizes. A pin does not outlive a change: each body is asked for with the ETag that was stated, and each answer is
compared with it.

Sources: Amazon S3 API reference, and how Ceph, Swift, rclone and CDNs differ from it.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from urllib.parse import parse_qs, quote, urlsplit

from fetcher.config import Settings
from fetcher.errors import FetcherError, ForbiddenError, TransportError
from fetcher.model.asker import Asker
from fetcher.model.manifest import FileEntry, Manifest
from fetcher.model.s3 import S3, S3Location
from fetcher.net.api import ApiClient, Refused
from fetcher.net.pacing import wait_asked_s
from fetcher.net.request import Answer, Request, display_url, origin_of
from fetcher.origins.base import Pinned, Refusal
from fetcher.origins.s3_ask import Questions
from fetcher.origins.s3_checks import same_state, wants_grid, with_answer
from fetcher.origins.s3_errors import ENDED_MEANWHILE, EXPIRED_TOKENS, S3Fault, archived, s3_error
from fetcher.origins.s3_memory import Memory
from fetcher.origins.s3_request import CHECKSUM_MODE, Requests
from fetcher.origins.s3_survey import Survey
from fetcher.origins.s3_tree import Found, Tree, merged, of_each
from fetcher.origins.together import each
from fetcher.plan.retry import retried_status
from fetcher.plan.tree import BLOCK_BYTES

LOCATIONS_AT_ONCE = 8
EXPIRED_STATUSES = frozenset({400, 401, 403, 404, 410})
"""How storage hosts refuse a signed URL that a redirect led to."""


class S3Origin:
    """See ``base.Origin``. One for all endpoints; remembers what hosts and buckets are like, nothing about askers."""

    name = "s3"

    def __init__(self, api: ApiClient, settings: Settings, clock: Callable[[], float] = time.time) -> None:
        self._endpoint = settings.s3_endpoint.rstrip("/")
        self._bytes_max = settings.file_bytes_max
        self._clock = clock
        self._memory = Memory()
        self._requests = Requests(self._endpoint, self._memory)
        self._ask = Questions(api, self._requests, self._memory, clock)
        self._survey = Survey(self._ask, self._memory, settings)

    def __repr__(self) -> str:
        return f"<S3Origin, s3:// at {self._endpoint}>"

    # -- what there is -----------------------------------------------------------------------------------------------

    async def resolve(self, resource: S3, asker: Asker) -> Manifest:
        trees, files = await self._found(resource, asker)
        return self._manifest(trees, await self._deepened(files, asker), asker)

    async def revision(self, resource: S3, asker: Asker) -> Pinned:
        trees, files = await self._found(resource, asker)
        manifest = self._manifest(trees, files, asker)
        digest = await asyncio.to_thread(manifest.digest) if manifest.telling else None
        return Pinned(None, manifest.private, manifest_digest=digest)

    async def _found(self, resource: S3, asker: Asker) -> tuple[Sequence[Tree], Sequence[Found]]:
        """All locations and their files, each as large and in the state that the asker would be served."""

        room = self._survey.room()

        async def look(location: S3Location) -> Tree:
            return await self._survey.look(resource, location, asker, room)

        trees = await each(resource.locations, look, LOCATIONS_AT_ONCE)
        # Names may be a million, and judging them takes seconds: what else goes on meanwhile must go on.
        files = await asyncio.to_thread(merged, trees)
        return trees, await self._confirmed(trees, files, asker)

    async def _confirmed(self, trees: Sequence[Tree], files: Sequence[Found], asker: Asker) -> Sequence[Found]:
        """``files``, with those asked of which a listing is no proof.

        Archived ones may have been restored; an answer may have denied what is listed; a CDN's objects have ETags of
        their own. And one of each location is asked in any case: who may list may not be who may
        read.
        """
        for found in files:
            if found.asked:  # does it state once more what an answer denied?
                etag = found.facts.validator.etag
                self._memory.settle(found.url, etag, etag, found.bucket)
        unclear = [found for found in files if not found.asked and self._is_unclear(found)]
        for listed in of_each(trees, files):
            if not any(found.asked or self._is_unclear(found) for found in listed):
                unclear.append(max(listed, key=lambda found: found.facts.size))
        files = await self._asked(files, unclear, asker)
        files = await self._asked(files, self._with_own_etags(files), asker)
        for found in files:
            if found.facts.archived:
                raise archived(display_url(found.url))
        return files

    def _is_unclear(self, found: Found) -> bool:
        return found.facts.archived or self._memory.doubts(found.url, found.facts.validator.etag)

    def _with_own_etags(self, files: Iterable[Found]) -> list[Found]:
        """Files known by a listing, of buckets that state other ETags with their objects than in listings."""
        return [found for found in files if not found.asked and self._memory.site(found.bucket).own_etags]

    async def _deepened(self, files: Sequence[Found], asker: Asker) -> Sequence[Found]:
        """``files``, with checksums and part sizes of the large ones; small ones learn theirs from their bodies."""
        large = [found for found in files if found.facts.size > BLOCK_BYTES and not found.asked]
        files = await self._asked(files, large, asker)
        files = await self._asked(files, self._with_own_etags(files), asker)

        async def measure(found: Found) -> Found:
            part_bytes = await self._ask.part_bytes(found.bucket, found.key, found.facts, asker)
            return replace(found, part_bytes=part_bytes)

        gridless = [found for found in files if found.facts.size > BLOCK_BYTES and wants_grid(found.facts)]
        return _with(files, await each(gridless, measure))

    async def _asked(self, files: Sequence[Found], some: Sequence[Found], asker: Asker) -> Sequence[Found]:
        """``files``, with ``some`` of them as the objects themselves say."""

        async def ask(found: Found) -> Found:
            what = display_url(found.url)
            facts = (await self._survey.head(found.bucket, found.key, what, asker)).facts
            if facts.size > self._bytes_max:
                raise ForbiddenError(
                    f"{what} states {facts.size} bytes, beyond the bound of {self._bytes_max}",
                    hint="file_bytes_max sets the bound",
                )
            listed, stated = found.facts.validator.etag, facts.validator.etag
            self._memory.settle(found.url, listed, stated, found.bucket)
            # A CDN's ETag may have 32 digits too; who made it is not known.
            is_md5 = facts.etag_is_md5 and not self._memory.site(found.bucket).own_etags
            return replace(found, facts=replace(facts, etag_is_md5=is_md5), asked=True)

        return _with(files, await each(some, ask))

    def _manifest(self, trees: Sequence[Tree], files: Iterable[Found], asker: Asker) -> Manifest:
        return Manifest(
            origin=self.name,
            endpoint=origin_of(trees[0].bucket.host_url),
            repository=",".join(tree.name for tree in trees),
            revision=None,
            private=asker.credential is not None,
            files=tuple(found.entry for found in files),
        )

    # -- where the bytes are -----------------------------------------------------------------------------------------

    async def renew(self, manifest: Manifest, entry: FileEntry, asker: Asker) -> None:
        """``locate`` needs nothing: what a refusal taught is remembered."""

    def locate(self, manifest: Manifest, entry: FileEntry, asker: Asker) -> Request:
        url = entry.url or ""
        origin = origin_of(url)
        bucket = self._memory.placed(self._requests.bucket_of(url))
        headers: list[tuple[str, str]] = []
        query = ""
        if (validator := entry.validator) is not None:
            if validator.kind == "strong" and validator.etag and self._memory.host(origin).takes_if_match:
                headers.append(("If-Match", validator.etag))
            if validator.version is not None:
                query = f"versionId={quote(validator.version, safe='')}"
        if entry.size <= BLOCK_BYTES and self._requests.bears_checksum_mode(bucket, url, asker):
            headers.append(CHECKSUM_MODE)  # a large one was asked before, and no range comes with a checksum
        return self._requests.request("GET", bucket, url, asker, query=query, headers=headers, purpose="body")

    def follow(self, request: Request, response: Answer) -> Request | None:
        return self._requests.follow(request, response)

    def refusal(self, response: Answer, entry: FileEntry, *, signed: bool, text: bytes = b"") -> Refusal:
        status = response.status
        fault = S3Fault.of(Refused(status, response.url, response.headers, text))
        if retried_status(status) or fault.is_passing:
            return Refusal("busy", retry_after_s=wait_asked_s(response, self._clock()))
        url = entry.url or response.url
        if status in (412, 416):
            self._doubt(entry)
            return Refusal("changed")
        if (signed or origin_of(response.url) != origin_of(url)) and status in EXPIRED_STATUSES:
            return Refusal("expired")
        if not fault.of_keys and self._learned(response, entry, url):
            return Refusal("expired")
        return Refusal("final", self._body_error(response, fault, entry))

    def stated(self, response: Answer, entry: FileEntry, *, whole: bool) -> FileEntry | None:
        if not same_state(entry, response.headers):
            self._doubt(entry)
            return None
        site = self._memory.site(self._requests.bucket_of(entry.url or response.url))
        if site.blamed_for == entry.url:
            site.blamed_for = ""  # rightly
        whole = whole and response.status == 200
        if entry.digest is not None and origin_of(response.url) != origin_of(entry.url or response.url):
            return entry  # a stranger, where a redirect led, does not say what the bytes are compared with
        return with_answer(entry, response.headers, whole=whole)

    def _doubt(self, entry: FileEntry) -> None:
        """An answer denied the ETag of ``entry``: resolving it again will ask the object, whatever the listing says."""
        if entry.url is not None and entry.validator is not None and entry.validator.etag is not None:
            self._memory.doubt(entry.url, entry.validator.etag)

    def _learned(self, response: Answer, entry: FileEntry, url: str) -> bool:
        """Whether a refusal that may be of any cause taught something by which ``locate`` will differ."""
        origin = origin_of(url)
        bucket = self._requests.bucket_of(url)
        site = self._memory.site(bucket)
        if response.status == 403 and self._memory.learn_clock(origin, response.headers.get("Date"), self._clock()):
            return True
        if response.status not in (400, 403, 501) or entry.size > BLOCK_BYTES or _has_secret_query(response.url):
            return False  # it was not asked for a checksum
        if site.blamed_for == url:
            site.takes_checksum_mode, site.blamed_for = True, ""  # it was not that header
        elif not site.blamed_for and self._requests.bears_checksum_mode(bucket, url, Asker("job")):
            site.takes_checksum_mode, site.blamed_for = False, url
            return True
        return False

    def _body_error(self, response: Answer, fault: S3Fault, entry: FileEntry) -> FetcherError:
        what = display_url(entry.url or response.url)
        if 200 <= response.status < 400:
            return TransportError(f"{what}: the host answered {response.status} to a request for a file")
        if not _has_secret_query(response.url):
            error = s3_error(fault, what, "somebody")
            if fault.code in EXPIRED_TOKENS:
                error.hint = ENDED_MEANWHILE
            return error
        expired = _is_past(urlsplit(response.url).query, self._clock())
        return s3_error(replace(fault, code="RequestExpired") if expired else fault, what, "query")


def _has_secret_query(url: str) -> bool:
    """Whether ``url`` was asked with a query that is a credential."""
    query = urlsplit(url).query
    return bool(query) and not query.startswith("versionId=")


def _is_past(query: str, now: float) -> bool:
    """Whether a presigned URL is past its time, by its own words."""
    import datetime

    words = parse_qs(query)
    try:
        begun = datetime.datetime.strptime(words["X-Amz-Date"][0], "%Y%m%dT%H%M%S%z")
        return begun.timestamp() + int(words["X-Amz-Expires"][0]) <= now
    except (KeyError, ValueError, OverflowError):
        return False


def _with(files: Sequence[Found], changed: Sequence[Found]) -> Sequence[Found]:
    """``files``, with ``changed`` in the places of those of the same path."""
    by_path = {found.path: found for found in changed}
    return [by_path.get(found.path, found) for found in files] if changed else files
