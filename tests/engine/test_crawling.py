"""Connections that crawl, on virtual time: which are closed, how many, and what it brings.

What decides is the product's own (``engine.crawling``, ``plan.crawl``, the transfer's books). The line is simulated: a
capacity, a cap per stream, a delay, connections that find their speed by doubling, and a host of which some connections
crawl for as long as they live. Each test runs on several seeds; bad judges fail them.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from fetcher.config import Settings
from fetcher.engine import crawling
from fetcher.engine.admission import Admission
from fetcher.engine.crawling import Crawling
from fetcher.engine.jobs import Active, FileJob
from fetcher.engine.run import Run
from fetcher.model.manifest import Validator
from fetcher.plan import crawl
from fetcher.plan.crawl import CLOSING_EVERY_S, CLOSINGS_AT_ONCE
from fetcher.plan.transfer import Event, Outcome, Part, Transfer
from fetcher.plan.tree import BLOCK_BYTES, block_length
from fetcher.plan.watch import Pulse
from tests.engine.fakes import a_job
from tests.engine.lines import fails_some

MIB = 1 << 20
GBIT = 125e6
"""Bytes per second of 1 Gbit/s."""
TICK_S = 0.02
LOOK_TICKS = 5
SEGMENTS_FIRST_BYTES = 14_600
HOST = "https://cdn.example:443"
SEEDS = range(5)


class VirtualActive(Active):
    """Ends when the world looks next."""

    def end_with(self, verdict: Outcome) -> None:
        self.verdict = self.verdict or verdict


@dataclass(eq=False)
class Wire:
    """A connection."""

    cap_bytes_per_s: float
    age_s: float = 0.0


@dataclass(eq=False)
class Request:
    """A part under way over a wire."""

    wire: Wire
    part: Part
    active: VirtualActive
    starts_at: float
    position: float


@dataclass(eq=False)
class World:
    """One file from one host over ``connections``, until it is here."""

    seed: int
    size: int = 512 * MIB
    connections: int = 8
    first_connections: int = 8
    """As many in the first two seconds."""
    part_bytes: int = 16 * MIB
    line_bytes_per_s: float = GBIT
    stream_bytes_per_s: float = float("inf")
    crawl_bytes_per_s: float = 2.0 * MIB
    crawl_share: float = 0.0
    round_trip_s: float = 0.04
    noise: float = 0.0
    """Share by which each stream strays, anew each tenth of a second."""
    silent: tuple[float, float] = (0.0, 0.0)
    """The whole line brings nothing in between."""
    slow_answers: float = 0.0
    """Share of the new connections whose first packet is lost, which costs a second."""
    busy: bool = False
    """The host has refused something just now, all the time."""
    limited: bool = False
    pause_s: float = 0.0
    """The host's announced rate leaves no request for so long, all the time."""
    now: float = 0.0
    opened: int = 0
    brought_bytes: float = 0.0
    open: list[Request] = field(default_factory=list)
    kept: list[Wire] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.rng = random.Random(self.seed)
        self.luck: dict[Wire, float] = {}
        settings = Settings(cache_dir=Path("/nowhere"), state_dir=Path("/nowhere"))
        self.admission = Admission(settings, lambda: self.now, self.rng)
        self.job: FileJob = a_job(self.size)
        self.job.transfer = Transfer(self.size, part_bytes=self.part_bytes, window_bytes=None)
        self.job.transfer.on(Event.BEGIN)
        self.job.source = SimpleNamespace(host=HOST, pause_s=lambda: self.pause_s)  # type: ignore[assignment]
        run: Any = SimpleNamespace(
            settings=settings,
            tools=SimpleNamespace(
                admission=self.admission, clock=lambda: self.now, limit=object() if self.limited else None
            ),
            begun=[self.job],
            actives=set(),
        )
        run.is_left_alone = partial(Run.is_left_alone, run)
        self.run_ = run
        self.crawling = Crawling(run)

    @property
    def closed(self) -> int:
        return self.crawling.closed_count

    async def run(self) -> World:
        ticks = 0
        while not self.job.transfer.whole:
            ticks += 1
            self.now = ticks * TICK_S
            assert self.now < 3600, "it ends"
            if self.busy:
                self.admission.busy(HOST, None)
            most = self.connections if self.now > 2.0 else min(self.connections, self.first_connections)
            while len(self.open) < most and self._start():
                pass
            self._flow(ticks)
            for request in list(self.open):
                self._look_at(request)
            if ticks % LOOK_TICKS == 0:
                self.crawling.look(self.now)
        return self

    def _start(self) -> bool:
        part = self.job.transfer.next_part(self.part_bytes)
        if part is None:
            return False
        trips = 1 if self.kept else 2
        if self.kept:
            wire = self.kept.pop()
        else:
            self.opened += 1
            crawls = self.rng.random() < self.crawl_share
            wire = Wire(self.crawl_bytes_per_s if crawls else self.stream_bytes_per_s)
        active = VirtualActive(part, Pulse(self.now, moves=part.moves), self.admission.take(HOST), self.job)
        active.answered_s = trips * self.round_trip_s + (trips > 1 and self.rng.random() < self.slow_answers)
        self.open.append(Request(wire, part, active, self.now + active.answered_s, float(part.span.start)))
        self.run_.actives.add(active)
        self.job.active.add(active)
        return True

    def _flow(self, ticks: int) -> None:
        flowing = [request for request in self.open if self.now >= request.starts_at]
        if self.silent[0] <= self.now < self.silent[1]:
            return
        if ticks % LOOK_TICKS == 1:
            self.luck = {request.wire: 1 + self.rng.uniform(-self.noise, self.noise) for request in self.open}
        wishes = {}
        for request in flowing:
            window = SEGMENTS_FIRST_BYTES * 2.0 ** min(40.0, request.wire.age_s / self.round_trip_s)
            wishes[request] = min(request.wire.cap_bytes_per_s, window / self.round_trip_s, self.line_bytes_per_s)
            wishes[request] *= self.luck.get(request.wire, 1.0)
        got = 0.0
        for left, request in zip(range(len(flowing), 0, -1), sorted(flowing, key=wishes.__getitem__), strict=True):
            rate = min(wishes[request], (self.line_bytes_per_s - got) / left)
            got += rate
            request.wire.age_s += TICK_S
            self._bring(request, rate * TICK_S)

    def _bring(self, request: Request, count: float) -> None:
        stop = min(request.position + count, float(request.part.span.stop))
        self.brought_bytes += stop - request.position
        whole = int(request.position) // BLOCK_BYTES
        request.active.pulse.received(int(stop) - int(request.position), self.now)
        request.position = stop
        while whole < request.part.blocks.stop and whole * BLOCK_BYTES + block_length(self.size, whole) <= stop:
            if self.job.transfer.claim(whole):
                self.job.transfer.wrote(whole, proven=True)
            whole += 1
            if request.active.leaves_after_block:
                request.active.end_with(Outcome.CRAWLED)

    def _look_at(self, request: Request) -> None:
        through = request.position >= request.part.span.stop
        if not through and request.active.verdict is None:
            return
        outcome = Outcome.COMPLETE if through else request.active.verdict
        assert outcome is not None and request.active.place is not None
        if through and not self.crawling.is_through(request.active, HOST):
            self.kept.append(request.wire)
        self.open.remove(request)
        self.run_.actives.discard(request.active)
        self.job.active.discard(request.active)
        self.job.transfer.end(request.part, outcome)
        request.active.place.leave()


def played(seed: int, **options: Any) -> World:
    """The loop is there for those who ask it for the time; nothing is awaited."""
    return asyncio.run(World(seed, **options).run())


@pytest.mark.parametrize("stream_mib", [20, 1000])
def test_where_one_in_five_crawls_the_line_is_as_good_as_filled(stream_mib: int, *seeds: int) -> None:
    took = []
    for seed in seeds or SEEDS:
        sound = played(seed, stream_bytes_per_s=stream_mib * MIB)
        world = played(seed, stream_bytes_per_s=stream_mib * MIB, crawl_share=0.2)
        took.append(world.now / sound.now)
        again = world.brought_bytes - world.size
        assert again <= world.closed * 0.3 * MIB, "hardly a byte is asked for twice"
        assert world.opened <= world.connections + world.closed
    assert sum(took) / len(took) < 1.25
    assert max(took) < 1.6


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("crawl_mib", [0.05, 0.5, 2.0, 20.0])
def test_where_all_are_slow_none_is_closed(crawl_mib: float, seed: int) -> None:
    world = played(
        seed, crawl_share=1.0, crawl_bytes_per_s=crawl_mib * MIB, size=64 * MIB, part_bytes=4 * MIB, noise=0.3
    )
    assert world.closed == 0
    assert world.opened == world.connections


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("round_trip_s", [0.001, 0.04, 0.2, 0.6])
@pytest.mark.parametrize("stream_mib", [3, 20, 1000])
def test_sound_connections_are_left_alone(stream_mib: int, round_trip_s: float, seed: int) -> None:
    """However far, and with whatever noise: those that have just been made are slower than the others for a while."""
    far = partial(played, seed, stream_bytes_per_s=stream_mib * MIB, round_trip_s=round_trip_s, noise=0.4)
    assert far(connections=16, first_connections=8).closed == 0, "beside others that are at their speed"
    world = far()
    assert world.closed == 0
    assert world.brought_bytes == pytest.approx(world.size, abs=MIB / 1024)


@pytest.mark.parametrize("share", [0.3, 0.5, 0.7, 0.9])
def test_a_host_where_many_crawl_is_not_asked_for_connection_after_connection(share: float, *seeds: int) -> None:
    for seed in seeds or SEEDS:
        world = played(seed, crawl_share=share, connections=24, first_connections=24, crawl_bytes_per_s=MIB / 4)
        assert world.closed <= CLOSINGS_AT_ONCE + world.now / CLOSING_EVERY_S
        assert world.opened <= world.connections + world.closed


@pytest.mark.parametrize("seed", SEEDS)
def test_a_line_that_stands_still_for_a_while_is_nobodys_fault(seed: int) -> None:
    assert played(seed, silent=(2.0, 7.0)).closed == 0
    assert played(seed, silent=(2.0, 7.0), part_bytes=MIB).closed == 0, "with many that were through just before"


@pytest.mark.parametrize("seed", SEEDS)
def test_who_has_refused_lately_is_asked_for_no_connection_more_than_must_be(seed: int) -> None:
    crawling_all_the_time = partial(played, seed, crawl_share=0.3, size=128 * MIB)
    assert crawling_all_the_time(busy=True).closed == 0
    assert crawling_all_the_time(limited=True).closed == 0, "nor does a user's own limit tell who is slow"


@pytest.mark.parametrize("seed", SEEDS)
def test_a_late_answer_hides_nobody(seed: int) -> None:
    world = played(seed, crawl_share=0.2, slow_answers=0.5, stream_bytes_per_s=15 * MIB, crawl_bytes_per_s=MIB / 2)
    sound = played(seed, slow_answers=0.5, stream_bytes_per_s=15 * MIB)
    assert world.now < 1.6 * sound.now


@pytest.mark.parametrize("seed", SEEDS)
def test_a_connection_that_crawled_through_its_part_gets_no_other(seed: int) -> None:
    """Little of it was left when that showed."""
    world = played(seed, crawl_share=0.2, part_bytes=4 * MIB, stream_bytes_per_s=15 * MIB)
    assert not [wire for wire in world.kept if wire.cap_bytes_per_s < 15 * MIB]


@pytest.mark.parametrize("seed", SEEDS)
def test_on_a_thin_line_nothing_is_asked_for_twice(seed: int) -> None:
    """It is full whoever gets how much; a block there takes seconds."""
    world = played(
        seed,
        line_bytes_per_s=1.0 * MIB,
        size=48 * MIB,
        connections=6,
        part_bytes=4 * MIB,
        crawl_share=0.3,
        crawl_bytes_per_s=40_000,
    )
    assert world.brought_bytes == pytest.approx(world.size, abs=MIB / 1024)


def brought_for(world: World, seconds: float, crawling_bytes_per_s: float = 1e6) -> None:
    """Each of the open connections brings 10 MB/s, the first one as much as is said."""
    for _ in range(round(seconds / 0.1)):
        world.now += 0.1
        for index, request in enumerate(world.open):
            speed = crawling_bytes_per_s if index == 0 else 1e7
            request.active.pulse.received(int(0.1 * speed), world.now)
        world.crawling.look(world.now)


def some(count: int, **options: Any) -> World:
    """So many connections, each with more than it can bring."""
    world = World(0, part_bytes=64 * MIB, **options)
    for _ in range(count):
        assert world._start()
    return world


five = partial(some, 5)


def test_what_could_not_be_asked_for_again_at_once_is_left_alone() -> None:
    sure, paced, failed, resting, refused = five(), five(pause_s=5.0), five(), five(), five()
    failed.job.not_before = 100.0
    resting.admission.host(HOST).not_before = 100.0
    refused.job.refused = True
    for world in (sure, paced, failed, resting, refused):
        brought_for(world, 3.0)
    assert [world.closed for world in (sure, paced, failed, resting, refused)] == [1, 0, 0, 0, 0]


def test_of_two_requests_for_the_same_bytes_neither_is_given_up() -> None:
    for first_crawls in (True, False):
        world = five()
        first = world.open[0]
        hedge = world.job.transfer.hedge(first.part)
        assert hedge is not None
        active = VirtualActive(hedge, Pulse(0.0), first.active.place)
        second = Request(first.wire, hedge, active, 0.0, 0.0)
        world.open.append(second)
        world.open.sort(key=lambda request: request is not (first if first_crawls else second))
        world.run_.actives.add(active)
        world.job.active.add(active)
        brought_for(world, 3.0)
        assert world.closed == 0
        other = second if first_crawls else first
        world.open.remove(other)
        world.run_.actives.discard(other.active)
        world.job.active.discard(other.active)
        world.job.transfer.end(other.part, Outcome.SHED)
        brought_for(world, 3.0)
        assert world.closed == 1, "the other one is over"


def test_one_that_is_held_up_meanwhile_is_given_up_once_and_in_time() -> None:
    world = five()
    crawler = world.open[0].active
    while not crawler.leaves_after_block:
        brought_for(world, 0.1)
        assert world.now < 3.0
    crawler.pulse.holding = True
    brought_for(world, 0.1, 0.0)
    crawler.pulse.holding = False
    brought_for(world, crawling.BLOCK_WAIT_S + 0.2, 0.0)
    assert crawler.verdict is Outcome.CRAWLED
    brought_for(world, 3.0, 0.0)
    assert world.closed == 1


@pytest.mark.parametrize("refused", [False, True])
def test_what_was_to_be_given_up_goes_on_where_others_are_refused_meanwhile(refused: bool) -> None:
    world = five()
    crawler = world.open[0].active
    while not crawler.leaves_after_block:
        brought_for(world, 0.1)
        assert world.now < 3.0
    world.job.refused = refused
    brought_for(world, crawling.BLOCK_WAIT_S + 0.2, 1000.0)
    assert (crawler.verdict is None) is refused


@pytest.mark.parametrize(
    "why", ["ended already", "not in ranges", "a stream", "dropped", "moved often enough", "held up"]
)
def test_what_is_not_to_be_asked_for_elsewhere_is_left_alone(why: str) -> None:
    world = five()
    job, crawler = world.job, world.open[0]
    if why == "ended already":
        crawler.active.verdict = Outcome.STALLED
    elif why == "not in ranges":
        job.entry = replace(job.entry, digest=None, validator=Validator("none"))
    elif why == "a stream":
        crawler.part.stream = True
    elif why == "dropped":
        job.drop = Outcome.CHANGED
    elif why == "moved often enough":
        crawler.active.pulse.moves = world.run_.settings.part_moves_max
    else:
        crawler.active.pulse.holding = True  # by our disk, for which no other connection would be faster
    brought_for(world, 3.0)
    assert world.closed == 0


def test_what_was_fast_long_ago_is_forgotten() -> None:
    world = five()
    brought_for(world, 10.0, 1e7)
    brought_for(world, crawling.RATE_S + 0.3)
    assert world.closed == 1


def test_the_quickest_answer_says_how_far_a_host_is() -> None:
    world = five()
    brought_for(world, 0.2)
    for request in world.open:
        request.active.answered_s = 0.5
    brought_for(world, 2.8)
    assert world.closed == 1


def through(world: World) -> bool:
    """The first connection's part is whole, however slowly it came; whether it is closed."""
    return world.crawling.is_through(world.open[0].active, HOST)


def never_given_up(count: int = 5, **options: Any) -> World:
    """While a body comes: at its end it is judged all the same."""
    return some(count, pause_s=5.0, **options)


def test_what_crawled_to_its_end_is_closed_unless_that_says_nothing_or_the_host_is_busy() -> None:
    sure, limited, busy, recovering = (never_given_up(limited=limited) for limited in (False, True, False, False))
    for world in (sure, limited, busy, recovering):
        brought_for(world, 3.0)
        assert world.closed == 0
    busy.admission.busy(HOST, None)
    recovering.now += 0.5
    recovering.open[0].active.pulse.received(5_000_000, recovering.now)
    assert [through(world) for world in (sure, limited, busy, recovering)] == [True, False, False, False]
    assert [world.closed for world in (sure, limited, busy, recovering)] == [1, 0, 0, 0]


def test_what_is_through_is_compared_with_enough_others_of_its_host_at_their_speed() -> None:
    few = never_given_up(3)
    brought_for(few, 3.0)
    assert not through(few), "it is no peer of its own"

    elsewhere = never_given_up()
    for request in elsewhere.open[1:]:
        request.active.place = elsewhere.admission.take("https://other.example:443")
    brought_for(elsewhere, 3.0)
    assert not through(elsewhere), "the others are of another host"

    young = never_given_up(1)
    brought_for(young, 2.0)
    for _ in range(4):
        assert young._start()
    brought_for(young, 0.5)
    assert not through(young), "the others have just begun"
    brought_for(young, 1.0)
    assert through(young)


def blind(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(crawling, "crawler", lambda *_: None)


def by_its_own_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    flow = crawling.Watched.flow

    def own(self: Any, _: float, left_bytes: int = 0) -> Any:
        return flow(self, 1.1, left_bytes)

    monkeypatch.setattr(crawling.Watched, "flow", own)


def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(crawl, "AGE_MIN_S", 0.1)
    monkeypatch.setattr(crawl, "AGE_TRIPS", 0)


def harsh(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(crawl, "SHARE", 0.9)


def without_peers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(crawl, "usual_bytes_per_s", lambda _: 30.0 * MIB)


def without_a_budget(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(crawl.Closings, "close", lambda _: None)


def in_mid_block(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(crawling, "BLOCK_WAIT_S", 0.0)


@pytest.mark.parametrize(
    ("plant", "test"),
    [
        (blind, partial(test_where_one_in_five_crawls_the_line_is_as_good_as_filled, 20)),
        (in_mid_block, partial(test_where_one_in_five_crawls_the_line_is_as_good_as_filled, 20)),
        (by_its_own_answer, test_a_late_answer_hides_nobody),
        (hasty, partial(test_sound_connections_are_left_alone, 1000, 0.2)),
        (harsh, partial(test_sound_connections_are_left_alone, 20, 0.04)),
        (without_peers, partial(test_where_all_are_slow_none_is_closed, 2.0)),
        (without_a_budget, partial(test_a_host_where_many_crawl_is_not_asked_for_connection_after_connection, 0.5)),
    ],
)
def test_bad_judges_are_found_out(
    monkeypatch: pytest.MonkeyPatch, plant: Callable[[pytest.MonkeyPatch], None], test: Callable[[int], None]
) -> None:
    plant(monkeypatch)
    assert fails_some(test, SEEDS), "a bad judge passed"
