"""A part's body: from the connection into slabs, whole blocks to the disk.

One slab fills while the disk has the other. A block is claimed on the loop before it is handed over; what is not ours
is dropped. However this ends, it ends with nothing under way, so the slabs and the Partial are free again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Protocol

from fetcher.engine.buffers import Slab
from fetcher.engine.disk import Disk
from fetcher.engine.jobs import Active, FileJob, PartEnded
from fetcher.engine.workers import Workers, finish
from fetcher.errors import FetcherError, InternalError, NoSpaceError, TransportError
from fetcher.net.transport import Response
from fetcher.plan.transfer import Outcome, Part
from fetcher.plan.tree import BLOCK_BYTES, block_length

PAID_BYTES = 64 << 10
"""Received at a time under a rate limit: what comes at once is paid for at once."""
DRAWN_BYTES = 64 << 20
"""Drawn at a time from what is reserved: a worker does that, as it may have to ask the index."""


class Meter(Protocol):
    """What the run wants to know of a body as it comes."""

    def received(self, active: Active, count: int) -> None: ...
    def block_written(self, job: FileJob, byte_count: int) -> None: ...
    def owed_s(self, active: Active, count: int) -> float | None:
        """Seconds until so many more bytes are within the rate; None: there is no limit."""
        ...

    def has_room(self, job: FileJob) -> bool:
        """Whether another block may be written now."""
        ...

    def when_room(self, look: Callable[[], None]) -> None:
        """Call ``look`` once, when that may have changed."""
        ...

    def is_left_alone(self, active: Active) -> bool:
        """Whether it is not given up for being slow after all."""
        ...


class Desk(Protocol):
    """Where blocks go, and who asks the index (``tools.Tools``)."""

    @property
    def disk(self) -> Disk: ...
    @property
    def workers(self) -> Workers: ...


class PartReceiver:
    """The memory that a part's body goes to; see ``net.transport.Receiver``."""

    def __init__(
        self,
        job: FileJob,
        part: Part,
        response: Response,
        slabs: tuple[Slab, Slab],
        tools: Desk,
        meter: Meter,
        active: Active,
    ) -> None:
        self._job = job
        self._stop = part.span.stop
        self._hedge = part.hedges is not None
        self._response = response
        self._disk = tools.disk
        self._workers = tools.workers
        self._meter = meter
        self._active = active
        self._limited = meter.owed_s(active, 0) is not None
        self._unstated = response.content_length is None
        """Only the end of the body says that it is no longer than what was listed."""
        self._loop = asyncio.get_running_loop()
        self.position = part.span.start
        """Up to here the body has come."""
        self.error: FetcherError | None = None
        """Why a block could not be written."""
        self._block = part.span.start // BLOCK_BYTES
        self._length = block_length(job.size, self._block)
        self._filled = 0
        self._slab: Slab | None = slabs[0]
        """The one that fills; None while the disk has both."""
        self._spare: list[Slab] = [slabs[1]]
        self._under_way = 0
        self._drawn = 0
        """Bytes that may be written."""
        self._to_draw = part.span.length
        self._drawing: asyncio.Future[None] | None = None
        self._undrawn = False
        """A whole block waits for that."""
        self._owing: asyncio.TimerHandle | None = None
        self._crowded = False
        """Too much that is written is not on the disk for good."""
        self._drained: asyncio.Future[None] | None = None
        self._look_around()

    # -- what the transport calls ------------------------------------------------------------------------------------

    def get_buffer(self) -> memoryview | None:
        if self.position >= self._stop:
            raise PartEnded(Outcome.MISFRAMED, "the body is longer than its range")
        if self._slab is None or self._undrawn or self._crowded or self._owing is not None:
            self._active.pulse.holding = True
            return None
        self._active.pulse.holding = False
        stop = min(self._length, self._filled + PAID_BYTES) if self._limited else self._length
        return self._slab.view[self._filled : stop]

    def buffer_updated(self, count: int) -> None:
        self._meter.received(self._active, count)
        self._filled += count
        self.position += count
        if self._limited and (owed_s := self._meter.owed_s(self._active, count)):
            self._owing = self._loop.call_later(owed_s, self._paid)
        if self._filled == self._length and not (self._unstated and self.position == self._stop):
            self._hand_over()

    # -- blocks ------------------------------------------------------------------------------------------------------

    def _hand_over(self) -> None:
        """The block is here as a whole."""
        slab, job = self._slab, self._job
        assert slab is not None
        if job.transfer.claim(self._block):
            if self._drawn < self._length:
                job.transfer.unclaim(self._block)
                self._undrawn = True
                return
            try:
                self._disk.write(job, self._block, slab, self._length, self._written)
            except BaseException:
                job.transfer.unclaim(self._block)
                raise
            self._drawn -= self._length
            self._under_way += 1
            self._slab = self._spare.pop() if self._spare else None
            self._look_around()
        if self._drawn < DRAWN_BYTES // 4:
            self.draw()
        self._block += 1
        self._filled = 0
        if self.position < self._stop:
            self._length = block_length(job.size, self._block)
            if self._active.leaves_after_block and not self._meter.is_left_alone(self._active):
                self._active.end_with(Outcome.CRAWLED)

    def end(self) -> None:
        """The body has ended. The last block of one whose length was not stated waited for that: with it the file would
        be whole, and its first bytes may be those of a longer file."""
        if self._unstated and self.position == self._stop:
            self._hand_over()

    def _look_around(self) -> None:
        """Whether another block may come, after one was handed over and before the first."""
        if not self._meter.has_room(self._job):
            self._crowded = True
            self._meter.when_room(self._look)

    def draw(self) -> None:
        """Have the next bytes drawn, before they are needed."""
        if self._drawing is None and self.error is None and self._to_draw:
            start = self._stop - self._to_draw
            count = min(DRAWN_BYTES, self._to_draw)
            self._to_draw -= count
            self._drawing = asyncio.ensure_future(self._draw(start, count))

    async def _draw(self, start: int, count: int) -> None:
        """A task of its own that does its books itself: once it is over, nothing of it is still to come."""
        try:
            await self._workers.slow(self._job.draw_ahead, start, count, self._hedge)
        except NoSpaceError as error:
            if self._hedge:  # the first request has room, and goes on
                self._job.no_room_for_hedges = True
                self._active.end_with(Outcome.SHED)
            else:
                self._fail(error)
            return
        except Exception as error:
            self._fail(error)
            return
        finally:
            self._drawing = None
        self._drawn += count
        if self._undrawn and self.error is None:
            self._undrawn = False
            try:
                self._hand_over()
            except Exception as error:
                self._fail(error)
            else:
                self._response.resume()

    def _fail(self, error: Exception) -> None:
        if self.error is None:
            self.error = error if isinstance(error, FetcherError) else InternalError(repr(error))
        self._response.abort()

    def _written(self, block: int, slab: Slab, proven: bool, error: FetcherError | None) -> None:
        self._under_way -= 1
        try:
            self._book(block, proven, error)
        except Exception as wrong:  # nobody above us hears of it, and the part would wait for ever
            self._fail(wrong)
        if self._slab is None:
            self._slab = slab
            self._response.resume()
        else:
            self._spare.append(slab)
        if not self._under_way and self._drained is not None and not self._drained.done():
            self._drained.set_result(None)

    def _book(self, block: int, proven: bool, error: FetcherError | None) -> None:
        job = self._job
        if error is not None:
            job.transfer.unclaim(block)
            self._fail(error)
        else:
            job.transfer.wrote(block, proven=proven)
            self._meter.block_written(job, block_length(job.size, block))
            job.block_came()

    def _paid(self) -> None:
        self._owing = None
        self._response.resume()

    def _look(self) -> None:
        """What is written may be on the disk by now."""
        if not self._crowded:
            return
        if self._meter.has_room(self._job):
            self._crowded = False
            self._response.resume()
        else:
            self._meter.when_room(self._look)

    async def drain(self) -> None:
        """Wait until nothing is under way, through cancellation."""
        self._to_draw = 0
        if self._owing is not None:
            self._owing.cancel()
            self._owing = None
        try:
            if self._drawing is not None:
                await finish(self._drawing)  # and then, perhaps, writes the block that waited for it
        finally:
            try:
                if self._under_way:
                    self._drained = self._loop.create_future()
                    await finish(self._drained)
            finally:
                self._job.undraw(self._drawn)
                self._drawn = 0
                self._crowded = False  # nobody needs to be told any more


async def receive_part(
    job: FileJob,
    part: Part,
    response: Response,
    slabs: tuple[Slab, Slab],
    tools: Desk,
    meter: Meter,
    active: Active,
) -> None:
    """Take the body of ``part``; returns when its last block is written, raises PartEnded when the body ends early.

    What went wrong with the disk wins over what went wrong with the connection, which may be opened again. A
    cancellation wins over both.
    """
    receiver = PartReceiver(job, part, response, slabs, tools, meter, active)
    ended: Exception | None = None
    try:
        receiver.draw()
        await response.receive(receiver)
        receiver.end()
        if receiver.position < part.span.stop:
            ended = PartEnded(Outcome.CUT, f"the body ended {part.span.stop - receiver.position} bytes early")
    except TransportError as error:
        ended = PartEnded(Outcome.CUT, error.message)
    except Exception as error:
        ended = error
    finally:
        await receiver.drain()
    failed = receiver.error or ended
    try:
        if failed is not None:
            raise failed
    finally:
        del receiver, ended, failed  # else the error holds this frame, this frame the error, and both the slabs
