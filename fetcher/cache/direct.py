"""The way past the page cache: a second descriptor of a Partial's data, opened with O_DIRECT.

Where it helps was measured (docs/decisions/0022-writing-to-the-disk.md). Knows one file; which blocks go this way is
the caller's to say: none of what is read back soon.
"""

from __future__ import annotations

import os
import threading
from pathlib import Path

from fetcher import hashing
from fetcher.cache.mounts import file_system_type

FILE_SYSTEMS = frozenset({"ext4", "xfs"})
"""On btrfs, which sums up what it writes, it costs as much as the page cache and leaves an extent per block; tmpfs is
nothing but page cache; of others we know nothing."""
BYTES_MIN = 64 << 20
"""Smaller files go through the page cache: it holds them easily, and whoever reads them next finds them there."""
PREALLOCATED = frozenset({"ext4"})
"""Without delayed allocation each block gets an extent of its own here. XFS finds neighbours by itself."""


class Direct:
    """The descriptor, opened when it is first asked for. While it is asked for, the owner does not close it."""

    def __init__(self, path: Path, size: int) -> None:
        self._path = path
        self._size = size
        self.fd: int | None = None
        """As ``open`` has found it; None before."""
        self._opening = threading.Lock()
        """Looking for what is mounted takes longer than the owner's own lock may be held: the event loop takes that."""
        self._preallocates = False

    def open(self) -> int:
        """For writing whole pages; -1 where the file system has no such thing, or it does not help."""
        with self._opening:
            if self.fd is None:
                kind = file_system_type(self._path) if self._size >= BYTES_MIN else ""
                descriptor = self._opened() if kind in FILE_SYSTEMS else -1
                self._preallocates = descriptor >= 0 and kind in PREALLOCATED
                self.fd = descriptor
            return self.fd

    def _opened(self) -> int:
        flag = getattr(os, "O_DIRECT", 0)
        if not flag:
            return -1
        try:
            return os.open(self._path, os.O_WRONLY | os.O_NOFOLLOW | os.O_CLOEXEC | flag)
        except OSError:  # a stacked file system that has the name of one that can
            return -1

    def preallocate(self, offset: int, length: int) -> bool:
        """Allocate what is about to be written this way, where that helps; whether that was done. Raises OSError."""
        if self.fd is None or not self._preallocates:
            return False
        return hashing.preallocate(self.fd, length, offset=offset)

    def close(self) -> None:
        """May be called again; opens anew when it is asked for."""
        descriptor, self.fd = self.fd, None
        self._preallocates = False
        if descriptor is not None and descriptor >= 0:
            os.close(descriptor)
