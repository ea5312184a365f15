"""Whether a command that has done its own work may have something to collect.

Light: each hit of the command line asks, and as a rule there is nothing. Then neither ``gc`` nor what it needs is
imported, which would take longer than the hit itself.
"""

from __future__ import annotations

import os

from fetcher.cache.index import Index, Rows
from fetcher.cache.layout import Layout, disk_errors
from fetcher.cache.snapshots import HIDDEN_KEYS, SUPERSEDED

JUST_USED_S = 60.0
"""A command that prints a path and takes no lease must not be followed at once by its removal."""
COLLECT_EVERY_S = 600.0
"""Looking for what crashes left costs a walk through three directories; commands share the work."""


def out_of_time(rows: Rows, now: float, spare_s: float = 0.0) -> list[str]:
    """Snapshots whose time is over, or that a sound one has taken the place of; leased and pinned ones are among them.
    ``spare_s``: but none that was used so recently."""
    over = rows.execute("SELECT id, last_used_at FROM snapshots WHERE keep_until <= ? ORDER BY keep_until", (now,))
    found = dict(over.fetchall())
    found |= rows.execute(
        f"SELECT id, last_used_at FROM snapshots WHERE key >= ? AND key < ? AND {SUPERSEDED}", HIDDEN_KEYS
    ).fetchall()
    return [snapshot_id for snapshot_id, used_at in found.items() if spare_s <= 0 or used_at <= now - spare_s]


def long_ago(rows: Rows, now: float) -> bool:
    """Whether nobody has collected lately."""
    row = rows.execute("SELECT value FROM meta WHERE name = 'collected_at'").fetchone()
    return row is None or not 0 <= now - float(row[0]) < COLLECT_EVERY_S


def may_be_due(index: Index, layout: Layout, now: float) -> bool:
    """False: it is not due. True: the collector has to look whether it is."""
    with index.read() as rows:
        if long_ago(rows, now) or out_of_time(rows, now, JUST_USED_S):
            return True
    with disk_errors("look into", layout.writable):
        try:
            return bool(os.listdir(layout.writable))  # private copies, whose leases may have ended
        except FileNotFoundError:
            return False  # made by a version that had none


def collected(rows: Rows, now: float) -> None:
    """Somebody has collected, or found that there can be nothing."""
    rows.execute("INSERT OR REPLACE INTO meta VALUES ('collected_at', ?)", (repr(now),))
