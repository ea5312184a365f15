"""``fetcher renew``: a timed lease gets a new end, counted from now."""

from __future__ import annotations

import argparse
import time
from dataclasses import replace

from fetcher.cli.context import Context, lease_s
from fetcher.cli.inspect import when


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("id", metavar="ID", help="the lease, as get --lease or job said it")
    parser.add_argument("--lease", metavar="DURATION", type=lease_s, default="24h", help="from now (default: 24h)")


def run(context: Context) -> int:
    if context.dry_run:
        with context.cache(looking=True) as cache:
            lease = replace(cache.lease(context.options.id), expires_at=time.time() + float(context.options.lease))
    else:
        with context.cache() as cache:
            lease = cache.lease_renew(context.options.id, context.options.lease)
    if context.output.json_lines:
        context.output.event({"event": "renewed", "id": lease.id, "expires_at": lease.expires_at})
    else:
        context.output.say(f"lease {lease.id} until {when(lease.expires_at) if lease.expires_at else 'released'}")
    return 0
