"""What every origin promises, as a suite to inherit (see ``fetcher/origins/base.py``).

class TestMine(OriginConformance):
    @asynccontextmanager
    async def world(self):
        ...
        yield World(...)
"""

from __future__ import annotations

import asyncio
import hashlib
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field, replace
from typing import Any

import pytest

from fetcher.errors import DeniedError, FetcherError, NotFoundError
from fetcher.model.asker import Asker
from fetcher.model.digest import Digest
from fetcher.model.manifest import FileEntry, Manifest
from fetcher.model.paths import check_tree, safe_path
from fetcher.model.ranges import ByteRange
from fetcher.model.resource import Resource
from fetcher.model.secret import AWSKeys, Credential, Login, Secret
from fetcher.net.request import Request, origin_of
from fetcher.net.transport import Response, Transport
from fetcher.origins.base import Origin, Refusal
from fetcher.testing.s3 import checksums

REDIRECTS_MAX = 5


@dataclass
class World:
    """An origin with known content, served on real sockets. Files: some empty, some inline, some behind a redirect."""

    origin: Origin[Any]
    transport: Transport
    public: Resource
    """Readable by anybody."""
    files: Mapping[str, bytes]
    """Of ``public``."""
    private: Resource
    """Readable with ``insider`` only."""
    missing: Resource
    insider: Asker
    outsider: Asker
    """Has a valid credential that opens nothing."""
    anonymous: Asker
    change: Callable[[], Awaitable[None]]
    """Change the content of ``public``."""
    use_up_urls: Callable[[], None] | None
    """Make every signed URL handed out so far useless; None for an origin that redirects nowhere."""
    tokens_seen_elsewhere: Callable[[], int]
    """How many requests brought a credential to another host than the origin's own."""
    never_in_parts: frozenset[str] = frozenset()
    """Paths that are sent whole, whatever range is asked for."""
    pins_outlive_changes: bool = True
    """False: there is no revision; each body is compared with what was stated, and a change is noticed, not undone."""
    says_what_is_public: bool = True
    """False: whatever was asked for with a credential counts as private."""
    asked: list[Request] = field(default_factory=list)


class Answered:
    """An answer without a body."""

    def __init__(self, status: int, url: str, headers: Mapping[str, str] | None = None) -> None:
        self.status = status
        self.url = url
        self.headers = dict(headers or {})


async def open_body(
    world: World, manifest: Manifest, entry: FileEntry, asker: Asker, span: ByteRange | None = None
) -> tuple[Request, Response]:
    """As an engine does it: locate, follow by hand, renew and locate once more where the address is no good."""
    request, response = await ask_for_body(world, manifest, entry, asker, span)
    if isinstance(response, Refusal):
        raise AssertionError(f"no address for {entry.path}: {response}")
    return request, response


async def ask_for_body(
    world: World, manifest: Manifest, entry: FileEntry, asker: Asker, span: ByteRange | None = None
) -> tuple[Request, Response | Refusal]:
    """The same; a refusal that no other address would mend is given back."""
    for attempt in (1, 2):
        request = world.origin.locate(manifest, entry, asker)
        for _ in range(REDIRECTS_MAX):
            asked = request if span is None else replace(request, headers=(*request.headers, ("Range", span.header())))
            world.asked.append(asked)
            response = await world.transport.send(asked, idle_timeout_s=5)
            following = world.origin.follow(request, response)
            if following is None:
                break
            await response.release()
            request = following
        else:
            raise AssertionError("redirects without end")
        if response.status in (200, 206):
            return request, response
        refusal = world.origin.refusal(response, entry, signed=request.origin != manifest.endpoint)
        response.abort()
        if refusal.kind != "expired" or attempt == 2:
            return request, refusal
        await world.origin.renew(manifest, entry, asker)
    raise AssertionError("the second attempt returns")


def digest_of(name: str, data: bytes) -> Digest:
    """The digest that ``name`` (as ``Digest.name``) means, of ``data``."""
    algorithm, _, part_bytes = name.partition("/")
    if part_bytes:
        parts = [data[start : start + int(part_bytes)] for start in range(0, len(data), int(part_bytes))]
        data = b"".join(checksums.digest(algorithm, [part]) for part in parts)
        return Digest(algorithm, checksums.digest(algorithm, [data]).hex(), int(part_bytes))
    if algorithm == "git-sha1":
        return Digest(algorithm, hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest())
    return Digest(algorithm, checksums.digest(algorithm, [data]).hex())


def secret_texts(credential: Credential | None) -> list[str]:
    """What must never be shown of a credential."""
    match credential:
        case Secret():
            return [credential.reveal()]
        case Login():
            return [credential.password.reveal()]
        case AWSKeys():
            return [credential.secret_access_key.reveal()]
    raise AssertionError("the insider has a credential")


class OriginConformance(ABC):
    """Inherit, and say what the world is."""

    @abstractmethod
    def world(self) -> AbstractAsyncContextManager[World]: ...

    def run(self, test: Callable[[World], Awaitable[None]]) -> None:
        async def main() -> None:
            async with self.world() as world:
                await test(world)

        asyncio.run(main())

    def test_a_manifest_is_pinned_ordered_safe_and_true(self) -> None:
        async def test(world: World) -> None:
            manifest = await world.origin.resolve(world.public, world.anonymous)
            assert manifest.origin == world.origin.name
            assert bool(manifest.revision) == world.pins_outlive_changes
            assert origin_of(manifest.endpoint) == manifest.endpoint
            assert [entry.path for entry in manifest.files] == sorted(world.files)
            check_tree(safe_path(entry.path) for entry in manifest.files)
            for entry in manifest.files:
                data = world.files[entry.path]
                assert entry.size == len(data)
                assert entry.digest is not None and entry.digest == digest_of(entry.digest.name, data)
                # Either the address names the bytes for ever, or something tells when they are others.
                assert (entry.validator is None) == world.pins_outlive_changes

        self.run(test)

    def test_the_same_question_has_the_same_answer(self) -> None:
        async def test(world: World) -> None:
            first = await world.origin.resolve(world.public, world.anonymous)
            second = await world.origin.resolve(world.public, world.anonymous)
            pinned = await world.origin.revision(world.public, world.anonymous)
            assert first == second and first.digest() == second.digest()
            assert (pinned.revision, pinned.private) == (first.revision, first.private)
            if pinned.revision is None:
                assert pinned.manifest_digest == first.digest()

        self.run(test)

    def test_a_change_is_seen_and_what_was_pinned_stays(self) -> None:
        async def test(world: World) -> None:
            before = await world.origin.resolve(world.public, world.anonymous)
            await world.change()
            pinned = await world.origin.revision(world.public, world.anonymous)
            after = await world.origin.resolve(world.public, world.anonymous)
            assert before.digest() != after.digest()
            assert pinned.revision == after.revision
            if world.pins_outlive_changes:
                assert after.revision != before.revision
            else:
                assert pinned.manifest_digest == after.digest()
            changed = {entry.path for entry in before.files if entry not in after.files}
            assert changed
            for entry in before.files:
                _, response = await ask_for_body(world, before, entry, world.anonymous)
                if entry.path in changed and not world.pins_outlive_changes:
                    if not isinstance(response, Refusal):
                        assert world.origin.stated(response, entry, whole=True) is None
                        response.abort()
                    else:
                        assert response.kind == "changed"
                    continue
                assert not isinstance(response, Refusal)
                assert world.origin.stated(response, entry, whole=True) is not None
                assert await response.read_all(1 << 24) == world.files[entry.path]
                await response.release()

        self.run(test)

    def test_every_body_whole_and_in_parts(self) -> None:
        async def test(world: World) -> None:
            manifest = await world.origin.resolve(world.public, world.anonymous)
            for entry in manifest.files:
                data = world.files[entry.path]
                _, response = await open_body(world, manifest, entry, world.anonymous)
                assert response.status == 200
                assert await response.read_all(1 << 24) == data
                await response.release()
                if len(data) < 3:
                    continue
                span = ByteRange(1, len(data) - 1)
                _, response = await open_body(world, manifest, entry, world.anonymous, span)
                if entry.path in world.never_in_parts:
                    assert response.status == 200
                    assert await response.read_all(1 << 24) == data
                    await response.release()
                    continue
                assert response.status == 206
                assert ByteRange.of_content_range(response.headers["Content-Range"]) == (span, len(data))
                assert await response.read_all(1 << 24) == data[1:-1]
                await response.release()

        self.run(test)

    def test_strangers_learn_nothing_of_what_is_private(self) -> None:
        async def test(world: World) -> None:
            for asker in (world.anonymous, world.outsider):
                errors: list[FetcherError] = []
                for resource in (world.private, world.missing):
                    for question in (world.origin.resolve, world.origin.revision):
                        with pytest.raises((NotFoundError, DeniedError)) as caught:
                            await question(resource, asker)
                        errors.append(caught.value)
                assert len({(error.kind, error.hint) for error in errors}) == 1
                assert errors[0].hint and "private" in errors[0].hint

        self.run(test)

    def test_an_insider_gets_what_is_private_as_private(self) -> None:
        async def test(world: World) -> None:
            manifest = await world.origin.resolve(world.private, world.insider)
            assert manifest.private
            assert (await world.origin.revision(world.private, world.insider)).private
            for entry in manifest.files:
                _, response = await open_body(world, manifest, entry, world.insider)
                assert response.status == 200
                assert entry.digest is not None
                assert digest_of(entry.digest.name, await response.read_all(1 << 24)) == entry.digest
                await response.release()

        self.run(test)

    def test_public_stays_public_whoever_asks(self) -> None:
        async def test(world: World) -> None:
            for asker in (world.anonymous, world.insider, world.outsider):
                is_private = asker.credential is not None and not world.says_what_is_public
                assert (await world.origin.resolve(world.public, asker)).private is is_private

        self.run(test)

    def test_credentials_stay_at_the_origin(self) -> None:
        async def test(world: World) -> None:
            for resource in (world.public, world.private):
                manifest = await world.origin.resolve(resource, world.insider)
                for entry in manifest.files:
                    _, response = await open_body(world, manifest, entry, world.insider)
                    response.abort()
            assert world.tokens_seen_elsewhere() == 0
            assert any(request.carried_credential for request in world.asked)
            for text in secret_texts(world.insider.credential):
                assert not any(text in repr(request) for request in world.asked)

        self.run(test)

    def test_a_used_up_url_is_expired_and_a_fresh_one_is_found(self) -> None:
        async def test(world: World) -> None:
            manifest = await world.origin.resolve(world.public, world.anonymous)
            if world.use_up_urls is None:
                for entry in manifest.files:
                    request, response = await open_body(world, manifest, entry, world.anonymous)
                    response.abort()
                    assert request.origin == manifest.endpoint
                return
            redirected = 0
            for entry in manifest.files:
                request, response = await open_body(world, manifest, entry, world.anonymous)
                response.abort()
                if request.origin == manifest.endpoint:
                    continue
                redirected += 1
                world.use_up_urls()
                response = await world.transport.send(request, idle_timeout_s=5)
                assert world.origin.refusal(response, entry, signed=True).kind == "expired"
                response.abort()
                _, response = await open_body(world, manifest, entry, world.anonymous)
                assert response.status == 200
                response.abort()
            assert redirected

        self.run(test)

    def test_busy_is_busy_everywhere(self) -> None:
        async def test(world: World) -> None:
            manifest = await world.origin.resolve(world.public, world.anonymous)
            entry = manifest.files[0]
            own = world.origin.locate(manifest, entry, world.anonymous).url
            for url, signed in ((own, False), ("https://cdn.example/x?sig=1", True)):
                for status in (408, 429, 500, 502, 503, 504):
                    refusal = world.origin.refusal(Answered(status, url, {"Retry-After": "7"}), entry, signed=signed)
                    assert (refusal.kind, refusal.error, refusal.retry_after_s) == ("busy", None, 7.0)
                assert world.origin.refusal(Answered(503, url), entry, signed=signed).retry_after_s is None

        self.run(test)

    def test_no_status_makes_it_stumble(self) -> None:
        async def test(world: World) -> None:
            manifest = await world.origin.resolve(world.public, world.anonymous)
            entry = manifest.files[0]
            own = world.origin.locate(manifest, entry, world.anonymous).url + "?x=1"
            for url, signed in ((own, False), ("https://cdn.example/x?sig=hunter2", True)):
                for status in range(200, 600):
                    refusal = world.origin.refusal(Answered(status, url), entry, signed=signed)
                    assert (refusal.kind == "final") == (refusal.error is not None)
                    assert "hunter2" not in str(refusal.error)

        self.run(test)
