"""One file content under way, sans I/O: which blocks are whose, which part may start, what an outcome leads to.

Rule 1: this file knows no sockets, files, tasks or clocks. The engine tells it what happened and does what it says.

Rule 2: a block has one owner. It is *claimed* on the event loop before a worker is called; whoever does not get the
claim drops its bytes and writes nothing, so a block that was answered twice is written once.

Rule 3: no deadlock by construction. A part is *started* only if it ends within the window behind the in-order digest's
frontier; a started part is never paused for the window; the lowest missing part comes first, and it always fits.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum

from fetcher.errors import InternalError
from fetcher.model.ranges import ByteRange
from fetcher.plan.tree import BLOCK_BYTES, block_count, block_length


class State(Enum):
    """Where a transfer stands."""

    __hash__ = object.__hash__  # Enum's own is a function of Python's, called at each look into the table

    WAITING = "waiting"
    """Another process fetches the same content, or our turn has not come."""
    FETCHING = "fetching"
    DRAINING = "draining"
    """All blocks are written; the in-order digest trails."""
    COMMITTING = "committing"
    DONE = "done"


class Event(Enum):
    """What happens to a transfer."""

    __hash__ = object.__hash__

    BEGIN = "begin"
    LAST_BLOCK = "last block"
    DIGEST_RIGHT = "digest right"
    DIGEST_WRONG = "digest wrong"
    ORIGIN_CHANGED = "origin changed"
    COMMITTED = "committed"
    FOUND = "found"


TRANSITIONS: dict[State, dict[Event, State]] = {
    State.WAITING: {Event.BEGIN: State.FETCHING, Event.FOUND: State.DONE},
    State.FETCHING: {Event.LAST_BLOCK: State.DRAINING, Event.ORIGIN_CHANGED: State.FETCHING},
    State.DRAINING: {Event.DIGEST_RIGHT: State.COMMITTING, Event.DIGEST_WRONG: State.FETCHING},
    State.COMMITTING: {Event.COMMITTED: State.DONE},
    State.DONE: {},
}
"""The whole machine; a pair that is not in it is a bug of ours. An error ends the run, and with it the transfer."""

EMPTY, ASSIGNED, CLAIMED, WRITTEN, PROVEN = range(5)
"""States of a block. ASSIGNED is EMPTY within a started part. WRITTEN has no chaining value (plain mode); PROVEN has
one, in the journal."""


class Outcome(Enum):
    """How a part ended, as far as the next decision needs to know."""

    COMPLETE = "complete"
    CUT = "connection lost"
    STALLED = "no byte came"
    SLOW = "slower than the others"
    CRAWLED = "crawled beside its peers"
    BUSY = "origin busy"
    EXPIRED = "signed URL refused"
    CHANGED = "origin changed"
    UNRANGED = "Range ignored"
    MISFRAMED = "wrong range or length"
    SHED = "gave way to others on a thin line"


@dataclass(slots=True, eq=False)
class Part:
    """A started part: whole blocks that one request fetches."""

    span: ByteRange
    stream: bool = False
    """The whole file in one body, because the origin ignores Range."""
    moves: int = 0
    """How often these bytes were moved because they were slow."""
    distrusts: bool = False
    """The watchdog moved them, which looks at no peers: a connection that is kept may be no better."""
    hedges: Part | None = None
    """The part whose rest this one asks for once more."""

    @property
    def blocks(self) -> range:
        return range(self.span.start // BLOCK_BYTES, block_count(self.span.stop))


class Transfer:
    """Blocks and parts of one file content."""

    RESTARTS_MAX = 1
    """Wrong digest: one refetch of the file. Origin changed: resolved once more."""

    def __init__(self, size: int, *, part_bytes: int, window_bytes: int | None, ranges: bool = True) -> None:
        """``part_bytes``: of a part where nothing better is known. ``window_bytes`` is None where no digest has to be
        computed in order."""
        if size <= 0 or part_bytes < BLOCK_BYTES or part_bytes % BLOCK_BYTES:
            raise InternalError(f"a transfer takes whole blocks: size {size}, part {part_bytes}")
        if window_bytes is not None and window_bytes < part_bytes:
            raise InternalError(f"the window ({window_bytes}) must hold a part ({part_bytes})")
        self.size = size
        self.state = State.WAITING
        self.ranges = ranges
        self.wrong_digests = 0
        self.origin_changes = 0
        self._part_blocks = part_bytes // BLOCK_BYTES
        self._window_bytes = window_bytes
        self._blocks = bytearray(block_count(size))
        self._open: set[Part] = set()
        self._moves: dict[int, int] = {}
        self._slow: set[int] = set()
        self._written_count = 0
        self._first_missing = 0
        self.frontier_bytes = 0
        """How far the digests that trail the blocks have come, all of them; stays 0 where there are none."""
        self._adopted_bytes = 0
        self.bytes_written = 0
        self._unranged_answers = 0

    def __repr__(self) -> str:
        return (
            f"<Transfer {self.state.value} {self._written_count}/{len(self._blocks)} blocks, "
            f"{len(self._open)} parts open, frontier {self.frontier_bytes}>"
        )

    def on(self, event: Event) -> State:
        """Walk the table; raises InternalError that names state and event for an unknown pair."""
        following = TRANSITIONS[self.state].get(event)
        if following is None:
            raise InternalError(f"a transfer that is {self.state.value} can't take {event.value!r}")
        self.state = following
        return following

    # -- blocks ------------------------------------------------------------------------------------------------------

    def adopt(self, blocks: Iterable[int]) -> None:
        """Blocks that a Partial already holds, re-hashed and found right."""
        for block in blocks:
            if self._blocks[block] in (EMPTY, ASSIGNED):
                self._finish(block, PROVEN)
        self._adopted_bytes = self.readable_bytes

    def claim(self, block: int) -> bool:
        """Become the block's only writer; False: somebody else is, drop the bytes."""
        if self._blocks[block] > ASSIGNED:
            return False
        self._blocks[block] = CLAIMED
        return True

    def unclaim(self, block: int) -> None:
        """The claimed block was not written after all (the worker call failed)."""
        if self._blocks[block] != CLAIMED:
            raise InternalError(f"block {block} was not claimed")
        # While its part is open the block stays that part's: otherwise a second part could be started over it.
        self._blocks[block] = ASSIGNED if any(block in part.blocks for part in self._open) else EMPTY

    def wrote(self, block: int, *, proven: bool) -> None:
        """The worker call that was allowed by ``claim`` came back."""
        if self._blocks[block] != CLAIMED:
            raise InternalError(f"block {block} was written without a claim")
        self._finish(block, PROVEN if proven else WRITTEN)

    def _finish(self, block: int, state: int) -> None:
        self._blocks[block] = state
        self._written_count += 1
        self.bytes_written += block_length(self.size, block)
        while self._first_missing < len(self._blocks) and self._blocks[self._first_missing] >= WRITTEN:
            self._first_missing += 1

    @property
    def whole(self) -> bool:
        """All blocks are written."""
        return self._written_count == len(self._blocks)

    @property
    def readable_bytes(self) -> int:
        """Bytes from the start without a hole: what the in-order digest may read."""
        return min(self._first_missing * BLOCK_BYTES, self.size)

    def holds(self, offset: int) -> bool:
        """Whether the byte at ``offset`` is written."""
        return self._blocks[offset // BLOCK_BYTES] >= WRITTEN

    def readable_to(self, offset: int, limit: int) -> int:
        """How far, from ``offset`` to at most ``limit``, there is no hole: where a digest of a part may read to."""
        block, end = offset // BLOCK_BYTES, offset
        while end < limit and block < len(self._blocks) and self._blocks[block] >= WRITTEN:
            block += 1
            end = min(block * BLOCK_BYTES, self.size, limit)
        return end

    def empty_all(self) -> None:
        """Drop every block; only with no part open (the engine has stopped them)."""
        if self._open or CLAIMED in self._blocks:
            raise InternalError("blocks can't be dropped under an open part")
        self._blocks = bytearray(len(self._blocks))
        self._moves.clear()
        self._slow.clear()
        self._written_count = self._first_missing = self.bytes_written = 0
        self.frontier_bytes = self._adopted_bytes = 0

    # -- parts -------------------------------------------------------------------------------------------------------

    @property
    def parts_open(self) -> int:
        return len(self._open)

    def next_part(self, part_bytes: int | None = None) -> Part | None:
        """Start the lowest part that may start now, or None. ``part_bytes``: about how long it may be, if less than
        usual or more; in whole blocks and within the window whatever is asked for."""
        span = self._next_span(part_bytes)
        if span is None:
            return None
        return self._start(span, stream=not self.ranges)

    @property
    def has_part(self) -> bool:
        """Whether a part may start now."""
        return self._next_span(None) is not None

    @property
    def is_held_up(self) -> bool:
        """Nobody brings the first missing block while blocks behind it are here or under way: the file, its digest and
        its window wait for this one."""
        if self.state is not State.FETCHING or not self.ranges or self._first_missing == len(self._blocks):
            return False
        return self._blocks[self._first_missing] == EMPTY and bool(self._open or self._is_ahead)

    @property
    def _is_ahead(self) -> bool:
        return self._written_count > self._first_missing

    @property
    def is_stopped(self) -> bool:
        """Held up, and there is nothing else to start: the window is full, or all that follows is here or comes."""
        if not self.is_held_up:
            return False
        window_stop = self.size
        if self._window_bytes is not None:
            window_stop = min(self.size, self._window_start + self._window_bytes)
        hole_stop = self._first_missing
        while hole_stop < len(self._blocks) and self._blocks[hole_stop] == EMPTY:
            hole_stop += 1
        following = self._blocks.find(EMPTY, hole_stop)
        return following < 0 or (following + 1) * BLOCK_BYTES > window_stop

    def _next_span(self, part_bytes: int | None) -> ByteRange | None:
        if self.state is not State.FETCHING:
            return None
        if not self.ranges:
            return None if self._open or self.whole else ByteRange(0, self.size)
        first = self._blocks.find(EMPTY, self._first_missing)
        if first < 0:
            return None
        if part_bytes is not None and part_bytes > self._part_blocks * BLOCK_BYTES:
            span = self._span_from(first, part_bytes // BLOCK_BYTES)
            if self._is_in_window(span):
                return span
        # Nothing shorter than the usual part starts for the window's sake: it would come in crumbs as the digest moves.
        usual = self._part_blocks if part_bytes is None else max(1, min(self._part_blocks, part_bytes // BLOCK_BYTES))
        span = self._span_from(first, usual)
        # What is beyond the window starts when the in-order digest has come closer. That it will: the digest needs
        # nothing but the blocks before the first missing one, and once it has read those, the lowest part fits, as a
        # window holds a part.
        return span if self._is_in_window(span) else None

    def _span_from(self, first: int, blocks_max: int) -> ByteRange:
        stop = first + 1
        while stop < len(self._blocks) and stop - first < blocks_max and self._blocks[stop] == EMPTY:
            stop += 1
        return ByteRange(first * BLOCK_BYTES, min(stop * BLOCK_BYTES, self.size))

    def _is_in_window(self, span: ByteRange) -> bool:
        return self._window_bytes is None or span.stop <= self._window_start + self._window_bytes

    @property
    def bytes_to_start(self) -> int:
        """Bytes of blocks that no part brings; about, as the last block may be shorter."""
        return self._blocks.count(EMPTY) * BLOCK_BYTES

    @property
    def part_bytes_max(self) -> int:
        """How long a part may be."""
        return self._window_bytes or self.size

    def hedge(self, part: Part) -> Part | None:
        """Start a second part over what of ``part`` nobody has claimed; None if there is nothing, or it may not be.

        What comes in one stream begins from its first byte: a second one would bring nothing sooner.
        """
        if part not in self._open or part.stream or self._twin(part) is not None:
            return None
        first = next((block for block in part.blocks if self._blocks[block] == ASSIGNED), None)
        if first is None:
            return None
        hedge = self._start(ByteRange(first * BLOCK_BYTES, part.span.stop))
        hedge.hedges = part
        return hedge

    def _twin(self, part: Part) -> Part | None:
        """The open part that asks for the same blocks."""
        return next((other for other in self._open if other.hedges is part or part.hedges is other), None)

    def is_hedged(self, part: Part) -> bool:
        """Whether two requests are at these bytes."""
        return self._twin(part) is not None

    def unclaimed_blocks(self, part: Part) -> int:
        """How many blocks of an open part are still to come."""
        return sum(self._blocks[block] == ASSIGNED for block in part.blocks)

    @property
    def _window_start(self) -> int:
        """What an earlier run left is read back from the disk anyway: the network need not wait for that."""
        return max(self.frontier_bytes, self._adopted_bytes)

    def _start(self, span: ByteRange, *, stream: bool = False) -> Part:
        part = Part(span, stream)
        part.moves = max(self._moves.get(block, 0) for block in part.blocks)
        part.distrusts = not self._slow.isdisjoint(part.blocks)
        for block in part.blocks:
            if self._blocks[block] == EMPTY:
                self._blocks[block] = ASSIGNED
        self._open.add(part)
        return part

    def end(self, part: Part, outcome: Outcome) -> None:
        """The part's request is over and no worker call of it is under way. Blocks that it did not bring are free
        again."""
        twin = self._twin(part)
        self._open.discard(part)
        for block in part.blocks:
            if self._blocks[block] == ASSIGNED:
                if twin is None or block not in twin.blocks:
                    self._blocks[block] = EMPTY
                if outcome in (Outcome.SLOW, Outcome.CRAWLED):
                    self._moves[block] = part.moves + 1
                if outcome is Outcome.SLOW:
                    self._slow.add(block)
        if outcome is Outcome.COMPLETE and not part.stream:
            self._unranged_answers = 0
        if outcome is Outcome.UNRANGED:
            # One such answer may be a proxy's hiccup; from the second on the file comes in one stream.
            self._unranged_answers += 1
            if self._unranged_answers > 1:
                self.ranges = False
