"""The bytes of ``.tree`` and what docs/FORMAT.md promises of them."""

from __future__ import annotations

import struct
import zlib

import pytest

from fetcher.cache.tree_file import TreeFile, tree_of
from fetcher.model.digest import Digest

CVS = [bytes([number]) * 32 for number in range(3)]
TREE = TreeFile("a" * 64, 2 * 1024 + 1, 1024, b"".join(CVS), (Digest("md5", "0" * 32),), "md5")


def test_round_trip() -> None:
    raw = tree_of(TREE.root, TREE.size, TREE.block_bytes, CVS, TREE.digests, "md5")
    assert raw == TREE.encode()
    assert raw[:8] == b"FETTREE1"
    assert raw[-4 - 96 : -4] == b"".join(CVS)
    assert TreeFile.decode(raw) == TREE


def test_every_cut_and_every_flip_is_noticed() -> None:
    raw = TREE.encode()
    for length in range(len(raw)):
        with pytest.raises(ValueError, match=r"."):
            TreeFile.decode(raw[:length])
    for position in range(len(raw)):
        damaged = bytearray(raw)
        damaged[position] ^= 0x10
        with pytest.raises(ValueError, match=r"."):
            TreeFile.decode(bytes(damaged))


@pytest.mark.parametrize("blocks", [2, 4])
def test_the_number_of_values_is_that_of_the_size(blocks: int) -> None:
    raw = tree_of(TREE.root, TREE.size, 1024, [bytes(32)] * blocks, (), "size")
    with pytest.raises(ValueError, match="for 3 blocks"):
        TreeFile.decode(raw)


@pytest.mark.parametrize(
    "header",
    [b'{"root": "a", "size": 1e999, "block_bytes": 0, "digests": [], "verified_by": "size"}', b"[" * 100_000, b"7"],
    ids=["infinite", "deep", "a number"],
)
def test_odd_headers_are_said_to_be_odd(header: bytes) -> None:
    """With a CRC that is right, as no damage is: somebody's own."""
    body = b"FETTREE1" + struct.pack("<I", len(header)) + header
    with pytest.raises(ValueError, match="odd header"):
        TreeFile.decode(body + struct.pack("<I", zlib.crc32(body)))
