"""When a request is tried again: tables of decisions, fixed dice."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from fetcher.config import Settings
from fetcher.errors import FetcherError, ForbiddenError, RateLimitedError, TransportError
from fetcher.plan.retry import Decision, GiveUp, RetryPolicy, Wait, parse_retry_after, retried_status

POLICY = RetryPolicy.of(Settings(cache_dir=Path("/unused"), state_dir=Path("/unused")))
NOW = 1_795_392_000.0  # Mon, 23 Nov 2026 00:00:00 GMT


class Loaded:
    """Dice that always fall on one side."""

    def __init__(self, side: float) -> None:
        self.side = side

    def uniform(self, a: float, b: float, /) -> float:
        return a + (b - a) * self.side


HIGH, LOW = Loaded(1.0), Loaded(0.0)


def test_the_defaults_are_the_promised_ones() -> None:
    assert (
        RetryPolicy(tries_max=10, time_max_s=120.0, backoff_min_s=0.2, backoff_max_s=10.0, retry_after_max_s=120.0)
        == POLICY
    )


@pytest.mark.parametrize(
    ("attempt", "ceiling_s"),
    [(1, 0.4), (2, 0.8), (3, 1.6), (4, 3.2), (5, 6.4), (6, 10.0), (7, 10.0), (9, 10.0)],
)
def test_full_jitter_between_the_least_wait_and_a_doubling_ceiling(attempt: int, ceiling_s: float) -> None:
    longest = POLICY.decide(attempt, 0.0, 503, None, HIGH)
    assert isinstance(longest, Wait) and longest.seconds == pytest.approx(ceiling_s)
    assert POLICY.decide(attempt, 0.0, 503, None, LOW) == Wait(0.2)


@pytest.mark.parametrize("status", [408, 425, 429, 500, 502, 503, 504, 507, 520, 522, 524, 529, 599])
def test_statuses_that_may_change(status: int) -> None:
    assert retried_status(status)
    assert isinstance(POLICY.decide(1, 0.0, status, None, LOW), Wait)


@pytest.mark.parametrize(
    "status", [200, 206, 301, 304, 400, 401, 403, 404, 405, 409, 410, 416, 418, 451, 501, 505, 511]
)
def test_statuses_that_will_not(status: int) -> None:
    assert not retried_status(status)
    assert isinstance(POLICY.decide(1, 0.0, status, None, LOW), GiveUp)


@pytest.mark.parametrize(
    ("error", "again"), [(TransportError("x"), True), (ForbiddenError("x"), False), (RateLimitedError("x"), False)]
)
def test_errors(error: FetcherError, again: bool) -> None:
    assert isinstance(POLICY.decide(1, 0.0, error, None, LOW), Wait) is again


GOLDEN: list[tuple[str, int, float, int, float | None, float, Decision]] = [
    # name, attempt, elapsed_s, outcome, retry_after_s, ordered_s, decision (dice on the high side)
    ("first try", 1, 0.0, 503, None, 0.0, Wait(0.4)),
    ("ninth try", 9, 60.0, 503, None, 0.0, Wait(10.0)),
    ("tenth try", 10, 60.0, 503, None, 0.0, GiveUp("in the last of 10 tries")),
    ("time is nearly up", 3, 118.0, 503, None, 0.0, Wait(1.6)),
    ("no time for the wait", 3, 119.0, 503, None, 0.0, GiveUp("after 3 tries in 119 s")),
    ("asked to wait", 1, 0.0, 429, 5.0, 0.0, Wait(5.2, ordered_s=5.0)),
    ("asked for nothing", 1, 0.0, 429, 0.0, 0.0, Wait(0.4)),
    ("asked by a 503", 1, 0.0, 503, 7.0, 0.0, Wait(7.2, ordered_s=7.0)),
    ("as long as allowed", 1, 0.0, 429, 120.0, 0.0, Wait(120.2, ordered_s=120.0)),
    ("longer than allowed", 1, 0.0, 429, 121.0, 0.0, GiveUp("and asks to wait 121 s", rate_limited=True)),
    ("obeyed beyond our own time", 2, 100.0, 429, 60.0, 0.0, Wait(60.2, ordered_s=60.0)),
    ("a second wish within the sum", 2, 1.0, 429, 60.0, 60.0, Wait(60.2, ordered_s=60.0)),
    ("a second wish beyond the sum", 2, 1.0, 429, 61.0, 60.0, GiveUp("and asks to wait 61 s", rate_limited=True)),
    ("tries end it too", 10, 1.0, 429, 1.0, 9.0, GiveUp("in the last of 10 tries")),
]


@pytest.mark.parametrize("row", GOLDEN, ids=[row[0] for row in GOLDEN])
def test_golden(row: tuple[str, int, float, int, float | None, float, Decision]) -> None:
    _, attempt, elapsed_s, outcome, retry_after_s, ordered_s, expected = row
    decision = POLICY.decide(attempt, elapsed_s, outcome, retry_after_s, HIGH, ordered_s=ordered_s)
    if isinstance(expected, Wait):
        assert isinstance(decision, Wait)
        assert (decision.seconds, decision.ordered_s) == pytest.approx((expected.seconds, expected.ordered_s))
    else:
        assert decision == expected


def test_it_always_ends() -> None:
    dice = random.Random(1)
    for _ in range(200):
        elapsed_s = ordered_s = 0.0
        attempt = 0
        while True:
            attempt += 1
            asked = dice.choice([None, None, dice.uniform(0, 50)])
            decision = POLICY.decide(attempt, elapsed_s, 503, asked, dice, ordered_s=ordered_s)
            if isinstance(decision, GiveUp):
                break
            ordered_s += decision.ordered_s
            elapsed_s += decision.seconds - decision.ordered_s
        assert attempt <= 10 and elapsed_s <= 122 and ordered_s <= 120


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        (None, None),
        ("", None),
        ("0", 0.0),
        ("120", 120.0),
        (" 7 ", 7.0),
        ("1.5", 1.5),
        ("-1", None),
        ("1e9", None),
        ("soon", None),
        ("99999999999", None),
        ("Mon, 23 Nov 2026 00:01:00 GMT", 60.0),
        ("Sun, 22 Nov 2026 23:59:00 GMT", 0.0),
        ("Monday, 23-Nov-26 00:01:00 GMT", 60.0),
        ("Mon, 99 Nov 2026 00:01:00 GMT", None),
        ("Mon, 23 Nov 99999999 00:01:00 GMT", None),
        ("Mon, " + "x" * 1000, None),
    ],
)
def test_retry_after(value: str | None, seconds: float | None) -> None:
    assert parse_retry_after(value, NOW) == seconds
