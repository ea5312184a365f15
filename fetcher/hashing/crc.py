"""CRC-32, CRC-32C and CRC-64/NVME, as S3 states them: in order, or block by block in any order and combined at the end.

A CRC of two runs of bytes follows from the CRCs of each and the length of the second, so blocks may come as they like
and nothing is read twice. The arithmetic is awscrt's, imported when the first CRC is computed.
"""

from __future__ import annotations

import importlib
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from fetcher.plan.tree import block_count, block_length

if TYPE_CHECKING:
    from typing_extensions import Buffer

CRC_BYTES: Final = {"crc32": 4, "crc32c": 4, "crc64nvme": 8}
"""Algorithm → bytes of its value; stated big-endian."""


def _functions(algorithm: str) -> tuple[Callable[..., int], Callable[[int, int, int], int]]:
    """How to compute one, and how to combine two."""
    module: Any = importlib.import_module("awscrt.checksums")  # 50 ms, and only where S3 states a CRC
    return getattr(module, algorithm), getattr(module, f"combine_{algorithm}")


class RunningCrc:
    """A CRC fed in order, in the manner of ``hashlib``."""

    def __init__(self, algorithm: str) -> None:
        self._bytes = CRC_BYTES[algorithm]
        self._compute = _functions(algorithm)[0]
        self._value = 0

    def update(self, data: Buffer, /) -> None:
        self._value = self._compute(data, self._value)

    def digest(self) -> bytes:
        return self._value.to_bytes(self._bytes, "big")

    def hexdigest(self) -> str:
        return self.digest().hex()


class BlockCrcs:
    """CRCs of the blocks of one content, given in any order, from any thread."""

    def __init__(self, algorithm: str, size: int) -> None:
        self.algorithm = algorithm
        self._size = size
        self._compute, self._combine = _functions(algorithm)
        self._values: dict[int, int] = {}
        self._lock = threading.Lock()

    def __repr__(self) -> str:
        return f"<BlockCrcs {self.algorithm}, {len(self._values)} of {block_count(self._size)} blocks>"

    def add(self, block: int, data: Buffer) -> None:
        """Take one whole block; again, it replaces what was known."""
        value = self._compute(data)
        with self._lock:
            self._values[block] = value

    def forget(self) -> None:
        """All blocks are to come again."""
        with self._lock:
            self._values.clear()

    def missing(self) -> list[int]:
        """Blocks that were not given yet, in order: those that an earlier run left."""
        return [block for block in range(block_count(self._size)) if block not in self._values]

    def hexdigest(self) -> str:
        """Of the whole content; all blocks must have been given."""
        total = 0
        for block in range(block_count(self._size)):
            value = self._values[block]
            total = self._combine(total, value, block_length(self._size, block)) if block else value
        return total.to_bytes(CRC_BYTES[self.algorithm], "big").hex()
