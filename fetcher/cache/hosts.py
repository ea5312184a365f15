"""What runs found out about hosts, for the next run to begin with. Knows rows, not what to do with what they say.

A row says of one ``scheme://host:port`` how many connections were worth having and how fast one was. It is a start
value and nothing else: what a stranger's host teaches, it teaches about itself, and the number of rows is bounded.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping

from fetcher.cache.clock import Clock
from fetcher.cache.index import Index
from fetcher.plan.window import Known

_PREFIX, _PREFIX_END = "host:", "host;"
"""Names of those rows in ``meta``; ``;`` is the character after ``:``."""
HOSTS_MAX = 64
"""The latest are kept."""
NAME_CHARACTERS_MAX = 300
"""A DNS name has at most 253, scheme and port a dozen more; longer ones are remembered by nobody."""
KEPT_FOR_S = 14 * 86_400.0
CONNECTIONS_MAX = 1024
"""The most that can be set."""


class Hosts:
    """The hosts' rows of one index."""

    def __init__(self, index: Index, clock: Clock) -> None:
        self._index = index
        self._clock = clock

    def load(self) -> dict[str, Known]:
        """What is known of each host; what is too old or can't be read counts as not there."""
        with self._index.read() as rows:
            found = rows.execute(
                "SELECT name, value FROM meta WHERE name >= ? AND name < ?", (_PREFIX, _PREFIX_END)
            ).fetchall()
        now = self._clock()
        known = {}
        for name, value in found:
            read = _read(value)
            if read is not None and abs(now - read[0]) <= KEPT_FOR_S:
                known[name.removeprefix(_PREFIX)] = read[1]
        return known

    def save(self, known: Mapping[str, Known]) -> None:
        """Remember these, and forget the oldest where that makes too many. A power cut may undo it."""
        now = self._clock()
        fresh = {
            f"{_PREFIX}{host}": json.dumps([now, item.connections, item.connections_max, item.connection_bytes_per_s])
            for host, item in known.items()
            if len(host) <= NAME_CHARACTERS_MAX
        }
        if not fresh:
            return
        with self._index.write(durable=False) as rows:
            rows.executemany("INSERT OR REPLACE INTO meta VALUES (?, ?)", fresh.items())
            found = rows.execute(
                "SELECT name, value FROM meta WHERE name >= ? AND name < ?", (_PREFIX, _PREFIX_END)
            ).fetchall()
            ages = {}
            for name, value in found:
                read = _read(value)
                ages[name] = abs(now - read[0]) if read is not None else math.inf
            by_age = sorted(ages, key=lambda name: (ages[name], name))
            gone = [name for index, name in enumerate(by_age) if index >= HOSTS_MAX or ages[name] > KEPT_FOR_S]
            rows.executemany("DELETE FROM meta WHERE name = ?", [(name,) for name in gone])


def _read(text: str) -> tuple[float, Known] | None:
    """(saved at, what), if that is what the row says."""
    try:
        saved_at, connections, connections_max, speed = json.loads(text)
        saved_at, speed = float(saved_at), float(speed)
    except (ValueError, TypeError, RecursionError, OverflowError):
        return None
    whole = type(connections) is int and type(connections_max) is int
    if not whole or not 1 <= connections <= connections_max <= CONNECTIONS_MAX:
        return None
    if not (math.isfinite(saved_at) and math.isfinite(speed)) or speed < 0:
        return None
    return saved_at, Known(connections, connections_max, speed)
