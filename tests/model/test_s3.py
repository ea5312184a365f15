"""S3 and HTTPS locations: what a URL means, what of it is its identity, and what of it is secret."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fetcher.model.key import FILES_MAX
from fetcher.model.resource import S3, describe
from fetcher.model.s3 import S3Location, bucket_fault, key_file_fault, location_fault
from fetcher.model.secret import AWSKeys, Secret

ENDPOINT = "https://s3.amazonaws.com:443"
PRESIGNED = "https://b-1.s3.amazonaws.com/k?X-Amz-Date=1&X-Amz-Expires=60&X-Amz-Signature={0}&x-id=GetObject"


def key(url: str, *files: str) -> str:
    return S3.at(url, *files).key(ENDPOINT)


@pytest.mark.parametrize(
    ("written", "url"),
    [
        ("s3://bucket/prefix", "s3://bucket/prefix"),
        ("S3://Old_Bucket.x", "s3://Old_Bucket.x"),
        ("https://HOST/Path", "https://host/Path"),
        ("https://host:443/x", "https://host/x"),
        ("http://host:80", "http://host"),
        ("http://host:443/x/", "http://host:443/x/"),
        ("https://[::1]:8443/x", "https://[::1]:8443/x"),
        ("https://host/a b/ü", "https://host/a%20b/%C3%BC"),
        ("https://host/Sogni+Supported+SD1.5", "https://host/Sogni+Supported+SD1.5"),
        ("https://host/50%/%41%zz", "https://host/50%25/%41%25zz"),
        ("https://host/a?b=c#", None),
        ("s3://nos-ai-models-qllsn32u", "https://models.nosana.io"),
        ("s3://nos-ai-models-qllsn32u/a/b", "https://models.nosana.io/a/b"),
        ("s3://nos-ai-models-qllsn32u-2/a", "s3://nos-ai-models-qllsn32u-2/a"),
        ("s3://nos-ai-models-qllsn32u.x/a", "s3://nos-ai-models-qllsn32u.x/a"),
    ],
)
def test_how_a_url_is_kept(written: str, url: str | None) -> None:
    if url is None:
        assert location_fault(written)
    else:
        location = S3Location.parse(written)
        assert (location.url, location.query) == (url, None)
        assert S3Location.parse(url) == location


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("", "empty"),
        ("host/x", "not a URL of S3"),
        ("ftp://host/x", "not a URL of S3"),
        ("https://", "not a host name"),
        ("https:///x", "not a host name"),
        ("https://ho st/x", "not a host name"),
        ("https://hösт/x", "not a host name"),
        ("https://-host/x", "not a host name"),
        ("https://host:/x", "not a host name"),
        ("https://host:0/x", "not a port"),
        ("https://host:65536/x", "not a URL"),
        ("https://[::1/x", "not a URL"),
        ("https://host/a\\b", "backslash"),
        ("https://host/a\nb", "control"),
        ("https://host/\ud800", "control"),
        ("https://host/a#b", "'#'"),
        ("https://user@host/x", "user name"),
        ("https://user:p.ss@host/x", "user name"),
        ("https://user:p/ss@host/x", "not a"),
        ("https://" + "h" * 5000, "longer than"),
        ("s3://", "not a bucket name"),
        ("s3://b/x", "not a bucket name"),
        ("s3://a..b/x", "not a bucket name"),
        ("s3://id:secret@bucket/x", "user name"),
        ("s3://bucket:80/x", "no port"),
        ("s3://arn:aws:s3:eu-west-1:123456789012:accesspoint/name/x", "s3-accesspoint.<region>.amazonaws.com"),
        ("s3://arn:secret@bucket/x", "user name"),
        ("s3://bucket/x?y", "no query"),
        ("s3://bucket/x?versionId=", "no query"),
        ("s3://bucket/x?versionId=a&versionId=b", "no query"),
        ("s3://arn:aws:s3:us-east-1:1:accesspoint/x", "not a"),
    ],
    ids=lambda value: repr(value)[:40],
)
def test_wrong_urls(url: str, words: str) -> None:
    fault = location_fault(url)
    assert fault is not None
    assert words in fault
    assert "secret" not in fault
    assert "p/ss" not in fault
    with pytest.raises(ValueError, match=r"."):
        S3Location.parse(url)


@pytest.mark.parametrize("name", ["a", "a/b.bin", "a,b", "*", "a b+c", "ü", "a" * 255])
def test_right_file_names(name: str) -> None:
    assert key_file_fault(name) is None


@pytest.mark.parametrize("name", ["", "/a", "../a", "a/./b", "a//b", "a/", "a\\b", "a\n", "\ud800", "a/" * 600 + "a"])
def test_wrong_file_names(name: str) -> None:
    assert key_file_fault(name)
    with pytest.raises(ValueError, match=r"."):
        S3.at("https://host/x", name)


@pytest.mark.parametrize(
    ("bucket", "good"), [("abc", True), ("A_b.c", True), ("ab", False), ("a b", False), ("a/b", False)]
)
def test_buckets(bucket: str, good: bool) -> None:
    assert (bucket_fault(bucket) is None) is good


# --- identity


def test_spellings_of_one_name_are_one() -> None:
    assert key("https://host/a b") == key("https://HOST:443/a%20b") == key("https://host/%61%20b")
    assert key("https://host") == key("https://host/")
    assert key("https://host/a", "x", "y") == key("https://host/a/", "y", "x", "y")
    assert key("s3://nos-ai-models-qllsn32u/a") == key("https://models.nosana.io/a")


@pytest.mark.parametrize(
    "other",
    [
        "https://host/a",
        "https://host/a+b/",
        "http://host/a+b",
        "https://host:444/a+b",
        "https://host/a b",
        "s3://host/a+b",
    ],
)
def test_things_that_differ_have_keys_that_differ(other: str) -> None:
    assert key("https://host/a+b") != key(other)


def test_files_bucket_and_endpoint_are_part_of_the_key() -> None:
    plain = key("https://host/a")
    assert plain != key("https://host/a", "x")
    assert plain != S3.at("https://host/a", bucket="weights").key(ENDPOINT)
    assert plain == S3.at("https://host/a").key("https://other:443")
    assert key("s3://bucket/a") != S3.at("s3://bucket/a").key("https://other:443")
    assert plain == S3.at("https://host/a", keys=AWSKeys("id", Secret("key"))).key(ENDPOINT)


def test_the_order_of_locations_and_a_doubled_one_do_not_matter() -> None:
    a, b = S3Location.parse("https://host/a"), S3Location.parse("https://host/b")
    assert S3((a, b)).key(ENDPOINT) == S3((b, a)).key(ENDPOINT) == S3((a, b, a)).key(ENDPOINT)
    assert S3((a, b, a)).uri() == "https://host/a,https://host/b"


@given(
    st.lists(st.tuples(st.sampled_from("ab/"), st.lists(st.sampled_from("abc"), max_size=2)), min_size=1, max_size=3)
)
def test_no_two_requests_share_a_key_by_the_way_they_are_joined(places: list[tuple[str, list[str]]]) -> None:
    one = S3(tuple(S3Location.parse(f"https://host/{path}", tuple(files)) for path, files in places))
    flat = S3(tuple(S3Location.parse(f"https://host/{path}") for path, _ in places))
    assert (one.key(ENDPOINT) == flat.key(ENDPOINT)) is not any(files for _, files in places)


# --- queries


def test_a_signature_is_a_secret_and_no_identity() -> None:
    first, second = S3.at(PRESIGNED.format("one")), S3.at(PRESIGNED.format("two"))
    assert first.key(ENDPOINT) == second.key(ENDPOINT)
    assert first != second
    assert first.locations[0].holds_secret
    assert first.locations[0].query is not None
    assert first.locations[0].query.reveal().endswith("X-Amz-Signature=one&x-id=GetObject")
    assert first.uri() == "https://b-1.s3.amazonaws.com/k"


@pytest.mark.parametrize(
    "query",
    [
        "X-Goog-Signature=a&X-Goog-Date=1",
        "AWSAccessKeyId=a&Signature=b&Expires=1",
        "Policy=a&Signature=b&Key-Pair-Id=c",
        "sv=1&sr=c&sig=a&se=1&sp=r",
        "x-amz-signature=a",
    ],
)
def test_presigned_urls_of_several_makers(query: str) -> None:
    location = S3Location.parse(f"https://host/k?{query}")
    assert location.holds_secret
    assert location.selection == ""
    assert location.identity == S3Location.parse("https://host/k").identity


def test_a_version_is_part_of_the_key_and_of_what_is_printed() -> None:
    one, two = S3.at("s3://bucket/k?versionId=1"), S3.at("https://host/k?versionId=2")
    assert one.uri() == "s3://bucket/k?versionId=1"
    assert two.uri() == "https://host/k?versionId=2"
    assert two.key(ENDPOINT) != key("https://host/k?versionId=1") != key("https://host/k")
    assert not one.locations[0].holds_secret
    assert not two.locations[0].holds_secret
    assert S3.at("https://host/k?versionId=2&x=1").locations[0].holds_secret


@pytest.mark.parametrize(
    "query",
    ["file=a", "token=a", "a", "versionId=a&versionId=b", "versionId=%41", "file=a&X-Amz-Signature=1", "&&", "??"],
)
def test_what_else_may_choose_the_object_is_part_of_the_key_and_never_printed(query: str) -> None:
    resource = S3.at(f"https://host/k?{query}")
    assert resource.key(ENDPOINT) != key("https://host/k")
    assert resource.key(ENDPOINT) != key("https://host/k?file=b")
    assert resource.uri() == "https://host/k"


def test_files_are_below_no_single_object() -> None:
    for url in ("s3://bucket/k?versionId=1", PRESIGNED.format("x")):
        with pytest.raises(ValueError, match="for one object"):
            S3.at(url, "a")
    # A signature over a whole folder.
    assert S3.at("https://host/k?Policy=a&Signature=b&Key-Pair-Id=c", "x").locations[0].files == ("x",)


def test_resources_that_can_not_be() -> None:
    location = S3Location.parse("https://host/x")
    for build in (
        lambda: S3(()),
        lambda: S3((location,) * 101),
        lambda: S3((location,), bucket="no bucket"),
        lambda: S3((location, S3Location.parse("https://host/y")), bucket="weights"),
        lambda: S3.at(PRESIGNED.format("x"), keys=AWSKeys("id", Secret("key"))),
        lambda: S3.at("https://host/x?a=b", keys=AWSKeys("id", Secret("key"))),
        lambda: S3Location.parse("https://host/x", tuple(f"f{n}" for n in range(FILES_MAX + 1))),
    ):
        with pytest.raises(ValueError, match=r"."):
            build()


@given(st.text(max_size=30))
def test_any_url_is_kept_or_refused(text: str) -> None:
    for url in (text, f"https://{text}", f"https://host/{text}", f"s3://bucket/{text}", f"https://host/?{text}"):
        if location_fault(url) is None:
            location = S3Location.parse(url)
            assert location.url.isascii()
            assert location_fault(location.uri()) is None
            assert S3Location.parse(location.uri()).url == location.url
            assert location.uri().isprintable()


def test_nothing_secret_is_shown() -> None:
    keys = AWSKeys("AKIAhunter2", Secret("hunter2"), Secret("hunter2"))
    for resource in (S3.at("https://host/k?token=hunter2&X-Amz-Signature=hunter2"), S3.at("https://host/k", keys=keys)):
        assert "hunter2" not in f"{resource!r} {resource} {resource.uri()} {describe(resource)}"
    assert describe(S3.at("https://host/k?versionId=1"))["buckets"] == [
        {"url": "https://host/k?versionId=1", "files": []}
    ]
