"""Manners: announced quotas obeyed before a refusal, refusals understood, a rate limit of the user's own kept."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Any

import pytest

from fetcher import Progress, RateLimitedError
from fetcher.engine.asks import Outcome
from fetcher.engine.remembering import Remembering
from fetcher.testing import Hub, Quotas, Synthetic, hub_in_thread
from fetcher.testing.faults import MaxConcurrentBodies, Status
from tests.e2e.support import MIB, REPO, assert_whole, fetch, fetcher_of


def many(count: int) -> dict[str, Any]:
    return {f"{n:04}.json": f'{{"row": {n}}}' for n in range(count)}


@pytest.mark.parametrize(("quota", "connections"), [(60, 16), (120, 8)])
def test_an_announced_quota_is_never_overdrawn(cache_dir: Path, quota: int, connections: int) -> None:
    with hub_in_thread(quotas=Quotas(api=100, resolvers=quota, window_s=4)) as hub:
        hub.add_repo(REPO, files=many(quota + 40))
        assert_whole(fetch(hub, cache_dir, connections_max=connections).snapshot, hub)
        assert hub.count("*", status=429) == 0
        assert hub.count("bodies") == quota + 40


def test_the_quota_of_the_api_too(cache_dir: Path) -> None:
    with hub_in_thread(quotas=Quotas(api=5, window_s=1), page_entries=20) as hub:
        hub.add_repo(REPO, files=many(200))
        assert_whole(fetch(hub, cache_dir, api_time_max_s=30.0).snapshot, hub)
        assert hub.count("*", status=429) == 0


def test_a_quota_that_others_used_up_is_waited_for(cache_dir: Path) -> None:
    """429 without Retry-After: when to come back stands in RateLimit."""
    with hub_in_thread(quotas=Quotas(api=2, window_s=2)) as hub:
        hub.add_repo(REPO, files=many(3))
        for _ in range(2):
            fetch(hub, cache_dir, refresh=True)
        assert hub.count("*", status=429) <= 4


@pytest.mark.parametrize("place", ["resolve-cache", "resolve", "cdn"])
def test_a_burst_of_429_with_retry_after(hub: Hub, cache_dir: Path, place: str) -> None:
    files = many(60) if place == "resolve-cache" else {f"{n}.bin": Synthetic(MIB + n, n) for n in range(12)}
    hub.add_repo(REPO, files=files)
    hub.faults.add(Status(429, retry_after=1).on(place, times=10))
    began = time.monotonic()
    assert_whole(fetch(hub, cache_dir, connections_max=8).snapshot, hub)
    assert time.monotonic() - began >= 1.0
    assert hub.count("*", status=429) == 10
    refused = hub.requests.select(place, status=429)
    knocked = [record for record in hub.requests.select(place) if refused[0].at <= record.at < refused[0].at + 0.9]
    assert len(knocked) <= 8, "only what was under way knocks while the host asked to wait"


def test_who_is_told_to_wait_for_too_long_keeps_nobody_else_waiting(hub: Hub, cache_dir: Path) -> None:
    """It may be his own quota that is used up: who comes after him to that host asks for himself."""
    for number, name in enumerate(("acme/one", "acme/two")):
        hub.add_repo(name, files={"weights.bin": Synthetic(2 * MIB, number)})
    hub.faults.add(Status(429, retry_after=1000).on("resolve", times=1))

    async def main() -> Outcome:
        async with fetcher_of(hub, cache_dir, retry_after_max_s=1.0, no_progress_timeout_s=4.0) as fetcher:
            with pytest.raises(RateLimitedError, match="asks to wait 1000 s"):
                await fetcher.fetch("hf://acme/one", "job")
            return await fetcher.fetch("hf://acme/two", "job")

    assert_whole(asyncio.run(main()).snapshot, hub, "acme/two")
    assert hub.count("resolve", status=429) == 1


@pytest.mark.parametrize("limit", [1, 2, 4])
def test_a_host_that_serves_few_bodies_at_once(hub: Hub, cache_dir: Path, limit: int) -> None:
    hub.add_repo(REPO, files={"weights.bin": Synthetic(24 * MIB, 1)})
    hub.faults.add(MaxConcurrentBodies(limit).on("cdn"))
    assert_whole(fetch(hub, cache_dir).snapshot, hub)
    refused, served = hub.count("cdn", status=503), hub.count("cdn", status=206)
    assert served >= 24 / 8, "parts of one to eight MiB, as fast as the host shows itself"
    assert refused <= 3 * 24, "fewer connections after a 503, not the same again"


def test_never_more_connections_than_asked_for(hub: Hub, cache_dir: Path) -> None:
    hub.add_repo(REPO, files={"weights.bin": Synthetic(16 * MIB, 1)} | many(40))
    hub.faults.add(MaxConcurrentBodies(3).on("cdn"))
    assert_whole(fetch(hub, cache_dir, connections_max=3).snapshot, hub)
    assert hub.count("*", status=503) == 0


def test_a_rate_limit_is_kept(hub: Hub, cache_dir: Path) -> None:
    hub.add_repo(REPO, files={"weights.bin": Synthetic(2_000_000, 1)})
    began = time.monotonic()
    assert_whole(fetch(hub, cache_dir, limit_rate_bytes_per_s=1_000_000).snapshot, hub)
    assert 1.5 <= time.monotonic() - began <= 20.0


def test_a_low_rate_limit_is_no_lack_of_progress(hub: Hub, cache_dir: Path) -> None:
    """A block takes longer than ``no_progress_timeout_s`` because we wait, not because the origin does."""
    hub.add_repo(REPO, files={"weights.bin": Synthetic(2 * MIB, 1)})
    assert_whole(fetch(hub, cache_dir, limit_rate_bytes_per_s=MIB // 3, no_progress_timeout_s=2.0).snapshot, hub)


def test_progress_adds_up(hub: Hub, cache_dir: Path) -> None:
    size = 6 * MIB
    hub.add_repo(REPO, files={"weights.bin": Synthetic(size, 1), "small.txt": "text"})
    events: list[Progress] = []
    fetch(hub, cache_dir, on_event=lambda event: events.append(event) if isinstance(event, Progress) else None)
    assert events[-1].phase == "done"
    assert (events[-1].bytes_done, events[-1].bytes_total) == (size + 4, size + 4)
    assert (events[-1].files_done, events[-1].files_total) == (2, 2)
    assert events[-1].bytes_downloaded == size + 4
    assert [event.bytes_done for event in events] == sorted(event.bytes_done for event in events)


def test_an_event_handler_that_fails_is_let_go(hub: Hub, cache_dir: Path) -> None:
    hub.add_repo(REPO, files={"small.txt": "text"})
    calls = []

    def fail(event: object) -> None:
        calls.append(event)
        raise RuntimeError("the caller's own")

    assert_whole(fetch(hub, cache_dir, on_event=fail).snapshot, hub)
    assert len(calls) == 1


@pytest.mark.parametrize(("limits", "kept"), [({}, 1), ({"limit_rate_bytes_per_s": 50_000_000}, 0)])
def test_what_a_limit_lets_through_is_not_remembered_of_the_host(
    hub: Hub, cache_dir: Path, monkeypatch: pytest.MonkeyPatch, limits: dict[str, int], kept: int
) -> None:
    found: list[Remembering] = []

    async def keep(self: Remembering) -> None:
        found.append(self)

    monkeypatch.setattr(Remembering, "keep", keep)
    hub.add_repo(REPO, files={"weights.bin": Synthetic(2 * MIB, 1)})
    assert_whole(fetch(hub, cache_dir, **limits).snapshot, hub)
    assert len(found) == kept
