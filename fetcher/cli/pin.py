"""``fetcher pin``: a resource that is in the cache stays there until it is unpinned."""

from __future__ import annotations

import argparse

from fetcher.cli.context import Context, value_of
from fetcher.cli.entries import snapshots_of
from fetcher.model.pins import pin_name


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("uri", metavar="URI", help="a resource of the cache; all choices of its files")
    parser.add_argument("--name", metavar="N", required=True, type=value_of(pin_name), help="what unpin takes")
    parser.epilog = "Of a branch or a prefix that moves on, the newest revision in the cache is the one that is kept."


def run(context: Context) -> int:
    name: str = context.options.name
    with context.cache(looking=context.dry_run) as cache:
        found = snapshots_of(cache, context.options.uri)
        if not context.dry_run:
            cache.pin(name, *dict.fromkeys(snapshot.key for snapshot in found))
    if context.output.json_lines:
        context.output.event(
            {
                "event": "pinned",
                "name": name,
                "resource": found[0].uri,
                "entries": len(found),
                "dry_run": context.dry_run,
            }
        )
    else:
        words = "would pin" if context.dry_run else "pinned"
        context.output.say(f"{words} {found[0].uri} as {name}")
    return 0
