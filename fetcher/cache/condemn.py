"""Taking what is damaged out of service, in one transaction per finding: the lock under which names appear and go.

- A finding is asked about again under that lock: what was removed or replaced since it was looked at is no damage.
- A damaged Blob loses its rows, its body and its tree their names: nothing links it any more, whoever holds it. A
  Snapshot under way that has linked it already finds the counter changed, and starts over (``publish``).
- A damaged Snapshot goes, unless a lease holds it. Then its directory stays as it is for its job, and the row gives up
  the key by which others find it: no hit and no revalidation leads there, a sound one can be published beside it, and
  it goes with the lease. Pins are of a resource, not of a damaged copy: they stay, and protect nothing here.
- Sound Blobs of a Snapshot that goes count as used now: the next fetch finds them, if it comes within gc's grace.
"""

from __future__ import annotations

import json
import os
import stat
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

from fetcher.cache import durable
from fetcher.cache.blobs import Blobs
from fetcher.cache.clearing import remove_any
from fetcher.cache.damage import Action, Damage, DamagedFile, Finding, Place
from fetcher.cache.index import Index, Rows
from fetcher.cache.layout import Layout, disk_errors
from fetcher.cache.leases import Leases
from fetcher.cache.records import Snapshot
from fetcher.cache.removal import Removal, Removed, to_trash
from fetcher.cache.snapshots import COLUMNS, DAMAGED, read_sidecar, record
from fetcher.cache.survey import identity_of, listed_files, roots_of
from fetcher.errors import CacheError

SETTLE_S = 1.0
"""A dry run has no lock to look under. What is missing while another's transaction removes it, of whose end we see
nothing, must stay missing for so long; a transaction takes milliseconds."""


class Condemning:
    """Acts on the findings of one scrub, one after another."""

    def __init__(
        self,
        index: Index,
        layout: Layout,
        leases: Leases,
        removal: Removal,
        blobs: Blobs,
        clock: Callable[[], float],
        owner_id: Callable[[], str],
        known: Iterable[str],
        *,
        dry_run: bool,
    ) -> None:
        """``known``: ids of the Snapshots that were looked at; others may show the same body."""
        self._index = index
        self._layout = layout
        self._leases = leases
        self._removal = removal
        self._blobs = blobs
        self._clock = clock
        self._owner_id = owner_id
        self._known = set(known)
        self._gone: set[str] = set()
        """Snapshots that went for an earlier finding of this scrub: what else was damaged in them is still told."""
        self._dry_run = dry_run

    def take_out(self, finding: Finding) -> Damage | None:
        """What became of it; None: it was removed or replaced meanwhile, and is no damage."""
        if self._dry_run:
            return self._look(finding)
        if finding.reason == "tree":
            return self._mend(finding)
        if not finding.of_blob and all(place.snapshot.id in self._gone for place in finding.places):
            return _damage(finding, self._told(finding.places, {}), "removed")
        removed = Removed()
        unlisted: list[Path] = []
        with self._index.write(durable=True) as rows:
            places, blob = self._still(rows, finding)
            if not places and not blob:
                return None
            files, leased = self._files(rows, places)
            here = list(dict.fromkeys(place.snapshot.id for place in places if place.snapshot.id not in self._gone))
            going = [wanted for wanted in here if wanted not in leased]
            rows.executemany(
                "UPDATE blobs SET used_at = MAX(used_at, ?)"
                " WHERE root IN (SELECT root FROM snapshot_blobs WHERE snapshot_id = ?)",
                [(self._clock(), wanted) for wanted in going],
            )
            self._removal.snapshots(rows, going, removed)
            for wanted in leased:
                unlisted += self._hide(rows, wanted)
            if blob and finding.root is not None:
                self._removal.blob(rows, finding.root, removed)
            rows.execute(
                "INSERT INTO meta VALUES ('taken_out', '1')"
                " ON CONFLICT (name) DO UPDATE SET value = CAST(value AS INTEGER) + 1"
            )
        self._gone.update(going)
        removed.empty_trash()
        for path in unlisted:
            remove_any(path)
        return _damage(finding, files, "in_use" if leased else "removed")

    def _look(self, finding: Finding) -> Damage | None:
        while True:
            with self._index.read() as rows:
                places, blob = self._still(rows, finding)
                if not places and not blob:
                    return None
                files, _ = self._files(rows, places)
            if finding.identity is not None or time.monotonic() - finding.noticed_at >= SETTLE_S:
                return _damage(finding, files, "none")
            time.sleep(0.05)

    def _files(self, rows: Rows, places: list[Place]) -> tuple[tuple[DamagedFile, ...], dict[str, str]]:
        """The places as they are told, and which Snapshots of them are leased: id → lease."""
        leased = self._leases.leased(rows, {place.snapshot.id for place in places})
        return self._told(places, leased), leased

    def _told(self, places: Sequence[Place], leased: Mapping[str, str]) -> tuple[DamagedFile, ...]:
        return tuple(
            DamagedFile(place.snapshot.uri, place.snapshot.id, place.path, leased.get(place.snapshot.id))
            for place in places
        )

    # --- whether it still is so

    def _still(self, rows: Rows, finding: Finding) -> tuple[list[Place], bool]:
        """The places that still show it, and whether the Blob is still concerned."""
        places = [place for place in finding.places if self._is_there(rows, finding, place)]
        if finding.identity is not None and finding.root is not None and finding.reason != "tree":
            places += self._elsewhere(rows, finding)
        return places, finding.of_blob and finding.root is not None and self._blob_is_it(rows, finding)

    def _is_there(self, rows: Rows, finding: Finding, place: Place) -> bool:
        """Whether the fact itself still holds: the Snapshot may have been removed, and published anew since."""
        snapshot = place.snapshot
        if snapshot.id in self._gone:
            return True
        if not rows.execute("SELECT 1 FROM snapshots WHERE id = ?", (snapshot.id,)).fetchone():
            return False
        if finding.reason == "sidecar":
            return self._list_is_wrong(rows, snapshot)
        try:
            found = os.lstat(finding.path if finding.identity is None else snapshot.path / place.path)
        except (FileNotFoundError, NotADirectoryError):
            return finding.reason == "missing"
        except OSError:
            return finding.reason == "unreadable"
        if finding.identity is not None:
            return identity_of(found) == finding.identity
        if finding.reason == "kind":
            return not (stat.S_ISREG if place.path else stat.S_ISDIR)(found.st_mode)
        return finding.reason != "missing"

    def _list_is_wrong(self, rows: Rows, snapshot: Snapshot) -> bool:
        try:
            listed_files(self._layout, snapshot, roots_of(rows, snapshot.id))
        except CacheError:
            return True
        return False

    def _blob_is_it(self, rows: Rows, finding: Finding) -> bool:
        assert finding.root is not None
        if not rows.execute("SELECT 1 FROM blobs WHERE root = ?", (finding.root,)).fetchone():
            return False
        try:
            found = os.lstat(self._layout.blob(finding.root))
        except FileNotFoundError:
            return finding.reason == "missing"
        if finding.identity is None:
            return finding.reason == "kind" and not stat.S_ISREG(found.st_mode)
        return identity_of(found) == finding.identity

    def _elsewhere(self, rows: Rows, finding: Finding) -> list[Place]:
        """Places of a damaged body in Snapshots that this scrub was not asked about, or that are new."""
        found = rows.execute(
            f"SELECT {COLUMNS} FROM snapshots"
            " WHERE id IN (SELECT snapshot_id FROM snapshot_blobs WHERE root = ?) ORDER BY id",
            (finding.root,),
        ).fetchall()
        places = []
        for row in found:
            snapshot = record(row, self._layout)
            if snapshot.id in self._known:
                continue
            try:
                files = listed_files(self._layout, snapshot, roots_of(rows, snapshot.id))
            except CacheError:
                continue  # a scrub of its own will tell what is wrong with that
            for file in files:
                path = snapshot.path / file.path
                try:
                    same = file.root == finding.root and identity_of(os.lstat(path)) == finding.identity
                except OSError:
                    continue
                if same:
                    places.append(Place(snapshot, file.path, file.verified_by))
        return places

    # --- what is done

    def _hide(self, rows: Rows, wanted: str) -> list[Path]:
        """Let nobody find a leased Snapshot any more. The sidecar says so, too: an index made anew reads nothing else.
        Returns what is to be deleted after the commit."""
        known = rows.execute("SELECT key FROM snapshots WHERE id = ?", (wanted,)).fetchone()
        if known is None or str(known[0]).startswith(DAMAGED):
            return []
        rows.execute(
            "UPDATE snapshots SET key = ? || key, fresh_until = 0, keep_until = MIN(keep_until, ?) WHERE id = ?",
            (DAMAGED, self._clock(), wanted),
        )
        try:
            sidecar = read_sidecar(self._layout, wanted)
        except CacheError:
            return []  # what has no sound sidecar is never adopted
        place = self._layout.sidecar(wanted)
        with disk_errors("write", place):
            staged = self._layout.staging(self._layout.snapshots, wanted, self._owner_id())
            text = json.dumps({**sidecar, "damaged": True}, ensure_ascii=False, separators=(",", ":"))
            durable.write_file(staged, [text.encode()], 0o600, sync=True)
            trash = to_trash(place, self._layout.trash(self._layout.snapshots))
            os.rename(staged, place)
            durable.sync_directory(self._layout.snapshots)
        return trash

    def _mend(self, finding: Finding) -> Damage | None:
        """A body that is right, as a whole, needs no fetching anew: its ``.tree`` is made from it."""
        assert finding.root is not None and finding.size is not None
        with self._index.read() as rows:
            places, blob = self._still(rows, finding)
        if not blob:
            return None
        verified_by = finding.places[0].verified_by if finding.places else "size"
        self._blobs.renew_tree(finding.root, finding.size, finding.chaining_values, verified_by)
        return _damage(finding, self._told(places, {}), "repaired")


def _damage(finding: Finding, files: tuple[DamagedFile, ...], action: Action) -> Damage:
    return Damage(
        reason=finding.reason,
        path=finding.path,
        message=finding.message,
        root=finding.root,
        size=finding.size,
        blocks=finding.blocks,
        files=files,
        action=action,
    )
