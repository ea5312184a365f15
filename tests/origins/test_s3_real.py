"""S3's dialect against servers that nobody made for it: OpenStack Swift, the strict one, and rclone, the odd one."""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any
from urllib.parse import quote
from uuid import uuid4

import pytest

from fetcher.errors import FetcherError
from fetcher.model.asker import Asker
from fetcher.model.digest import Digest
from fetcher.model.ranges import ByteRange
from fetcher.model.s3 import S3
from fetcher.model.secret import AWSKeys, Secret
from fetcher.origins.s3_memory import Memory
from tests.origins.conformance import digest_of
from tests.origins.stores import ANONYMOUS, MIB, Asking, asking
from tests.support.servers.rclone import RcloneServer
from tests.support.servers.s3client import S3Server

ODD = (
    "a b", "a+b", "a%20b", "a%2Bb", "äöü/ß", "日本語/文件", "'()*!", "a&b=c;d", "a?b", "a#b", "a,b", "a=b", "~tilde",
    "[1]", "{2}", "$x", "@x", "a:bc", 'quote"d', "<x>", "back`tick", "pipe|", "caret^", "\U0001f600", "trailing ",
    " leading", "dots...", ".hidden", "..twodots", "sub.dir/.keep", "x" * 200,
)  # fmt: skip
KEYS_MANY = 2500


def odd_objects(count: int) -> dict[str, bytes]:
    """So many small objects, under names that need quoting somewhere."""
    names = [f"{number // len(ODD):02}/{ODD[number % len(ODD)]}" for number in range(count)]
    return {f"many/{name}": name.encode() for name in names}


def asker_of(server: S3Server, **changes: Any) -> Asker:
    if server.access_key is None:
        return ANONYMOUS
    keys = AWSKeys(server.access_key, Secret(server.secret_key), region=server.region)
    return Asker("job", replace(keys, **changes))


def run(server: S3Server, test: Callable[[Asking], Awaitable[None]], *, clock: Callable[[], float] = time.time) -> None:
    async def main() -> None:
        async with asking(server.endpoint, clock=clock) as ask:
            await test(ask)

    asyncio.run(main())


def a_bucket(server: S3Server) -> str:
    return server.client.make_bucket(f"b-{uuid4().hex[:12]}")


async def refused(ask: Asking, resource: S3, asker: Asker) -> FetcherError:
    with pytest.raises(FetcherError) as caught:
        await ask.origin.resolve(resource, asker)
    return caught.value


def put_odd_objects(server: S3Server) -> tuple[str, dict[str, bytes]]:
    objects = odd_objects(KEYS_MANY)
    if isinstance(server, RcloneServer):
        bucket = f"b-{uuid4().hex[:12]}"
        server.fill(bucket, objects)
    else:
        bucket = a_bucket(server)
        server.client.put_all(bucket, objects)
    return bucket, objects


@pytest.fixture(scope="session", params=["swift_s3", "rclone_s3"])
def server(request: pytest.FixtureRequest) -> S3Server:
    found: S3Server = request.getfixturevalue(request.param)
    return found


@pytest.mark.timeout(120)  # Swift takes 10 ms for each object that is put there
def test_thousands_of_odd_keys(server: S3Server) -> None:
    bucket, objects = put_odd_objects(server)

    async def test(ask: Asking) -> None:
        resource, asker = S3.at(f"s3://{bucket}/many"), asker_of(server)
        manifest = await ask.origin.resolve(resource, asker)
        assert {f"many/{entry.path}": entry.size for entry in manifest.files} == {
            key: len(data) for key, data in objects.items()
        }
        for entry in manifest.files[:: len(manifest.files) // 60]:
            stated, body = await ask.body(manifest, entry, asker)
            assert (stated is not None, body) == (True, objects[f"many/{entry.path}"])
            assert entry.digest == Digest("md5", hashlib.md5(body).hexdigest())
        assert (await ask.origin.revision(resource, asker)).manifest_digest == manifest.digest()
        odd = [key.removeprefix("many/") for key in list(objects)[: len(ODD)]]
        named = await ask.origin.resolve(S3.at(f"{server.endpoint}/{bucket}/many", *odd), asker)
        assert {entry.path for entry in named.files} == set(odd)
        for name in odd[:8]:
            alone = await ask.origin.resolve(S3.at(f"s3://{bucket}/many/{quote(name)}"), asker)
            assert [entry.path for entry in alone.files] == [name.rpartition("/")[2]]

    run(server, test)


def test_a_wrong_secret_and_a_wrong_key(server: S3Server) -> None:
    bucket = a_bucket(server)
    server.client.put(bucket, "p/a", b"a")

    async def test(ask: Asking) -> None:
        for changes in ({"secret_access_key": Secret("wrong")}, {"access_key_id": "AKIDNOBODY"}):
            for resource in (S3.at(f"s3://{bucket}/p"), S3.at(f"s3://{bucket}/p", "a")):
                error = await refused(ask, resource, asker_of(server, **changes))
                assert (error.kind, "keys are not accepted" in error.message) == ("denied", True)
                assert error.hint
        error = await refused(ask, S3.at(f"s3://{bucket}/p"), ANONYMOUS)
        assert (error.kind, "needs credentials" in error.message) == ("denied", True)

    run(server, test)


def test_what_is_not_there(server: S3Server) -> None:
    bucket = a_bucket(server)
    server.client.put(bucket, "p/a", b"a")

    async def test(ask: Asking) -> None:
        asker = asker_of(server)
        for resource in (S3.at(f"s3://{bucket}/q"), S3.at(f"s3://{bucket}/q/"), S3.at(f"s3://{bucket}/p", "b")):
            assert (await refused(ask, resource, asker)).kind == "not_found"
        assert "no such bucket" in (await refused(ask, S3.at("s3://b-nowhere/p"), asker)).message

    run(server, test)


@pytest.mark.parametrize("ahead_s", [-3600.0, 3600.0])
def test_a_wrong_clock(server: S3Server, ahead_s: float, monkeypatch: pytest.MonkeyPatch) -> None:
    bucket = a_bucket(server)
    server.client.put(bucket, "p/a", b"a")

    async def test(ask: Asking) -> None:
        # As where the clock was set after the host's had been learned: the first signatures are an hour off.
        of_a_host, known = Memory.host, set[str]()

        def host(memory: Memory, origin: str) -> Any:
            found = of_a_host(memory, origin)
            if origin not in known:
                known.add(origin)
                found.clock_skew_s = ahead_s
            return found

        monkeypatch.setattr(Memory, "host", host)
        asker = asker_of(server)
        manifest = await ask.origin.resolve(S3.at(f"s3://{bucket}/p"), asker)
        (entry,) = manifest.files
        assert (await ask.body(manifest, entry, asker))[1] == b"a"

    run(server, test)


def test_an_upload_in_parts(server: S3Server) -> None:
    bucket = a_bucket(server)
    data = bytes(range(251)) * (12 * MIB // 251)
    parts = [data[start : start + 5 * MIB] for start in range(0, len(data), 5 * MIB)]
    server.client.put_multipart(bucket, "p/f", parts)

    async def test(ask: Asking) -> None:
        asker = asker_of(server)
        manifest = await ask.origin.resolve(S3.at(f"s3://{bucket}/p"), asker)
        (entry,) = manifest.files
        assert entry.size == len(data)
        # Swift tells how long its parts are; rclone keeps the plain MD5.
        name = "md5" if isinstance(server, RcloneServer) else f"md5/{5 * MIB}"
        assert entry.digest == digest_of(name, data)
        stated, body = await ask.body(manifest, entry, asker)
        assert (stated is not None, body == data) == (True, True)
        span = ByteRange(MIB, 2 * MIB)
        request = ask.origin.locate(manifest, entry, asker)
        ranged = replace(request, headers=(*request.headers, ("Range", span.header())))
        response = await ask.transport.send(ranged, idle_timeout_s=5)
        assert response.status in (200, 206) and response.content_length == MIB
        assert ByteRange.of_content_range(response.headers["Content-Range"]) == (span, len(data))
        stated = ask.origin.stated(response, entry, whole=False)
        assert stated is not None and stated.digest == entry.digest
        assert await response.read_all(2 * MIB) == data[span.start : span.stop]
        await response.release()

    run(server, test)


def test_a_change_is_noticed(server: S3Server) -> None:
    bucket = a_bucket(server)
    server.client.put(bucket, "p/a", b"before")

    async def test(ask: Asking) -> None:
        asker = asker_of(server)
        manifest = await ask.origin.resolve(S3.at(f"s3://{bucket}/p"), asker)
        (entry,) = manifest.files
        await asyncio.to_thread(server.client.put, bucket, "p/a", b"behind")
        response = await ask.transport.send(ask.origin.locate(manifest, entry, asker), idle_timeout_s=5)
        if response.status == 200:  # rclone
            assert ask.origin.stated(response, entry, whole=True) is None
        else:
            assert ask.origin.refusal(response, entry, signed=False).kind == "changed"
        response.abort()
        again = await ask.origin.resolve(S3.at(f"s3://{bucket}/p"), asker)
        assert again.digest() != manifest.digest()
        assert (await ask.body(again, again.files[0], asker))[1] == b"behind"

    run(server, test)


def test_empty_objects_and_markers(swift_s3: S3Server) -> None:
    bucket = a_bucket(swift_s3)
    swift_s3.client.put_all(bucket, {"p/": b"", "p/empty": b"", "p/sub/": b"", "p/sub/a": b"a"})

    async def test(ask: Asking) -> None:
        asker = asker_of(swift_s3)
        manifest = await ask.origin.resolve(S3.at(f"s3://{bucket}/p"), asker)
        assert [(entry.path, entry.size) for entry in manifest.files] == [("empty", 0), ("sub/a", 1)]
        assert (await ask.body(manifest, manifest.files[0], asker))[1] == b""

    run(swift_s3, test)


@pytest.mark.parametrize("key", ["p/../escaped", "p//a", "p/a\x01b", "p/a\\b", "p/./a", "p/C:/a"])
def test_keys_that_are_no_file_names(swift_s3: S3Server, key: str) -> None:
    bucket = a_bucket(swift_s3)
    swift_s3.client.put_all(bucket, {"p/good": b"x", key: b"x"})

    async def test(ask: Asking) -> None:
        error = await refused(ask, S3.at(f"s3://{bucket}/p"), asker_of(swift_s3))
        assert (error.kind, "can't be a file name" in error.message) == ("forbidden", True)
        named = await ask.origin.resolve(S3.at(f"s3://{bucket}/p", "good"), asker_of(swift_s3))
        assert [entry.path for entry in named.files] == ["good"]

    run(swift_s3, test)


def test_who_may_not_list(swift_s3: S3Server) -> None:
    """Swift opens objects to the world, and not their listing, by its own protocol only: nobody may do either here."""
    bucket = a_bucket(swift_s3)
    swift_s3.client.put(bucket, "p/a", b"a")

    async def test(ask: Asking) -> None:
        for resource in (S3.at(f"s3://{bucket}/p"), S3.at(f"s3://{bucket}/p/"), S3.at(f"s3://{bucket}/p", "a")):
            error = await refused(ask, resource, ANONYMOUS)
            assert error.kind == "denied" and error.hint and "private" in error.hint

    run(swift_s3, test)
