"""ListObjects in both versions: pages, tokens, encodings, refusals; and each quirk of a listing."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any
from urllib.parse import unquote_plus
from xml.etree import ElementTree

import pytest

from fetcher.testing.s3 import HOSTILE_KEYS, S3, Bucket, Quirks, add_hostile_objects, s3_in_thread
from tests.hub.raw import Answer, fetch
from tests.s3.judge import code, element, elements, keys, query

NAMES = [f"p/{n:02}" for n in range(7)] + ["p2/sibling", "q/a/1", "q/a/2", "q/b", "a b+c~d*é"]


@pytest.fixture
def s3() -> Iterator[S3]:
    with s3_in_thread(page_keys=3) as running:
        bucket = running.add_bucket("bucket", dict.fromkeys(NAMES, b"x"), public=True)
        bucket.put("p/00", b"first", checksum="sha256", part_bytes=2, last_modified=1.0, storage_class="GLACIER")
        yield running


@pytest.fixture
def bucket(s3: S3) -> Bucket:
    return s3.bucket("bucket")


def page(s3: S3, **fields: str) -> Answer:
    return fetch(s3.url("bucket").removesuffix("/") + (query(**fields) if fields else ""))


def all_pages(s3: S3, **fields: str) -> list[Answer]:
    """Version 2, as a careful client asks for it."""
    pages, token = [], None
    while not pages or element(pages[-1], "IsTruncated") == "true":
        more = {} if token is None else {"continuation_token": token}
        pages.append(page(s3, list_type="2", **fields, **more))
        assert pages[-1].status == 200
        token = element(pages[-1], "NextContinuationToken")
        assert len(pages) < 100
    return pages


def test_a_page_says_everything_about_its_keys(s3: S3, bucket: Bucket) -> None:
    answer = page(s3, list_type="2", prefix="p/00")
    stored = bucket.objects["p/00"]
    assert answer.headers["content-type"] == "application/xml"
    assert answer.headers["x-amz-bucket-region"] == "us-east-1"
    expected = {
        "Name": "bucket",
        "Prefix": "p/00",
        "KeyCount": "1",
        "MaxKeys": "1000",
        "IsTruncated": "false",
        "Key": "p/00",
        "LastModified": "1970-01-01T00:00:01.000Z",
        "ETag": f'"{stored.etag}"',
        "ChecksumAlgorithm": "SHA256",
        "ChecksumType": "COMPOSITE",
        "Size": "5",
        "StorageClass": "GLACIER",
    }
    assert {name: element(answer, name) for name in expected} == expected
    assert f"<ETag>&quot;{stored.etag}&quot;</ETag>".encode() in answer.body
    assert ElementTree.fromstring(answer.body).tag == "{http://s3.amazonaws.com/doc/2006-03-01/}ListBucketResult"
    record = s3.requests[0]
    assert (record.route, record.repo, record.path, s3.body_bytes_sent()) == ("list", "bucket", None, 0)


def test_pages_of_version_2(s3: S3) -> None:
    pages = all_pages(s3)
    assert [len(keys(each)) for each in pages] == [3, 3, 3, 3]
    assert [key for each in pages for key in keys(each)] == sorted(NAMES, key=str.encode)
    tokens = [element(each, "NextContinuationToken") for each in pages]
    assert tokens[-1] is None and len(set(tokens)) == 4
    # Whoever does not quote them loses them.
    assert all(set('+/="') <= set(token) for token in tokens if token)
    assert [element(each, "ContinuationToken") for each in pages] == [None, *tokens[:-1]]
    assert {element(each, "KeyCount") for each in pages} == {"3"}


def test_a_token_is_good_for_its_own_listing_only(s3: S3) -> None:
    token = element(page(s3, list_type="2", prefix="p/"), "NextContinuationToken")
    assert token is not None
    assert page(s3, list_type="2", prefix="p/", continuation_token=token).status == 200
    for wrong in (
        {"prefix": "q/", "continuation_token": token},
        {"continuation_token": token},
        {"prefix": "p/", "continuation_token": token.replace("+", " ")},
        {"prefix": "p/", "continuation_token": token[:-4]},
        {"prefix": "p/", "continuation_token": "p/02"},
        {"prefix": "p/", "continuation_token": ""},
    ):
        answer = page(s3, list_type="2", **wrong)
        assert (answer.status, code(answer)) == (400, "InvalidArgument"), wrong
    # As sent by a client that does not quote it.
    assert fetch(f"{s3.url('bucket')}?list-type=2&prefix=p/&continuation-token={token}").status == 400


def test_start_after_max_keys_and_prefixes(s3: S3) -> None:
    assert keys(page(s3, list_type="2", prefix="p/", start_after="p/04")) == ["p/05", "p/06"]
    assert element(page(s3, list_type="2", start_after="p/04"), "StartAfter") == "p/04"
    one = page(s3, list_type="2", max_keys="1")
    assert (keys(one), element(one, "MaxKeys"), element(one, "IsTruncated")) == (["a b+c~d*é"], "1", "true")
    none = page(s3, list_type="2", max_keys="0")
    assert (keys(none), element(none, "IsTruncated")) == ([], "false")
    assert code(page(s3, list_type="2", max_keys="x")) == code(page(s3, encoding_type="xml")) == "InvalidArgument"
    grouped = all_pages(s3, delimiter="/")
    assert [element(each, "KeyCount") for each in grouped] == ["3", "1"]
    assert elements(grouped[0], "Prefix") == ["", "p/", "p2/"]
    assert elements(grouped[1], "Prefix") == ["", "q/"]
    assert keys(page(s3, list_type="2", prefix="q/", delimiter="/")) == ["q/b"]


def test_pages_of_version_1(s3: S3) -> None:
    found: list[str] = []
    marker = ""
    while True:
        answer = page(s3, marker=marker)
        assert element(answer, "KeyCount") is None and element(answer, "NextMarker") is None
        assert element(answer, "Marker") == marker
        assert element(answer, "DisplayName") == "tester"
        found += keys(answer)
        if element(answer, "IsTruncated") == "false":
            break
        marker = found[-1]
    assert found == sorted(NAMES, key=str.encode)
    grouped = page(s3, delimiter="/")
    assert element(grouped, "NextMarker") == "p2/"
    assert elements(page(s3, delimiter="/", marker="p2/"), "Prefix") == ["", "q/"]


@pytest.mark.parametrize(
    ("encoding", "written"),
    [("aws", "a+b%2Bc%7Ed*%C3%A9/%01%25"), ("ceph", "a%20b%2Bc~d%2A%C3%A9%2F%01%25"), ("ignored", "a b+c~d*é/&#x1;%")],
)
def test_encodings(s3: S3, bucket: Bucket, encoding: Any, written: str) -> None:
    key = "a b+c~d*é/\x01%"
    bucket.put(key, b"")
    bucket.quirks = Quirks(list_encoding=encoding)
    answer = page(s3, list_type="2", prefix="a b+c~d*é/", encoding_type="url")
    assert keys(answer) == [written]
    assert (b"<EncodingType>url</EncodingType>" in answer.body) == (encoding != "ignored")
    if encoding == "ignored":
        with pytest.raises(ElementTree.ParseError):
            ElementTree.fromstring(answer.body)
        return
    assert unquote_plus(written) == key
    assert unquote_plus(element(answer, "Prefix") or "") == "a b+c~d*é/"
    grouped = page(s3, list_type="2", delimiter="é/", encoding_type="url", start_after="a b+c~d*é")
    assert unquote_plus(element(grouped, "Delimiter") or "") == "é/"
    assert unquote_plus(elements(grouped, "Prefix")[-1]) == "a b+c~d*é/"
    assert unquote_plus(element(grouped, "StartAfter") or "") == "a b+c~d*é"
    # Unasked it is never done, and a control byte then makes a page that no parser takes.
    with pytest.raises(ElementTree.ParseError):
        ElementTree.fromstring(page(s3, list_type="2").body)


def test_hostile_keys_are_listed_and_served_as_they_are(s3: S3, bucket: Bucket) -> None:
    added = add_hostile_objects(bucket)
    assert len(added) == sum(len(case) for case in HOSTILE_KEYS.values())
    listed = {unquote_plus(key) for each in all_pages(s3, encoding_type="url") for key in keys(each)}
    assert listed == {*NAMES, *added}
    for key in added:
        answer = fetch(s3.url("bucket", key))
        assert (answer.status, answer.body) == (200, bucket.objects[key].content.read()), key
    assert bucket.objects["directory/"].content.size == 0
    bucket.put("directory/", b"with content")
    assert fetch(s3.url("bucket", "directory/")).body == b"with content"


def test_version_1_only(s3: S3, bucket: Bucket) -> None:
    bucket.quirks = Quirks(list_versions="v1")
    answer = page(s3, list_type="2", prefix="p/")
    assert (keys(answer), element(answer, "KeyCount"), element(answer, "NextContinuationToken")) == (
        ["p/00", "p/01", "p/02"],
        None,
        None,
    )
    assert keys(page(s3, list_type="2", prefix="p/", marker="p/02"))[0] == "p/03"


def test_tokens_that_are_keys(s3: S3, bucket: Bucket) -> None:
    bucket.quirks = Quirks(list_token="last-key")
    pages = all_pages(s3)
    assert [key for each in pages for key in keys(each)] == sorted(NAMES, key=str.encode)
    assert element(pages[0], "NextContinuationToken") == keys(pages[0])[-1]


@pytest.mark.parametrize("quote", ["&#34;", ""])
def test_quotes_of_etags(s3: S3, bucket: Bucket, quote: str) -> None:
    bucket.quirks = Quirks(list_etag_quote=quote)
    etag = bucket.objects["p/01"].etag
    assert f"<ETag>{quote}{etag}{quote}</ETag>".encode() in page(s3, list_type="2", prefix="p/01").body


def test_ten_thousand_keys_while_they_change(rng: random.Random) -> None:
    names = {f"{rng.randrange(10**9):09}/{n}" for n in range(10_000)}
    with s3_in_thread() as s3:
        bucket = s3.add_bucket("bucket", dict.fromkeys(names, b""), public=True)
        first = fetch(s3.url("bucket") + "?list-type=2")
        bucket.delete(keys(first)[-1])  # the next page begins behind it all the same
        pages = all_pages(s3)
        assert [key for each in pages for key in keys(each)] == sorted(names - {keys(first)[-1]})
        token = element(first, "NextContinuationToken")
        assert token is not None
        rest = fetch(s3.url("bucket") + query(list_type="2", continuation_token=token))
        assert keys(rest) == sorted(names)[1000:2000]
