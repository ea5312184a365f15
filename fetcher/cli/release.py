"""``fetcher release``: a lease ends; what it held may be removed when its time is over."""

from __future__ import annotations

import argparse

from fetcher.cli.context import Context


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("id", metavar="ID", help="the lease, as get --lease or job said it")


def run(context: Context) -> int:
    lease_id: str = context.options.id
    if context.dry_run:
        with context.cache(looking=True) as cache:
            cache.lease(lease_id)
    else:
        with context.cache() as cache:
            cache.lease_release(lease_id)
    if context.output.json_lines:
        context.output.event({"event": "released", "id": lease_id, "dry_run": context.dry_run})
    return 0
