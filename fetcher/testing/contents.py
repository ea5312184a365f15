"""File contents that an embedded origin can serve: bytes, a file on disk, or generated data of any size.

A content knows its size, its digests (computed once) and how to show any part of itself as a run of buffers
without copying more than it must. It knows nothing of HTTP, repositories or who asks.
"""

from __future__ import annotations

import hashlib
import os
import random
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache, cached_property, lru_cache
from pathlib import Path
from typing import TypeAlias

BLOCK_BYTES = 1 << 20
"""Buffers handed out are at most this long: large enough that the cost per write vanishes, small enough that an
event loop stays fair between bodies."""

_PATTERN_BYTES = 4 << 20
_PATTERN_SEED = 0x5EED


class Content:
    """A sequence of bytes with a known size. Subclasses set ``size`` and supply ``views``.

    Offsets are bytes and every range is half-open: ``start`` included, ``stop`` excluded.
    """

    size: int
    """Length in bytes."""

    @property
    def file(self) -> Path | None:
        """The file these bytes lie in at the same offsets, when there is one: a server may then use sendfile."""
        return None

    def views(self, start: int = 0, stop: int | None = None) -> Iterator[bytes | memoryview]:
        """Yield the bytes of ``[start, stop)`` in order, in buffers of at most ``BLOCK_BYTES``."""
        raise NotImplementedError

    def read(self, start: int = 0, stop: int | None = None) -> bytes:
        """Return the bytes of ``[start, stop)`` as one object. Meant for tests and for small contents."""
        return b"".join(self.views(start, stop))

    def write_to(self, path: Path) -> None:
        """Write the whole content to ``path``, block by block."""
        with path.open("wb") as file:
            for view in self.views():
                file.write(view)

    @cached_property
    def sha256(self) -> str:
        """SHA-256 of the content, 64 hex digits: what an LFS pointer states."""
        return self._hex_digest("sha256", b"")

    @cached_property
    def git_sha1(self) -> str:
        """The id git gives to a blob with this content, 40 hex digits."""
        return self._hex_digest("sha1", b"blob %d\0" % self.size)

    @cached_property
    def is_text(self) -> bool:
        """Whether a front end would call this text, and so compress it: no NUL among the first 8 KiB (git's rule)."""
        return b"\0" not in self.read(0, min(self.size, 8192))

    def _hex_digest(self, algorithm: str, prefix: bytes) -> str:
        digest = hashlib.new(algorithm, prefix)
        for view in self.views():
            digest.update(view)
        return digest.hexdigest()


class BytesContent(Content):
    """Content held in memory."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self.size = len(data)

    def views(self, start: int = 0, stop: int | None = None) -> Iterator[bytes | memoryview]:
        stop = self.size if stop is None else stop
        if start == 0 and stop == self.size <= BLOCK_BYTES:
            yield self._data
            return
        whole = memoryview(self._data)
        for offset in range(start, stop, BLOCK_BYTES):
            yield whole[offset : min(offset + BLOCK_BYTES, stop)]


class FileContent(Content):
    """Content of a file on disk, which must not change while it is served."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.size = path.stat().st_size

    @property
    def file(self) -> Path | None:
        return self._path

    def views(self, start: int = 0, stop: int | None = None) -> Iterator[bytes | memoryview]:
        stop = self.size if stop is None else stop
        with self._path.open("rb", buffering=0) as file:
            while start < stop:
                data = os.pread(file.fileno(), min(BLOCK_BYTES, stop - start), start)
                if not data:
                    raise EOFError(f"{self._path} became shorter than {stop} bytes while it was served")
                yield data
                start += len(data)


@dataclass(frozen=True)
class Synthetic(Content):
    """Generated content: the same ``size`` and ``seed`` always give the same bytes.

    Each block of 1 MiB is a window into one shared random buffer, at an offset that no other of the first four
    million blocks of the file has. So blocks differ, shifted or swapped ranges are noticed by any digest, and serving
    costs no computation and no copy.
    """

    size: int
    """Length in bytes."""
    seed: int = 0
    """Contents with different seeds differ, even when one is the start of the other's size."""

    def __post_init__(self) -> None:
        if self.size < 0:
            raise ValueError(f"size must not be negative, not {self.size}")

    def views(self, start: int = 0, stop: int | None = None) -> Iterator[bytes | memoryview]:
        pattern = memoryview(_pattern())
        first, stride = _walk(self.seed)
        stop = self.size if stop is None else stop
        while start < stop:
            block, within = divmod(start, BLOCK_BYTES)
            length = min(BLOCK_BYTES - within, stop - start)
            origin = (first + block * stride) % _PATTERN_BYTES + within
            yield pattern[origin : origin + length]
            start += length

    def _hex_digest(self, algorithm: str, prefix: bytes) -> str:
        # Once per process for equal values, not once per object: tests and benchmarks build the same repository many
        # times, and 2 GiB cost more than a second.
        return _synthetic_digest(algorithm, prefix, self.size, self.seed)


ContentLike: TypeAlias = bytes | str | Path | Content
"""What callers may give as a file's content; ``str`` is text, encoded as UTF-8, never a path."""


def as_content(value: ContentLike) -> Content:
    """Turn what a caller gave into a ``Content``."""
    if isinstance(value, Content):
        return value
    if isinstance(value, bytes):
        return BytesContent(value)
    if isinstance(value, str):
        return BytesContent(value.encode())
    return FileContent(value)


@lru_cache(maxsize=4096)
def _synthetic_digest(algorithm: str, prefix: bytes, size: int, seed: int) -> str:
    # The base class's method, not the override that calls this function.
    return Content._hex_digest(Synthetic(size, seed), algorithm, prefix)


@cache
def _pattern() -> bytes:
    # One block longer than the period, so that a window starting anywhere in the period is contiguous.
    return random.Random(_PATTERN_SEED).randbytes(_PATTERN_BYTES + BLOCK_BYTES)


@lru_cache(maxsize=4096)
def _walk(seed: int) -> tuple[int, int]:
    digest = hashlib.blake2b(b"%d" % seed, digest_size=16).digest()
    # An odd stride visits every offset of a power-of-two period once before any returns.
    return int.from_bytes(digest[:8]) % _PATTERN_BYTES, int.from_bytes(digest[8:]) | 1
