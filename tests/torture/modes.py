"""How long the tests of this room may take: a few images and kills in each run, hundreds when somebody asks for it."""

from __future__ import annotations

import os

LONG = os.environ.get("FETCHER_TEST_LONG") == "1"
"""Set by ``make torture``."""


def count(short: int, long: int) -> int:
    """How often to try: ``short`` in every run, ``long`` in the long mode."""
    return long if LONG else short
