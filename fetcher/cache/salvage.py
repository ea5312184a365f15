"""Pins, leases, and what was closed, out of an index that is about to be set aside, as far as it can still be read:
they are in no sidecar. Best effort, row by row; what can't be read is lost, and of pins and leases it is told.
"""

from __future__ import annotations

import math
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

from fetcher.cache.clock import Clock
from fetcher.cache.index import Index, Rows
from fetcher.cache.layout import HEX_32, HEX_64, Layout
from fetcher.cache.leases import insert_lease
from fetcher.cache.records import Lease
from fetcher.cache.snapshots import COLUMNS, IS_HIDDEN, is_there
from fetcher.cache.withdrawal import CLOSED_NAMES

_LEASES_V2 = "id, kind, created_at, expires_at, owner_id, owner_pid, owner_pid_birth, ends_boot_s, boot_id"
_ROOTS = "SELECT root FROM snapshot_blobs WHERE snapshot_id = ?"
_LEASES_V1 = "id, kind, created_at, expires_at, owner_id, owner_pid, owner_pid_birth, NULL, NULL"


def carry_over(old: Path, index: Index, layout: Layout, clock: Clock) -> tuple[int, int, frozenset[str]]:
    """Take pins, and leases on Snapshots that were adopted, from the database ``old``; how many of each.

    Of Snapshots that were found damaged nothing but their rows is left to tell; those that somebody leases are taken
    over as well, and their ids returned.
    """
    try:
        with closing(sqlite3.connect(old.as_uri() + "?mode=ro", uri=True)) as source:
            found = list(_read(source, "SELECT name, resource_key, created_at, principal FROM pins"))
            found = found or list(_read(source, "SELECT name, resource_key, created_at, NULL FROM pins"))
            pins = [row for row in found if _is_pin(row)]
            leases = list(_read(source, f"SELECT {_LEASES_V2} FROM leases"))
            leases = leases or list(_read(source, f"SELECT {_LEASES_V1} FROM leases"))
            members: dict[str, list[str]] = {}
            for lease_id, snapshot_id in _read(source, "SELECT lease_id, snapshot_id FROM lease_snapshots"):
                members.setdefault(str(lease_id), []).append(str(snapshot_id))
            leased = {one for row in leases for one in members.get(str(row[0]), ())}
            hidden = [
                row
                for row in _read(source, f"SELECT {COLUMNS}, keep_for_s FROM snapshots WHERE {IS_HIDDEN}")
                if row[0] in leased and HEX_64.fullmatch(row[0]) and is_there(layout.snapshot(row[0]))
            ]
            shown = {row[0]: [root for (root,) in _read(source, _ROOTS, row[0])] for row in hidden}
    except sqlite3.Error:
        return 0, 0, frozenset()
    with index.write(durable=True) as rows:
        rows.executemany("INSERT OR IGNORE INTO pins VALUES (?, ?, ?, ?)", pins)
        kept_hidden = {str(row[0]) for row in hidden if _insert(rows, row, shown[row[0]])}
        known = {snapshot_id for (snapshot_id,) in rows.execute("SELECT id FROM snapshots")}
        kept = 0
        for row in leases:
            held = tuple(sorted(known.intersection(members.get(str(row[0]), ()))))
            try:
                taken = _lease_of(row, held, clock)
            except (TypeError, ValueError, OverflowError):
                continue
            if taken is not None:
                _take(rows, *taken)
                kept += 1
    return len(pins), kept, frozenset(kept_hidden)


def carry_closed(old: Path, index: Index) -> None:
    """Take over of what it was said that not everybody may have it. Before anything is adopted: of a body without a row
    nothing else tells that it may be of that."""
    try:
        with closing(sqlite3.connect(old.as_uri() + "?mode=ro", uri=True)) as source:
            found = list(_read(source, "SELECT name, value FROM meta WHERE name >= ? AND name < ?", *CLOSED_NAMES))
    except sqlite3.Error:
        return
    with index.write(durable=True) as rows:
        rows.executemany("INSERT OR IGNORE INTO meta VALUES (?, ?)", found)


def _insert(rows: Rows, row: tuple[Any, ...], roots: list[str]) -> bool:
    """A hidden Snapshot, with the sound Blobs that it refers to."""
    try:
        rows.execute(f"INSERT OR IGNORE INTO snapshots ({COLUMNS}, keep_for_s) VALUES ({', '.join('?' * 17)})", row)
    except sqlite3.Error:  # values that make no sense
        return False
    known = [root for root in roots if rows.execute("SELECT 1 FROM blobs WHERE root = ?", (root,)).fetchone()]
    rows.executemany("INSERT OR IGNORE INTO snapshot_blobs VALUES (?, ?)", [(row[0], root) for root in known])
    return True


def _take(rows: Rows, lease: Lease, birth: str | None, ends_boot_s: float | None, boot_id: str) -> None:
    rows.execute("DELETE FROM leases WHERE id = ?", (lease.id,))  # of a copy, made by its name
    insert_lease(rows, lease, birth, ends_boot_s, boot_id)
    rows.executemany("INSERT INTO lease_snapshots VALUES (?, ?)", [(lease.id, held) for held in lease.snapshot_ids])


def _read(source: sqlite3.Connection, question: str, *values: str) -> Iterator[tuple[Any, ...]]:
    """Rows until one can't be read."""
    try:
        yield from source.execute(question, values)
    except sqlite3.Error:
        return


def _is_pin(row: tuple[Any, ...]) -> bool:
    name, key, created_at, principal = row
    if not isinstance(name, str) or not isinstance(key, str) or not isinstance(principal, str | None):
        return False
    return bool(HEX_64.fullmatch(key)) and _is_time(created_at)


def _is_time(value: object) -> bool:
    return isinstance(value, float | int) and math.isfinite(value)


def _lease_of(
    row: tuple[Any, ...], snapshot_ids: tuple[str, ...], clock: Clock
) -> tuple[Lease, str | None, float | None, str] | None:
    """A lease that makes sense; whether it still lives is asked as of any other."""
    lease_id, kind, created_at, expires_at, owner_id, owner_pid, birth, ends_boot_s, boot_id = row
    if not snapshot_ids or not HEX_32.fullmatch(str(lease_id)) or kind not in ("timed", "process"):
        return None
    if not _is_time(created_at) or (kind == "timed" and not _is_time(expires_at)):
        return None
    if (kind == "process" and not HEX_32.fullmatch(str(owner_id))) or not isinstance(owner_pid, int | None):
        return None
    if boot_id is None:  # before there were boots: its end is the calendar's, and this may be its boot
        boot_id = clock.boot_id
        ends_boot_s = clock.boot_s() + float(expires_at) - clock() if kind == "timed" else None
    if kind == "timed" and not _is_time(ends_boot_s):
        return None
    lease = Lease(str(lease_id), kind, snapshot_ids, expires_at, owner_id, created_at, owner_pid)
    return lease, None if birth is None else str(birth), ends_boot_s, str(boot_id)
