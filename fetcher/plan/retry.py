"""Whether and when to try a request again. Pure: clock readings and dice come in, a decision goes out.

Two budgets per request. *Our own* patience: ``tries_max`` tries within ``time_max_s``, full jitter between
``backoff_min_s`` and a ceiling that doubles up to ``backoff_max_s`` (so that a thousand hosts that were cut off
together do not come back together). *The origin's* wishes: what it asks us to wait is waited in full, up to
``retry_after_max_s`` in sum, and does not count against our own time. A longer wish ends the request as rate-limited.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Protocol

from fetcher.config import Settings
from fetcher.errors import FetcherError, TransportError

RETRIED_STATUSES = frozenset({408, 425, 429})
"""Of 4xx: the client was too slow, too early, too often. Any other 4xx says the same thing every time."""
FINAL_SERVER_STATUSES = frozenset({501, 505, 511})
"""Of 5xx: not implemented, HTTP version, sign in to this network. No wait changes them."""


class Dice(Protocol):
    """``random.Random`` fits."""

    def uniform(self, a: float, b: float, /) -> float: ...


@dataclass(frozen=True, slots=True)
class Wait:
    """Try again after so many seconds."""

    seconds: float
    ordered_s: float = 0.0
    """How much of it the origin asked for."""


@dataclass(frozen=True, slots=True)
class GiveUp:
    """Do not try again."""

    reason: str
    """End of a sentence that begins with what happened."""
    rate_limited: bool = False
    """The origin asks for a longer wait than is allowed."""


Decision = Wait | GiveUp


def retried_status(status: int) -> bool:
    """Whether an answer of this status may be otherwise next time."""
    return status in RETRIED_STATUSES or (500 <= status <= 599 and status not in FINAL_SERVER_STATUSES)


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """Limits of one request, all its tries included."""

    tries_max: int
    time_max_s: float
    backoff_min_s: float
    backoff_max_s: float
    retry_after_max_s: float

    @classmethod
    def of(cls, settings: Settings) -> RetryPolicy:
        """The policy for API requests."""
        return cls(
            tries_max=settings.api_tries_max,
            time_max_s=settings.api_time_max_s,
            backoff_min_s=settings.backoff_min_s,
            backoff_max_s=settings.backoff_max_s,
            retry_after_max_s=settings.retry_after_max_s,
        )

    def decide(
        self,
        attempt: int,
        elapsed_s: float,
        outcome: int | FetcherError,
        retry_after_s: float | None,
        dice: Dice,
        *,
        ordered_s: float = 0.0,
    ) -> Decision:
        """What to do after try number ``attempt`` (from 1) ended with ``outcome``, a status or an error.

        ``elapsed_s``: since the first try began, without the waits the origin asked for, which are ``ordered_s``.
        ``retry_after_s``: what this answer asks for.
        """
        if isinstance(outcome, FetcherError):
            if not isinstance(outcome, TransportError):
                return GiveUp("which no second try would change")
        elif not retried_status(outcome):
            return GiveUp("which no second try would change")
        asked_s = retry_after_s or 0.0
        if asked_s + ordered_s > self.retry_after_max_s:
            return GiveUp(f"and asks to wait {asked_s:.0f} s", rate_limited=True)
        if attempt >= self.tries_max:
            return GiveUp(f"in the last of {attempt} tries")
        wait_s = self.backoff_s(attempt, dice)
        if asked_s > 0.0:
            # Not a moment earlier than asked; a little later, or all who were told the same come back as one.
            wait_s = asked_s + dice.uniform(0.0, self.backoff_min_s)
        elif elapsed_s + wait_s > self.time_max_s:
            return GiveUp(f"after {attempt} tries in {elapsed_s:.0f} s")
        return Wait(wait_s, ordered_s=asked_s)

    def backoff_s(self, attempt: int, dice: Dice) -> float:
        """Full jitter: anything between the least wait and a ceiling that doubles with each try."""
        ceiling_s = min(self.backoff_max_s, self.backoff_min_s * 2.0 ** min(attempt, 64))
        return dice.uniform(self.backoff_min_s, max(self.backoff_min_s, ceiling_s))


def parse_retry_after(value: str | None, now_unix_s: float) -> float | None:
    """Seconds that a ``Retry-After`` field asks for (RFC 9110, 10.2.3: a number or a date); None for garbage."""
    text = (value or "").strip()
    if re.fullmatch(r"[0-9]{1,10}(?:\.[0-9]{1,6})?", text):
        return float(text)
    if not re.match(r"[A-Za-z]{3,9},? ", text) or len(text) > 64:
        return None
    from email.utils import parsedate_to_datetime  # slow to import, and a date is rare

    try:
        date = parsedate_to_datetime(text)
        return max(0.0, date.timestamp() - now_unix_s)
    except (ValueError, TypeError, OverflowError):
        return None
