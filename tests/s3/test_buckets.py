"""Objects and buckets as values: ETags, checksums, part grids, the order of a listing."""

from __future__ import annotations

import hashlib
import random
from pathlib import Path

import pytest

from fetcher.testing import Synthetic
from fetcher.testing.s3 import Bucket, S3Object
from fetcher.testing.s3.buckets import make_bucket

CONTENT = Synthetic((3 << 20) + 7, 3)


@pytest.fixture
def bucket() -> Bucket:
    return make_bucket("bucket", lambda: 1_700_000_000.9, None, {})


def test_the_etag_of_a_single_put_is_its_md5(bucket: Bucket, tmp_path: Path) -> None:
    right = hashlib.md5(CONTENT.read()).hexdigest()
    CONTENT.write_to(tmp_path / "file")
    assert bucket.put("a", CONTENT).etag == bucket.put("b", tmp_path / "file").etag == right
    assert bucket.put("c", CONTENT.read()).etag == right
    assert bucket.put("empty", b"").etag == hashlib.md5(b"").hexdigest()
    assert bucket.put("d", b"x").last_modified_s == 1_700_000_000
    assert bucket.put("e", b"x", last_modified=12.5).listed_at == "1970-01-01T00:00:12.000Z"


@pytest.mark.parametrize(
    ("part_bytes", "sizes"),
    [
        (1 << 20, [1 << 20] * 3 + [7]),
        (CONTENT.size, [CONTENT.size]),
        (CONTENT.size + 1, [CONTENT.size]),
        ([5, 1 << 20, CONTENT.size - (1 << 20) - 5], [5, 1 << 20, CONTENT.size - (1 << 20) - 5]),
    ],
)
def test_the_etag_of_parts(bucket: Bucket, part_bytes: int | list[int], sizes: list[int]) -> None:
    stored = bucket.put("a", CONTENT, part_bytes=part_bytes)
    assert [stop - start for start, stop in stored.spans] == sizes
    data, digests = CONTENT.read(), b""
    for start, stop in stored.spans:
        digests += hashlib.md5(data[start:stop]).digest()
    assert stored.etag == f"{hashlib.md5(digests).hexdigest()}-{len(sizes)}"
    assert stored.part_etag(0) == hashlib.md5(data[: sizes[0]]).hexdigest()


def test_an_empty_object_in_parts_has_one(bucket: Bucket) -> None:
    stored = bucket.put("a", b"", part_bytes=8)
    assert (stored.spans, stored.etag[-2:]) == ([(0, 0)], "-1")


def test_under_kms_the_etag_only_looks_like_one(bucket: Bucket) -> None:
    plain, hidden = bucket.put("a", CONTENT), bucket.put("b", CONTENT, sse="aws:kms")
    assert len(hidden.etag) == 32 and hidden.etag != plain.etag
    assert bucket.put("c", CONTENT, sse="AES256").etag == plain.etag
    assert bucket.put("d", CONTENT, sse="aws:kms:dsse", part_bytes=1 << 20).etag.endswith("-4")


def test_types_of_checksums_are_those_that_exist(bucket: Bucket) -> None:
    def kind(**settings: object) -> str:
        stored: S3Object = bucket.put("a", CONTENT, **settings)  # type: ignore[arg-type]
        return stored.checksum_type

    assert kind() == kind(checksum="sha256") == kind(part_bytes=1 << 20) == "FULL_OBJECT"
    assert kind(checksum="crc32c", part_bytes=1 << 20) == kind(checksum="sha1", part_bytes=1 << 20) == "COMPOSITE"
    assert kind(checksum="crc32", checksum_type="FULL_OBJECT", part_bytes=1 << 20) == "FULL_OBJECT"
    for wrong in (
        {"checksum_type": "COMPOSITE"},
        {"checksum_type": "COMPOSITE", "part_bytes": 1 << 20},
        {"checksum": "sha256", "checksum_type": "FULL_OBJECT", "part_bytes": 1 << 20},
        {"part_bytes": 0},
        {"part_bytes": [1, 2]},
        {"part_bytes": []},
    ):
        with pytest.raises(ValueError):
            kind(**wrong)


def test_what_is_stated_may_be_a_lie(bucket: Bucket) -> None:
    stored = bucket.put("a", b"x", etag="made up", checksum="crc32c", checksum_value="AAAAAA==")
    assert (stored.etag, stored.checksum_value) == ("made up", "AAAAAA==")


@pytest.mark.parametrize("key", ["", "k" * 1025, "é" * 513])
def test_keys_that_no_store_takes(bucket: Bucket, key: str) -> None:
    with pytest.raises(ValueError, match="1 to 1024 bytes"):
        bucket.put(key, b"")


@pytest.mark.parametrize("name", ["ab", "a" * 64, "-ab", "a/b", "a b"])
def test_names_that_no_bucket_has(name: str) -> None:
    with pytest.raises(ValueError, match="no bucket can be called"):
        make_bucket(name, lambda: 0.0, None, {})


def listed(bucket: Bucket, prefix: str, delimiter: str, limit: int) -> list[str]:
    """All pages of a listing, each asked for from the end of the one before."""
    found: list[str] = []
    after, more = "", True
    while more:
        page, more = bucket.listing(prefix, after, delimiter, limit)
        assert len(page) <= limit
        found += [entry if isinstance(entry, str) else entry.key for entry in page]
        after = found[-1] if found else ""
    return found


def model(keys: list[str], prefix: str, delimiter: str) -> list[str]:
    """The same from the definition: keys with the prefix, cut behind the delimiter, each once, in order of bytes."""
    names = set()
    for key in keys:
        if key.startswith(prefix):
            rest = key[len(prefix) :]
            cut = rest.find(delimiter) if delimiter else -1
            names.add(key if cut < 0 else prefix + rest[: cut + len(delimiter)])
    return sorted(names, key=str.encode)


def test_listings_against_a_model(bucket: Bucket, rng: random.Random) -> None:
    letters = ["a", "b", "/", "é", "\U0001f600", "\uffff", "-"]
    keys = list({"".join(rng.choices(letters, k=rng.randrange(1, 7))) for _ in range(400)})
    for key in keys:
        bucket.put(key, b"")
    for _ in range(200):
        prefix = rng.choice(["", "a", "a/", "b/a", "/", "é", "none"])
        delimiter = rng.choice(["", "/", "/", "a", "-/"])
        limit = rng.choice([1, 2, 7, 1000])
        assert listed(bucket, prefix, delimiter, limit) == model(keys, prefix, delimiter), (prefix, delimiter, limit)
    for key in keys[::2]:
        bucket.delete(key)
    assert listed(bucket, "", "", 9) == model(keys[1::2], "", "")
