"""Stand-ins for an answer's body, a Partial and a run's books, all scripted; and the jobs to use them with."""

from __future__ import annotations

import asyncio
import errno
import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, cast

from fetcher.engine.jobs import Active, FileJob
from fetcher.errors import CacheError, FetcherError, NoSpaceError, TransportError
from fetcher.model.asker import Asker
from fetcher.model.digest import Digest
from fetcher.model.manifest import FileEntry, Manifest
from fetcher.net.transport import Receiver
from fetcher.plan.transfer import Event, Part, Transfer
from fetcher.plan.tree import BLOCK_BYTES, block_count
from fetcher.plan.watch import Pulse


def paint(size: int, shade: int = 0) -> bytes:
    """Bytes whose place can be told from their value: the period is prime to every power of two."""
    period = bytes((position + shade) % 251 for position in range(251))
    return (period * (size // 251 + 1))[:size]


def cut(data: bytes, lengths: Iterable[int]) -> Iterator[bytes]:
    """``data`` in pieces of ``lengths``; what is left over comes as the last piece."""
    position = 0
    for length in lengths:
        if position >= len(data):
            return
        yield data[position : position + length]
        position += length
    if position < len(data):
        yield data[position:]


class FakeResponse:
    """A body in pieces, as they are given: an exception among them is raised in its turn. Copies each piece into the
    receiver's memory, as the general transport does."""

    status = 206
    url = "https://cdn.example/file"
    headers: Mapping[str, str] = {}
    content_encoding: str | None = None

    def __init__(self, pieces: Iterable[bytes | memoryview | Exception], content_length: int | None = None) -> None:
        self._pieces = iter(pieces)
        self.content_length = content_length
        self.aborted = False
        self.receiver: Receiver | None = None
        self.rooms: list[int] = []
        """Lengths of the buffers that the receiver gave."""
        self._room = asyncio.Event()

    async def read_some(self, limit: int) -> bytes | memoryview:
        await asyncio.sleep(0)
        if self.aborted:
            raise TransportError("aborted")
        piece = next(self._pieces, b"")
        if isinstance(piece, Exception):
            raise piece
        return piece

    async def receive(self, receiver: Receiver) -> None:
        self.receiver = receiver
        while piece := await self.read_some(1 << 30):
            position = 0
            while position < len(piece):
                room = receiver.get_buffer()
                if room is None:
                    await self._room.wait()
                    self._room.clear()
                    if self.aborted:
                        raise TransportError("aborted")
                    continue
                self.rooms.append(len(room))
                count = min(len(room), len(piece) - position)
                room[:count] = piece[position : position + count]
                position += count
                receiver.buffer_updated(count)

    def resume(self) -> None:
        self._room.set()

    async def read_all(self, bytes_max: int) -> bytes:
        raise NotImplementedError

    async def release(self) -> None:
        pass

    def abort(self) -> None:
        self.aborted = True
        self._room.set()


class PushedResponse(FakeResponse):
    """The same body, pushed from the event loop as it comes in: buffers are asked for between two reads and where the
    receiver says that it has room, as the transport of bodies does."""

    _direct: memoryview | None = None
    _over: asyncio.Future[None] | None = None
    _left: memoryview = memoryview(b"")

    async def receive(self, receiver: Receiver) -> None:
        self.receiver = receiver
        self._over = asyncio.get_running_loop().create_future()
        try:
            if not self._next():
                return
            self._look_for_room()
            await self._over
        finally:
            self.receiver = self._direct = None

    def _next(self) -> bool:
        """Whether there is something to push."""
        if not self._left:
            piece = next(self._pieces, b"")
            if isinstance(piece, Exception):
                raise piece
            self._left = memoryview(piece)
        return bool(self._left)

    def _look_for_room(self) -> None:
        assert self.receiver is not None
        if self._direct is not None:
            return
        try:
            self._direct = self.receiver.get_buffer()
        except Exception as error:
            self._end(error)
            return
        if self._direct is not None:
            self.rooms.append(len(self._direct))
            asyncio.get_running_loop().call_soon(self._push)

    def _push(self) -> None:
        room, self._direct = self._direct, None
        if room is None or self.receiver is None or self.aborted:
            return
        count = min(len(room), len(self._left))
        room[:count] = self._left[:count]
        self._left = self._left[count:]
        try:
            self.receiver.buffer_updated(count)
            more = self._next()
        except Exception as error:
            self._end(error)
            return
        if more and not self.aborted:
            self._look_for_room()
        else:
            self._end(None)

    def _end(self, error: Exception | None) -> None:
        if self._over is None or self._over.done():
            return
        if error is None:
            self._over.set_result(None)
        else:
            self._over.set_exception(error)

    def resume(self) -> None:
        if self.receiver is not None and self._over is not None and not self._over.done():
            self._look_for_room()

    def abort(self) -> None:
        self.aborted = True
        self._end(TransportError("aborted"))


RESPONSES: Mapping[str, type[FakeResponse]] = {"copied": FakeResponse, "pushed": PushedResponse}


class FakePartial:
    """Takes blocks like a Partial, into files that have no name; counts what is under way."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.writes: list[int] = []
        """Blocks that are written, in the order in which that was told."""
        self.in_flight = 0
        self.in_flight_most = 0
        self.refused: Exception | None = None
        """Raised for the next block that is begun."""
        self._fd = os.memfd_create("data")
        self._journal = os.memfd_create("journal")
        os.ftruncate(self._fd, size)

    def __del__(self) -> None:
        os.close(self._fd)
        os.close(self._journal)

    @property
    def data(self) -> bytes:
        return os.pread(self._fd, self.size, 0)

    def begin_block(self, block: int, *, direct: bool = False) -> tuple[int, int, int, int]:
        assert 0 <= block < block_count(self.size)
        if self.refused is not None:
            raise self.refused
        self.in_flight += 1
        self.in_flight_most = max(self.in_flight_most, self.in_flight)
        return self._fd, -1, self._journal, 48 * block

    def end_block(self, block: int, value: bytes) -> None:
        self.in_flight -= 1
        self.writes.append(block)

    def fail_block(self, block: int) -> None:
        self.in_flight -= 1

    def block_error(self, number: int) -> FetcherError:
        return NoSpaceError("the disk is full") if number == errno.ENOSPC else CacheError(os.strerror(number))


class ScriptedSink:
    """``hashing.BlockSink``, slow or broken as it is told."""

    def __init__(self, *, slow_s: float = 0.0, gate: threading.Event | None = None) -> None:
        self.errors: dict[int, int] = {}
        """Block → errno of its next write."""
        self.entered = threading.Event()
        """Some write has begun."""
        self._slow_s = slow_s
        self._gate = gate
        self._lock = threading.Lock()
        self._done: list[tuple[Any, bytes, int, int]] = []
        self._event = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._threads = ThreadPoolExecutor(4, thread_name_prefix="fetcher-scripted")
        self.pending = 0

    def fileno(self) -> int:
        return self._event

    def submit(
        self, token: Any, fd: int, offset: int, view: memoryview, journal_fd: int, slot: int, *, direct_fd: int = -1
    ) -> None:
        self.pending += 1
        self._threads.submit(self._do, token, fd, offset, view)

    def _do(self, token: Any, fd: int, offset: int, view: memoryview) -> None:
        self.entered.set()
        time.sleep(self._slow_s)
        assert self._gate is None or self._gate.wait(30)
        # Read only now: whoever filled the slab again meanwhile is found out.
        number = self.errors.pop(offset // BLOCK_BYTES, 0)
        if not number:
            os.pwrite(fd, view, offset)
        with self._lock:
            self._done.append((token, b"" if number else b"\1" * 32, number, 1 if number else 0))
        os.eventfd_write(self._event, 1)

    def completions(self) -> list[tuple[Any, bytes, int, int]]:
        with suppress(BlockingIOError):
            os.eventfd_read(self._event)
        with self._lock:
            done, self._done = self._done, []
        self.pending -= len(done)
        return done

    def close(self) -> None:
        self._threads.shutdown()
        os.close(self._event)


class Drawn:
    """What a reservation knows: bytes drawn are written or given back, and none is written before it is drawn."""

    def __init__(self, job: FileJob, *, slow_s: Callable[[], float] = lambda: 0.0, bytes_max: int = 1 << 60) -> None:
        job.draw, job.wrote, job.undraw = self.draw, self.wrote, self.undraw
        self.draws: list[int] = []
        self.written = 0
        self.left = bytes_max
        self.in_flight = 0
        self._slow_s = slow_s

    def draw(self, count: int) -> None:
        assert threading.current_thread() is not threading.main_thread(), "it may have to ask the index"
        time.sleep(self._slow_s())
        if count > self.left:
            raise NoSpaceError("nothing is left of what was reserved")
        self.left -= count
        self.in_flight += count
        self.draws.append(count)

    def wrote(self, count: int) -> None:
        self.in_flight -= count
        self.written += count
        assert self.in_flight >= 0, "more is written than was drawn"

    def undraw(self, count: int) -> None:
        self.in_flight -= count
        self.left += count
        assert self.in_flight >= 0, "more is given back than was drawn"


@dataclass
class FakeMeter:
    """What a run would write into its books."""

    received_bytes: int = 0
    blocks: list[tuple[int, int]] = field(default_factory=list)
    """Bytes of a written block, and bytes written in all at that moment."""
    owing: Callable[[int], float] | None = None
    """A rate limit: seconds to wait for so many bytes more."""
    paid_bytes: int = 0
    full: bool = False
    """Too much is not on the disk for good."""
    looks: list[Callable[[], None]] = field(default_factory=list)
    """To be called when that has changed."""
    left_alone: bool = False
    """Nothing is given up for being slow."""

    def received(self, active: Active, count: int) -> None:
        active.pulse.received(count, 0.0)
        self.received_bytes += count

    def block_written(self, job: FileJob, byte_count: int) -> None:
        self.blocks.append((byte_count, job.transfer.bytes_written))

    def owed_s(self, active: Active, count: int) -> float | None:
        self.paid_bytes += count
        return None if self.owing is None else self.owing(count)

    def has_room(self, job: FileJob) -> bool:
        return not self.full

    def when_room(self, look: Callable[[], None]) -> None:
        self.looks.append(look)

    def is_left_alone(self, active: Active) -> bool:
        return self.left_alone

    def ease(self) -> None:
        """There may be room again."""
        looks, self.looks = self.looks, []
        for look in looks:
            look()


def a_job(size: int, *, partial: FakePartial | None = None, part_bytes: int = 4 * BLOCK_BYTES) -> FileJob:
    """A job under way, of a file of ``size`` bytes."""
    entry = FileEntry("model.safetensors", size, Digest("sha256", "0" * 64))
    transfer = Transfer(size, part_bytes=part_bytes, window_bytes=None)
    transfer.on(Event.BEGIN)
    return FileJob(
        content_id="c" * 64,
        entry=entry,
        manifest=Manifest("hf", "https://hub.example:443", "models/acme/tiny", "f" * 40, False, (entry,)),
        asker=Asker("job"),
        manifest_digest="d" * 64,
        principal=None,
        asked=None,
        resource="hf://acme/tiny@main",
        source=cast(Any, None),
        transfer=transfer,
        mine=True,
        partial=cast(Any, partial),
    )


def a_part(job: FileJob) -> Part:
    """The job's next part; there has to be one."""
    part = job.transfer.next_part()
    assert part is not None
    return part


def an_active(part: Part | None) -> Active:
    return Active(part, Pulse(0.0))


def blocks_of(size: int) -> range:
    return range(block_count(size))
