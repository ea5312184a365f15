"""The watchdog of a run: everything that happens because time goes by."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from fetcher import hashing
from fetcher.errors import TransportError
from fetcher.plan.transfer import Outcome
from fetcher.plan.watch import Limits, connections_to_keep, judge

if TYPE_CHECKING:
    from fetcher.engine.run import Run

TICK_S = 0.1
SILENT_S = 0.5
"""A connection that has brought nothing for so long does not count among those that share a line."""
FLIGHTS_EVERY_S = 0.3
BOOKS_EVERY_S = 1.0


class Watchdog:
    """Judges the parts, looks after flights of others, keeps the books, ends a run that gets nowhere."""

    def __init__(self, run: Run) -> None:
        self._run = run
        self._settings = run.settings
        self._looked_at = self._ordered_from = run.progressed_at
        self._ordered_s = 0.0
        """Of waiting that was ordered since the last block."""
        settings = run.settings
        self._limits = Limits(
            idle_timeout_s=settings.part_idle_timeout_s,
            slow_bytes_per_s=settings.part_slow_bytes_per_s,
            slow_window_s=settings.part_slow_window_s,
            slow_moves_max=settings.part_moves_max,
        )

    async def watch(self) -> None:
        """Until cancelled. Raises TransportError when no block was proven for too long."""
        run = self._run
        flights_at = books_at = run.tools.clock()
        while True:
            await asyncio.sleep(TICK_S)
            now = run.tools.clock()
            self._look(now)
            self._judge(now)
            self._stand_still(now)
            self._shed(now)
            run.observer.connections = len(run.actives)
            run.observer.tick()
            if run.elsewhere and now - flights_at >= FLIGHTS_EVERY_S:
                flights_at = now
                await self._look_elsewhere()
            if now - books_at >= BOOKS_EVERY_S:
                books_at = now
                await run.keep_books()
            if now - run.progressed_at >= self._settings.no_progress_timeout_s:
                raise self._no_progress()
            run.changed.set()  # places and jobs whose waiting time is over

    def _look(self, now: float) -> None:
        """What has come, for those who decide over connections."""
        for active in self._run.actives:
            self._run.book(active)
            if active.place is not None:
                active.place.hear(silent=not active.pulse.holding and now - active.pulse.last_byte_at > SILENT_S)
        self._run.tools.admission.look()
        self._run.hedging.look(now)
        self._run.crawling.look(now)

    def _judge(self, now: float) -> None:
        by_pulse = {active.pulse: active for active in self._run.actives}
        for pulse, outcome in judge(by_pulse, now, self._limits, self._run.finished_rates):
            if outcome is not Outcome.SLOW or not self._run.is_left_alone(by_pulse[pulse]):
                by_pulse[pulse].end_with(outcome)

    def _stand_still(self, now: float) -> None:
        """While an origin has told us to wait, or is asked for something fresh (which has times and tries of its own),
        the clock of progress stands still; at most as long as we may wait."""
        run = self._run
        elapsed_s, self._looked_at = now - self._looked_at, now
        if run.progressed_at > self._ordered_from:
            self._ordered_from, self._ordered_s = run.progressed_at, 0.0
        if run.actives or not (run.renewals or run.told_to_wait(now)):
            return
        if self._ordered_s >= self._settings.retry_after_max_s:
            return
        self._ordered_s += elapsed_s
        run.progressed_at += elapsed_s
        self._ordered_from = run.progressed_at

    async def _look_elsewhere(self) -> None:
        """Ask again for the contents that others fetch."""
        run = self._run
        await run.claim(list(run.elsewhere))
        if run.only_waits:
            # Each is with a living owner, who has that to fetch and ends when he gets nowhere; then we take over. Who
            # has something of his own to fetch is judged by that as well: two that wait for each other would not end.
            run.progressed()

    def _shed(self, now: float) -> None:
        """No block for a while: the line may be too thin for so many. The latest give way to the first ones."""
        keep = connections_to_keep(
            self._settings.connections_max, now - self._run.progressed_at, self._settings.no_progress_timeout_s
        )
        if keep >= self._run.lanes_max:
            return
        self._run.lanes_max = keep
        going = [each for each in self._run.actives if not (each.place and each.place.silent)]
        # What comes in one stream would begin from zero; of the others, those give way that have least. A small file
        # begins from zero, too, but what it has is less than a block, as what any part loses.
        going.sort(key=lambda active: (active.part is not None and active.part.stream, active.pulse.bytes_received))
        going.reverse()
        for active in going[keep:]:
            if not self._run.is_left_alone(active):
                active.end_with(Outcome.SHED)

    def _no_progress(self) -> TransportError:
        kept = "what is here is kept" if hashing.HAS_TREE else "files that are whole are kept"
        reason = f"; last: {self._run.last_failure.reason}" if self._run.last_failure else ""
        return TransportError(
            f"no new byte was proven for {self._settings.no_progress_timeout_s:.0f} s{reason}",
            hint=f"{kept}; run the same command again to go on from there",
            resource=self._run.observer.resource,
        )
