"""What the cores refuse, before anything is touched; and which buffers they take."""

from __future__ import annotations

import array
import os
from collections.abc import Callable
from mmap import mmap
from typing import Any

import pytest

from tests.native.cores import KEY, Core, paint

BLOCK_CALLS: dict[str, Callable[[Core, Any, Any], object]] = {
    "hash_blocks": lambda core, offset, block: core.hash_blocks(b"x", offset, block=block),
    "write_blocks": lambda core, offset, block: core.write_blocks(-1, offset, b"x", block=block),
    "scan_file": lambda core, offset, block: core.scan_file(-1, offset, 1, bytes(32), block=block),
    "SubtreeHasher": lambda core, offset, block: core.SubtreeHasher(offset, block=block),
}


@pytest.mark.parametrize("call", BLOCK_CALLS.values(), ids=BLOCK_CALLS)
class TestBlockAndOffset:
    @pytest.mark.parametrize("block", [0, -1024, 1, 512, 1023, 1025, 3072, (1 << 20) + 1, 1 << 31, 1 << 64])
    def test_block_is_a_power_of_two(self, core: Core, call: Callable[..., object], block: int) -> None:
        with pytest.raises(ValueError, match="power of two"):
            call(core, 0, block)

    @pytest.mark.parametrize("offset", [-1024, -1, 1 << 63, 1 << 64, 1 << 70])
    def test_offset_lies_in_a_file(self, core: Core, call: Callable[..., object], offset: int) -> None:
        with pytest.raises(ValueError, match="offset must be from 0"):
            call(core, offset, 1024)

    @pytest.mark.parametrize("offset", [1, 512, 1023, 4097])
    def test_offset_is_a_multiple_of_the_block(self, core: Core, call: Callable[..., object], offset: int) -> None:
        with pytest.raises(ValueError, match="multiple of the block"):
            call(core, offset, 1024)

    @pytest.mark.parametrize(
        ("offset", "block"), [("0", 1024), (None, 1024), (0.0, 1024), (0, "1024"), (0, None), (0, 1024.0)]
    )
    def test_numbers_are_whole(self, core: Core, call: Callable[..., object], offset: Any, block: Any) -> None:
        with pytest.raises(TypeError):
            call(core, offset, block)


def test_the_end_lies_in_a_file_too(core: Core) -> None:
    last = (1 << 63) - 1024
    assert len(core.hash_blocks(bytes(1023), last, block=1024)) == 32
    with pytest.raises(ValueError, match="less the length"):
        core.hash_blocks(bytes(1024), last, block=1024)
    hasher = core.SubtreeHasher(last, block=1024)
    hasher.update(bytes(1023))
    with pytest.raises(ValueError, match=r"2\*\*63"):
        hasher.update(b"x")
    assert hasher.length == 1023


@pytest.mark.parametrize("length", [-1, 1 << 63])
def test_scan_length(core: Core, length: int) -> None:
    with pytest.raises(ValueError, match="length must be"):
        core.scan_file(-1, 0, length, b"", block=1024)


@pytest.mark.parametrize("size", [-1, 1 << 63])
def test_merge_size(core: Core, size: int) -> None:
    with pytest.raises(ValueError, match="size must be"):
        core.merge_root(bytes(64), size, block=1024)


@pytest.mark.parametrize("key", [b"", KEY[:-1], KEY + b"x"])
def test_key_has_32_bytes(core: Core, key: bytes) -> None:
    for call in (
        lambda: core.root_of(b"x", key=key),
        lambda: core.hash_blocks(b"x", 0, block=1024, key=key),
        lambda: core.merge_root(bytes(64), 2048, block=1024, key=key),
        lambda: core.SubtreeHasher(0, block=1024, key=key),
    ):
        with pytest.raises(ValueError, match="key must be 32 bytes"):
            call()


def test_contiguous_byte_buffers(core: Core) -> None:
    data = paint(3000)
    expected = core.root_of(data)
    with mmap(-1, 3000) as mapped:
        mapped[:] = data
        room = bytearray(b"??" + data + b"??")
        for buffer in (data, bytearray(data), memoryview(data), mapped, memoryview(room)[2:-2], array.array("B", data)):
            assert core.root_of(buffer) == expected
            assert core.roots_of([buffer, data]) == [expected, expected]
            hasher = core.SubtreeHasher(0, block=1024)
            hasher.update(buffer)
            assert hasher.root() == expected
        # All of them were let go of: a held view would make this a BufferError.
        room.append(0)


@pytest.mark.parametrize(
    ("buffer", "error"),
    [
        ("text", TypeError),
        (None, TypeError),
        (7, TypeError),
        ([1, 2], TypeError),
        (array.array("I", [1, 2]), TypeError),
        (memoryview(bytes(64))[::2], BufferError),
    ],
    ids=["str", "None", "int", "list", "words", "strided"],
)
def test_other_buffers_are_refused(core: Core, buffer: Any, error: type[Exception]) -> None:
    hasher = core.SubtreeHasher(0, block=1024)
    for call in (
        lambda: core.root_of(buffer),
        lambda: core.roots_of([b"x", buffer]),
        lambda: core.hash_blocks(buffer, 0, block=1024),
        lambda: core.write_blocks(-1, 0, buffer, block=1024),
        lambda: hasher.update(buffer),
    ):
        with pytest.raises(error):
            call()
    assert hasher.length == 0


def test_a_refused_write_lets_go_of_its_buffer(core: Core) -> None:
    data = bytearray(10)
    with pytest.raises(OSError):
        core.write_blocks(-1, 0, data, block=1024)
    with pytest.raises(ValueError):
        core.write_blocks(-1, 3, data, block=1024)
    data.append(1)


def test_descriptor_is_a_number(core: Core) -> None:
    for fd in ("-1", None, -1.0):
        with pytest.raises(TypeError):
            core.write_blocks(fd, 0, b"x", block=1024)
        with pytest.raises(TypeError):
            core.scan_file(fd, 0, 1, bytes(32), block=1024)


def test_unknown_kernel(core: Core) -> None:
    with pytest.raises(ValueError, match=f"no kernel 'mmx'.*{core.simd_names()[-1]}"):
        core.set_simd("mmx")
    assert core.simd() == core.kernel


def test_nothing_is_read_beyond_a_mapping(core: Core) -> None:
    # A mapping's last byte is the last one that can be read: content at its very end, for every tail of a message.
    page = os.sysconf("SC_PAGE_SIZE")
    with mmap(-1, 2 * page) as mapped:
        for length in (1, 63, 64, 65, 1023, 1025, page - 1):
            content = memoryview(mapped)[-length:]
            content[:] = paint(length)
            assert core.root_of(content) == core.root_of(paint(length))
            content.release()
