"""How many connections a host is given, and when the next one. Pure: the clock is an argument.

Two things have a say, and the lesser counts: what is worth having (``plan.plateau``), and what the host says about
itself. 429 and 503 halve what is allowed, never below one, and are no failed try. What comes back then, comes back with
the answers: a host that had refused everything was in trouble and is soon asked as before; one that refused only some
has told us how many are too many, and that number is approached slowly (the idea of RFC 9438's plateau).
"""

from __future__ import annotations

from dataclasses import dataclass

from fetcher.plan.plateau import Plateau, units

DOUBLINGS_MAX = 32
"""Of a waiting time; far beyond any ceiling, and far below where a float ends."""


@dataclass(frozen=True, slots=True)
class Known:
    """What an earlier run found out about a host: where to begin, nothing more."""

    connections: int
    """Worth having."""
    connections_max: int
    """So many were allowed; as many found means that more might have been better."""
    connection_bytes_per_s: float


SPEED_SHARE = 0.1
"""Weight of the newest tenth of a second in a connection's speed: about a second is remembered."""


class HostWindow:
    """Connections to one ``scheme://host:port``."""

    LOWER_AT_MOST_EVERY_S = 1.0
    """Answers to requests that were under way together are one message, not many."""
    WAIT_SHARE = 1 / 8
    """A host is asked again after at most so much of the time it has been busy for, or a second: what it cost us to
    notice that it is well again stays small beside what it cost to be unwell."""
    WAIT_LEAST_S = 1.0
    APPROACH_SHARE = 0.75
    """Of the number that was too many: so far it goes back quickly."""
    RAISE_EVERY_S, RAISE_EVERY_MAX_S = 5.0, 60.0
    """From there one more, so often; half as often each time that this was too many again."""
    BUSY_REMEMBERED_S = 10.0

    def __init__(self, cap_max: int, *, backoff_min_s: float, backoff_max_s: float, known: Known | None = None) -> None:
        self.cap_max = cap_max
        if known is None:
            self.plateau = Plateau(cap_max)
        else:
            # Where the growing begins, and no more than that: the line may be another one today, and one step up tells.
            self.plateau = Plateau(cap_max, known.connections)
        self.active = 0
        self.silent = 0
        """Of the active, those that have brought nothing for a while."""
        self.not_before = 0.0
        self.bytes_received = 0
        self.requests_done = 0
        self.connection_bytes_per_s = known.connection_bytes_per_s if known is not None else 0.0
        """Speed of one connection, as of late; 0.0 while nothing is known."""
        self._backoff_min_s = backoff_min_s
        self._backoff_max_s = backoff_max_s
        self._allowed = float(cap_max)
        """By the host; ``cap_max`` where it has said nothing."""
        self._fine: float | None = None
        """So many it takes, as far as we know, though it refused more; None: it has refused whatever came, or
        nothing."""
        self._approaching = False
        """The latest raise went beyond what is known to be well."""
        self._raise_every_s = self.RAISE_EVERY_S
        self._busy_in_a_row = 0
        self._busy_from = 0.0
        self._lowered_at = self._busy_at = self._raised_at = float("-inf")
        self._sampled_at: float | None = None
        self._sampled_bytes = 0

    def __repr__(self) -> str:
        return f"<HostWindow {self.active}/{int(self.cap)} of {self.cap_max}>"

    @property
    def cap(self) -> float:
        """Connections it may have now; at least one."""
        return max(1.0, min(float(self.plateau.level), self._allowed))

    def may_start(self, now: float) -> bool:
        # What brings nothing shares no line: others are asked beside it, as far as may be at all.
        return self.active - self.silent < int(self.cap) and self.active < self._active_max and now >= self.not_before

    @property
    def _active_max(self) -> int:
        return max(1, min(self.cap_max, int(self._allowed)))

    def was_busy_lately(self, now: float) -> bool:
        """It has enough to do: nothing is asked of it that can be done without."""
        return now - self._busy_at < self.BUSY_REMEMBERED_S

    # -- what the host says ------------------------------------------------------------------------------------------

    def busy(self, now: float, *, retry_after_s: float | None, dice: float) -> None:
        """The host answered 429 or 503. ``dice`` is uniform in [0, 1)."""
        if not self._busy_in_a_row:
            self._busy_from = now
        self._busy_at = now
        if now - self._lowered_at >= self.LOWER_AT_MOST_EVERY_S:
            self.plateau.refused(now)
            before = self.cap
            if before <= 1:
                self._fine, self._raise_every_s = None, self.RAISE_EVERY_S
            elif not self._busy_in_a_row and self._approaching:
                self._fine = before - 1
                self._raise_every_s = min(self.RAISE_EVERY_MAX_S, 2 * self._raise_every_s)
            elif not self._busy_in_a_row:
                self._fine = before * self.APPROACH_SHARE
            self._approaching = False
            self._allowed = max(1.0, before / 2)
            self._lowered_at = self._raised_at = now
            self._busy_in_a_row += 1
        ceiling = min(
            self._backoff_max_s,
            self._backoff_min_s * 2.0 ** min(self._busy_in_a_row, DOUBLINGS_MAX),
            max(self.WAIT_LEAST_S, (now - self._busy_from) * self.WAIT_SHARE),
        )
        wait_s = self._backoff_min_s + dice * max(0.0, ceiling - self._backoff_min_s)
        if retry_after_s is not None:
            wait_s = max(wait_s, retry_after_s)
        self.not_before = max(self.not_before, now + wait_s)

    def answered(self, now: float, waited_s: float) -> None:
        """The host began to send what was asked for ``waited_s`` before: it takes requests."""
        self._busy_in_a_row = 0
        self.plateau.answered(now, waited_s)
        level = float(self.plateau.resting_level)
        if self._allowed >= level:
            return
        quickly_to = level if self._fine is None else min(level, self._fine)
        if self._allowed < quickly_to:
            self._allowed = min(quickly_to, self._allowed + 1)
            self._raised_at = now
        elif now - self._raised_at >= self._raise_every_s:
            self._allowed += 1
            self._approaching = True
            self._raised_at = now
        if self._allowed >= level:
            self.plateau.well_again(now, refused_all=self._fine is None)
            self._allowed, self._fine = float(self.cap_max), None

    def served(self) -> None:
        """A request is through, its body is here."""
        self.requests_done += 1

    def stalled(self, now: float) -> None:
        """A connection brought nothing for too long."""
        self.plateau.stalled(now)

    @property
    def known(self) -> Known | None:
        """What a later run should begin with; None while nothing was found."""
        if not self.plateau.found:
            return None
        return Known(self.plateau.resting_level, self.cap_max, self.connection_bytes_per_s)

    # -- what comes --------------------------------------------------------------------------------------------------

    def received(self, count: int) -> None:
        self.bytes_received += count

    def sample(self, now: float, left_bytes: float = float("inf")) -> bool:
        """To be called about ten times a second while there are connections. ``left_bytes``: still to be asked for.
        True: the number allowed has changed."""
        elapsed_s = now - self._sampled_at if self._sampled_at is not None else 0.0
        if elapsed_s > 0 and self.active:
            speed = (self.bytes_received - self._sampled_bytes) / elapsed_s / self.active
            known = self.connection_bytes_per_s
            self.connection_bytes_per_s = known + SPEED_SHARE * (speed - known) if known else speed
        self._sampled_at, self._sampled_bytes = now, self.bytes_received
        if self._allowed < self.plateau.level:  # what comes now says what the host allows, not where its knee is
            return False
        return self.plateau.sample(now, units(self.bytes_received, self.requests_done), self.active, left_bytes)
