"""SHA-256 in order: the names an in-order follower uses, over hashlib for now.

hashlib's state can't be saved and it does one stream at a time; both are known here as facts to ask for, so that a core
with saveable midstates and interleaved pairs can come behind the same names.
"""

from __future__ import annotations

import hashlib
import threading
from typing import TYPE_CHECKING, ClassVar

if TYPE_CHECKING:
    from typing_extensions import Buffer


class Sha256:
    """One SHA-256 under way. A second thread that calls update() on one at work gets a RuntimeError."""

    can_export: ClassVar[bool] = False
    """Whether export() and load() work in this build; where not, a resumed file is hashed again from its start."""

    __slots__ = ("_busy", "_hasher", "_length")

    def __init__(self) -> None:
        self._hasher = hashlib.sha256()
        self._length = 0
        self._busy = threading.Lock()

    def update(self, data: Buffer) -> None:
        """Take all of a contiguous buffer of single bytes; without the GIL from 2 KiB up."""
        with memoryview(data) as view:
            if view.itemsize != 1:
                raise TypeError(f"data must be a buffer of single bytes, its items have {view.itemsize}")
            if not self._busy.acquire(blocking=False):
                raise RuntimeError("this Sha256 is at work in another thread")
            try:
                self._hasher.update(view)
                self._length += view.nbytes
            finally:
                self._busy.release()

    def digest(self) -> bytes:
        """Digest of the bytes so far; more may follow."""
        return self._hasher.digest()

    def hexdigest(self) -> str:
        """digest() in lower-case hex."""
        return self._hasher.hexdigest()

    def tell(self) -> int:
        """Bytes taken so far: the offset of the next byte to feed."""
        return self._length

    def export(self) -> bytes:
        """The midstate, for a journal. Ask ``can_export`` first."""
        raise NotImplementedError("this build's SHA-256 can't save its state: ask Sha256.can_export first")

    @classmethod
    def load(cls, state: Buffer) -> Sha256:
        """A hasher that goes on where the exported one was."""
        raise NotImplementedError("this build's SHA-256 can't load a saved state: ask Sha256.can_export first")


def sha256_pair(a: Sha256, a_data: Buffer, b: Sha256, b_data: Buffer) -> None:
    """Feed two hashers at once: where the CPU can interleave them, in little more than the time of one."""
    if a is b:
        raise ValueError("a pair needs two hashers: one hasher's bytes have an order")
    a.update(a_data)
    b.update(b_data)
