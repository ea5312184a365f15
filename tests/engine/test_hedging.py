"""Second requests and lengths of parts, as a run has them: what is allowed, and what follows of what it measured."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

import pytest

from fetcher.config import Settings
from fetcher.engine.jobs import FileJob
from fetcher.plan.hedge import BUDGET_SHARE
from fetcher.plan.transfer import Outcome, Part
from fetcher.plan.tree import BLOCK_BYTES
from fetcher.plan.watch import Pulse
from fetcher.plan.window import HostWindow
from tests.engine.fakes import a_job
from tests.engine.test_no_deadlock import HOSTS, SimulatedActive, SimulatedRun, SimulatedSource

USUAL_BYTES_PER_S = 20.0 * BLOCK_BYTES
PART_BLOCKS = 8


class Stragglers:
    """A run of one file, all of which is under way, and comes far more slowly than what is over already."""

    def __init__(self, parts: int) -> None:
        self.now = 100.0
        settings = Settings(
            cache_dir=Path("/nowhere"),
            state_dir=Path("/nowhere"),
            connections_max=16,
            connections_per_host_max=16,
            part_bytes=PART_BLOCKS * BLOCK_BYTES,
        )
        self.job = a_job(parts * PART_BLOCKS * BLOCK_BYTES, part_bytes=PART_BLOCKS * BLOCK_BYTES)
        self.job.source = SimulatedSource(HOSTS[0])  # type: ignore[assignment]
        self.run = SimulatedRun(settings, [self.job], lambda: self.now, random.Random(1))
        self.run.finished_rates.extend([USUAL_BYTES_PER_S] * 64)  # the usual speed is theirs, not the stragglers'
        for _ in range(parts):
            self._start(self.job.transfer.next_part(PART_BLOCKS * BLOCK_BYTES))
        self.look()

    def _start(self, part: Part | None) -> SimulatedActive:
        assert part is not None
        active = SimulatedActive(part, Pulse(self.now), job=self.job)
        self.run.actives.add(active)
        self.job.active.add(active)
        return active

    def look(self) -> None:
        """As three seconds of the watchdog."""
        for _ in range(7):
            self.run.hedging.look(self.now)
            self.now += 0.5
            for active in self.run.actives:
                active.pulse.received(10_000, self.now)

    def hedge(self) -> SimulatedActive | None:
        picked = self.run.hedging.pick()
        return None if picked is None else self._start(picked[1])

    def end(self, hedge: SimulatedActive, received: int) -> None:
        """It came too late, or not at all."""
        assert hedge.part is not None
        self.run.actives.discard(hedge)
        self.job.active.discard(hedge)
        self.job.transfer.end(hedge.part, Outcome.CUT)
        self.run.hedging.over(self.job, hedge.part, Outcome.CUT, received)


def test_what_is_asked_for_twice_stays_within_its_share_of_the_run() -> None:
    world = Stragglers(parts=16)  # 5 % are 6.4 blocks: less than one part
    assert world.job.size * BUDGET_SHARE < PART_BLOCKS * BLOCK_BYTES
    first = world.hedge()
    assert first is not None, "the first one is the rest of one part"
    assert world.hedge() is None, "there is nothing left of the share"
    world.end(first, PART_BLOCKS * BLOCK_BYTES)
    assert world.hedge() is None, "what was sent is spent"


def test_what_was_not_sent_after_all_may_be_asked_for_elsewhere() -> None:
    world = Stragglers(parts=40)  # 5 % are two parts
    hedges = [world.hedge(), world.hedge()]
    assert all(hedges) and world.hedge() is None, "two at a time"
    for hedge in hedges:
        assert hedge is not None
        world.end(hedge, 0)
    assert world.hedge() is not None


def _busy(window: HostWindow, job: FileJob, now: float) -> None:
    window.busy(now, retry_after_s=None, dice=0.0)


def _refused(window: HostWindow, job: FileJob, now: float) -> None:
    job.refused = True


def _outdated(window: HostWindow, job: FileJob, now: float) -> None:
    job.source.is_outdated = True  # type: ignore[misc]


@pytest.mark.parametrize(("befalls", "ends_s"), [(_busy, HostWindow.BUSY_REMEMBERED_S), (_refused, 0), (_outdated, 0)])
def test_nothing_is_asked_for_twice_where_something_was_refused(
    befalls: Callable[[HostWindow, FileJob, float], None], ends_s: float
) -> None:
    world = Stragglers(parts=16)
    befalls(world.run.tools.admission.host(HOSTS[0]), world.job, world.now)
    while world.now < 100.0 + HostWindow.BUSY_REMEMBERED_S:
        assert world.hedge() is None
        world.look()
    while world.now < 110.0 + 2 * HostWindow.BUSY_REMEMBERED_S:
        world.look()
    assert (world.hedge() is not None) is bool(ends_s)


def test_parts_grow_with_the_speed_that_was_measured_at_their_host() -> None:
    world = Stragglers(parts=1)
    world.job.transfer = a_job(4096 * BLOCK_BYTES).transfer
    window = world.run.tools.admission.host(HOSTS[0])
    lengths = []
    for speed in (0.0, 5.0, 10.0, 15.0):
        window.connection_bytes_per_s = speed * BLOCK_BYTES
        lengths.append(world.run.part_bytes(world.job) // BLOCK_BYTES)  # type: ignore[arg-type]
    assert lengths == [PART_BLOCKS, 15, 30, 45], "three seconds of a connection"
