"""Races as a table: medians and spreads, and ratios between runs of the same round."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from benchmarks.report.cells import Row, Turn, by_rival, head, line, pages, peak, spread, turn, where_it_went
from benchmarks.running.options import GIB, MIB, OURS

MORE_THAN_ONCE = 1.005
"""Of the files' bytes, heads and TLS apart: who asks twice is told."""


@dataclass(frozen=True, slots=True)
class Units:
    """What a race is counted in: bytes, or files where those are small."""

    many: bool

    @property
    def speed(self) -> str:
        return "files/s" if self.many else "MiB/s"

    @property
    def cost(self) -> str:
        return "CPU µs/file" if self.many else "CPU s/GiB"

    def amount(self, row: Row) -> float:
        """What was fetched; over its seconds it is a speed."""
        return float(row["files"] if self.many else row["bytes"] / MIB)

    def cost_scale(self, row: Row) -> float:
        """What CPU seconds are multiplied with."""
        return float(1e6 / row["files"] if self.many else GIB / row["bytes"])


def units_of(rows: Sequence[Row]) -> Units:
    """Of the rows of one scenario."""
    return Units(rows[0]["files"] > 1 and rows[0]["bytes"] / rows[0]["files"] <= MIB)


def table(rows: Sequence[Row]) -> str:
    """Wall clock, speed, CPU and memory of each, and ratios to ours."""
    groups = by_rival(rows)
    our_name = next((row["rival"] for row in ours_of(groups)), "")
    ours = [row for row in rows if row["rival"] == our_name]  # on either kind of pages
    units = units_of(rows)
    titles = (
        "who",
        "wall s",
        units.speed,
        units.cost,
        "transfer alone",
        "peak MiB",
        f"origin {units.cost}",
        "its wall / ours",
        "our CPU / its",
    )
    # Else what the kernel writes back for those who leave it to him would count for nobody.
    whole = all(row.get("durable") and "busy_s" in row for row in rows)
    beside = (f"machine {units.cost}", "our machine CPU / its") if whole else ()
    lines = head(*titles, *beside)
    refused = any("recovery_s" in row for group in groups.values() for row in group)
    for rival, group in groups.items():
        amount, scale = units.amount(group[0]), units.cost_scale(group[0])
        alone = [
            (row["transfer"]["user_s"] + row["transfer"]["system_s"]) * scale for row in group if "transfer" in row
        ]
        cells = [
            spread([row["wall_s"] for row in group]),
            spread([amount / row["wall_s"] for row in group]),
            spread([row["cpu_s"] * scale for row in group]),
            spread(alone) if alone else "",
            peak(group),
            spread([row["server_cpu_s"] * scale for row in group]),
        ]
        is_ours = group[0]["rival"] == our_name
        cells.append("" if is_ours else _ratio(group, ours, wall_s))
        cells.append("" if is_ours else _ratio(ours, group, cpu_s))
        if whole:
            cells.append(spread([machine_cpu_s(row) * scale for row in group]))
            cells.append("" if is_ours else _ratio(ours, group, machine_cpu_s))
        lines.append(line(rival, *cells))
    if len({pages(row) for row in rows}) > 1:
        lines.append("\nFresh and warm pages in one table: ratios between the two say nothing, and are left out.")
    sent = {
        who: [row["sent_bytes"] / row["bytes"] for row in group if "sent_bytes" in row] for who, group in groups.items()
    }
    told = [f"{who} {spread([round(ratio, 3) for ratio in ratios])}" for who, ratios in sent.items() if ratios]
    if any(ratio >= MORE_THAN_ONCE for ratios in sent.values() for ratio in ratios):
        lines.append(f"\nSent by the origin, in times of the files: {'; '.join(told)}.")
    lines += where_it_went(rows)
    if refused:
        for rival, group in groups.items():
            for row in group:
                plateau, after = row.get("plateau_mib_s"), row.get("recovery_s")
                again = "not again before the end" if after is None else f"0.9 of it again after {after} s"
                lines.append(f"\n{rival}: plateau {plateau} MiB/s, {again}; MiB/s by seconds: {row['samples']}")
    return "\n".join(lines)


def ours_of(groups: Mapping[str, list[Row]]) -> list[Row]:
    """Whom ratios are to: the first of us."""
    return next((group for rival, group in groups.items() if rival.startswith(OURS)), [])


def ratios(above: Sequence[Row], below: Sequence[Row], figure: Callable[[Row], float]) -> dict[Turn, float]:
    """The ratio of each round that both were in."""
    others = {turn(row): figure(row) for row in below}
    return {turn(row): figure(row) / others[turn(row)] for row in above if others.get(turn(row))}


def wall_s(row: Row) -> float:
    return float(row["wall_s"])


def cpu_s(row: Row) -> float:
    return float(row["cpu_s"])


def machine_cpu_s(row: Row) -> float:
    """What the whole machine was busy for, without the origin: with the kernel's writing back, and our fsync."""
    return float(row["busy_s"] - row["server_cpu_s"])


def _ratio(above: Sequence[Row], below: Sequence[Row], figure: Callable[[Row], float]) -> str:
    found = ratios(above, below, figure)
    return spread(list(found.values())) if found else ""
