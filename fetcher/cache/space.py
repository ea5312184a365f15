"""Space: what is free, what is promised, what could be made, and reserving it all or nothing.

Two walls: the file system (less the floor that stays free) and, where there is one, the quota: what the cache has
allocated plus what is promised never exceeds it. A reservation is a row with its owner, void once that is dead. Bytes
are *drawn* from it, in steps, before they are written: from then on they count as what the disk has, or will have in a
moment. So at no instant is a byte counted by nobody, and the sum never exceeds what was promised.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

from fetcher.cache import durable
from fetcher.cache.index import Index, Rows
from fetcher.cache.layout import Layout, disk_errors, random_id
from fetcher.cache.owners import Owners
from fetcher.cache.records import Candidate, GoneError, Space
from fetcher.cache.removal import Removal, Removed
from fetcher.cache.reservation import Reservation
from fetcher.cache.usage import used_bytes
from fetcher.config import MIB
from fetcher.errors import NoSpaceError
from fetcher.model.quantities import format_size
from fetcher.plan import allocation

INDEX_ROOM_BYTES = 8 * MIB
"""Under a quota this much is left for what nobody reserves: the index and its log, which SQLite folds in at 4 MiB."""


@dataclass(frozen=True, slots=True)
class _Measured:
    """What was seen outside any transaction, and may have grown since: by what was promised then, at most."""

    used_bytes: int = 0
    promised: int = 0
    """Bytes, read before the walk."""
    ever_promised: int = 0
    """Bytes promised since the index was made, read together with that."""


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
        quota_bytes: int | None = None,
    ) -> None:
        self._index = index
        self._layout = layout
        self._owners = owners
        self._removal = removal
        self._clock = clock
        self._floor_bytes = floor_bytes
        self._quota_bytes = quota_bytes

    def look(self, *, candidates: bool = True, keep: Collection[str] = (), hold: Collection[str] = ()) -> Space:
        """The present state. Changes nothing. ``keep`` and ``hold``: Snapshots and Blobs that are to stay, though
        nobody has a right to them yet."""
        measured = self._measure()
        with self._index.read() as rows:
            return self._space(rows, measured, self._evictable(rows, keep, hold) if candidates else ())

    def reserve(
        self, bytes_needed: int, owner_id: str, *, evict: Sequence[str] = (), hold: Sequence[str] = ()
    ) -> Reservation:
        """Promise ``bytes_needed`` to ``owner_id``, evicting those Snapshots; all of it in one transaction or nothing.

        ``hold``: roots of Blobs that the plan links; they stay until published, whatever is evicted. Raises
        NoSpaceError with the numbers, GoneError if a Blob to hold was removed meanwhile. A Snapshot that was leased or
        pinned since the plan was made is not evicted. Nothing is evicted for what would not fit then either.
        """
        measured = self._measure()
        removed = Removed()
        reservation_id = random_id()
        with self._index.write(durable=True) as rows:
            self._hold(rows, owner_id, hold)
            self._forget_dead(rows)
            # Looking at every Snapshot costs; most plans fit without.
            going = {candidate.snapshot_id for candidate in self._evictable(rows)} if evict else set()
            chosen = [snapshot_id for snapshot_id in dict.fromkeys(evict) if snapshot_id in going]
            to_come = self._freed_by(rows, chosen)
            before = self._space(rows, measured)
            self._refuse_excess(rows, bytes_needed, before, to_come)
            if not chosen:
                self._promise(rows, reservation_id, owner_id, bytes_needed)
            self._removal.snapshots(rows, chosen, removed)
        if chosen:
            # Their bytes go before others are promised in their place: nobody may ever see both.
            freed = self._removal.finish(removed)
            try:
                self._reserve_freed(reservation_id, owner_id, bytes_needed, before.free_bytes + freed)
            except BaseException:
                self.drop_reservation(reservation_id, owner_id)
                raise
        return Reservation(self, reservation_id, owner_id, bytes_needed)

    def _reserve_freed(self, reservation_id: str, owner_id: str, bytes_needed: int, free_bytes: int) -> None:
        """After evictions. Others may have been faster: then NoSpaceError, and the caller looks again."""
        if self._free() < free_bytes:
            # Some file systems count what was removed only once that is durable.
            with disk_errors("empty", self._layout.cache_dir):
                durable.sync_file_system(self._layout.cache_dir)
        measured = self._measure()
        with self._index.write(durable=True) as rows:
            now = self._space(rows, measured)
            self._refuse_excess(rows, bytes_needed, now, max(0, free_bytes - now.free_bytes), quota_to_come=0)
            self._promise(rows, reservation_id, owner_id, bytes_needed)

    def _hold(self, rows: Rows, owner_id: str, hold: Sequence[str]) -> None:
        now = self._clock()
        for root in hold:
            if not rows.execute("UPDATE blobs SET used_at = ? WHERE root = ?", (now, root)).rowcount:
                raise GoneError("a file of the plan was removed from the cache meanwhile", ids=(root,))
        rows.executemany("INSERT OR IGNORE INTO blob_holds VALUES (?, ?)", [(root, owner_id) for root in hold])

    def _promise(self, rows: Rows, reservation_id: str, owner_id: str, byte_count: int) -> None:
        rows.execute(
            "INSERT INTO reservations (id, owner_id, bytes, ahead_bytes, created_at) VALUES (?, ?, ?, 0, ?)",
            (reservation_id, owner_id, byte_count, self._clock()),
        )
        _count_promised(rows, byte_count)

    # --- what a reservation asks

    def grow(self, reservation_id: str, byte_count: int) -> None:
        """Promise more, on the same terms. Raises NoSpaceError."""
        measured = self._measure()
        with self._index.write(durable=True) as rows:
            self._refuse_excess(rows, byte_count, self._space(rows, measured), 0)
            rows.execute("UPDATE reservations SET bytes = bytes + ? WHERE id = ?", (byte_count, reservation_id))
            _count_promised(rows, byte_count)

    def draw(self, reservation_id: str, byte_count: int, ahead_bytes: int) -> None:
        """These bytes are about to be written; of all that was drawn, at most ``ahead_bytes`` are not written yet."""
        with self._index.write(durable=False) as rows:
            rows.execute(
                "UPDATE reservations SET bytes = MAX(0, bytes - ?), ahead_bytes = ? WHERE id = ?",
                (byte_count, ahead_bytes, reservation_id),
            )

    def refuse_below_floor(self) -> None:
        """Raise NoSpaceError if others have filled the disk down to what must stay free."""
        free = self._free()
        if free < self._floor_bytes:
            raise NoSpaceError(
                f"only {format_size(free)} are left on the file system of {self._layout.cache_dir}; "
                f"{format_size(self._floor_bytes)} must stay free (space_floor_bytes)",
                hint="something else fills that disk; make room and run the command again: it goes on where it was",
            )

    def drop_reservation(self, reservation_id: str, owner_id: str) -> None:
        """Give back what is left. With an owner's last reservation its holds on Blobs go."""
        with self._index.write(durable=False) as rows:
            rows.execute("DELETE FROM reservations WHERE id = ?", (reservation_id,))
            if not rows.execute("SELECT 1 FROM reservations WHERE owner_id = ?", (owner_id,)).fetchone():
                rows.execute("DELETE FROM blob_holds WHERE owner_id = ?", (owner_id,))

    # --- numbers

    def _measure(self) -> _Measured:
        """Walk the cache, if there is a quota; outside of transactions, because it takes a while."""
        if self._quota_bytes is None:
            return _Measured()
        with self._index.read() as rows:
            promised, ever_promised = self._promised(rows), _ever_promised(rows)
        return _Measured(used_bytes(self._layout), promised, ever_promised)

    def _space(self, rows: Rows, measured: _Measured, evictable: tuple[Candidate, ...] = ()) -> Space:
        reserved = self._promised(rows)
        if self._quota_bytes is not None:
            # What was promised when the walk began, or since, may have been written after it came by; those to whom it
            # was promised may even be through by now.
            reserved = max(reserved, measured.promised + _ever_promised(rows) - measured.ever_promised)
        return Space(
            self._free(),
            reserved,
            self._floor_bytes,
            evictable,
            self._quota_bytes,
            measured.used_bytes + INDEX_ROOM_BYTES,
        )

    def _promised(self, rows: Rows) -> int:
        """Bytes of living owners' reservations, with what they have drawn and perhaps not written yet."""
        found = rows.execute("SELECT owner_id, SUM(bytes + ahead_bytes) FROM reservations GROUP BY owner_id").fetchall()
        return sum(count for owner, count in found if self._owners.state(owner) != "dead")

    def _refuse_excess(
        self, rows: Rows, needed: int, space: Space, to_come: int, *, quota_to_come: int | None = None
    ) -> None:
        if needed <= 0:
            return
        missing_disk = needed - space.disk_bytes - to_come
        missing_quota = needed - space.quota_left_bytes - (to_come if quota_to_come is None else quota_to_come)
        if missing_disk <= 0 and missing_quota <= 0:
            return
        everything = [candidate.snapshot_id for candidate in self._evictable(rows)]
        possible = self._freed_by(rows, everything) - to_come
        hint = "free some space on that file system, or use a cache on a larger one with --cache-dir"
        if possible > 0:
            hint = f"{format_size(possible)} are in snapshots that nobody uses now: `fetcher prune` removes some"
        takes = f"and takes {format_size(space.used_bytes)}"
        promised = (
            f", {format_size(space.reserved_bytes)} are promised to other downloads" if space.reserved_bytes else ""
        )
        if missing_quota > missing_disk:
            raise NoSpaceError(
                f"{format_size(needed)} are needed in {self._layout.cache_dir}, which may take "
                f"{format_size(self._quota_bytes or 0)} (quota_bytes) {takes}{promised}",
                hint=hint if possible > 0 else "raise quota_bytes, or release leases and pins",
            )
        raise NoSpaceError(
            f"{format_size(needed)} are needed in {self._layout.cache_dir}, "
            f"{format_size(space.free_bytes + to_come)} are free{promised}; "
            f"{format_size(self._floor_bytes)} must stay free",
            hint=hint,
        )

    def _free(self) -> int:
        place = self._layout.cache_dir
        while not place.exists() and place != place.parent:  # a plan for a cache that is still to be made
            place = place.parent
        with disk_errors("look at", place):
            status = os.statvfs(place)
        return status.f_bavail * status.f_frsize

    def _forget_dead(self, rows: Rows) -> None:
        for (owner,) in rows.execute("SELECT DISTINCT owner_id FROM reservations").fetchall():
            if self._owners.state(owner) == "dead":
                rows.execute("DELETE FROM reservations WHERE owner_id = ?", (owner,))

    def _evictable(self, rows: Rows, keep: Collection[str] = (), hold: Collection[str] = ()) -> tuple[Candidate, ...]:
        """Least recently used first, each with what it frees once all before it are gone: what several share goes with
        the last of them."""
        stay = self._removal.protected(rows).union(keep)
        held = self._removal.held(rows).union(hold)
        listed = rows.execute("SELECT id, uri, last_used_at FROM snapshots ORDER BY last_used_at, id").fetchall()
        going = {row[0] for row in listed} - stay
        last: dict[str, str | None] = {}
        """Root → the Snapshot that frees it, None: it stays."""
        for snapshot_id, root in rows.execute(
            "SELECT snapshot_id, root FROM snapshot_blobs JOIN snapshots ON snapshots.id = snapshot_id"
            " ORDER BY last_used_at, snapshot_id"
        ):
            stays = snapshot_id not in going or root in held or last.get(root, "") is None
            last[root] = None if stays else snapshot_id
        freed: dict[str, int] = {}
        for root, size in rows.execute("SELECT root, size FROM blobs"):
            if (owner := last.get(root)) is not None:
                freed[owner] = freed.get(owner, 0) + allocation.blob_bytes(size)
        return tuple(Candidate(row[0], row[1], freed.get(row[0], 0), row[2]) for row in listed if row[0] in going)

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
        return sum(allocation.blob_bytes(size) for root, size in found if root not in held)


def _ever_promised(rows: Rows) -> int:
    row = rows.execute("SELECT value FROM meta WHERE name = 'promised'").fetchone()
    return 0 if row is None else int(row[0])


def _count_promised(rows: Rows, byte_count: int) -> None:
    rows.execute(
        "INSERT INTO meta VALUES ('promised', ?) ON CONFLICT (name) DO UPDATE SET value = CAST(value AS INTEGER) + ?",
        (str(byte_count), byte_count),
    )
