"""``fetcher df``: where the space went."""

from __future__ import annotations

import argparse
from dataclasses import asdict

from fetcher.cli.context import Context
from fetcher.cli.output import table
from fetcher.model.quantities import format_size


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog = "Sizes are what the file system allocated; a file that several entries share is counted once."


def run(context: Context) -> int:
    with context.cache(looking=True) as cache:
        usage = cache.usage()
    cache_dir = str(context.settings.cache_dir)
    if context.output.json_lines:
        context.output.event({"event": "df", "path": cache_dir, **asdict(usage), "cache_bytes": usage.cache_bytes})
        return 0
    rows = [
        ["verified files", format_size(usage.blob_bytes), str(usage.blobs)],
        ["downloads under way or kept for resume", format_size(usage.partial_bytes), str(usage.partials)],
        ["directories of resources", format_size(usage.snapshot_bytes), str(usage.snapshots)],
        ["private writable copies", format_size(usage.copy_bytes), str(usage.copies)],
        ["index", format_size(usage.index_bytes), ""],
        ["life signs, lists, directories", format_size(usage.other_bytes), ""],
        ["all of the cache", format_size(usage.cache_bytes), ""],
        *([["quota", format_size(usage.quota_bytes), ""]] if usage.quota_bytes is not None else []),
        ["reserved for downloads under way", format_size(usage.reserved_bytes), ""],
        ["free on the file system", format_size(usage.free_bytes), ""],
        ["size of the file system", format_size(usage.total_bytes), ""],
    ]
    for line in table([cache_dir, "SIZE", "COUNT"], rows, right=(1, 2)):
        context.output.data(line)
    return 0
