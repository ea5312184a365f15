"""Taking what is damaged out of service, in one transaction each: the lock under which names appear and go.

- What was noticed is asked about again under that lock: what was removed or replaced meanwhile is no damage. What can
  be seen without reading is looked at by the very functions of ``survey``; of a body whose bytes are wrong it is asked
  which names it has now. Nothing is decided by what an earlier finding did.
- A damaged Blob loses its rows, its body and its tree their names: nothing links it any more, whoever holds it. A
  Snapshot under way that has linked it already finds that out before it appears (``publish``).
- A damaged Snapshot is hidden, always: its row gives up the key by which others find it, and its sidecar goes, so that
  an index made anew does not adopt it. Its directory stays as it is for whoever leases it, its row for the sound Blobs
  that it refers to. It goes (``gc``) when no lease holds it, and a sound one is there or its time is over; a pin of the
  resource holds it until a sound one is there.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from fetcher.cache import durable
from fetcher.cache.blobs import taken_out
from fetcher.cache.commit import Committer
from fetcher.cache.damage import (
    Action,
    Damage,
    DamagedFile,
    Fault,
    Finding,
    Identity,
    Place,
    Suspect,
    identity_of,
)
from fetcher.cache.index import Index, Rows
from fetcher.cache.layout import Layout, disk_error, disk_errors
from fetcher.cache.leases import Leases
from fetcher.cache.records import Snapshot
from fetcher.cache.removal import Removal, Removed, to_trash
from fetcher.cache.snapshots import COLUMNS, IS_HIDDEN, SidecarError, hide, record
from fetcher.cache.survey import listed_files, look_at, look_at_blob, paths_of, reason_of, roots_of

SETTLE_S = 2.0
"""A dry run has no lock to look under. What is missing while another's transaction removes it, of whose end we see
nothing, must stay missing for so long; a transaction takes milliseconds."""
SETTLE_LOOK_S = 0.1
"""Between two looks at all of that: what comes and goes is missing at many a moment, but not all the time."""
LISTS_MAX = 64
"""Sidecars kept in memory, by root: many findings are of the same few Snapshots."""


class ChangedError(Exception):
    """The body of a finding was written to since it was read: read it again. Nothing was done."""


class Condemning:
    """Acts on what one scrub finds, one after another."""

    def __init__(
        self,
        index: Index,
        layout: Layout,
        leases: Leases,
        removal: Removal,
        committer: Committer,
        clock: Callable[[], float],
        *,
        keep_s: float,
        dry_run: bool,
    ) -> None:
        """``keep_s``: how long a hidden Snapshot keeps its sound Blobs at least, for the next fetch to find them."""
        self._index = index
        self._layout = layout
        self._leases = leases
        self._removal = removal
        self._committer = committer
        self._clock = clock
        self._keep_s = keep_s
        self._dry_run = dry_run
        self._lists: dict[str, dict[str, list[str]]] = {}

    # --- what was seen without reading

    def seen(self, suspects: Sequence[Suspect], look: Callable[[], None]) -> Iterator[Damage]:
        """What became of Snapshots, and Blobs, that looked wrong; of those that do not any more there is nothing.
        ``look`` is called before each, and may raise to give it up."""
        if self._dry_run:
            for suspect in self._settled(suspects, look):
                with self._index.read() as rows:
                    yield from self._told(rows, suspect.faults, "none")
            return
        for suspect in suspects:
            look()
            if suspect.snapshot is None:
                yield from self._blob(suspect)
            else:
                yield from self._snapshot(suspect.snapshot, look)

    def _settled(self, suspects: Sequence[Suspect], look: Callable[[], None]) -> Sequence[Suspect]:
        """Those that look wrong at every look, with the faults that are there at every look."""
        until = time.monotonic() + SETTLE_S
        last = False
        while suspects and not last:
            time.sleep(SETTLE_LOOK_S)
            last = time.monotonic() >= until
            looked = [replace(suspect, faults=self._still(suspect, look)) for suspect in suspects]
            suspects = [suspect for suspect in looked if suspect.faults]
        return suspects

    def _still(self, suspect: Suspect, look: Callable[[], None]) -> tuple[Fault, ...]:
        """Those of its faults that are there now."""
        look()
        with self._index.read() as rows:
            if suspect.snapshot is None:
                assert suspect.root is not None
                found = look_at_blob(self._layout, suspect.root, suspect.faults[0].size)
                is_there = isinstance(found, Fault) and found in suspect.faults and _has_row(rows, suspect.root)
                return suspect.faults if is_there else ()
            now = self._faults(rows, suspect.snapshot.id, look)
            before = {(fault.reason, fault.path) for fault in suspect.faults}
            still = tuple(fault for fault in now if (fault.reason, fault.path) in before)
            return still if still and self._visible(rows, suspect.snapshot.id) else ()

    def _snapshot(self, snapshot: Snapshot, look: Callable[[], None]) -> list[Damage]:
        removed = Removed()
        with self._index.write(durable=True) as rows:
            faults = self._faults(rows, snapshot.id, look)
            if not faults:
                return []
            self._hide(rows, [snapshot.id], removed)
            told = self._told(rows, faults, "removed")
        removed.empty_trash()
        return told

    def _faults(self, rows: Rows, wanted: str, look: Callable[[], None]) -> list[Fault]:
        """Of a Snapshot as it is now; none if nobody gets it any more."""
        snapshot = self._visible(rows, wanted)
        return [] if snapshot is None else look_at(self._layout, snapshot, roots_of(rows, wanted), look).faults

    def _visible(self, rows: Rows, wanted: str) -> Snapshot | None:
        row = rows.execute(f"SELECT {COLUMNS} FROM snapshots WHERE id = ? AND NOT {IS_HIDDEN}", (wanted,)).fetchone()
        return record(row, self._layout) if row else None

    def _told(self, rows: Rows, faults: Iterable[Fault], action: Action) -> list[Damage]:
        return [
            self._damage(rows, fault, [] if fault.place is None else [fault.place], action) for fault in faults
        ]  # fmt: skip

    def _blob(self, suspect: Suspect) -> list[Damage]:
        root = suspect.root
        assert root is not None
        removed = Removed()
        with self._index.write(durable=True) as rows:
            found = look_at_blob(self._layout, root, suspect.faults[0].size)
            if not isinstance(found, Fault) or not _has_row(rows, root):
                return []
            self._take_blob(rows, root, removed)
            told = self._told(rows, [found], "removed")
        removed.empty_trash()
        return told

    def known(self, snapshot: Snapshot) -> list[Damage]:
        """A Snapshot that was found damaged before: it is told of as long as a lease holds it."""
        with self._index.read() as rows:
            if snapshot.id not in self._leases.leased(rows, [snapshot.id]) or self._visible(rows, snapshot.id):
                return []
            words = "was found damaged before"
            fault = Fault("known", snapshot.path, words, Place(snapshot, ""))
            return [self._damage(rows, fault, [Place(snapshot, "")], "in_use")]

    # --- what was read

    def read(self, finding: Finding, *, changing: bool = False) -> Damage | None:
        """What became of a body whose bytes are wrong; None: none of its names is there any more.

        Raises ChangedError if it was written to since it was read, unless ``changing`` says that it is all the time.
        """
        if finding.tree_path is not None:
            return self._mend(finding, changing)
        if self._dry_run:
            with self._index.read() as rows:
                places, blob = self._names(rows, finding, changing)
                return self._damage(rows, finding, places, "none") if places or blob else None
        removed = Removed()
        with self._index.write(durable=True) as rows:
            places, blob = self._names(rows, finding, changing)
            if not places and not blob:
                return None
            self._hide(rows, {place.snapshot.id: None for place in places}, removed)
            if blob:
                self._take_blob(rows, finding.body.root, removed)
            told = self._damage(rows, finding, places, "removed")
        removed.empty_trash()
        return told

    def _names(self, rows: Rows, finding: Finding, changing: bool) -> tuple[list[Place], bool]:
        """Where the body shows now, and whether it has the Blob's name."""
        body = finding.body
        is_it = _Sameness(finding.identity, changing)
        places = {
            (place.snapshot.id, place.path): place
            for place in body.places
            if _has_snapshot(rows, place.snapshot.id) and is_it(place.snapshot.path / place.path)
        }
        # Those that this scrub was not asked about, and those that came since.
        visible = rows.execute(
            f"SELECT {COLUMNS} FROM snapshots WHERE NOT {IS_HIDDEN}"
            " AND id IN (SELECT snapshot_id FROM snapshot_blobs WHERE root = ?) ORDER BY id",
            (body.root,),
        ).fetchall()
        for row in visible:
            snapshot = record(row, self._layout)
            for path in self._paths(rows, snapshot, finding):
                if (snapshot.id, path) not in places and is_it(snapshot.path / path):
                    places[snapshot.id, path] = Place(snapshot, path)
        blob = _has_row(rows, body.root) and is_it(self._layout.blob(body.root))
        return list(places.values()), blob

    def _paths(self, rows: Rows, snapshot: Snapshot, finding: Finding) -> list[str]:
        """The files of a Snapshot that should be this content."""
        if snapshot.id not in self._lists:
            try:
                files = listed_files(self._layout, snapshot, roots_of(rows, snapshot.id))
            except SidecarError:
                return paths_of(snapshot.path, finding.identity)
            listed: dict[str, list[str]] = {}
            for file in files:
                if file.root is not None:
                    listed.setdefault(file.root, []).append(file.path)
            if len(self._lists) >= LISTS_MAX:
                self._lists.clear()
            self._lists[snapshot.id] = listed  # an id is of one Manifest: what it lists never changes
        return self._lists[snapshot.id].get(finding.body.root, [])

    def _mend(self, finding: Finding, changing: bool) -> Damage | None:
        """A body that is right, as a whole, needs no fetching anew: its ``.tree`` is made from it."""
        body = finding.body
        with self._index.read() as rows:
            places, blob = self._names(rows, finding, changing)
            if not blob:
                return None
            told = self._damage(rows, finding, places, "none" if self._dry_run else "repaired")
        if not self._dry_run:
            verified_by = body.places[0].verified_by if body.places else "size"
            self._committer.renew_tree(body.root, body.size, finding.chaining_values, verified_by)
        return told

    # --- what is done

    def _hide(self, rows: Rows, ids: Iterable[str], removed: Removed) -> None:
        """Let nobody find these Snapshots any more."""
        now = self._clock()
        hidden = [wanted for wanted in ids if hide(rows, wanted, now, now + self._keep_s)]
        for wanted in hidden:
            removed.trash += to_trash(self._layout.sidecar(wanted), self._layout.trash(self._layout.snapshots))
        if hidden:
            with disk_errors("remove a list of files in", self._layout.snapshots):
                durable.sync_directory(self._layout.snapshots)

    def _take_blob(self, rows: Rows, root: str, removed: Removed) -> None:
        folder = self._layout.blob(root).parent
        if os.path.lexists(folder) and not folder.is_dir():
            removed.trash += to_trash(folder, self._layout.trash(self._layout.blobs))
        self._removal.blob(rows, root, removed)
        taken_out(rows)

    # --- what is told

    def _damage(self, rows: Rows, what: Fault | Finding, places: list[Place], action: Action) -> Damage:
        leases = self._leases.holders(rows, {place.snapshot.id for place in places}) if places else {}
        path, root, size = _of_finding(what) if isinstance(what, Finding) else (what.path, what.root, what.size)
        return Damage(
            reason=what.reason,
            path=path,
            message=what.message,
            root=root,
            size=size,
            blocks=what.blocks if isinstance(what, Finding) else None,
            files=_files(places, leases),
            action="in_use" if action == "removed" and leases else action,
        )


class _Sameness:
    """Whether a name is of the body that was read. Raises ChangedError if it is, and was written to since."""

    def __init__(self, identity: Identity, changing: bool) -> None:
        self._identity = identity
        self._changing = changing

    def __call__(self, path: Path) -> bool:
        try:
            found = identity_of(os.lstat(path))
        except OSError as error:
            if reason_of(error) is None:
                raise disk_error(error, "look at", path) from error
            return False
        if found[:2] != self._identity[:2]:
            return False
        if found != self._identity and not self._changing:
            raise ChangedError
        return True


def _of_finding(finding: Finding) -> tuple[Path, str | None, int | None]:
    return finding.tree_path or finding.body.path, finding.body.root, finding.body.size


def _has_row(rows: Rows, root: str) -> bool:
    return bool(rows.execute("SELECT 1 FROM blobs WHERE root = ?", (root,)).fetchone())


def _has_snapshot(rows: Rows, wanted: str) -> bool:
    return bool(rows.execute("SELECT 1 FROM snapshots WHERE id = ?", (wanted,)).fetchone())


def _files(places: Iterable[Place], leases: Mapping[str, tuple[str, ...]]) -> tuple[DamagedFile, ...]:
    return tuple(
        DamagedFile(place.snapshot.uri, place.snapshot.id, place.path, leases.get(place.snapshot.id, ()))
        for place in places
    )
