"""A disk of a size that a test chooses, without a mount: what ``os.statvfs`` says of it depends only on what lies below
one directory. The real disk's free space changes with whatever runs beside the test.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

BLOCK_BYTES = 4096


class Room(NamedTuple):
    """What is asked of ``os.statvfs``."""

    f_frsize: int
    f_blocks: int
    f_bavail: int


class SimulatedDisk:
    """``place`` and all below it lie on a disk of ``capacity_bytes``. Only its answers are made up: nothing refuses a
    write beyond them."""

    def __init__(self, place: Path, capacity_bytes: int) -> None:
        self.place = place
        self.capacity_bytes = capacity_bytes
        self._real: Callable[[Any], Any] = os.statvfs

    def statvfs(self, path: Any) -> Any:
        """In place of ``os.statvfs``."""
        if isinstance(path, int) or not Path(os.fsdecode(path)).is_relative_to(self.place):
            return self._real(path)
        free = max(0, self.capacity_bytes - self._allocated())
        return Room(BLOCK_BYTES, self.capacity_bytes // BLOCK_BYTES, free // BLOCK_BYTES)

    def _allocated(self) -> int:
        # By inode: a body that gets its second name while we walk counts once, as on a disk.
        return sum({(status.st_dev, status.st_ino): status.st_blocks * 512 for status in self._below()}.values())

    def _below(self) -> Iterator[os.stat_result]:
        for folder, _, names in os.walk(self.place):
            for name in names:
                try:
                    yield os.lstat(os.path.join(folder, name))
                except FileNotFoundError:
                    continue  # removed or renamed meanwhile
