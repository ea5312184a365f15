"""How fast an origin may be asked so that it never has to answer 429. Pure: headers and clock readings in, seconds out.

The Hub announces on every answer what is left of a fixed window (draft-ietf-httpapi-ratelimit-headers):

    RateLimit: "resolvers";r=2998;t=172                          2998 requests left, the window ends in 172 s
    RateLimit-Policy: "fixed window";"resolvers";q=3000;w=300    of 3000 in 300 s

While plenty is left requests are free. When little is left they are spread over the rest of the window; when nothing is
left the next one waits for the new window. Others may share the quota (hosts behind one address, anonymous), so the
announcement is believed wherever it is lower than our own count.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

LOW_SHARE = 0.1
"""Of the quota. A bar higher than a tenth would slow down runs that the quota has room for."""
LOW_COUNT_MIN = 5
SPREAD_MAX_S = 10.0
"""Between two requests. Whoever needs two more of the last three must not be told to wait half a window for them."""
NEW_WINDOW_S = 2.0
"""The end of a window is announced in whole seconds, so it wanders by one; a jump beyond this is another window."""
NUMBER_MAX = 10**9

_ITEM = re.compile(r'((?:"[^"]*"|[^;,"]+)(?:\s*;\s*(?:"[^"]*"|[^;,"]*))*)')
_PARAMETER = re.compile(r"([a-z]+)\s*=\s*([0-9]{1,12})")


@dataclass(frozen=True, slots=True)
class Announcement:
    """What one answer says about one bucket."""

    bucket: str
    remaining: int
    reset_s: float
    """Until the window ends."""
    quota: int | None = None
    window_s: float | None = None


def parse_rate_limit(rate_limit: str | None, policy: str | None = None) -> tuple[Announcement, ...]:
    """The buckets of a ``RateLimit`` field, completed by ``RateLimit-Policy``; garbage is ignored."""
    policies = {name: values for name, values in _items(policy) if "q" in values}
    found = []
    for name, values in _items(rate_limit):
        if "r" not in values or "t" not in values:
            continue
        of_policy = policies.get(name, {})
        window = of_policy.get("w")
        found.append(
            Announcement(
                bucket=name,
                remaining=values["r"],
                reset_s=float(values["t"]),
                quota=of_policy.get("q"),
                window_s=None if window is None else float(window),
            )
        )
    return tuple(found)


def _items(field: str | None) -> list[tuple[str, dict[str, int]]]:
    """Name and numeric parameters of each item. The Hub puts a word before the name in a policy: the last one
    counts."""
    if not field or len(field) > 4096:
        return []
    found = []
    for item in _ITEM.findall(field):
        name = ""
        values: dict[str, int] = {}
        for part in (piece.strip() for piece in item.split(";")):
            parameter = _PARAMETER.fullmatch(part)
            if parameter:
                values.setdefault(parameter[1], min(int(parameter[2]), NUMBER_MAX))
            elif not values:
                name = part.strip('"')
        if values:
            found.append((name, values))
    return found


class RateBudget:
    """What is left for one principal in one bucket of one origin.

    ``observe`` each answer, ``take`` each request as it is sent, and before sending wait ``delay_s``.
    """

    __slots__ = ("_next_at", "_quota", "_remaining", "_reset_at")

    def __init__(self) -> None:
        self._remaining = 0
        self._reset_at = float("-inf")
        self._quota: int | None = None
        self._next_at = float("-inf")

    def __repr__(self) -> str:
        return f"<RateBudget {self._remaining} of {self._quota} until {self._reset_at:.1f}>"

    def observe(self, seen: Announcement, now: float, *, in_flight: int = 0) -> None:
        """Take note of what an answer announced. Answers may arrive in another order than they were made.

        ``in_flight``: requests that are sent and not answered; the first announcement of a window may not count them.
        """
        reset_at = now + seen.reset_s
        if seen.quota is not None:
            self._quota = seen.quota
        if reset_at > self._reset_at + NEW_WINDOW_S:
            self._remaining, self._reset_at = seen.remaining - in_flight, reset_at
            self._next_at = float("-inf")
        else:
            # Within one window the number only falls: a higher one is an older answer. An end that is nearer than the
            # one that was named before is the origin's last word, too.
            self._remaining = min(self._remaining, seen.remaining)
            self._reset_at = min(self._reset_at, max(reset_at, now))

    def take(self, now: float) -> None:
        """A request is sent at ``now``."""
        if now >= self._reset_at:
            return
        delay_s = self._spread_s(now)
        self._remaining -= 1
        if delay_s is not None:
            self._next_at = max(now, self._next_at) + delay_s

    def delay_s(self, now: float) -> float:
        """How long the next request should wait."""
        if now >= self._reset_at:
            return 0.0
        if self._remaining <= 0:
            return self._reset_at - now + 1.0
        return 0.0 if self._spread_s(now) is None else max(0.0, self._next_at - now)

    def _spread_s(self, now: float) -> float | None:
        """Distance between two requests; None while plenty is left."""
        low = LOW_COUNT_MIN if self._quota is None else max(LOW_COUNT_MIN, self._quota * LOW_SHARE)
        if self._remaining > low:
            return None
        return min(SPREAD_MAX_S, (self._reset_at - now) / max(1, self._remaining))
