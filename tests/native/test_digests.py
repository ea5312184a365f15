"""Digests that origins state: of the whole in every algorithm, of parts, and CRCs of blocks put together."""

from __future__ import annotations

import hashlib
import random
import threading
import zlib
from collections.abc import Callable

import awscrt.checksums  # type: ignore[import-untyped]
import pytest

from fetcher import hashing
from fetcher.errors import InternalError
from fetcher.hashing import in_order
from fetcher.hashing.crc import BlockCrcs, RunningCrc
from fetcher.hashing.in_order import InOrderDigest
from fetcher.model.digest import HEX_DIGITS, STRENGTH, Digest, weakest
from fetcher.model.manifest import FileEntry, Manifest, Validator
from fetcher.testing.s3.checksums import table_step
from tests.native.cores import paint

MIB = hashing.BLOCK_BYTES
CHECK = b"123456789"

KNOWN = {
    "crc32": "cbf43926",
    "crc32c": "e3069283",
    "crc64nvme": "ae8b14860a799888",
    "md5": "25f9e794323b453885f5181f1b624d0b",
    "sha1": "f7c3bc1d808e04732adf679965ccc34ca7ae3441",
    "sha256": "15e2b0d3c33891ebb0f1ef609ec419420c20e320ce94c65fbc8c3312448eb225",
}
"""Of ``123456789``: the check values of the catalogue of CRCs and of NVM Express; the others are coreutils'."""


@pytest.mark.parametrize("algorithm", HEX_DIGITS)
@pytest.mark.parametrize("size", [0, 1, 2046, 2047, 2048, 4094, 4095, 4096, 1 << 16])
def test_a_digest_taken_in_pieces_is_the_same(algorithm: str, size: int) -> None:
    data = paint(size)
    claim = Digest(algorithm, hashing.digest_bytes(algorithm, data))
    assert hashing.matches(claim, data, at_once=True)
    other = bytearray(data or b"0")
    other[-1] ^= 1
    assert not hashing.matches(claim, other, at_once=True)
    parts = Digest(algorithm, "0" * HEX_DIGITS[algorithm], 1000)
    assert hashing.matches(parts, data, at_once=True) == hashing.matches(parts, data)


def test_no_piece_is_large_enough_to_hand_the_interpreter_over() -> None:
    class Seen:
        def __init__(self) -> None:
            self.sizes: list[int] = []

        def update(self, data: memoryview) -> None:
            self.sizes.append(data.nbytes)

        def hexdigest(self) -> str:
            return "0" * 64

    seen = Seen()
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(in_order._NEW, "sha256", lambda size: seen)
        assert hashing.matches(Digest("sha256", "0" * 64), bytes(10_000), at_once=True)
    assert sum(seen.sizes) == 10_000 and max(seen.sizes) < 2048, "hashlib's HASHLIB_GIL_MINSIZE"


@pytest.mark.parametrize("algorithm", KNOWN)
def test_known_vectors(algorithm: str) -> None:
    assert hashing.digest_bytes(algorithm, CHECK) == KNOWN[algorithm]
    assert hashing.matches(Digest(algorithm, KNOWN[algorithm]), CHECK)
    assert not hashing.matches(Digest(algorithm, KNOWN[algorithm]), CHECK + b"0")


# --- in order --------------------------------------------------------------------------------------------------------


def raw_of(algorithm: str, data: bytes) -> bytes:
    """The digest by another road than ours: zlib, hashlib, tables in plain Python."""
    if algorithm in hashing.CRC_BYTES:
        value = zlib.crc32(data) if algorithm == "crc32" else table_step(algorithm)(data, 0)
        return value.to_bytes(hashing.CRC_BYTES[algorithm], "big")
    return hashlib.new(algorithm, data).digest()


def composite_of(algorithm: str, data: bytes, part_bytes: int) -> str:
    parts = [data[at : at + part_bytes] for at in range(0, len(data), part_bytes)]
    return raw_of(algorithm, b"".join(raw_of(algorithm, part) for part in parts)).hex()


COMPOSED = ["crc32", "crc32c", "sha1", "sha256", "md5"]
"""What S3 states of objects in parts."""
PART = 1000


@pytest.mark.parametrize("algorithm", COMPOSED)
@pytest.mark.parametrize("size", [1, PART - 1, PART, PART + 1, 2 * PART - 1, 2 * PART, 2 * PART + 1, 5 * PART + 7])
def test_composites_at_the_boundaries_of_parts(algorithm: str, size: int) -> None:
    data = paint(size)
    expected = composite_of(algorithm, data, PART)
    claim = Digest(algorithm, expected, PART)
    assert hashing.matches(claim, data)
    for step in (1, 7, PART - 1, PART, PART + 1, 10 * PART):
        digest = InOrderDigest.like(claim, size)
        for at in range(0, size, step):
            assert digest.offset == at
            digest.update(memoryview(data)[at : at + step])
        assert (digest.name, digest.offset, digest.hexdigest()) == (claim.name, size, expected)


@pytest.mark.parametrize("algorithm", COMPOSED)
def test_one_part_is_not_the_whole(algorithm: str) -> None:
    """An upload of one part has the digest of one digest, which is not that of the content."""
    data = paint(PART)
    whole = raw_of(algorithm, data)
    for part_bytes in (PART, PART + 1, 100 * PART):
        assert hashing.matches(Digest(algorithm, raw_of(algorithm, whole).hex(), part_bytes), data)
        assert not hashing.matches(Digest(algorithm, whole.hex(), part_bytes), data)


def test_a_composite_of_other_parts_is_another() -> None:
    data = paint(10 * PART)
    claim = Digest("md5", composite_of("md5", data, PART), PART)
    for part_bytes in (PART - 1, PART + 1, 2 * PART):
        assert not hashing.matches(Digest("md5", claim.hex, part_bytes), data)


def test_an_etag_of_parts_as_s3_writes_it() -> None:
    """Of 11 MiB of zeros in parts of 5 MiB, as ``md5sum`` and ``xxd -r -p`` put it together."""
    zeros = bytes(11 * MIB)
    parts = [hashlib.md5(bytes(size * MIB)).digest() for size in (5, 5, 1)]
    assert hashing.matches(Digest("md5", hashlib.md5(b"".join(parts)).hexdigest(), 5 * MIB), zeros)


@pytest.mark.parametrize("algorithm", sorted(HEX_DIGITS))
def test_more_may_follow_a_digest(algorithm: str) -> None:
    data = paint(3000)
    digest = InOrderDigest.new(algorithm, len(data))
    digest.update(data[:1000])
    digest.hexdigest()
    digest.update(data[1000:])
    assert digest.hexdigest() == hashing.digest_bytes(algorithm, data)


def test_more_may_follow_a_composite() -> None:
    data = paint(3500)
    digest = InOrderDigest.new("sha256", len(data), part_bytes=PART)
    for at in range(0, len(data), 500):
        digest.update(data[at : at + 500])
        assert digest.hexdigest() == composite_of("sha256", data[: at + 500], PART)


def test_an_algorithm_that_nobody_knows_is_our_bug() -> None:
    for part_bytes in (0, PART):
        with pytest.raises(InternalError, match="'crc16'"):
            InOrderDigest.new("crc16", 1, part_bytes=part_bytes)


# --- blocks in any order ---------------------------------------------------------------------------------------------

SIZES = [1, MIB - 1, MIB, MIB + 1, 3 * MIB, 3 * MIB + 1, 5 * MIB + 77]


def one_crc(algorithm: str) -> Callable[[bytes], int]:
    """Of the whole in one call: zlib's, or awscrt's without any combining."""
    if algorithm == "crc32":
        return zlib.crc32
    found: Callable[[bytes], int] = getattr(awscrt.checksums, algorithm)
    return found


def blocks_of(data: bytes) -> list[tuple[int, bytes]]:
    return [(at // MIB, data[at : at + MIB]) for at in range(0, len(data), MIB)]


@pytest.mark.parametrize("algorithm", sorted(hashing.CRC_BYTES))
@pytest.mark.parametrize("size", SIZES)
def test_crcs_of_blocks_in_any_order(algorithm: str, size: int) -> None:
    dice = random.Random(1)  # this room runs without the run's own fixtures too (sanitize.sh)
    data = paint(size)
    expected = one_crc(algorithm)(data).to_bytes(hashing.CRC_BYTES[algorithm], "big").hex()
    running = RunningCrc(algorithm)
    running.update(data)
    assert running.hexdigest() == expected
    for _ in range(3):
        crcs = BlockCrcs(algorithm, size)
        blocks = blocks_of(data)
        dice.shuffle(blocks)
        for number, (block, piece) in enumerate(blocks):
            assert sorted({block for block, _ in blocks[number:]}) == crcs.missing()
            crcs.add(block, memoryview(piece))
        assert crcs.missing() == []
        assert crcs.hexdigest() == expected == crcs.hexdigest()
        assert repr(crcs) == f"<BlockCrcs {algorithm}, {len(blocks)} of {len(blocks)} blocks>"


@pytest.mark.parametrize("algorithm", sorted(hashing.CRC_BYTES))
def test_a_block_that_comes_again_replaces_what_was_known(algorithm: str) -> None:
    data = paint(2 * MIB + 5)
    crcs = BlockCrcs(algorithm, len(data))
    for block, piece in blocks_of(data):
        crcs.add(block, bytes(len(piece)))
    wrong = crcs.hexdigest()
    for block, piece in blocks_of(data):
        crcs.add(block, piece)
        crcs.add(block, piece)
    assert crcs.hexdigest() == hashing.digest_bytes(algorithm, data) != wrong
    crcs.forget()
    assert crcs.missing() == [0, 1, 2]


def test_blocks_from_several_threads() -> None:
    data = paint(24 * MIB + 3)
    crcs = BlockCrcs("crc64nvme", len(data))
    blocks = blocks_of(data)

    def add(every: int) -> None:
        for block, piece in blocks[every::4]:
            crcs.add(block, piece)

    threads = [threading.Thread(target=add, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert crcs.hexdigest() == hashing.digest_bytes("crc64nvme", data)


def test_leading_zeros_are_not_lost() -> None:
    """A CRC is as long as its algorithm says, whatever its value."""
    for algorithm, count in hashing.CRC_BYTES.items():
        crcs = BlockCrcs(algorithm, 4)
        crcs.add(0, b"\0\0\0\0")
        assert len(crcs.hexdigest()) == 2 * count
        assert len(hashing.digest_bytes(algorithm, b"")) == 2 * count
        assert set(hashing.digest_bytes(algorithm, b"")) == {"0"}


# --- the values ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("algorithm", sorted(HEX_DIGITS))
@pytest.mark.parametrize("part_bytes", [0, 1, 8 << 20, 5 << 30])
def test_a_digest_is_read_as_it_was_written(algorithm: str, part_bytes: int) -> None:
    digest = Digest(algorithm, "0a" * (HEX_DIGITS[algorithm] // 2), part_bytes)
    assert Digest.parse(str(digest)) == digest
    assert Digest.parse(f"{digest.name}:{digest.hex.upper()}") == digest
    assert digest.whole == (part_bytes == 0)
    assert ("/" in digest.name) == (part_bytes > 0)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "md5",
        "md5:",
        f"md5:{'0' * 31}",
        f"md5:{'0' * 33}",
        f"md5:{'g' * 32}",
        f"md5/:{'0' * 32}",
        f"md5/0:{'0' * 32}",
        f"md5/-1:{'0' * 32}",
        f"md5/1.5:{'0' * 32}",
        f"md5/1/2:{'0' * 32}",
        f"md5/٣:{'0' * 32}",
        f"md5/{'9' * 20}:{'0' * 32}",
        f"md5 :{'0' * 32}",
        f"xxhash64:{'0' * 16}",
        f"/5:{'0' * 32}",
    ],
)
def test_what_is_no_digest(text: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        Digest.parse(text)


def test_every_algorithm_has_its_strength() -> None:
    assert set(STRENGTH) == {"size", *HEX_DIGITS}
    assert weakest({"sha256", "crc32", "md5"}) == "crc32"
    assert weakest({"sha256", "size"}) == weakest(set()) == "size"


SHA256 = Digest("sha256", "a" * 64)
COMPOSITE = Digest("sha256", "a" * 64, 8 << 20)
MD5 = Digest("md5", "b" * 32)
STRONG = Validator("strong", '"etag"')
WEAK = Validator("weak", 'W/"etag"')
DATED = Validator("weak", last_modified="Wed, 21 Oct 2015 07:28:00 GMT")
NOTHING = Validator("none")


@pytest.mark.parametrize(
    ("validator", "digest", "resumable"),
    [
        (None, None, True),
        (None, MD5, True),
        (STRONG, None, True),
        (STRONG, MD5, True),
        (WEAK, None, False),
        (WEAK, MD5, False),
        (WEAK, Digest("crc64nvme", "0" * 16), False),
        (WEAK, Digest("sha1", "0" * 40), False),
        (WEAK, COMPOSITE, False),
        (WEAK, SHA256, True),
        (DATED, None, False),
        (DATED, SHA256, True),
        (NOTHING, None, False),
        (NOTHING, MD5, False),
        (NOTHING, SHA256, True),
        (NOTHING, Digest("sha512", "0" * 128), True),
    ],
)
def test_what_another_run_may_go_on_from(validator: Validator | None, digest: Digest | None, resumable: bool) -> None:
    assert FileEntry("a", 1, digest, validator=validator).resumable == resumable


def test_validators_differ_by_all_that_they_hold() -> None:
    values = [
        STRONG,
        WEAK,
        DATED,
        NOTHING,
        Validator("strong", '"other"'),
        Validator("strong", '"etag"', version="v1"),
        Validator("strong", '"etag"', version="v2"),
        Validator("strong", None, version="v1"),
        Validator("weak", last_modified="Wed, 21 Oct 2015 07:28:01 GMT"),
    ]
    assert len({str(value) for value in values}) == len(values)


def manifest(*files: FileEntry) -> Manifest:
    return Manifest("s3", "https://bucket.example:443", "bucket/prefix", None, False, files)


def test_digests_of_a_file_with_a_validator_may_be_learned_later() -> None:
    before = FileEntry("a", 5, None, validator=STRONG)
    after = FileEntry("a", 5, SHA256, validator=STRONG)
    guessed = FileEntry("a", 5, None, validator=STRONG, guesses=(COMPOSITE,))
    assert manifest(before).digest() == manifest(after).digest() == manifest(guessed).digest()
    assert manifest(before).digest() != manifest(FileEntry("a", 5, None, validator=WEAK)).digest()


def test_without_one_the_digest_is_the_pin() -> None:
    entries = [FileEntry("a", 5, digest) for digest in (None, MD5, SHA256, COMPOSITE)]
    assert len({manifest(entry).digest() for entry in entries}) == len(entries)


def test_what_nothing_tells_is_told_by_what_came() -> None:
    silent, told = FileEntry("a", 5, None, validator=NOTHING), FileEntry("b", 5, None, validator=STRONG)
    assert not silent.telling and told.telling
    assert FileEntry("a", 5, None).telling, "its address names it for ever"
    both = manifest(silent, told)
    assert not both.telling
    assert both.digest(["root one", "r"]) != both.digest(["root two", "r"])
    assert both.digest(["root one", "r"]) == both.digest(["root one", "r"]) != both.digest()
    assert manifest(told).telling
    assert manifest(told).digest(["root one"]) == manifest(told).digest()
    other = FileEntry("a", 5, MD5, validator=NOTHING)
    assert other.telling, "a digest tells, also where it is a weak one"
    assert manifest(other).digest() != manifest(silent).digest()


def test_a_manifest_is_told_by_all_else() -> None:
    entry = FileEntry("a", 5, None, validator=STRONG)
    base = manifest(entry)
    others = [
        manifest(FileEntry("b", 5, None, validator=STRONG)),
        manifest(FileEntry("a", 6, None, validator=STRONG)),
        manifest(entry, FileEntry("b", 5, None, validator=STRONG)),
        Manifest("s3", "https://bucket.example:444", "bucket/prefix", None, False, (entry,)),
        Manifest("s3", "https://bucket.example:443", "bucket/other", None, False, (entry,)),
        Manifest("s3", "https://bucket.example:443", "bucket/prefix", "r", False, (entry,)),
        Manifest("ollama", "https://bucket.example:443", "bucket/prefix", None, False, (entry,)),
    ]
    assert base.digest() not in {other.digest() for other in others}
    assert base.bytes_total == 5
