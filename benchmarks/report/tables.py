"""JSON rows as tables in Markdown, one for each scenario."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from benchmarks.report import others, transfers
from benchmarks.report.cells import Row

MAKERS: Mapping[str, Callable[[Sequence[Row]], str]] = {
    "requests": others.request_table,
    "repeat-repo": others.sent_table,
    "repeat-s3": others.sent_table,
    "concurrent": others.sent_table,
    "kill": others.kill_tables,
    "flipped": others.flip_table,
    "flipped-s3": others.stated_table,
    "start": others.start_table,
    "hashing": others.ratio_table,
    "index": others.layer_table,
    "denied": others.refusal_table,
}
"""Whose table is another than that of a race."""


def by_scenario(rows: Sequence[Row]) -> dict[str, list[Row]]:
    """Rows of each, in the order in which they came up."""
    groups: dict[str, list[Row]] = {}
    for row in rows:
        groups.setdefault(row["scenario"], []).append(row)
    return groups


def tables(rows: Sequence[Row]) -> str:
    """A heading and a table for each scenario."""
    return "\n\n".join(f"### {name}\n\n{table(group)}" for name, group in by_scenario(rows).items())


def table(rows: Sequence[Row]) -> str:
    """Of one scenario, with who was missing or dropped out, and why."""
    measured = [row for row in rows if "missing" not in row and "failed" not in row]
    parts = [MAKERS.get(rows[0]["scenario"], transfers.table)(measured)] if measured else []
    for row in rows:
        if reason := row.get("missing") or row.get("failed"):
            parts.append(f"{row['rival']}: {reason}")
    return "\n\n".join(parts)
