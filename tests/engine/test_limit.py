"""The cap on body bytes, on a clock that a test turns."""

from __future__ import annotations

import pytest

from fetcher.engine.limit import RateLimit

RATE = 1_000_000


class Clock:
    """Time goes by only while somebody waits."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.slept: list[float] = []

    def __call__(self) -> float:
        return self.now

    def wait(self, seconds: float) -> None:
        if seconds:
            self.slept.append(seconds)
            self.now += seconds


@pytest.fixture
def clock() -> Clock:
    return Clock()


def pay(bucket: RateLimit, clock: Clock, *counts: int) -> None:
    """As one connection does: what is owed for a piece is waited for before the next one."""
    for count in counts:
        clock.wait(bucket.owed_s(count))


def test_a_burst_of_a_quarter_second_is_free(clock: Clock) -> None:
    pay(RateLimit(RATE, clock), clock, RATE // 8, RATE // 8)
    assert clock.slept == []


def test_what_goes_beyond_is_waited_for(clock: Clock) -> None:
    bucket = RateLimit(RATE, clock)
    pay(bucket, clock, RATE // 4, RATE // 2)
    assert clock.slept == [pytest.approx(0.5)]


@pytest.mark.parametrize("piece", [1_000, 65_536, 262_144, 5_000_000])
def test_over_time_the_rate_is_kept_whatever_the_pieces(clock: Clock, piece: int) -> None:
    bucket = RateLimit(RATE, clock)
    began = clock.now
    counts = [piece] * (20 * RATE // piece)
    pay(bucket, clock, *counts)
    elapsed_s, total = clock.now - began, sum(counts)
    assert total / RATE - RateLimit.BURST_S - 1e-6 <= elapsed_s <= total / RATE


def test_idle_time_saves_up_one_burst_and_no_more(clock: Clock) -> None:
    bucket = RateLimit(RATE, clock)
    pay(bucket, clock, RATE)
    clock.now += 3600.0
    clock.slept.clear()
    pay(bucket, clock, RATE // 4)
    assert clock.slept == []
    pay(bucket, clock, RATE // 10)
    assert clock.slept == [pytest.approx(0.1)]


def test_connections_share_one_rate(clock: Clock) -> None:
    """Four that pay at once wait for each other's bytes as well."""
    bucket = RateLimit(RATE, clock)
    owed = [bucket.owed_s(RATE // 8) for _ in range(4)]
    assert owed == [0.0, 0.0, pytest.approx(0.125), pytest.approx(0.25)]


def test_to_ask_for_nothing_costs_nothing(clock: Clock) -> None:
    bucket = RateLimit(RATE, clock)
    assert [bucket.owed_s(0) for _ in range(3)] == [0.0, 0.0, 0.0]
    assert bucket.owed_s(RATE) == pytest.approx(0.75)
    assert bucket.owed_s(0) == pytest.approx(0.75), "and tells what is owed"
