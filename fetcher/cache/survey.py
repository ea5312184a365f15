"""What a scrub is to look at: each body once, however many names it has, and what it should be. Changes nothing.

A file of a Snapshot is one body with the Blob that it links; one that has a body of its own (links were impossible, or
somebody swapped it) is looked at by itself, against what the sidecar lists. What can be seen without reading bytes is
found here: files that are missing, extra, of another size or kind, and sidecars that say something else.
"""

from __future__ import annotations

import errno
import os
import stat
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from fetcher.cache.damage import Finding, Identity, Place, Reason
from fetcher.cache.index import Index, Rows
from fetcher.cache.layout import Layout, disk_error
from fetcher.cache.records import Snapshot, SnapshotFile
from fetcher.cache.snapshots import files_of, read_sidecar, snapshot_id
from fetcher.errors import CacheError

MEDIA_ERRNOS = frozenset({errno.EIO, errno.EBADMSG, errno.EUCLEAN, errno.ENODATA, errno.EREMOTEIO})
"""The disk, or the file system's own checksum, says no: EBADMSG and EUCLEAN are those of ext4, XFS and fs-verity."""

_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


@dataclass(slots=True, eq=False)
class Body:
    """Bytes on the disk, and what they should be. One for all names of an inode that should be the same content."""

    root: str
    size: int
    path: Path
    identity: Identity
    size_found: int
    of_blob: bool = False
    """``path`` is the Blob's own name."""
    places: list[Place] = field(default_factory=list)
    in_use: bool = False
    """A lease holds a Snapshot that it is in."""


@dataclass(slots=True)
class Survey:
    """All there is to look at, and what was found on the way."""

    snapshots: list[Snapshot] = field(default_factory=list)
    files: int = 0
    blobs: int = 0
    findings: list[Finding] = field(default_factory=list)
    _bodies: dict[tuple[Identity, str, int], Body] = field(default_factory=dict)

    @property
    def bodies(self) -> list[Body]:
        """In the order of their inodes, which is nearly that of the disk where it matters (one head, ext4)."""
        return sorted(self._bodies.values(), key=lambda body: body.identity)

    def body(self, status: os.stat_result, root: str, size: int, path: Path) -> Body:
        key = (identity_of(status), root, size)
        if key not in self._bodies:
            self._bodies[key] = Body(root, size, path, key[0], status.st_size)
        return self._bodies[key]


class Surveyor:
    """Lists what one cache holds."""

    def __init__(self, index: Index, layout: Layout, leased: Collection[str], look: Callable[[], None]) -> None:
        """``leased``: ids of Snapshots in use. ``look`` is called now and then, and may raise to give it up."""
        self._index = index
        self._layout = layout
        self._leased = leased
        self._look = look

    def survey(self, snapshots: Sequence[Snapshot], *, all_blobs: bool) -> Survey:
        """These Snapshots and the Blobs that they are made of, or all Blobs there are."""
        survey = Survey(list(snapshots))
        with self._index.read() as rows:
            blobs: dict[str, int] = dict(rows.execute("SELECT root, size FROM blobs").fetchall())
            referred: dict[str, set[str]] = {}
            for wanted, root in rows.execute("SELECT snapshot_id, root FROM snapshot_blobs"):
                referred.setdefault(wanted, set()).add(root)
        roots = set(blobs) if all_blobs else set()
        for snapshot in snapshots:
            self._look()
            mine = referred.get(snapshot.id, set())
            roots |= mine
            self._snapshot(snapshot, mine, survey)
        for root in sorted(roots & blobs.keys()):
            self._look()
            self._blob(root, blobs[root], survey)
        return survey

    def _snapshot(self, snapshot: Snapshot, roots: set[str], survey: Survey) -> None:
        try:
            top = os.open(snapshot.path, _FOLDER)
        except OSError as error:
            if error.errno not in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP):
                if error.errno not in MEDIA_ERRNOS:
                    raise disk_error(error, "look at", snapshot.path) from error
                survey.findings.append(_of_place("unreadable", Place(snapshot, ""), os.strerror(error.errno)))
                return
            reason: Reason = "missing" if error.errno == errno.ENOENT else "kind"
            words = "the directory is missing" if reason == "missing" else "it is no directory"
            survey.findings.append(_of_place(reason, Place(snapshot, ""), words))
            return
        try:
            try:
                files = listed_files(self._layout, snapshot, roots)
            except CacheError as error:
                place = Place(snapshot, "")
                survey.findings.append(
                    _of_place("sidecar", place, error.message, path=self._layout.sidecar(snapshot.id))
                )
                return
            found, folders, unreadable = _walk(top, self._look)
        finally:
            os.close(top)
        survey.files += len(files)
        for file in files:
            self._file(file, Place(snapshot, file.path, file.verified_by), found, folders, survey)
        above = {folder for file in files for folder in _folders_of(file.path)}
        for path in sorted({*found} | (folders - above)):
            place = Place(snapshot, path)
            survey.findings.append(_of_place("extra", place, "is not on the list of its files"))
        for path, words in unreadable:
            survey.findings.append(_of_place("unreadable", Place(snapshot, path), words))

    def _file(
        self, file: SnapshotFile, place: Place, found: dict[str, os.stat_result], folders: set[str], survey: Survey
    ) -> None:
        status = found.pop(file.path, None)
        size = file.size
        if file.path in folders:
            folders.discard(file.path)
            survey.findings.append(_of_place("kind", place, "is no plain file", size=size, root=file.root))
        elif status is None:
            survey.findings.append(_of_place("missing", place, "is missing", size=size, root=file.root))
        elif not stat.S_ISREG(status.st_mode):
            survey.findings.append(_of_place("kind", place, "is no plain file", size=size, root=file.root))
        elif file.root is None:
            if status.st_size:
                words = f"has {status.st_size} bytes, should have none"
                survey.findings.append(_of_place("size", place, words, size=0))
        else:
            body = survey.body(status, file.root, size, place.snapshot.path / file.path)
            body.places.append(place)
            body.in_use = body.in_use or place.snapshot.id in self._leased

    def _blob(self, root: str, size: int, survey: Survey) -> None:
        path = self._layout.blob(root)
        survey.blobs += 1
        try:
            status = os.lstat(path)
        except FileNotFoundError:
            words = "is missing"
            survey.findings.append(Finding("missing", path, words, _now(), root=root, size=size, of_blob=True))
            return
        except OSError as error:
            raise disk_error(error, "look at", path) from error
        if not stat.S_ISREG(status.st_mode):
            words = "is no plain file"
            survey.findings.append(Finding("kind", path, words, _now(), root=root, size=size, of_blob=True))
            return
        body = survey.body(status, root, size, path)
        body.path, body.of_blob = path, True


def roots_of(rows: Rows, snapshot_id: str) -> set[str]:
    """What a Snapshot refers to, as the index has it."""
    return {
        root for (root,) in rows.execute("SELECT root FROM snapshot_blobs WHERE snapshot_id = ?", (snapshot_id,))
    }  # fmt: skip


def listed_files(layout: Layout, snapshot: Snapshot, roots: Collection[str]) -> list[SnapshotFile]:
    """What a Snapshot's sidecar lists, if it agrees with the index, where ``roots`` are those that it refers to.

    Raises CacheError with what is wrong: a sidecar has no checksum of its own, but few of its bits can turn unseen.
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
    except (KeyError, TypeError, ValueError) as error:
        raise CacheError(f"its list of files is damaged: {error}") from error
    found = {file.root for file in files if file.root is not None}
    same = (
        expected == snapshot.id
        and len(files) == snapshot.files
        and sum(file.size for file in files) == snapshot.bytes
        and len({file.path for file in files}) == len(files)
        and found == set(roots)
    )
    if not same:
        raise CacheError("its list of files is not the one that was published")
    return files


def _of_place(
    reason: Reason,
    place: Place,
    message: str,
    *,
    path: Path | None = None,
    size: int | None = None,
    root: str | None = None,
) -> Finding:
    where = path or (place.snapshot.path / place.path if place.path else place.snapshot.path)
    return Finding(reason, where, message, _now(), (place,), root=root, size=size)


def _walk(top: int, look: Callable[[], None]) -> tuple[dict[str, os.stat_result], set[str], list[tuple[str, str]]]:
    """All below an open directory, by path: what is no folder, the folders, and what can't be read. Follows nothing."""
    found: dict[str, os.stat_result] = {}
    folders: set[str] = set()
    unreadable: list[tuple[str, str]] = []
    waiting = [""]
    while waiting:
        look()
        here = waiting.pop()
        try:
            folder = os.open(here or ".", _FOLDER, dir_fd=top)
            try:
                with os.scandir(folder) as entries:
                    for entry in entries:
                        path = f"{here}/{entry.name}" if here else entry.name
                        if entry.is_dir(follow_symlinks=False):
                            folders.add(path)
                            waiting.append(path)
                        else:
                            found[path] = entry.stat(follow_symlinks=False)
            finally:
                os.close(folder)
        except FileNotFoundError:
            continue  # being removed; if it is not, its files are missed
        except OSError as error:
            unreadable.append((here, f"can't be listed: {os.strerror(error.errno or 0)}"))
    return found, folders, unreadable


def _folders_of(path: str) -> Iterator[str]:
    at = path.find("/")
    while at >= 0:
        yield path[:at]
        at = path.find("/", at + 1)


def identity_of(status: os.stat_result) -> Identity:
    return status.st_dev, status.st_ino, status.st_mtime_ns


def _now() -> float:
    return time.monotonic()
