"""Cells of tables in Markdown: medians, and in brackets the spread."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence
from typing import Any

Row = dict[str, Any]
Turn = tuple[str | None, int | None, str]
"""A run, one of its rounds, and whether what was written found its pages there (``warm``) or not (``fresh``)."""
FRESH, WARM = "fresh", "warm"


def head(*titles: str) -> list[str]:
    """The first two lines of a table."""
    return [line(*titles), "|" + "---|" * len(titles)]


def line(*cells: object) -> str:
    return f"| {' | '.join(str(cell) for cell in cells)} |"


def by_rival(rows: Iterable[Row]) -> dict[str, list[Row]]:
    """Rows of each, in the order in which they came up; who found pages there is somebody else, and called so."""
    groups: dict[str, list[Row]] = {}
    for row in rows:
        warm = f", {WARM}" if pages(row) == WARM else ""
        groups.setdefault(f"{row['rival']}{warm}", []).append(row)
    return groups


def turn(row: Row) -> Turn:
    """What rows of two rivals have in common if they may be compared: the run, its round, and the kind of pages.

    Lines of several runs may stand in one file.
    """
    return row.get("run"), row.get("round"), pages(row)


def pages(row: Row) -> str:
    """Of the files that were written; older rows do not say it, and nobody had warm ones then."""
    return str(row.get("pages", FRESH))


IN_MEMORY = ("tmpfs", "ramfs")
"""File systems, as stat(1) names them."""
NO_DISK = "**What was to go to a disk went to a tmpfs: name a place on one by `--disk`.**"
NO_MEMORY = (
    "**What was to go to memory went to a disk ({}). There a get of fetcher waits until all is durable, and the others "
    "leave that to the kernel: they do not do the same work, and no goal is judged by it. Name a tmpfs by `--memory`.**"
)


def misplaced(row: Row) -> bool:
    """Whether what was written went to another kind of place than it should; rows that do not say it did not."""
    return "onto" in row and (row["onto"] in IN_MEMORY) == bool(row.get("durable"))


def where_it_went(rows: Iterable[Row]) -> list[str]:
    """Of those that are misplaced: words below a table."""
    said = [NO_DISK if row.get("durable") else NO_MEMORY.format(row["onto"]) for row in rows if misplaced(row)]
    return [f"\n{words}" for words in dict.fromkeys(said)]


def spread(values: Sequence[float]) -> str:
    """Median, and in brackets the least and the greatest."""
    middle = statistics.median(values)
    if len(values) == 1:
        return figure(middle)
    return f"{figure(middle)} ({figure(min(values))}–{figure(max(values))})"


def peak(rows: Sequence[Row]) -> str:
    """Peak memory in MiB; where no more was seen than what a process has from us, who start it, only that bound."""
    values = [row["rss_mib"] for row in rows]
    return f"≤ {figure(max(values))}" if at_floor(rows) else spread(values)


def at_floor(rows: Sequence[Row]) -> bool:
    """Whether the memory of none of them can be told from what a process has from us, who start it."""
    return all(row.get("rss_mib", 0.0) <= row.get("rss_floor_mib", 0.0) + 0.5 for row in rows)


def figure(value: float) -> str:
    """Three figures, without an exponent."""
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.3g}"
