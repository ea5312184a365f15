"""Second requests for parts that hold up the end of a run: when, for which, and which of the two goes on.

Both write to one Partial; a block is claimed by whoever has it first, the other drops its bytes (``plan.transfer``).
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

from fetcher.engine.jobs import Active, FileJob
from fetcher.plan.hedge import Budget, Runner, straggler
from fetcher.plan.transfer import Outcome, Part, State
from fetcher.plan.tree import BLOCK_BYTES

if TYPE_CHECKING:
    from fetcher.engine.run import Run

RATE_S = 2.0
"""Seconds that a part's speed is taken over."""


class Hedging:
    """The hedges of one run."""

    def __init__(self, run: Run, run_bytes: int) -> None:
        self._run = run
        self._budget = Budget(run_bytes)
        self._seen: dict[Active, deque[tuple[float, int]]] = {}
        """Bytes received, a few times a second, of each part under way."""
        self.started_count = 0

    def look(self, now: float) -> None:
        """For the watchdog, at every tick: how fast is each part?"""
        parts = [active for active in self._run.actives if active.part is not None]
        self._seen = {active: self._seen.get(active) or deque() for active in parts}
        for active, seen in self._seen.items():
            if active.pulse.holding:
                seen.clear()  # our disk or the user's limit: no other connection would be faster
                continue
            seen.append((now, active.pulse.bytes_received))
            while len(seen) > 2 and seen[1][0] <= now - RATE_S:
                seen.popleft()

    def pick(self) -> tuple[FileJob, Part] | None:
        """The second request to make now; its part is started. Only where there is nothing else to do."""
        run = self._run
        running = sum(active.part is not None and active.part.hedges is not None for active in run.actives)
        if running >= run.settings.hedges_max or run.tools.limit is not None:
            return None
        waiting = {job.source.host for job in run.begun if job.transfer.has_part}
        candidates = [
            (job, active)
            for job in run.begun
            if self._may_be_hedged(job) and job.source.host not in waiting
            for active in job.active
            if active in self._seen
        ]
        now = run.tools.clock()
        index = straggler([self._runner(job, active, now) for job, active in candidates], run.finished_rates)
        if index is None:
            return None
        job, active = candidates[index]
        assert active.part is not None
        if not self._budget.allows(job.transfer.unclaimed_blocks(active.part) * BLOCK_BYTES):
            return None
        if not run.tools.admission.may_start(job.source.host):
            return None
        hedge = job.transfer.hedge(active.part)
        if hedge is None:
            return None
        self._budget.spend(hedge.span.length)
        self.started_count += 1
        return job, hedge

    def _may_be_hedged(self, job: FileJob) -> bool:
        if job.abandoned or job.one_stream or job.drop is not None or job.transfer.state is not State.FETCHING:
            return False
        if job.no_room_for_hedges or job.refused or job.source.is_outdated:
            return False
        window = self._run.tools.admission.host(job.source.host)
        now = self._run.tools.clock()
        return job.source.known and job.source.pause_s() <= 0 and not window.was_busy_lately(now)

    def _runner(self, job: FileJob, active: Active, now: float) -> Runner:
        seen = self._seen[active]
        assert active.part is not None
        # What is asked for twice already has nothing to gain: it does not stand in the way of the next slow one.
        is_hedged = job.transfer.is_hedged(active.part)
        left_bytes = 0 if is_hedged else job.transfer.unclaimed_blocks(active.part) * BLOCK_BYTES
        if len(seen) < 2 or active.verdict is not None:
            return Runner(0.0, left_bytes, 0.0)
        (began, first), (ended, last) = seen[0], seen[-1]
        return Runner(ended - began, left_bytes, (last - first) / (ended - began) if ended > began else 0.0)

    def over(self, job: FileJob, part: Part, outcome: Outcome, received: int) -> None:
        """A part's request is through, or has ended early: the other one for the same bytes is needed no more, or has
        to go on alone."""
        if part.hedges is not None:
            self._budget.refund(max(0, part.span.length - received))
        if outcome is not Outcome.COMPLETE:
            return
        for other in job.active:
            if other.part is not None and (other.part.hedges is part or part.hedges is other.part):
                other.end_with(Outcome.SHED)
