"""How much the torture tests do: a little in every run of all tests, much more with ``make torture``."""

from __future__ import annotations

import os

LONG = os.environ.get("FETCHER_TEST_LONG") == "1"


def count(short: int, long: int) -> int:
    """So many of something (crash images, kills, steps)."""
    return long if LONG else short
