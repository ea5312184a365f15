"""Which part to ask for a second time, because it holds up the end. Pure: values in, values out.

When nothing is left to start, the slowest connection decides when all is over; another one, kept from before or made
anew, mostly ends at another of the origin's machines and is as fast as the rest. What the second request brings twice
is thrown away, so there is a budget.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import median

BUDGET_SHARE = 0.05
"""Of a run's bytes may be asked for twice; of a small run, the rest of one part."""
START_S = 0.3
"""What a new connection costs before it brings as much as the others."""
FACTOR = 2.0
"""The rest must take so much longer than it would elsewhere …"""
GAIN_MIN_S = 0.5
"""… and so much time must be won: below that it is noise."""
AGE_MIN_S = 1.0
"""A part that has just begun may still find its speed."""


@dataclass(frozen=True, slots=True)
class Runner:
    """A part under way."""

    age_s: float
    left_bytes: int
    """Of blocks that nobody has claimed."""
    bytes_per_s: float
    """As of late."""


def gain_s(runner: Runner, usual_bytes_per_s: float) -> float:
    """How much sooner the rest would be here over a new connection; 0.0 where that is not worth it."""
    if runner.age_s < AGE_MIN_S or usual_bytes_per_s <= 0 or runner.left_bytes <= 0:
        return 0.0
    elsewhere_s = START_S + runner.left_bytes / usual_bytes_per_s
    here_s = runner.left_bytes / runner.bytes_per_s if runner.bytes_per_s > 0 else float("inf")
    won_s = here_s - elsewhere_s
    return won_s if here_s > FACTOR * elsewhere_s and won_s >= GAIN_MIN_S else 0.0


def straggler(runners: Sequence[Runner], finished_bytes_per_s: Iterable[float]) -> int | None:
    """Index of the part to ask for once more; None if none is worth it. ``finished_bytes_per_s``: of parts that are
    through."""
    finished = list(finished_bytes_per_s)
    best, most = None, 0.0
    for index, runner in enumerate(runners):
        others = finished + [other.bytes_per_s for other in runners if other is not runner]
        if not others:
            continue
        won_s = gain_s(runner, median(others))
        if won_s > most:
            best, most = index, won_s
    return best


class Budget:
    """Bytes that a run may ask for twice."""

    def __init__(self, run_bytes: int) -> None:
        self.left_bytes = run_bytes * BUDGET_SHARE
        self.spent_bytes = 0

    def allows(self, count: int) -> bool:
        """The first is always allowed: it is the rest of one part."""
        return not self.spent_bytes or count <= self.left_bytes

    def spend(self, count: int) -> None:
        self.spent_bytes += count
        self.left_bytes -= count

    def refund(self, count: int) -> None:
        """What was asked for, and not sent after all; that something was spent is remembered."""
        self.left_bytes += count
