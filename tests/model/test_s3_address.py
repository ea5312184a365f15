"""Which bucket a URL means: every form that the facts about S3 list, and what is refused in words."""

from __future__ import annotations

import pytest

from fetcher.errors import ResourceError
from fetcher.model.s3_address import Reading, as_written, is_api_host, readings

AWS = "https://s3.amazonaws.com"
OWN = "http://127.0.0.1:9000"


def read(
    url: str, endpoint: str = AWS, bucket: str | None = None, **more: object
) -> list[tuple[str, str, str | None, str]]:
    """Maker, root, region and key of each reading."""
    found = readings(url, bucket=bucket, endpoint=endpoint, **more)  # type: ignore[arg-type]
    return [(each.bucket.maker, each.bucket.root, each.bucket.region, each.key) for each in found]


def absolute(root: str, url: str) -> str:
    """``root``, which stands without its host where that is the one of ``url``."""
    return root if "://" in root else "/".join(url.split("/")[:3]) + root


@pytest.mark.parametrize(
    ("url", "root", "region", "key"),
    [
        ("https://b-1.s3.eu-west-1.amazonaws.com/k/x", "", "eu-west-1", "k/x"),
        ("https://b-1.s3-eu-west-1.amazonaws.com/k", "", "eu-west-1", "k"),
        ("https://b-1.s3.amazonaws.com/k", "", None, "k"),
        ("https://s3.eu-west-1.amazonaws.com/b-1/k/", "/b-1", "eu-west-1", "k/"),
        ("https://s3-eu-west-1.amazonaws.com/b-1/k", "/b-1", "eu-west-1", "k"),
        ("https://s3.amazonaws.com/b-1", "https://s3.amazonaws.com/b-1", None, ""),
        ("https://s3-external-1.amazonaws.com/b-1/k", "/b-1", "us-east-1", "k"),
        (
            "https://b-1.s3.cn-north-1.amazonaws.com.cn/k",
            "https://b-1.s3.cn-north-1.amazonaws.com.cn",
            "cn-north-1",
            "k",
        ),
        (
            "https://b-1.s3.dualstack.us-west-2.amazonaws.com/k",
            "https://b-1.s3.dualstack.us-west-2.amazonaws.com",
            "us-west-2",
            "k",
        ),
        (
            "https://b-1.s3-fips.us-west-2.amazonaws.com/k",
            "https://b-1.s3-fips.us-west-2.amazonaws.com",
            "us-west-2",
            "k",
        ),
        (
            "https://b-1.s3-fips.dualstack.us-west-2.amazonaws.com/k",
            "https://b-1.s3-fips.dualstack.us-west-2.amazonaws.com",
            "us-west-2",
            "k",
        ),
        (
            "https://s3.dualstack.us-west-2.amazonaws.com/b-1/k",
            "https://s3.dualstack.us-west-2.amazonaws.com/b-1",
            "us-west-2",
            "k",
        ),
        ("https://b-1.s3-accelerate.amazonaws.com/k", "", None, "k"),
        (
            "https://b-1.s3-accelerate.dualstack.amazonaws.com/k",
            "https://b-1.s3-accelerate.dualstack.amazonaws.com",
            None,
            "k",
        ),
        (
            "https://ap-111122223333.s3-accesspoint.eu-west-1.amazonaws.com/k",
            "https://ap-111122223333.s3-accesspoint.eu-west-1.amazonaws.com",
            "eu-west-1",
            "k",
        ),
        (
            "https://x-s3alias.s3.eu-west-1.amazonaws.com/k",
            "https://x-s3alias.s3.eu-west-1.amazonaws.com",
            "eu-west-1",
            "k",
        ),
        # Dots break the wildcard certificate.
        ("https://my.b.s3.eu-west-1.amazonaws.com/k", "https://s3.eu-west-1.amazonaws.com/my.b", "eu-west-1", "k"),
        ("https://my.b.s3.amazonaws.com/k", "https://s3.us-east-1.amazonaws.com/my.b", None, "k"),
        ("https://s3.eu-west-1.amazonaws.com/My_B/k", "/My_B", "eu-west-1", "k"),
    ],
)
def test_aws(url: str, root: str, region: str | None, key: str) -> None:
    assert read(url) == [("aws", absolute(root, url), region, key)]


@pytest.mark.parametrize(
    ("url", "maker", "root", "region", "key"),
    [
        ("https://acct.r2.cloudflarestorage.com/b-1/k", "r2", "/b-1", "auto", "k"),
        ("https://acct.eu.r2.cloudflarestorage.com/b-1/k", "r2", "/b-1", "auto", "k"),
        ("https://b-1.acct.r2.cloudflarestorage.com/k", "r2", "", "auto", "k"),
        ("https://b-1.acct.fedramp.r2.cloudflarestorage.com/k", "r2", "", "auto", "k"),
        ("https://s3.us-west-004.backblazeb2.com/b-1/k", "b2", "/b-1", "us-west-004", "k"),
        ("https://b-1.s3.us-west-004.backblazeb2.com/k", "b2", "", "us-west-004", "k"),
        ("https://storage.googleapis.com/b-1/k", "gcs", "/b-1", "auto", "k"),
        ("https://b-1.storage.googleapis.com/k", "gcs", "", "auto", "k"),
        ("https://my.b.storage.googleapis.com/k", "gcs", "https://storage.googleapis.com/my.b", "auto", "k"),
        # Served as files, never listed.
        ("https://pub-5bc58981af9f42659ff8ada57bfea92c.r2.dev/controlnets", "web", "", None, "controlnets"),
        ("https://f004.backblazeb2.com/file/b-1/k", "web", "", None, "file/b-1/k"),
        ("https://b-1.s3-website-us-east-1.amazonaws.com/k", "web", "", None, "k"),
        ("https://b-1.s3-website.eu-west-1.amazonaws.com/k", "web", "", None, "k"),
    ],
)
def test_other_makers(url: str, maker: str, root: str, region: str | None, key: str) -> None:
    assert read(url) == [(maker, absolute(root, url), region, key)]
    assert all(each.bucket.lists == (maker != "web") for each in readings(url, bucket=None, endpoint=AWS))


@pytest.mark.parametrize(
    ("url", "endpoint", "region", "root", "at"),
    [
        ("s3://b-1/k", AWS, None, "https://b-1.s3.us-east-1.amazonaws.com", "us-east-1"),
        ("s3://b-1/k", AWS, "eu-west-1", "https://b-1.s3.eu-west-1.amazonaws.com", "eu-west-1"),
        ("s3://my.b/k", AWS, "eu-west-1", "https://s3.eu-west-1.amazonaws.com/my.b", "eu-west-1"),
        ("s3://My_B/k", AWS, None, "https://s3.us-east-1.amazonaws.com/My_B", "us-east-1"),
        (
            "s3://b-1/k",
            "https://s3.eu-west-1.amazonaws.com",
            "us-west-2",
            "https://b-1.s3.eu-west-1.amazonaws.com",
            "eu-west-1",
        ),
        ("s3://b-1/k", "https://acct.r2.cloudflarestorage.com", None, "/b-1", "auto"),
        ("s3://b-1/k", OWN, "eu-west-1", f"{OWN}/b-1", None),
    ],
)
def test_s3_urls_lead_to_the_endpoint(url: str, endpoint: str, region: str | None, root: str, at: str | None) -> None:
    ((_, found, found_region, key),) = read(url, endpoint, region=region)
    assert (found, found_region, key) == (absolute(root, endpoint), at, "k")


def test_the_configured_endpoint_is_known_by_its_host() -> None:
    assert read(f"{OWN}/b-1/k", OWN) == [("endpoint", f"{OWN}/b-1", None, "k")]
    own = "https://minio.example:9000"
    assert read("https://b-1.minio.example:9000/k", own) == [("endpoint", "https://b-1.minio.example:9000", None, "k")]
    assert read("https://minio.example/k/x", own)[0][0] == "web"  # another port is another host


@pytest.mark.parametrize(
    ("url", "bucket", "signed", "expected"),
    [
        # Nobody signs for a public domain; whoever signs names a bucket.
        ("https://models.example/a/b", None, False, [("web", "", "a/b"), ("custom", "/a", "b")]),
        ("https://models.example/a/b", None, True, [("custom", "/a", "b"), ("web", "", "a/b")]),
        ("https://models.example/", None, False, [("web", "", "")]),
        ("https://models.example/", None, True, [("web", "", "")]),
        ("https://models.example/a", None, False, [("web", "", "a"), ("custom", "/a", "")]),
        # The bucket beside the URL.
        ("https://models.example/a/b", "models", True, [("custom", "", "a/b")]),
        ("https://x.example/bkt/a", "bkt", True, [("custom", "/bkt", "a"), ("web", "", "bkt/a")]),
        ("https://x.example/a/b", "bkt", True, [("custom", "/bkt", "a/b"), ("web", "", "a/b")]),
    ],
)
def test_unknown_hosts(url: str, bucket: str | None, signed: bool, expected: list[tuple[str, str, str]]) -> None:
    host = "/".join(url.split("/")[:3])
    assert [
        (maker, root.removeprefix(host), key) for maker, root, _, key in read(url, bucket=bucket, signed=signed)
    ] == expected


@pytest.mark.parametrize("host", ["http://127.0.0.1:9000", "http://[::1]:9000", "http://localhost:9000"])
def test_no_domain_is_an_address(host: str) -> None:
    assert [found[:2] for found in read(f"{host}/a/b")] == [("custom", f"{host}/a"), ("web", host)]


@pytest.mark.parametrize(
    ("url", "bucket", "root", "key"),
    [
        # The example of the network's own command line tool.
        ("https://ai.r2.cloudflarestorage.com/ai-model/entrypoint", "ai-model", "/ai-model", "entrypoint"),
        ("https://acct.r2.cloudflarestorage.com/prefix/x", "bkt", "/bkt", "prefix/x"),
        ("https://bkt.s3.eu-west-1.amazonaws.com/p", "bkt", "", "p"),
        ("https://s3.eu-west-1.amazonaws.com/p", "bkt", "/bkt", "p"),
    ],
)
def test_a_bucket_beside_a_known_host(url: str, bucket: str, root: str, key: str) -> None:
    ((_, found, _, found_key),) = read(url, bucket=bucket)
    assert (found, found_key) == (absolute(root, url), key)


@pytest.mark.parametrize(
    ("url", "bucket", "words"),
    [
        ("https://x.mrap.accesspoint.s3-global.amazonaws.com/k", None, "multi-region access point"),
        ("https://b--use1-az4--x-s3.s3express-use1-az4.us-east-1.amazonaws.com/k", None, "S3 Express"),
        ("s3://b--use1-az4--x-s3/k", None, "S3 Express"),
        ("https://s3.us-east-1.amazonaws.com/b--use1-az4--x-s3/k", None, "S3 Express"),
        ("https://ap-1.op-1.s3-outposts.us-east-1.amazonaws.com/k", None, "Outposts"),
        ("https://x-1.s3-object-lambda.us-east-1.amazonaws.com/k", None, "Object Lambda"),
        ("https://s3.eu-west-1.amazonaws.com/", None, "names no bucket"),
        ("https://b-1.s3.eu-west-1.amazonaws.com/k", "b-2", "but the bucket is said to be"),
        ("https://models.example/%ff", None, "not UTF-8"),
    ],
)
def test_what_is_refused(url: str, bucket: str | None, words: str) -> None:
    with pytest.raises(ResourceError, match=words) as caught:
        readings(url, bucket=bucket, endpoint=AWS)
    assert caught.value.hint


def test_keys_of_the_region_lead_there_where_the_host_names_none() -> None:
    assert read("https://b-1.s3.amazonaws.com/k", region="eu-west-1")[0][1] == "https://b-1.s3.eu-west-1.amazonaws.com"
    assert read("https://s3.amazonaws.com/b-1/k", region="eu-west-1")[0][1] == "https://s3.eu-west-1.amazonaws.com/b-1"
    assert read("https://b-1.s3.us-west-2.amazonaws.com/k", region="eu-west-1")[0][2] == "us-west-2"
    assert read("https://b-1.s3.amazonaws.com/k", region="evil.example/x")[0][1] == "https://b-1.s3.amazonaws.com"


def test_another_region_is_another_host_at_aws_only() -> None:
    aws = readings("https://b-1.s3-us-west-2.amazonaws.com/k", bucket=None, endpoint=AWS)[0].bucket
    moved = aws.at_region("eu-west-1")
    assert (moved.root, moved.region, moved.identity) == (
        "https://b-1.s3.eu-west-1.amazonaws.com",
        "eu-west-1",
        aws.identity,
    )
    assert aws.at_region("evil.example/").root == aws.root
    fast = readings("https://b-1.s3-accelerate.amazonaws.com/k", bucket=None, endpoint=AWS)[0].bucket
    assert (fast.at_region("eu-west-1").root, fast.at_region("eu-west-1").region) == (fast.root, "eu-west-1")
    own = readings("s3://b-1/k", bucket=None, endpoint=OWN)[0].bucket
    assert (own.at_region("eu-west-1").root, own.at_region("eu-west-1").region) == (own.root, "eu-west-1")


@pytest.mark.parametrize(
    ("path", "key", "wire"),
    [
        ("a%20b", "a b", "a%20b"),
        ("a+b", "a+b", "a%2Bb"),
        ("a%2Bb", "a+b", "a%2Bb"),
        ("a'(b)*!", "a'(b)*!", "a%27%28b%29%2A%21"),
        ("a~b-c_d.e", "a~b-c_d.e", "a~b-c_d.e"),
        ("%C3%A4", "ä", "%C3%A4"),
        ("p/../evil", "p/../evil", "p/../evil"),
        ("%25", "%", "%25"),
    ],
)
def test_keys_are_decoded_once_and_quoted_once(path: str, key: str, wire: str) -> None:
    (reading,) = readings(f"https://b-1.s3.eu-west-1.amazonaws.com/{path}", bucket=None, endpoint=AWS)
    assert reading.key == key
    assert reading.bucket.url(key) == f"https://b-1.s3.eu-west-1.amazonaws.com/{wire}"


def test_as_written_nothing_is_requoted() -> None:
    url = "https://b-1.s3.amazonaws.com/a+b(c)%2b"
    reading = as_written(url)
    assert isinstance(reading, Reading)
    assert reading.bucket.url(reading.key) == url


@pytest.mark.parametrize(
    ("url", "is_one"),
    [
        ("s3://b-1/k", True),
        ("https://b-1.s3.amazonaws.com/k", True),
        ("https://acct.r2.cloudflarestorage.com/b/k", True),
        ("https://storage.googleapis.com/b/k", True),
        (f"{OWN}/b/k", True),
        ("http://127.0.0.1:9001/b/k", False),
        ("https://models.example/k", False),
        ("https://pub-1.r2.dev/k", False),
        ("https://b-1.s3-website-us-east-1.amazonaws.com/k", False),
        ("https://s3.amazonaws.com.evil.example/b/k", False),
        ("https://evil-s3.amazonaws.com.example/b/k", False),
        ("https://evils3.amazonaws.com/b/k", False),
    ],
)
def test_where_an_operators_keys_may_go(url: str, is_one: bool) -> None:
    assert is_api_host(url, OWN) is is_one
