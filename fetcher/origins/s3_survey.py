"""What a location holds: an object, what lies below a prefix, or the files that it names.

A URL has at most two readings, and a plus may stand for a space; the first that holds anything counts. If none does,
the refusal to the first is told.
"""

from __future__ import annotations

import asyncio
from typing import TypeGuard
from urllib.parse import quote, unquote, urlsplit

from fetcher.config import Settings
from fetcher.errors import DeniedError, FetcherError, NotFoundError, ResourceError
from fetcher.model.asker import Asker
from fetcher.model.s3 import S3, S3Location
from fetcher.model.s3_address import Bucket, Reading, as_written, readings
from fetcher.model.secret import AWSKeys
from fetcher.model.text import printable
from fetcher.origins.s3_ask import Head, Questions
from fetcher.origins.s3_errors import S3Fault, Told, cannot_list, not_found_nor_listed, s3_error
from fetcher.origins.s3_listing import Listing, NotAListing, Room
from fetcher.origins.s3_memory import Memory
from fetcher.origins.s3_request import query_of, who
from fetcher.origins.s3_tree import Found, Tree, file_of, files_of
from fetcher.origins.together import both, each

FOLDER_TYPES = frozenset({"application/x-directory", "httpd/unix-directory"})

LISTING_AWAITED_S = 5.0
"""For so long, once an object of that name is found, the listing is still waited for: whether the host lists at all is
worth knowing (``Memory``), and what it lists is not wanted any more."""

PATTERN_SIGNS = "*?["
NO_PATTERNS = "files below a URL are exact names, no patterns; leave them out to have all of them"


class Survey:
    """Looks at locations; one for an origin."""

    def __init__(self, ask: Questions, memory: Memory, settings: Settings) -> None:
        self._ask = ask
        self._memory = memory
        self._endpoint = settings.s3_endpoint.rstrip("/")
        self._files_max = settings.manifest_files_max
        self._bytes_max = settings.file_bytes_max

    def room(self) -> Room:
        """For the locations of one resource."""
        return Room(self._files_max)

    async def look(self, resource: S3, location: S3Location, asker: Asker, room: Room | None = None) -> Tree:
        """What one location holds, in the first of its readings that holds anything. ``room``: for it and others."""
        errors: list[FetcherError] = []
        for meaning in self._meanings(resource, location, asker):
            try:
                return await self._read(meaning, location, asker, room)
            except (NotFoundError, DeniedError, ResourceError) as error:
                errors.append(error)
        # That a host does not list is the least of what it may have said.
        raise next((error for error in errors if not isinstance(error, ResourceError)), errors[0])

    def _meanings(self, resource: S3, location: S3Location, asker: Asker) -> list[Reading]:
        if query_of(asker, location.url):
            return [as_written(location.url)]
        keys = asker.credential if isinstance(asker.credential, AWSKeys) else None
        found = readings(
            location.url,
            bucket=resource.bucket,
            endpoint=self._endpoint,
            region=None if keys is None else keys.region,
            signed=keys is not None,
        )
        meanings = list(found)
        if location.files and len({meaning.bucket.url(meaning.key) for meaning in found}) == 1:
            del meanings[1:]  # they differ in how to list, and nothing will be listed
        # AWS's console writes a space as "+". A key may hold a plus all the same, so that comes last.
        if "+" in found[0].key:
            meanings.append(Reading(found[0].bucket, found[0].key.replace("+", " ")))
        return meanings

    async def _read(self, meaning: Reading, location: S3Location, asker: Asker, room: Room | None) -> Tree:
        if location.files:
            files = await self._named(meaning, location, asker)
        elif meaning.bucket.exact or location.version_id is not None:
            files = (await self._object(meaning, location, asker),)
        elif not meaning.key or meaning.key.endswith("/"):
            files = await self._folder(meaning, location, asker, room)
        else:
            files = await self._object_or_folder(meaning, location, asker, room)
        bucket = self._memory.placed(meaning.bucket)
        key = unquote(meaning.key, errors="surrogateescape") if bucket.exact else meaning.key
        name = printable("/".join(part for part in (bucket.name or "", key) if part))
        return Tree(location.url, bucket, name, files)

    async def _named(self, meaning: Reading, location: S3Location, asker: Asker) -> tuple[Found, ...]:
        """The files that the location names. Nothing is listed: the host may be unable to."""
        folder = meaning.key if not meaning.key or meaning.key.endswith("/") else f"{meaning.key}/"

        async def ask(name: str) -> Found:
            key = folder + (quote(name, safe="/~") if meaning.bucket.exact else name)
            what = f"{location.url.rstrip('/')}/{name}"
            try:
                head = await self.head(meaning.bucket, key, what, asker)
            except NotFoundError as error:
                if any(sign in name for sign in PATTERN_SIGNS):
                    error.hint = NO_PATTERNS
                raise
            return self._file(name, meaning.bucket, key, head, what)

        return tuple(await each(location.files, ask))

    async def _object(self, meaning: Reading, location: S3Location, asker: Asker) -> Found:
        """The one object that a URL with a query means."""
        head = await self.head(meaning.bucket, meaning.key, location.url, asker, location.version_id)
        name = _last(unquote(meaning.key)) if meaning.bucket.exact else _last(meaning.key)
        return self._file(name, meaning.bucket, meaning.key, head, location.url)

    async def _folder(
        self, meaning: Reading, location: S3Location, asker: Asker, room: Room | None
    ) -> tuple[Found, ...]:
        listed = await self._listed(meaning.bucket, meaning.key, location.url, asker, room)
        if isinstance(listed, Listing):
            return await self._files(listed, meaning.bucket, location)
        if isinstance(listed, str):
            raise cannot_list(location.url, listed)
        if _refuses_listings(listed):
            raise cannot_list(location.url, f"the host answers {listed.status} to the question")
        raise self.error(listed, location.url, meaning.bucket, asker, listing=True)

    async def _object_or_folder(
        self, meaning: Reading, location: S3Location, asker: Asker, room: Room | None
    ) -> tuple[Found, ...]:
        """Ask for the object and for what lies below its name, at once: a key may be either, or both. One after the
        other where listings do not come."""
        bucket, key, what = meaning.bucket, meaning.key, location.url

        async def head() -> Head | S3Fault:
            try:
                return await self._ask.head(bucket, key, asker)
            except Told as told:
                return told.fault

        async def listing() -> Listing | S3Fault | str | FetcherError:
            try:
                return await self._listed(bucket, f"{key}/", what, asker, room)
            except FetcherError as error:  # maybe of the front page of a host that lists nothing: no word on the object
                return error

        def is_object(answer: Head | S3Fault) -> TypeGuard[Head]:
            return isinstance(answer, Head) and not _is_page_of_folder(answer, key) and not _stands_for_folder(answer)

        if self._ask.lists_late(bucket):
            one = await head()
            many = None if is_object(one) else await listing()
        else:
            one, many = await both(head, listing, is_object, LISTING_AWAITED_S)
            if many is None:
                self._ask.listed_late(bucket)
        if is_object(one):
            if isinstance(many, Listing):
                many.drop()
            return (self._file(_last(key), bucket, key, one, what),)
        assert many is not None  # what it says was waited for
        if isinstance(many, FetcherError):
            raise many
        if isinstance(one, Head) and _is_page_of_folder(one, key):
            one = S3Fault(404, "", "", "", {})
        if isinstance(many, Listing) and many.rows:
            return await self._files(many, bucket, location)
        if isinstance(one, Head):
            return (self._file(_last(key), bucket, key, one, what),)  # an empty object, and nothing below it
        if one.status in (404, 410) and not isinstance(many, Listing):
            if isinstance(many, str):
                raise not_found_nor_listed(what, many)
            if _refuses_listings(many):
                raise not_found_nor_listed(what, f"the host answers {many.status} to the question")
            raise self.error(many, what, bucket, asker, listing=True)  # with a code, where the HEAD had none
        raise self.error(one, what, bucket, asker, listing=True)

    async def _listed(
        self, bucket: Bucket, prefix: str, what: str, asker: Asker, room: Room | None
    ) -> Listing | S3Fault | str:
        """All keys below ``prefix``, or the host's refusal, or why what it sends is no listing."""
        if not bucket.lists:
            return "the host never does"
        try:
            return await self._ask.listing(bucket, prefix, what, asker, self._files_max, room)
        except Told as told:
            return told.fault
        except NotAListing as reason:
            return str(reason)

    async def _files(self, listing: Listing, bucket: Bucket, location: S3Location) -> tuple[Found, ...]:
        rows, placed = listing.rows.values(), self._memory.placed(bucket)
        bytes_max = self._bytes_max
        files = await asyncio.to_thread(files_of, rows, listing.prefix, placed, location.url, bytes_max)
        if not files:
            raise NotFoundError(f"{location.url} holds no files", hint="the prefix is mistyped, or empty")
        return files

    def _file(self, path: str, bucket: Bucket, key: str, head: Head, what: str) -> Found:
        placed = self._memory.placed(bucket)
        return file_of(path, placed, key, head.facts, what, self._bytes_max)

    async def head(self, bucket: Bucket, key: str, what: str, asker: Asker, version: str | None = None) -> Head:
        """What the host says of one object. Raises what it means if it says no."""
        try:
            return await self._ask.head(bucket, key, asker, version=version)
        except Told as told:
            raise self.error(told.fault, what, bucket, asker) from None

    def error(self, fault: S3Fault, what: str, bucket: Bucket, asker: Asker, *, listing: bool = False) -> FetcherError:
        """What a refusal of the host means to ``asker``."""
        return s3_error(fault, what, who(asker), sure=bucket.speaks_s3, listing=listing)


def _last(key: str) -> str:
    return key.rpartition("/")[2]


def _stands_for_folder(head: Head) -> bool:
    """Whether an object may be there only so that there is a folder of its name."""
    return head.facts.size == 0 or head.facts.content_type in FOLDER_TYPES


def _is_page_of_folder(head: Head, key: str) -> bool:
    """Whether a web server led from a folder's name to its page."""
    return urlsplit(head.url).path.endswith("/") and not key.endswith("/")


def _refuses_listings(fault: S3Fault) -> bool:
    """Whether the host does not list at all, which is no verdict on this asker: it speaks no S3 in saying so, or says
    that it knows no such question."""
    if fault.code in ("NoSuchBucket", "AccessDenied"):
        return False
    return fault.status in (404, 405, 410, 501) or (fault.status in (400, 403) and not fault.of_an_s3)
