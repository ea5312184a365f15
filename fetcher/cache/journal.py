"""The journal of a Partial: whose bytes it collects, and which blocks were proven. See docs/FORMAT.md.

::

    8   magic "FETJRNL1"
    4   length of the head, little-endian
    4   CRC-32 of the head, little-endian
    n   head: JSON object, the fields of PartialHead
    48× records: u32 kind, u32 CRC-32 of the other 44 bytes, u64 index, 32 bytes value (little-endian)

Kind 1 is a block: index and chaining value. Kinds 2 to 15 are kept for midstates of in-order digests. Unknown kinds are
skipped. A record is one write(2); one that is torn or damaged fails its CRC and counts for nothing. A later record for
a block replaces an earlier one. **A journal proves nothing by itself**: every block in it is hashed again before it is
believed.
"""

from __future__ import annotations

import json
import os
import struct
import zlib
from dataclasses import asdict

from fetcher.cache.durable import write_all
from fetcher.cache.records import PartialHead

MAGIC = b"FETJRNL1"
KIND_BLOCK = 1
RECORD = struct.Struct("<IIQ32s")
_HEAD = struct.Struct("<8sII")
_REST = struct.Struct("<IQ32s")
_HEAD_BYTES_MAX = 1 << 20


def head_bytes(head: PartialHead) -> bytes:
    """What a journal starts with."""
    text = json.dumps(asdict(head), sort_keys=True).encode()
    return _HEAD.pack(MAGIC, len(text), zlib.crc32(text)) + text


def block_record(block: int, chaining_value: bytes) -> bytes:
    """One proven block, as it stands in the journal."""
    check = zlib.crc32(_REST.pack(KIND_BLOCK, block, chaining_value))
    return RECORD.pack(KIND_BLOCK, check, block, chaining_value)


def append(descriptor: int, record: bytes) -> None:
    """Add one record. The descriptor is opened for appending."""
    write_all(descriptor, record)


def belongs_to_one_run(path: str | os.PathLike[str]) -> bool:
    """Whether a journal is of bytes that no other run can go on from: they belong to nothing that could be named."""
    try:
        with open(path, "rb") as file:
            head = _head(file.read(_HEAD.size + _HEAD_BYTES_MAX))
    except OSError:
        return False
    return head is not None and not head[0].validator


def read(path: str | os.PathLike[str]) -> tuple[PartialHead, dict[int, bytes], int] | None:
    """Head, block → chaining value, and the length of the whole records; None for anything that is not a journal."""
    try:
        with open(path, "rb") as file:
            raw = file.read()
    except OSError:
        return None
    if (found := _head(raw)) is None:
        return None
    head, start = found
    whole = start + (len(raw) - start) // RECORD.size * RECORD.size
    blocks: dict[int, bytes] = {}
    for kind, check, index, value in RECORD.iter_unpack(memoryview(raw)[start:whole]):
        if kind == KIND_BLOCK and check == zlib.crc32(_REST.pack(kind, index, value)):
            blocks[index] = value
    return head, blocks, whole


def _head(raw: bytes) -> tuple[PartialHead, int] | None:
    """Head, and where the records start."""
    if len(raw) < _HEAD.size:
        return None
    magic, length, check = _HEAD.unpack_from(raw)
    text = raw[_HEAD.size : _HEAD.size + length]
    if magic != MAGIC or length > _HEAD_BYTES_MAX or len(text) != length or zlib.crc32(text) != check:
        return None
    try:
        return PartialHead(**json.loads(text)), _HEAD.size + length
    except (ValueError, TypeError):
        return None
