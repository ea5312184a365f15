"""What headers vouch for: states, digests, guesses; and what must not be believed."""

from __future__ import annotations

import base64
import hashlib

import pytest
from multidict import CIMultiDict

from fetcher.model.digest import Digest
from fetcher.model.manifest import FileEntry, Validator
from fetcher.origins.s3_checks import (
    Facts,
    entry_of,
    facts_of_headers,
    facts_of_row,
    grid_of,
    normal_etag,
    same_state,
    wants_grid,
    with_answer,
)
from fetcher.origins.s3_listing import Row
from fetcher.testing.s3 import checksums

MIB = 1 << 20
MD5 = hashlib.md5(b"x").hexdigest()
URL = "https://b-1.s3.eu-west-1.amazonaws.com/k"
S3_ANSWER = {"x-amz-request-id": "1"}


def b64(digits: str) -> str:
    return base64.b64encode(bytes.fromhex(digits)).decode()


def facts(size: int = 10 * MIB, *, whole: bool = True, of_an_s3: bool = True, **headers: str) -> Facts:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return facts_of_headers(CIMultiDict(named), size, whole=whole, of_an_s3=of_an_s3)


def claims(found: Facts, part_bytes: int = 0) -> tuple[Digest | None, tuple[Digest, ...]]:
    entry = entry_of("f", URL, found, part_bytes=part_bytes)
    return entry.digest, entry.guesses


@pytest.mark.parametrize(
    ("text", "etag"),
    [
        ('"abc"', '"abc"'),
        ("abc", '"abc"'),
        ('W/"abc"', 'W/"abc"'),
        (' "abc" ', '"abc"'),
        ('"a-b_c/+=!"', '"a-b_c/+=!"'),
        (None, None),
        ("", None),
        ('""', None),
        ('"a"b"', None),
        ('"a b"', None),
        ('"\xe4"', None),
        ('"' + "a" * 2000 + '"', None),
    ],
)
def test_etags_in_one_form(text: str | None, etag: str | None) -> None:
    assert normal_etag(text) == etag


def test_a_state_has_one_name_wherever_it_was_read() -> None:
    listed = facts_of_row(Row("k", 1, MD5, "2026-01-02T03:04:05.999Z", ""))
    asked = facts(1, ETag=f'"{MD5}"', Last_Modified="Fri, 02 Jan 2026 03:04:05 GMT")
    assert listed.validator == asked.validator == Validator("strong", f'"{MD5}"')
    listed = facts_of_row(Row("k", 1, None, "2026-01-02T03:04:05.999Z", ""))
    asked = facts(1, Last_Modified="Fri, 02 Jan 2026 03:04:05 GMT")
    assert listed.validator == asked.validator
    assert asked.validator == Validator("weak", last_modified="Fri, 02 Jan 2026 03:04:05 GMT")
    assert facts_of_row(Row("k", 1, None, "yesterday", "")).validator == Validator("none")
    assert facts(ETag='W/"x"').validator == Validator("weak", 'W/"x"')
    assert facts(Last_Modified="ä").validator == Validator("none")
    versioned = facts_of_headers({"ETag": '"x"'}, 1, whole=True, version="v1").validator
    assert versioned == Validator("strong", '"x"', version="v1")


@pytest.mark.parametrize(
    ("headers", "digest"),
    [
        ({"x-amz-checksum-crc64nvme": b64("00" * 8), "ETag": f'"{MD5}"'}, Digest("crc64nvme", "00" * 8)),
        ({"x-amz-checksum-crc32c": b64("0a0b0c0d"), "ETag": f'"{MD5}"'}, Digest("crc32c", "0a0b0c0d")),
        ({"x-amz-checksum-crc32": b64("0a0b0c0d"), "ETag": f'"{MD5}"'}, Digest("crc32", "0a0b0c0d")),
        ({"x-amz-checksum-sha256": b64("11" * 32), "ETag": f'"{MD5}"'}, Digest("sha256", "11" * 32)),
        ({"x-amz-checksum-sha512": b64("11" * 64)}, Digest("sha512", "11" * 64)),
        ({"x-amz-checksum-sha1": b64("11" * 20)}, Digest("sha1", "11" * 20)),
        (
            {"x-amz-checksum-crc32c": b64("0a0b0c0d"), "x-amz-checksum-sha256": b64("11" * 32)},
            Digest("crc32c", "0a0b0c0d"),
        ),
        ({"x-goog-hash": "crc32c=CwwNDg==, md5=" + b64(MD5)}, Digest("crc32c", "0b0c0d0e")),
        ({"ETag": f'"{MD5.upper()}"'}, Digest("md5", MD5)),
        ({"ETag": f'"{MD5}"', "x-amz-server-side-encryption": "AES256"}, Digest("md5", MD5)),
        # Not believed:
        ({"x-amz-checksum-crc32": "no base64"}, None),
        ({"x-amz-checksum-crc32": b64("0a0b0c0d0e")}, None),
        ({"x-amz-checksum-xxhash64": b64("00" * 8)}, None),
        ({"x-amz-checksum-crc64nvme": b64("00" * 8) + "-3"}, None),
        ({"ETag": f'"{MD5}"', "x-amz-server-side-encryption": "aws:kms"}, None),
        ({"ETag": f'"{MD5}"', "x-amz-server-side-encryption": "aws:kms:dsse"}, None),
        ({"ETag": f'"{MD5}"', "x-amz-server-side-encryption-customer-algorithm": "AES256"}, None),
        ({"ETag": f'W/"{MD5}"'}, None),
        ({"ETag": '"0x8D4BCC2E4835CD0"'}, None),
    ],
)
def test_what_a_large_object_is_compared_with(headers: dict[str, str], digest: Digest | None) -> None:
    found = facts_of_headers(headers, 10 * MIB, whole=True, of_an_s3=True)
    assert claims(found)[0] == digest


def test_a_small_object_is_compared_with_the_strongest() -> None:
    headers = {"x-amz-checksum-crc64nvme": b64("00" * 8), "ETag": f'"{MD5}"'}
    assert claims(facts_of_headers(headers, 10, whole=True, of_an_s3=True))[0] == Digest("md5", MD5)
    headers["x-amz-checksum-sha256"] = b64("11" * 32)
    assert claims(facts_of_headers(headers, 10, whole=True, of_an_s3=True))[0] == Digest("sha256", "11" * 32)


def test_checksums_of_ranges_are_not_looked_at() -> None:
    assert claims(facts(whole=False, x_amz_checksum_crc32=b64("0a0b0c0d"))) == (None, ())
    # Google's is always of the whole object.
    assert claims(facts(whole=False, x_goog_hash="crc32c=CwwNDg=="))[0] == Digest("crc32c", "0b0c0d0e")


def test_an_etag_of_no_s3_is_a_guess() -> None:
    assert claims(facts(of_an_s3=False, ETag=f'"{MD5}"')) == (None, (Digest("md5", MD5),))
    assert claims(facts(of_an_s3=False, ETag=f'"{MD5}"', x_amz_request_id="1"))[0] == Digest("md5", MD5)
    assert claims(facts(of_an_s3=False, ETag=f'"{MD5}"', Server="AmazonS3"))[0] == Digest("md5", MD5)
    assert claims(facts(of_an_s3=False, ETag=f'"{MD5}"', Server="nginx"))[0] is None


def test_an_upload_in_parts_of_known_size() -> None:
    found = facts(20 * MIB, ETag=f'"{MD5}-3"')
    assert wants_grid(found)
    assert claims(found, 8 * MIB) == (Digest("md5", MD5, 8 * MIB), ())
    found = facts(
        20 * MIB, ETag=f'"{MD5}-3"', x_amz_checksum_sha256=b64("11" * 32) + "-3", x_amz_checksum_type="COMPOSITE"
    )
    assert claims(found, 8 * MIB) == (Digest("sha256", "11" * 32, 8 * MIB), ())
    found = facts(20 * MIB, ETag=f'"{MD5}-3"', x_amz_checksum_crc32=b64("11" * 4), x_amz_checksum_type="FULL_OBJECT")
    assert not wants_grid(found)
    assert claims(found) == (Digest("crc32", "11" * 4), ())


def test_an_upload_in_parts_of_unknown_size_is_guessed() -> None:
    digest, guesses = claims(facts(20 * MIB, ETag=f'"{MD5}-3"'))
    assert digest is None
    assert guesses == tuple(Digest("md5", MD5, mib * MIB) for mib in (7, 8))
    assert claims(facts(10 * MIB, ETag=f'"{MD5}-1"'))[1] == (Digest("md5", MD5, 10 * MIB),)
    assert claims(facts(20 * MIB, ETag=f'"{MD5}-300"'))[1] == ()  # a suffix that means nothing
    assert claims(facts(20 * MIB, ETag=f'"{MD5}-0"')) == (None, ())
    assert claims(facts(20 * MIB, ETag=f'"{MD5}-3"', x_amz_server_side_encryption="aws:kms")) == (None, ())
    composite = facts(20 * MIB, x_amz_checksum_crc32c=b64("11" * 4) + "-3")
    assert {guess.algorithm for guess in claims(composite)[1]} == {"crc32c"}
    assert claims(facts(0, ETag=f'"{MD5}-1"')) == (None, ())


@pytest.mark.parametrize("part_mib", [5, 8, 16, 17, 25, 100])
def test_the_usual_part_sizes_are_among_the_guesses(part_mib: int) -> None:
    size = 300 * MIB + 12345
    count = -(-size // (part_mib * MIB))
    guesses = claims(facts(size, ETag=f'"{MD5}-{count}"'))[1]
    assert part_mib * MIB in {guess.part_bytes for guess in guesses}
    assert len(guesses) < 5


@pytest.mark.parametrize(
    ("first", "count", "grid"),
    [(8, 3, 8), (10, 2, 10), (20, 1, 20), (8, 2, 0), (8, 4, 0), (0, 3, 0), (21, 1, 0), (5, 0, 0)],
)
def test_a_grid_that_fits(first: int, count: int, grid: int) -> None:
    assert grid_of(facts(20), first, count) == grid


def entry(**more: object) -> FileEntry:
    values: dict[str, object] = {
        "path": "f",
        "size": 10,
        "digest": Digest("md5", MD5),
        "url": URL,
        "validator": Validator("strong", f'"{MD5}"'),
    }
    return FileEntry(**(values | more))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("validator", "headers", "same"),
    [
        (Validator("strong", '"a"'), {"ETag": '"a"'}, True),
        (Validator("strong", '"a"'), {"ETag": "a"}, True),
        (Validator("strong", '"a"'), {"ETag": '"b"'}, False),
        (Validator("strong", '"a"'), {"ETag": 'W/"a"'}, False),
        (Validator("strong", '"a"'), {}, True),
        (Validator("weak", 'W/"a"'), {"ETag": 'W/"a"'}, True),
        (Validator("weak", 'W/"a"'), {"ETag": 'W/"b"'}, False),
        (Validator("weak", last_modified="x"), {"Last-Modified": "x", "ETag": '"new"'}, True),
        (Validator("weak", last_modified="x"), {"Last-Modified": "y"}, False),
        (Validator("weak", last_modified="x"), {}, True),
        (Validator("strong", '"a"', version="1"), {"ETag": '"a"', "x-amz-version-id": "1"}, True),
        (Validator("strong", '"a"', version="1"), {"ETag": '"a"', "x-amz-version-id": "2"}, False),
        (Validator("none"), {"ETag": '"b"'}, True),
        (None, {"ETag": '"b"'}, True),
    ],
)
def test_states_compared(validator: Validator | None, headers: dict[str, str], same: bool) -> None:
    assert same_state(entry(validator=validator), headers) is same


def test_an_answer_adds_what_is_stronger() -> None:
    sha = {**S3_ANSWER, "x-amz-checksum-sha256": b64("11" * 32)}
    assert with_answer(entry(), sha, whole=True).digest == Digest("sha256", "11" * 32)
    assert with_answer(entry(), sha, whole=False) == entry()
    crc = {**S3_ANSWER, "x-amz-checksum-crc32": b64("11" * 4)}
    assert with_answer(entry(), crc, whole=True) == entry()
    assert with_answer(entry(digest=None, guesses=(Digest("md5", MD5, MIB),)), crc, whole=True) == entry(
        digest=Digest("crc32", "11" * 4)
    )
    composite = {"x-amz-checksum-sha256": b64("11" * 32), "x-amz-checksum-type": "COMPOSITE"}
    assert with_answer(entry(), composite, whole=True) == entry()
    assert with_answer(entry(digest=None), {"x-goog-hash": f"md5={b64(MD5)}"}, whole=False).digest == Digest("md5", MD5)


def test_an_answer_takes_away_what_was_no_md5() -> None:
    kms = {"x-amz-server-side-encryption": "aws:kms"}
    assert with_answer(entry(), kms, whole=False).digest is None
    assert with_answer(entry(digest=None, guesses=(Digest("md5", MD5, MIB),)), kms, whole=False).guesses == ()
    kept = entry(digest=Digest("crc32", "11" * 4))
    assert with_answer(kept, kms, whole=True) == kept
    crc = {**kms, "x-amz-checksum-crc64nvme": b64("00" * 8)}
    assert with_answer(entry(), crc, whole=True).digest == Digest("crc64nvme", "00" * 8)


def test_archives() -> None:
    assert facts_of_row(Row("k", 1, MD5, None, "DEEP_ARCHIVE")).archived
    assert facts(x_amz_storage_class="GLACIER").archived
    assert not facts(x_amz_storage_class="GLACIER", x_amz_restore='ongoing-request="false", expiry-date="x"').archived
    assert facts(x_amz_storage_class="GLACIER", x_amz_restore='ongoing-request="true"').archived
    assert not facts(x_amz_storage_class="GLACIER_IR").archived


def test_values_are_those_of_an_independent_implementation() -> None:
    data = [bytes(range(256)) * 5, b"tail"]
    for algorithm in checksums.ALGORITHMS:
        value = checksums.stated(algorithm, [data], composite=False)
        found = facts_of_headers({f"x-amz-checksum-{algorithm}": value}, 10 * MIB, whole=True)
        assert claims(found)[0] == Digest(algorithm, checksums.digest(algorithm, data).hex())
