"""``fetcher rm``: a resource leaves the cache, with the files that nothing else uses."""

from __future__ import annotations

import argparse

from fetcher.cli.context import Context
from fetcher.cli.entries import snapshots_of
from fetcher.cli.prune import tell_removed


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("uri", metavar="URI", help="all entries of this resource, whatever files they hold")
    parser.epilog = "What is leased or pinned is not removed: release it first."


def run(context: Context) -> int:
    with context.cache(looking=context.dry_run) as cache:
        found = snapshots_of(cache, context.options.uri)
        report = cache.remove([snapshot.id for snapshot in found], dry_run=context.dry_run)
    tell_removed(context, [(snapshot.uri, snapshot.id, snapshot.bytes) for snapshot in found], report)
    return 0
