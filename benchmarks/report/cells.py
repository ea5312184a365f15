"""Cells of tables in Markdown: medians, and in brackets the spread."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence
from typing import Any

Row = dict[str, Any]
Turn = tuple[str | None, int | None]
"""A run, and one of its rounds."""


def head(*titles: str) -> list[str]:
    """The first two lines of a table."""
    return [line(*titles), "|" + "---|" * len(titles)]


def line(*cells: object) -> str:
    return f"| {' | '.join(str(cell) for cell in cells)} |"


def by_rival(rows: Iterable[Row]) -> dict[str, list[Row]]:
    """Rows of each, in the order in which they came up."""
    groups: dict[str, list[Row]] = {}
    for row in rows:
        groups.setdefault(row["rival"], []).append(row)
    return groups


def turn(row: Row) -> Turn:
    """What rows of two rivals have in common if they may be compared: the run and its round.

    Lines of several runs may stand in one file.
    """
    return row.get("run"), row.get("round")


def spread(values: Sequence[float]) -> str:
    """Median, and in brackets the least and the greatest."""
    middle = statistics.median(values)
    if len(values) == 1:
        return figure(middle)
    return f"{figure(middle)} ({figure(min(values))}–{figure(max(values))})"


def peak(rows: Sequence[Row]) -> str:
    """Peak memory in MiB; where no more was seen than what a process has from us, who start it, only that bound."""
    most = max(row["rss_mib"] for row in rows)
    bound = min(row.get("rss_floor_mib", 0.0) for row in rows)
    return f"≤ {figure(most)}" if most <= bound + 0.5 else spread([row["rss_mib"] for row in rows])


def figure(value: float) -> str:
    """Three figures, without an exponent."""
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.3g}"
