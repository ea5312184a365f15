"""Hashes: of blocks (BLAKE3 trees, through fetcher/_native) and of whole contents in order (what origins claim).

The one face over the native core: nothing above imports that directly. Knows bytes, offsets and sizes; must not know
where they come from, what a Manifest is or what a digest decides.

With ``HAS_TREE`` a block's 32-byte chaining value (CV) proves it alone, in any order, and the root of a file is made of
its CVs. A file of at most one block has no such root (its only CV lacks the ROOT flag): hash it with ``root_of``.
Without (plain mode, no compiler at installation) ``write_blocks`` writes and returns ``b""``, the other functions of
the tree raise RuntimeError, and a root comes from ``InOrderDigest.new("blake3", size)``. A file's root is the
same in both modes.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import TYPE_CHECKING, Final, Protocol

import blake3

from fetcher import _native
from fetcher._native import SubtreeHasher, hash_blocks, merge_root, root_of, scan_file, write_blocks
from fetcher._native.sha256 import Sha256, sha256_pair
from fetcher.errors import InternalError
from fetcher.plan.tree import BLOCK_BYTES, block_count

if TYPE_CHECKING:
    from typing_extensions import Buffer

__all__ = [
    "BLOCK_BYTES",
    "CV_BYTES",
    "HAS_TREE",
    "InOrderDigest",
    "Sha256",
    "SubtreeHasher",
    "block_count",
    "describe",
    "digest_bytes",
    "hash_blocks",
    "merge_root",
    "root_of",
    "scan_file",
    "sha256_pair",
    "tree_root",
    "write_blocks",
]

CV_BYTES: Final = 32
"""Bytes of one chaining value and of a root."""

HAS_TREE: Final = _native.ACTIVE == "native"
"""Whether blocks have CVs: whether the compiled core is in use."""

describe = _native.describe


def tree_root(size: int, cvs: Buffer, *, small_root: bytes | None = None) -> bytes:
    """The BLAKE3 root of a file: from the CVs of its blocks, or ``small_root`` when it has at most one block.

    ``small_root`` is what ``root_of`` said of the whole content; a larger file does without. ValueError when the number
    of CVs is not that of ``size``.
    """
    if size > BLOCK_BYTES:
        return merge_root(cvs, size, block=BLOCK_BYTES)
    if small_root is None or len(small_root) != CV_BYTES:
        raise ValueError(f"a file of {size} bytes has its root from root_of, none was given")
    return small_root


# --- whole contents, in order ----------------------------------------------------------------------------------------


class _Hasher(Protocol):
    def update(self, data: Buffer, /) -> object: ...
    def hexdigest(self) -> str: ...


def _new_git_sha1(size: int) -> _Hasher:
    # git names a blob by its type, its size and its content; the size therefore is part of the claim.
    return hashlib.sha1(b"blob %d\0" % size, usedforsecurity=False)


_NEW: Final[dict[str, Callable[[int], _Hasher]]] = {
    "blake3": lambda size: blake3.blake3(),
    "sha256": lambda size: Sha256(),
    "git-sha1": _new_git_sha1,
    # An origin's ETag, compared against accidents and never against attackers: allowed on FIPS hosts, too.
    "md5": lambda size: hashlib.md5(usedforsecurity=False),
}


class InOrderDigest:
    """A digest that an origin claims, fed with the content from its first byte to its last. One thread at a time."""

    __slots__ = ("_hasher", "algorithm", "offset")

    def __init__(self, algorithm: str, hasher: _Hasher) -> None:
        self.algorithm = algorithm
        self._hasher = hasher
        self.offset = 0
        """Bytes taken: where in the content the next update() starts."""

    @classmethod
    def new(cls, algorithm: str, size: int) -> InOrderDigest:
        """For a content of ``size`` bytes; ``algorithm`` is a key of ``fetcher.model.digest.HEX_DIGITS``."""
        try:
            start = _NEW[algorithm]
        except KeyError:
            raise InternalError(f"no way to compute the digest {algorithm!r}, only {', '.join(sorted(_NEW))}") from None
        return cls(algorithm, start(size))

    def update(self, data: Buffer) -> None:
        """Take the next bytes; without the GIL from 2 KiB up."""
        with memoryview(data) as view:
            self._hasher.update(view)
            self.offset += view.nbytes

    def hexdigest(self) -> str:
        """Lower-case hex of the bytes so far; more may follow."""
        return self._hasher.hexdigest()

    def __repr__(self) -> str:
        return f"InOrderDigest({self.algorithm}, offset={self.offset})"


def digest_bytes(algorithm: str, data: Buffer) -> str:
    """The digest of one buffer, in lower-case hex."""
    with memoryview(data) as view:
        digest = InOrderDigest.new(algorithm, view.nbytes)
        digest.update(view)
    return digest.hexdigest()
