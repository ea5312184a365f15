"""Hashes: of blocks (BLAKE3 trees, through fetcher/_native; CRCs) and of whole contents in order (what origins claim).

The one face over the native core: nothing above imports that directly. Knows bytes, offsets and sizes; must not know
where they come from, what a Manifest is or what a digest decides.

With ``HAS_TREE`` a block's 32-byte chaining value (CV) proves it alone, in any order, and the root of a file is made of
its CVs. A file of at most one block has no such root (its only CV lacks the ROOT flag): hash it with ``root_of``.
Without (plain mode, no compiler at installation) ``write_blocks`` writes and returns ``b""``, the other functions of
the tree raise RuntimeError, and a root comes from ``InOrderDigest.new("blake3", size)``. A file's root is the
same in both modes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from fetcher import _native
from fetcher._native import (
    BlockSink,
    Sha256,
    SubtreeHasher,
    hash_blocks,
    merge_root,
    preallocate,
    root_of,
    roots_of,
    scan_file,
    sha256_pair,
    sha256_pair_files,
    write_blocks,
)
from fetcher.hashing.crc import CRC_BYTES, BlockCrcs
from fetcher.hashing.in_order import InOrderDigest, digest_bytes, matches
from fetcher.hashing.trail import Run, Trail
from fetcher.plan.tree import BLOCK_BYTES, block_count

if TYPE_CHECKING:
    from typing_extensions import Buffer

__all__ = [
    "BLOCK_BYTES",
    "CRC_BYTES",
    "CV_BYTES",
    "HAS_TREE",
    "SHA256_PAIRS",
    "BlockCrcs",
    "BlockSink",
    "InOrderDigest",
    "Run",
    "Sha256",
    "SubtreeHasher",
    "Trail",
    "block_count",
    "describe",
    "digest_bytes",
    "hash_blocks",
    "matches",
    "merge_root",
    "preallocate",
    "root_of",
    "roots_of",
    "scan_file",
    "sha256_pair",
    "sha256_pair_files",
    "tree_root",
    "write_blocks",
]

CV_BYTES: Final = 32
"""Bytes of one chaining value and of a root."""

HAS_TREE: Final = _native.ACTIVE == "native"
"""Whether blocks have CVs: whether the compiled core is in use."""

SHA256_PAIRS: Final = _native.SHA256_ACTIVE not in ("hashlib", "portable")
"""Whether two SHA-256 side by side on one core take less time than one after the other."""

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
