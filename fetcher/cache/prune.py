"""What users and planners remove by name or by size. Leases and pins are sacred; what nobody uses goes at once, not
after gc's grace: its space is wanted.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from fetcher.cache.gc import Collector
from fetcher.cache.index import Index
from fetcher.cache.records import Candidate, GcReport
from fetcher.cache.removal import Removal, Removed
from fetcher.plan import allocation


@dataclass(frozen=True, slots=True)
class PrunePlan:
    """What pruning would remove; ``execute()`` does it."""

    candidates: tuple[Candidate, ...]
    """Least recently used first."""
    garbage: GcReport
    """What goes besides: what has had its time and what crashes left."""
    blobs: int
    """That go with the candidates."""
    _pruner: Pruner = field(repr=False, compare=False)

    @property
    def snapshots(self) -> tuple[str, ...]:
        """Their ids."""
        return tuple(item.snapshot_id for item in self.candidates)

    @property
    def bytes_expected(self) -> int:
        """Freed if all of them can be removed. What was leased or pinned since is left out then."""
        return sum(item.bytes for item in self.candidates) + self.garbage.bytes_freed

    @property
    def report(self) -> GcReport:
        """What ``execute()`` would return, if nothing changes until then."""
        blobs = self.garbage.blobs + self.blobs
        return replace(self.garbage, snapshots=self.snapshots, blobs=blobs, bytes_freed=self.bytes_expected)

    def execute(self) -> GcReport:
        """Remove them, then the garbage."""
        return self._pruner.carry_out(self.snapshots)


class Pruner:
    """Removes Snapshots of one cache, and plans it."""

    def __init__(self, index: Index, removal: Removal, collector: Collector) -> None:
        self._index = index
        self._removal = removal
        self._collector = collector

    def remove(self, ids: Sequence[str], *, force: bool = False, dry_run: bool = False) -> GcReport:
        """Remove these Snapshots now. Raises LeaseError if one is leased or pinned, unless ``force``; ``dry_run`` says
        what would come of it."""
        if dry_run:
            if not force:
                with self._index.read() as rows:
                    self._removal.refuse_protected(rows, ids)
            chosen = self._removal.worth(tuple(ids), even_protected=force)
            return GcReport(
                tuple(item.snapshot_id for item in chosen),
                sum(item.blobs for item in chosen),
                bytes_freed=sum(item.bytes for item in chosen),
                dry_run=True,
            )
        removed = Removed()
        with self._index.write(durable=True) as rows:
            present = [
                wanted
                for wanted in dict.fromkeys(ids)
                if rows.execute("SELECT 1 FROM snapshots WHERE id = ?", (wanted,)).fetchone()
            ]
            if not force:
                self._removal.refuse_protected(rows, present)
            self._removal.snapshots(rows, present, removed)
        freed = self._removal.finish(removed)
        return GcReport(tuple(removed.snapshots), len(removed.blobs), bytes_freed=freed)

    def plan(self, *, max_bytes: int | None) -> PrunePlan:
        """Which Snapshots to remove so that Blobs take at most ``max_bytes``; None: those whose time is over.

        Garbage goes in any case, and first: what it frees need not be taken from a good Snapshot.
        """
        garbage = self._collector.collect(dry_run=True, at_once=True)
        expired = self._removal.worth(garbage.snapshots)
        chosen = expired
        if max_bytes is not None:
            with self._index.read() as rows:
                total = sum(allocation.blob_bytes(size) for (size,) in rows.execute("SELECT size FROM blobs"))
            excess = total - self._collector.blob_bytes(at_once=True) - max_bytes
            chosen = self._removal.worth(None, free_bytes=excess, first=garbage.snapshots)
        rest = GcReport(
            blobs=garbage.blobs,
            partials=garbage.partials,
            leftovers=garbage.leftovers,
            leases_ended=garbage.leases_ended,
            copies=garbage.copies,
            bytes_freed=garbage.bytes_freed - sum(item.bytes for item in expired),
            dry_run=True,
        )
        return PrunePlan(chosen, rest, sum(item.blobs for item in chosen), self)

    def carry_out(self, ids: Sequence[str]) -> GcReport:
        """Remove those of these Snapshots that are neither leased nor pinned, then collect garbage."""
        removed = Removed()
        with self._index.write(durable=True) as rows:
            protected = self._removal.protected(rows)
            known = {row[0] for row in rows.execute("SELECT id FROM snapshots")}
            self._removal.snapshots(
                rows, [wanted for wanted in dict.fromkeys(ids) if wanted in known - protected], removed
            )
        freed = self._removal.finish(removed)
        evicted = GcReport(tuple(removed.snapshots), len(removed.blobs), bytes_freed=freed)
        return evicted + self._collector.collect(at_once=True)
