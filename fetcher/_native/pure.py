"""BLAKE3 over blocks, to be read: the twin of the compiled core, same names, same promises (blake3.pyi), no speed.

Follows the paper "BLAKE3: one function, fast everywhere" (2021-11-05) section by section. Some 10,000 times slower than
the compiled core: for readers and for tests, which compare the two. Nothing chooses it at run time.
"""

from __future__ import annotations

import os
import struct
from operator import index
from typing import TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Sequence

    from typing_extensions import Buffer

CV_BYTES: Final = 32
CHUNK_BYTES: Final = 1024
MESSAGE_BYTES: Final = 64
"""The paper's "block"; a *block* of this project is a power of two of chunks."""

BLOCK_BYTES_MAX: Final = 1 << 30
FILE_BYTES_MAX: Final = (1 << 63) - 1

# --- 2.2  The compression function -----------------------------------------------------------------------------------

# Table 1.
IV = (0x6A09E667, 0xBB67AE85, 0x3C6EF372, 0xA54FF53A, 0x510E527F, 0x9B05688C, 0x1F83D9AB, 0x5BE0CD19)

# Table 2: message word i of the next round is word PERMUTATION[i] of this one.
PERMUTATION = (2, 6, 3, 10, 7, 0, 4, 13, 1, 11, 12, 5, 9, 14, 15, 8)
ROUND_COUNT = 7

# Table 3.
CHUNK_START, CHUNK_END, PARENT, ROOT, KEYED_HASH = (1 << bit for bit in range(5))


def rotate_right(word: int, bits: int) -> int:
    return (word >> bits | word << (32 - bits)) & 0xFFFFFFFF


def quarter_round(state: list[int], a: int, b: int, c: int, d: int, x: int, y: int) -> None:
    for word, d_bits, b_bits in ((x, 16, 12), (y, 8, 7)):
        state[a] = (state[a] + state[b] + word) & 0xFFFFFFFF
        state[d] = rotate_right(state[d] ^ state[a], d_bits)
        state[c] = (state[c] + state[d]) & 0xFFFFFFFF
        state[b] = rotate_right(state[b] ^ state[c], b_bits)


COLUMNS = ((0, 4, 8, 12), (1, 5, 9, 13), (2, 6, 10, 14), (3, 7, 11, 15))
DIAGONALS = ((0, 5, 10, 15), (1, 6, 11, 12), (2, 7, 8, 13), (3, 4, 9, 14))


def compress(cv: tuple[int, ...], message: bytes, counter: int, length: int, flags: int) -> tuple[int, ...]:
    """The first half of the output: the next chaining value, or the first 32 bytes of the root's output."""
    state = [*cv, *IV[:4], counter & 0xFFFFFFFF, counter >> 32, length, flags]
    words = struct.unpack("<16I", message)
    for _ in range(ROUND_COUNT):
        for number, quarter in enumerate(COLUMNS + DIAGONALS):
            quarter_round(state, *quarter, words[2 * number], words[2 * number + 1])
        words = tuple(words[source] for source in PERMUTATION)
    return tuple(state[i] ^ state[i + 8] for i in range(8))


# --- 2.3  Modes ------------------------------------------------------------------------------------------------------


class Mode(NamedTuple):
    """The first chaining value of every node, and the flag on every compression."""

    key: tuple[int, ...]
    flags: int


def mode_of(key: Buffer | None) -> Mode:
    if key is None:
        return Mode(IV, 0)
    key_bytes = bytes(memoryview(key))
    if len(key_bytes) != 32:
        raise ValueError(f"key must be 32 bytes, not {len(key_bytes)}")
    return Mode(struct.unpack("<8I", key_bytes), KEYED_HASH)


# --- 2.4  Chunks: the leaves -----------------------------------------------------------------------------------------


def chunk_cv(mode: Mode, chunk: bytes, chunk_index: int, extra_flags: int) -> bytes:
    messages = [chunk[at : at + MESSAGE_BYTES] for at in range(0, len(chunk), MESSAGE_BYTES)] or [b""]
    cv = mode.key
    for number, message in enumerate(messages):
        flags = mode.flags
        flags |= CHUNK_START if number == 0 else 0
        flags |= CHUNK_END | extra_flags if number == len(messages) - 1 else 0
        cv = compress(cv, message.ljust(MESSAGE_BYTES, b"\0"), chunk_index, len(message), flags)
    return struct.pack("<8I", *cv)


# --- 2.5  Parents ----------------------------------------------------------------------------------------------------


def parent_cv(mode: Mode, left: bytes, right: bytes, extra_flags: int) -> bytes:
    cv = compress(mode.key, left + right, 0, MESSAGE_BYTES, mode.flags | PARENT | extra_flags)
    return struct.pack("<8I", *cv)


# --- 2.1  The tree ---------------------------------------------------------------------------------------------------


def left_count(count: int) -> int:
    """Leaves of the left subtree: the largest power of two that leaves at least one leaf to the right."""
    return 1 << (count - 1).bit_length() - 1


def subtree_cv(mode: Mode, data: bytes, chunk_index: int, extra_flags: int = 0) -> bytes:
    """The CV of the subtree over ``data``; with ROOT as extra flag, the root of a whole file."""
    if len(data) <= CHUNK_BYTES:
        return chunk_cv(mode, data, chunk_index, extra_flags)
    left_chunks = left_count(-(-len(data) // CHUNK_BYTES))
    left_bytes = left_chunks * CHUNK_BYTES
    left = subtree_cv(mode, data[:left_bytes], chunk_index)
    right = subtree_cv(mode, data[left_bytes:], chunk_index + left_chunks)
    return parent_cv(mode, left, right, extra_flags)


def merged_cv(mode: Mode, cvs: list[bytes], extra_flags: int = 0) -> bytes:
    """The CV over the CVs of equal, aligned blocks: the same tree, grown from the blocks up."""
    if len(cvs) == 1:
        return cvs[0]
    split = left_count(len(cvs))
    return parent_cv(mode, merged_cv(mode, cvs[:split]), merged_cv(mode, cvs[split:]), extra_flags)


# --- The functions of the compiled core ------------------------------------------------------------------------------


def simd() -> str:
    return "pure"


def simd_names() -> tuple[str, ...]:
    return ("pure",)


def set_simd(name: str) -> None:
    if name != "pure":
        raise ValueError(f"no kernel {name!r} on this machine, there are: pure")


def bytes_of(data: Buffer) -> bytes:
    view = memoryview(data)
    if not view.c_contiguous:
        raise BufferError("data must be contiguous")
    if view.itemsize != 1:
        raise TypeError(f"data must be a buffer of single bytes, its items have {view.itemsize}")
    return bytes(view)


def check_block(block: int) -> None:
    block = index(block)
    if not CHUNK_BYTES <= block <= BLOCK_BYTES_MAX or block & (block - 1):
        raise ValueError(f"block must be a power of two from {CHUNK_BYTES} to {BLOCK_BYTES_MAX}, not {block}")


def check_offset(offset: int, block: int, length: int) -> None:
    offset = index(offset)
    if not 0 <= offset <= FILE_BYTES_MAX - length:
        raise ValueError(f"offset must be from 0 to 2**63 - 1 less the length, not {offset}")
    if offset % block:
        raise ValueError(f"offset must be a multiple of the block, {offset} is not one of {block}")


def root_of(data: Buffer, *, key: Buffer | None = None) -> bytes:
    return subtree_cv(mode_of(key), bytes_of(data), 0, ROOT)


def roots_of(contents: Sequence[Buffer]) -> list[bytes]:
    return [root_of(content) for content in contents]


def hash_blocks(data: Buffer, offset: int, *, block: int = 1 << 20, key: Buffer | None = None) -> bytes:
    check_block(block)
    mode = mode_of(key)
    content = bytes_of(data)
    check_offset(offset, block, len(content))
    return b"".join(
        subtree_cv(mode, content[at : at + block], (offset + at) // CHUNK_BYTES) for at in range(0, len(content), block)
    )


def merge_root(cvs: Buffer, size: int, *, block: int = 1 << 20, key: Buffer | None = None) -> bytes:
    check_block(block)
    mode = mode_of(key)
    size = index(size)
    if not block < size <= FILE_BYTES_MAX:
        raise ValueError(
            f"size must be more than one block of {block}, not {size}: a smaller file has its root from root_of"
        )
    level = bytes(memoryview(cvs))
    count = -(-size // block)
    if len(level) != count * CV_BYTES:
        raise ValueError(f"a file of {size} bytes has {count} blocks of {block}, not {len(level) / CV_BYTES:g}")
    return merged_cv(mode, [level[at : at + CV_BYTES] for at in range(0, len(level), CV_BYTES)], ROOT)


def write_blocks(fd: int, offset: int, data: Buffer, *, block: int = 1 << 20) -> bytes:
    cvs = hash_blocks(data, offset, block=block)
    rest = memoryview(bytes_of(data))
    while True:
        written = os.pwrite(fd, rest, offset)
        offset += written
        rest = rest[written:]
        if not rest:
            return cvs


def scan_file(fd: int, offset: int, length: int, expected: Buffer, *, block: int = 1 << 20) -> list[int]:
    check_block(block)
    length = index(length)
    if not 0 <= length <= FILE_BYTES_MAX:
        raise ValueError(f"length must be from 0 to 2**63 - 1, not {length}")
    check_offset(offset, block, length)
    wanted = bytes(memoryview(expected))
    count = -(-length // block)
    if len(wanted) != count * CV_BYTES:
        raise ValueError(f"{length} bytes have {count} blocks of {block}, not {len(wanted) / CV_BYTES:g}")
    bad = []
    for number in range(count):
        at = offset + number * block
        size = min(block, offset + length - at)
        content = os.pread(fd, size, at)
        cv = wanted[number * CV_BYTES :][:CV_BYTES]
        if len(content) < size or hash_blocks(content, at, block=block) != cv:
            bad.append(at // block)
    return bad


class SubtreeHasher:
    def __init__(self, offset: int, *, block: int = 1 << 20, key: Buffer | None = None) -> None:
        check_block(block)
        check_offset(offset, block, 0)
        mode_of(key)
        self._offset = offset
        self._block = block
        self._key = key
        self._content = bytearray()
        self._finished = False

    @property
    def length(self) -> int:
        return len(self._content)

    def update(self, data: Buffer) -> None:
        content = bytes_of(data)
        if self._finished:
            raise ValueError("this SubtreeHasher is finished, it takes no more bytes")
        if len(content) > FILE_BYTES_MAX - self._offset - self.length:
            raise ValueError("a file cannot have more than 2**63 - 1 bytes")
        self._content += content

    def cvs(self) -> bytes:
        if self._finished:
            return self._cvs_of(self.length)
        return self._cvs_of(self.length - self.length % self._block)

    def finish(self) -> bytes:
        self._finished = True
        return self._cvs_of(self.length)

    def root(self) -> bytes:
        if self._offset != 0:
            raise ValueError(f"only a run from offset 0 has a root, this one starts at {self._offset}")
        self._finished = True
        return root_of(self._content, key=self._key)

    def _cvs_of(self, length: int) -> bytes:
        return hash_blocks(self._content[:length], self._offset, block=self._block, key=self._key)
