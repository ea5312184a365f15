"""fetcher.hashing: the face that the rest of the code uses."""

from __future__ import annotations

import hashlib

import awscrt.checksums  # type: ignore[import-untyped]
import blake3
import pytest

from fetcher import hashing
from fetcher.errors import InternalError
from fetcher.model.digest import HEX_DIGITS
from tests.native.cores import paint

MIB = hashing.BLOCK_BYTES


def judge(algorithm: str, data: bytes) -> str:
    if algorithm in hashing.CRC_BYTES:
        value: int = getattr(awscrt.checksums, algorithm)(data)
        return value.to_bytes(hashing.CRC_BYTES[algorithm], "big").hex()
    if algorithm == "git-sha1":
        return hashlib.sha1(b"blob " + str(len(data)).encode() + b"\0" + data).hexdigest()
    return blake3.blake3(data).hexdigest() if algorithm == "blake3" else hashlib.new(algorithm, data).hexdigest()


@pytest.mark.parametrize("algorithm", sorted(HEX_DIGITS))
@pytest.mark.parametrize("length", [0, 1, 2047, 2048, 100_000])
def test_every_algorithm_of_the_model_in_pieces_and_whole(algorithm: str, length: int) -> None:
    data = paint(length)
    digest = hashing.InOrderDigest.new(algorithm, length)
    for at in range(0, length, 4097):
        assert digest.offset == at
        digest.update(memoryview(data)[at : at + 4097])
    assert digest.offset == length
    assert digest.hexdigest() == judge(algorithm, data)
    assert len(digest.hexdigest()) == HEX_DIGITS[algorithm]
    assert repr(digest) == f"InOrderDigest({algorithm}, offset={length})"
    assert hashing.digest_bytes(algorithm, bytearray(data)) == judge(algorithm, data)


def test_git_names_the_empty_blob() -> None:
    assert hashing.digest_bytes("git-sha1", b"") == "e69de29bb2d1d6434b8b29ae775ad8c2e48c5391"


def test_git_digest_holds_the_size_that_was_promised() -> None:
    promised_more = hashing.InOrderDigest.new("git-sha1", 4)
    promised_more.update(b"abc")
    assert promised_more.hexdigest() != hashing.digest_bytes("git-sha1", b"abc")


def test_unknown_algorithm_is_our_bug() -> None:
    with pytest.raises(InternalError, match="'crc16'"):
        hashing.InOrderDigest.new("crc16", 1)


def test_buffers_are_let_go_of() -> None:
    data = bytearray(5000)
    digest = hashing.InOrderDigest.new("sha256", 5000)
    digest.update(data)
    hashing.digest_bytes("sha256", data)
    data.append(1)


@pytest.mark.needs("native")
@pytest.mark.parametrize("size", [MIB + 1, 2 * MIB, 3 * MIB + 5])
def test_tree_root_of_a_large_file(size: int) -> None:
    data = paint(size)
    cvs = b"".join(hashing.hash_blocks(data[at : at + MIB], at) for at in range(0, size, MIB))
    assert len(cvs) == hashing.CV_BYTES * hashing.block_count(size)
    assert hashing.tree_root(size, cvs) == blake3.blake3(data).digest()
    with pytest.raises(ValueError, match="blocks of"):
        hashing.tree_root(size, cvs[:-32])


@pytest.mark.parametrize("size", [0, 1, MIB])
def test_tree_root_of_a_small_file_is_given(size: int) -> None:
    data = paint(size)
    root = hashing.root_of(data)
    assert root == blake3.blake3(data).digest()
    assert hashing.tree_root(size, b"", small_root=root) == root
    for absent in (None, b"", bytes(31)):
        with pytest.raises(ValueError, match="root_of"):
            hashing.tree_root(size, bytes(32), small_root=absent)


def test_block_count() -> None:
    counts = [hashing.block_count(size) for size in (0, 1, MIB - 1, MIB, MIB + 1, 70 * 10**9)]
    assert counts == [0, 1, 1, 1, 2, 66758]


def test_public_names_exist() -> None:
    assert [name for name in hashing.__all__ if not hasattr(hashing, name)] == []
