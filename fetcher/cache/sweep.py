"""Files that no row speaks of: what crashes leave, what was condemned and has had its grace, what has no heir.

``find`` says what would go, and ``remove`` looks again, under the lock where names matter. Only names
that this program gives are looked at: whatever else lies in the directories of a cache stays.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from fetcher.cache import durable, timekeeping, writable
from fetcher.cache.adoption import adopt_blobs, has_row, roots_in
from fetcher.cache.clearing import remove_any
from fetcher.cache.clock import Clock
from fetcher.cache.index import Index
from fetcher.cache.journal import belongs_to_one_run
from fetcher.cache.layout import CONDEMNED, HEX_64, STAGING, TRASH, Layout, disk_errors
from fetcher.cache.owners import UNBORN, Owners
from fetcher.cache.removal import to_trash
from fetcher.cache.snapshots import IS_HIDDEN, is_there, refuse_without_any
from fetcher.cache.timekeeping import JUMP_S, Ages
from fetcher.cache.unnamed import unnamed
from fetcher.cache.usage import allocated
from fetcher.config import Settings

UNBORN_GRACE_S = 60.0
"""An owner's file has no lock between its creation and the next call; no setting makes that moment shorter."""

Kind = Literal["trash", "staging", "condemned", "copy", "snapshot", "blob", "partial", "owner", "unnamed"]

_PARTIAL = re.compile(r"([0-9a-f]{64})\.([0-9a-f]{32})")
_STAGED = re.compile(rf"{re.escape(STAGING)}[0-9a-z]+\.([0-9a-f]{{32}})\.[0-9a-f]+")
_TRASH = re.compile(rf"{re.escape(TRASH)}[0-9a-f]+")
_CONDEMNED = re.compile(rf"{re.escape(CONDEMNED)}([0-9]{{1,12}})-[0-9a-f]{{32}}")
_UNBORN = re.compile(rf"{re.escape(UNBORN)}[0-9a-f]{{32}}")


@dataclass(frozen=True, slots=True)
class Stray:
    """Something that may go."""

    kind: Kind
    path: Path

    def bytes(self) -> int:
        """Of bodies that would lose their last name; life signs and the like are not counted."""
        if self.kind in ("owner", "unnamed"):
            return 0
        try:
            status = os.lstat(self.path)
        except OSError:
            return 0
        if stat.S_ISDIR(status.st_mode):
            return allocated(self.path, set(), last_names_only=True)
        return status.st_blocks * 512 if status.st_nlink <= 1 else 0


class Sweeper:
    """Finds and removes strays of one cache. ``ages`` judges the times that files bear."""

    def __init__(
        self,
        settings: Settings,
        index: Index,
        layout: Layout,
        owners: Owners,
        clock: Clock,
        *,
        at_once: bool,
        looking: bool,
    ) -> None:
        """``at_once``: what is condemned goes now, for its space is needed. ``looking``: nothing is changed."""
        self._settings = settings
        self._index = index
        self._layout = layout
        self._owners = owners
        self._at_once = at_once
        self._looking = looking
        with index.read() as rows:
            self._ages: Ages = timekeeping.ages(rows, clock)

    def find(self) -> Iterator[Stray]:
        """All strays there are."""
        layout = self._layout
        for parent in (layout.snapshots, layout.partials, layout.blobs, layout.writable):
            yield from self._under_way(parent)
        yield from (Stray("copy", path) for path in self._copies())
        yield from self._snapshots()
        yield from self._blobs()
        yield from self._partials()
        yield from self._unnamed()
        yield from self._dead_owners()

    def remove(self, stray: Stray) -> int | None:
        """Bytes freed; None if it has gone, or must stay, by now."""
        removers: dict[Kind, Callable[[Path], int | None]] = {
            "trash": _delete,
            "staging": _delete,
            "condemned": _delete,
            "copy": lambda path: writable.remove(self._layout, path),
            "snapshot": self._remove_snapshot,
            "blob": self._remove_blob,
            "partial": self._remove_partial,
            "owner": self._remove_owner,
            "unnamed": lambda path: 0 if durable.remove_file(path) else None,
        }
        with disk_errors("clean up", stray.path):
            return removers[stray.kind](stray.path)

    def heal(self) -> int:
        """Rows without a directory go, bodies without a row that prove themselves get one; how many of these."""
        with self._index.read() as rows:
            # A hidden one needs no directory: what it still does is to refer to its sound Blobs.
            known = [wanted for (wanted,) in rows.execute(f"SELECT id FROM snapshots WHERE NOT {IS_HIDDEN}")]
        listed = {entry.name for entry in _entries(self._layout.snapshots)}
        lost = [wanted for wanted in known if wanted not in listed]
        if lost:
            with self._index.write(durable=True) as rows:
                refuse_without_any(self._layout)
                for wanted in lost:
                    if not is_there(self._layout.snapshot(wanted)):
                        rows.execute("DELETE FROM snapshots WHERE id = ?", (wanted,))
        return adopt_blobs(self._index, self._layout, self._ages.now)

    # --- names that start with a dot

    def _under_way(self, parent: Path) -> Iterator[Stray]:
        """Trash, whosever; staging of dead owners; what was condemned and has had its grace."""
        for entry in _entries(parent):
            path = Path(entry.path)
            if _TRASH.fullmatch(entry.name):
                yield Stray("trash", path)
            elif staged := _STAGED.fullmatch(entry.name):
                if self._owners.state(staged[1]) == "dead":
                    yield Stray("staging", path)
            elif condemned := _CONDEMNED.fullmatch(entry.name):
                age_s = self._ages.age_s(float(condemned[1]))
                # From a future that never came: nothing tells its age, and nobody finds it.
                if self._at_once or age_s >= self._settings.gc_grace_s or age_s < -JUMP_S:
                    yield Stray("condemned", path)

    # --- private copies

    def _copies(self) -> list[Path]:
        """Those of leases whose rows are gone; they went before."""
        found = writable.copies(self._layout)
        if not found:
            return []
        with self._index.read() as rows:
            return writable.ownerless(rows, found)

    # --- snapshots

    def _snapshots(self) -> Iterator[Stray]:
        """Directories and sidecars without a row: a crash between renames and commit."""
        with self._index.read() as rows:
            known = {wanted for (wanted,) in rows.execute("SELECT id FROM snapshots")}
        for entry in _entries(self._layout.snapshots):
            name = entry.name.removesuffix(".json")
            if HEX_64.fullmatch(name) and name not in known and self._is_old(entry):
                yield Stray("snapshot", Path(entry.path))

    def _remove_snapshot(self, path: Path) -> int | None:
        with self._index.write(durable=False) as rows:
            if rows.execute("SELECT 1 FROM snapshots WHERE id = ?", (path.name.removesuffix(".json"),)).fetchone():
                return None
            trash = to_trash(path, self._layout.trash(self._layout.snapshots))
        return remove_any(trash[0]) if trash else None

    # --- blobs

    def _blobs(self) -> Iterator[Stray]:
        """Bodies and trees without a row. A commit between its link and its row is younger than the grace, or finds its
        name gone inside its transaction and links again."""
        for folder in _entries(self._layout.blobs):
            if len(folder.name) != 2 or not folder.is_dir(follow_symlinks=False):
                continue
            with self._index.read() as rows:
                known = roots_in(rows, folder.name)
            for entry in _entries(Path(folder.path)):
                root = entry.name.removesuffix(".tree")
                if root in known or not root.startswith(folder.name) or not HEX_64.fullmatch(root):
                    continue
                if self._is_old(entry):
                    yield Stray("blob", Path(entry.path))

    def _remove_blob(self, path: Path) -> int | None:
        with self._index.write(durable=False) as rows:
            if has_row(rows, path.name.removesuffix(".tree")):
                return None
            trash = to_trash(path, self._layout.trash(self._layout.blobs))
        return remove_any(trash[0]) if trash else None

    # --- partials

    def _partials(self) -> Iterator[Stray]:
        """Partials of dead owners that nobody has resumed for ``partial_keep_s``, or that nobody can resume."""
        for entry in _entries(self._layout.partials):
            match = _PARTIAL.fullmatch(entry.name)
            if match and self._owners.state(match[2]) == "dead" and self._partial_is_old(Path(entry.path)):
                yield Stray("partial", Path(entry.path))

    def _partial_is_old(self, path: Path) -> bool:
        if belongs_to_one_run(path / "journal"):
            return True
        entries = list(_entries(path))
        return all(self._has_age(entry, self._settings.partial_keep_s) for entry in entries)

    def _remove_partial(self, path: Path) -> int | None:
        # The rename decides between us and an heir who takes it at this moment.
        trash = to_trash(path, self._layout.trash(self._layout.partials))
        return remove_any(trash[0]) if trash else None

    # --- owners

    def _dead_owners(self) -> Iterator[Stray]:
        """Files of dead owners that nothing on disk is named after; their locks are what lets heirs take a Partial."""
        named = {match[2] for entry in _entries(self._layout.partials) if (match := _PARTIAL.fullmatch(entry.name))}
        for owner_id in self._owners.ids():
            if owner_id not in named and self._owners.state(owner_id) == "dead":
                yield Stray("owner", self._layout.owner(owner_id))
        for entry in _entries(self._layout.owners):
            grace_s = max(UNBORN_GRACE_S, self._settings.gc_grace_s)
            if _UNBORN.fullmatch(entry.name) and self._has_age(entry, grace_s):
                yield Stray("owner", Path(entry.path))

    def _remove_owner(self, path: Path) -> int | None:
        if path.name.startswith(UNBORN):
            return 0 if durable.remove_file(path) else None
        with self._owners.holding(path.name) as held:
            return 0 if held and durable.remove_file(path) else None

    # --- the roots

    def _unnamed(self) -> Iterator[Stray]:
        """What was killed while it opened the cache left these."""
        grace_s = max(UNBORN_GRACE_S, self._settings.gc_grace_s)
        yield from (
            Stray("unnamed", Path(entry.path)) for entry in unnamed(self._layout) if self._has_age(entry, grace_s)
        )

    # --- age

    def _is_old(self, entry: os.DirEntry[str]) -> bool:
        return self._has_age(entry, self._settings.gc_grace_s)

    def _has_age(self, entry: os.DirEntry[str], age_min_s: float) -> bool:
        try:
            age_s = self._ages.age_s(entry.stat(follow_symlinks=False).st_mtime)
            if age_s < -JUMP_S and not self._looking:
                # Written under a calendar that was wrong: its time starts now, or it would stay for years.
                os.utime(entry.path, (self._ages.now, self._ages.now), follow_symlinks=False)
        except OSError:  # it is gone, or not ours to judge
            return False
        return age_s >= age_min_s


def _delete(path: Path) -> int | None:
    """What lies under a name that nobody looks for. What can't be removed stays, for whoever comes by next."""
    freed = remove_any(path)
    return None if os.path.lexists(path) else freed


def _entries(directory: Path) -> Iterator[os.DirEntry[str]]:
    with disk_errors("look into", directory):
        try:
            with os.scandir(directory) as entries:
                found = list(entries)
        except (FileNotFoundError, NotADirectoryError):
            return
    yield from found
