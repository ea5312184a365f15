"""Promises of the compiled core and of its twin pure.py.

Buffers are contiguous and made of single bytes: bytes, bytearray, memoryview, mmap. Offsets are bytes from the start of
the file and multiples of `block`, a power of two from 1024 to 2**30. A chaining value (CV) is 32 bytes; CV lists are
the CVs side by side. A CV depends on its block's offset and never is the BLAKE3 digest of the block's bytes.

Wrong values raise ValueError, wrong types TypeError or BufferError, the kernel's refusals OSError with its errno.
"""

from collections.abc import Sequence
from typing import Final

from typing_extensions import Buffer

CV_BYTES: Final = 32

def simd() -> str:
    """The kernel in use: "portable" or one of this machine's wider ones."""

def simd_names() -> tuple[str, ...]:
    """The kernels this machine can run, widest first."""

def set_simd(name: str) -> None:
    """Use another kernel from now on, in every thread."""

def root_of(data: Buffer, *, key: Buffer | None = None) -> bytes:
    """Plain BLAKE3 (keyed with a key of 32 bytes) of a buffer of any length."""

def roots_of(contents: Sequence[Buffer]) -> list[bytes]:
    """Plain BLAKE3 of each of many buffers, in one stretch without the GIL."""

def hash_blocks(data: Buffer, offset: int, *, block: int = 1 << 20, key: Buffer | None = None) -> bytes:
    """One CV per block of `data`, which starts at `offset` of its file; the last block may be partial."""

def merge_root(cvs: Buffer, size: int, *, block: int = 1 << 20, key: Buffer | None = None) -> bytes:
    """The BLAKE3 root of a file of `size` bytes from the CVs of all its blocks.

    `size` must be more than one block: a lone block's CV lacks the ROOT flag, and no root can be made of it; such a
    file has its root from root_of.
    """

def write_blocks(fd: int, offset: int, data: Buffer, *, block: int = 1 << 20) -> bytes:
    """Hash and write all of `data` at `offset`, without the GIL; returns its CVs. The file position is left alone.

    On OSError any part of `data` may be in the file, and none of it counts as written.
    """

def scan_file(fd: int, offset: int, length: int, expected: Buffer, *, block: int = 1 << 20) -> list[int]:
    """The indexes *in the file* (offset // block and up) of the blocks whose CV is not the expected one.

    A block that the file does not hold to its end is a bad one. Runs without the GIL until the end; call it for ranges.
    """

class SubtreeHasher:
    """A run of blocks from `offset` on, fed in order in pieces of any size.

    A second thread that calls into a hasher at work gets a RuntimeError; the hasher is not harmed.
    """

    def __init__(self, offset: int, *, block: int = 1 << 20, key: Buffer | None = None) -> None: ...
    @property
    def length(self) -> int:
        """Bytes taken so far."""

    def update(self, data: Buffer) -> None:
        """ValueError once finish() or root() was called."""

    def cvs(self) -> bytes:
        """The CVs of the complete blocks so far."""

    def finish(self) -> bytes:
        """All CVs, the last of which may be of a partial block. May be called again."""

    def root(self) -> bytes:
        """BLAKE3 of all bytes fed; only for a run from offset 0. Finishes the run, may be called again."""
