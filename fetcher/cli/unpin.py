"""``fetcher unpin``: what a pin kept is removed in its time again."""

from __future__ import annotations

import argparse

from fetcher.cli.context import Context, value_of
from fetcher.errors import NotFoundError
from fetcher.model.pins import pin_name


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "name", metavar="N", type=value_of(pin_name), help="name of the pin; fetcher ls --json shows them"
    )


def run(context: Context) -> int:
    name: str = context.options.name
    with context.cache(looking=context.dry_run) as cache:
        if context.dry_run:
            count = sum(pin.name == name for pin in cache.pins())
        else:
            count = cache.unpin(name)
    if not count:
        raise NotFoundError(f"there is no pin {name}", hint="fetcher ls --json shows the pins there are")
    if context.output.json_lines:
        context.output.event({"event": "unpinned", "name": name, "resources": count, "dry_run": context.dry_run})
    else:
        words = "would unpin" if context.dry_run else "unpinned"
        context.output.say(f"{words} {name}: {count} {'resource' if count == 1 else 'resources'}")
    return 0
