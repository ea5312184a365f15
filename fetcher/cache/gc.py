"""Retention: what time, crashes and users take away. Safe beside running fetches of any process.

Rows first, in short transactions; bytes after each commit. Files that no row speaks of are given a grace time, because
they may be under way; files that bear a dead owner's name are nobody's. Nothing outside the ``-v1`` directories is
looked at.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from fetcher.cache import durable, writable
from fetcher.cache.clearing import remove_any
from fetcher.cache.index import Index, Rows
from fetcher.cache.journal import belongs_to_one_run
from fetcher.cache.layout import HEX_64, STAGING, TRASH, Layout, disk_errors
from fetcher.cache.leases import Leases
from fetcher.cache.owners import UNBORN, Owners
from fetcher.cache.records import Candidate, GcReport
from fetcher.cache.removal import BATCH, Removal, Removed, to_trash
from fetcher.cache.snapshots import IS_HIDDEN, SUPERSEDED
from fetcher.cache.usage import allocated
from fetcher.config import Settings

UNBORN_GRACE_S = 60.0
"""An owner's file has no lock between its creation and the next call; no setting makes that moment shorter."""
JUST_USED_S = 60.0
"""A command that prints a path and takes no lease must not be followed at once by its removal."""
COLLECT_EVERY_S = 600.0
"""Looking for what crashes left costs a walk through three directories; commands share the work."""
_PARTIAL = re.compile(r"([0-9a-f]{64})\.([0-9a-f]{32})")
_UNNAMED = re.compile(r"\.(cache-id-v1\.|principal-key-v1\.|probe-)[0-9a-f]{16}")
"""Made in the cache's or the state directory itself, by a process that ended before it had its name."""
_UNNAMED_LIST = re.compile(r"\.new-[0-9a-f]{16}")
_STAGED = re.compile(rf"{re.escape(STAGING)}[0-9a-z]+\.([0-9a-f]{{32}})\.[0-9a-f]+")


@dataclass(frozen=True, slots=True)
class PrunePlan:
    """What pruning would remove; ``execute()`` does it."""

    candidates: tuple[Candidate, ...]
    """Least recently used first."""
    bytes_expected: int
    """Freed if all of them can be removed. What was leased or pinned since is left out then."""
    _collector: Collector = field(repr=False, compare=False)

    @property
    def snapshots(self) -> tuple[str, ...]:
        """Their ids."""
        return tuple(item.snapshot_id for item in self.candidates)

    def execute(self) -> GcReport:
        """Remove them, then collect garbage."""
        return self._collector.evict(self.snapshots) + self._collector.collect()


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
        clock: Callable[[], float],
    ) -> None:
        self._settings = settings
        self._index = index
        self._layout = layout
        self._owners = owners
        self._leases = leases
        self._removal = removal
        self._clock = clock

    # --- by time

    def collect(self, *, dry_run: bool = False, spare_s: float = 0.0) -> GcReport:
        """Everything that has had its time. ``spare_s``: but no Snapshot that was used so recently."""
        if dry_run:
            return self._would_collect()
        report = self._collect_rows(spare_s)
        report += self._collect_blobs()
        report += self._sweep()
        return report

    def tidy(self) -> GcReport | None:
        """``collect`` if it is due, for the end of a command; what somebody was just told of is spared."""
        return self.collect(spare_s=JUST_USED_S) if self.due() else None

    def due(self) -> bool:
        """Whether a command that has done its own work should collect: something's time is over, or it is long ago."""
        with self._index.read() as rows:
            if self._expired(rows, JUST_USED_S) or self._ending_copies(rows):
                return True
            row = rows.execute("SELECT value FROM meta WHERE name = 'collected_at'").fetchone()
        return row is None or not 0 <= self._clock() - float(row[0]) < COLLECT_EVERY_S

    def _expired(self, rows: Rows, spare_s: float = 0.0) -> list[str]:
        found = rows.execute(
            f"SELECT id FROM snapshots WHERE (keep_until <= ? OR {SUPERSEDED}) AND (? <= 0 OR last_used_at <= ?)"
            " ORDER BY keep_until",
            (self._clock(), spare_s, self._clock() - spare_s),
        )
        expired = [snapshot_id for (snapshot_id,) in found]
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

    def _would_collect(self) -> GcReport:
        with self._index.read() as rows:
            expired = self._expired(rows)
            ended = len(self._leases.ended(rows))
            copies = self._ending_copies(rows)
            roots = set(
                self._removal.unreferenced(rows, self._clock() - self._settings.gc_grace_s, limit=1 << 62)
            )  # fmt: skip
        # What the expired ones alone refer to goes with them.
        plan = self._plan(tuple(expired))
        with self._index.read() as rows:
            size = sum(rows.execute("SELECT size FROM blobs WHERE root = ?", (root,)).fetchone()[0] for root in roots)
        return GcReport(
            snapshots=tuple(expired),
            blobs=len(roots),
            leases_ended=ended,
            copies=len(copies),
            bytes_freed=plan.bytes_expected + size + sum(allocated(path, set()) for path in copies),
            dry_run=True,
        )

    def _collect_rows(self, spare_s: float) -> GcReport:
        removed = Removed()
        with self._index.write(durable=True) as rows:
            ended = self._leases.ended(rows)
            rows.executemany("DELETE FROM leases WHERE id = ?", [(lease_id,) for lease_id in ended])
            for table in ("flights", "reservations", "blob_holds"):
                for (owner,) in rows.execute(f"SELECT DISTINCT owner_id FROM {table}").fetchall():
                    if self._owners.state(owner) == "dead":
                        rows.execute(f"DELETE FROM {table} WHERE owner_id = ?", (owner,))
            self._removal.snapshots(rows, self._expired(rows, spare_s), removed)
            rows.execute("INSERT OR REPLACE INTO meta VALUES ('collected_at', ?)", (repr(self._clock()),))
        freed = self._removal.finish(removed)
        return GcReport(
            tuple(removed.snapshots), len(removed.blobs), leases_ended=len(ended), bytes_freed=freed
        )  # fmt: skip

    def _collect_blobs(self) -> GcReport:
        report = GcReport()
        while True:
            removed = Removed()
            with self._index.write(durable=True) as rows:
                for root in self._removal.unreferenced(rows, self._clock() - self._settings.gc_grace_s, BATCH):
                    self._removal.blob(rows, root, removed)
            report += GcReport(blobs=len(removed.blobs), bytes_freed=removed.empty_trash())
            if len(removed.blobs) < BATCH:
                return report

    # --- by a user or a planner

    def remove(self, ids: Sequence[str], *, force: bool = False, dry_run: bool = False) -> GcReport:
        """Remove these Snapshots now. Raises LeaseError if one is leased or pinned, unless ``force``; ``dry_run`` says
        what would come of it."""
        if dry_run:
            if not force:
                with self._index.read() as rows:
                    self._removal.refuse_protected(rows, ids)
            plan = self._plan(tuple(ids))
            return GcReport(plan.snapshots, bytes_freed=plan.bytes_expected, dry_run=True)
        removed = Removed()
        with self._index.write(durable=True) as rows:
            present = [
                wanted for wanted in dict.fromkeys(ids)
                if rows.execute("SELECT 1 FROM snapshots WHERE id = ?", (wanted,)).fetchone()
            ]  # fmt: skip
            if not force:
                self._removal.refuse_protected(rows, present)
            self._removal.snapshots(rows, present, removed)
        freed = self._removal.finish(removed)
        return GcReport(tuple(removed.snapshots), len(removed.blobs), bytes_freed=freed)

    def evict(self, ids: Sequence[str]) -> GcReport:
        """Remove those of these Snapshots that are neither leased nor pinned."""
        removed = Removed()
        with self._index.write(durable=True) as rows:
            protected = self._removal.protected(rows)
            known = {row[0] for row in rows.execute("SELECT id FROM snapshots")}
            self._removal.snapshots(
                rows, [wanted for wanted in dict.fromkeys(ids) if wanted in known - protected], removed
            )  # fmt: skip
        freed = self._removal.finish(removed)
        return GcReport(tuple(removed.snapshots), len(removed.blobs), bytes_freed=freed)

    def plan(self, *, max_bytes: int | None) -> PrunePlan:
        """Which Snapshots to remove so that Blobs take at most ``max_bytes``; None: those whose time is over."""
        if max_bytes is None:
            with self._index.read() as rows:
                chosen = self._expired(rows)
            return self._plan(tuple(chosen))
        with self._index.read() as rows:
            total = rows.execute("SELECT COALESCE(SUM(size), 0) FROM blobs").fetchone()[0]
        return self._plan(None, free_bytes=max(0, total - max_bytes))

    def _plan(self, chosen: tuple[str, ...] | None, free_bytes: int = 0) -> PrunePlan:
        """The given Snapshots, or the least recently used until ``free_bytes`` are free, with what each really frees in
        this order: a shared Blob is freed by the last that refers to it."""
        with self._index.read() as rows:
            protected = self._removal.protected(rows)
            held = self._removal.held(rows)
            listed = rows.execute("SELECT id, uri, last_used_at FROM snapshots ORDER BY last_used_at, id").fetchall()
            sizes = dict(rows.execute("SELECT root, size FROM blobs").fetchall())
            roots: dict[str, list[str]] = {}
            users: dict[str, int] = {}
            for snapshot_id, root in rows.execute("SELECT snapshot_id, root FROM snapshot_blobs"):
                roots.setdefault(snapshot_id, []).append(root)
                users[root] = users.get(root, 0) + 1
        plan: list[Candidate] = []
        freed = 0
        for snapshot_id, uri, last_used_at in listed:
            if chosen is None and freed >= free_bytes:
                break
            if snapshot_id in protected or (chosen is not None and snapshot_id not in chosen):
                continue
            alone = 0
            for root in roots.get(snapshot_id, ()):
                users[root] -= 1
                if not users[root] and root not in held:
                    alone += sizes.get(root, 0)
            freed += alone
            plan.append(Candidate(snapshot_id, uri, alone, last_used_at))
        return PrunePlan(tuple(plan), freed, self)

    # --- files that no row speaks of

    def _sweep(self) -> GcReport:
        with disk_errors("clean up", self._layout.cache_dir):
            return (
                self._sweep_staging(self._layout.snapshots)
                + self._sweep_staging(self._layout.partials)
                + self._sweep_staging(self._layout.blobs)
                + self._sweep_copies()
                + self._sweep_staging(self._layout.writable)
                + self._sweep_snapshots()
                + self._sweep_blobs()
                + self._sweep_partials()
                + self._sweep_owners()
                + self._sweep_unnamed()
            )

    def _sweep_staging(self, parent: Path) -> GcReport:
        """Trash, whosever; staging of dead owners."""
        count = freed = 0
        for entry in _entries(parent):
            staged = _STAGED.fullmatch(entry.name)
            if entry.name.startswith(TRASH) or (staged and self._owners.state(staged[1]) == "dead"):
                freed += remove_any(Path(entry.path))
                count += not os.path.lexists(entry.path)
        return GcReport(leftovers=count, bytes_freed=freed)

    def _sweep_copies(self) -> GcReport:
        """Private copies whose lease is gone; its row went before."""
        count, freed = writable.sweep(self._index, self._layout)
        return GcReport(copies=count, bytes_freed=freed)

    def _sweep_snapshots(self) -> GcReport:
        """Directories and sidecars without a row (a crash between renames and commit), rows without a directory."""
        trash: list[Path] = []
        old = [entry.name for entry in _entries(self._layout.snapshots) if self._is_old(entry)]
        with self._index.read() as rows:
            known: dict[str, int] = dict(rows.execute(f"SELECT id, {IS_HIDDEN} FROM snapshots").fetchall())
        strangers = sorted({name.removesuffix(".json") for name in old} - known.keys())
        # A hidden one needs no directory: what it still does is to refer to its sound Blobs.
        lost = [wanted for wanted, hidden in known.items() if not hidden and not self._has_directory(wanted)]
        if not strangers and not lost:
            return GcReport()
        with self._index.write(durable=True) as rows:
            for name in strangers:
                if not HEX_64.fullmatch(name) or rows.execute("SELECT 1 FROM snapshots WHERE id=?", (name,)).fetchone():
                    continue
                for place in (self._layout.snapshot(name), self._layout.sidecar(name)):
                    trash += to_trash(place, self._layout.trash(self._layout.snapshots))
            for wanted in lost:
                if not self._has_directory(wanted):
                    rows.execute("DELETE FROM snapshots WHERE id = ?", (wanted,))
        return GcReport(leftovers=len(trash), bytes_freed=sum(remove_any(path) for path in trash))

    def _has_directory(self, wanted: str) -> bool:
        return os.path.lexists(self._layout.snapshot(wanted))

    def _sweep_blobs(self) -> GcReport:
        """Bodies and trees without a row. A commit between its link and its row is younger than the grace, or finds its
        name gone inside its transaction and links again."""
        report = GcReport()
        for folder in _entries(self._layout.blobs):
            if len(folder.name) != 2 or not folder.is_dir(follow_symlinks=False):
                continue
            old = [entry.name for entry in _entries(Path(folder.path)) if self._is_old(entry)]
            with self._index.read() as rows:
                strangers = [name for name in old if not _has_blob(rows, name)]
            if not strangers:
                continue
            trash: list[Path] = []
            with self._index.write(durable=True) as rows:
                for name in strangers:
                    if not _has_blob(rows, name):
                        trash += to_trash(Path(folder.path, name), self._layout.trash(self._layout.blobs))
            report += GcReport(leftovers=len(trash), bytes_freed=sum(remove_any(path) for path in trash))
        return report

    def _sweep_partials(self) -> GcReport:
        """Partials of dead owners that nobody has resumed for ``partial_keep_s``, or that nobody can resume."""
        count = freed = 0
        for entry in _entries(self._layout.partials):
            match = _PARTIAL.fullmatch(entry.name)
            if not match or self._owners.state(match[2]) != "dead" or not self._partial_is_old(Path(entry.path)):
                continue
            # The rename decides between us and an heir who takes it at this moment.
            for path in to_trash(Path(entry.path), self._layout.trash(self._layout.partials)):
                freed += remove_any(path)
                count += 1
        return GcReport(partials=count, bytes_freed=freed)

    def _partial_is_old(self, path: Path) -> bool:
        if belongs_to_one_run(path / "journal"):
            return True
        newest = max((entry.stat(follow_symlinks=False).st_mtime for entry in _entries(path)), default=0.0)
        return newest + self._settings.partial_keep_s <= self._clock()

    def _sweep_owners(self) -> GcReport:
        """Files of dead owners that nothing on disk is named after; their locks are what lets heirs take a Partial."""
        named = {match[2] for entry in _entries(self._layout.partials) if (match := _PARTIAL.fullmatch(entry.name))}
        count = 0
        for owner_id in self._owners.ids():
            if owner_id in named:
                continue
            with self._owners.holding(owner_id) as held:
                if held:
                    count += durable.remove_file(self._layout.owner(owner_id))
        for entry in _entries(self._layout.owners):
            if entry.name.startswith(UNBORN) and self._is_old(entry, grace_min_s=UNBORN_GRACE_S):
                count += durable.remove_file(entry.path)
        return GcReport(leftovers=count)

    def _sweep_unnamed(self) -> GcReport:
        """What a crash left of files that are made beside the directories, and of lists of markets."""
        count = 0
        places = [(place, _UNNAMED) for place in {self._layout.cache_dir, self._layout.state_dir}]
        for parent, names in (*places, (self._layout.markets, _UNNAMED_LIST)):
            for entry in _entries(parent):
                ours = names.fullmatch(entry.name) and entry.is_file(follow_symlinks=False)
                if ours and self._is_old(entry, grace_min_s=UNBORN_GRACE_S):
                    count += durable.remove_file(entry.path)
        return GcReport(leftovers=count)

    def _is_old(self, entry: os.DirEntry[str], *, grace_min_s: float = 0.0) -> bool:
        grace_s = max(grace_min_s, self._settings.gc_grace_s)
        try:
            return entry.stat(follow_symlinks=False).st_mtime + grace_s <= self._clock()
        except FileNotFoundError:
            return False


def _entries(directory: Path) -> Iterator[os.DirEntry[str]]:
    try:
        with os.scandir(directory) as entries:
            yield from list(entries)
    except FileNotFoundError:
        return


def _has_blob(rows: Rows, name: str) -> bool:
    root = name.removesuffix(".tree")
    return bool(rows.execute("SELECT 1 FROM blobs WHERE root = ?", (root,)).fetchone())
