"""JSON rows of the scenarios as tables in Markdown: medians, and in brackets the spread. Standard library only."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Sequence
from typing import Any

MIB = 1 << 20
Rows = Sequence[dict[str, Any]]


def tables(rows: Rows) -> str:
    """Of all rows, one table for each kind: processes, ratios, layers, kills."""
    makers: dict[str, Callable[[Rows], str]] = {"hashing": ratio_table, "cache": layer_table, "kill": kill_tables}
    groups: dict[Callable[[Rows], str], list[dict[str, Any]]] = {}
    for row in rows:
        groups.setdefault(makers.get(row["scenario"], table), []).append(row)
    return "\n\n".join(make(group) for make, group in groups.items())


def table(rows: Rows) -> str:
    """Processes: medians and spreads, one line per scenario and rival."""
    groups: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for row in rows:
        groups.setdefault((row["scenario"], row.get("rival") or row.get("what") or ""), []).append(row)
    lines = _head("scenario", "who", "wall s", "CPU s", "peak MiB", "then sync s", "requests")
    for (scenario, who), group in groups.items():
        cells = [spread([row[name] for row in group]) for name in ("wall_s", "cpu_s", "rss_mib", "sync_s")]
        asked = statistics.median(row["requests"] for row in group) if "requests" in group[0] else ""
        lines.append(_line(scenario, who, *cells, asked))
    return "\n".join(lines)


def ratio_table(rows: Rows) -> str:
    """One line per contest: the fastest slices, their ratio, and in brackets the spread of the rounds' ratios."""
    lines = _head("hashing", "ours", "against", "it", "times as fast", "per round")
    for row in rows:
        cells = [row["what"], f"{row['ours']} {row['unit']}"]
        if "ratio" in row:
            per_round = f"{row['ratio_median']} ({row['ratio_low']}–{row['ratio_high']})"
            cells += [row["than"], f"{row['other']} {row['unit']}", f"**{row['ratio']}**", per_round]
        else:
            cells += [""] * 4
        lines.append(_line(*cells))
    return "\n".join(lines)


def layer_table(rows: Rows) -> str:
    """One line per figure of the cache: median and spread of the rounds, and how often the reference goes into it."""
    lines = _head("cache", "median (rounds)", "against", "it", "times it")
    for row in rows:
        cells = [row["what"], f"{spread(row['values'])} {row['unit']}"]
        if "than" in row:
            ratios = [ours / other for ours, other in zip(row["values"], row["others"], strict=True)]
            cells += [row["than"], f"{spread(row['others'])} {row['unit']}", spread(ratios)]
        else:
            cells += [""] * 3
        lines.append(_line(*cells))
    return "\n".join(lines)


def kill_tables(rows: Rows) -> str:
    """One line per rival: killed three times, and with a bit flipped between kill and restart."""
    killed = _head("killed", "asked again MiB", "of the file", "right", "half under its name", "left MiB", "last run s")
    flipped = _head("a bit flipped", "right", "ended with an error", "asked again MiB", "of what had come")
    for who, group in _by_rival(rows):
        if "missing" in group[0]:
            killed.append(_line(who, group[0]["missing"], *[""] * 5))
            continue
        some = [row for row in group if row["variant"] == "kill"]
        again = spread([round(row["again_bytes"] / MIB, 1) for row in some])
        share = statistics.median(row["again_bytes"] / row["size_bytes"] for row in some)
        half = f"after {sum(row['half_visible'] for row in some)} of {sum(row['kills'] for row in some)} kills"
        left, wall = (
            spread([round(row["left_bytes"] / MIB, 1) for row in some]),
            spread([row["wall_s"] for row in some]),
        )
        killed.append(_line(who, again, f"{share:.0%}", _right(some), half, left, wall))
        some = [row for row in group if row["variant"] == "flip"]
        again = spread([round(row["again_bytes"] / MIB, 1) for row in some])
        share = statistics.median(row["again_bytes"] / row["sent_before_bytes"] for row in some)
        told = f"{sum(row['exit'] != 0 for row in some)} of {len(some)}"
        flipped.append(_line(who, _right(some), told, again, f"{share:.0%}"))
    return "\n".join([*killed, "", *flipped])


def _right(rows: Rows) -> str:
    return f"{sum(row['right'] for row in rows)} of {len(rows)}"


def _by_rival(rows: Rows) -> Iterable[tuple[str, list[dict[str, Any]]]]:
    groups: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        groups.setdefault(row["rival"], []).append(row)
    return groups.items()


def _head(*titles: str) -> list[str]:
    return [_line(*titles), "|" + "---|" * len(titles)]


def _line(*cells: object) -> str:
    return f"| {' | '.join(str(cell) for cell in cells)} |"


def spread(values: Sequence[float]) -> str:
    """Median, and in brackets the least and the greatest."""
    middle = statistics.median(values)
    if len(values) == 1:
        return _figure(middle)
    return f"{_figure(middle)} ({_figure(min(values))}–{_figure(max(values))})"


def _figure(value: float) -> str:
    """Three figures, without an exponent."""
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.3g}"
