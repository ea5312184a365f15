"""Roots and chaining values at every boundary: against the ``blake3`` package, and the cores against each other."""

from __future__ import annotations

import random

import blake3
import pytest

from fetcher._native import pure
from tests.native.cores import BOUNDARIES, KEY, Core, paint

MIB = 1 << 20


def official(data: bytes, key: bytes | None) -> bytes:
    return (blake3.blake3(data) if key is None else blake3.blake3(data, key=key)).digest()


# The first 32 bytes of two published vectors, so that package and core can't be wrong together.
@pytest.mark.parametrize(
    ("length", "plain", "keyed"),
    [
        (
            0,
            "af1349b9f5f9a1a6a0404dea36dcc9499bcb25c9adc112b7cc9a93cae41f3262",
            "92b2b75604ed3c761f9d6f62392c8a9227ad0ea3f09573e783f1498a4ed60d26",
        ),
        (
            1024,
            "42214739f095a406f3fc83deb889744ac00df831c10daa55189b5d121c855af7",
            "75c46f6f3d9eb4f55ecaaee480db732e6c2105546f1e675003687c31719c7ba4",
        ),
    ],
)
def test_published_vectors(core: Core, length: int, plain: str, keyed: str) -> None:
    assert core.root_of(paint(length)).hex() == plain
    assert core.root_of(paint(length), key=KEY).hex() == keyed


def test_roots_of_many_are_those_of_each(core: Core) -> None:
    contents = [paint(length) for length in core.lengths(*BOUNDARIES, MIB)]
    assert core.roots_of(contents) == [official(data, None) for data in contents]
    assert core.roots_of([]) == []


@pytest.mark.parametrize("key", [None, KEY], ids=["plain", "keyed"])
def test_root_of_every_boundary(core: Core, key: bytes | None) -> None:
    for length in core.lengths(*BOUNDARIES, MIB - 1, MIB, MIB + 1, 3 * MIB + 77):
        data = paint(length)
        assert core.root_of(data, key=key) == official(data, key), length


@pytest.mark.parametrize("key", [None, KEY], ids=["plain", "keyed"])
@pytest.mark.parametrize("block", [1024, 2048, 4096, 65536, MIB])
def test_root_from_block_cvs(core: Core, block: int, key: bytes | None) -> None:
    multiples = {block * count + more for count in (1, 2, 3, 4, 5, 7, 8, 9, 16, 17) for more in (-1, 0, 1, 1025)}
    lengths = sorted(length for length in multiples if block < length <= 9 * MIB)
    for length in core.lengths(*lengths):
        data = paint(length)
        cvs = core.hash_blocks(data, 0, block=block, key=key)
        assert len(cvs) == 32 * -(-length // block)
        assert core.merge_root(cvs, length, block=block, key=key) == official(data, key), length


@pytest.mark.parametrize("key", [None, KEY], ids=["plain", "keyed"])
def test_blocks_hashed_alone_and_in_any_order(core: Core, key: bytes | None) -> None:
    dice = random.Random(1)
    for block in (1024, 4096, 65536):
        for length in core.lengths(block * 5 + 1, block * 8 - 1, block * 3 + 700) or core.lengths(block + 1):
            data = paint(length)
            cvs = bytearray(32 * -(-length // block))
            indexes = list(range(len(cvs) // 32))
            dice.shuffle(indexes)
            for index in indexes:
                at = index * block
                cvs[index * 32 : index * 32 + 32] = core.hash_blocks(data[at : at + block], at, block=block, key=key)
            assert core.merge_root(cvs, length, block=block, key=key) == official(data, key)


def test_root_of_many_blocks_does_not_depend_on_their_size(core: Core) -> None:
    # From the CVs of small blocks the CVs of large ones follow, so one root stands for every block size.
    length = min(core.bytes_max, 2 * MIB + 4321)
    data = paint(length)
    roots = {
        core.merge_root(core.hash_blocks(data, 0, block=block), length, block=block)
        for block in (1024, 2048, 65536, MIB)
        if block < length
    }
    assert roots == {official(data, None)}


@pytest.mark.parametrize("key", [None, KEY], ids=["plain", "keyed"])
def test_cvs_are_those_of_the_readable_twin(core: Core, key: bytes | None) -> None:
    data = paint(20_000)
    # The last offsets have chunk counters on both sides of 2**32: the counter's upper word counts.
    for offset in (0, 1 << 20, (1 << 42) - 16384, 1 << 42, 3 << 52):
        for block, length in ((1024, 3000), (4096, 4096), (16384, 16384 + 1025)):
            expected = pure.hash_blocks(data[:length], offset, block=block, key=key)
            assert core.hash_blocks(data[:length], offset, block=block, key=key) == expected


def test_counter_carries_within_a_block(core: Core) -> None:
    # 64 chunks around chunk number 2**32 - 32 would be a block, were it aligned; a run of 1 KiB blocks is.
    data = paint(5 * 1024)
    offset = ((1 << 32) - 3) * 1024
    alone = b"".join(pure.hash_blocks(data[at : at + 1024], offset + at, block=1024) for at in range(0, 5120, 1024))
    assert core.hash_blocks(data, offset, block=1024) == alone


def test_cv_depends_on_offset_and_is_no_digest(core: Core) -> None:
    data = paint(4096)
    at_start = core.hash_blocks(data, 0, block=4096)
    assert core.hash_blocks(data, 4096, block=4096) != at_start
    assert core.root_of(data) != at_start


def test_nothing_has_no_cv(core: Core) -> None:
    assert core.hash_blocks(b"", 0, block=1024) == b""


def test_a_lone_block_has_no_root_from_its_cv(core: Core) -> None:
    for size in (0, 1, 4096):
        with pytest.raises(ValueError, match="root_of"):
            core.merge_root(core.hash_blocks(paint(size), 0, block=4096), size, block=4096)


def test_merge_root_counts_its_cvs(core: Core) -> None:
    for cvs in (bytes(32), bytes(96), bytes(63), b""):
        with pytest.raises(ValueError, match="has 2 blocks"):
            core.merge_root(cvs, 8192, block=4096)


def test_merge_root_leaves_its_input_alone(core: Core) -> None:
    cvs = bytearray(core.hash_blocks(paint(5000), 0, block=1024))
    before = bytes(cvs)
    core.merge_root(cvs, 5000, block=1024)
    assert cvs == before
