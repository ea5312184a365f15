"""What is learned of hosts and buckets: bounded, judged, and nothing about askers."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from fetcher.errors import NotFoundError
from fetcher.model.s3_address import readings
from fetcher.origins.s3_errors import S3Fault
from fetcher.origins.s3_memory import Memory, Remembered, region_told
from fetcher.origins.together import both, each

BUCKET = readings("https://b-1.s3.amazonaws.com/k", bucket=None, endpoint="https://s3.amazonaws.com")[0].bucket
HOST = "https://b-1.s3.amazonaws.com:443"
NOW = 1_795_000_000.0


def test_what_was_needed_least_lately_is_forgotten() -> None:
    remembered: Remembered[str, int] = Remembered(2)
    remembered.put("a", 1)
    remembered.put("b", 2)
    assert remembered.get("a") == 1
    remembered.put("c", 3)
    assert (remembered.get("a"), remembered.get("b"), remembered.get("c")) == (1, None, 3)
    remembered.drop("c")
    remembered.drop("never there")
    assert remembered.get("c") is None


def test_a_region_is_learned_once() -> None:
    memory = Memory()
    assert memory.placed(BUCKET) == BUCKET
    assert memory.learn_region(BUCKET, "us-east-1", "eu-west-1")
    assert memory.placed(BUCKET).host_url == "https://b-1.s3.eu-west-1.amazonaws.com"
    assert not memory.learn_region(BUCKET, "eu-west-1", "eu-west-1")
    for odd in ("", "eu-west-1.evil.example", "EU", "a" * 64, "x/y"):
        assert not memory.learn_region(BUCKET, "us-east-1", odd)
    assert memory.region(BUCKET) == "eu-west-1"


@pytest.mark.parametrize(
    ("date", "skew_s"),
    [
        ("Wed, 18 Nov 2026 08:53:20 GMT", -8000.0),
        ("not a date", None),
        (None, None),
        ("Wed, 18 Nov 2026 11:06:50 GMT", None),  # seconds break nothing
        ("Fri, 01 Jan 1900 00:00:00 GMT", None),
    ],
)
def test_a_clock_is_learned_from_a_date(date: str | None, skew_s: float | None) -> None:
    memory = Memory()
    assert memory.learn_clock(HOST, date, NOW) is (skew_s is not None)
    assert memory.host(HOST).clock_skew_s == (skew_s or 0.0)
    assert not memory.learn_clock(HOST, date, NOW)


def test_doubts_are_about_one_etag() -> None:
    memory = Memory()
    memory.doubt("https://x/a", '"1"')
    assert memory.doubts("https://x/a", '"1"')
    assert not memory.doubts("https://x/a", '"2"')
    assert not memory.doubts("https://x/a", None) and not memory.doubts("https://x/b", '"1"')
    memory.settle("https://x/a", '"1"', '"2"', BUCKET)
    assert memory.site(BUCKET).own_etags and memory.host(HOST).takes_if_match
    assert not memory.doubts("https://x/a", '"1"')
    assert not memory.site(replace(BUCKET, host_pattern=None, host_url="https://another")).own_etags
    memory.doubt("https://x/a", '"1"')
    memory.settle("https://x/a", '"1"', '"1"', BUCKET)
    assert not memory.host(HOST).takes_if_match


@pytest.mark.parametrize(
    ("status", "code", "region", "told"),
    [
        (301, "PermanentRedirect", "eu-west-1", "eu-west-1"),
        (307, "", "eu-west-1", "eu-west-1"),
        (400, "AuthorizationHeaderMalformed", "eu-west-1", "eu-west-1"),
        (400, "IllegalLocationConstraintException", "eu-west-1", "eu-west-1"),
        (400, "", "eu-west-1", "eu-west-1"),  # HEAD
        (301, "PermanentRedirect", "", None),
        (403, "AccessDenied", "eu-west-1", None),  # it is in the right one
        (400, "InvalidArgument", "eu-west-1", None),
    ],
)
def test_which_refusals_name_a_region(status: int, code: str, region: str, told: str | None) -> None:
    assert region_told(S3Fault(status, code, "", region, {})) == told


def test_questions_together() -> None:
    running: list[int] = []
    most = 0
    cancelled = 0

    async def ask(number: int) -> int:
        nonlocal most, cancelled
        running.append(number)
        most = max(most, len(running))
        try:
            await asyncio.sleep(60 if number == 99 else 0)
        except asyncio.CancelledError:
            cancelled += 1
            raise
        finally:
            running.remove(number)
        if number == -1:
            raise NotFoundError("x")
        return number * 2

    async def main() -> None:
        assert await each([], ask) == []
        assert await each(range(20), ask, 3) == [number * 2 for number in range(20)]
        assert most == 3
        assert await both(lambda: ask(1), lambda: ask(2)) == (2, 4)
        with pytest.raises(NotFoundError):
            await both(lambda: ask(99), lambda: ask(-1))
        assert cancelled == 1
        assert await both(lambda: ask(1), lambda: ask(2), lambda answer: answer == 2, 60.0) == (2, 4)
        assert await both(lambda: ask(1), lambda: ask(99), lambda answer: answer == 2) == (2, None)
        assert cancelled == 2
        with pytest.raises(NotFoundError):
            await both(lambda: ask(-1), lambda: ask(99), lambda answer: True)
        with pytest.raises(NotFoundError):
            await each([99, 99, -1], ask, 3)
        assert cancelled == 5

    asyncio.run(main())
