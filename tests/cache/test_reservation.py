"""A reservation whose index makes one writer wait: the others, and the event loop, count meanwhile."""

from __future__ import annotations

import threading
from typing import Any

from fetcher.cache.reservation import STEP_BYTES, Reservation

WAIT_S = 20.0


class SlowRoom:
    """An index that another process holds until ``go``."""

    def __init__(self) -> None:
        self.asked = threading.Event()
        self.go = threading.Event()
        self.told: list[tuple[int, int]] = []

    def draw(self, reservation_id: str, byte_count: int, ahead_bytes: int) -> None:
        self.told.append((byte_count, ahead_bytes))
        self.asked.set()
        assert self.go.wait(WAIT_S)

    def drop_reservation(self, reservation_id: str, owner_id: str) -> None:
        pass


def test_while_one_asks_the_index_the_others_count() -> None:
    room: Any = SlowRoom()
    room.go.set()
    held = Reservation(room, "r", "o", 4 * STEP_BYTES)
    held.draw(STEP_BYTES)
    room.go.clear()
    room.asked.clear()
    drawing = threading.Thread(target=held.draw, args=(STEP_BYTES,))
    drawing.start()
    counting = threading.Thread(target=lambda: (held.wrote(1000), held.undraw(24)))
    try:
        assert room.asked.wait(WAIT_S)
        counting.start()
        counting.join(WAIT_S / 2)
        assert not counting.is_alive(), "it waits for the index of another"
    finally:
        room.go.set()
        drawing.join()
        if counting.ident is not None:
            counting.join()
    assert held.bytes == 2 * STEP_BYTES + 24
    held.draw(24)  # what was given back is drawn before the index is asked again
    assert len(room.told) == 2
    held.draw(STEP_BYTES)
    assert room.told[-1] == (STEP_BYTES, 3 * STEP_BYTES - 1000)
    held.release()
    assert held.bytes == 0
