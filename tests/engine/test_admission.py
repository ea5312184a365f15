"""Places: the books balance, whatever way a connection goes."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from fetcher.config import Settings
from fetcher.engine.admission import Admission, Place
from fetcher.engine.run import Run
from fetcher.plan.tree import BLOCK_BYTES
from fetcher.plan.window import Known
from tests.engine.fakes import a_job, a_part

HUB = "https://hub.example:443"
CDN = "https://cdn.example:443"


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def admission(clock: Clock, *, everywhere: int = 4, per_host: int = 2) -> Admission:
    settings = Settings(
        cache_dir=Path("/nowhere"),
        state_dir=Path("/nowhere"),
        connections_max=everywhere,
        connections_per_host_max=per_host,
        backoff_min_s=1.0,
        backoff_max_s=1.0,
    )
    return Admission(settings, clock, random.Random(1))


def active(books: Admission) -> tuple[int, int, int]:
    return books.active, books.host(HUB).active, books.host(CDN).active


def test_a_host_has_a_window_of_its_own(clock: Clock) -> None:
    books = admission(clock, everywhere=3)
    places = [books.take(HUB), books.take(HUB)]
    assert not books.may_start(HUB)
    assert books.may_start(CDN)
    places.append(books.take(CDN))
    assert active(books) == (3, 2, 1)
    assert not books.may_start(CDN), "the cap over all hosts"
    places[0].leave()
    assert books.may_start(CDN)
    assert books.may_start(HUB)


def test_who_leaves_is_off_the_books_at_the_host_he_ended_at(clock: Clock) -> None:
    books = admission(clock)
    place = books.take(HUB)
    assert place.move(CDN)
    assert (books.host(HUB).requests_done, books.host(CDN).requests_done) == (1, 0), "it has done its part"
    assert (place.host, active(books)) == (CDN, (1, 0, 1))
    place.leave()
    assert active(books) == (0, 0, 0)


def test_moving_to_where_one_is_costs_nothing(clock: Clock) -> None:
    books = admission(clock, per_host=1)
    place = books.take(HUB)
    assert place.move(HUB)
    assert active(books) == (1, 1, 0)


def test_a_full_host_takes_nobody_in(clock: Clock) -> None:
    books = admission(clock, per_host=1)
    there, place = books.take(CDN), books.take(HUB)
    assert not place.move(CDN)
    assert (place.host, active(books)) == (HUB, (2, 1, 1))
    there.leave()
    assert place.move(CDN)


def test_the_cap_over_all_hosts_does_not_hinder_a_redirect(clock: Clock) -> None:
    books = admission(clock, everywhere=2)
    places = [books.take(HUB), books.take(HUB)]
    assert places[0].move(CDN)
    assert active(books) == (2, 1, 1)


def test_a_busy_host_rests_and_comes_back(clock: Clock) -> None:
    books = admission(clock, per_host=2)
    books.busy(HUB, None)
    assert not books.may_start(HUB)
    assert books.may_start(CDN)
    clock.now += 1.0
    assert books.may_start(HUB)
    place = books.take(HUB)
    assert not books.may_start(HUB), "the window was halved to one"
    books.served(HUB)
    assert not books.may_start(HUB), "this one was asked before"
    books.answered(HUB, 0.0)
    assert not books.may_start(HUB), "two were too many a second ago"
    clock.now += 5.0
    books.answered(HUB, 0.0)
    assert books.may_start(HUB)
    place.leave()


def test_the_last_places_go_to_who_has_fewest(clock: Clock) -> None:
    books = admission(clock, everywhere=4, per_host=4)
    places = [books.take(HUB) for _ in range(4)]
    assert not books.may_start(CDN)
    places.pop().leave()
    assert not books.may_start(HUB), "another host waits for this one"
    assert books.may_start(CDN)
    places.append(books.take(CDN))
    places.pop(0).leave()
    assert not books.may_start(HUB) or books.host(HUB).active >= books.host(CDN).active
    clock.now += 1.0
    assert books.may_start(HUB), "who waits no longer is not waited for"


def test_who_could_not_start_anyway_is_not_waited_for(clock: Clock) -> None:
    books = admission(clock, everywhere=2, per_host=2)
    place, _ = books.take(HUB), books.take(HUB)
    assert not books.may_start(CDN)
    books.busy(CDN, 30.0)
    place.leave()
    assert books.may_start(HUB)


def test_what_comes_is_counted_by_host_and_wakes_who_waits(clock: Clock) -> None:
    books = admission(clock, everywhere=16, per_host=16)
    woken: list[str] = []
    books.watch(lambda: woken.append("woken"))
    for _ in range(4):
        books.take(CDN)
    assert not books.may_start(CDN), "a few to begin with"
    for _ in range(30):
        clock.now += 0.1
        books.received(CDN, 1 << 20)
        books.look()
        books.look()
    assert books.host(CDN).bytes_received == 30 << 20
    assert books.may_start(CDN)
    assert woken == ["woken"]
    assert 2e6 < books.host(CDN).connection_bytes_per_s < 3e6


def test_what_earlier_runs_found_is_where_it_begins(clock: Clock) -> None:
    books = admission(clock, everywhere=16, per_host=16)
    books.recall({CDN: Known(9, 16, 1e6)})
    assert (books.host(CDN).cap, books.host(HUB).cap) == (9, 4)


def test_what_a_host_asks_for_is_obeyed(clock: Clock) -> None:
    books = admission(clock)
    books.busy(HUB, 30.0)
    clock.now += 29.9
    assert not books.may_start(HUB)
    clock.now += 0.1
    assert books.may_start(HUB)


def test_whoever_watches_is_woken_when_a_place_is_free(clock: Clock) -> None:
    books = admission(clock)
    woken: list[str] = []
    stop_first = books.watch(lambda: woken.append("first"))
    books.watch(lambda: woken.append("second"))
    books.take(HUB).leave()
    assert sorted(woken) == ["first", "second"]
    woken.clear()
    stop_first()
    stop_first()
    place = books.take(HUB)
    assert woken == []
    place.move(CDN)
    assert woken == ["second"], "a redirect frees a place where it came from"


def test_of_a_free_place_those_hear_first_who_have_taken_none_for_longest(clock: Clock) -> None:
    books = admission(clock)
    woken: list[str] = []
    watchers = {name: partial(woken.append, name) for name in ("first", "second", "third")}
    assert not books.shared
    for watcher in watchers.values():
        books.watch(watcher)
    assert books.shared

    def taken_by(name: str) -> list[str]:
        woken.clear()
        books.take(HUB, watchers[name]).leave()
        return list(woken)

    assert taken_by("first") == ["second", "third", "first"]
    assert taken_by("second") == ["third", "first", "second"]
    assert taken_by("second") == ["third", "first", "second"]
    books.take(HUB, print).leave()
    assert taken_by("third") == ["first", "second", "third"], "who does not watch changes nothing"


def test_a_watcher_may_leave_while_it_is_woken(clock: Clock) -> None:
    books = admission(clock)
    stops: list[Callable[[], None]] = []
    woken = 0

    def leave() -> None:
        nonlocal woken
        woken += 1
        for stop in stops:
            stop()

    stops.append(books.watch(leave))
    stops.append(books.watch(lambda: None))
    books.take(HUB).leave()
    books.take(HUB).leave()
    assert woken == 1


def test_the_books_balance_after_any_traffic(clock: Clock, rng: random.Random) -> None:
    books = admission(clock, everywhere=5, per_host=3)
    places: list[Place] = []
    for _ in range(2000):
        clock.now += rng.random()
        match rng.randrange(5):
            case 0 | 1:
                host = rng.choice([HUB, CDN])
                if books.may_start(host):
                    places.append(books.take(host))
            case 2 if places:
                rng.choice(places).move(rng.choice([HUB, CDN]))
            case 3 if places:
                places.pop(rng.randrange(len(places))).leave()
            case 4:
                host = rng.choice([HUB, CDN])
                if rng.random() < 0.3:
                    books.busy(host, None)
                else:
                    books.served(host)
        assert active(books) == (
            len(places),
            sum(place.host == HUB for place in places),
            sum(place.host == CDN for place in places),
        )
        assert books.active <= 5
        assert max(active(books)[1:]) <= 3
    for place in places:
        place.leave()
    assert active(books) == (0, 0, 0)


@pytest.mark.parametrize(("left_s", "tried"), [((2.0, 3.0), False), ((2.0, 30.0), True), ((), True)])
def test_fewer_are_tried_for_as_long_as_all_who_wait_have_enough_to_come(
    clock: Clock, left_s: tuple[float, ...], tried: bool
) -> None:
    books = admission(clock, everywhere=6, per_host=6)
    books.recall({CDN: Known(6, 16, 1e7)})
    for seconds in left_s:
        books.watch(lambda: None, lambda host, seconds=seconds: seconds * 60e6 if host == CDN else 0.0)  # type: ignore[misc]
    for _ in range(6):
        books.take(CDN)
    levels = set()
    for _ in range(300):
        clock.now += 0.1
        books.received(CDN, 6_000_000)
        books.look()
        levels.add(int(books.host(CDN).cap))
    assert (4 in levels) is tried


def test_what_is_still_to_come_of_a_host_is_known_once_all_files_are_begun() -> None:
    jobs = [a_job(16 * BLOCK_BYTES), a_job(8 * BLOCK_BYTES)]
    for job, host in zip(jobs, (HUB, CDN), strict=True):
        job.source = SimpleNamespace(host=host)  # type: ignore[assignment]
    a_part(jobs[0])
    run: Any = SimpleNamespace(begun=jobs, queues=SimpleNamespace(follows=False))
    assert Run.left_bytes(run, HUB) == 12 * BLOCK_BYTES, "without what is under way"
    assert Run.left_bytes(run, CDN) == 8 * BLOCK_BYTES
    run.queues.follows = True
    assert Run.left_bytes(run, HUB) == float("inf"), "nobody knows where those are that follow"


def test_a_run_that_waits_for_places_says_what_it_has_still_to_ask_for() -> None:
    class WatchedError(Exception):
        pass

    def watch(wake: object, left_bytes: object) -> None:
        raise WatchedError(wake, left_bytes)

    run: Any = SimpleNamespace(
        _jobs=(object(),),
        changed=SimpleNamespace(set=object()),
        left_bytes=object(),
        tools=SimpleNamespace(admission=SimpleNamespace(watch=watch)),
    )
    with pytest.raises(WatchedError) as watched:
        asyncio.run(Run._execute(run))
    assert watched.value.args == (run.changed.set, run.left_bytes)
