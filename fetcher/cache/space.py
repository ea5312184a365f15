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
from fetcher.plan.eviction import Choice, Evictable, choose

_EVER_PROMISED = "promised"
"""In ``meta``: bytes of all reservations that ever were."""
INDEX_ROOM_BYTES = 8 * MIB
"""Under a quota this much is left for what nobody reserves: the index and its log, which SQLite folds in at 4 MiB."""


@dataclass(frozen=True, slots=True)
class _Measured:
    """What a walk saw outside any transaction. It may have grown since: by what was promised when the walk began, and
    by what was promised since, at most."""

    used_bytes: int = 0
    promised_bytes: int = 0
    """When the walk began."""
    ever_promised_bytes: int = 0
    """Of all reservations that ever were, when the walk began."""


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

    def look(self, *, candidates: bool = True) -> Space:
        """The present state. Changes nothing."""
        measured = self._measure()
        with self._index.read() as rows:
            return self._space(rows, measured, self._evictable(rows) if candidates else ())

    def evictions(self, bytes_missing: int, spared: Collection[str], kept: Collection[str]) -> Choice:
        """Which Snapshots to evict for so many bytes, and what that frees; all that could be, if it is not enough.

        ``spared``: ids of Snapshots that the plan hands out. ``kept``: roots of Blobs that it links.
        """
        with self._index.read() as rows:
            protected = self._removal.protected(rows) | set(spared)
            held = self._removal.held(rows) | set(kept)
            sizes = {root: allocation.blob_bytes(size) for root, size in rows.execute("SELECT root, size FROM blobs")}
            roots: dict[str, set[str]] = {}
            users: dict[str, int] = {}
            for snapshot_id, root in rows.execute("SELECT snapshot_id, root FROM snapshot_blobs"):
                roots.setdefault(snapshot_id, set()).add(root)
                users[root] = users.get(root, 0) + 1
            listed = rows.execute("SELECT id, uri, last_used_at FROM snapshots ORDER BY last_used_at, id").fetchall()
        candidates = [
            Evictable(wanted, uri, frozenset(roots.get(wanted, ())), used_at)
            for wanted, uri, used_at in listed
            if wanted not in protected
        ]
        return choose(candidates, sizes, users, held, bytes_missing)

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
            going = self._removable(rows) if evict else frozenset()
            chosen = [snapshot_id for snapshot_id in dict.fromkeys(evict) if snapshot_id in going]
            to_come = self._freed_by(rows, chosen)
            before = self._space(rows, measured)
            self._refuse_excess(rows, bytes_needed, before, to_come)
            # The row is there in any case: what we hold is held as long as there is one of ours.
            self._promise(rows, reservation_id, owner_id, 0 if chosen else bytes_needed)
            self._removal.snapshots(rows, chosen, removed)
        if chosen:
            try:
                # Their bytes go before others are promised in their place: nobody may ever see both.
                freed = self._removal.finish(removed)
                self._reserve_freed(reservation_id, bytes_needed, before.free_bytes + freed)
            except BaseException:
                self.drop_reservation(reservation_id, owner_id)
                raise
        return Reservation(self, reservation_id, owner_id, bytes_needed)

    def _reserve_freed(self, reservation_id: str, bytes_needed: int, free_bytes: int) -> None:
        """After evictions. Others may have been faster: then NoSpaceError, and the caller looks again."""
        if self._free() < free_bytes:
            # Some file systems count what was removed only once that is durable.
            with disk_errors("empty", self._layout.cache_dir):
                durable.sync_file_system(self._layout.cache_dir)
        measured = self._measure()
        with self._index.write(durable=True) as rows:
            self._refuse_excess(rows, bytes_needed, self._space(rows, measured), 0)
            self._raise(rows, reservation_id, bytes_needed)

    def _hold(self, rows: Rows, owner_id: str, hold: Sequence[str]) -> None:
        now = self._clock()
        for root in hold:
            if not rows.execute("UPDATE blobs SET used_at = ? WHERE root = ?", (now, root)).rowcount:
                raise GoneError("a file of the plan was removed from the cache meanwhile", ids=(root,))
        rows.executemany("INSERT OR IGNORE INTO blob_holds VALUES (?, ?)", [(root, owner_id) for root in hold])

    def _promise(self, rows: Rows, reservation_id: str, owner_id: str, byte_count: int) -> None:
        rows.execute(
            "INSERT INTO reservations (id, owner_id, bytes, ahead_bytes, created_at) VALUES (?, ?, ?, 0, ?)",
            (reservation_id, owner_id, 0, self._clock()),
        )
        self._raise(rows, reservation_id, byte_count)

    def _raise(self, rows: Rows, reservation_id: str, byte_count: int) -> None:
        rows.execute("UPDATE reservations SET bytes = bytes + ? WHERE id = ?", (byte_count, reservation_id))
        rows.execute(
            "INSERT INTO meta VALUES (?, ?) ON CONFLICT (name) DO UPDATE SET value = CAST(value AS INTEGER) + ?",
            (_EVER_PROMISED, str(byte_count), byte_count),
        )

    # --- what a reservation asks

    def grow(self, reservation_id: str, byte_count: int, ahead_bytes: int) -> None:
        """Promise more, on the same terms; of what was drawn so much is not written yet. Raises NoSpaceError."""
        self.draw(reservation_id, 0, ahead_bytes)
        measured = self._measure()
        with self._index.write(durable=True) as rows:
            self._refuse_excess(rows, byte_count, self._space(rows, measured), 0)
            self._raise(rows, reservation_id, byte_count)

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
            ever = _ever_promised(rows)  # first: what is promised between the two counts twice, and never not at all
            promised = self._promised(rows)
        return _Measured(used_bytes(self._layout), promised, ever)

    def _space(self, rows: Rows, measured: _Measured, evictable: tuple[Candidate, ...] = ()) -> Space:
        promised = self._promised(rows)
        used = 0
        if self._quota_bytes is not None:
            since = _ever_promised(rows) - measured.ever_promised_bytes
            # Of what is promised now, all is counted as promised; the rest of the bound may be on the disk by now.
            used = measured.used_bytes + max(0, measured.promised_bytes + since - promised) + INDEX_ROOM_BYTES
        return Space(self._free(), promised, self._floor_bytes, evictable, self._quota_bytes, used)

    def _promised(self, rows: Rows) -> int:
        """Living owners' reservations, with what they have drawn and perhaps not written yet."""
        totals = rows.execute(
            "SELECT owner_id, SUM(bytes + ahead_bytes) FROM reservations GROUP BY owner_id"
        ).fetchall()
        return sum(total for owner, total in totals if self._owners.state(owner) != "dead")

    def _refuse_excess(self, rows: Rows, needed: int, space: Space, to_come: int) -> None:
        if needed <= 0:
            return
        missing_disk = needed - space.disk_bytes - to_come
        missing_quota = needed - space.quota_left_bytes - to_come
        if missing_disk <= 0 and missing_quota <= 0:
            return
        possible = self._freed_by(rows, sorted(self._removable(rows))) - to_come
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

    def _removable(self, rows: Rows) -> frozenset[str]:
        """Ids of all Snapshots that are neither leased nor pinned."""
        known = {wanted for (wanted,) in rows.execute("SELECT id FROM snapshots")}
        return frozenset(known - self._removal.protected(rows))

    def _evictable(self, rows: Rows) -> tuple[Candidate, ...]:
        """Least recently used first, each with what it frees once all before it are gone: what several share goes with
        the last of them."""
        stay = self._removal.protected(rows)
        held = self._removal.held(rows)
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
    row = rows.execute("SELECT value FROM meta WHERE name = ?", (_EVER_PROMISED,)).fetchone()
    return 0 if row is None else int(row[0])
