"""How many connections a host is given, and when the next one. Pure: the clock is an argument.

Additive increase, multiplicative decrease (RFC 5681's idea) on what the host says about itself: 429 and 503 halve the
cap, never below one; each finished body gives a place back. A busy answer is no failed try.
"""

from __future__ import annotations

DOUBLINGS_MAX = 32
"""Of a waiting time; far beyond any ceiling, and far below where a float ends."""


class HostWindow:
    """Connections to one ``scheme://host:port``."""

    LOWER_AT_MOST_EVERY_S = 1.0
    """Answers to requests that were under way together are one message, not many."""

    def __init__(self, cap_max: int, *, backoff_min_s: float, backoff_max_s: float) -> None:
        self.cap_max = cap_max
        self.cap = float(cap_max)
        self.active = 0
        self.not_before = 0.0
        self._backoff_min_s = backoff_min_s
        self._backoff_max_s = backoff_max_s
        self._busy_in_a_row = 0
        self._lowered_at = float("-inf")

    def __repr__(self) -> str:
        return f"<HostWindow {self.active}/{int(self.cap)} of {self.cap_max}>"

    def may_start(self, now: float) -> bool:
        return self.active < int(self.cap) and now >= self.not_before

    def busy(self, now: float, *, retry_after_s: float | None, dice: float) -> None:
        """The host answered 429 or 503. ``dice`` is uniform in [0, 1)."""
        if now - self._lowered_at >= self.LOWER_AT_MOST_EVERY_S:
            self.cap = max(1.0, self.cap / 2)
            self._lowered_at = now
            self._busy_in_a_row += 1
        ceiling = min(self._backoff_max_s, self._backoff_min_s * 2.0 ** min(self._busy_in_a_row, DOUBLINGS_MAX))
        wait_s = self._backoff_min_s + dice * (ceiling - self._backoff_min_s)
        if retry_after_s is not None:
            wait_s = max(wait_s, retry_after_s)
        self.not_before = max(self.not_before, now + wait_s)

    def served(self) -> None:
        """A body came through."""
        self._busy_in_a_row = 0
        self.cap = min(float(self.cap_max), self.cap + 1)
