"""One HTTP/1.1 connection: a request, its answer, the next request. On any event loop; ``wire`` has the socket's side.

A body whose length is stated goes from the socket (or from TLS) straight into the memory of whoever receives it, and is
counted, not parsed. Everything else, heads included, goes through a small buffer of the connection's own.

Reading pauses while nobody has room for what comes, so memory is bounded by what the receivers own. While it pauses,
silence is nobody's fault.
"""

from __future__ import annotations

import asyncio
import mmap
from collections import deque

from fetcher.net.body.head import HEADS_MAX, Head, MisframedError, end_of_head
from fetcher.net.body.silence import Awaited
from fetcher.net.body.wire import CutError, Stage, Wire
from fetcher.net.transport import Receiver

SCRATCH_BYTES = 64 << 10
"""What a connection reads at a time where nobody has given it memory. The answer of a small file fits as a whole."""
AHEAD_BYTES_MAX = 128 << 10
"""Read ahead of whoever asks for pieces; lost when the process is killed."""


class Connection(Wire):
    """See above. One answer at a time: ``ask``, then ``read`` or ``receive`` until ``ended``."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(loop)
        self._scratch = memoryview(mmap.mmap(-1, SCRATCH_BYTES))  # on a page: see engine/buffers.py
        self.asked_count = 0
        self.kept_until = 0.0
        """When the pool closes it; the pool's own."""
        self.heard = False
        """Something of the answer under way has come."""
        self.head: Head | None = None
        self.received = 0
        """Bytes of the body under way."""
        self._left: int | None = 0
        """Of the body, still to come; None: not known."""
        self._ended = True
        self._raw = bytearray()
        """Of a head that has not come to its end."""
        self._seen = 0
        self._heads = 0
        self._method = "GET"
        self._pieces: deque[bytes] = deque()
        self._ahead = 0
        self._direct: memoryview | None = None
        """The receiver's memory that the loop was given last."""
        self._receiver: Receiver | None = None
        self._waiter: asyncio.Future[None] | None = None
        self._error: BaseException | None = None

    def __repr__(self) -> str:
        return f"<Connection {self.stage.value}, {self.asked_count} asked, {self.received} bytes of this body>"

    # -- asking ------------------------------------------------------------------------------------------------------

    @property
    def ended(self) -> bool:
        """All of the body has come, and was taken."""
        return self._ended and not self._pieces

    async def ask(self, text: bytes, method: str, idle_timeout_s: float, head_timeout_s: float) -> Head:
        """Send a request; returns the head of its answer. Raises CutError, SilentError, MisframedError; whoever is
        cancelled aborts the connection."""
        if self._transport is None or self.stage is not Stage.IDLE:
            raise CutError(None)  # the server hung up, or spoke, before it was asked anything
        self.stage = Stage.HEAD
        self.asked_count += 1
        self.head, self.received, self._ended = None, 0, False
        self._heads = 0
        self.heard = False
        self._method = method
        self._silence.listen(idle_timeout_s, head_timeout_s)
        self._transport.write(text)
        await self._wait()
        return self._begun()

    def _begun(self) -> Head:
        assert self.head is not None
        return self.head

    # -- taking the body ---------------------------------------------------------------------------------------------

    async def read(self) -> bytes:
        """The next piece; empty at the end. Raises CutError, SilentError, MisframedError."""
        while not self._pieces:
            if self._error is not None:
                raise self._error
            if self._ended:
                return b""
            self._resume()
            await self._wait()
        piece = self._pieces.popleft()
        self._ahead -= len(piece)
        return piece

    async def receive(self, receiver: Receiver) -> None:
        """The rest of the body into the memory of ``receiver``; returns at its end. Raises what ``read`` raises, and
        whatever the receiver raised."""
        try:
            while self._pieces:
                await self._hand_over(receiver)
            if self._error is not None:
                raise self._error
            if self._ended:
                return
            if self._left is None:
                while piece := await self.read():
                    self._pieces.appendleft(piece)
                    self._ahead += len(piece)
                    while self._pieces:
                        await self._hand_over(receiver)
                return
            self._receiver = receiver
            self._look_for_room()
            await self._wait()  # the receiver was asked for room: an error of its own is raised here
        finally:
            self._receiver = self._direct = None

    def resume(self) -> None:
        """The receiver has room again."""
        if self._receiver is not None:
            if not self._ended:  # else there is nothing that it should have room for
                self._look_for_room()
        elif self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    async def _hand_over(self, receiver: Receiver) -> None:
        """Copy what has been read already."""
        room = receiver.get_buffer()
        if room is None:
            await self._wait()
            return
        piece = self._pieces[0]
        count = min(len(room), len(piece))
        room[:count] = piece[:count]
        self._ahead -= count
        if count == len(piece):
            self._pieces.popleft()
        else:
            self._pieces[0] = piece[count:]
        receiver.buffer_updated(count)

    def _look_for_room(self) -> None:
        """Go on reading where the receiver has room, else pause."""
        assert self._receiver is not None
        if self._direct is None:
            try:
                room = self._receiver.get_buffer()
            except Exception as error:
                self._fail(error)
                return
            if room is not None:
                assert self._left is not None
                self._direct = room[: self._left] if len(room) > self._left else room
        if self._direct is None:
            self._pause()
        else:
            self._resume()

    # -- ending ------------------------------------------------------------------------------------------------------

    def settle(self) -> bool:
        """The answer is done with; whether the connection may be asked again."""
        if self.stage is Stage.BODY and self.ended and self._begun().keep_alive:
            self.stage = Stage.IDLE
            self._resume()
        return self.stage is Stage.IDLE and self._is_open

    def abort(self) -> None:
        """Close at once. May be called again, from any task; whoever waits gets a CutError."""
        transport = self._transport
        if self._pieces:  # whoever waits for room for them must not take what is here for all
            self._pieces.clear()
            self._ahead = 0
            self._ended = False
            self._error = self._error or CutError(None)
            self._wake()
        self._over(CutError(None))
        if transport is not None:
            transport.abort()

    # -- what the event loop tells -----------------------------------------------------------------------------------

    def get_buffer(self, sizehint: int) -> memoryview:
        direct = self._direct
        return self._scratch if direct is None else direct

    def buffer_updated(self, nbytes: int) -> None:
        self._silence.heard_at = self._loop.time()
        direct = self._direct
        if direct is None:
            self._take(bytes(self._scratch[:nbytes]))
            return
        receiver = self._receiver
        assert receiver is not None and self._left is not None
        self.received += nbytes
        self._left -= nbytes
        self._direct = None
        try:
            receiver.buffer_updated(nbytes)
        except Exception as error:
            self._fail(error)
            return
        if self._left:
            if self._receiver is not None:  # still, as what it did may have ended us
                self._look_for_room()
        else:
            self._end()

    def eof_received(self) -> bool:
        if (
            self.stage is Stage.BODY
            and self._left is None
            and not self._ended
            and not (self.head and self.head.chunked)
        ):
            self._end()  # a body that lasts as long as the connection
        else:
            self._over(CutError(None))
        return False

    # -- inside ------------------------------------------------------------------------------------------------------

    def _take(self, data: bytes) -> None:
        """Bytes that came into our own buffer."""
        try:
            if self.stage is Stage.HEAD:
                self.heard = True
                data = self._take_head(data)
            if data and self.stage is Stage.BODY:
                self._take_body(data)
            elif data:
                raise MisframedError  # nobody asked
        except MisframedError as error:
            self._fail(error)

    def _take_head(self, data: bytes) -> bytes:
        """Returns what comes behind the head."""
        if self._raw:
            self._raw += data
            data = bytes(self._raw)
        while end := end_of_head(data, self._seen):
            head = Head()
            head.parse(data[:end], method=self._method)
            self._heads += 1
            self._seen = 0
            data = data[end:]
            if head.status == 101 or self._heads > HEADS_MAX:
                raise MisframedError
            if head.status >= 200:
                self._raw.clear()
                self._begin_body(head)
                return data
        self._seen = len(data)
        self._raw[:] = data
        return b""

    def _begin_body(self, head: Head) -> None:
        self.head = head
        self.stage = Stage.BODY
        self._left = head.length
        if head.length == 0:
            self._end()
        self._wake()

    def _take_body(self, data: bytes) -> None:
        head = self.head
        assert head is not None
        if head.chunked:
            try:
                head.parse_chunked(data)
            finally:
                if head.pieces:  # as one: a chunk may be a byte long, and what holds it fifty
                    self._add(b"".join(head.pieces))
                    head.pieces.clear()
                if head.whole and not self._ended:
                    self._end()
        elif self._ended:
            raise MisframedError  # longer than it said, or a second answer
        elif self._left is None:
            self._add(data)
        else:
            if len(data) > self._left:
                self._excess(data[: self._left])
                raise MisframedError
            self._left -= len(data)
            self._add(data)
            if not self._left:
                self._end()
        if self._ahead >= AHEAD_BYTES_MAX and not self._ended:  # of what comes behind the end nothing is kept
            self._pause()
        self._wake()

    def _excess(self, data: bytes) -> None:
        """The body is whole, and what comes behind it was not asked for: the body is good, the connection is not."""
        assert self.head is not None
        self._add(data)
        self._left = 0
        self.head.keep_alive = False
        self._end()

    def _add(self, piece: bytes) -> None:
        self._pieces.append(piece)
        self._ahead += len(piece)
        self.received += len(piece)

    def _end(self) -> None:
        """The body has come as a whole."""
        self._ended = True
        self._wake()

    async def _wait(self) -> None:
        """For news: a head, bytes, room, an end. Raises the error that ended us, if one did and the body is not
        whole."""
        assert self._waiter is None
        if self._error is None or self._pieces:
            self._waiter = waiter = self._loop.create_future()
            try:
                await waiter
            finally:
                self._waiter = None
        if self._error is not None and not self._pieces:
            raise self._error

    def _wake(self) -> None:
        waiter = self._waiter
        if waiter is None or waiter.done():
            return
        if self._receiver is None or self._ended or self._error is not None:
            waiter.set_result(None)

    def _lost(self, error: BaseException) -> None:
        if not self._ended:
            self._error = error
        self._wake()

    def _waits_for(self) -> Awaited | None:
        if self._ended:
            return None
        if self.stage is Stage.HEAD:
            return "head"
        return "room" if self._paused else "body"
