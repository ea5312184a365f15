"""What strangers say of bytes: a store may state any digest, and a host that a redirect leads to may state another.

No claim of one origin may keep the askers of another waiting, and none is replaced by who merely delivers the bytes.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from fetcher import Fetcher, ForbiddenError, IntegrityError, NotFoundError, OfflineError
from fetcher.engine.asks import Outcome
from fetcher.testing import Synthetic, hub_in_thread, s3_in_thread
from tests.e2e.support import HURRIED, MIB, nothing_visible, run_fetch, sha256_of, until

CONTENT = Synthetic(4 * MIB + 5, 3)
GOOD, OTHER = b"g" * 1000, b"o" * 1000

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@contextmanager
def serving(handler: Handler) -> Iterator[str]:
    """A web server of a stranger; gives its origin."""
    loop = asyncio.new_event_loop()
    started = threading.Event()
    places: list[str] = []

    async def main() -> None:
        app = web.Application()
        app.router.add_route("*", "/{path:.*}", handler)
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        places.append(f"http://127.0.0.1:{runner.addresses[0][1]}")
        started.set()
        await ended.wait()
        await runner.cleanup()

    ended = asyncio.Event()
    thread = threading.Thread(target=lambda: loop.run_until_complete(main()))
    thread.start()
    try:
        started.wait()
        yield places[0]
    finally:
        loop.call_soon_threadsafe(ended.set)
        thread.join()
        loop.close()


def test_who_states_a_digest_keeps_nobody_else_waiting(cache_dir: Path) -> None:
    """A store states the sha256 of what everybody wants, and sends something else, at a crawl that is just not too
    slow."""
    digest = base64.b64encode(bytes.fromhex(CONTENT.sha256)).decode()
    crawling = threading.Event()

    async def crawl(request: web.Request) -> web.StreamResponse:
        headers = {
            "ETag": '"x"',
            "Content-Length": str(CONTENT.size),
            "x-amz-checksum-sha256": digest,
            "x-amz-request-id": "1",
        }
        response = web.StreamResponse(headers=headers)
        if request.method == "HEAD":
            return web.Response(headers=headers)
        await response.prepare(request)
        crawling.set()
        for _ in range(600):
            await response.write(bytes(20_000))
            await asyncio.sleep(0.1)
        return response

    async def main(origin: str, hub: str) -> tuple[Outcome, float]:
        settings = {**HURRIED, "part_bytes": 16 * MIB, "cache_dir": str(cache_dir), "hf_endpoint": hub}
        async with Fetcher(environ={}, **settings) as fetcher:
            stranger = asyncio.create_task(fetcher.fetch(f"{origin}/bucket/model.bin"))
            await until(crawling.is_set)
            began = time.monotonic()
            outcome = await fetcher.fetch("hf://acme/popular")
            elapsed_s = time.monotonic() - began
            assert not stranger.done(), "it was under way all the time"
            stranger.cancel()
            with pytest.raises(asyncio.CancelledError):
                await stranger
            return outcome, elapsed_s

    with serving(crawl) as origin, hub_in_thread() as hub:
        hub.add_repo("acme/popular", files={"model.bin": CONTENT})
        outcome, elapsed_s = asyncio.run(main(origin, hub.endpoint))
    assert outcome.downloaded == CONTENT.size and elapsed_s < 20.0
    assert sha256_of(outcome.snapshot.path / "model.bin") == CONTENT.sha256


@pytest.mark.parametrize(
    "headers",
    [
        {"x-amz-checksum-sha256": base64.b64encode(hashlib.sha256(OTHER).digest()).decode()},
        {"x-goog-hash": f"md5={base64.b64encode(hashlib.md5(OTHER).digest()).decode()}"},
        {"x-amz-server-side-encryption": "aws:kms"},
    ],
    ids=lambda headers: next(iter(headers)),
)
def test_where_a_redirect_leads_nobody_says_what_the_bytes_should_be(cache_dir: Path, headers: dict[str, str]) -> None:
    """The store states an MD5; who delivers other bytes may not have them compared with something else instead."""
    md5 = hashlib.md5(GOOD).hexdigest()

    async def deliver(_: web.Request) -> web.StreamResponse:
        return web.Response(body=OTHER, headers=headers)

    async def store(request: web.Request) -> web.StreamResponse:
        if "list-type" in request.query:
            row = f'<Contents><Key>sub/file</Key><Size>{len(GOOD)}</Size><ETag>"{md5}"</ETag></Contents>'
            head = f"<Prefix>{request.query['prefix']}</Prefix><KeyCount>1</KeyCount>"
            return web.Response(text=f"<ListBucketResult>{head}{row}</ListBucketResult>", content_type="text/xml")
        if request.method == "HEAD":
            return web.Response(headers={"ETag": f'"{md5}"', "Content-Length": str(len(GOOD))})
        return web.Response(status=302, headers={"Location": elsewhere + request.path})

    settings = {**HURRIED, "cache_dir": str(cache_dir)}
    with serving(deliver) as elsewhere, serving(store) as origin, pytest.raises(IntegrityError, match="md5"):
        run_fetch(lambda: Fetcher(environ={}, **settings), f"{origin}/bucket/sub/")
    nothing_visible(cache_dir)


def test_the_keys_of_all_urls_of_a_resource_count_together(cache_dir: Path) -> None:
    settings = {**HURRIED, "cache_dir": str(cache_dir)}
    with s3_in_thread() as s3:
        bucket = s3.add_bucket("open", public=True)
        for name in ("a/1", "a/2", "b/3", "b/4"):
            bucket.put(name, b"x")
        item = {"type": "S3", "buckets": [{"url": f"{s3.endpoint}/open/{folder}/"} for folder in "ab"]}
        with pytest.raises(ForbiddenError, match=r"together with the URLs beside it, lists more than 3 keys"):
            run_fetch(lambda: Fetcher(environ={}, manifest_files_max=3, **settings), item)
        assert run_fetch(lambda: Fetcher(environ={}, manifest_files_max=4, **settings), item).snapshot.files == 4


def test_a_deleted_version_does_not_cost_others_their_checksums(cache_dir: Path) -> None:
    """S3 answers 405 to the HEAD of a version that is a deletion, and anybody can have one in a bucket of his own."""
    large = bytes(2 * MIB)
    digest = base64.b64encode(hashlib.sha256(large).digest()).decode()

    async def store(request: web.Request) -> web.StreamResponse:
        if "versionId" in request.query:
            return web.Response(status=405, headers={"x-amz-delete-marker": "true", "x-amz-request-id": "1"})
        checksum = {"x-amz-checksum-sha256": digest} if request.method == "HEAD" else {}
        headers = {"ETag": '"opaque"', "x-amz-request-id": "1", **checksum}
        if request.method == "HEAD":
            return web.Response(headers={**headers, "Content-Length": str(len(large))})
        span = request.http_range
        if span.start is None:
            return web.Response(body=large, headers=headers)
        body = large[span]
        headers["Content-Range"] = f"bytes {span.start}-{span.start + len(body) - 1}/{len(large)}"
        return web.Response(status=206, body=body, headers=headers)

    async def main(origin: str) -> str:
        async with Fetcher(environ={}, **HURRIED, cache_dir=str(cache_dir)) as fetcher:
            with pytest.raises(NotFoundError):
                await fetcher.fetch(f"{origin}/theirs/gone?versionId=1")
            return (await fetcher.fetch(f"{origin}/ours/file")).snapshot.verified_by

    with serving(store) as origin:
        assert asyncio.run(main(origin)) == "sha256"


def test_what_an_operator_fetched_from_inside_is_no_jobs(cache_dir: Path) -> None:
    """Nobody but this host could have asked there; a job that names the same address is judged before it is given."""

    def fetch(asker: str, **more: Any) -> Outcome:
        settings = {**HURRIED, "cache_dir": str(cache_dir), "allow_net": "", **more}
        return run_fetch(lambda: Fetcher(environ={}, **settings), url, asker)

    with s3_in_thread() as s3:
        s3.add_bucket("open", public=True).put("sub/file", b"of the house")
        url = f"{s3.endpoint}/open/sub/"
        assert fetch("operator").snapshot.private
        s3.requests.clear()
        with pytest.raises(ForbiddenError, match=r"127\.0\.0\.1"):
            fetch("job")
        with pytest.raises(OfflineError):
            fetch("job", offline=True)
        assert fetch("operator").hit and fetch("operator", offline=True).hit
        assert len(s3.requests) == 0
        own = fetch("job", allow_net="127.0.0.1/32")
        assert not own.hit and not own.snapshot.private, "who may go there goes there himself"
        assert fetch("operator").hit


def test_a_stranger_does_not_lead_to_the_operators_own_endpoint(cache_dir: Path) -> None:
    """What the operator configured may be asked because he named it, and not because somebody redirects there."""

    async def stranger(_: web.Request) -> web.StreamResponse:
        return web.Response(status=307, headers={"Location": f"{s3.endpoint}/open/sub/file"})

    with s3_in_thread() as s3, serving(stranger) as origin:
        s3.add_bucket("open", public=True).put("sub/file", b"of the house")
        settings = {**HURRIED, "cache_dir": str(cache_dir), "allow_net": "", "s3_endpoint": s3.endpoint}
        with pytest.raises(ForbiddenError, match=r"127\.0\.0\.1"):
            run_fetch(lambda: Fetcher(environ={}, **settings), f"{origin}/x/file", "operator")
        assert len(s3.requests) == 0
        # Nor where the resource itself has a place there, which may be asked.
        s3.bucket("open").put("own", b"own")
        both = {"type": "S3", "buckets": [{"url": "s3://open/own"}, {"url": f"{origin}/x/file"}]}
        with pytest.raises(ForbiddenError, match=r"127\.0\.0\.1"):
            run_fetch(lambda: Fetcher(environ={}, **settings), both, "operator")
        assert not any("sub/file" in record.target for record in s3.requests)
