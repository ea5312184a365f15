"""JSON lines of the rows as tables in Markdown: medians and spreads, and ratios between runs of the same round."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from benchmarks.tables import spread

MIB = 1 << 20
GIB = 1 << 30
Row = dict[str, Any]


def tables(rows: Sequence[Row]) -> str:
    """One table for each row of the benchmark."""
    names = list(dict.fromkeys(row["row"] for row in rows))
    return "\n\n".join(_table(name, [row for row in rows if row["row"] == name]) for name in names)


def _table(name: str, rows: Sequence[Row]) -> str:
    groups: dict[str, list[Row]] = {}
    for row in rows:
        groups.setdefault(row["rival"], []).append(row)
    done = {rival: good for rival, group in groups.items() if (good := [row for row in group if "wall_s" in row])}
    lines = [f"### {name}", ""]
    if name == "start":
        lines += _start_lines(groups)
    else:
        lines += _transfer_lines(done)
    for rival, group in groups.items():
        for row in group:
            if reason := row.get("missing") or row.get("failed"):
                lines.append(f"\n{rival}: {reason}")
    return "\n".join(lines)


def _transfer_lines(groups: dict[str, list[Row]]) -> list[str]:
    if not groups:
        return []
    ours = next((group for rival, group in groups.items() if rival.startswith("fetcher")), [])
    one = next(iter(groups.values()))[0]
    many = one["files"] > 1 and one["bytes"] / one["files"] <= MIB
    unit = "files/s" if many else "MiB/s"
    cost = "CPU µs/file" if many else "CPU s/GiB"
    titles = (
        "who",
        "wall s",
        unit,
        cost,
        "transfer alone",
        "peak MiB",
        f"origin {cost}",
        "its wall / ours",
        "our CPU / its",
    )
    lines = [_line(*titles), "|" + "---|" * len(titles)]
    refused = any("recovery_s" in row for group in groups.values() for row in group)
    for rival, group in groups.items():
        amount = group[0]["files"] if many else group[0]["bytes"] / MIB
        scale = 1e6 / group[0]["files"] if many else GIB / group[0]["bytes"]
        alone = [
            (row["transfer"]["user_s"] + row["transfer"]["system_s"]) * scale for row in group if "transfer" in row
        ]
        cells = [
            spread([row["wall_s"] for row in group]),
            spread([amount / row["wall_s"] for row in group]),
            spread([row["cpu_s"] * scale for row in group]),
            spread(alone) if alone else "",
            spread([row["rss_mib"] for row in group]),
            spread([row["server_cpu_s"] * scale for row in group]),
        ]
        cells.append("" if group is ours else _ratio(group, ours, lambda row: row["wall_s"]))
        cells.append("" if group is ours else _ratio(ours, group, lambda row: row["cpu_s"]))
        lines.append(_line(rival, *cells))
    if refused:
        for rival, group in groups.items():
            for row in group:
                plateau, after = row.get("plateau_mib_s"), row.get("recovery_s")
                again = "not again before the end" if after is None else f"0.9 of it again after {after} s"
                lines.append(f"\n{rival}: plateau {plateau} MiB/s, {again}; MiB/s by seconds: {row['samples']}")
    return lines


def _ratio(above: Sequence[Row], below: Sequence[Row], figure: Callable[[Row], float]) -> str:
    """Median and spread of the ratios of rounds that both were in."""
    others = {row["round"]: figure(row) for row in below}
    ratios = [figure(row) / others[row["round"]] for row in above if others.get(row["round"])]
    return spread(ratios) if ratios else ""


def _start_lines(groups: dict[str, list[Row]]) -> list[str]:
    lines = [_line("what", "wall ms", "over python -c pass", "CPU ms", "peak MiB"), "|" + "---|" * 5]
    bare = {row["round"]: row["wall_s"] for row in groups.get("python -c pass", ())}
    for what, group in groups.items():
        if "latency" in group[0]:
            lines.append(f"\n{what}: {group[0]['latency']}")
            continue
        over = [1000 * (row["wall_s"] - bare[row["round"]]) for row in group if row["round"] in bare]
        cells = [spread([1000 * row["wall_s"] for row in group]), spread(over) if over and what in groups else ""]
        cells += [spread([1000 * row["cpu_s"] for row in group]), spread([row["rss_mib"] for row in group])]
        lines.append(_line(what, *cells))
    return lines


def _line(*cells: object) -> str:
    return f"| {' | '.join(str(cell) for cell in cells)} |"
