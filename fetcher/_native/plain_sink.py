"""The block sink in plain Python: the readable twin of sink.pyx, and what remains of it without the compiled core.

Same names and signatures as sink.pyi, other cost: its threads need the GIL. Where blocks have no chaining values (plain
mode) it returns ``b""`` and journals nothing.
"""

from __future__ import annotations

import errno
import os
import struct
import threading
import zlib
from collections import deque
from contextlib import suppress
from dataclasses import dataclass
from operator import index
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Callable

    from typing_extensions import Buffer

BLOCK_BYTES: Final = 1 << 20
THREADS_MAX: Final = 64
STAGE_DONE: Final = 0
STAGE_DATA: Final = 1
STAGE_JOURNAL: Final = 2

_FILE_BYTES_MAX = (1 << 63) - 1
_KIND_BLOCK = 1
_RECORD = struct.Struct("<IIQ32s")
_CHECKED = struct.Struct("<IQ32s")


def preallocate(fd: int, size: int, *, offset: int = 0) -> bool:
    """Python knows posix_fallocate(3) only: it changes the size, and writes zeros where nothing can be allocated."""
    os.fstat(index(fd))
    if not 0 <= index(size) <= _FILE_BYTES_MAX:
        raise ValueError(f"size must be from 0 to 2**63 - 1, not {size}")
    if not 0 <= index(offset) <= _FILE_BYTES_MAX - size:
        raise ValueError(f"offset must be from 0 to 2**63 - 1 less the size, not {offset}")
    return size == 0


def _record(block: int, chaining_value: bytes) -> bytes:
    check = zlib.crc32(_CHECKED.pack(_KIND_BLOCK, block, chaining_value))
    return _RECORD.pack(_KIND_BLOCK, check, block, chaining_value)


def _write_all(fd: int, offset: int, data: bytes) -> None:
    done = 0
    while done < len(data):
        done += os.pwrite(fd, data[done:], offset + done)


@dataclass(slots=True)
class _Job:
    token: Any
    fd: int
    offset: int
    view: memoryview
    journal_fd: int
    journal_offset: int
    chaining_value: bytes = b""
    error: int = 0
    stage: int = STAGE_DATA

    def do(self, write_blocks: Callable[..., bytes]) -> None:
        try:
            value = write_blocks(self.fd, self.offset, self.view, block=BLOCK_BYTES)
            self.chaining_value = value
            if self.journal_fd >= 0 and value:
                self.stage = STAGE_JOURNAL
                _write_all(self.journal_fd, self.journal_offset, _record(self.offset // BLOCK_BYTES, value))
            self.stage = STAGE_DONE
        except OSError as error:
            self.error = error.errno or errno.EIO
        except MemoryError:  # whoever waits for the block is told, or would wait for ever
            self.error = errno.ENOMEM


class BlockSink:
    """See sink.pyi. Writes through the page cache only: ``direct_fd`` is a permission."""

    def __init__(self, threads: int, *, waiting: int = 0) -> None:
        if not 1 <= index(threads) <= THREADS_MAX:
            raise ValueError(f"threads must be from 1 to {THREADS_MAX}, not {threads}")
        if not 0 <= index(waiting) <= THREADS_MAX:
            raise ValueError(f"waiting must be from 0 to {THREADS_MAX}, not {waiting}")
        self._owner = os.getpid()
        self._state = _State()
        self._threads = [
            threading.Thread(target=_work, args=(self._state,), name="fetcher-sink", daemon=True)
            for _ in range(threads)
        ]
        for thread in self._threads:
            thread.start()

    def __del__(self) -> None:
        if hasattr(self, "_threads"):
            self.close()

    def fileno(self) -> int:
        if self._state.event_fd < 0:
            raise ValueError("this BlockSink is closed")
        return self._state.event_fd

    @property
    def pending(self) -> int:
        self._check_process()
        with self._state.changed:
            return self._state.pending

    def submit(
        self,
        token: Any,
        fd: int,
        offset: int,
        view: Buffer,
        journal_fd: int,
        journal_offset: int,
        *,
        direct_fd: int = -1,
    ) -> None:
        index(direct_fd)
        job = _Job(token, index(fd), index(offset), memoryview(view), index(journal_fd), index(journal_offset))
        try:
            self._check_process()
            self._check(job)
            state = self._state
            with state.changed:
                if state.closing:
                    raise ValueError("this BlockSink is closed")
                state.queued.append(job)
                state.pending += 1
                state.changed.notify()
        except BaseException:
            job.view.release()
            raise

    def completions(self) -> list[tuple[Any, bytes, int, int]]:
        self._check_process()
        state = self._state
        if state.event_fd >= 0:
            with suppress(BlockingIOError):
                os.eventfd_read(state.event_fd)
        with state.changed:
            done, state.done = state.done, []
            state.pending -= len(done)
        for job in done:
            job.view.release()
        return [(job.token, job.chaining_value, job.error, job.stage) for job in done]

    def close(self) -> None:
        if self._owner != os.getpid():
            return
        state = self._state
        with state.changed:
            state.closing = True
            state.changed.notify_all()
        for thread in self._threads:
            thread.join()
        with state.changed:
            event_fd, state.event_fd = state.event_fd, -1
        if event_fd >= 0:
            os.close(event_fd)

    def _check_process(self) -> None:
        if self._owner != os.getpid():
            raise RuntimeError("this BlockSink belongs to the process that made it, not to a child of it")

    def _check(self, job: _Job) -> None:
        if not 0 <= job.offset <= _FILE_BYTES_MAX - BLOCK_BYTES:
            raise ValueError(f"offset must be from 0 to 2**63 - 1 less a block, not {job.offset}")
        if job.offset % BLOCK_BYTES:
            raise ValueError(f"offset must be a multiple of the block, {job.offset} is not one of {BLOCK_BYTES}")
        if not 0 <= job.journal_offset <= _FILE_BYTES_MAX - BLOCK_BYTES:
            raise ValueError(f"journal_offset must be from 0 to 2**63 - 1 less a block, not {job.journal_offset}")
        if job.view.itemsize != 1:
            raise TypeError(f"data must be a buffer of single bytes, its items have {job.view.itemsize}")
        if not job.view.c_contiguous:
            raise BufferError("data must be contiguous")
        if not 0 < len(job.view) <= BLOCK_BYTES:
            raise ValueError(f"a block has from 1 to {BLOCK_BYTES} bytes, not {len(job.view)}")


class _State:
    """What a sink's threads know of it: not the sink itself, which would then never be let go of."""

    def __init__(self) -> None:
        self.changed = threading.Condition()
        self.queued: deque[_Job] = deque()
        self.done: list[_Job] = []
        self.pending = 0
        self.closing = False
        self.event_fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)


def _work(state: _State) -> None:
    from fetcher._native import write_blocks  # here: the switch imports this module

    while True:
        with state.changed:
            while not state.queued:
                if state.closing:
                    return
                state.changed.wait()
            job = state.queued.popleft()
        job.do(write_blocks)
        with state.changed:
            first = not state.done
            state.done.append(job)
            del job  # its token's last reference must not be ours: who knows what goes with it
        if first:
            os.eventfd_write(state.event_fd, 1)
