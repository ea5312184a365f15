"""What has moved between two revisions, beyond noise.

Of each figure the ratios of rounds count: both sides of a ratio were measured within seconds. Whether they lie on one
side of 1 is asked by Wilcoxon's signed-rank test, computed exactly: it supposes nothing of how noise is distributed but
that it is as often for the one as for the other. Many figures are asked at once, so Holm's correction is applied: where
nothing has moved, a whole comparison says that something has once in twenty times.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from benchmarks.report.cells import Row, at_floor, head, line, spread
from benchmarks.running.options import Base

ROUNDS_MIN = 8
"""With fewer, even rounds that all agree can't be told from chance once several figures are asked."""
SIGNIFICANCE = 0.05
"""How often a comparison of what has not moved may be wrong about any of its figures."""
LEAST = 0.01
"""What is less is no news, even if it is true."""

FIGURES: dict[str, Callable[[Row], float | None]] = {
    "wall": lambda row: row.get("wall_s"),
    "CPU": lambda row: row.get("cpu_s"),
    "peak memory": lambda row: row.get("rss_mib"),
    "time taken": lambda row: row.get("taken"),
    "requests": lambda row: row.get("per_file"),
    "recovery": lambda row: row.get("recovery_s"),
    "hit p50": lambda row: row.get("latency", {}).get("hit_ms_p50"),
}

LEFT_OUT = ("fetcher --version", "fetcher completion bash")
"""Nobody's goals, and they start as help does. Whatever is asked raises the bar for all that is."""
CURE = "can't be told from chance: more rounds, or fewer scenarios"


@dataclass(frozen=True, slots=True)
class Move:
    """One figure of one of us: now, in times of the base, round by round."""

    scenario: str
    who: str
    figure: str
    ratios: tuple[float, ...]
    significant: bool = False
    """Whether chance is ruled out, among all figures that were asked."""

    @property
    def median(self) -> float:
        return statistics.median(self.ratios)

    @property
    def beyond_noise(self) -> bool:
        return self.significant and abs(self.median - 1) >= LEAST

    @property
    def worse(self) -> bool:
        return self.beyond_noise and self.median > 1


def by_chance(ratios: Sequence[float]) -> float:
    """Wilcoxon's signed-rank test, exact and two-sided: how often ranks divide so unevenly where nothing has moved."""
    logarithms = sorted((math.log(ratio) for ratio in ratios if ratio != 1), key=abs)
    ranks = _doubled_ranks([abs(value) for value in logarithms])
    total = sum(ranks)
    above = sum(rank for rank, value in zip(ranks, logarithms, strict=True) if value > 0)
    # Of all 2 ** n ways to sign the ranks: how many have each sum on one side.
    ways = [1] + [0] * total
    for rank in ranks:
        for reached in range(total, rank - 1, -1):
            ways[reached] += ways[reached - rank]
    as_uneven = sum(count for reached, count in enumerate(ways) if abs(2 * reached - total) >= abs(2 * above - total))
    return float(as_uneven / 2 ** len(ranks))


def _doubled_ranks(ascending: Sequence[float]) -> list[int]:
    """Twice the ranks, so that those of equal values, which share the middle one, are whole."""
    first = {value: number for number, value in reversed(list(enumerate(ascending, 1)))}
    last = {value: number for number, value in enumerate(ascending, 1)}
    return [first[value] + last[value] for value in ascending]


def judged(found: Sequence[Move]) -> list[Move]:
    """With Holm's correction: the rarest first, each held against what the number of those left allows."""
    chances = [by_chance(move.ratios) for move in found]
    order = sorted(range(len(found)), key=chances.__getitem__)
    verdicts: dict[int, bool] = {}
    significant = True
    for done, number in enumerate(order):
        significant = significant and chances[number] <= SIGNIFICANCE / (len(found) - done)
        verdicts[number] = significant and len(found[number].ratios) >= ROUNDS_MIN
    return [replace(move, significant=verdicts[number]) for number, move in enumerate(found)]


def could_all_be_told(figure_count: int, round_count: int) -> bool:
    """Whether rounds that all agree would rule out chance, whichever of so many figures they are of."""
    return round_count >= ROUNDS_MIN and figure_count * 2 / 2**round_count <= SIGNIFICANCE


def too_few_rounds(found: Sequence[Move]) -> list[str]:
    """What could not have been told even if all its rounds had agreed: that is no sign that nothing has moved."""
    counts = [
        len(move.ratios)
        for move in found
        if not move.significant and not could_all_be_told(len(found), len(move.ratios))
    ]
    if not counts:
        return []
    return [f"{len(counts)} figures in {min(counts)} rounds {CURE}"]


def without_figures(rows: Sequence[Row], found: Sequence[Move]) -> list[str]:
    """Scenarios that were measured, but not with figures of both revisions."""
    compared = {move.scenario for move in found}
    return [name for name in dict.fromkeys(row["scenario"] for row in rows) if name not in compared]


def moves(rows: Sequence[Row], base: Base) -> list[Move]:
    """Of everything that both were measured in."""
    found = []
    groups: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        if "rival" in row:
            groups.setdefault((row["scenario"], row["rival"]), []).append(row)
    for (scenario, who), ours in groups.items():
        if who in LEFT_OUT:
            continue
        theirs = {_turn(row): row for row in groups.get((scenario, base.twin_of(who)), ()) if "round" in row}
        for figure, value in FIGURES.items():
            if figure == "peak memory" and at_floor([*ours, *theirs.values()]):
                continue
            pairs = [(value(row), value(theirs.get(_turn(row), {}))) for row in ours]
            if ratios := tuple(now / then for now, then in pairs if now and then):
                found.append(Move(scenario, who, figure, ratios))
    return judged(found)


def _turn(row: Row) -> tuple[object, ...]:
    """What two rows have in common if they may be compared: a round may have more than one row of somebody."""
    return row.get("round"), row.get("variant"), row.get("stated")


def table(found: Sequence[Move]) -> str:
    """All figures, and what to think of each."""
    lines = head("scenario", "who", "figure", "now / base", "")
    for move in found:
        verdict = ("**worse**" if move.worse else "better") if move.beyond_noise else "not beyond noise"
        lines.append(line(move.scenario, move.who, move.figure, spread(move.ratios), verdict))
    return "\n".join(lines)
