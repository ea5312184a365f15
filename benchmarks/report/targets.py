"""What the hot path has to reach, and what a run says of it: ratios between runs of one round, their median.

A wall ratio is theirs / ours (2 is twice as fast as they), a CPU ratio ours / theirs (1 is as cheap). C is no rival.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from benchmarks.report.cells import WARM, Row, pages, turn

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


def ratio(rows: Sequence[Row], target: Target) -> float | None:
    """The median of the rounds' ratios; None where one of the two was not measured.

    Goals are for fresh pages: what was written to warm ones does not count.
    """
    figure = _FIGURES[target.figure]
    ours: dict[object, float] = {}
    theirs: dict[object, float] = {}
    for row in rows:
        if row["scenario"] != target.scenario or pages(row) == WARM or (value := figure(row)) is None:
            continue
        if row["rival"] == target.ours:
            ours[turn(row)] = value
        elif row["rival"] == target.against or (target.against == BEST and _is_rival(row["rival"])):
            theirs[turn(row)] = min(value, theirs.get(turn(row), value))
    common = ours.keys() & theirs.keys()
    if not common:
        return None
    if target.figure == "wall":
        return statistics.median(theirs[number] / ours[number] for number in common)
    return statistics.median(ours[number] / theirs[number] for number in common)


def _is_rival(name: str) -> bool:
    return not name.startswith("fetcher") and name.partition(",")[0] != "C"


def _transfer_cpu_s(row: Row) -> float | None:
    own = row.get("transfer")
    return None if own is None else float(own["user_s"] + own["system_s"])


_FIGURES: dict[str, Callable[[Row], float | None]] = {
    "wall": lambda row: row.get("wall_s"),
    "CPU": lambda row: row.get("cpu_s"),
    "CPU of the transfer alone": _transfer_cpu_s,
}


def table(rows: Sequence[Row]) -> str:
    """What was measured of what has to be reached, as Markdown."""
    lines = ["| scenario | ours | against | figure | measured | must | aim | |", "|" + "---|" * 8]
    for target in TARGETS:
        value = ratio(rows, target)
        if value is None:
            continue
        sign = "≥" if target.figure == "wall" else "≤"
        aim = "" if target.aim is None else f"{sign} {target.aim:g}"
        verdict = "reached" if target.reached(value) else "**not**"
        cells = (
            target.scenario,
            target.ours,
            target.against,
            target.figure,
            f"{value:.2f}",
            f"{sign} {target.must:g}",
            aim,
        )
        lines.append(f"| {' | '.join(cells)} | {verdict} |")
    for row, what, measured, limit, unit in (*_recoveries(rows), *_starts(rows), *_memory(rows)):
        verdict = "reached" if measured is not None and measured <= limit else "**not**"
        shown = "never" if measured is None else f"{measured:.3g} {unit}"
        lines.append(f"| {row} | {what} | | | {shown} | ≤ {limit:g} {unit} | | {verdict} |")
    return "\n".join(lines) if len(lines) > 2 else ""


Limit = tuple[str, str, float | None, float, str]


def _recoveries(rows: Sequence[Row]) -> list[Limit]:
    found = [row.get("recovery_s") for row in rows if row["scenario"] == "link-429"]
    if not found:
        return []
    worst = None if None in found else max(value for value in found if value is not None)
    return [("link-429", "0.9 of the plateau again, worst round", worst, RECOVERY_S_MAX, "s")]


def _starts(rows: Sequence[Row]) -> list[Limit]:
    some = [row for row in rows if row["scenario"] == "start"]
    bare = {turn(row): row["wall_s"] for row in some if row["rival"] == "python -c pass"}
    found: list[Limit] = []
    for what, limit in START_OVER_MS_MAX.items():
        those = [row for row in some if row["rival"] == what and turn(row) in bare]
        over = [1000 * (row["wall_s"] - bare[turn(row)]) for row in those]
        if over:
            found.append(("start", f"{what}, over python -c pass", statistics.median(over), limit, "ms"))
    if hits := [row["latency"]["hit_ms_p50"] for row in some if "latency" in row]:
        found.append(("start", "hit in the library", statistics.median(hits), LIBRARY_HIT_MS_MAX, "ms"))
    return found


def _memory(rows: Sequence[Row]) -> list[Limit]:
    peaks = [(row["rss_mib"], row["scenario"]) for row in rows if row.get("rival") == "fetcher" and "rss_mib" in row]
    if not peaks:
        return []
    peak, row = max(peaks)
    return [(row, "peak memory of fetcher, the most of all rows", peak, RSS_MIB_MAX, "MiB")]
