"""A part's body: from the connection into slabs, whole blocks to a worker that hashes and writes them.

One slab fills while a worker has the other. A block is claimed on the loop before its worker call starts; what is not
ours is dropped. However this ends, it ends with no worker call under way, so the slabs and the Partial are free again.
"""

from __future__ import annotations

import asyncio
from typing import Protocol

from fetcher.engine.buffers import Slab
from fetcher.engine.jobs import Active, FileJob, PartEnded
from fetcher.engine.workers import Workers, finish
from fetcher.errors import InternalError, TransportError
from fetcher.net.transport import Response
from fetcher.plan.transfer import Outcome, Part
from fetcher.plan.tree import BLOCK_BYTES, block_length

READ_BYTES = 256 << 10
"""Asked of the transport at a time; larger pieces cost no more loops but delay the watchdog's view."""


class Meter(Protocol):
    """What the run wants to know of a body as it comes."""

    def received(self, active: Active, count: int) -> None: ...
    def block_written(self, job: FileJob, byte_count: int) -> None: ...
    async def pay(self, active: Active, count: int) -> None: ...
    async def room(self, job: FileJob) -> None: ...


class BlockWriter:
    """The worker calls of one connection: at most one per slab."""

    def __init__(self, job: FileJob, workers: Workers, meter: Meter) -> None:
        self._job = job
        self._workers = workers
        self._meter = meter
        self._calls: dict[Slab, tuple[int, asyncio.Future[bytes]]] = {}

    def start(self, block: int, slab: Slab, length: int) -> None:
        """The block is claimed; hash and write it. The slab is the worker's until ``free``."""
        self._calls[slab] = (block, self._workers.block(self._job.write_block, block, slab.view[:length]))

    async def free(self, slab: Slab) -> None:
        """The slab's call is over, its block booked; raises what the call raised."""
        if slab not in self._calls:
            return
        block, call = self._calls[slab]
        try:
            await finish(call)
        finally:
            del self._calls[slab]
            self._book(block, call)

    def _book(self, block: int, call: asyncio.Future[bytes]) -> None:
        job = self._job
        if call.cancelled() or call.exception() is not None:
            job.transfer.unclaim(block)
            return
        job.transfer.wrote(block, proven=bool(call.result()))
        self._meter.block_written(job, block_length(job.size, block))
        job.wake()

    async def drain(self) -> None:
        """Wait for all calls, through cancellation; the first error is raised when all are over."""
        first: BaseException | None = None
        for slab in tuple(self._calls):
            try:
                await self.free(slab)
            except BaseException as error:
                first = first or error
        if first is not None:
            raise first


async def receive_part(
    job: FileJob,
    part: Part,
    response: Response,
    slabs: tuple[Slab, Slab],
    workers: Workers,
    meter: Meter,
    active: Active,
) -> None:
    """Take the body of ``part``; returns when its last block is written, raises PartEnded when the body ends early."""
    writer = BlockWriter(job, workers, meter)
    try:
        await _fill(job, part, response, slabs, writer, meter, active)
        await _see_the_end(response)
    finally:
        await writer.drain()


async def _fill(
    job: FileJob,
    part: Part,
    response: Response,
    slabs: tuple[Slab, Slab],
    writer: BlockWriter,
    meter: Meter,
    active: Active,
) -> None:
    position = part.span.start
    turn = 0
    slab = slabs[turn]
    filled = 0
    block = position // BLOCK_BYTES
    length = block_length(job.size, block)
    while position < part.span.stop:
        piece = memoryview(await read_some(response, READ_BYTES))
        if not piece:
            raise PartEnded(Outcome.CUT, f"the body ended {part.span.stop - position} bytes early")
        if len(piece) > part.span.stop - position:
            raise PartEnded(Outcome.MISFRAMED, "the body is longer than its range")
        meter.received(active, len(piece))
        await meter.pay(active, len(piece))
        while piece:
            count = min(len(piece), length - filled)
            slab.view[filled : filled + count] = piece[:count]
            piece = piece[count:]
            filled += count
            position += count
            if filled < length:
                continue
            if job.transfer.claim(block):
                writer.start(block, slab, length)
                turn ^= 1
                slab = slabs[turn]
                active.pulse.holding = True
                await writer.free(slab)
                await meter.room(job)
                active.pulse.holding = False
            block += 1
            filled = 0
            if position < part.span.stop:
                length = block_length(job.size, block)


async def receive_small(job: FileJob, response: Response, slab: Slab, meter: Meter, active: Active) -> memoryview:
    """The whole body of a file of at most one block, in the slab."""
    if job.size > BLOCK_BYTES:
        raise InternalError(f"{job.size} bytes are no small file")
    filled = 0
    while filled < job.size:
        piece = await read_some(response, READ_BYTES)
        if not piece:
            raise PartEnded(Outcome.CUT, f"the body ended {job.size - filled} bytes early")
        if filled + len(piece) > job.size:
            raise PartEnded(Outcome.MISFRAMED, f"the body is longer than the {job.size} bytes that were listed")
        meter.received(active, len(piece))
        await meter.pay(active, len(piece))
        slab.view[filled : filled + len(piece)] = piece
        filled += len(piece)
    await _see_the_end(response)
    return slab.view[:filled]


async def _see_the_end(response: Response) -> None:
    """Of a body whose length the host did not state: only its end says that it is no longer than what was listed."""
    if response.content_length is None and await read_some(response, READ_BYTES):
        raise PartEnded(Outcome.MISFRAMED, "the body is longer than what was listed")


async def read_some(response: Response, limit: int) -> bytes | memoryview:
    """The next piece of a body; what breaks a connection ends the part, nothing more."""
    try:
        return await response.read_some(limit)
    except TransportError as error:
        raise PartEnded(Outcome.CUT, error.message) from error
