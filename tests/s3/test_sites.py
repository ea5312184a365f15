"""Hosts that serve a bucket without being S3, and the other host that wants no credentials."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest

from fetcher.testing import FaultPlan
from fetcher.testing.faults import IgnoreRange
from fetcher.testing.s3 import S3, Quirks, RedirectElsewhere, s3_in_thread
from tests.hub.raw import fetch
from tests.s3.judge import KEY_ID, SECRET, code, element, keys, presigned, signed

OBJECTS = {"a/one": b"1", "a/two": b"22", "b/three": b"333", "with space": b"space", "with+plus": b"plus"}


@pytest.fixture
def s3() -> Iterator[S3]:
    with s3_in_thread(keys={KEY_ID: SECRET}) as running:
        running.add_bucket("bucket", OBJECTS, public=True)
        yield running


def test_a_cdn_passes_on_what_s3_says(s3: S3) -> None:
    site = s3.add_site("bucket")
    assert site.endpoint != s3.endpoint
    answer = fetch(f"{site.endpoint}/a/two")
    assert (answer.body, answer.headers["etag"]) == (b"22", f'"{s3.bucket("bucket").objects["a/two"].etag}"')
    assert "cloudfront" in answer.headers["via"] and "x-amz-cf-id" in answer.headers
    assert fetch(f"{site.endpoint}/a/two", headers={"Range": "bytes=1-"}).status == 206
    assert code(fetch(f"{site.endpoint}/none")) == "NoSuchKey"
    listing = fetch(f"{site.endpoint}/?list-type=2&prefix=a/")
    assert (keys(listing), element(listing, "KeyCount")) == (["a/one", "a/two"], "2")
    assert fetch(f"{site.endpoint}/with+plus").status == 404
    s3.bucket("bucket").put("with plus", b"as S3 reads it")
    assert fetch(f"{site.endpoint}/with+plus").body == b"as S3 reads it"
    s3.bucket("bucket").list_allowed = False
    assert code(fetch(f"{site.endpoint}/none")) == code(fetch(f"{site.endpoint}/?list-type=2")) == "AccessDenied"
    assert [record.repo for record in s3.requests] == ["bucket"] * len(s3.requests)
    assert s3.count("object", path="a/two") == 2


def test_a_cdn_that_drops_the_query_lists_the_root(s3: S3) -> None:
    site = s3.add_site("bucket", drops_query=True)
    listing = fetch(f"{site.endpoint}/?list-type=2&prefix=a/&max-keys=1")
    assert (len(keys(listing)), element(listing, "Prefix"), element(listing, "KeyCount")) == (5, "", None)
    assert fetch(f"{site.endpoint}/a/one?partNumber=1&acl").status == 200


def test_a_public_bucket_domain_does_not_list(s3: S3) -> None:
    site = s3.add_site("bucket", "r2")
    for target in ("/", "/?list-type=2&prefix=a/", "/a/", "/none"):
        answer = fetch(site.endpoint + target)
        assert (answer.status, answer.headers["content-type"]) == (404, "text/html; charset=utf-8")
        assert b"<html>" in answer.body
    answer = fetch(f"{site.endpoint}/a/one", headers={"x-amz-checksum-mode": "ENABLED"})
    assert answer.headers["etag"] == f'"{s3.bucket("bucket").objects["a/one"].etag}"'
    assert answer.headers["server"] == "cloudflare" and "cf-ray" in answer.headers
    assert fetch(f"{site.endpoint}/a/one", headers=signed(f"{site.endpoint}/a/one", secret="wrong")).status == 200
    assert s3.requests[-1].authorization


def test_a_plain_web_server(s3: S3) -> None:
    bucket = s3.bucket("bucket")
    bucket.put("kept", b"12345", last_modified=0x1000, sse="aws:kms", storage_class="STANDARD_IA")
    site = s3.add_site("bucket", "plain")
    answer = fetch(f"{site.endpoint}/kept", headers={"x-amz-checksum-mode": "ENABLED"})
    assert (answer.body, answer.headers["etag"], answer.headers["server"]) == (b"12345", '"1000-5"', "nginx")
    assert not [name for name in answer.headers if name.startswith("x-amz")]
    assert fetch(f"{site.endpoint}/kept", headers={"If-Match": '"x"'}).status == 412
    assert fetch(f"{site.endpoint}/kept", headers={"Range": "bytes=9-"}).headers["content-range"] == "bytes */5"
    not_modified = fetch(f"{site.endpoint}/kept", headers={"If-None-Match": '"1000-5"'})
    assert (not_modified.status, not_modified.body) == (304, b"")
    assert fetch(f"{site.endpoint}/with+plus").body == b"plus"
    assert fetch(f"{site.endpoint}/with%20space").body == b"space"
    for target in ("/", "/?list-type=2&prefix=a/", "/none"):
        assert fetch(site.endpoint + target).status == 404
    assert fetch(f"{site.endpoint}/kept", method="HEAD").status == 200
    site.allows_head = False
    head = fetch(f"{site.endpoint}/kept", method="HEAD")
    assert (head.status, head.body, head.headers["allow"]) == (405, b"", "GET")
    assert fetch(f"{site.endpoint}/kept", method="PUT").status == 405


def test_sites_by_name_with_quirks_of_their_own(s3: S3) -> None:
    s3.add_site("bucket", "r2", hosts=["Models.test"], quirks=Quirks(validator="weak"))
    answer = fetch(f"{s3.endpoint}/a/one", headers={"Host": "models.TEST:80"})
    assert (answer.body, answer.headers["etag"][:3]) == (b"1", 'W/"')
    assert fetch(f"{s3.endpoint}/bucket/a/one").headers["etag"][:1] == '"'


def test_sites_and_buckets_before_and_after_the_start() -> None:
    async def run() -> None:
        s3 = S3(faults=FaultPlan(IgnoreRange()))
        bucket = s3.add_bucket("bucket", OBJECTS)
        early = s3.add_site(bucket, "r2")
        with pytest.raises(RuntimeError, match="has not been started"):
            _ = s3.endpoint
        async with s3:
            late = s3.add_site(bucket, "plain")
            for site in (early, late):
                answer = await asyncio.to_thread(fetch, f"{site.endpoint}/a/two", headers={"Range": "bytes=0-0"})
                assert (answer.status, answer.body) == (200, b"22")
            assert s3.faults.fired["IgnoreRange"] == 2

    asyncio.run(run())


# The other host


def test_a_redirect_to_a_host_that_refuses_credentials(s3: S3) -> None:
    s3.bucket("bucket").public = False
    s3.faults.add(RedirectElsewhere())
    url = s3.url("bucket", "with+plus")
    answer = fetch(url, headers=signed(url))
    assert answer.status == 307
    location = answer.headers["location"]
    assert location.startswith("http://") and not location.startswith(s3.endpoint)
    assert fetch(location).body == b"plus"
    assert fetch(location, headers={"Range": "bytes=1-2"}).body == b"lu"
    for credential in (
        signed(location),
        {"x-amz-security-token": "token"},
        {"Authorization": "Bearer x"},
    ):
        refused = fetch(location, headers=credential)
        assert (refused.status, code_of(refused.body)) == (400, "InvalidArgument")
    assert fetch(presigned(location)).status == 400
    other = location.rpartition("/")[0] + "/else"
    assert fetch(other).status == 404
    assert fetch(location, method="PUT").status == 405
    there = s3.requests.select("cdn")
    assert [record.authorization for record in there] == [False, False, True, True, True, True, False, False]
    assert (there[0].repo, there[0].path) == ("bucket", "with+plus")
    assert s3.body_bytes_sent("with+plus") == 4 + 2


def code_of(body: bytes) -> str:
    return body.decode().partition("<Code>")[2].partition("<")[0]
