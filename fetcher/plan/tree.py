"""Arithmetic of blocks: the 1 MiB grid that writing, hashing, the journal, scrub and repair share."""

from __future__ import annotations

BLOCK_BYTES = 1 << 20
"""Unit of everything below a part. 32 bytes of chaining value per MiB are 31 ppm; re-fetching one costs at most 1 MiB.
"""


def block_count(size: int) -> int:
    """Blocks of a file of ``size`` bytes; the last one may be short. An empty file has none."""
    return -(-size // BLOCK_BYTES)


def block_length(size: int, block: int) -> int:
    """Bytes of block ``block`` in a file of ``size`` bytes."""
    return min(BLOCK_BYTES, size - block * BLOCK_BYTES)
