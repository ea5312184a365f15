"""Retention: what time and crashes take away, in two phases. Safe beside running fetches and mounts of any process.

First a Snapshot is *condemned*, in a transaction: its row goes, and its directory gets a name that nobody looks for. An
engine that resolved the old name a moment ago has its bytes still. Only after ``gc_grace_s`` is it deleted, and with it
the Blobs that nobody has asked for since; whoever wants the resource back within that time downloads nothing. Where
space is needed (``at_once``) the grace is given up, because bytes that nobody may find are the cheapest there are.

Rows first, in short transactions; bytes after each commit. Files that no row speaks of are the business of
``sweep.py``. Outside the ``-v1`` directories only what has a name of ours is looked at.
"""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

from fetcher.cache import writable
from fetcher.cache.clock import Clock
from fetcher.cache.due import JUST_USED_S, collected, long_ago, out_of_time
from fetcher.cache.index import Index, Rows, select_many
from fetcher.cache.layout import Layout, disk_errors
from fetcher.cache.leases import Leases
from fetcher.cache.owners import Owners
from fetcher.cache.records import GcReport
from fetcher.cache.removal import BATCH, Removal, Removed, roots_of
from fetcher.cache.sweep import Stray, Sweeper
from fetcher.cache.usage import allocated
from fetcher.config import Settings
from fetcher.plan import allocation


class Collector:
    """Removes what may go from one cache."""

    def __init__(
        self,
        settings: Settings,
        index: Index,
        layout: Layout,
        owners: Owners,
        leases: Leases,
        removal: Removal,
        clock: Clock,
    ) -> None:
        self._settings = settings
        self._index = index
        self._layout = layout
        self._owners = owners
        self._leases = leases
        self._removal = removal
        self._clock = clock

    def collect(
        self,
        *,
        dry_run: bool = False,
        spare_s: float = 0.0,
        spare_roots: Collection[str] = (),
        at_once: bool = False,
    ) -> GcReport:
        """Everything that has had its time.

        ``spare_s``: but no Snapshot that was used so recently. ``spare_roots``: and none of these Blobs, with what
        refers to them: somebody is about to link them. ``at_once``: without a grace, for somebody needs the space.
        Raises CacheError for what the disk does not let us look into.
        """
        with disk_errors("clean up", self._layout.cache_dir):
            if dry_run:
                return self._would_collect(at_once)
            return self._collect(spare_s, frozenset(spare_roots), at_once)

    def _collect(self, spare_s: float, spared: frozenset[str], at_once: bool) -> GcReport:
        sweeper = self._sweeper(at_once)
        sweeper.heal()  # first: a row without a directory must not have the pin that keeps a good one
        report = self._collect_rows(spare_s, spared, at_once)
        report += self._collect_blobs(spared, at_once) + GcReport(leftovers=self._give_up_silent())
        for stray in sweeper.find():  # owners come last: their files go once no Partial bears their name
            freed = sweeper.remove(stray)
            if freed is not None:
                report += _swept([(stray, freed)])
        return report

    def tidy(self) -> GcReport | None:
        """``collect`` if it is due, for the end of a command; what somebody was just told of is spared."""
        return self.collect(spare_s=JUST_USED_S) if self.due() else None

    def due(self) -> bool:
        """Whether a command that has done its own work should collect: something's time is over, or it is long ago."""
        with self._index.read() as rows:
            if self._expired(rows, JUST_USED_S) or self._ending_copies(rows):
                return True
            return long_ago(rows, self._clock())

    def blob_bytes(self, *, at_once: bool) -> int:
        """Of the Blobs that nothing refers to and whose time is over."""
        with self._index.read() as rows:
            roots = self._removal.unreferenced(rows, self._unused_since(at_once), limit=1 << 62)
            sizes = select_many(rows, "SELECT size FROM blobs WHERE root IN", roots)  # of those still there
        return sum(allocation.blob_bytes(size) for (size,) in sizes)

    def _give_up_silent(self) -> int:
        with disk_errors("clean up", self._layout.owners):
            return self._owners.give_up_silent()

    def _sweeper(self, at_once: bool, *, looking: bool = False) -> Sweeper:
        return Sweeper(
            self._settings,
            self._index,
            self._layout,
            self._owners,
            self._clock,
            at_once=at_once,
            looking=looking,
        )

    def _unused_since(self, at_once: bool) -> float:
        return self._clock() - (0.0 if at_once else self._settings.gc_grace_s)

    def _expired(self, rows: Rows, spare_s: float = 0.0) -> list[str]:
        expired = out_of_time(rows, self._clock(), spare_s)
        protected = self._removal.protected(rows) if expired else ()
        return [snapshot_id for snapshot_id in expired if snapshot_id not in protected]

    def _ending_copies(self, rows: Rows) -> list[Path]:
        """Private copies of leases that have ended, whether or not their rows are gone."""
        found = writable.copies(self._layout)
        if not found:
            return []
        ended = {*self._leases.ended(rows)}
        gone = {*writable.ownerless(rows, found)}
        return [path for path in found if path in gone or writable.lease_of(path) in ended]

    def _would_collect(self, at_once: bool) -> GcReport:
        with self._index.read() as rows:
            expired = self._expired(rows)
            ended = len(self._leases.ended(rows))
            copies = self._ending_copies(rows)
            blobs = len(self._removal.unreferenced(rows, self._unused_since(at_once), limit=1 << 62))
        # What the expired ones alone refer to goes with them; after the grace, unless at once.
        going = self._removal.worth(tuple(expired))
        strays = [stray for stray in self._sweeper(at_once, looking=True).find() if stray.kind != "copy"]
        swept = _swept([(stray, stray.bytes()) for stray in strays])
        return swept + GcReport(
            snapshots=tuple(expired),
            blobs=blobs,
            leases_ended=ended,
            copies=len(copies),
            bytes_freed=sum(item.bytes for item in going)
            + self.blob_bytes(at_once=at_once)
            + sum(allocated(path, set()) for path in copies),
            dry_run=True,
        )

    def _collect_rows(self, spare_s: float, spared: frozenset[str], at_once: bool) -> GcReport:
        removed = Removed()
        with self._index.write(durable=True) as rows:
            ended = self._leases.ended(rows)
            rows.executemany("DELETE FROM leases WHERE id = ?", [(lease_id,) for lease_id in ended])
            for table in ("flights", "reservations", "blob_holds"):
                for (owner,) in rows.execute(f"SELECT DISTINCT owner_id FROM {table}").fetchall():
                    if self._owners.state(owner) == "dead":
                        rows.execute(f"DELETE FROM {table} WHERE owner_id = ?", (owner,))
            expired = [wanted for wanted in self._expired(rows, spare_s) if not spared & roots_of(rows, wanted)]
            if at_once:
                self._removal.snapshots(rows, expired, removed)
            else:
                self._removal.condemn(rows, expired, removed, self._clock())
            collected(rows, self._clock())
        freed = self._removal.finish(removed)
        return GcReport(tuple(removed.snapshots), len(removed.blobs), leases_ended=len(ended), bytes_freed=freed)

    def _collect_blobs(self, spared: frozenset[str], at_once: bool) -> GcReport:
        report = GcReport()
        while True:
            removed = Removed()
            with self._index.write(durable=True) as rows:
                for root in self._removal.unreferenced(rows, self._unused_since(at_once), BATCH, spared):
                    self._removal.blob(rows, root, removed)
            report += GcReport(blobs=len(removed.blobs), bytes_freed=removed.empty_trash())
            if len(removed.blobs) < BATCH:
                return report


def _swept(found: list[tuple[Stray, int]]) -> GcReport:
    """What was, or would be, swept."""
    kinds = [stray.kind for stray, _ in found]
    return GcReport(
        partials=kinds.count("partial"),
        copies=kinds.count("copy"),
        leftovers=len(kinds) - kinds.count("partial") - kinds.count("copy"),
        bytes_freed=sum(freed for _, freed in found),
    )
