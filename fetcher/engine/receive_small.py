"""A small file's body: into one slab as a whole, or where there is none, as it comes.

Nothing of it is written here; what is hashed, and where, is for ``small.py`` to say.
"""

from __future__ import annotations

import asyncio

from fetcher.engine.buffers import Slab
from fetcher.engine.jobs import Active, FileJob, PartEnded
from fetcher.engine.receive import Meter
from fetcher.errors import InternalError, TransportError
from fetcher.net.transport import Response
from fetcher.plan.transfer import Outcome
from fetcher.plan.tree import BLOCK_BYTES

READ_BYTES = 256 << 10
"""Asked of the transport at a time where a body is read in pieces."""


class SmallReceiver:
    """One slab for all of a body; see ``net.transport.Receiver``."""

    def __init__(self, size: int, slab: Slab, response: Response, meter: Meter, active: Active) -> None:
        self._size = size
        self._slab = slab
        self._response = response
        self._meter = meter
        self._active = active
        self.filled = 0
        self._owing: asyncio.TimerHandle | None = None

    def get_buffer(self) -> memoryview | None:
        if self.filled >= self._size:
            raise PartEnded(Outcome.MISFRAMED, _longer(self._size))
        self._active.pulse.holding = self._owing is not None
        return None if self._owing is not None else self._slab.view[self.filled : self._size]

    def buffer_updated(self, count: int) -> None:
        self.filled += count
        self._meter.received(self._active, count)
        if owed_s := self._meter.owed_s(self._active, count):
            self._owing = asyncio.get_running_loop().call_later(owed_s, self._paid)

    def _paid(self) -> None:
        self._owing = None
        self._response.resume()

    def close(self) -> None:
        if self._owing is not None:
            self._owing.cancel()


async def receive_small(
    job: FileJob, response: Response, slab: Slab | None, meter: Meter, active: Active
) -> bytes | memoryview:
    """The whole body of a file of at most one block: in ``slab``; where there is none, as it came, in one piece."""
    if job.size > BLOCK_BYTES:
        raise InternalError(f"{job.size} bytes are no small file")
    if slab is None:
        return await _read_small(job, response, meter, active)
    receiver = SmallReceiver(job.size, slab, response, meter, active)
    try:
        await response.receive(receiver)
    except TransportError as error:
        raise PartEnded(Outcome.CUT, error.message) from error
    finally:
        receiver.close()
    if receiver.filled < job.size:
        raise PartEnded(Outcome.CUT, f"the body ended {job.size - receiver.filled} bytes early")
    return slab.view[: job.size]


async def _read_small(job: FileJob, response: Response, meter: Meter, active: Active) -> bytes | memoryview:
    pieces: list[bytes | memoryview] = []
    filled = 0
    while piece := await read_some(response, READ_BYTES):
        filled += len(piece)
        if filled > job.size:
            raise PartEnded(Outcome.MISFRAMED, _longer(job.size))
        meter.received(active, len(piece))
        if owed_s := meter.owed_s(active, len(piece)):
            active.pulse.holding = True
            await asyncio.sleep(owed_s)
            active.pulse.holding = False
        pieces.append(piece)
        if filled == job.size and response.content_length is not None:
            break  # where the host did not state it only the end says that it is no longer than what was listed
    if filled < job.size:
        raise PartEnded(Outcome.CUT, f"the body ended {job.size - filled} bytes early")
    return pieces[0] if len(pieces) == 1 else b"".join(pieces)


def _longer(size: int) -> str:
    return f"the body is longer than the {size} bytes that were listed"


async def read_some(response: Response, limit: int) -> bytes | memoryview:
    """The next piece of a body; what breaks a connection ends the part, nothing more."""
    try:
        return await response.read_some(limit)
    except TransportError as error:
        raise PartEnded(Outcome.CUT, error.message) from error
