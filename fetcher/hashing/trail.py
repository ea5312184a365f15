"""Digests of a content whose blocks come in any order, of which no block is kept: they trail what is written.

A digest of the whole goes on as far as there is no hole. One of parts (composite, see ``in_order``) has a run for each
part, and those go on by themselves. Knows offsets, sizes and file descriptors; which bytes are there it is told.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

from fetcher._native import Sha256
from fetcher.errors import InternalError
from fetcher.hashing.in_order import Hasher, start
from fetcher.model.digest import Digest

READ_BYTES: Final = 256 << 10
"""Read at a time: hashed before it leaves a common L2."""
PARTS_AHEAD: Final = 64
"""Parts behind the lowest unfinished one that are looked at for bytes to read; they come more or less in order."""


class Run:
    """Consecutive bytes of a content that one hasher takes in order: all of them, or one part of an upload."""

    __slots__ = ("busy", "hasher", "position", "stop")

    def __init__(self, hasher: Hasher, position: int, stop: int) -> None:
        self.hasher = hasher
        self.position = position
        """Offset in the content of the next byte to feed."""
        self.stop = stop
        self.busy = False
        """Somebody feeds it."""

    @property
    def ended(self) -> bool:
        return self.position == self.stop

    @property
    def sha256(self) -> Sha256 | None:
        """The hasher, if it is one of which two can be fed at a time."""
        return self.hasher if isinstance(self.hasher, Sha256) else None

    def feed(self, fd: int, length: int) -> int:
        """Take the next ``length`` bytes of a file; how many there were, less only at its end.

        A worker call: holds no lock of Python's while it hashes.
        """
        before = self.position
        if self.sha256 is not None:
            with self.followed():
                self.sha256.update_file(fd, before, length)
            return self.position - before
        buffer = memoryview(bytearray(min(READ_BYTES, length)))
        while (left := before + length - self.position) > 0:
            count = os.preadv(fd, [buffer[:left]], self.position)
            if not count:
                break
            self.hasher.update(buffer[:count])
            self.position += count
        return self.position - before

    @contextmanager
    def followed(self) -> Iterator[None]:
        """Around whatever feeds ``sha256``: its place is right afterwards, also where reading failed on the way."""
        assert self.sha256 is not None
        first = self.position - self.sha256.tell()
        try:
            yield
        finally:
            self.position = first + self.sha256.tell()


class Trail:
    """One digest of a content of ``size`` bytes, of the whole or of parts."""

    def __init__(self, algorithm: str, size: int, *, part_bytes: int = 0) -> None:
        if size <= 0:
            raise InternalError("a content of no bytes has nothing to follow")
        self.name = f"{algorithm}/{part_bytes}" if part_bytes else algorithm
        """As ``Digest.name``."""
        self._algorithm = algorithm
        self._size = size
        self._composite = part_bytes > 0
        self._part_bytes = part_bytes or size
        self._count = -(-size // self._part_bytes)
        self._lowest = 0
        """The first part that has not ended."""
        self._runs: dict[int, Run] = {}
        """Begun and not ended."""
        self._digests: dict[int, bytes] = {}
        """Of the parts that have ended."""

    @classmethod
    def like(cls, claim: Digest, size: int) -> Trail:
        """One that can be compared with ``claim``."""
        return cls(claim.algorithm, size, part_bytes=claim.part_bytes)

    def __repr__(self) -> str:
        return f"<Trail {self.name}, {len(self._digests)} of {self._count} runs, all up to {self.frontier}>"

    @property
    def runs_max(self) -> int:
        """How many runs can go on at the same time, at most."""
        return self._count

    @property
    def done(self) -> bool:
        return self._lowest == self._count

    @property
    def frontier(self) -> int:
        """Bytes from the start that are all digested."""
        if self.done:
            return self._size
        run = self._runs.get(self._lowest)
        return run.position if run is not None else self._lowest * self._part_bytes

    def next_run(self, is_there: Callable[[int], bool]) -> Run | None:
        """The lowest run that nobody feeds and whose next byte ``is_there``; it is begun if it was not."""
        for part in range(self._lowest, min(self._count, self._lowest + PARTS_AHEAD)):
            if part in self._digests:
                continue
            run = self._runs.get(part)
            if run is None:
                if is_there(part * self._part_bytes):
                    return self._begin(part)
            elif not run.busy and is_there(run.position):
                return run
        return None

    def _begin(self, part: int) -> Run:
        first, stop = part * self._part_bytes, min((part + 1) * self._part_bytes, self._size)
        run = self._runs[part] = Run(start(self._algorithm, stop - first), first, stop)
        return run

    def fed(self, run: Run) -> None:
        """A run was fed; if it has ended, its digest is taken and the run forgotten."""
        if not run.ended:
            return
        part = (run.stop - 1) // self._part_bytes
        self._digests[part] = run.hasher.digest()
        del self._runs[part]
        while self._lowest in self._digests:
            self._lowest += 1

    def hexdigest(self) -> str:
        """Lower-case hex; all runs must have ended."""
        if not self.done:
            raise InternalError(f"{self!r} is not at its end")
        if not self._composite:
            return self._digests[0].hex()
        outer = start(self._algorithm, 0)
        outer.update(b"".join(self._digests[part] for part in range(self._count)))
        return outer.hexdigest()

    # -- midstates: only a SHA-256 of the whole has one ---------------------------------------------------------------

    @property
    def saves(self) -> bool:
        """Whether it can be saved and gone on with by another process."""
        return not self._composite and self._algorithm == "sha256" and Sha256.can_export

    def midstate(self) -> bytes | None:
        """What ``resume`` takes, of the bytes up to ``frontier``; None before the first and after the last one."""
        run = self._runs.get(0)
        return run.sha256.export() if self.saves and run is not None and run.sha256 is not None else None

    def resume(self, midstate: bytes) -> None:
        """Go on from a midstate, before anything was fed."""
        hasher = Sha256.load(midstate)
        if not self.saves or self._runs or self._digests or hasher.tell() >= self._size:
            raise InternalError(f"{self!r} can't go on from {hasher.tell()}")
        self._runs[0] = Run(hasher, hasher.tell(), self._size)
