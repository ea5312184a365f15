"""The cap on body bytes, on a clock that a test turns."""

from __future__ import annotations

import asyncio

import pytest

from fetcher.engine import limit
from fetcher.engine.limit import RateLimit

RATE = 1_000_000


class Clock:
    """Time goes by only while somebody sleeps."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.slept: list[float] = []

    def __call__(self) -> float:
        return self.now

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += seconds


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()

    class Asyncio:
        sleep = staticmethod(made.sleep)

    monkeypatch.setattr(limit, "asyncio", Asyncio)
    return made


def pay(bucket: RateLimit, *counts: int) -> None:
    async def main() -> None:
        for count in counts:
            await bucket.pay(count)

    asyncio.run(main())


def test_a_burst_of_a_quarter_second_is_free(clock: Clock) -> None:
    pay(RateLimit(RATE, clock), RATE // 8, RATE // 8)
    assert clock.slept == []


def test_what_goes_beyond_is_waited_for(clock: Clock) -> None:
    bucket = RateLimit(RATE, clock)
    pay(bucket, RATE // 4, RATE // 2)
    assert clock.slept == [pytest.approx(0.5)]


@pytest.mark.parametrize("piece", [1_000, 65_536, 262_144, 5_000_000])
def test_over_time_the_rate_is_kept_whatever_the_pieces(clock: Clock, piece: int) -> None:
    bucket = RateLimit(RATE, clock)
    began = clock.now
    counts = [piece] * (20 * RATE // piece)
    pay(bucket, *counts)
    elapsed_s, total = clock.now - began, sum(counts)
    assert total / RATE - RateLimit.BURST_S - 1e-6 <= elapsed_s <= total / RATE


def test_idle_time_saves_up_one_burst_and_no_more(clock: Clock) -> None:
    bucket = RateLimit(RATE, clock)
    pay(bucket, RATE)
    clock.now += 3600.0
    clock.slept.clear()
    pay(bucket, RATE // 4)
    assert clock.slept == []
    pay(bucket, RATE // 10)
    assert clock.slept == [pytest.approx(0.1)]


def test_connections_share_one_rate() -> None:
    """On the real clock: four that pay at once wait for each other's bytes as well."""

    async def main() -> float:
        loop = asyncio.get_running_loop()
        bucket = RateLimit(RATE, loop.time)
        began = loop.time()
        await asyncio.gather(*(bucket.pay(RATE // 8) for _ in range(4)))
        return loop.time() - began

    assert asyncio.run(main()) >= 0.25 - 0.01
