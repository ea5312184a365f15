"""Space: what is free, what is promised, what could be made, and reserving it all or nothing.

A reservation is a row with its owner; it shrinks as its bytes are written (the file system counts those itself) and is
void once its owner is dead.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Sequence

from fetcher.cache.index import Index, Rows
from fetcher.cache.layout import Layout, disk_errors, random_id
from fetcher.cache.owners import Owners
from fetcher.cache.records import Candidate, GoneError, Space
from fetcher.cache.removal import Removal, Removed
from fetcher.config import GIB, MIB
from fetcher.errors import NoSpaceError

SHRINK_STEP_BYTES = 64 * MIB
"""Rows are updated this often. Until then the bytes count twice, which errs on the safe side by this much."""


class Reservation:
    """Bytes promised to us. Thread-safe."""

    def __init__(self, room: Room, reservation_id: str, owner_id: str, byte_count: int) -> None:
        self.id = reservation_id
        self._owner_id = owner_id
        self._room = room
        self._left = byte_count
        self._unwritten = byte_count
        """As the row says."""
        self._lock = threading.Lock()

    @property
    def bytes(self) -> int:
        """Still promised."""
        return self._left

    def shrink(self, bytes_written: int) -> None:
        """These bytes are on the file system now."""
        with self._lock:
            self._left = max(0, self._left - bytes_written)
            if self._unwritten - self._left < SHRINK_STEP_BYTES:
                return
            self._unwritten = left = self._left
        self._room.set_reservation(self.id, left)

    def release(self) -> None:
        """Give the rest back, when all is published or given up. May be called again.

        With an owner's last reservation its holds on Blobs go: what is unreferenced then has the grace of gc.
        """
        with self._lock:
            self._left = self._unwritten = 0
        self._room.drop_reservation(self.id, self._owner_id)


class Room:
    """The space of one cache."""

    def __init__(
        self,
        index: Index,
        layout: Layout,
        owners: Owners,
        removal: Removal,
        clock: Callable[[], float],
        *,
        floor_bytes: int,
    ) -> None:
        self._index = index
        self._layout = layout
        self._owners = owners
        self._removal = removal
        self._clock = clock
        self._floor_bytes = floor_bytes

    def look(self, *, candidates: bool = True) -> Space:
        """The present state. Changes nothing."""
        with self._index.read() as rows:
            evictable = self._evictable(rows) if candidates else ()
            return Space(self._free(), self._reserved(rows), self._floor_bytes, evictable)

    def reserve(
        self, bytes_needed: int, owner_id: str, *, evict: Sequence[str] = (), hold: Sequence[str] = ()
    ) -> Reservation:
        """Promise ``bytes_needed`` to ``owner_id``, evicting those Snapshots; all of it in one transaction or nothing.

        ``hold``: roots of Blobs that the plan links; they stay until published, whatever is evicted. Raises
        NoSpaceError with the numbers, GoneError if a Blob to hold was removed meanwhile. A Snapshot that was
        leased or pinned since the plan was made is not evicted.
        """
        removed = Removed()
        with self._index.write(durable=True) as rows:
            now = self._clock()
            for root in hold:
                if not rows.execute("UPDATE blobs SET used_at = ? WHERE root = ?", (now, root)).rowcount:
                    raise GoneError("a file of the plan was removed from the cache meanwhile", ids=(root,))
            rows.executemany("INSERT OR IGNORE INTO blob_holds VALUES (?, ?)", [(root, owner_id) for root in hold])
            self._forget_dead(rows)
            # Looking at every Snapshot costs; most plans fit without.
            going = {candidate.snapshot_id for candidate in self._evictable(rows)} if evict else set()
            chosen = [snapshot_id for snapshot_id in dict.fromkeys(evict) if snapshot_id in going]
            to_come = self._freed_by(rows, chosen)
            free, reserved = self._free(), self._reserved(rows)
            missing = bytes_needed + reserved + self._floor_bytes - free - to_come
            if bytes_needed > 0 and missing > 0:
                everything = [candidate.snapshot_id for candidate in self._evictable(rows)]
                possible = self._freed_by(rows, everything) - to_come
                raise self._no_space(bytes_needed, free + to_come, reserved, possible)
            self._removal.snapshots(rows, chosen, removed)
            reservation_id = random_id()
            rows.execute("INSERT INTO reservations VALUES (?, ?, ?, ?)", (reservation_id, owner_id, bytes_needed, now))
        self._removal.finish(removed)
        return Reservation(self, reservation_id, owner_id, bytes_needed)

    def set_reservation(self, reservation_id: str, byte_count: int) -> None:
        with self._index.write(durable=False) as rows:
            rows.execute("UPDATE reservations SET bytes = ? WHERE id = ?", (byte_count, reservation_id))

    def drop_reservation(self, reservation_id: str, owner_id: str) -> None:
        with self._index.write(durable=False) as rows:
            rows.execute("DELETE FROM reservations WHERE id = ?", (reservation_id,))
            if not rows.execute("SELECT 1 FROM reservations WHERE owner_id = ?", (owner_id,)).fetchone():
                rows.execute("DELETE FROM blob_holds WHERE owner_id = ?", (owner_id,))

    def _no_space(self, needed: int, free: int, reserved: int, possible: int) -> NoSpaceError:
        others = f", {gibibytes(reserved)} of them promised to other downloads" if reserved else ""
        hint = "free some space on that file system, or use a cache on a larger one with --cache-dir"
        if possible > 0:
            hint = f"{gibibytes(possible)} are in snapshots that nobody uses now: `fetcher prune` removes some"
        return NoSpaceError(
            f"{gibibytes(needed)} are needed in {self._layout.cache_dir}, {gibibytes(free)} are free{others}; "
            f"{gibibytes(self._floor_bytes)} must stay free",
            hint=hint,
        )

    def _free(self) -> int:
        place = self._layout.cache_dir
        while not place.exists() and place != place.parent:  # a plan for a cache that is still to be made
            place = place.parent
        with disk_errors("look at", place):
            status = os.statvfs(place)
        return status.f_bavail * status.f_frsize

    def _reserved(self, rows: Rows) -> int:
        totals = rows.execute("SELECT owner_id, SUM(bytes) FROM reservations GROUP BY owner_id").fetchall()
        return sum(total for owner, total in totals if self._owners.state(owner) != "dead")

    def _forget_dead(self, rows: Rows) -> None:
        for (owner,) in rows.execute("SELECT DISTINCT owner_id FROM reservations").fetchall():
            if self._owners.state(owner) == "dead":
                rows.execute("DELETE FROM reservations WHERE owner_id = ?", (owner,))

    def _evictable(self, rows: Rows) -> tuple[Candidate, ...]:
        protected = self._removal.protected(rows)
        alone = dict(
            rows.execute(
                "SELECT snapshot_id, SUM(size) FROM"
                " (SELECT MIN(snapshot_id) AS snapshot_id, root FROM snapshot_blobs GROUP BY root HAVING COUNT(*) = 1)"
                " JOIN blobs USING (root) GROUP BY snapshot_id"
            )
        )
        listed = rows.execute("SELECT id, uri, last_used_at FROM snapshots ORDER BY last_used_at, id")
        return tuple(
            Candidate(row[0], row[1], alone.get(row[0], 0), row[2]) for row in listed if row[0] not in protected
        )

    def _freed_by(self, rows: Rows, ids: Sequence[str]) -> int:
        """Bytes of Blobs that only these Snapshots refer to, and that nobody holds."""
        if not ids:
            return 0
        held = self._removal.held(rows)
        rows.execute("CREATE TEMP TABLE IF NOT EXISTS going (id TEXT PRIMARY KEY)")
        rows.execute("DELETE FROM going")
        rows.executemany("INSERT INTO going VALUES (?)", [(snapshot_id,) for snapshot_id in ids])
        found = rows.execute(
            "SELECT root, size FROM blobs"
            " WHERE root IN (SELECT root FROM snapshot_blobs WHERE snapshot_id IN (SELECT id FROM going))"
            " AND root NOT IN (SELECT root FROM snapshot_blobs WHERE snapshot_id NOT IN (SELECT id FROM going))"
        )
        return sum(size for root, size in found if root not in held)


def gibibytes(byte_count: int) -> str:
    """A size for people, in the largest unit that keeps it above one."""
    if abs(byte_count) >= GIB:
        return f"{byte_count / GIB:.1f} GiB"
    return f"{byte_count / MIB:.1f} MiB"
