"""``<root>.tree``: the chaining values of a Blob and what was proven of it. Bytes in, values out; see docs/FORMAT.md.

::

    8   magic "FETTREE1"
    4   length of the header, little-endian
    n   header: JSON object {root, size, block_bytes, digests, verified_by, content_id, scope}
    32× chaining values, one per block, in order (none where block_bytes is 0: made without the compiled core)
    4   CRC-32 of everything before, little-endian
"""

from __future__ import annotations

import json
import struct
import zlib
from collections.abc import Sequence
from dataclasses import dataclass

from fetcher.model.digest import Digest

MAGIC = b"FETTREE1"
CV_BYTES = 32
_LENGTH = struct.Struct("<I")
_HEADER_BYTES_MAX = 1 << 20


@dataclass(frozen=True, slots=True)
class TreeFile:
    """Content of one ``.tree``."""

    root: str
    size: int
    block_bytes: int
    """0: no chaining values are known."""
    chaining_values: bytes
    digests: tuple[Digest, ...]
    """Computed by us over the whole content."""
    verified_by: str
    """What the origin's claim was compared with when the bytes came in."""
    content_id: str | None = None
    """What the bytes were fetched as, and for whom (``scope``; empty: everybody): so that a Blob whose row is lost can
    be given to the same askers again, and to nobody else. None: not known."""
    scope: str | None = None

    def encode(self) -> bytes:
        header = json.dumps(
            {
                "root": self.root,
                "size": self.size,
                "block_bytes": self.block_bytes,
                "digests": [str(digest) for digest in self.digests],
                "verified_by": self.verified_by,
                "content_id": self.content_id,
                "scope": self.scope,
            },
            sort_keys=True,
        ).encode()
        body = b"".join((MAGIC, _LENGTH.pack(len(header)), header, self.chaining_values))
        return body + _LENGTH.pack(zlib.crc32(body))

    @classmethod
    def decode(cls, raw: bytes) -> TreeFile:
        """Raises ValueError that says what is wrong."""
        if raw[: len(MAGIC)] != MAGIC:
            raise ValueError("not a tree file of this version")
        if len(raw) < 16 or zlib.crc32(raw[:-4]) != _LENGTH.unpack(raw[-4:])[0]:
            raise ValueError("checksum differs: cut short or damaged")
        (length,) = _LENGTH.unpack(raw[8:12])
        if length > min(_HEADER_BYTES_MAX, len(raw) - 16):
            raise ValueError("header longer than the file")
        try:
            header = json.loads(raw[12 : 12 + length])
            tree = cls(
                root=str(header["root"]),
                size=int(header["size"]),
                block_bytes=int(header["block_bytes"]),
                chaining_values=raw[12 + length : -4],
                digests=tuple(Digest.parse(text) for text in header["digests"]),
                verified_by=str(header["verified_by"]),
                content_id=_text(header.get("content_id")),
                scope=_text(header.get("scope")),
            )
        except (KeyError, TypeError, AttributeError, OverflowError, RecursionError) as error:
            raise ValueError(f"odd header: {error}") from error
        if tree.size < 0 or tree.block_bytes < 0:
            raise ValueError(f"odd header: {tree.size} bytes in blocks of {tree.block_bytes}")
        blocks = -(-tree.size // tree.block_bytes) if tree.block_bytes else 0
        if len(tree.chaining_values) != blocks * CV_BYTES:
            raise ValueError(f"{len(tree.chaining_values)} bytes of chaining values for {blocks} blocks")
        return tree


def _text(value: object) -> str | None:
    return None if value is None else str(value)


def tree_of(
    root: str,
    size: int,
    block_bytes: int,
    cvs: Sequence[bytes],
    digests: Sequence[Digest],
    by: str,
    *,
    content_id: str | None = None,
    scope: str | None = None,
) -> bytes:
    """Bytes of a new tree file."""
    return TreeFile(root, size, block_bytes, b"".join(cvs), tuple(digests), by, content_id, scope).encode()
