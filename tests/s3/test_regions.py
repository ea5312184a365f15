"""The wrong region: what Amazon says to GET, to HEAD and to nobody, and that the official client finds the way."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from fetcher.testing.s3 import S3, s3_in_thread
from tests.hub.raw import fetch
from tests.s3.judge import KEY_ID, SECRET, ask, client, code, element, presigned

EU, AP = "eu-central-1", "ap-south-1"


@pytest.fixture
def s3() -> Iterator[S3]:
    with s3_in_thread(keys={KEY_ID: SECRET}, regions=[EU]) as running:
        running.add_bucket("at-home", {"key": b"home"}, public=True)
        running.add_bucket("in-europe", {"key": b"europe"}, public=True, region=EU)
        running.add_bucket("far-away", {"key": b"far"}, public=True, region=AP)
        yield running


def test_permanent_redirect_without_a_location(s3: S3) -> None:
    for target in ("/in-europe/key", "/in-europe?list-type=2", "/in-europe"):
        for answer in (fetch(s3.endpoint + target), ask(s3, target)):
            assert (answer.status, code(answer), element(answer, "Region")) == (301, "PermanentRedirect", EU)
            assert answer.headers["x-amz-bucket-region"] == EU
            assert "location" not in answer.headers
            assert element(answer, "Endpoint") == s3.endpoint_of(EU).removeprefix("http://")
    assert fetch(f"{s3.endpoint_of(EU)}/in-europe/key").body == b"europe"


def test_head_of_an_object_is_told_nothing_and_of_a_bucket_the_region(s3: S3) -> None:
    bare = fetch(s3.url("in-europe", "key"), method="HEAD")
    assert (bare.status, bare.body) == (301, b"")
    assert not {"x-amz-bucket-region", "location"} & set(bare.headers)
    bucket = fetch(s3.url("in-europe"), method="HEAD")
    assert (bucket.status, bucket.headers["x-amz-bucket-region"]) == (301, EU)
    s3.bucket("far-away").wrong_region = "malformed"
    bare = ask(s3, "/far-away/key", method="HEAD")
    assert (bare.status, bare.body, "x-amz-bucket-region" in bare.headers) == (400, b"", False)
    assert ask(s3, "/far-away", method="HEAD").headers["x-amz-bucket-region"] == AP
    s3.bucket("at-home").public = False
    private = fetch(s3.url("at-home"), method="HEAD")
    assert (private.status, private.headers["x-amz-bucket-region"]) == (403, "us-east-1")


def test_temporary_redirect_with_a_location(s3: S3) -> None:
    s3.bucket("in-europe").wrong_region = "temporary"
    answer = fetch(s3.url("in-europe", "key") + "?x=%28")
    assert (answer.status, code(answer)) == (307, "TemporaryRedirect")
    assert answer.headers["location"] == f"{s3.endpoint_of(EU)}/in-europe/key?x=%28"
    assert fetch(answer.headers["location"]).body == b"europe"
    assert fetch(s3.url("in-europe", "key"), method="HEAD").headers["location"].startswith(s3.endpoint_of(EU))


def test_malformed_authorization_names_the_region(s3: S3) -> None:
    s3.bucket("far-away").wrong_region = "malformed"
    answer = ask(s3, "/far-away/key")
    assert (answer.status, code(answer), element(answer, "Region")) == (400, "AuthorizationHeaderMalformed", AP)
    assert ask(s3, "/far-away/key", region=AP).body == b"far"
    assert fetch(s3.url("far-away", "key")).body == b"far"
    at_home = ask(s3, "/at-home/key", region="mars-north-1")
    assert (code(at_home), element(at_home, "Region")) == ("AuthorizationHeaderMalformed", "us-east-1")
    url = presigned(s3.url("at-home", "key"), region=EU)
    assert code(fetch(url)) == "AuthorizationQueryParametersError"
    assert code(ask(s3, "/", region=EU)) == "AuthorizationHeaderMalformed"


def test_the_main_endpoint_stands_in_for_regions_without_one(s3: S3) -> None:
    assert code(ask(s3, "/far-away/key")) == code(fetch(s3.url("far-away", "key"))) == "PermanentRedirect"
    assert ask(s3, "/far-away/key", region=AP).body == b"far"
    # A region that has one is served there only.
    assert code(ask(s3, "/in-europe/key", region=EU)) == "PermanentRedirect"


@pytest.mark.parametrize("how", ["permanent", "malformed"])
def test_the_official_client_finds_the_region(s3: S3, how: str) -> None:
    s3.bucket("far-away").wrong_region = how  # type: ignore[assignment]
    with client(s3.endpoint) as sdk:
        assert sdk.get_object(Bucket="far-away", Key="key")["Body"].read() == b"far"
        assert sdk.head_object(Bucket="far-away", Key="key")["ContentLength"] == 3
        assert sdk.get_bucket_location(Bucket="far-away")["LocationConstraint"] == AP
        assert not sdk.get_bucket_location(Bucket="at-home")["LocationConstraint"]
    assert s3.requests[0].status == (301 if how == "permanent" else 400)


def test_any_region() -> None:
    with s3_in_thread(keys={KEY_ID: SECRET}, any_region=True) as s3:
        s3.add_bucket("bucket", {"key": b"content"})
        for region in ("us-east-1", "auto", "garage"):
            assert ask(s3, "/bucket/key", region=region).body == b"content"
        assert s3.endpoint in repr(s3)
