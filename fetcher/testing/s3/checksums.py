"""Checksums as S3 states them: CRC-32, CRC-32C, CRC-64/NVME, SHA-1, SHA-256 and MD5, of any content.

Written apart from the product's own, so that one can judge the other. With awscrt the CRCs are fast; without it tables
do, at 5 to 15 MB/s. Knows nothing of objects or requests.
"""

from __future__ import annotations

import hashlib
import importlib
import zlib
from array import array
from base64 import b64encode
from collections.abc import Callable, Iterable
from functools import cache
from typing import Literal, TypeAlias

Algorithm: TypeAlias = Literal["crc32", "crc32c", "crc64nvme", "sha1", "sha256"]
ALGORITHMS: tuple[Algorithm, ...] = ("crc32", "crc32c", "crc64nvme", "sha1", "sha256")

_CRC_BITS: dict[str, int] = {"crc32": 32, "crc32c": 32, "crc64nvme": 64}
# Reflected polynomials. CRC-64/NVME: NVM Express NVM command set, section 5.2.1.3.4.
_POLYNOMIALS: dict[str, int] = {"crc32": 0xEDB88320, "crc32c": 0x82F63B78, "crc64nvme": 0x9A6C9329AC4BC9B5}

CrcStep: TypeAlias = Callable[[bytes | memoryview, int], int]
"""Data and the checksum of what came before it → the checksum of both."""


def digest(algorithm: str, views: Iterable[bytes | memoryview]) -> bytes:
    """Return the raw digest of the concatenated ``views``; CRCs big-endian, as S3 writes them."""
    if algorithm not in _CRC_BITS:
        state = hashlib.new(algorithm, usedforsecurity=False)
        for view in views:
            state.update(view)
        return state.digest()
    step, value = _step(algorithm), 0
    for view in views:
        value = step(view, value)
    return value.to_bytes(_CRC_BITS[algorithm] // 8)


def stated(algorithm: str, parts: Iterable[Iterable[bytes | memoryview]], *, composite: bool) -> str:
    """Return a checksum as its header has it: base64, for a composite one with the number of parts behind it."""
    if not composite:
        return b64encode(digest(algorithm, (view for part in parts for view in part))).decode()
    digests = [digest(algorithm, part) for part in parts]
    return f"{b64encode(digest(algorithm, [b''.join(digests)])).decode()}-{len(digests)}"


def table_step(algorithm: str) -> CrcStep:
    """Return the CRC in plain Python. It takes two bytes at a time, from a table of 65,536 entries."""
    bytewise, pairwise = _tables(_POLYNOMIALS[algorithm])
    ones = (1 << _CRC_BITS[algorithm]) - 1

    def step(data: bytes | memoryview, before: int) -> int:
        value = before ^ ones
        even = len(data) & ~1
        words = array("H", bytes(data[:even]))
        if _IS_BIG_ENDIAN:
            words.byteswap()
        for word in words:
            value = pairwise[(value ^ word) & 0xFFFF] ^ (value >> 16)
        for byte in data[even:]:
            value = bytewise[(value ^ byte) & 0xFF] ^ (value >> 8)
        return value ^ ones

    return step


_IS_BIG_ENDIAN = array("H", [1]).tobytes() == b"\0\1"


@cache
def _step(algorithm: str) -> CrcStep:
    if algorithm == "crc32":
        return zlib.crc32
    try:
        fast: Callable[..., int] = getattr(importlib.import_module("awscrt.checksums"), algorithm)
    except (ImportError, AttributeError):
        return table_step(algorithm)
    return lambda data, before: fast(data, before)


@cache
def _tables(polynomial: int) -> tuple[list[int], list[int]]:
    bytewise = []
    for value in range(256):
        for _ in range(8):
            value = (value >> 1) ^ (polynomial if value & 1 else 0)
        bytewise.append(value)
    pairwise = []
    for word in range(1 << 16):
        low = bytewise[word & 0xFF]
        pairwise.append(bytewise[(low ^ (word >> 8)) & 0xFF] ^ (low >> 8))
    return bytewise, pairwise
