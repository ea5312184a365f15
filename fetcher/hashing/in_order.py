"""Digests of contents that are fed from their first byte to their last: what origins claim, whole and composite.

A composite digest is the digest of the concatenated binary digests of consecutive parts (how S3 names what was uploaded
in parts; the trailing ``-N`` of such an ETag is the number of parts). Knows bytes and sizes, not where they come from.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import TYPE_CHECKING, Final, Protocol

import blake3

from fetcher._native import Sha256
from fetcher.errors import InternalError
from fetcher.hashing.crc import CRC_BYTES, RunningCrc
from fetcher.model.digest import Digest

if TYPE_CHECKING:
    from typing_extensions import Buffer


PIECE_BYTES: Final = 2047
"""hashlib hands the GIL over for any more than this (HASHLIB_GIL_MINSIZE is 2048)."""


class Hasher(Protocol):
    def update(self, data: Buffer, /) -> object: ...
    def digest(self) -> bytes: ...
    def hexdigest(self) -> str: ...


def _new_git_sha1(size: int) -> Hasher:
    # git names a blob by its type, its size and its content; the size therefore is part of the claim.
    return hashlib.sha1(b"blob %d\0" % size, usedforsecurity=False)


_NEW: Final[dict[str, Callable[[int], Hasher]]] = {
    "blake3": lambda size: blake3.blake3(),
    "sha256": lambda size: Sha256(),
    "sha512": lambda size: hashlib.sha512(),
    "git-sha1": _new_git_sha1,
    "sha1": lambda size: hashlib.sha1(usedforsecurity=False),
    # An origin's ETag, compared against accidents and never against attackers: allowed on FIPS hosts, too.
    "md5": lambda size: hashlib.md5(usedforsecurity=False),
    **{name: lambda size, name=name: RunningCrc(name) for name in CRC_BYTES},  # type: ignore[misc]  # a bound default
}


def start(algorithm: str, size: int) -> Hasher:
    """A hasher for a content of ``size`` bytes; ``algorithm`` is a key of ``fetcher.model.digest.HEX_DIGITS``."""
    try:
        new = _NEW[algorithm]
    except KeyError:
        raise InternalError(f"no way to compute the digest {algorithm!r}, only {', '.join(sorted(_NEW))}") from None
    return new(size)


class _Composite:
    """The digest of the parts' digests."""

    def __init__(self, algorithm: str, part_bytes: int) -> None:
        self._algorithm = algorithm
        self._part_bytes = part_bytes
        self._ended = b""
        self._part = start(algorithm, part_bytes)
        self._filled = 0

    def update(self, data: Buffer, /) -> None:
        with memoryview(data) as view:
            position = 0
            while position < view.nbytes:
                if self._filled == self._part_bytes:
                    self._ended += self._part.digest()
                    self._part, self._filled = start(self._algorithm, self._part_bytes), 0
                count = min(view.nbytes - position, self._part_bytes - self._filled)
                self._part.update(view[position : position + count])
                self._filled += count
                position += count

    def digest(self) -> bytes:
        outer = start(self._algorithm, 0)
        outer.update(self._ended + (self._part.digest() if self._filled else b""))
        return outer.digest()

    def hexdigest(self) -> str:
        return self.digest().hex()


class InOrderDigest:
    """A digest that an origin claims, fed with the content from its first byte to its last. One thread at a time."""

    __slots__ = ("_hasher", "name", "offset")

    def __init__(self, name: str, hasher: Hasher) -> None:
        self.name = name
        """As ``Digest.name``: algorithm, and part size of a composite."""
        self._hasher = hasher
        self.offset = 0
        """Bytes taken: where in the content the next update() starts."""

    @classmethod
    def new(cls, algorithm: str, size: int, *, part_bytes: int = 0) -> InOrderDigest:
        """For a content of ``size`` bytes; ``algorithm`` is a key of ``fetcher.model.digest.HEX_DIGITS``."""
        if part_bytes:
            return cls(f"{algorithm}/{part_bytes}", _Composite(algorithm, part_bytes))
        return cls(algorithm, start(algorithm, size))

    @classmethod
    def like(cls, claim: Digest, size: int) -> InOrderDigest:
        """One that can be compared with ``claim``."""
        return cls.new(claim.algorithm, size, part_bytes=claim.part_bytes)

    def update(self, data: Buffer) -> None:
        """Take the next bytes; without the GIL from 2 KiB up."""
        with memoryview(data) as view:
            self._hasher.update(view)
            self.offset += view.nbytes

    def hexdigest(self) -> str:
        """Lower-case hex of the bytes so far; more may follow."""
        return self._hasher.hexdigest()

    def __repr__(self) -> str:
        return f"InOrderDigest({self.name}, offset={self.offset})"


def digest_bytes(algorithm: str, data: Buffer) -> str:
    """The digest of one buffer, in lower-case hex."""
    with memoryview(data) as view:
        hasher = start(algorithm, view.nbytes)
        hasher.update(view)
    return hasher.hexdigest()


def matches(claim: Digest, data: Buffer, *, at_once: bool = False) -> bool:
    """Whether one buffer is what ``claim`` says.

    ``at_once``: keep the GIL, for a few KiB on an event loop. Handing it over costs more than they take to hash, where
    a worker is waiting for it and keeps it.
    """
    with memoryview(data) as view:
        part_bytes = claim.part_bytes
        hasher = _Composite(claim.algorithm, part_bytes) if part_bytes else start(claim.algorithm, view.nbytes)
        if at_once:
            for position in range(0, view.nbytes, PIECE_BYTES):
                hasher.update(view[position : position + PIECE_BYTES])
        else:
            hasher.update(view)
    return hasher.hexdigest() == claim.hex
