"""GET and HEAD of objects: ranges, conditions, parts, checksums, storage classes; as Amazon's and with each quirk."""

from __future__ import annotations

import gzip
from base64 import b64encode
from collections.abc import Iterator
from email.utils import formatdate
from hashlib import sha256
from typing import Any

import pytest

from fetcher.testing import Synthetic
from fetcher.testing.s3 import CEPH, RCLONE, S3, Quirks, S3Object, checksums, s3_in_thread
from tests.hub.raw import Answer, fetch
from tests.s3.judge import KEY_ID, SECRET, ask, code, element

MIB = 1 << 20
CONTENT = Synthetic(3 * MIB + 11, 9)
TEXT = b"some text, and more of it\n" * 100
ENABLED = {"x-amz-checksum-mode": "ENABLED"}


@pytest.fixture
def s3() -> Iterator[S3]:
    with s3_in_thread(keys={KEY_ID: SECRET}) as running:
        bucket = running.add_bucket("bucket", {"text": TEXT, "empty": b""}, public=True)
        bucket.put("large", CONTENT, last_modified=1_700_000_000.0)
        bucket.put("parts", CONTENT, part_bytes=MIB, checksum="sha256", content_type="application/x-model")
        yield running


def get(s3: S3, key: str = "large", *, method: str = "GET", query: str = "", **headers: str) -> Answer:
    fields = {name.replace("_", "-"): value for name, value in headers.items()}
    return fetch(s3.url("bucket", key) + query, method=method, headers=fields)


def stored(s3: S3, key: str = "large") -> S3Object:
    return s3.bucket("bucket").objects[key]


def quirky(s3: S3, **settings: Any) -> None:
    s3.bucket("bucket").quirks = Quirks(**settings)


# Amazon's manners


@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_a_whole_object(s3: S3, method: str) -> None:
    answer = get(s3, method=method)
    assert answer.status == 200
    assert answer.body == (CONTENT.read() if method == "GET" else b"")
    assert answer.headers["content-length"] == str(CONTENT.size)
    assert answer.headers["etag"] == f'"{stored(s3).etag}"'
    assert answer.headers["last-modified"] == "Tue, 14 Nov 2023 22:13:20 GMT"
    assert answer.headers["content-type"] == "binary/octet-stream"
    assert answer.headers["accept-ranges"] == "bytes"
    assert not [name for name in answer.headers if "checksum" in name or "encryption" in name]
    record = s3.requests[0]
    assert (record.route, record.repo, record.path, record.status) == ("object", "bucket", "large", 200)
    assert (record.span, record.complete) == ((0, CONTENT.size), True)
    assert s3.body_bytes_sent() == (CONTENT.size if method == "GET" else 0)


def test_virtual_hosted_style_and_its_limits() -> None:
    with s3_in_thread(domains=["s3.test", "eu.s3.test"]) as s3:
        s3.add_bucket("my.bucket", {"my.bucket/key": b"1", "key": b"2"}, public=True)
        port = s3.endpoint.rpartition(":")[2]
        for host in ("my.bucket.s3.test", f"my.bucket.s3.test:{port}", "MY.bucket.EU.s3.test"):
            assert fetch(f"{s3.endpoint}/key", headers={"Host": host}).body == b"2", host
            assert fetch(f"{s3.endpoint}/my.bucket/key", headers={"Host": host}).body == b"1"
            assert b"<Key>key</Key>" in fetch(f"{s3.endpoint}/", headers={"Host": host}).body
        for host in ("s3.test", "eu.s3.test", "localhost", f"127.0.0.1:{port}", "[::1]:80"):
            assert fetch(f"{s3.endpoint}/my.bucket/key", headers={"Host": host}).body == b"2", host
        assert code(fetch(f"{s3.endpoint}/key", headers={"Host": "other.s3.test"})) == "NoSuchBucket"


@pytest.mark.parametrize(
    ("asked", "span"),
    [
        ("bytes=0-0", (0, 1)),
        ("bytes=5-", (5, CONTENT.size)),
        ("bytes=-7", (CONTENT.size - 7, CONTENT.size)),
        (f"bytes=1-{10 * CONTENT.size}", (1, CONTENT.size)),
        (f"bytes={CONTENT.size - 1}-", (CONTENT.size - 1, CONTENT.size)),
    ],
)
def test_ranges(s3: S3, asked: str, span: tuple[int, int]) -> None:
    for method in ("GET", "HEAD"):
        answer = get(s3, method=method, Range=asked)
        assert answer.status == 206
        assert answer.headers["content-range"] == f"bytes {span[0]}-{span[1] - 1}/{CONTENT.size}"
        assert answer.headers["content-length"] == str(span[1] - span[0])
        assert answer.body == (CONTENT.read(*span) if method == "GET" else b"")
        assert s3.requests[-1].span == span


@pytest.mark.parametrize("asked", ["bytes=0-1,5-6", "lines=1-2", "bytes=5-4"])
def test_ranges_that_are_no_reason_to_answer_less(s3: S3, asked: str) -> None:
    assert get(s3, Range=asked).status == 200


@pytest.mark.parametrize(
    ("key", "asked"), [("large", f"bytes={CONTENT.size}-"), ("empty", "bytes=0-"), ("empty", "bytes=-1")]
)
def test_ranges_that_cannot_be(s3: S3, key: str, asked: str) -> None:
    answer = get(s3, key, Range=asked)
    assert (answer.status, code(answer)) == (416, "InvalidRange")
    size = str(stored(s3, key).content.size)
    assert (answer.headers["content-range"], element(answer, "ActualObjectSize")) == (f"bytes */{size}", size)
    assert get(s3, "empty").headers["content-length"] == "0"


def test_conditions(s3: S3) -> None:
    etag, before, after = (
        stored(s3).etag,
        formatdate(1_699_999_999, usegmt=True),
        formatdate(1_700_000_000, usegmt=True),
    )
    for good in (f'"{etag}"', etag, "*", f'"x", "{etag}"'):
        assert get(s3, If_Match=good, Range="bytes=0-0").status == 206, good
    for bad in ('"x"', f'W/"{etag}"', ""):
        answer = get(s3, If_Match=bad)
        assert (answer.status, code(answer), element(answer, "Condition")) == (412, "PreconditionFailed", "If-Match")
    assert get(s3, method="HEAD", If_Match='"x"').body == b""
    for same in (f'"{etag}"', f'W/"{etag}"', "*"):
        answer = get(s3, If_None_Match=same)
        assert (answer.status, answer.body, answer.headers["etag"]) == (304, b"", f'"{etag}"')
    assert get(s3, If_None_Match='"x"').status == 200
    assert get(s3, If_Modified_Since=after).status == 304
    assert get(s3, If_Modified_Since=before).status == 200
    assert get(s3, If_Unmodified_Since=after).status == 200
    assert get(s3, If_Unmodified_Since=before).status == 412
    assert get(s3, If_Match=etag, If_Unmodified_Since=before).status == 200
    assert get(s3, If_Unmodified_Since="no date").status == 200
    assert get(s3, Range="bytes=0-0", If_Range='"another"').status == 206


def test_parts_by_number(s3: S3) -> None:
    whole = CONTENT.read()
    for number, (start, stop) in enumerate(stored(s3, "parts").spans, 1):
        answer = get(s3, "parts", query=f"?partNumber={number}", **{"x-amz-checksum-mode": "ENABLED"})
        assert (answer.status, answer.body) == (206, whole[start:stop])
        assert answer.headers["content-range"] == f"bytes {start}-{stop - 1}/{CONTENT.size}"
        assert answer.headers["x-amz-mp-parts-count"] == "4"
        assert answer.headers["etag"] == f'"{stored(s3, "parts").etag}"'
        digest = b64encode(sha256(whole[start:stop]).digest()).decode()
        assert answer.headers["x-amz-checksum-sha256"] == digest
    head = get(s3, "parts", method="HEAD", query="?partNumber=1")
    assert (head.status, head.headers["content-length"], head.headers["x-amz-mp-parts-count"]) == (206, str(MIB), "4")
    single = get(s3, method="HEAD", query="?partNumber=1")
    assert (single.status, single.headers["content-length"]) == (206, str(CONTENT.size))
    assert "x-amz-mp-parts-count" not in single.headers
    assert code(get(s3, "parts", query="?partNumber=5")) == "InvalidPartNumber"
    assert code(get(s3, "parts", query="?partNumber=0")) == "InvalidArgument"
    assert code(get(s3, "parts", query="?partNumber=1", Range="bytes=0-1")) == "InvalidRequest"
    assert get(s3, "empty", query="?partNumber=1").status == 206


@pytest.mark.parametrize("algorithm", checksums.ALGORITHMS)
def test_checksums(s3: S3, algorithm: Any) -> None:
    bucket = s3.bucket("bucket")
    bucket.put("single", CONTENT, checksum=algorithm)
    bucket.put("multi", CONTENT, checksum=algorithm, part_bytes=MIB)
    full = b64encode(checksums.digest(algorithm, CONTENT.views())).decode()
    name = f"x-amz-checksum-{algorithm}"
    for method in ("GET", "HEAD"):
        answer = get(s3, "single", method=method, **ENABLED)
        assert (answer.headers[name], answer.headers["x-amz-checksum-type"]) == (full, "FULL_OBJECT")
        multi = get(s3, "multi", method=method, **ENABLED)
        composite = algorithm != "crc64nvme"
        assert multi.headers["x-amz-checksum-type"] == ("COMPOSITE" if composite else "FULL_OBJECT")
        assert multi.headers[name].endswith("-4") == composite
        assert (multi.headers[name] == full) != composite
        assert name not in get(s3, "single", method=method, Range="bytes=0-9", **ENABLED).headers
        assert name not in get(s3, "single", method=method).headers


def test_full_checksums_of_parts_and_none_at_all(s3: S3) -> None:
    bucket = s3.bucket("bucket")
    bucket.put("multi", CONTENT, checksum="crc32c", checksum_type="FULL_OBJECT", part_bytes=MIB)
    bucket.put("without", CONTENT, checksum=None)
    full = b64encode(checksums.digest("crc32c", CONTENT.views())).decode()
    assert get(s3, "multi", **ENABLED).headers["x-amz-checksum-crc32c"] == full
    assert not [name for name in get(s3, "without", **ENABLED).headers if "checksum" in name]


def test_objects_under_kms(s3: S3) -> None:
    s3.bucket("bucket").put("hidden", TEXT, sse="aws:kms")
    answer = ask(s3, "/bucket/hidden")
    assert answer.body == TEXT
    assert answer.headers["x-amz-server-side-encryption"] == "aws:kms"
    assert answer.headers["etag"] != f'"{stored(s3, "text").etag}"'
    assert code(get(s3, "hidden")) == "InvalidArgument"
    s3.bucket("bucket").put("plain", TEXT, sse="AES256")
    assert get(s3, "plain").headers["x-amz-server-side-encryption"] == "AES256"


def test_archived_objects_can_be_seen_but_not_read(s3: S3) -> None:
    s3.bucket("bucket").put("cold", TEXT, storage_class="GLACIER")
    head = get(s3, "cold", method="HEAD")
    assert (head.status, head.headers["x-amz-storage-class"]) == (200, "GLACIER")
    answer = get(s3, "cold")
    assert (answer.status, code(answer), element(answer, "StorageClass")) == (403, "InvalidObjectState", "GLACIER")
    s3.bucket("bucket").put("cool", TEXT, storage_class="STANDARD_IA")
    assert get(s3, "cool").body == TEXT


def test_objects_change_and_vanish_while_it_runs(s3: S3) -> None:
    etag = get(s3, "text").headers["etag"]
    s3.bucket("bucket").put("text", b"new")
    assert get(s3, "text", If_Match=etag).status == 412
    assert get(s3, "text").body == b"new"
    s3.bucket("bucket").delete("text")
    assert code(get(s3, "text")) == "NoSuchKey"
    s3.remove_bucket("bucket")
    assert code(get(s3, "text")) == "NoSuchBucket"


# Each quirk


def test_if_match_ignored(s3: S3) -> None:
    quirky(s3, if_match="ignored")
    assert get(s3, If_Match='"x"', Range="bytes=0-0").status == 206


def test_if_range_obeyed(s3: S3) -> None:
    quirky(s3, if_range="obeyed")
    assert get(s3, Range="bytes=0-0", If_Range='"another"').status == 200
    assert get(s3, Range="bytes=0-0", If_Range=f'"{stored(s3).etag}"').status == 206


def test_ranges_ignored(s3: S3) -> None:
    quirky(s3, ranges="ignored")
    answer = get(s3, Range="bytes=5-9")
    assert (answer.status, answer.body) == (200, CONTENT.read())
    assert not {"content-range", "accept-ranges"} & set(answer.headers)


def test_ranges_as_200(s3: S3) -> None:
    quirky(s3, ranges="as-200")
    answer = get(s3, Range="bytes=5-9")
    assert (answer.status, answer.body) == (200, CONTENT.read(5, 10))
    assert answer.headers["content-range"] == f"bytes 5-9/{CONTENT.size}"


def test_weak_etags(s3: S3) -> None:
    quirky(s3, validator="weak")
    etag = get(s3).headers["etag"]
    assert etag == f'W/"{stored(s3).etag}"'
    assert get(s3, If_Match=etag).status == get(s3, If_Match=stored(s3).etag).status == 412
    assert get(s3, If_None_Match=etag).status == 304


@pytest.mark.parametrize(("validator", "dated"), [("last-modified", True), ("none", False)])
def test_no_etag(s3: S3, validator: str, dated: bool) -> None:
    quirky(s3, validator=validator)
    answer = get(s3)
    assert "etag" not in answer.headers
    assert ("last-modified" in answer.headers) == dated
    assert get(s3, If_Match='"x"').status == 412
    assert b"<ETag>" not in fetch(s3.url("bucket")).body


def test_edge_etag(s3: S3) -> None:
    quirky(s3, edge_etag=True)
    etag = get(s3).headers["etag"]
    assert stored(s3).etag not in etag and not etag.startswith("W/")
    assert stored(s3).etag.encode() in fetch(s3.url("bucket")).body
    assert get(s3, If_Match=stored(s3).etag).status == 412
    assert get(s3, If_Match=etag).status == 200


def test_part_number_ignored(s3: S3) -> None:
    quirky(s3, part_number="ignored")
    answer = get(s3, "parts", method="HEAD", query="?partNumber=1")
    assert (answer.status, answer.headers["content-length"]) == (200, str(CONTENT.size))
    assert "x-amz-mp-parts-count" not in answer.headers


def test_part_etag(s3: S3) -> None:
    quirky(s3, part_number="part-etag")
    etag = get(s3, "parts", method="HEAD", query="?partNumber=1").headers["etag"]
    assert etag == f'"{stored(s3, "parts").part_etag(0)}"'
    assert get(s3, "parts", Range="bytes=0-0", If_Match=etag).status == 412


@pytest.mark.parametrize(("mode", "status"), [("ignored", 200), ("denied", 403), ("unknown", 400)])
def test_checksum_modes(s3: S3, mode: str, status: int) -> None:
    quirky(s3, checksum_mode=mode)
    answer = get(s3, method="HEAD", **ENABLED)
    assert answer.status == status
    assert not [name for name in answer.headers if "checksum" in name]
    assert get(s3, method="HEAD").status == 200


def test_checksum_on_range(s3: S3) -> None:
    quirky(s3, checksum_on_range=True)
    answer = get(s3, Range="bytes=0-9", **ENABLED)
    assert answer.headers["x-amz-checksum-crc64nvme"] == stored(s3).checksum_value


def test_no_content_length(s3: S3) -> None:
    quirky(s3, content_length="missing")
    answer = get(s3)
    assert (answer.headers["transfer-encoding"], answer.body) == ("chunked", CONTENT.read())
    assert "content-length" not in answer.headers
    part = get(s3, Range="bytes=5-9")
    assert (part.status, part.body, part.headers["transfer-encoding"]) == (206, CONTENT.read(5, 10), "chunked")


def test_content_encoding_added(s3: S3) -> None:
    s3.bucket("bucket").put("packed", gzip.compress(TEXT), content_encoding="gzip")
    assert get(s3, "packed").headers["content-encoding"] == "gzip"
    quirky(s3, content_encoding="aws-chunked")
    answer = get(s3)
    assert (answer.headers["content-encoding"], answer.body) == ("aws-chunked", CONTENT.read())


def test_compression_on_the_way(s3: S3) -> None:
    quirky(s3, compresses=True)
    answer = get(s3, "text", Accept_Encoding="gzip", Range="bytes=0-9")
    assert (answer.status, gzip.decompress(answer.body)) == (200, TEXT)
    assert (answer.headers["content-encoding"], answer.headers["transfer-encoding"]) == ("gzip", "chunked")
    assert answer.headers["etag"].startswith('W/"')
    assert get(s3, "text", Accept_Encoding="identity", Range="bytes=0-9").status == 206
    assert "content-encoding" not in get(s3, Accept_Encoding="gzip").headers


def test_the_manners_of_known_servers(s3: S3) -> None:
    bucket = s3.bucket("bucket")
    bucket.quirks = RCLONE
    answer = get(s3, Range="bytes=5-9", If_Match='"x"', **ENABLED)
    assert (answer.status, len(answer.body)) == (200, 5)
    assert "x-amz-checksum-crc64nvme" in answer.headers
    bucket.quirks = CEPH
    assert get(s3, "parts", method="HEAD", query="?partNumber=1", **ENABLED).status == 200


def test_quirks_of_all_buckets_unless_one_has_its_own() -> None:
    with s3_in_thread(quirks=Quirks(ranges="ignored")) as s3:
        s3.add_bucket("one", {"k": b"12345"}, public=True)
        s3.add_bucket("two", {"k": b"12345"}, public=True, quirks=Quirks())
        ranged = {"Range": "bytes=0-1"}
        assert fetch(s3.url("one", "k"), headers=ranged).body == b"12345"
        assert fetch(s3.url("two", "k"), headers=ranged).body == b"12"
