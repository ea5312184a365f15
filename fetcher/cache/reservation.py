"""Bytes promised to one run. Drawn before they are written, in steps; grows where a step is not covered."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TYPE_CHECKING

from fetcher.config import MIB
from fetcher.errors import InternalError, NoSpaceError

if TYPE_CHECKING:
    from fetcher.cache.space import Room

STEP_BYTES = 32 * MIB
"""Drawn at once: one transaction for so many bytes. Until they are written others count them as promised still."""
FLOOR_EVERY_BYTES = 256 * MIB
"""Written between two looks at what other programs have left of the disk."""


class Reservation:
    """Thread-safe. ``release`` it in any case."""

    def __init__(self, room: Room, reservation_id: str, owner_id: str, byte_count: int) -> None:
        self.id = reservation_id
        self._owner_id = owner_id
        self._room = room
        self._undrawn = byte_count
        """As the row says."""
        self._ahead = 0
        """Drawn, and given to nobody yet."""
        self._drawn = 0
        self._in_flight = 0
        """Given to writers who have not said that it is written."""
        self._present = 0
        """Will be written where the disk has blocks already."""
        self._looked_at = 0
        """How much was drawn when we last looked at the floor."""
        self._released = False
        self._turn = threading.Lock()
        """Of whoever asks the index; that may take as long as another process holds it."""
        self._lock = threading.Lock()
        """Of the numbers; taken after ``_turn``, and for no longer than it takes to count. The event loop takes it."""

    @property
    def bytes(self) -> int:
        """Still promised, and not given to any writer."""
        return self._undrawn + self._ahead

    def write_over(self, byte_count: int) -> None:
        """So much of what will be written takes no new space: blocks of a Partial that were not proven."""
        with self._lock:
            self._present += byte_count

    def in_turn(self) -> Callable[[int], None]:
        """A ``draw`` for one writer who writes all of it before he asks again."""
        last = 0

        def draw(byte_count: int) -> None:
            nonlocal last
            self.wrote(last)
            last = 0
            self.draw(byte_count)
            last = byte_count

        return draw

    def wrote(self, byte_count: int) -> None:
        """So much of what was drawn is on the file system now, or will never be."""
        with self._lock:
            self._in_flight -= byte_count

    def undraw(self, byte_count: int) -> None:
        """So much of what was drawn is not written after all, and may be drawn again."""
        with self._lock:
            self._in_flight -= byte_count
            self._ahead += byte_count

    def draw(self, byte_count: int) -> None:
        """``byte_count`` bytes are about to be written; ``wrote`` says when they are.

        More than was reserved is reserved now, on the same terms: what another process was to fetch and did not, a
        second copy of a file whose first was wrong. Raises NoSpaceError if that does not fit, or if something else has
        filled the disk down to the floor; nothing is written then.
        """
        with self._turn:
            with self._lock:
                self._refuse_released()
                over = min(byte_count, self._present)
                self._present -= over
                new = byte_count - over
                missing = new - self._ahead
            if missing > 0:
                self._draw_step(missing)
            with self._lock:  # meanwhile there can only be more ahead
                self._ahead -= new
                self._in_flight += byte_count

    def draw_beside(self, byte_count: int) -> None:
        """As ``draw``, for bytes that were reserved for another writer, who may write them as well: nothing is taken of
        what was promised to anybody. Raises NoSpaceError if there is no other room."""
        with self._turn:
            with self._lock:
                self._refuse_released()
                promised = self._ahead + self._in_flight
            self._room.grow(self.id, byte_count, promised)
            with self._lock:
                self._undrawn += byte_count
        self.draw(byte_count)

    def _refuse_released(self) -> None:
        if self._released:
            raise InternalError("bytes are drawn from a reservation that was given back")

    def _draw_step(self, missing: int) -> None:
        if self._drawn - self._looked_at >= FLOOR_EVERY_BYTES:
            self._room.refuse_below_floor()
            self._looked_at = self._drawn
        if self._undrawn < missing:
            self._grow(missing - self._undrawn)
        step = max(missing, min(STEP_BYTES, self._undrawn))
        self._room.draw(self.id, step, self._unwritten(step))
        with self._lock:
            self._undrawn -= step
            self._drawn += step
            self._ahead += step

    def _grow(self, missing: int) -> None:
        try:
            more = missing + STEP_BYTES
            self._room.grow(self.id, more, self._unwritten())
        except NoSpaceError:
            more = missing
            self._room.grow(self.id, more, self._unwritten())
        with self._lock:
            self._undrawn += more

    def _unwritten(self, step: int = 0) -> int:
        """Of all that was drawn, ``step`` among it, what is not written yet."""
        with self._lock:
            return self._ahead + step + self._in_flight

    def release(self) -> None:
        """Give the rest back, when all is published or given up. May be called again.

        With an owner's last reservation its holds on Blobs go: what is unreferenced then has the grace of gc.
        """
        with self._turn, self._lock:
            self._released = True
            self._undrawn = self._ahead = 0
        self._room.drop_reservation(self.id, self._owner_id)
