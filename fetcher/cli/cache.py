"""``fetcher cache dir``: where the cache is, for scripts."""

from __future__ import annotations

import argparse

from fetcher.cli.context import Context


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("what", metavar="dir", choices=["dir"], help="print the directory; it need not be there yet")


def run(context: Context) -> int:
    cache_dir = str(context.settings.cache_dir)
    if context.output.json_lines:
        state_dir = str(context.settings.state_dir)
        context.output.event({"event": "cache_dir", "path": cache_dir, "state_path": state_dir})
    else:
        context.output.data(cache_dir)
    return 0
