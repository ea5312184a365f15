"""What a scrub is to look at: each body once, however many names it has, and what it should be. Changes nothing.

A file of a Snapshot is one body with the Blob that it links; one that has a body of its own (links were impossible, or
somebody swapped it) is looked at by itself, against what the sidecar lists. What can be seen without reading bytes is
seen here, by ``look_at`` and ``look_at_blob``: files that are missing, extra or of another kind, and sidecars that say
something else. ``condemn`` calls the same two again, under the index's lock. Only what is missing, of the wrong kind,
or refused by the disk itself is a fault; whatever else keeps us from looking (no descriptors, no rights) is raised.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from fetcher.cache.damage import Body, Fault, Identity, Place, Reason, Suspect, identity_of
from fetcher.cache.index import Index, Rows
from fetcher.cache.layout import KIND_ERRNOS, MEDIA_ERRNOS, MISSING_ERRNOS, Layout, disk_error
from fetcher.cache.records import Snapshot, SnapshotFile
from fetcher.cache.snapshots import ODD_JSON, SidecarError, files_of, read_sidecar, snapshot_id
from fetcher.errors import CacheError

LOOK_FILES = 4096
"""Between two looks whether to stop: some hundredths of a second."""
UNREADABLE_MAX = 16
"""So many in a row that the disk refuses, and it is the disk that is gone, not each of them: nothing is taken out."""

_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


def reason_of(error: OSError) -> Reason | None:
    """What an error says of the thing that was looked at; None: it says nothing, the trouble is ours."""
    if error.errno in MISSING_ERRNOS:
        return "missing"
    if error.errno in KIND_ERRNOS:
        return "kind"
    return "unreadable" if error.errno in MEDIA_ERRNOS else None


def disk_is_gone(place: Path | str) -> CacheError:
    """Too much can't be read to be believed."""
    return CacheError(
        f"the disk gives errors for one file after another, lastly {place}; nothing was taken out for that",
        hint="look at the kernel's log, and at whether the disk is still there; then run it again",
    )


@dataclass(slots=True)
class Survey:
    """All there is to look at, and what was noticed on the way."""

    snapshots: int = 0
    files: int = 0
    blobs: int = 0
    hidden: list[Snapshot] = field(default_factory=list)
    """Found damaged before; what they refer to is looked at, they are not."""
    suspects: list[Suspect] = field(default_factory=list)
    bodies: list[Body] = field(default_factory=list)
    """In the order of their inodes, which is nearly that of the disk where it matters (one head, ext4)."""


@dataclass(slots=True)
class Seen:
    """What a Snapshot shows without its files being read."""

    files: int = 0
    faults: list[Fault] = field(default_factory=list)
    bodies: list[tuple[SnapshotFile, Identity]] = field(default_factory=list)
    """Of the files that are there and should have bytes."""


class Surveyor:
    """Lists what one cache holds."""

    def __init__(self, index: Index, layout: Layout, leased: Collection[str], look: Callable[[], None]) -> None:
        """``leased``: ids of Snapshots in use. ``look`` is called now and then, and may raise to give it up."""
        self._index = index
        self._layout = layout
        self._leased = leased
        self._look = look
        self._survey = Survey()
        self._bodies: dict[tuple[tuple[int, int], str, int], Body] = {}
        self._blobs = str(layout.blobs)
        self._unreadable = 0
        """In a row."""

    def survey(self, snapshots: Sequence[Snapshot], *, all_blobs: bool) -> Survey:
        """These Snapshots and the Blobs that they are made of, or all Blobs there are. To be called once."""
        survey = self._survey
        with self._index.read() as rows:
            blobs: dict[str, int] = dict(rows.execute("SELECT root, size FROM blobs").fetchall())
            referred: dict[str, set[str]] = {}
            for wanted, root in rows.execute("SELECT snapshot_id, root FROM snapshot_blobs"):
                referred.setdefault(wanted, set()).add(root)
        roots = set(blobs) if all_blobs else set()
        for snapshot in snapshots:
            self._look()
            mine = referred.pop(snapshot.id, set())
            roots |= mine
            if snapshot.damaged:
                survey.hidden.append(snapshot)
                continue
            self._snapshot(snapshot, mine)
        for root in sorted(roots & blobs.keys()):
            self._look()
            self._blob(root, blobs[root])
        survey.bodies = sorted(self._bodies.values(), key=lambda body: body.identity)
        self._bodies.clear()
        return survey

    def _snapshot(self, snapshot: Snapshot, roots: set[str]) -> None:
        seen = look_at(self._layout, snapshot, roots, self._look)
        self._survey.snapshots += 1
        self._survey.files += seen.files
        self._noticed(seen.faults, snapshot=snapshot)
        for file, identity in seen.bodies:
            assert file.root is not None
            body = self._body(identity, file.root, file.size)
            body.places.append(Place(snapshot, file.path, file.verified_by))
            body.in_use = body.in_use or snapshot.id in self._leased

    def _blob(self, root: str, size: int) -> None:
        self._survey.blobs += 1
        found = look_at_blob(self._layout, root, size)
        if isinstance(found, Fault):
            self._noticed([found], root=root)
        else:
            self._noticed([])
            self._body(found, root, size).blobs = self._blobs

    def _noticed(self, faults: Sequence[Fault], *, snapshot: Snapshot | None = None, root: str | None = None) -> None:
        if faults:
            self._survey.suspects.append(Suspect(tuple(faults), snapshot, root))
        refused = [fault for fault in faults if fault.reason == "unreadable"]
        self._unreadable = self._unreadable + 1 if refused else 0
        if self._unreadable >= UNREADABLE_MAX:
            raise disk_is_gone(refused[-1].path)

    def _body(self, identity: Identity, root: str, size: int) -> Body:
        key = (identity[:2], root, size)  # one that is being written to is one body all the same
        if key not in self._bodies:
            self._bodies[key] = Body(root, size, identity)
        return self._bodies[key]


def look_at(
    layout: Layout, snapshot: Snapshot, roots: Collection[str], look: Callable[[], None] = lambda: None
) -> Seen:
    """What a Snapshot shows without its files being read, where ``roots`` are those that it refers to.

    Raises CacheError for what is no fault of the Snapshot.
    """
    seen = Seen()
    try:
        top = os.open(snapshot.path, _FOLDER)
    except OSError as error:
        reason = "kind" if _is_other(snapshot.path) else reason_of(error)
        if reason is None:
            raise disk_error(error, "look at", snapshot.path) from error
        words = {"missing": "the directory is missing", "kind": "it is no directory"}
        seen.faults.append(
            Fault(reason, snapshot.path, words.get(reason, os.strerror(error.errno or 0)), Place(snapshot, ""))
        )
        return seen
    try:
        try:
            files = listed_files(layout, snapshot, roots)
        except SidecarError as error:
            cause = error.__cause__
            refused = isinstance(cause, OSError) and reason_of(cause) == "unreadable"
            sidecar = layout.sidecar(snapshot.id)
            seen.faults.append(
                Fault("unreadable" if refused else "sidecar", sidecar, error.message, Place(snapshot, ""))
            )
            return seen
        walk = _Walk(top, snapshot.path, look)
    finally:
        os.close(top)
    seen.files = len(files)
    for number, file in enumerate(files):
        if not number % LOOK_FILES:
            look()
        found = walk.found.pop(file.path, None)
        fault = _fault_of(file, found, file.path in walk.folders)
        if fault is not None:
            place = Place(snapshot, file.path, file.verified_by)
            path = snapshot.path / file.path
            seen.faults.append(Fault(*_with_path(fault, path), place, root=file.root, size=file.size))
        elif file.root is not None and found is not None:
            seen.bodies.append((file, found[2]))
        walk.folders.discard(file.path)
    above = {folder for file in files for folder in _folders_of(file.path)}
    for path_in in sorted({*walk.found} | (walk.folders - above)):
        place = Place(snapshot, path_in)
        seen.faults.append(Fault("extra", snapshot.path / path_in, "is not on the list of its files", place))
    for path_in, words_of_it in walk.unreadable:
        seen.faults.append(Fault("unreadable", snapshot.path / path_in, words_of_it, Place(snapshot, path_in)))
    return seen


def _fault_of(
    file: SnapshotFile, found: tuple[int, int, Identity] | None, is_folder: bool
) -> tuple[Reason, str] | None:
    if is_folder or (found is not None and not stat.S_ISREG(found[0])):
        return "kind", "is no plain file"
    if found is None:
        return "missing", "is missing"
    if file.root is None and found[1]:  # of what has bytes the size is looked at when it is read
        return "size", f"has {found[1]} bytes, should have none"
    return None


def _with_path(fault: tuple[Reason, str], path: Path) -> tuple[Reason, Path, str]:
    return fault[0], path, fault[1]


def _is_other(path: Path) -> bool:
    """Whether something that is no directory has this name: its own error says only that a part of the path is none."""
    try:
        return not stat.S_ISDIR(os.lstat(path).st_mode)
    except OSError:
        return False


def look_at_blob(layout: Layout, root: str, size: int | None) -> Fault | Identity:
    """What has a Blob's name, or why that is no plain file. Raises CacheError for what is no fault of the Blob."""
    path = layout.blob(root)
    try:
        status = os.lstat(path)
    except OSError as error:
        reason = reason_of(error)
        if reason is None:
            raise disk_error(error, "look at", path) from error
        words = "is missing" if reason == "missing" else os.strerror(error.errno or 0)
        return Fault(reason, path, words, root=root, size=size)
    if not stat.S_ISREG(status.st_mode):
        return Fault("kind", path, "is no plain file", root=root, size=size)
    return identity_of(status)


def roots_of(rows: Rows, snapshot_id: str) -> set[str]:
    """What a Snapshot refers to, as the index has it."""
    return {
        root for (root,) in rows.execute("SELECT root FROM snapshot_blobs WHERE snapshot_id = ?", (snapshot_id,))
    }  # fmt: skip


def listed_files(layout: Layout, snapshot: Snapshot, roots: Collection[str]) -> list[SnapshotFile]:
    """What a Snapshot's sidecar lists, if it agrees with the index, where ``roots`` are those that it refers to.

    Raises SidecarError with what is wrong: a sidecar has no checksum of its own, but few of its bits can turn unseen.
    """
    sidecar = read_sidecar(layout, snapshot.id)
    try:
        files = files_of(sidecar)
        principals = sidecar["principals"]
        expected = snapshot_id(
            key=str(sidecar["key"]),
            manifest_digest=str(sidecar["manifest_digest"]),
            private=bool(sidecar["private"]),
            principal=str(principals[0]) if principals else None,
            edition=int(sidecar.get("edition", 0)),
        )
    except ODD_JSON as error:
        raise SidecarError(f"its list of files is damaged: {error}") from error
    found = {file.root for file in files if file.root is not None}
    same = (
        expected == snapshot.id
        and len(files) == snapshot.files
        and sum(file.size for file in files) == snapshot.bytes
        and len({file.path for file in files}) == len(files)
        and found == set(roots)
    )
    if not same:
        raise SidecarError("its list of files is not the one that was published")
    return files


def paths_of(snapshot: Path, identity: Identity) -> list[str]:
    """The files in a Snapshot that are this body, whatever a list says. Raises CacheError if it can't be looked at."""
    try:
        top = os.open(snapshot, _FOLDER)
    except OSError as error:
        if reason_of(error) is None:
            raise disk_error(error, "look at", snapshot) from error
        return []
    try:
        walk = _Walk(top, snapshot, lambda: None)
    finally:
        os.close(top)
    return sorted(path for path, (_, _, found) in walk.found.items() if found[:2] == identity[:2])


class _Walk:
    """All below an open directory, by path. Follows nothing."""

    def __init__(self, top: int, name: Path, look: Callable[[], None]) -> None:
        self.found: dict[str, tuple[int, int, Identity]] = {}
        """What is no folder: its mode, its size, and which it is."""
        self.folders: set[str] = set()
        self.unreadable: list[tuple[str, str]] = []
        """Folders that the disk does not give, twice, and its words."""
        waiting = [""]
        while waiting:
            look()
            here = waiting.pop()
            for last in (False, True):
                try:
                    waiting += self._folder(top, here)
                    break
                except OSError as error:
                    reason = reason_of(error)
                    if reason is None:
                        raise disk_error(error, "list", name / here) from error
                    if reason == "unreadable" and last:
                        self.unreadable.append((here, f"can't be listed: {os.strerror(error.errno or 0)}"))
                    elif reason != "unreadable":
                        break  # being removed; if it is not, its files are missed

    def _folder(self, top: int, here: str) -> list[str]:
        below: list[str] = []
        folder = os.open(here or ".", _FOLDER, dir_fd=top)
        try:
            with os.scandir(folder) as entries:
                for entry in entries:
                    path = f"{here}/{entry.name}" if here else entry.name
                    if entry.is_dir(follow_symlinks=False):
                        self.folders.add(path)
                        below.append(path)
                        continue
                    try:
                        status = entry.stat(follow_symlinks=False)
                    except FileNotFoundError:
                        continue
                    self.found[path] = status.st_mode, status.st_size, identity_of(status)
        finally:
            os.close(folder)
        return below


def _folders_of(path: str) -> Iterator[str]:
    at = path.find("/")
    while at >= 0:
        yield path[:at]
        at = path.find("/", at + 1)
