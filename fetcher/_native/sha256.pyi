"""Promises of the compiled SHA-256 and of its twins (pure_sha256.py, and plain.py over hashlib).

Buffers are contiguous and made of single bytes: bytes, bytearray, memoryview, mmap. Wrong values raise ValueError,
wrong types TypeError or BufferError, the kernel's refusals OSError with its errno. The GIL is dropped for 2 KiB and
more.

**Midstate.** What `export` gives and `load` takes: eight 32-bit words and the 64-bit number of bytes taken, all
little-endian, then the `length % 64` bytes that do not fill a message of FIPS 180-4 yet: 40 bytes where the length is a
multiple of 64. It says all about the bytes so far, so it is as secret as they are.
"""

from typing import ClassVar, Final, Self

from typing_extensions import Buffer

STATE_BYTES: Final = 40
"""Of a midstate at a multiple of 64 bytes."""

def simd() -> str:
    """The kernel in use: "sha-ni" (x86-64), "armv8" or "portable"."""

def simd_names() -> tuple[str, ...]:
    """The kernels this machine can run, fastest first."""

def set_simd(name: str) -> None:
    """Use another kernel from now on, in every thread."""

class Sha256:
    """One SHA-256 under way. A second thread that calls into one at work gets a RuntimeError, the hash is unharmed."""

    can_export: ClassVar[bool]
    """Whether export() and load() work in this build; where not, a resumed file is hashed again from its start."""

    def __init__(self) -> None: ...
    def update(self, data: Buffer, /) -> None: ...
    def update_file(self, fd: int, offset: int, length: int) -> int:
        """Take `length` bytes of a file from `offset` on; returns how many there were, less only where the file ends.

        The file position is left alone. On OSError the hash stands behind what could be read: see tell().
        """

    def digest(self) -> bytes:
        """Digest of the bytes so far; more may follow."""

    def hexdigest(self) -> str:
        """digest() in lower-case hex."""

    def tell(self) -> int:
        """Bytes taken so far: the offset of the next byte to feed."""

    def export(self) -> bytes:
        """The midstate, for a journal. NotImplementedError where `can_export` is false."""

    @classmethod
    def load(cls, state: Buffer) -> Self:
        """A hash that goes on where the exported one was."""

def sha256_pair(a: Sha256, data_a: Buffer, b: Sha256, data_b: Buffer) -> None:
    """Feed two hashes at once, of any lengths: where the CPU can interleave them, in less than the time of both."""

def sha256_pair_files(a: Sha256, fd_a: int, offset_a: int, b: Sha256, fd_b: int, offset_b: int, length: int) -> int:
    """`length` bytes of each file into its hash, side by side; returns how many each took.

    Less only where one of the files ends: both stop there. On OSError both stand equally far: see tell().
    """
