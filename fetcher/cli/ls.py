"""``fetcher ls``: what is in the cache, newest first."""

from __future__ import annotations

import argparse
import time

from fetcher.cli.context import Context
from fetcher.cli.entries import entry_json
from fetcher.cli.output import table
from fetcher.model.quantities import format_duration, format_size


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog = (
        "With --verbose also where each entry is. A resource with other files, from another endpoint or for "
    )
    parser.epilog += "another credential is an entry of its own."


def run(context: Context) -> int:
    with context.cache(looking=True) as cache:
        snapshots = cache.snapshots()
        leases, pins = cache.leases(), cache.pins()
    entries = [entry_json("entry", snapshot, leases, pins, snapshots) for snapshot in snapshots]
    if context.output.json_lines:
        for entry in entries:
            context.output.event(entry)
        return 0
    if not entries:
        context.output.say(f"nothing in {context.settings.cache_dir}")
        return 0
    now = time.time()
    header = ["RESOURCE", "REVISION", "FILES", "SIZE", "AGE", "STATE"]
    rows = [
        [
            entry["resource"],
            (entry["revision"] or "-")[:12],
            str(entry["files"]),
            format_size(entry["bytes"]),
            format_duration(now - entry["downloaded_at"]),
            state_words(entry, now),
        ]
        for entry in entries
    ]
    if context.output.verbose:
        header.append("PATH")
        for row, entry in zip(rows, entries, strict=True):
            row.append(entry["path"])
    for line in table(header, rows, right=(2, 3, 4)):
        context.output.data(line)
    return 0


def state_words(entry: dict[str, object], now: float) -> str:
    """What matters of an entry's state: whether a hit would ask nobody, and what keeps it."""
    fresh_until = entry["fresh_until"]
    fresh = fresh_until is None or (isinstance(fresh_until, float | int) and now < fresh_until)
    words = ["damaged" if entry["damaged"] else "fresh" if fresh else "stale"]
    words += ["withdrawn"] if entry["withdrawn"] else ["private"] if entry["private"] else []
    words += ["leased"] if entry["leases"] else []
    words += ["pinned"] if entry["pins"] else []
    return ", ".join(words)
