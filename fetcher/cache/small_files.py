"""Where small contents are written before they are Blobs: one directory for many, made durable by one barrier.

Knows names and bytes; that they are verified, and when they may be named, is ``commit``'s.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from itertools import count
from types import TracebackType

from fetcher.cache import durable
from fetcher.cache.clearing import remove_tree
from fetcher.cache.layout import Layout, disk_errors

BODY_MODE = 0o444


class SmallStaging:
    """A staging directory, open from its making to ``close``, which no other call may overlap. Thread-safe."""

    def __init__(self, layout: Layout, owner_id: str) -> None:
        self.path = str(layout.staging(layout.partials, "small", owner_id))
        self._numbers = count()
        with disk_errors("create", self.path):
            os.mkdir(self.path, 0o700)
            self.folder = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)

    def __enter__(self) -> SmallStaging:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def write(self, contents: Sequence[bytes | bytearray | memoryview]) -> list[str]:
        """Write each as a file of its own, with its final mode; returns their names. Nothing is durable by this."""
        names = [f"{next(self._numbers):x}" for _ in contents]
        with disk_errors("write in", self.path):
            durable.write_files(self.folder, [os.fsencode(name) for name in names], contents, BODY_MODE)
        return names

    def sync(self, names: Sequence[str]) -> None:
        """Make these durable. Raises OSError."""
        durable.barrier([f"{self.path}/{name}" for name in names], self.path)

    def forget(self, names: Sequence[str]) -> None:
        """They have other names now, or nobody wants them."""
        durable.unlink_files(self.folder, [os.fsencode(name) for name in names])

    def close(self) -> None:
        """Remove what is left."""
        os.close(self.folder)
        with disk_errors("remove", self.path):
            remove_tree(self.path)
