"""Many buckets share a host. Who fills one of them teaches us nothing about the others: what is learned is learned of
that bucket, so that no job makes another's bytes less well compared, or asked for more often."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from fetcher import Fetcher
from fetcher.origins import s3_checks
from fetcher.testing import S3, Synthetic, s3_in_thread
from fetcher.testing.faults import OnRequest, Status
from tests.e2e.support import HURRIED

NAMES = ("1", "2", "3", "4")


@pytest.fixture
def s3() -> Iterator[S3]:
    with s3_in_thread() as running:
        theirs = running.add_bucket("theirs", public=True)
        for name in NAMES:
            theirs.put(f"sub/{name}", name.encode() * 1000, checksum=None)
        # Their ETags are no MD5s: without the checksums nothing but the size would be compared.
        theirs.put("checked/small", b"checked" * 1000, etag="opaque")
        theirs.put("checked/large", Synthetic((1 << 20) + 5, 1), etag="opaque")
        running.add_bucket("hostile", public=True).put("sub/file", b"first")
        yield running


def fetched(s3: S3, cache_dir: Path, *urls: str) -> list[str]:
    """What each of ``urls`` was verified by, one after another in one process; the log is of the last one."""

    async def main() -> list[str]:
        found = []
        async with Fetcher(environ={}, **HURRIED, cache_dir=str(cache_dir)) as fetcher:
            for url in urls:
                s3.requests.clear()
                outcome = await fetcher.fetch(f"{s3.endpoint}/{url}")
                found.append(outcome.snapshot.verified_by)
        return found

    return asyncio.run(main())


def test_a_bucket_whose_listing_is_never_right(s3: S3, cache_dir: Path) -> None:
    """Its object changes between listing and HEAD, as a CDN's copies would look. The others' ETags stay MD5s, and their
    objects are not asked one by one."""

    async def change(_: Any) -> None:
        s3.bucket("hostile").put("sub/file", b"second")

    s3.faults.add(OnRequest(change).on("object", path="sub/file", times=1))
    assert fetched(s3, cache_dir, "hostile/sub/", "theirs/sub/")[1] == "md5"
    assert sum(record.method == "HEAD" for record in s3.requests) == 1
    assert s3.faults.fired


@pytest.mark.parametrize("method", ["HEAD", "GET"])
def test_a_bucket_that_is_closed_to_who_asks_for_checksums(s3: S3, cache_dir: Path, method: str) -> None:
    """It is opened between two questions, as if the header had been the trouble. The others' checksums still come."""
    s3.faults.add(Status(403).on("object", method=method, path="sub/file", times=1))
    assert fetched(s3, cache_dir, "hostile/sub/", "theirs/checked/")[1] == "crc64nvme"
    assert s3.faults.fired


def test_a_bucket_that_knows_no_head(s3: S3, cache_dir: Path) -> None:
    s3.faults.add(Status(405).on("object", method="HEAD", path="sub/file"))
    assert fetched(s3, cache_dir, "hostile/sub/file", "theirs/checked/")[1] == "crc64nvme"
    assert s3.faults.fired


def test_a_bucket_that_is_an_s3s(s3: S3, cache_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It lists. What the web server on the same host has for others may have ETags of 32 digits that are no MD5s."""
    s3.bucket("theirs").put("page", b"a page" * 1000, checksum=None, etag="0123456789abcdef0123456789abcdef")
    s3.faults.add(Status(404).on("list", skip=1))
    monkeypatch.setattr(s3_checks, "is_s3_answer", lambda headers: False)
    assert fetched(s3, cache_dir, "hostile/sub/", "theirs/page") == ["md5", "size"]
    assert s3.faults.fired
