"""Progress as the caller sees it: rare enough, true, and never a danger to the run."""

from __future__ import annotations

import pytest

from fetcher.engine.observe import Observer
from fetcher.model.events import Event, Notice, Progress


class Clock:
    def __init__(self) -> None:
        self.now = 50.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def observed(clock: Clock) -> tuple[Observer, list[Event]]:
    events: list[Event] = []
    return Observer(events.append, "hf://acme/tiny@main", clock), events


def test_at_most_ten_a_second_phases_included(clock: Clock) -> None:
    """The promise to programs that read the events: in no second more than ten."""
    times: list[float] = []
    observer = Observer(lambda event: times.append(clock.now), "", clock)
    for step in range(300):
        clock.now += 0.01
        observer.tick()
        match step:
            case 100:
                observer.enter("plan")
            case 103:
                observer.enter("fetch")
            case 150:
                observer.enter("publish")
            case 153:
                observer.enter("done")
    assert max(sum(0 <= other - time < 1.0 for other in times) for time in times) <= 10
    assert len(times) >= 9, "but it is told: three seconds of ticks and four phases"


def test_a_new_phase_is_told_at_once(clock: Clock) -> None:
    observer, events = observed(clock)
    observer.enter("resolve")
    observer.enter("plan")
    observer.tick()
    assert [event.phase for event in events if isinstance(event, Progress)] == ["resolve", "plan"]


def test_the_numbers(clock: Clock) -> None:
    observer, events = observed(clock)
    observer.enter("fetch")
    clock.now += 2.0
    observer.bytes_total, observer.bytes_done = 1000, 400
    observer.files_total, observer.files_done = 3, 1
    observer.bytes_downloaded, observer.connections, observer.parts_moved = 600, 7, 2
    observer.tick()
    assert events[-1] == Progress(
        resource="hf://acme/tiny@main",
        phase="fetch",
        bytes_done=400,
        bytes_total=1000,
        files_done=1,
        files_total=3,
        bytes_downloaded=600,
        rate_bytes_per_s=300.0,
        eta_s=2.0,
        connections=7,
        parts_moved=2,
    )


def test_what_is_not_known_is_none(clock: Clock) -> None:
    observer, events = observed(clock)
    observer.enter("resolve")
    (event,) = events
    assert isinstance(event, Progress)
    assert (event.bytes_total, event.files_total, event.eta_s, event.rate_bytes_per_s) == (None, None, None, 0.0)


def test_the_rate_forgets_what_is_long_ago(clock: Clock) -> None:
    observer, events = observed(clock)
    for step in range(200):
        clock.now += 0.25
        observer.bytes_downloaded += 1_000_000 if step < 100 else 1_000
        observer.tick()
    last = events[-1]
    assert isinstance(last, Progress)
    assert last.rate_bytes_per_s == pytest.approx(4_000, rel=0.1)


def test_more_done_than_planned_leaves_nothing_to_wait_for(clock: Clock) -> None:
    """A file fetched once more after a wrong digest."""
    observer, events = observed(clock)
    observer.enter("fetch")
    clock.now += 1.0
    observer.bytes_total, observer.bytes_done, observer.bytes_downloaded = 10, 12, 12
    observer.tick()
    assert isinstance(events[-1], Progress) and events[-1].eta_s == 0.0


def test_notices_are_told_at_once_with_the_resource(clock: Clock) -> None:
    observer, events = observed(clock)
    observer.notice("one")
    observer.notice("two")
    assert events == [Notice("hf://acme/tiny@main", "one"), Notice("hf://acme/tiny@main", "two")]


@pytest.mark.parametrize("first", ["tick", "notice", "enter"])
def test_a_callback_that_raises_is_detached(clock: Clock, first: str) -> None:
    calls: list[Event] = []

    def broken(event: Event) -> None:
        calls.append(event)
        raise RuntimeError("the display is broken")

    observer = Observer(broken, "", clock)
    match first:
        case "tick":
            observer.tick()
        case "notice":
            observer.notice("hello")
        case "enter":
            observer.enter("fetch")
    clock.now += 10.0
    observer.tick()
    observer.notice("still here?")
    observer.enter("done")
    assert len(calls) == 1


def test_an_interruption_in_the_callback_is_not_swallowed(clock: Clock) -> None:
    def interrupted(event: Event) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Observer(interrupted, "", clock).notice("hello")


def test_nobody_listens(clock: Clock) -> None:
    observer = Observer(None, "", clock)
    observer.enter("fetch")
    observer.notice("into the void")
    observer.tick(force=True)
