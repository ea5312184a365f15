"""What the hot path has to reach, and what a run says of it: ratios between runs of one round, median and spread.

A wall ratio is theirs / ours (2 is twice as fast as they), a CPU ratio ours / theirs (1 is as cheap). C is no rival.
A goal is reached, or not, if all rounds say so: where they are on both sides of it, the next might fall on either.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

from benchmarks.report.cells import WARM, Row, Turn, figure, head, line, misplaced, pages, spread, turn

BEST = "the best rival"
POOL_MIB = 32
"""Two slabs of 1 MiB for each of the connections that the default allows."""
RSS_MIB_MAX = 96 + POOL_MIB


@dataclass(frozen=True, slots=True)
class Target:
    """One ratio, and what it must and should be."""

    scenario: str
    ours: str
    against: str
    figure: Literal["wall", "CPU", "CPU of the transfer alone"]
    must: float
    aim: float | None = None

    def reached(self, value: float) -> bool:
        return value >= self.must if self.figure == "wall" else value <= self.must


TARGETS = (
    Target("engine", "fetcher engine", "C", "CPU", 1.2, 1.1),
    Target("engine", "fetcher engine", "C", "CPU of the transfer alone", 1.2, 1.1),
    Target("engine", "fetcher engine", "obstore", "wall", 0.95),
    Target("engine", "fetcher engine", "hf_transfer", "wall", 1.0),
    Target("engine", "fetcher engine", "curl", "wall", 1.6),
    Target("engine", "fetcher engine", "aria2c -x8", "wall", 1.8),
    Target("engine", "fetcher engine", "aiohttp", "wall", 1.8),
    Target("engine", "fetcher engine", "huggingface_hub", "wall", 5.0),
    Target("engine", "fetcher engine", BEST, "wall", 0.95, 1.0),
    Target("http", "fetcher", BEST, "wall", 0.8, 0.9),
    Target("http", "fetcher", "C, BLAKE3", "CPU", 1.25, 1.15),
    Target("lfs", "fetcher", BEST, "wall", 0.8, 0.9),
    Target("lfs", "fetcher", "C, BLAKE3, SHA-256", "CPU", 1.25, 1.15),
    Target("sharded", "fetcher", "hf_transfer, then sha256sum", "wall", 1.5, 2.0),
    Target("sharded", "fetcher", "huggingface_hub, then its verify", "wall", 5.0),
    Target("https", "fetcher engine", "C", "CPU", 1.2, 1.15),
    Target("https", "fetcher", "C, BLAKE3", "CPU", 1.2, 1.15),
    Target("https", "fetcher", BEST, "wall", 0.95, 1.0),
    Target("disk", "fetcher", BEST, "wall", 1.2, 1.3),
    Target("link-capped", "fetcher", "aria2c -x16", "wall", 0.95, 1.0),
    Target("small-transfer", "fetcher engine", "curl --parallel", "wall", 1.0),
    Target("small-get", "fetcher", "curl --parallel", "wall", 0.5),
    Target("small-get", "fetcher", "huggingface_hub", "wall", 3.0),
    Target("medium-get", "fetcher", BEST, "wall", 0.8, 1.0),
    Target("s3-many", "fetcher", "s5cmd", "wall", 1.0, 1.2),
    Target("s3-many", "fetcher", "rclone", "wall", 1.0, 1.2),
    Target("s3-many", "fetcher", "s5cmd", "CPU", 0.7),
    Target("s3-many", "fetcher", "rclone", "CPU", 0.7),
    Target("s3-big", "fetcher", "s5cmd", "wall", 1.0, 1.2),
    Target("s3-big", "fetcher", "rclone", "wall", 1.0, 1.2),
    Target("s3-big", "fetcher", "s5cmd", "CPU", 0.7),
    Target("s3-big", "fetcher", "rclone", "CPU", 0.7),
)
RECOVERY_S_MAX = 3.0
START_OVER_MS_MAX = {"fetcher --help": 60.0, "fetcher get (hit)": 120.0}
LIBRARY_HIT_MS_MAX = 1.0


REACHED, MISSED, OPEN, UNJUDGED = "reached", "**not**", "can't be told", "not judged: went elsewhere"
"""Verdicts."""


class Name(NamedTuple):
    """Of a goal."""

    scenario: str
    ours: str
    against: str = ""
    figure: str = ""


@dataclass(frozen=True, slots=True)
class Outcome:
    """One goal, and what a run says of it."""

    name: Name
    against: str
    """As it is shown: who the best rival was is known only now."""
    measured: str
    must: str
    aim: str
    verdict: str


def ratios(rows: Sequence[Row], target: Target) -> tuple[float, ...]:
    """Of the rounds that both were in.

    Goals are for fresh pages: what was written to warm ones does not count.
    """
    ours, theirs = _sides(rows, target)
    those = {number: min(each.values()) for number, each in theirs.items() if number in ours}
    if target.figure == "wall":
        return tuple(value / ours[number] for number, value in those.items())
    return tuple(ours[number] / value for number, value in those.items())


def _sides(rows: Sequence[Row], target: Target) -> tuple[dict[Turn, float], dict[Turn, dict[str, float]]]:
    """What we took in each round, and what each of those took whom we are held against."""
    value_of = _FIGURES[target.figure]
    ours: dict[Turn, float] = {}
    theirs: dict[Turn, dict[str, float]] = {}
    for row in _rows_of(rows, target):
        if (value := value_of(row)) is None:
            continue
        if row["rival"] == target.ours:
            ours[turn(row)] = value
        elif row["rival"] == target.against or (target.against == BEST and is_rival(row["rival"])):
            theirs.setdefault(turn(row), {})[row["rival"]] = value
    return ours, theirs


def _rows_of(rows: Sequence[Row], target: Target) -> list[Row]:
    return [row for row in rows if row["scenario"] == target.scenario and pages(row) != WARM]


def is_rival(name: str) -> bool:
    """Neither one of us, nor the limit."""
    return not name.startswith("fetcher") and name.partition(",")[0] != "C"


def _against(rows: Sequence[Row], target: Target) -> str:
    """Who: of the best rival who that was, in how many rounds, among how many."""
    if target.against != BEST:
        return target.against
    ours, theirs = _sides(rows, target)
    rounds = [each for number, each in theirs.items() if number in ours]
    count = len({who for each in rounds for who in each})
    firsts = Counter(min(each, key=lambda who: each[who]) for each in rounds)
    named = ", ".join(f"{who} {times}×" for who, times in firsts.most_common())
    return f"the best of {count} rival{'s' if count > 1 else ''}: {named}"


def _transfer_cpu_s(row: Row) -> float | None:
    own = row.get("transfer")
    return None if own is None else float(own["user_s"] + own["system_s"])


_FIGURES: dict[str, Callable[[Row], float | None]] = {
    "wall": lambda row: row.get("wall_s"),
    "CPU": lambda row: row.get("cpu_s"),
    "CPU of the transfer alone": _transfer_cpu_s,
}


def outcomes(rows: Sequence[Row]) -> list[Outcome]:
    """Of all goals of which something was measured."""
    found = []
    for target in TARGETS:
        values = ratios(rows, target)
        if not values:
            continue
        sign = "≥" if target.figure == "wall" else "≤"
        elsewhere = any(misplaced(row) for row in _rows_of(rows, target))
        found.append(
            Outcome(
                Name(target.scenario, target.ours, target.against, target.figure),
                _against(rows, target),
                spread(values),
                f"{sign} {target.must:g}",
                "" if target.aim is None else f"{sign} {target.aim:g}",
                UNJUDGED if elsewhere else _verdict([target.reached(value) for value in values]),
            )
        )
    return [*found, *_recoveries(rows), *_starts(rows), *_memory(rows)]


def _verdict(rounds: Sequence[bool]) -> str:
    """Of several rounds: one of them has no spread, and so nobody knows what the next would have said."""
    if len(rounds) < 2 or len(set(rounds)) > 1:
        return OPEN
    return REACHED if rounds[0] else MISSED


def table(rows: Sequence[Row]) -> str:
    """What was measured of what has to be reached, as Markdown."""
    found = outcomes(rows)
    lines = head("scenario", "ours", "against", "figure", "measured", "must", "aim", "")
    for each in found:
        cells = (each.name.scenario, each.name.ours, each.against, each.name.figure, each.measured, each.must, each.aim)
        lines.append(line(*cells, each.verdict))
    return "\n".join(lines) if found else ""


def _limited(name: Name, measured: str, limit: str, verdict: str) -> Outcome:
    return Outcome(name, "", measured, f"≤ {limit}", "", verdict)


def _recoveries(rows: Sequence[Row]) -> list[Outcome]:
    """The worst round is what counts: there is nothing on its other side."""
    found = [row.get("recovery_s") for row in rows if row["scenario"] == "link-429"]
    if not found:
        return []
    worst = None if None in found else max(value for value in found if value is not None)
    shown = "never" if worst is None else f"{figure(worst)} s"
    verdict = REACHED if worst is not None and worst <= RECOVERY_S_MAX else MISSED
    name = Name("link-429", "0.9 of the plateau again, worst round")
    return [_limited(name, shown, f"{RECOVERY_S_MAX:g} s", verdict)]


def _starts(rows: Sequence[Row]) -> list[Outcome]:
    some = [row for row in rows if row["scenario"] == "start"]
    bare = {turn(row): row["wall_s"] for row in some if row["rival"] == "python -c pass"}
    taken_ms: dict[str, tuple[list[float], float]] = {}
    for what, limit in START_OVER_MS_MAX.items():
        those = [row for row in some if row["rival"] == what and turn(row) in bare]
        over = [1000 * (row["wall_s"] - bare[turn(row)]) for row in those]
        taken_ms[f"{what}, over python -c pass"] = over, limit
    hits = [row["latency"]["hit_ms_p50"] for row in some if "latency" in row]
    taken_ms["hit in the library"] = hits, LIBRARY_HIT_MS_MAX
    return [
        _limited(
            Name("start", what),
            f"{spread(values)} ms",
            f"{limit:g} ms",
            _verdict([value <= limit for value in values]),
        )
        for what, (values, limit) in taken_ms.items()
        if values
    ]


def _memory(rows: Sequence[Row]) -> list[Outcome]:
    """The most of all rows is what counts."""
    peaks = [(row["rss_mib"], row["scenario"]) for row in rows if row.get("rival") == "fetcher" and "rss_mib" in row]
    if not peaks:
        return []
    peak, scenario = max(peaks)
    name = Name("all", "peak memory of fetcher, the most of all rows")
    shown = f"{figure(peak)} MiB ({scenario})"
    return [_limited(name, shown, f"{RSS_MIB_MAX:g} MiB", REACHED if peak <= RSS_MIB_MAX else MISSED)]
