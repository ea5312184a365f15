"""SHA-256 in readable Python, section by section as FIPS 180-4 has it: the twin of sha256.pyx, same names and promises.

For tests and readers. It takes about a second for 300 KB, and nothing chooses it at run time.
"""

from __future__ import annotations

import os
import struct
from operator import index
from typing import TYPE_CHECKING, ClassVar, Self

from fetcher._native.pure import FILE_BYTES_MAX, bytes_of, set_simd, simd, simd_names

if TYPE_CHECKING:
    from typing_extensions import Buffer

__all__ = ["STATE_BYTES", "Sha256", "set_simd", "sha256_pair", "sha256_pair_files", "simd", "simd_names"]

STATE_BYTES = 40
MESSAGE_BYTES = 64
LENGTH_MAX = (1 << 61) - 1
WORD = 0xFFFFFFFF


# --- 4.1.2  Functions ------------------------------------------------------------------------------------------------


def rotate_right(x: int, bits: int) -> int:
    return (x >> bits | x << 32 - bits) & WORD


def choose(x: int, y: int, z: int) -> int:
    return x & y ^ ~x & z


def majority(x: int, y: int, z: int) -> int:
    return x & y ^ x & z ^ y & z


def big_sigma_0(x: int) -> int:
    return rotate_right(x, 2) ^ rotate_right(x, 13) ^ rotate_right(x, 22)


def big_sigma_1(x: int) -> int:
    return rotate_right(x, 6) ^ rotate_right(x, 11) ^ rotate_right(x, 25)


def small_sigma_0(x: int) -> int:
    return rotate_right(x, 7) ^ rotate_right(x, 18) ^ x >> 3


def small_sigma_1(x: int) -> int:
    return rotate_right(x, 17) ^ rotate_right(x, 19) ^ x >> 10


# --- 4.2.2 and 5.3.3  Constants: fractions of roots of primes --------------------------------------------------------


def root_fraction(number: int, degree: int) -> int:
    """First 32 bits of the fraction of the root of ``number``, by bisection over whole numbers."""
    scaled = number << 32 * degree
    low, high = 0, 1 << 40
    while low < high:
        middle = (low + high + 1) // 2
        if middle**degree <= scaled:
            low = middle
        else:
            high = middle - 1
    return low & WORD


PRIMES = [number for number in range(2, 312) if all(number % divisor for divisor in range(2, number))]
CONSTANTS = tuple(root_fraction(prime, 3) for prime in PRIMES)
INITIAL = tuple(root_fraction(prime, 2) for prime in PRIMES[:8])


# --- 5.1.1  Padding --------------------------------------------------------------------------------------------------


def padding(length: int) -> bytes:
    """What follows the last of ``length`` bytes."""
    zeros = (MESSAGE_BYTES - 9 - length) % MESSAGE_BYTES
    return b"\x80" + bytes(zeros) + struct.pack(">Q", length * 8)


# --- 6.2.2  Computation ----------------------------------------------------------------------------------------------


def compress(words: tuple[int, ...], message: bytes) -> tuple[int, ...]:
    w = list(struct.unpack(">16I", message))
    for t in range(16, 64):
        w.append((small_sigma_1(w[t - 2]) + w[t - 7] + small_sigma_0(w[t - 15]) + w[t - 16]) & WORD)
    a, b, c, d, e, f, g, h = words
    for t in range(64):
        t1 = h + big_sigma_1(e) + choose(e, f, g) + CONSTANTS[t] + w[t]
        t2 = big_sigma_0(a) + majority(a, b, c)
        a, b, c, d, e, f, g, h = (t1 + t2) & WORD, a, b, c, (d + t1) & WORD, e, f, g
    return tuple((old + new) & WORD for old, new in zip(words, (a, b, c, d, e, f, g, h), strict=True))


# --- The functions of the compiled core ------------------------------------------------------------------------------


def check_range(offset: int, length: int) -> None:
    if not 0 <= index(length) <= FILE_BYTES_MAX:
        raise ValueError(f"length must be from 0 to 2**63 - 1, not {length}")
    if not 0 <= index(offset) <= FILE_BYTES_MAX - length:
        raise ValueError(f"offset must be from 0 to 2**63 - 1 less the length, not {offset}")


class Sha256:
    can_export: ClassVar[bool] = True

    def __init__(self) -> None:
        self._words = INITIAL
        self._length = 0
        self._tail = b""

    def update(self, data: Buffer, /) -> None:
        content = bytes_of(data)
        self._check_room(len(content))
        self._length += len(content)
        content = self._tail + content
        whole = len(content) - len(content) % MESSAGE_BYTES
        for at in range(0, whole, MESSAGE_BYTES):
            self._words = compress(self._words, content[at : at + MESSAGE_BYTES])
        self._tail = content[whole:]

    def update_file(self, fd: int, offset: int, length: int) -> int:
        check_range(offset, length)
        self._check_room(length)
        content = os.pread(fd, length, offset)
        self.update(content)
        return len(content)

    def digest(self) -> bytes:
        words, content = self._words, self._tail + padding(self._length)
        for at in range(0, len(content), MESSAGE_BYTES):
            words = compress(words, content[at : at + MESSAGE_BYTES])
        return struct.pack(">8I", *words)

    def hexdigest(self) -> str:
        return self.digest().hex()

    def tell(self) -> int:
        return self._length

    def export(self) -> bytes:
        return struct.pack("<8IQ", *self._words, self._length) + self._tail

    @classmethod
    def load(cls, state: Buffer) -> Self:
        raw = bytes(memoryview(state))
        if len(raw) < STATE_BYTES:
            raise ValueError(f"a midstate has {STATE_BYTES} bytes or more, not {len(raw)}")
        *words, length = struct.unpack_from("<8IQ", raw)
        if length > LENGTH_MAX or len(raw) != STATE_BYTES + length % MESSAGE_BYTES:
            raise ValueError(f"{len(raw)} bytes are no midstate after {length} bytes")
        loaded = cls()
        loaded._words, loaded._length, loaded._tail = tuple(words), length, raw[STATE_BYTES:]
        return loaded

    def _check_room(self, more: int) -> None:
        if more > LENGTH_MAX - self._length:
            raise ValueError("SHA-256 takes less than 2**61 bytes")


def sha256_pair(a: Sha256, data_a: Buffer, b: Sha256, data_b: Buffer) -> None:
    if a is b:
        raise ValueError("a pair needs two hashes: the bytes of one have an order")
    content_a, content_b = bytes_of(data_a), bytes_of(data_b)
    a._check_room(len(content_a))
    b._check_room(len(content_b))
    a.update(content_a)
    b.update(content_b)


def sha256_pair_files(a: Sha256, fd_a: int, offset_a: int, b: Sha256, fd_b: int, offset_b: int, length: int) -> int:
    check_range(offset_a, length)
    check_range(offset_b, length)
    content_a, content_b = os.pread(fd_a, length, offset_a), os.pread(fd_b, length, offset_b)
    common = min(len(content_a), len(content_b))
    sha256_pair(a, content_a[:common], b, content_b[:common])
    return common
