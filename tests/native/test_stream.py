"""SubtreeHasher: the same CVs and roots however the bytes are split."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from mmap import mmap

import blake3
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.native.cores import BOUNDARIES, KEY, Core, paint


def pieces(data: bytes, sizes: list[int]) -> Iterator[bytes]:
    """`data` cut into pieces of these sizes, over and over."""
    at = index = 0
    while at < len(data):
        size = sizes[index % len(sizes)]
        yield data[at : at + size]
        at += size
        index += 1


@pytest.mark.parametrize("block", [1024, 2048, 65536, 1 << 20])
def test_whole_and_in_pieces_at_every_boundary(core: Core, block: int) -> None:
    for length in core.lengths(*BOUNDARIES, block - 1, block, block + 1, 3 * block, 3 * block + 1):
        data = paint(length)
        expected = core.hash_blocks(data, 0, block=block)
        root = blake3.blake3(data).digest()
        for sizes in ([length or 1], [1460], [1000, 3, 4096]):
            hasher = core.SubtreeHasher(0, block=block)
            for piece in pieces(data, sizes):
                hasher.update(piece)
            assert hasher.length == length
            assert hasher.cvs() == expected[: length // block * 32]
            assert hasher.finish() == expected
            assert hasher.root() == root, (length, sizes)


def test_byte_by_byte(core: Core) -> None:
    data = paint(3 * 1024 + 1)
    hasher = core.SubtreeHasher(0, block=2048)
    for at in range(len(data)):
        hasher.update(data[at : at + 1])
    assert hasher.root() == blake3.blake3(data).digest()
    assert hasher.finish() == core.hash_blocks(data, 0, block=2048)


@settings(deadline=None, max_examples=60, derandomize=True, database=None)
@given(
    length=st.integers(0, 400_000),
    sizes=st.lists(st.one_of(st.integers(1, 3000), st.integers(1, 200_000)), min_size=1, max_size=8),
    block_bits=st.integers(10, 20),
    offset_blocks=st.integers(0, 1 << 20),
    keyed=st.booleans(),
)
def _check_random_splits(
    core: Core, length: int, sizes: list[int], block_bits: int, offset_blocks: int, keyed: bool
) -> None:
    block = 1 << block_bits
    offset = offset_blocks * block
    data = paint(min(length, core.bytes_max))
    key = KEY if keyed else None
    hasher = core.SubtreeHasher(offset, block=block, key=key)
    for piece in pieces(data, sizes if len(data) / sum(sizes) < 5000 else [1460]):
        hasher.update(piece)
    assert hasher.finish() == core.hash_blocks(data, offset, block=block, key=key)
    if offset == 0:
        assert hasher.root() == core.root_of(data, key=key)


def test_random_splits_blocks_and_offsets(core: Core) -> None:
    # A function within the test: hypothesis wants no function-scoped fixture between its examples.
    _check_random_splits(core)


def test_key_and_offset_reach_the_stream(core: Core) -> None:
    data = paint(5000)
    hasher = core.SubtreeHasher(8192, block=1024, key=KEY)
    hasher.update(data)
    assert hasher.finish() == core.hash_blocks(data, 8192, block=1024, key=KEY)
    rooted = core.SubtreeHasher(0, block=1024, key=KEY)
    rooted.update(data)
    assert rooted.root() == blake3.blake3(data, key=KEY).digest()


def test_default_block_is_one_mebibyte(core: Core) -> None:
    hasher = core.SubtreeHasher(1 << 20)
    hasher.update(paint(3000))
    assert hasher.cvs() == b""
    assert hasher.finish() == core.hash_blocks(paint(3000), 1 << 20)


def test_finished_takes_no_more(core: Core) -> None:
    hasher = core.SubtreeHasher(0, block=1024)
    hasher.update(paint(1500))
    first = hasher.finish()
    with pytest.raises(ValueError, match="finished"):
        hasher.update(b"x")
    assert hasher.length == 1500
    assert hasher.finish() == hasher.cvs() == first
    assert hasher.root() == hasher.root() == blake3.blake3(paint(1500)).digest()


def test_only_a_run_from_the_start_has_a_root(core: Core) -> None:
    hasher = core.SubtreeHasher(4096, block=1024)
    hasher.update(b"x")
    with pytest.raises(ValueError, match="starts at 4096"):
        hasher.root()
    hasher.update(b"y")  # the refused root() did not finish it
    assert hasher.length == 2


def test_empty_run(core: Core) -> None:
    hasher = core.SubtreeHasher(0, block=1024)
    hasher.update(b"")
    assert hasher.finish() == b""
    assert hasher.root() == blake3.blake3(b"").digest()


@pytest.mark.needs("native")
def test_second_thread_is_refused_and_nothing_is_harmed() -> None:
    from fetcher._native import blake3 as compiled

    size = 192 << 20
    for _ in range(5):  # a machine may be too busy to let the two meet at once
        with mmap(-1, size) as zeros:  # untouched pages: much to hash, no memory
            hasher = compiled.SubtreeHasher(0)
            worker = threading.Thread(target=hasher.update, args=(zeros,))
            refused = set()
            worker.start()
            while worker.is_alive():
                for call in (hasher.cvs, lambda: hasher.update(b"")):  # noqa: B023  # called at once
                    try:
                        call()
                    except RuntimeError as error:
                        refused.add(str(error))
            worker.join()
            assert hasher.length == size
            assert hasher.finish() == compiled.hash_blocks(zeros, 0)
        if refused:
            break
    assert refused == {"this SubtreeHasher is at work in another thread"}
