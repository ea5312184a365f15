"""Claimed blocks on their way to the disk: a native sink hashes, writes and journals them, and tells when it has.

The event loop hands a block over and hears of its end; in between no lock of Python's is taken. A block is a call in
flight of its Partial and a piece of what its job has drawn, until it is booked here.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from typing import TYPE_CHECKING

from fetcher import hashing
from fetcher.engine.buffers import Slab
from fetcher.errors import FetcherError, InternalError
from fetcher.plan.tree import BLOCK_BYTES

if TYPE_CHECKING:
    from fetcher.engine.jobs import FileJob

THREADS_MAX = 8
"""And one for each two cores: writers of one file wait for each other, and burn a core while they do."""
Written = Callable[[int, Slab, bool, FetcherError | None], None]
"""Block, slab, whether its chaining value is journalled, and what went wrong: the block is not written then."""

Token = tuple["FileJob", int, Slab, int, Written]
"""What comes back with a block: its job and number, the slab, how much of it, and who is told."""


class Disk:
    """The sink of one engine; used in its event loop only."""

    def __init__(self, threads: int | None = None) -> None:
        threads = threads or max(1, min(THREADS_MAX, (os.cpu_count() or 2) // 2))
        # For each that works one that waits for the disk: that is to have its next block while one is hashed.
        self._sink = hashing.BlockSink(threads, waiting=threads)
        self._loop: asyncio.AbstractEventLoop | None = None

    def __repr__(self) -> str:
        return f"<Disk {self._sink.pending} blocks under way>"

    def write(self, job: FileJob, block: int, slab: Slab, length: int, written: Written) -> None:
        """Hash and write a block that is claimed and drawn; ``written`` is called on the loop when that is over. The
        slab is the sink's until then.

        Raises CacheError if the Partial takes no more blocks; nothing is under way then.
        """
        if job.partial is None:
            raise InternalError(f"{job.entry.path} has no Partial to write to")
        if self._loop is None:
            self._loop = asyncio.get_running_loop()
            self._loop.add_reader(self._sink.fileno(), self._collect)
        view = slab.view[:length]
        if job.crcs is not None:
            job.crcs.add(block, view)  # at 10 to 20 GB/s: less than what handing it to somebody costs
        fd, direct_fd, journal_fd, slot = job.partial.begin_block(block, direct=job.direct)
        token: Token = (job, block, slab, length, written)
        try:
            self._sink.submit(token, fd, block * BLOCK_BYTES, view, journal_fd, slot, direct_fd=direct_fd)
        except BaseException:
            job.partial.fail_block(block)
            raise

    def _collect(self) -> None:
        fault: Exception | None = None
        for token, value, number, _ in self._sink.completions():
            try:
                _book(token, value, number)
            except Exception as error:  # a bug of ours; the blocks behind it are booked all the same
                fault = fault or error
        if fault is not None:
            raise fault

    def close(self) -> None:
        """No block may be under way."""
        if self._loop is not None:
            self._loop.remove_reader(self._sink.fileno())
            self._loop = None
        self._sink.close()


def _book(token: Token, value: bytes, number: int) -> None:
    """A block is over: ``number`` is what errno says."""
    job, block, slab, length, written = token
    assert job.partial is not None
    job.wrote(length)
    if number:
        job.partial.fail_block(block)
        written(block, slab, False, job.partial.block_error(number))
    else:
        job.partial.end_block(block, value)
        written(block, slab, bool(value), None)
