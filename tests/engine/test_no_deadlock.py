"""Runs on virtual time with as little as there can be: one connection and its two slabs, a window of one part, a first
part that crawls, files that wait for each other, second requests, and outcomes of every kind.

What decides is the product's own: lanes, admission, transfers, hedging, watchdog. Connections, workers, digests and the
hosts are simulated. A run must end, and no time without a block may come near what the watchdog allows.
"""

from __future__ import annotations

import asyncio
import heapq
import random
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from fetcher.config import Settings
from fetcher.engine.admission import Admission, Place
from fetcher.engine.crawling import Crawling
from fetcher.engine.early_ends import ended_early
from fetcher.engine.hedging import Hedging
from fetcher.engine.jobs import Active, FileJob, PartEnded
from fetcher.engine.lanes import Lanes
from fetcher.engine.queues import Queues
from fetcher.engine.run import Run
from fetcher.engine.watchdog import Watchdog
from fetcher.errors import InternalError
from fetcher.plan import crawl
from fetcher.plan.transfer import Event, Outcome, Part, State, Transfer
from fetcher.plan.tree import BLOCK_BYTES, block_count, block_length
from fetcher.plan.watch import Pulse
from tests.engine.fakes import a_job

TICK_S = 0.5
STEPS_MAX = 60_000
SCHEDULES = 500
SLOW_BLOCK_S = 12.0
"""Of the first part: slow enough to be moved where others are faster, not so silent that it counts as stalled."""
EARLY_ENDS = [Outcome.CUT, Outcome.STALLED, Outcome.BUSY, Outcome.MISFRAMED, Outcome.UNRANGED, Outcome.EXPIRED]
RENEWALS_S = [0.05, 1.0, 20.0]
"""How long an origin takes to give something fresh in place of what has expired."""
HOSTS = ("https://hub.example:443", "https://cdn.example:443")


class Deadlock(AssertionError):
    """Nothing goes on any more."""


class NotKept(AssertionError):
    """A connection went elsewhere while a file's first missing part could have had it."""


@dataclass(eq=False)
class SimulatedSource:
    host: str
    known: bool = True
    scouting: bool = False
    is_outdated: bool = False
    renewing: bool = False

    def pause_s(self) -> float:
        return 0.0


@dataclass(slots=True, eq=False)
class SimulatedActive(Active):
    """Ends when its connection looks next, without an event loop's timer."""

    def end_with(self, verdict: Outcome) -> None:
        self.verdict = self.verdict or verdict


class PickingLanes(Lanes):
    """Says what a lane would do instead of doing it."""

    def _named(self, job: FileJob, step: Any, *arguments: Any, **_: Any) -> Any:
        return job, step, arguments


@dataclass(eq=False)
class Connection:
    """One request of a lane."""

    job: FileJob
    part: Part
    place: Place
    active: SimulatedActive
    block_s: float
    ending: Outcome
    blocks_brought: int
    next_block: int = 0
    writes: int = 0
    paused: bool = False
    over: bool = False


class SimulatedRun:
    """What lanes, hedging and watchdog see of a Run."""

    part_bytes = Run.part_bytes
    book = Run.book
    block_written = Run.block_written
    came = Run.came
    told_to_wait = Run.told_to_wait
    is_left_alone = Run.is_left_alone
    line_is_full = Run.line_is_full

    def __init__(self, settings: Settings, jobs: list[FileJob], clock: Callable[[], float], rng: random.Random) -> None:
        self.settings = settings
        unsynced = SimpleNamespace(wrote=lambda *_: None)
        self.tools: Any = SimpleNamespace(
            settings=settings,
            admission=Admission(settings, clock, rng),
            clock=clock,
            limit=None,
            dice=rng,
            unsynced=unsynced,
        )
        self.observer = SimpleNamespace(parts_moved=0, bytes_done=0)
        self.begun = list(jobs)
        self.queues = Queues(self.tools, ())
        self.actives: set[Active] = set()
        self.renewals: set[Active] = set()
        self.lanes_max = settings.connections_max
        self.finished_rates: deque[float] = deque(maxlen=64)
        self.progressed_at = clock()
        self.last_failure: PartEnded | None = None
        self.hedging = Hedging(self, sum(job.size for job in jobs))  # type: ignore[arg-type]
        self.crawling = Crawling(self)  # type: ignore[arg-type]
        self.changed = SimpleNamespace(set=lambda: None)
        self.looks = 0
        """How often who shares the line was counted."""

    @property
    def sharing(self) -> int:
        self.looks += 1
        return len(self.actives)

    def progressed(self) -> None:
        self.progressed_at = self.tools.clock()


@dataclass
class World:
    """One schedule."""

    rng: random.Random
    connections: int
    pauses_for_the_window: bool = False
    """The planted fault: parts start wherever they are, and stop where the window ends."""
    lanes_type: type[Lanes] = PickingLanes
    now: float = 0.0
    failures_left: int = 0
    failures: int = 0
    writes: Counter[tuple[int, int]] = field(default_factory=Counter)
    hedges: int = 0
    crawlers: int = 0
    starts: int = 0
    renewals: int = 0
    longest_silence_s: float = 0.0
    open: list[Connection] = field(default_factory=list)
    _agenda: list[tuple[float, int, Callable[[], None]]] = field(default_factory=list)
    _order: count[int] = field(default_factory=count)
    _following: set[int] = field(default_factory=set)

    def __post_init__(self) -> None:
        rng = self.rng
        self.failures_left = rng.choice([0, 3, 10])
        settings = Settings(
            cache_dir=Path("/nowhere"),
            state_dir=Path("/nowhere"),
            connections_max=self.connections,
            connections_per_host_max=self.connections,
            part_bytes=2 * BLOCK_BYTES,
            window_bytes=2 * BLOCK_BYTES,
        )
        self.jobs = []
        for number in range(rng.choice([1, 2, 2, 3])):
            size = rng.randint(1, 14) * BLOCK_BYTES + rng.choice([0, 1, 4096])
            window = rng.choice([2, 2, 3, 8, None])
            job = a_job(size)
            job.content_id = str(number)
            limit = None if self.pauses_for_the_window or window is None else window * BLOCK_BYTES
            job.transfer = Transfer(size, part_bytes=2 * BLOCK_BYTES, window_bytes=limit)
            job.transfer.on(Event.BEGIN)
            job.source = SimulatedSource(rng.choice(HOSTS))  # type: ignore[assignment]
            self.jobs.append(job)
        self.run_ = SimulatedRun(settings, self.jobs, lambda: self.now, rng)
        self.lanes = self.lanes_type(self.run_)  # type: ignore[arg-type]
        self.watchdog = Watchdog(self.run_)  # type: ignore[arg-type]
        self.slow = {id(job) for job in self.jobs if rng.random() < 0.5}
        """Files whose first part crawls."""

    async def run(self) -> World:
        for job in self.jobs:
            self._follow(job)
        self._later(self._tick, TICK_S)
        self._wake()
        for _ in range(STEPS_MAX):
            if not self.run_.begun:
                return self
            self.now, _, step = heapq.heappop(self._agenda)
            step()
            silence_s = self.now - self.run_.progressed_at
            self.longest_silence_s = max(self.longest_silence_s, silence_s)
            if silence_s >= self.run_.settings.no_progress_timeout_s:
                raise Deadlock(f"{[job.transfer for job in self.run_.begun]} over {len(self.open)} connections")
        raise Deadlock("no end in sight")

    def _later(self, step: Callable[[], None], delay_s: float) -> None:
        heapq.heappush(self._agenda, (self.now + delay_s, next(self._order), step))

    def _tick(self) -> None:
        self.watchdog._look(self.now)
        self.watchdog._judge(self.now)
        self.watchdog._stand_still(self.now)
        self.watchdog._shed(self.now)
        for connection in list(self.open):
            self._look_at_verdict(connection)
        self._wake()
        self._later(self._tick, TICK_S)

    # -- lanes -------------------------------------------------------------------------------------------------------

    def _wake(self) -> None:
        while len(self.open) + len(self.run_.renewals) < self.connections:
            held_up = [job for job in self.run_.begun if self._could_be_served(job)]
            resting = [job for job in self.run_.begun if job.transfer.is_stopped and self._rests(job)]
            step = self.lanes.pick(prefers_small=False)
            if step is None:
                if held_up:
                    raise NotKept(f"a place is free, and nobody fetches for {held_up[0].transfer!r}")
                return
            job, what, arguments = step  # type: ignore[misc]
            if what == self.lanes._renew:
                self._renew(job)
                continue
            part, place = arguments
            if held_up and not any(job is other for other in held_up):
                raise NotKept(f"{part} was started while {held_up[0].transfer!r} waited")
            was_last = len(self.run_.actives) + 1 >= self.run_.lanes_max >= 2
            if was_last and resting and not held_up:
                raise NotKept(f"{part} took the last place, and {resting[0].transfer!r} only waits for its time")
            self._start(job, part, place)

    def _rests(self, job: FileJob) -> bool:
        host = self.run_.tools.admission.host(job.source.host)
        return job.source.is_outdated or max(job.not_before, host.not_before) > self.now

    def _could_be_served(self, job: FileJob) -> bool:
        admission = self.run_.tools.admission
        return (
            job.transfer.is_stopped
            and job.not_before <= self.now
            and not job.source.is_outdated
            and len(self.run_.actives) < self.run_.lanes_max
            and job.transfer.has_part
            and bool(admission.may_start(job.source.host))
        )

    def _renew(self, job: FileJob) -> None:
        """It takes a lane, and no connection."""
        source: Any = job.source
        assert source.is_outdated and not source.renewing, "once for all"
        self.renewals += 1
        source.renewing = True
        renewal = SimulatedActive(None, Pulse(self.now), job=job)
        self.run_.renewals.add(renewal)
        job.active.add(renewal)

        def came() -> None:
            source.renewing = source.is_outdated = False
            self.run_.renewals.discard(renewal)
            job.active.discard(renewal)
            self._wake()

        self._later(came, self.rng.choice(RENEWALS_S))

    def _start(self, job: FileJob, part: Part, place: Place) -> None:
        self.starts += 1
        hedge = part.hedges is not None
        self.hedges += hedge
        if hedge:
            assert not part.stream
            assert sum(other.part.hedges is not None for other in self.open) < self.run_.settings.hedges_max
        for other in self.open:
            if other.job is job and other.part is not part.hedges and part is not other.part.hedges:
                assert not set(other.part.blocks) & set(part.blocks), "two parts over one block"
        assert not job.source.is_outdated, "it would be refused"
        assert len(self.open) < self.connections, "each connection has two slabs, and there are no more"
        # A stream that crawls through what is here already proves nothing for minutes; that ends a run, and has to.
        crawls = part.blocks.start == 0 and id(job) in self.slow and not (hedge or part.moves or part.stream)
        ending = Outcome.COMPLETE
        if self.failures_left and self.rng.random() < 0.4:
            self.failures_left -= 1
            self.failures += 1
            ending = self.rng.choice(EARLY_ENDS)
        brings = len(part.blocks) if ending is Outcome.COMPLETE else self.rng.randrange(len(part.blocks))
        if ending in (Outcome.BUSY, Outcome.UNRANGED, Outcome.EXPIRED):
            brings = 0
        active = SimulatedActive(part, Pulse(self.now, moves=part.moves), place, job)
        block_s = SLOW_BLOCK_S if crawls else self.rng.choice([0.05, 0.3, 2.0])
        connection = Connection(job, part, place, active, block_s, ending, brings)
        self.open.append(connection)
        self.run_.actives.add(active)
        job.active.add(active)
        self._later(lambda: self._answer(connection), self.rng.choice([0.01, 0.2]))

    # -- a connection ------------------------------------------------------------------------------------------------

    def _answer(self, connection: Connection) -> None:
        if connection.ending is Outcome.EXPIRED:
            connection.job.source.is_outdated = True  # type: ignore[misc]
        elif connection.ending is not Outcome.BUSY:
            self.run_.tools.admission.answered(connection.place.host, 0.01)
        self._next_block(connection)

    def _next_block(self, connection: Connection) -> None:
        if connection.over or connection.active.verdict is not None:
            self._look_at_verdict(connection)
        elif connection.next_block < connection.blocks_brought:
            self._later(lambda: self._block_is_here(connection), connection.block_s)
        elif connection.ending is not Outcome.STALLED:  # the watchdog ends those
            self._end(connection, connection.ending)

    def _block_is_here(self, connection: Connection) -> None:
        if connection.over or connection.active.verdict is not None:
            self._look_at_verdict(connection)
            return
        job, block = connection.job, connection.part.blocks[connection.next_block]
        if self.pauses_for_the_window and block * BLOCK_BYTES >= job.transfer.frontier_bytes + 2 * BLOCK_BYTES:
            connection.active.pulse.holding = True
            self._later(lambda: self._block_is_here(connection), 1.0)
            return
        if connection.writes == 2:  # both slabs are with the workers
            connection.paused = connection.active.pulse.holding = True
            return
        connection.active.pulse.holding = False
        connection.active.pulse.received(block_length(job.size, block), self.now)
        connection.next_block += 1
        if connection.active.leaves_after_block and connection.next_block < len(connection.part.blocks):
            connection.active.end_with(Outcome.CRAWLED)
        if job.transfer.claim(block):
            connection.writes += 1
            self._later(lambda: self._written(connection, block), self.rng.choice([0.01, 0.5, 3.0]))
        self._next_block(connection)

    def _written(self, connection: Connection, block: int) -> None:
        job = connection.job
        connection.writes -= 1
        job.transfer.wrote(block, proven=True)
        self.writes[int(job.content_id), block] += 1
        self.run_.block_written(job, block_length(job.size, block))  # type: ignore[arg-type]
        self._follow(job)
        if connection.paused:
            connection.paused = connection.active.pulse.holding = False
            self._block_is_here(connection)
        self._look_at_verdict(connection)
        self._wake()

    def _look_at_verdict(self, connection: Connection) -> None:
        if connection.active.verdict is not None:
            self._end(connection, connection.active.verdict)

    def _end(self, connection: Connection, outcome: Outcome) -> None:
        if connection.over:
            return
        if connection.writes:  # to end is to wait for the calls in flight
            self._later(lambda: self._end(connection, outcome), 0.05)
            return
        connection.over = True
        job, part, active = connection.job, connection.part, connection.active
        self.run_.book(active)  # type: ignore[arg-type]
        self.run_.actives.discard(active)
        job.active.discard(active)
        self.open.remove(connection)
        if outcome is Outcome.COMPLETE:
            elapsed_s = self.now - active.pulse.started_at
            self.run_.finished_rates.append(part.span.length / elapsed_s)
            self.run_.crawling.is_through(active, connection.place.host)
            self.run_.tools.admission.served(connection.place.host)
        else:
            ended_early(self.run_, job, PartEnded(outcome, "simulated"), connection.place.host)  # type: ignore[arg-type]
        job.transfer.end(part, outcome)
        self.run_.hedging.over(job, part, outcome, active.pulse.bytes_received)
        connection.place.leave()
        for other in list(self.open):
            self._look_at_verdict(other)
        self._finish(job)
        self._wake()

    # -- the digest that trails --------------------------------------------------------------------------------------

    def _follow(self, job: FileJob) -> None:
        transfer = job.transfer
        if id(job) in self._following or transfer.frontier_bytes >= transfer.readable_bytes:
            return
        self._following.add(id(job))
        self._later(lambda: self._followed(job), self.rng.choice([0.01, 1.0, 5.0]))

    def _followed(self, job: FileJob) -> None:
        self._following.discard(id(job))
        step = self.rng.randint(1, 4) * BLOCK_BYTES
        job.transfer.frontier_bytes = min(job.transfer.readable_bytes, job.transfer.frontier_bytes + step)
        self._follow(job)
        self._finish(job)
        self._wake()

    def _finish(self, job: FileJob) -> None:
        transfer = job.transfer
        if job in self.run_.begun and transfer.frontier_bytes == job.size and not transfer.parts_open:
            transfer.on(Event.LAST_BLOCK)
            self.run_.begun.remove(job)

    def check(self) -> None:
        for number, job in enumerate(self.jobs):
            assert job.transfer.state is State.DRAINING and job.transfer.whole
            for block in range(block_count(job.size)):
                assert self.writes[number, block] == 1, "each block exactly once"
        assert self.run_.tools.admission.active == 0
        assert not self.open and not self.run_.renewals
        self.crawlers = self.run_.crawling.closed_count


def simulate(seeds: range, **options: Any) -> list[World]:
    """Schedules by seed; the loop is there for those who ask it for the time, nothing is awaited."""

    async def all_of_them() -> list[World]:
        worlds = []
        for seed in seeds:
            rng = random.Random(seed)
            world = await World(rng, rng.choice([1, 1, 2, 3, 5]), **options).run()
            world.check()
            worlds.append(world)
        return worlds

    return asyncio.run(all_of_them())


@pytest.mark.parametrize("group", range(4))
def test_any_schedule_ends(monkeypatch: pytest.MonkeyPatch, group: int) -> None:
    monkeypatch.setattr(crawl, "USUAL_MIN_BYTES_PER_S", 0.0)  # hosts are slow here, and closings are to happen
    worlds = simulate(range(group * SCHEDULES, (group + 1) * SCHEDULES))
    for world in worlds:
        # One connection that stalls takes 15 s to be given up, what has expired up to 20 s to be renewed, any other
        # failure at most 10 s to be tried again.
        assert world.longest_silence_s < 40.0 + 16.0 * world.failures + 20.0 * world.renewals
    assert sum(world.hedges for world in worlds) > SCHEDULES / 100, "there were second requests"
    assert sum(world.renewals for world in worlds) > SCHEDULES / 10, "what was refused as it had expired, was renewed"
    assert sum(world.crawlers for world in worlds) > SCHEDULES / 100, "and connections that were closed for crawling"
    assert sum(world.connections == 1 for world in worlds) > SCHEDULES / 4, "and the smallest pool"


def test_a_part_that_is_paused_for_the_window_is_found() -> None:
    with pytest.raises(Deadlock):
        simulate(range(300), pauses_for_the_window=True)


class Forgetful(PickingLanes):
    """Files in the order in which they were begun, whatever holds them up."""

    def _pick_held_up(self) -> None:
        return None


class Impatient(PickingLanes):
    """The last place goes to whoever comes while a file that is stopped waits for its time to ask again."""

    def _is_kept(self) -> bool:
        return False


@pytest.mark.parametrize("lanes_type", [Forgetful, Impatient])
def test_a_connection_that_is_not_kept_for_the_first_missing_part_is_found(lanes_type: type[Lanes]) -> None:
    with pytest.raises(NotKept):
        simulate(range(2 * SCHEDULES), lanes_type=lanes_type)


def test_a_part_that_is_put_back_while_its_twin_brings_it_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Transfer, "_twin", lambda self, part: None)
    with pytest.raises((AssertionError, InternalError)):
        simulate(range(SCHEDULES))


def test_a_loser_that_writes_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Transfer, "claim", lambda self, block: True)
    with pytest.raises((AssertionError, InternalError)):
        simulate(range(SCHEDULES))


def test_more_small_files_are_taken_where_the_host_of_the_first_ones_wants_no_request() -> None:
    settings = Settings(cache_dir=Path("/nowhere"), state_dir=Path("/nowhere"))
    run = SimulatedRun(settings, [], lambda: 0.0, random.Random(1))
    job = a_job(4096)
    job.source = SimulatedSource(HOSTS[0])  # type: ignore[assignment]
    run.queues.small.append(job)
    others = [a_job(4096)]
    run.queues.next_small_to_claim = lambda *, enough=None: others if enough else []  # type: ignore[method-assign]
    run.claim = lambda batch: ("claim", batch)  # type: ignore[attr-defined]
    lanes, admission = PickingLanes(run), run.tools.admission  # type: ignore[arg-type]
    while admission.may_start(HOSTS[0]):
        admission.take(HOSTS[0])
    assert lanes.pick(prefers_small=True) is None, "it has enough to do: the rest stays free for other processes"
    admission.busy(HOSTS[0], 0.5)
    assert lanes.pick(prefers_small=True) is None
    admission.busy(HOSTS[0], 30.0)
    assert lanes.pick(prefers_small=True) == ("claim", others)


def out_of_quota(size: int, number: int) -> FileJob:
    """A file of the first host, which has said that it takes no request for longer than we may wait."""
    job = a_job(size)
    job.content_id = str(number)
    job.source = source = SimulatedSource(HOSTS[0])  # type: ignore[assignment]
    source.pause_s = lambda: 500.0  # type: ignore[method-assign]
    return job


def test_a_file_that_was_given_up_is_not_refused_again_before_its_attendant_has_had_a_turn() -> None:
    settings = Settings(cache_dir=Path("/nowhere"), state_dir=Path("/nowhere"))
    job, other = out_of_quota(4 * BLOCK_BYTES, 0), a_job(4 * BLOCK_BYTES)
    other.source = SimulatedSource(HOSTS[1])  # type: ignore[assignment]
    lanes = PickingLanes(SimulatedRun(settings, [job, other], lambda: 0.0, random.Random(1)))  # type: ignore[arg-type]
    refused, step, _ = lanes.pick(prefers_small=False)  # type: ignore[misc]
    assert (refused, step) == (job, lanes._refuse)
    job.abandoned = True  # as the run leaves it: its attendant removes it, once the loop comes to that
    following, step, _ = lanes.pick(prefers_small=False)  # type: ignore[misc]
    assert (following, step) == (other, lanes._do_part), "the others go on"


@pytest.mark.parametrize("scouting", [False, True])
def test_a_file_that_asks_for_nothing_more_is_not_refused(scouting: bool) -> None:
    """All of it is under way; or its first request is, and may lead to where no quota counts."""
    settings = Settings(cache_dir=Path("/nowhere"), state_dir=Path("/nowhere"))
    job = out_of_quota(4 * BLOCK_BYTES, 0)
    if scouting:
        job.source.scouting = True
    else:
        assert job.transfer.next_part() is not None
    lanes = PickingLanes(SimulatedRun(settings, [job], lambda: 0.0, random.Random(1)))  # type: ignore[arg-type]
    assert lanes.pick(prefers_small=False) is None


def test_a_refusal_lets_the_loop_have_a_turn() -> None:
    """Else a step that is chosen again and again would stop everything, however it came to that."""

    async def turns() -> int:
        lanes, seen = Lanes(SimpleNamespace(tools=None, settings=None)), [0]  # type: ignore[arg-type]
        asyncio.get_running_loop().call_soon(lambda: seen.append(1))
        with pytest.raises(InternalError):
            await lanes._refuse(a_job(BLOCK_BYTES), InternalError("no"))
        return len(seen)

    assert asyncio.run(turns()) == 2


def thin_line(connections: int) -> tuple[SimulatedRun, PickingLanes]:
    """A run without any file begun, and its lanes."""
    settings = Settings(cache_dir=Path("/nowhere"), state_dir=Path("/nowhere"), connections_max=connections)
    run = SimulatedRun(settings, [], lambda: 0.0, random.Random(1))
    run.queues.next_small_to_claim = lambda *, enough=None: []  # type: ignore[method-assign]
    return run, PickingLanes(run)  # type: ignore[arg-type]


def test_small_files_are_held_back_as_well_on_a_line_that_is_too_thin_for_many() -> None:
    run, lanes = thin_line(4)
    for failures, queue in enumerate((run.queues.small, run.queues.small_failed)):
        job = a_job(4096)
        job.failures, job.source = failures, SimulatedSource(HOSTS[0])  # type: ignore[assignment]
        queue.append(job)
    run.actives = {SimulatedActive(None, Pulse(0.0)), SimulatedActive(None, Pulse(0.0))}
    run.lanes_max = 2
    assert lanes.pick(prefers_small=True) is None
    Run.came(run, 4096)  # type: ignore[arg-type]
    assert run.lanes_max == 3, "what came shows that the line bears one more"
    assert lanes.pick(prefers_small=True) is not None
    for _ in range(5):
        Run.came(run, 4096)  # type: ignore[arg-type]
    assert run.lanes_max == 4, "never more than the user allows"


def test_who_shares_the_line_is_counted_only_where_some_had_to_give_way() -> None:
    """There are as many lanes as requests at most, and one that looks has none: it is no question before."""
    run, lanes = thin_line(4)
    small, large = a_job(4096), a_job(4 * BLOCK_BYTES)
    for job in (small, large):
        job.source = SimulatedSource(HOSTS[0])  # type: ignore[assignment]
    run.queues.small.append(small)
    run.begun.append(large)
    for lanes_max in (4, 3):
        run.lanes_max, run.looks = lanes_max, 0
        assert lanes.pick(prefers_small=lanes_max == 4) is not None
        assert bool(run.looks) is (lanes_max < 4)


def test_of_all_that_share_a_thin_line_those_go_on_that_have_most() -> None:
    run, _ = thin_line(8)
    job = a_job(16 * BLOCK_BYTES)
    stream, part = (job.transfer.next_part(2 * BLOCK_BYTES) for _ in range(2))
    assert stream is not None and part is not None
    stream.stream = True
    requests: dict[str, tuple[Part | None, int]] = {
        "stream": (stream, 10),
        "part": (part, 90_000),
        "small, nearly here": (None, 80_000),
        "small": (None, 20_000),
        "small, just begun": (None, 30),
        "silent": (None, 0),
    }
    actives = {
        name: SimulatedActive(each, Pulse(0.0, bytes_received=count)) for name, (each, count) in requests.items()
    }
    actives["silent"].place = SimpleNamespace(silent=True)  # type: ignore[assignment]
    run.actives = set(actives.values())
    watchdog = Watchdog(run)  # type: ignore[arg-type]
    limit_s = run.settings.no_progress_timeout_s

    def ended_after(silent_s: float) -> set[str]:
        watchdog._shed(silent_s)
        return {name for name, active in actives.items() if active.verdict is Outcome.SHED}

    assert ended_after(limit_s * 0.12) == set()
    assert ended_after(limit_s * 0.13) == {"small, just begun"}
    assert ended_after(limit_s * 0.26) == {"small, just begun", "small", "small, nearly here"}
    assert ended_after(limit_s * 0.9) == set(actives) - {"stream", "silent"}


@pytest.mark.parametrize("why", ["", "refused", "out of quota"])
def test_what_might_not_be_had_by_another_request_is_taken_from_no_slow_connection(why: str) -> None:
    run, _ = thin_line(8)
    job = out_of_quota(16 * BLOCK_BYTES, 0) if why == "out of quota" else a_job(16 * BLOCK_BYTES)
    if why != "out of quota":
        job.source = SimulatedSource(HOSTS[0])  # type: ignore[assignment]
    job.refused = why == "refused"
    others = a_job(16 * BLOCK_BYTES)
    others.source = SimulatedSource(HOSTS[0])  # type: ignore[assignment]
    slow, stalled, usual = (
        SimulatedActive(part, Pulse(0.0), job=job) for part in (job.transfer.next_part(BLOCK_BYTES), None, None)
    )
    usual.job = others
    run.actives = {slow, stalled, usual}
    watchdog = Watchdog(run)  # type: ignore[arg-type]
    for now in range(20):
        usual.pulse.received(BLOCK_BYTES, now)
        slow.pulse.received(1000, now)
        watchdog._judge(float(now))
    assert slow.verdict is (None if why else Outcome.SLOW)
    assert usual.verdict is None
    assert stalled.verdict is (Outcome.STALLED if why else Outcome.SLOW), "what brings nothing is not waited for"
    slow.verdict = None
    watchdog._shed(run.settings.no_progress_timeout_s * 0.9)
    assert slow.verdict is (None if why else Outcome.SHED)


@pytest.mark.parametrize("size", [4096, 4 * BLOCK_BYTES])
def test_something_fresh_is_asked_for_once_and_whoever_waits_for_it_holds_nothing(size: int) -> None:
    run, lanes = thin_line(4)
    job, other = a_job(size), a_job(size)
    for each in (job, other):
        each.source = SimulatedSource(HOSTS[0])  # type: ignore[assignment]
        (run.queues.small if each.small else run.begun).append(each)
    source: Any = job.source
    source.is_outdated = True
    admission = run.tools.admission
    while admission.may_start(HOSTS[0]):
        admission.take(HOSTS[0])
    asked, step, arguments = lanes.pick(prefers_small=True)  # type: ignore[misc]
    assert (asked, step, arguments) == (job, lanes._renew, ()), "it needs no place"
    source.renewing = True
    assert lanes.pick(prefers_small=True) is None
    admission.host(HOSTS[0]).active = admission.active = 0
    following, step, _ = lanes.pick(prefers_small=True)  # type: ignore[misc]
    assert following is other and step in (lanes._do_small, lanes._do_part), "the others go on"
    source.renewing = source.is_outdated = False
    following, step, _ = lanes.pick(prefers_small=True)  # type: ignore[misc]
    assert following is job and step in (lanes._do_small, lanes._do_part), "and it has its turn once that is there"


def test_the_clock_of_progress_waits_for_something_fresh_as_long_as_we_may_wait_and_no_longer() -> None:
    """Its times are those of the origin's API, which may ask to wait; but there is an end to it."""
    run, _ = thin_line(4)
    watchdog = Watchdog(run)  # type: ignore[arg-type]
    run.renewals = {SimulatedActive(None, Pulse(0.0))}
    silences = []
    for now in range(1, 500):
        watchdog._stand_still(float(now))
        silences.append(now - run.progressed_at)
        if silences[-1] >= run.settings.no_progress_timeout_s:
            break
    assert silences[60] == 0.0
    assert len(silences) == run.settings.retry_after_max_s + run.settings.no_progress_timeout_s

    run.progressed_at = 1000.0
    watchdog._stand_still(1000.0)
    progressed_at = run.progressed_at
    run.actives = {SimulatedActive(None, Pulse(1000.0))}
    watchdog._stand_still(1010.0)
    assert run.progressed_at == progressed_at, "others are asked for bytes, and bring none"


def test_the_last_place_is_kept_while_something_fresh_is_asked_for() -> None:
    """Of the file that waits for it nothing else can go on; whoever came meanwhile would hold that up for longer."""
    run, lanes = thin_line(2)
    job, other = a_job(8 * BLOCK_BYTES), a_job(8 * BLOCK_BYTES)
    for each in (job, other):
        each.source = SimulatedSource(HOSTS[0])  # type: ignore[assignment]
        run.begun.append(each)
    first, second = job.transfer.next_part(), job.transfer.next_part()
    assert first is not None and second is not None
    run.actives.add(SimulatedActive(second, Pulse(0.0), run.tools.admission.take(HOSTS[0]), job))
    job.transfer.end(first, Outcome.EXPIRED)
    source: Any = job.source
    source.is_outdated = True
    assert lanes.pick(prefers_small=False) == (job, lanes._renew, ())
    source.renewing = True
    assert lanes.pick(prefers_small=False) is None
    source.is_outdated = source.renewing = False
    following, step, _ = lanes.pick(prefers_small=False)  # type: ignore[misc]
    assert (following, step) == (job, lanes._do_part)


@pytest.mark.parametrize("size", [4096, 4 * BLOCK_BYTES])
def test_half_of_the_lanes_go_on_with_what_others_give(size: int) -> None:
    """However many files wait for an origin that gives nothing fresh."""
    run, lanes = thin_line(5)
    jobs = [a_job(size) for _ in range(6)]
    for number, job in enumerate(jobs):
        job.source = SimulatedSource(HOSTS[number == 5], is_outdated=number < 5)  # type: ignore[assignment]
        (run.queues.small if job.small else run.begun).append(job)
    for _ in range(2):
        asked, step, _ = lanes.pick(prefers_small=True)  # type: ignore[misc]
        assert step == lanes._renew
        asked.source.renewing = True  # type: ignore[misc]
        run.renewals.add(SimulatedActive(None, Pulse(0.0), job=asked))
    following, step, _ = lanes.pick(prefers_small=True)  # type: ignore[misc]
    assert following is jobs[5] and step in (lanes._do_small, lanes._do_part)
