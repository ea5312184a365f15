"""`python -m benchmarks.report.agree FIRST SECOND`: whether two runs say the same, within the spread that each states.

Tables state a median, and the least and most of the rounds. Two runs agree on a figure if those ranges overlap. They
need not always: of two runs of three rounds that differ by nothing but chance, the ranges are disjoint if the three
least of all six values are of one run, in 2 * 3! * 3! / 6! = one case in ten. So it is counted how many are disjoint,
and asked how often chance alone makes as many.

Figures of one scenario come from the same rounds, and one slow round moves many of them, so that a binomial
distribution would be too narrow. Instead, the rounds of both runs are dealt anew into two runs, whole, in all ways: if
nothing has changed between the runs, what has been seen is one of those. That leaves the figures of a scenario as
dependent as they are, and supposes nothing but that one scenario's rounds say nothing of another's.

What was to be reached (benchmarks.report.targets) has verdicts; those that differ are listed. They decide nothing here:
a figure at its goal is now on this side of it and now on that.

Exit code 1 if ratios disagree: more of them are disjoint than chance makes in one comparison of twenty. Seconds are
compared and said too, but only ratios are promised to hold for a machine: on another day it may be slower for everybody
(benchmarks/README.md).
"""

from __future__ import annotations

import argparse
import math
import random
import statistics
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Literal, NamedTuple

from benchmarks.report import targets
from benchmarks.report.cells import FRESH, Row, Turn, by_rival, head, line, spread, turn
from benchmarks.report.moves import SIGNIFICANCE
from benchmarks.report.tables import MAKERS, by_scenario
from benchmarks.report.transfers import cpu_s, ours_of, ratios, units_of, wall_s
from benchmarks.running import lines

DEALS_MAX = 2000
"""Of rounds into runs: where there are more ways, so many are drawn."""

Kind = Literal["ratio", "absolute"]
Round = tuple[int, Turn]
"""Of the first run (0) or the second (1)."""


class Name(NamedTuple):
    """What a figure is of. Runs with files of other sizes have none in common."""

    kind: Kind
    scenario: str
    size: str
    who: str
    what: str


@dataclass(frozen=True, slots=True)
class Pair:
    """One figure in both runs, round by round."""

    name: Name
    first: tuple[float, ...]
    second: tuple[float, ...]

    @property
    def overlap(self) -> bool:
        return not disjoint(self.first, self.second)

    @property
    def distance(self) -> float:
        """Of the medians, in widths of the wider range."""
        apart = abs(statistics.median(self.first) - statistics.median(self.second))
        width = max(max(values) - min(values) for values in (self.first, self.second))
        return apart / width if width else math.inf if apart else 0.0

    @property
    def change(self) -> float:
        """Of the medians: how much more the second is."""
        before = statistics.median(self.first)
        return statistics.median(self.second) / before - 1 if before else 0.0


def disjoint(first: Sequence[float], second: Sequence[float]) -> bool:
    """Whether all of the one are less than all of the other."""
    return bool(first) and bool(second) and (max(first) < min(second) or max(second) < min(first))


# --- figures ---------------------------------------------------------------------------------------------------------


def figures(rows: Sequence[Row]) -> dict[Name, dict[Turn, float]]:
    """What tables state as a ratio, and wall clock, CPU and times as they are; round by round."""
    measured = [row for row in rows if "missing" not in row and "failed" not in row]
    found: dict[Name, dict[Turn, float]] = {}
    for scenario, some in by_scenario(measured).items():
        for name, values in (*_of_processes(scenario, some), *_of_modules(scenario, some)):
            if values:
                found.setdefault(name, {}).update(values)
    return found


def _of_processes(scenario: str, rows: Sequence[Row]) -> Iterator[tuple[Name, dict[Turn, float]]]:
    timed = [row for row in rows if "wall_s" in row and "rival" in row]
    if not timed:
        return
    size = ", ".join(f"{timed[0][what]} {what}" for what in ("files", "bytes", "size_bytes") if what in timed[0])
    raced = scenario not in MAKERS
    scale = units_of(timed).cost_scale if raced else lambda row: 1.0
    groups: dict[str, list[Row]] = by_rival(
        [row | {"rival": f"{row['rival']}, {row['variant']}" if "variant" in row else row["rival"]} for row in timed]
    )
    ours = ours_of(groups)
    for who, group in groups.items():
        yield Name("absolute", scenario, size, who, "wall s"), {turn(row): wall_s(row) for row in group}
        costs = {turn(row): cpu_s(row) * scale(row) for row in group if "cpu_s" in row}
        yield Name("absolute", scenario, size, who, units_of(timed).cost if raced else "CPU s"), costs
        if raced and group is not ours:
            yield Name("ratio", scenario, size, who, "its wall / ours"), ratios(group, ours, wall_s)
            yield Name("ratio", scenario, size, who, "our CPU / its"), ratios(ours, group, cpu_s)


def _of_modules(scenario: str, rows: Sequence[Row]) -> Iterator[tuple[Name, dict[Turn, float]]]:
    """Hashing and the cache: one row has all rounds."""
    for row in rows:
        what, than = row.get("what", ""), row.get("than", "")

        def by_round(values: Sequence[float], run: str | None = row.get("run")) -> dict[Turn, float]:
            return {(run, number, FRESH): value for number, value in enumerate(values)}

        if "ratios" in row:
            yield Name("ratio", scenario, "", f"{what}, {row['unit']}", f"times {than}"), by_round(row["ratios"])
        if "values" in row:
            yield Name("absolute", scenario, "", what, row["unit"]), by_round(row["values"])
        if "others" in row:
            each = zip(row["values"], row["others"], strict=True)
            yield Name("ratio", scenario, "", what, f"times {than}"), by_round([ours / its for ours, its in each])


# --- chance ----------------------------------------------------------------------------------------------------------


def by_chance(first: Sequence[Mapping[Turn, float]], second: Sequence[Mapping[Turn, float]]) -> list[float]:
    """How often chance makes so many of one scenario's figures disjoint, by their number: of all ways to deal rounds.

    Both have the same figures, in the same order.
    """
    values = [
        {(0, which): value for which, value in one.items()} | {(1, which): value for which, value in other.items()}
        for one, other in zip(first, second, strict=True)
    ]
    rounds = sorted({each for figure in values for each in figure}, key=repr)
    size = sum(run == 0 for run, _ in rounds)
    counts = [0] * (len(values) + 1)
    for dealt in _deals(rounds, size):
        apart = 0
        for figure in values:
            one = [value for each, value in figure.items() if each in dealt]
            other = [value for each, value in figure.items() if each not in dealt]
            apart += disjoint(one, other)
        counts[apart] += 1
    return [count / sum(counts) for count in counts]


def _deals(rounds: Sequence[Round], size: int) -> Iterator[frozenset[Round]]:
    if math.comb(len(rounds), size) <= DEALS_MAX:
        yield from map(frozenset, combinations(rounds, size))
        return
    dice = random.Random(1)
    for _ in range(DEALS_MAX):
        yield frozenset(dice.sample(rounds, size))


def together(distributions: Sequence[Sequence[float]]) -> list[float]:
    """Of the sum of independent numbers."""
    whole = [1.0]
    for each in distributions:
        longer = [0.0] * (len(whole) + len(each) - 1)
        for one, chance in enumerate(whole):
            for other, also in enumerate(each):
                longer[one + other] += chance * also
        whole = longer
    return whole


@dataclass(frozen=True, slots=True)
class Verdict:
    """Of all figures of one kind."""

    pairs: tuple[Pair, ...]
    chances: tuple[float, ...]
    """How often chance makes so many disjoint, by their number."""

    @property
    def disjoint(self) -> int:
        return sum(not pair.overlap for pair in self.pairs)

    @property
    def expected(self) -> float:
        return sum(number * chance for number, chance in enumerate(self.chances))

    @property
    def chance(self) -> float:
        """Of as many as there are, or more."""
        return sum(self.chances[self.disjoint :])

    @property
    def disjoint_max(self) -> int:
        """The most that are no disagreement."""
        return next(n for n in range(len(self.chances)) if sum(self.chances[n + 1 :]) <= SIGNIFICANCE)

    @property
    def agrees(self) -> bool:
        return self.disjoint <= self.disjoint_max


def compare(first: Sequence[Row], second: Sequence[Row], kind: Kind) -> Verdict:
    """All figures that both runs have, from at least two rounds each."""
    one, other = figures(first), figures(second)
    common = [name for name in one if name.kind == kind and name in other and min(len(one[name]), len(other[name])) > 1]
    scenarios: dict[str, list[Name]] = {}
    for name in common:
        scenarios.setdefault(name.scenario, []).append(name)
    chances = [by_chance([one[name] for name in some], [other[name] for name in some]) for some in scenarios.values()]
    pairs = tuple(Pair(name, tuple(one[name].values()), tuple(other[name].values())) for name in common)
    return Verdict(pairs, tuple(together(chances)))


@dataclass(frozen=True, slots=True)
class Verdicts:
    """What both runs say of goals, where both measured the same: a pair for each."""

    pairs: Mapping[targets.Name, tuple[str, str]]

    @property
    def differing(self) -> dict[targets.Name, tuple[str, str]]:
        return {name: pair for name, pair in self.pairs.items() if pair[0] != pair[1]}

    @property
    def turned(self) -> int:
        """How many are reached in the one and missed in the other."""
        return sum(set(pair) == {targets.REACHED, targets.MISSED} for pair in self.differing.values())


def verdicts_of(first: Sequence[Row], second: Sequence[Row]) -> Verdicts:
    """Of all goals of which both have something, but for scenarios of which they measured other sizes."""
    one, other = figures(first), figures(second)
    same = {name.scenario for name in one.keys() & other.keys()}
    differing = ({name.scenario for name in one} & {name.scenario for name in other}) - same
    then = {each.name: each.verdict for each in targets.outcomes(first) if each.name.scenario not in differing}
    now = {each.name: each.verdict for each in targets.outcomes(second)}
    return Verdicts({name: (verdict, now[name]) for name, verdict in then.items() if name in now})


# --- words -----------------------------------------------------------------------------------------------------------


def table(verdict: Verdict) -> str:
    """Each figure in both runs."""
    rows = head("scenario", "who", "figure", "first", "second", "ranges", "medians apart", "in widths of the range")
    for pair in verdict.pairs:
        ranges = "overlap" if pair.overlap else "**disjoint**"
        cells = (spread(pair.first), spread(pair.second), ranges, f"{pair.change:+.1%}", f"{pair.distance:.1f}")
        rows.append(line(pair.name.scenario, pair.name.who, pair.name.what, *cells))
    return "\n".join(rows)


def summary(verdict: Verdict, what: str) -> str:
    """The count, what chance makes of it, and the farthest."""
    farthest = max(verdict.pairs, key=lambda pair: pair.distance)
    overlapping = len(verdict.pairs) - verdict.disjoint
    words = "agree" if verdict.agrees else "DISAGREE"
    return (
        f"{overlapping} of {len(verdict.pairs)} {what} overlap. {verdict.disjoint} do not; chance alone makes "
        f"{verdict.expected:.1f} on average, at most {verdict.disjoint_max} in 19 of 20 comparisons, and this many "
        f"or more in {verdict.chance:.1%}: {what} {words}. Farthest: {farthest.name.scenario}, {farthest.name.who}, "
        f"{farthest.name.what}: {farthest.distance:.1f} widths of the range, {farthest.change:+.1%}."
    )


def verdict_table(verdicts: Verdicts) -> str:
    """Those that differ."""
    rows = head("scenario", "ours", "against", "figure", "first", "second")
    return "\n".join([*rows, *(line(*name, *pair) for name, pair in verdicts.differing.items())])


def verdict_summary(verdicts: Verdicts) -> str:
    """How many differ, and how many of those say the contrary."""
    count, turned = len(verdicts.differing), verdicts.turned
    said = f"{count} of {len(verdicts.pairs)} verdicts {'differs' if count == 1 else 'differ'}"
    words = f"{turned} turn{'s' if turned == 1 else ''} round" if turned else "none turns round"
    return f"{said}; {words} (reached in one run, missed in the other)."


def left_out(first: Sequence[Row], second: Sequence[Row]) -> list[str]:
    """What can't be compared: in one of them only, as sizes are another, or of a single round."""
    one, other = figures(first), figures(second)
    missing: dict[str, None] = {}
    for here, there, word in ((one, other, "first"), (other, one, "second")):
        missing |= {
            f"{name.scenario}, {name.who}: only in the {word}, or of other sizes": None
            for name in here
            if name not in there
        }
    single = {name.scenario for name in one.keys() & other.keys() if min(len(one[name]), len(other[name])) < 2}
    return [*missing, *(f"{scenario}: has one round only, and so no range" for scenario in sorted(single))]


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="benchmarks.report.agree", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("first", type=lines.rows_of, metavar="FIRST", help="JSON lines of one run, or of several")
    parser.add_argument("second", type=lines.rows_of, metavar="SECOND", help="of another, on the same machine")
    given = parser.parse_args()
    first, second = given.first, given.second
    verdicts = {"ratios": compare(first, second, "ratio"), "times": compare(first, second, "absolute")}
    if not any(verdict.pairs for verdict in verdicts.values()):
        raise SystemExit("the two have no figure in common that each has measured twice")
    for what, verdict in verdicts.items():
        print(f"### {what.capitalize()}\n\n{table(verdict)}\n")
    goals = verdicts_of(first, second)
    if goals.differing:
        print(f"### Verdicts that differ\n\n{verdict_table(goals)}\n")
    for words in left_out(first, second):
        print(f"Not compared: {words}")
    print()
    for what, verdict in verdicts.items():
        if verdict.pairs:
            print(summary(verdict, what))
    if goals.pairs:
        print(verdict_summary(goals))
    sys.exit(0 if verdicts["ratios"].agrees else 1)


if __name__ == "__main__":
    main()
