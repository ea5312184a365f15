"""A cap on body bytes per second, shared by all connections of an engine (token bucket)."""

from __future__ import annotations

from collections.abc import Callable


class RateLimit:
    """``--limit-rate``. Bytes are paid for after they came: reading pauses, TCP slows the sender down."""

    BURST_S = 0.25
    """How much may be owed or saved, in seconds of the rate."""

    def __init__(self, bytes_per_s: int, clock: Callable[[], float]) -> None:
        self._rate = float(bytes_per_s)
        self._clock = clock
        self._credit = self._rate * self.BURST_S
        self._at = clock()

    def owed_s(self, count: int) -> float:
        """Pay for ``count`` more bytes; returns how long to wait until they are within the rate."""
        now = self._clock()
        self._credit = min(self._rate * self.BURST_S, self._credit + (now - self._at) * self._rate) - count
        self._at = now
        return max(0.0, -self._credit / self._rate)
