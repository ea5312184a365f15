"""Taking away Snapshots and the Blobs that nothing refers to. Used by gc, rm, prune and eviction alike.

Snapshots are condemned inside a caller's transaction: rows go, names go under trash names. Bytes, and the Blobs that
nothing refers to any more, are deleted after its commit, in small transactions of their own. What only time condemns
gets a grace instead: see ``gc.py``. Leases and pins are sacred; a Blob that a living owner holds for a Snapshot under
way is left.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from pathlib import Path

from fetcher.cache.clearing import remove_any
from fetcher.cache.index import Index, Rows
from fetcher.cache.layout import Layout, disk_errors
from fetcher.cache.leases import Leases, pinned
from fetcher.cache.owners import Owners
from fetcher.cache.records import Candidate
from fetcher.cache.snapshots import discard_names, take_away
from fetcher.cache.steps import taken as step_taken
from fetcher.errors import LeaseError
from fetcher.plan import allocation

BATCH = 500
"""Blobs per transaction: a Snapshot may have 100,000, and others want their turn."""
_UNREFERENCED = "NOT EXISTS (SELECT 1 FROM snapshot_blobs WHERE snapshot_blobs.root = blobs.root)"


@dataclass(slots=True)
class Removed:
    """What was condemned. ``Removal.finish`` deletes it, after the commit."""

    snapshots: list[str] = field(default_factory=list)
    roots: set[str] = field(default_factory=set)
    """Blobs that these Snapshots referred to."""
    blobs: list[str] = field(default_factory=list)
    trash: list[Path] = field(default_factory=list)

    def empty_trash(self) -> int:
        """Bytes freed."""
        trash, self.trash = self.trash, []
        return sum(remove_any(path) for path in trash)


class Removal:
    """Knows what may go."""

    def __init__(self, index: Index, layout: Layout, leases: Leases, owners: Owners) -> None:
        self._index = index
        self._layout = layout
        self._leases = leases
        self._owners = owners

    def protected(self, rows: Rows) -> set[str]:
        """Ids of Snapshots that are leased or pinned."""
        return {*self._leases.leased(rows), *pinned(rows)}

    def refuse_protected(self, rows: Rows, ids: Iterable[str]) -> None:
        """Raise LeaseError that names the lease or pin, if there is one on any of these."""
        wanted = list(ids)
        leased = self._leases.leased(rows, wanted)
        for wanted_id, lease_id in leased.items():
            raise LeaseError(
                f"in use by lease {lease_id}",
                hint=f"end the lease with `fetcher release {lease_id}`, or wait until it ends",
                resource=_uri(rows, wanted_id),
            )
        pins = pinned(rows)
        for wanted_id in wanted:
            if wanted_id in pins:
                raise LeaseError(
                    f"pinned as {pins[wanted_id]}",
                    hint=f"end the pin with `fetcher unpin {pins[wanted_id]}`",
                    resource=_uri(rows, wanted_id),
                )

    def snapshots(self, rows: Rows, ids: Iterable[str], removed: Removed) -> None:
        """Condemn these Snapshots. The caller leaves its transaction and calls ``finish``."""
        wanted = list(ids)
        for wanted_id in wanted:
            found = rows.execute("SELECT root FROM snapshot_blobs WHERE snapshot_id = ?", (wanted_id,))
            removed.roots.update(root for (root,) in found)
        removed.snapshots += wanted
        removed.trash += take_away(rows, self._layout, wanted)
        step_taken("removal:snapshot-condemned")

    def condemn(self, rows: Rows, ids: Iterable[str], removed: Removed, now: float) -> None:
        """The same for those whose time is over: nobody finds them any more, and the grace of their bytes begins."""
        for wanted_id in ids:
            found = rows.execute("SELECT root FROM snapshot_blobs WHERE snapshot_id = ?", (wanted_id,)).fetchall()
            rows.executemany(
                "UPDATE blobs SET used_at = MAX(used_at, ?) WHERE root = ?", [(now, *row) for row in found]
            )
            rows.execute("DELETE FROM snapshots WHERE id = ?", (wanted_id,))
            discard_names(self._layout, wanted_id, lambda: self._layout.condemned(self._layout.snapshots, now))
            removed.snapshots.append(wanted_id)
        step_taken("removal:snapshot-condemned")

    def worth(
        self,
        chosen: Collection[str] | None,
        free_bytes: int = 0,
        first: Collection[str] = (),
        *,
        even_protected: bool = False,
    ) -> tuple[Candidate, ...]:
        """The ``chosen`` Snapshots, or ``first`` and then the least recently used until ``free_bytes`` are free, with
        what each really frees in this order: a shared Blob is freed by the last that refers to it."""
        with self._index.read() as rows:
            protected = set() if even_protected else self.protected(rows)
            held = self.held(rows)
            listed = rows.execute("SELECT id, uri, last_used_at FROM snapshots ORDER BY last_used_at, id").fetchall()
            sizes = dict(rows.execute("SELECT root, size FROM blobs").fetchall())
            roots: dict[str, list[str]] = {}
            users: dict[str, int] = {}
            for snapshot_id, root in rows.execute("SELECT snapshot_id, root FROM snapshot_blobs"):
                roots.setdefault(snapshot_id, []).append(root)
                users[root] = users.get(root, 0) + 1
        plan: list[Candidate] = []
        freed = 0
        for snapshot_id, uri, last_used_at in sorted(listed, key=lambda row: row[0] not in first):
            if chosen is None and freed >= free_bytes and snapshot_id not in first:
                break
            if snapshot_id in protected or (chosen is not None and snapshot_id not in chosen):
                continue
            alone, blobs = self._sidecar_bytes(snapshot_id), 0
            for root in roots.get(snapshot_id, ()):
                users[root] -= 1
                if not users[root] and root not in held and root in sizes:
                    alone += allocation.blob_bytes(sizes[root])
                    blobs += 1
            freed += alone
            plan.append(Candidate(snapshot_id, uri, alone, last_used_at, blobs))
        return tuple(plan)

    def _sidecar_bytes(self, snapshot_id: str) -> int:
        try:
            return os.lstat(self._layout.sidecar(snapshot_id)).st_blocks * 512
        except OSError:
            return 0

    def finish(self, removed: Removed) -> int:
        """Delete what was condemned, and the Blobs that only that referred to; bytes freed."""
        step_taken("removal:snapshots-committed")
        freed = removed.empty_trash()
        step_taken("removal:snapshots-deleted")
        roots = sorted(removed.roots)
        for start in range(0, len(roots), BATCH):
            with self._index.write(durable=True) as rows:
                held = self.held(rows)
                for root in roots[start : start + BATCH]:
                    unreferenced = f"SELECT 1 FROM blobs WHERE root = ? AND {_UNREFERENCED}"
                    if root not in held and rows.execute(unreferenced, (root,)).fetchone():
                        self.blob(rows, root, removed)
            step_taken("removal:blobs-committed")
            freed += removed.empty_trash()
            step_taken("removal:blobs-deleted")
        return freed

    def held(self, rows: Rows) -> set[str]:
        """Roots that an owner that is not dead holds for a Snapshot under way."""
        owners = [owner for (owner,) in rows.execute("SELECT DISTINCT owner_id FROM blob_holds")]
        living = [owner for owner in owners if self._owners.state(owner) != "dead"]
        return {
            root
            for owner in living
            for (root,) in rows.execute("SELECT root FROM blob_holds WHERE owner_id = ?", (owner,))
        }

    def unreferenced(
        self, rows: Rows, unused_since: float, limit: int, spared: frozenset[str] = frozenset()
    ) -> list[str]:
        """Roots of some Blobs that nothing refers to and nobody used since then; not those that are ``spared``."""
        held = self.held(rows) | spared
        found = rows.execute(f"SELECT root FROM blobs WHERE used_at <= ? AND {_UNREFERENCED}", (unused_since,))
        return [root for (root,) in found if root not in held][:limit]

    def blob(self, rows: Rows, root: str, removed: Removed) -> None:
        """Condemn one Blob: row, then body, then tree. A power cut in between may leave the row with what is still
        there: without its body it counts for nothing, without its tree alone it would be a damaged Blob."""
        rows.execute("DELETE FROM blobs WHERE root = ?", (root,))
        removed.blobs.append(root)
        for place in (self._layout.blob(root), self._layout.tree(root)):
            removed.trash += to_trash(place, self._layout.trash(self._layout.blobs))
        step_taken("removal:blob-condemned")


def roots_of(rows: Rows, snapshot_id: str) -> set[str]:
    """The Blobs that a Snapshot refers to."""
    found = rows.execute("SELECT root FROM snapshot_blobs WHERE snapshot_id = ?", (snapshot_id,))
    return {root for (root,) in found}


def to_trash(place: Path, target: Path) -> list[Path]:
    """Move a name out of the way; what is to be deleted then."""
    with disk_errors("remove", place):
        try:
            os.rename(place, target)
        except (FileNotFoundError, NotADirectoryError):
            return []
    return [target]


def _uri(rows: Rows, snapshot_id: str) -> str | None:
    row = rows.execute("SELECT uri FROM snapshots WHERE id = ?", (snapshot_id,)).fetchone()
    return None if row is None else str(row[0])
