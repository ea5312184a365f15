"""Connections that crawl beside their peers are closed, and what they have not brought is asked for elsewhere.

The part goes back as it is after the block under way, so that hardly a byte is asked for twice. ``plan.crawl`` decides.
"""

from __future__ import annotations

from collections import defaultdict, deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from fetcher.engine.jobs import Active, FileJob
from fetcher.plan.crawl import Closings, Flow, crawler, crawls, usual_bytes_per_s
from fetcher.plan.transfer import Outcome, Part, State
from fetcher.plan.tree import BLOCK_BYTES

if TYPE_CHECKING:
    from fetcher.engine.run import Run

RATE_S = 2.0
"""Seconds that a body's speed is taken over."""
NEWEST_S = 0.5
RECENT_S = 1.0
"""A body that was through so long ago still is a peer of those that come: parts at the end are shorter than that."""
BLOCK_WAIT_S = 1.0
"""For the block under way to be whole; what comes so slowly is not worth more."""
FINISHED_MAX = 64


@dataclass(slots=True, eq=False)
class Watched:
    """A body that comes."""

    began_at: float
    samples: deque[tuple[float, int]] = field(default_factory=deque)
    """When, and how many bytes until then; a few times a second."""
    leaves_by: float | None = None
    """It is given up, after the block under way or then."""

    def look(self, now: float, bytes_received: int) -> None:
        samples = self.samples
        samples.append((now, bytes_received))
        while len(samples) > 2 and samples[1][0] <= now - RATE_S:
            samples.popleft()

    def flow(self, trip_s: float, left_bytes: int = 0) -> Flow:
        ended, last = self.samples[-1]
        newest = next((sample for sample in reversed(self.samples) if sample[0] <= ended - NEWEST_S), self.samples[0])
        speeds = [(last - count) / (ended - at) if ended > at else 0.0 for at, count in (self.samples[0], newest)]
        return Flow(ended - self.began_at, trip_s, speeds[0], speeds[1], left_bytes)


class Crawling:
    """The crawling connections of one run."""

    def __init__(self, run: Run) -> None:
        self._run = run
        self._watched: dict[Active, Watched] = {}
        self._hedges: list[Part] = []
        """Under way; never many."""
        self._finished: defaultdict[str, deque[tuple[float, float]]] = defaultdict(lambda: deque(maxlen=FINISHED_MAX))
        """By host: when a body was through, and its speed."""
        self._trips: dict[str, float] = {}
        """By host: the least time from a request to its answer."""
        self._closings: defaultdict[str, Closings] = defaultdict(Closings)
        self.closed_count = 0

    # -- at every tick -----------------------------------------------------------------------------------------------

    def look(self, now: float) -> None:
        """How fast is each body, and does one of them crawl?"""
        before, self._watched = self._watched, {}
        parts = [active.part for active in self._run.actives if active.part is not None]
        self._hedges = [part for part in parts if part.hedges is not None]
        for active in self._run.actives:
            # While our disk or the user's limit holds it up, no other connection would be faster.
            if active.part is None or not active.pulse.bytes_received or active.pulse.holding:
                continue
            if active.place is not None:
                host = active.place.host
                self._trips[host] = min(active.answered_s, self._trips.get(host, active.answered_s))
            watched = before.get(active)
            if watched is None:  # its first bytes; or it was held up, and is given up all the same if it was to be
                watched = Watched(now, leaves_by=now + BLOCK_WAIT_S if active.leaves_after_block else None)
            self._watched[active] = watched
            watched.look(now, active.pulse.bytes_received)
            if watched.leaves_by is not None and now >= watched.leaves_by and not self._run.is_left_alone(active):
                active.end_with(Outcome.CRAWLED)
        if self._run.tools.limit is None:
            self._give_up(now)

    def _give_up(self, now: float) -> None:
        by_host: defaultdict[str, list[tuple[FileJob, Active]]] = defaultdict(list)
        for job in self._run.begun:
            for active in job.active:
                if active.place is not None and active in self._watched:
                    by_host[active.place.host].append((job, active))
        for host, known in by_host.items():
            if not self._may_close(host, now):
                continue
            index = crawler([self._flow(job, active, now) for job, active in known], self._finished_lately(host, now))
            if index is None:
                continue
            active = known[index][1]
            active.leaves_after_block = True
            self._watched[active].leaves_by = now + BLOCK_WAIT_S
            self._close(host)

    def _flow(self, job: FileJob, active: Active, now: float) -> Flow:
        watched, part = self._watched[active], active.part
        assert part is not None
        left_bytes = 0
        if watched.leaves_by is None and self._may_be_given_up(job, active, part, now):
            left_bytes = job.transfer.unclaimed_blocks(part) * BLOCK_BYTES
        assert active.place is not None
        return watched.flow(self._trips[active.place.host], left_bytes)

    def _may_be_given_up(self, job: FileJob, active: Active, part: Part, now: float) -> bool:
        if active.verdict is not None or job.one_stream or part.stream or job.drop is not None or job.refused:
            return False
        if active.pulse.moves >= self._run.settings.part_moves_max or job.transfer.state is not State.FETCHING:
            return False
        # What would have to wait for its time to be asked for again comes sooner as it does.
        not_before = max(job.not_before, self._run.tools.admission.host(job.source.host).not_before)
        if not_before > now or job.source.pause_s() > 0:
            return False
        # Of two requests for the same bytes the faster one ends the other.
        if part.hedges is not None:
            return not any(other.part is part.hedges for other in job.active)
        return not any(hedge.hedges is part for hedge in self._hedges)

    # -- at the end of a body ----------------------------------------------------------------------------------------

    def is_through(self, active: Active, host: str) -> bool:
        """A body has come as a whole. True: its connection crawls, and should get no other part."""
        now = self._run.tools.clock()
        watched = self._watched.get(active)
        peers = self._finished_lately(host, now)
        elapsed_s = now - active.pulse.started_at - active.answered_s
        if elapsed_s > 0:
            self._finished[host].append((now, active.pulse.bytes_received / elapsed_s))
        if watched is None or self._run.tools.limit is not None:
            return False
        watched.look(now, active.pulse.bytes_received)
        for other, seen in self._watched.items():
            if other is not active and other.place is not None and other.place.host == host:
                flow = seen.flow(self._trips[host])
                peers += [flow.bytes_per_s] * flow.settled
        if not crawls(watched.flow(self._trips[host]), usual_bytes_per_s(peers)) or not self._may_close(host, now):
            return False
        self._close(host)
        return True

    # -- bounds ------------------------------------------------------------------------------------------------------

    def _finished_lately(self, host: str, now: float) -> list[float]:
        return [speed for at, speed in self._finished[host] if now - at <= RECENT_S]

    def _may_close(self, host: str, now: float) -> bool:
        """A host that has enough to do is asked for nothing that can be done without."""
        return not self._run.tools.admission.host(host).was_busy_lately(now) and self._closings[host].may_close(now)

    def _close(self, host: str) -> None:
        self._closings[host].close()
        self.closed_count += 1
