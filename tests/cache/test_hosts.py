"""What is remembered of hosts: bounded, forgotten in time, and nothing that has to be believed."""

from __future__ import annotations

import json

import pytest

from fetcher.cache.hosts import HOSTS_MAX, KEPT_FOR_S
from fetcher.cache.store import Cache
from fetcher.plan.window import Known
from tests.cache.world import Clock

CDN, HUB = "https://cdn.example:443", "https://hub.example:443"


def names(cache: Cache) -> list[str]:
    with cache.index.read() as rows:
        return [name for (name,) in rows.execute("SELECT name FROM meta WHERE name LIKE 'host%' ORDER BY name")]


def test_what_was_saved_is_there_for_the_next(cache: Cache) -> None:
    assert cache.hosts.load() == {}
    cache.hosts.save({CDN: Known(8, 16, 2.5e7), HUB: Known(4, 16, 0.0)})
    cache.hosts.save({HUB: Known(6, 16, 1e6)})
    assert cache.hosts.load() == {CDN: Known(8, 16, 2.5e7), HUB: Known(6, 16, 1e6)}
    cache.hosts.save({})
    assert len(cache.hosts.load()) == 2


def test_it_is_forgotten_in_time(cache: Cache, clock: Clock) -> None:
    cache.hosts.save({CDN: Known(8, 16, 1.0)})
    clock.turn(KEPT_FOR_S + 1)
    assert cache.hosts.load() == {}
    cache.hosts.save({HUB: Known(8, 16, 1.0)})
    assert names(cache) == [f"host:{HUB}"]


def test_strangers_make_no_heap_of_rows(cache: Cache, clock: Clock) -> None:
    for number in range(3 * HOSTS_MAX):
        cache.hosts.save({f"https://h{number}.example:443": Known(4, 16, 1.0)})
        clock.turn(1)
    known = cache.hosts.load()
    assert len(known) == len(names(cache)) == HOSTS_MAX
    assert f"https://h{3 * HOSTS_MAX - 1}.example:443" in known
    cache.hosts.save({f"https://g{number}.example:443": Known(4, 16, 1.0) for number in range(2 * HOSTS_MAX)})
    assert len(names(cache)) == HOSTS_MAX
    cache.hosts.save({"https://" + "x" * 400: Known(4, 16, 1.0)})
    assert len(names(cache)) == HOSTS_MAX and not any("xxx" in name for name in names(cache))


@pytest.mark.parametrize(
    "value",
    [
        "",
        "{}",
        "[]",
        "nonsense",
        "[" * 100_000,
        json.dumps([0.0, 8, 16]),
        json.dumps([0.0, 0, 16, 1.0]),
        json.dumps([0.0, 17, 16, 1.0]),
        json.dumps([0.0, 8, 5000, 1.0]),
        json.dumps([0.0, True, 16, 1.0]),
        json.dumps([0.0, "8", 16, 1.0]),
        json.dumps([0.0, 8, 16, -1.0]),
        json.dumps([0.0, 8, 16, float("nan")]),
        json.dumps([0.0, 8, 16, float("inf")]),
        json.dumps([float("inf"), 8, 16, 1.0]),
        json.dumps([10**400, 8, 16, 1.0]),
        json.dumps([None, 8, 16, 1.0]),
    ],
)
def test_a_row_that_can_not_be_read_counts_as_not_there(cache: Cache, value: str) -> None:
    with cache.index.write(durable=False) as rows:
        rows.execute("INSERT INTO meta VALUES (?, ?)", (f"host:{CDN}", value))
    assert cache.hosts.load() == {}
    cache.hosts.save({CDN: Known(8, 16, 1.0)})
    assert cache.hosts.load() == {CDN: Known(8, 16, 1.0)}
