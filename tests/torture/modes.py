"""How much the torture tests do: a little in every run of all tests, much more with ``make torture``."""

from __future__ import annotations

import os
from typing import TypeVar

T = TypeVar("T")

LONG = os.environ.get("FETCHER_TEST_LONG") == "1"


def count(short: T, long: T) -> T:
    """So many of something (crash images, kills, steps), or so long a list."""
    return long if LONG else short
