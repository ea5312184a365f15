"""Stand-ins for an answer's body, a Partial and a run's books, all scripted; and the jobs to use them with."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, cast

from fetcher.engine.jobs import Active, FileJob
from fetcher.model.asker import Asker
from fetcher.model.digest import Digest
from fetcher.model.manifest import FileEntry, Manifest
from fetcher.plan.transfer import Event, Part, Transfer
from fetcher.plan.tree import BLOCK_BYTES, block_count, block_length
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
    """A body in pieces, as they are given: an exception among them is raised in its turn."""

    status = 206
    url = "https://cdn.example/file"
    headers: Mapping[str, str] = {}
    content_length: int | None = None
    content_encoding: str | None = None

    def __init__(self, pieces: Iterable[bytes | memoryview | Exception]) -> None:
        self._pieces = iter(pieces)
        self.aborted = False

    async def read_some(self, limit: int) -> bytes | memoryview:
        piece = next(self._pieces, b"")
        if isinstance(piece, Exception):
            raise piece
        return piece

    async def read_all(self, bytes_max: int) -> bytes:
        raise NotImplementedError

    async def release(self) -> None:
        pass

    def abort(self) -> None:
        self.aborted = True


class FakePartial:
    """Takes blocks like a Partial; counts the calls, and can be slow or broken."""

    def __init__(self, size: int, *, slow_s: float = 0.0, gate: threading.Event | None = None) -> None:
        self.data = bytearray(size)
        self.writes: list[int] = []
        self.in_flight = 0
        self.in_flight_most = 0
        self.entered = threading.Event()
        self.errors: dict[int, Exception] = {}
        """Block → what its next write raises."""
        self._slow_s = slow_s
        self._gate = gate
        self._lock = threading.Lock()

    def write_block(self, block: int, data: memoryview) -> bytes:
        with self._lock:
            self.in_flight += 1
            self.in_flight_most = max(self.in_flight_most, self.in_flight)
        self.entered.set()
        try:
            if self._slow_s:
                time.sleep(self._slow_s)
            if self._gate is not None:
                assert self._gate.wait(30)
            if block in self.errors:
                raise self.errors.pop(block)
            assert len(data) == block_length(len(self.data), block)
            # Read only now: whoever filled the slab again meanwhile is found out.
            start = block * BLOCK_BYTES
            self.data[start : start + len(data)] = data
            with self._lock:
                self.writes.append(block)
            return b"\1" * 32
        finally:
            with self._lock:
                self.in_flight -= 1


@dataclass
class FakeMeter:
    """What a run would write into its books."""

    received_bytes: int = 0
    paid_bytes: int = 0
    blocks: list[tuple[int, int]] = field(default_factory=list)
    """Bytes of a written block, and bytes written in all at that moment."""

    def received(self, active: Active, count: int) -> None:
        active.pulse.received(count, 0.0)
        self.received_bytes += count

    def block_written(self, job: FileJob, byte_count: int) -> None:
        self.blocks.append((byte_count, job.transfer.bytes_written))

    async def pay(self, active: Active, count: int) -> None:
        self.paid_bytes += count

    async def room(self, job: FileJob) -> None:
        pass


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
