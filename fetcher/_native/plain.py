"""Plain mode: what remains without the compiled core. Same names and signatures as blake3.pyi and sha256.pyi.

There are no chaining values here, and so no block journal, no block scrub and no root from parts: no Python package
computes them at a useful speed. Files get their root in order (``blake3`` package); blocks are written and not hashed.
SHA-256 is hashlib's, which can't save its state and does one stream at a time. The compiled core's is left for it on
CPUs without instructions for SHA-256, too: OpenSSL has faster code for those.
"""

from __future__ import annotations

import hashlib
import os
import threading
from typing import TYPE_CHECKING, ClassVar, NoReturn, Self

import blake3

if TYPE_CHECKING:
    from collections.abc import Sequence

    from typing_extensions import Buffer


def _unavailable(name: str) -> NoReturn:
    raise RuntimeError(f"{name} needs the compiled core, which is not in use: ask fetcher.hashing.HAS_TREE first")


def root_of(data: Buffer, *, key: Buffer | None = None) -> bytes:
    """Plain (or keyed) BLAKE3 of a buffer of any length."""
    hasher = blake3.blake3() if key is None else blake3.blake3(key=key)
    return hasher.update(data).digest()


def roots_of(contents: Sequence[Buffer]) -> list[bytes]:
    """Plain BLAKE3 of each of many buffers."""
    return [root_of(content) for content in contents]


def write_blocks(fd: int, offset: int, data: Buffer, *, block: int = 1 << 20) -> bytes:
    """Write all of ``data`` at ``offset``; returns no chaining values."""
    rest = memoryview(data)
    if offset < 0 or offset % block:
        raise ValueError(f"offset must be a multiple of the block, {offset} is not one of {block}")
    while rest:
        written = os.pwrite(fd, rest, offset)
        offset += written
        rest = rest[written:]
    return b""


def hash_blocks(data: Buffer, offset: int, *, block: int = 1 << 20, key: Buffer | None = None) -> bytes:
    _unavailable("hash_blocks")


def merge_root(cvs: Buffer, size: int, *, block: int = 1 << 20, key: Buffer | None = None) -> bytes:
    _unavailable("merge_root")


def scan_file(fd: int, offset: int, length: int, expected: Buffer, *, block: int = 1 << 20) -> list[int]:
    _unavailable("scan_file")


class SubtreeHasher:
    def __init__(self, offset: int, *, block: int = 1 << 20, key: Buffer | None = None) -> None:
        _unavailable("SubtreeHasher")

    @property
    def length(self) -> int:
        _unavailable("SubtreeHasher")

    def update(self, data: Buffer) -> None:
        _unavailable("SubtreeHasher")

    def cvs(self) -> bytes:
        _unavailable("SubtreeHasher")

    def finish(self) -> bytes:
        _unavailable("SubtreeHasher")

    def root(self) -> bytes:
        _unavailable("SubtreeHasher")


# --- SHA-256 ---------------------------------------------------------------------------------------------------------

READ_BYTES = 1 << 20


def _refuse_words(data: Buffer) -> None:
    with memoryview(data) as view:
        if view.itemsize != 1:
            raise TypeError(f"data must be a buffer of single bytes, its items have {view.itemsize}")
        if not view.c_contiguous:
            raise BufferError("data must be contiguous")


class Sha256:
    can_export: ClassVar[bool] = False

    __slots__ = ("_busy", "_hasher", "_length")

    def __init__(self) -> None:
        self._hasher = hashlib.sha256()
        self._length = 0
        self._busy = threading.Lock()

    def update(self, data: Buffer, /) -> None:
        _refuse_words(data)
        with memoryview(data) as view:
            if not self._busy.acquire(blocking=False):
                raise RuntimeError("this Sha256 is at work in another thread")
            try:
                self._hasher.update(view)
                self._length += view.nbytes
            finally:
                self._busy.release()

    def update_file(self, fd: int, offset: int, length: int) -> int:
        taken = 0
        buffer = memoryview(bytearray(min(READ_BYTES, length)))
        while taken < length:
            count = os.preadv(fd, [buffer[: length - taken]], offset + taken)
            if not count:
                break
            self.update(buffer[:count])
            taken += count
        return taken

    def digest(self) -> bytes:
        return self._hasher.digest()

    def hexdigest(self) -> str:
        return self._hasher.hexdigest()

    def tell(self) -> int:
        return self._length

    def export(self) -> bytes:
        raise NotImplementedError("this build's SHA-256 can't save its state: ask Sha256.can_export first")

    @classmethod
    def load(cls, state: Buffer) -> Self:
        raise NotImplementedError("this build's SHA-256 can't load a saved state: ask Sha256.can_export first")


def sha256_pair(a: Sha256, data_a: Buffer, b: Sha256, data_b: Buffer) -> None:
    if a is b:
        raise ValueError("a pair needs two hashes: the bytes of one have an order")
    for data in (data_a, data_b):
        _refuse_words(data)  # before either has taken a byte
    a.update(data_a)
    b.update(data_b)


def sha256_pair_files(a: Sha256, fd_a: int, offset_a: int, b: Sha256, fd_b: int, offset_b: int, length: int) -> int:
    """One step after the other, so that both stop where one of the files ends."""
    if a is b:
        raise ValueError("a pair needs two hashes: the bytes of one have an order")
    taken = 0
    while taken < length:
        wanted = min(READ_BYTES, length - taken)
        piece_a = os.pread(fd_a, wanted, offset_a + taken)
        piece_b = os.pread(fd_b, wanted, offset_b + taken)
        common = min(len(piece_a), len(piece_b))
        sha256_pair(a, memoryview(piece_a)[:common], b, memoryview(piece_b)[:common])
        taken += common
        if common < wanted:
            break
    return taken
