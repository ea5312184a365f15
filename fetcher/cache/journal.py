"""The journal of a Partial: whose bytes it collects, which blocks were proven, how far a SHA-256 came.

See docs/FORMAT.md.

::

    8   magic "FETJRNL1"
    4   length of the head, little-endian
    4   CRC-32 of the head, little-endian
    n   head: JSON object, the fields of PartialHead
    48× records: u32 kind, u32 CRC-32 of the other 44 bytes, u64 index, 32 bytes value (little-endian)

Kind 1 is a block: index and chaining value. Kind 2 is a midstate of the whole's SHA-256: bytes taken, a multiple of 64,
and the eight words. Kinds 3 to 15 are kept for other digests. Unknown kinds are skipped. Each record has a slot, taken
in order, and is one pwrite(2); a slot that was never written is a hole, and one that is torn or damaged fails its CRC:
neither counts for anything. A later slot's record for a block replaces an earlier one, and every earlier midstate of
bytes in that block. **A journal proves nothing by itself**: every block in it is hashed again
before it is believed, and a midstate counts for what it says of blocks that were found right.
"""

from __future__ import annotations

import json
import os
import struct
import zlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass

from fetcher.cache.records import PartialHead
from fetcher.plan.tree import BLOCK_BYTES

MAGIC = b"FETJRNL1"
KIND_BLOCK = 1
KIND_SHA256 = 2
RECORD = struct.Struct("<IIQ32s")
_HEAD = struct.Struct("<8sII")
_REST = struct.Struct("<IQ32s")
_MIDSTATE = struct.Struct("<32sQ")
_HEAD_BYTES_MAX = 1 << 20
SHA256_MESSAGE_BYTES = 64


def head_bytes(head: PartialHead) -> bytes:
    """What a journal starts with."""
    text = json.dumps(asdict(head), sort_keys=True).encode()
    return _HEAD.pack(MAGIC, len(text), zlib.crc32(text)) + text


@dataclass(frozen=True, slots=True)
class Found:
    """What a journal says."""

    head: PartialHead
    blocks: dict[int, bytes]
    """Block → chaining value."""
    midstates: tuple[tuple[int, bytes], ...]
    """Bytes taken, and the midstate as ``Sha256.load`` takes it; ascending."""
    whole_bytes: int
    """Length of the journal up to its last whole record."""

    def midstate(self, proven: Mapping[int, bytes]) -> bytes | None:
        """The furthest midstate of nothing but ``proven`` blocks, as this journal knows them."""
        contiguous = 0
        while contiguous in proven and proven[contiguous] == self.blocks.get(contiguous):
            contiguous += 1
        end = min(contiguous * BLOCK_BYTES, self.head.size - 1)  # of the whole there is a digest, and no midstate
        return max((found for found in self.midstates if found[0] <= end), default=(0, None))[1]


def taken(midstate: bytes) -> int:
    """The bytes that a midstate is of."""
    return int(_MIDSTATE.unpack(midstate)[1])


def _record(kind: int, index: int, value: bytes) -> bytes:
    return RECORD.pack(kind, zlib.crc32(_REST.pack(kind, index, value)), index, value)


def block_record(block: int, chaining_value: bytes) -> bytes:
    """One proven block, as it stands in the journal."""
    return _record(KIND_BLOCK, block, chaining_value)


def sha256_record(midstate: bytes) -> bytes:
    """How far the SHA-256 of the whole has come; ``midstate`` is of ``Sha256.export``, at a multiple of 64 bytes."""
    words, length = _MIDSTATE.unpack(midstate)
    return _record(KIND_SHA256, length, words)


def belongs_to_one_run(path: str | os.PathLike[str]) -> bool:
    """Whether a journal is of bytes that no other run can go on from: they belong to nothing that could be named."""
    try:
        with open(path, "rb") as file:
            head = _head(file.read(_HEAD.size + _HEAD_BYTES_MAX))
    except OSError:
        return False
    return head is not None and not head[0].validator


def read(path: str | os.PathLike[str]) -> Found | None:
    """What the journal says; None for anything that is not one."""
    try:
        with open(path, "rb") as file:
            raw = file.read()
    except OSError:
        return None
    if (parsed := _head(raw)) is None:
        return None
    head, start = parsed
    whole = start + (len(raw) - start) // RECORD.size * RECORD.size
    blocks: dict[int, bytes] = {}
    midstates: list[tuple[int, bytes]] = []
    for kind, check, index, value in RECORD.iter_unpack(memoryview(raw)[start:whole]):
        if kind not in (KIND_BLOCK, KIND_SHA256) or check != zlib.crc32(_REST.pack(kind, index, value)):
            continue
        if kind == KIND_BLOCK:
            blocks[index] = value
        # A block that was written again may have other bytes than those that a midstate before speaks of.
        kept = index * BLOCK_BYTES if kind == KIND_BLOCK else index - 1
        while midstates and midstates[-1][0] > kept:
            midstates.pop()
        if kind == KIND_SHA256 and index and index % SHA256_MESSAGE_BYTES == 0:
            midstates.append((index, _MIDSTATE.pack(value, index)))
    return Found(head, blocks, tuple(midstates), whole)


def _head(raw: bytes) -> tuple[PartialHead, int] | None:
    """Head, and where the records start."""
    if len(raw) < _HEAD.size:
        return None
    magic, length, check = _HEAD.unpack_from(raw)
    text = raw[_HEAD.size : _HEAD.size + length]
    if magic != MAGIC or length > _HEAD_BYTES_MAX or len(text) != length or zlib.crc32(text) != check:
        return None
    try:
        head = PartialHead(**json.loads(text))
    except (ValueError, TypeError, RecursionError):
        return None
    return (head, _HEAD.size + length) if _is_sound(head) else None


def _is_sound(head: PartialHead) -> bool:
    """Whether its fields are of their types: a checksum says nothing of who computed it."""
    texts = (head.content_id, head.url, head.validator, head.manifest_digest, head.proof, head.principal or "")
    return (
        all(type(text) is str for text in texts)
        and type(head.size) is int
        and head.size >= 0
        and type(head.private) is bool
    )
