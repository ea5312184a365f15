"""``fetcher prune``: what is past its time leaves the cache; with ``--max-size`` also what was used longest ago."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import TYPE_CHECKING

from fetcher.cli.context import Context, size_bytes
from fetcher.model.quantities import format_size

if TYPE_CHECKING:
    from fetcher.cache.records import GcReport


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--max-size", metavar="SIZE", type=size_bytes, help="go on, least recently used first, down to this size: 200GB"
    )
    parser.epilog = "What is leased or pinned stays."


def run(context: Context) -> int:
    with context.cache(looking=context.dry_run) as cache:
        known = {snapshot.id: snapshot for snapshot in cache.snapshots()}
        plan = cache.prune_plan(max_bytes=context.options.max_size)
        report = plan.report if context.dry_run else plan.execute()
        unfinished = cache.usage().partial_bytes
    tell_removed(context, [(known[id].uri, id, known[id].bytes) for id in report.snapshots if id in known], report)
    if unfinished and not context.output.json_lines:
        context.output.say(
            f"{format_size(unfinished)} of unfinished downloads stay, for the day after they were left, to be resumed"
        )
    return 0


def tell_removed(context: Context, rows: Sequence[tuple[str, str, int]], report: GcReport) -> None:
    """Say what is gone, or with ``--dry-run`` what would be."""
    leftovers = report.leftovers + report.copies
    if context.output.json_lines:
        context.output.event(
            {
                "event": "removed",
                "dry_run": context.dry_run,
                "snapshots": [{"resource": uri, "id": id, "bytes": size} for uri, id, size in rows],
                "files": report.blobs,
                "unfinished": report.partials,
                "leftovers": leftovers,
                "bytes_freed": report.bytes_freed,
            }
        )
        return
    for uri, _, size in rows:
        context.output.data(f"{uri}  {format_size(size)}")
    counted = [f"{len(rows)} {'entry' if len(rows) == 1 else 'entries'}"]
    if report.partials:
        counted.append(f"{report.partials} unfinished {'download' if report.partials == 1 else 'downloads'}")
    if leftovers:
        counted.append(f"{leftovers} {'leftover' if leftovers == 1 else 'leftovers'}")
    verb = "would free" if context.dry_run else "freed"
    context.output.say(f"{', '.join(counted)}, {verb} {format_size(report.bytes_freed)}")
