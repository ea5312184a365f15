"""``python -m fetcher``: the command line."""

from fetcher.cli.app import program

program()
