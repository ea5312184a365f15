"""How long a connection may say nothing: one timer for each, kept over many requests, which looks at the clock itself.

Nobody touches the timer when bytes come; only the moment is noted. It is set anew where it would come too late.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Literal

Awaited = Literal["head", "body", "room"]
"""What a connection waits for; nobody but ourselves is to blame for waiting for room."""


class Silence:
    """Calls ``silent`` once nothing was heard for too long of what is waited for."""

    __slots__ = ("_at", "_head_by", "_idle_timeout_s", "_loop", "_silent", "_timer", "_waits_for", "heard_at")

    def __init__(
        self, loop: asyncio.AbstractEventLoop, waits_for: Callable[[], Awaited | None], silent: Callable[[], None]
    ) -> None:
        """``waits_for``: asked when it may be time; None: nothing is waited for."""
        self._loop = loop
        self._waits_for = waits_for
        self._silent = silent
        self.heard_at = 0.0
        """Loop's time at which the last bytes came, or began to be wanted."""
        self._idle_timeout_s = 0.0
        self._head_by = 0.0
        self._timer: asyncio.TimerHandle | None = None
        self._at = 0.0

    def listen(self, idle_timeout_s: float, head_timeout_s: float) -> None:
        """A request goes out: its head has to be here in time, and no byte may be waited for longer than that."""
        self.heard_at = now = self._loop.time()
        self._idle_timeout_s = idle_timeout_s
        self._head_by = now + head_timeout_s
        self._be_woken(now, min(idle_timeout_s, head_timeout_s))

    def end(self) -> None:
        """For good: the timer is gone, and whom we served is free to go without waiting for the garbage collector."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._waits_for = self._silent = _nothing

    def _be_woken(self, now: float, after_s: float) -> None:
        """A timer of an earlier request that comes in time is good enough: making one costs more than it seems."""
        if self._timer is not None:
            if self._at <= now + after_s:
                return
            self._timer.cancel()
        self._at = now + after_s
        self._timer = self._loop.call_later(after_s, self._look_at_the_clock)

    def _look_at_the_clock(self) -> None:
        self._timer = None
        awaited = self._waits_for()
        if awaited is None:
            return
        now = self._loop.time()
        left_s = self._idle_timeout_s if awaited == "room" else self.heard_at + self._idle_timeout_s - now
        if awaited == "head":  # one that comes byte by byte is never silent
            left_s = min(left_s, self._head_by - now)
        if left_s <= 0:
            self._silent()
        else:
            self._be_woken(now, left_s)


def _nothing() -> None:
    return None
