"""Plain mode: what remains without the compiled core. Same names and signatures as blake3.pyi.

There are no chaining values here, and so no block journal, no block scrub and no root from parts: no Python package
computes them at a useful speed. Files get their root in order (``blake3`` package); blocks are written and not hashed.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, NoReturn

import blake3

if TYPE_CHECKING:
    from typing_extensions import Buffer


def _unavailable(name: str) -> NoReturn:
    raise RuntimeError(f"{name} needs the compiled core, which is not in use: ask fetcher.hashing.HAS_TREE first")


def root_of(data: Buffer, *, key: Buffer | None = None) -> bytes:
    """Plain (or keyed) BLAKE3 of a buffer of any length."""
    hasher = blake3.blake3() if key is None else blake3.blake3(key=key)
    return hasher.update(data).digest()


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
