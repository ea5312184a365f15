"""Receive buffers: page-aligned slabs of one block, reused for the life of the engine.

Never a large ``bytearray``: it starts 16 bytes into a page, and the kernel's copy into it then costs about double on
common CPUs (4 KiB aliasing). Anonymous maps start on a page. Slabs are reserved by admission, so bodies take ``2 x
connections_max`` MiB; beside them there are only small files that wait for their batch (``small.KEPT_BYTES_MAX``).
"""

from __future__ import annotations

import mmap

from fetcher.plan.tree import BLOCK_BYTES


class Slab:
    """One block's worth of page-aligned memory."""

    __slots__ = ("_map", "view")

    def __init__(self) -> None:
        self._map = mmap.mmap(-1, BLOCK_BYTES)
        self.view = memoryview(self._map)

    def close(self) -> None:
        try:
            self.view.release()
            self._map.close()
        except BufferError:
            # The traceback of an error under way still shows a slice of it; the map goes with that.
            pass


class SlabPool:
    """Slabs by pairs: a connection fills one while the disk has the other. A small file needs one, or none."""

    def __init__(self) -> None:
        self._free: list[Slab] = []
        self.made_count = 0

    def take_pair(self) -> tuple[Slab, Slab]:
        """Two slabs, from the pool or new. The caller was admitted, which bounds how many there can be."""
        return self.take(), self.take()

    def take(self) -> Slab:
        """One slab, for what is not larger."""
        if self._free:
            return self._free.pop()
        self.made_count += 1
        return Slab()

    def give_back(self, slabs: tuple[Slab, ...]) -> None:
        """Only when no worker call reads them any more."""
        self._free.extend(slabs)

    def close(self) -> None:
        while self._free:
            self._free.pop().close()
