"""Rate budgets of all origins in use: told of every answer, asked before every request. Knows no origin's dialect.

Which bucket a request will be counted in is learned: the buckets that earlier answers to requests of the same origin,
purpose and principal named. So an origin that announces nothing costs nothing.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from typing import TypeAlias

from fetcher.model.secret import Credential
from fetcher.net.request import Answer, Request
from fetcher.plan.pace import RateBudget, parse_rate_limit

BUCKETS_MAX = 8
"""Of one origin and purpose; an origin that names ever new ones is not listened to."""
BUDGETS_MAX = 4_096
"""Origins, purposes and principals; jobs name them at will. The one that announced least lately goes first, and whoever
is asked again announces again."""


class Pacer:
    """Shared by everybody who asks the same origins. Only for the event loop's thread."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._budgets: dict[PaceKey, dict[str, RateBudget]] = {}
        self._in_flight: Counter[PaceKey] = Counter()

    def delay_s(self, request: Request) -> float:
        """How long ``request`` should wait so that no 429 comes; 0.0 where nothing is known."""
        return self.delay_of(key_of(request))

    def delay_of(self, key: PaceKey) -> float:
        """The same for all requests of one ``key_of``."""
        budgets = self._budgets.get(key)
        if not budgets:
            return 0.0
        now = self._clock()
        return max(budget.delay_s(now) for budget in budgets.values())

    def sent(self, request: Request) -> None:
        """``request`` goes out now: one less is left. To be followed by ``observe`` or ``unanswered``."""
        self.sent_of(key_of(request))

    def sent_of(self, key: PaceKey) -> None:
        self._in_flight[key] += 1
        if budgets := self._budgets.get(key):
            now = self._clock()
            for budget in budgets.values():
                budget.take(now)

    def unanswered(self, request: Request) -> None:
        """No answer came to ``request``, and none will."""
        self.unanswered_of(key_of(request))

    def unanswered_of(self, key: PaceKey) -> None:
        if self._in_flight[key] > 1:
            self._in_flight[key] -= 1
        else:
            del self._in_flight[key]

    def observe(self, request: Request, answer: Answer) -> None:
        """Take note of what ``answer`` announces."""
        self.observe_of(key_of(request), answer)

    def observe_of(self, key: PaceKey, answer: Answer) -> None:
        self.unanswered_of(key)  # it is under way no longer
        announced = answer.headers.get("RateLimit")
        if announced is None:
            return
        budgets = self._budgets[key] = self._budgets.pop(key, {})
        if len(self._budgets) > BUDGETS_MAX:
            del self._budgets[next(iter(self._budgets))]
        now = self._clock()
        for seen in parse_rate_limit(announced, answer.headers.get("RateLimit-Policy")):
            if seen.bucket not in budgets and len(budgets) >= BUCKETS_MAX:
                continue
            budgets.setdefault(seen.bucket, RateBudget()).observe(seen, now, in_flight=self._in_flight[key])


PaceKey: TypeAlias = tuple[str, str, Credential | None]


def key_of(request: Request) -> PaceKey:
    """What requests that share their budgets have in common."""
    origin = request.origin
    return origin, request.purpose, request.credential if origin == request.credential_origin else None


def wait_asked_s(answer: Answer, now_unix_s: float) -> float | None:
    """How long a 429 or 503 asks to wait: a used-up ``RateLimit`` says when it ends, else ``Retry-After``; None: no
    word."""
    from fetcher.plan.retry import parse_retry_after

    used_up = [seen for seen in parse_rate_limit(answer.headers.get("RateLimit")) if seen.remaining == 0]
    if used_up:
        return max(seen.reset_s for seen in used_up) + 1.0
    return parse_retry_after(answer.headers.get("Retry-After"), now_unix_s)
