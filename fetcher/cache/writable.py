"""Private copies of Snapshots, for jobs that may write to what they mount: what one writes, no other ever reads.

A copy belongs to a lease: ``writable-v1/<lease id>.<number>``. There is no row of its own; it lives as long as the row
of that lease. Before there is a lease it has a staging name with our owner id, so that a crash leaves what gc sweeps.

**What is in an adopted copy is a stranger's**, who may be root in his container and still at work. It is never read,
never linked, never followed; it is measured and removed, by rooms that are made for that.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Callable, Iterator
from pathlib import Path

from fetcher.cache import durable
from fetcher.cache.clearing import remove_any
from fetcher.cache.index import Index, Rows
from fetcher.cache.layout import STAGING, Layout, disk_errors
from fetcher.cache.records import GoneError, SnapshotFile
from fetcher.cache.snapshots import Snapshots
from fetcher.errors import CacheError, InternalError, InterruptedByUser, LeaseError
from fetcher.model.paths import path_fault
from fetcher.plan import allocation

FOLDER_MODE = 0o777
FILE_MODE = 0o666
"""A container's process may have any uid. Other users of the host don't get as far: see the modes of the layout."""
_COPY = re.compile(r"([0-9a-f]{32})\.[0-9]{1,9}")


class Copies:
    """Makes, names and removes the private copies of one cache. Thread-safe."""

    def __init__(self, index: Index, layout: Layout, snapshots: Snapshots, owner_id: Callable[[], str]) -> None:
        self._index = index
        self._layout = layout
        self._snapshots = snapshots
        self._owner_id = owner_id

    def stage(self, snapshot_id: str, stopped: Callable[[], bool], draw: Callable[[int], None]) -> Path:
        """A full copy under a staging name, not durable: a job's scratch space is nothing after a power cut.

        A worker call; ``stopped`` is looked at before each file and at each step of a large one. Raises GoneError if
        the Snapshot was removed, NoSpaceError, CacheError, InterruptedByUser; nothing stays behind then.
        """
        staged = self._layout.staging(self._layout.writable, "copy", self._owner_id())

        def look() -> None:
            if stopped():
                raise InterruptedByUser("stopped")

        snapshot = self._snapshots.get(snapshot_id)
        if snapshot is None or snapshot.damaged:
            raise _gone(snapshot_id)
        try:
            files = self._snapshots.files(snapshot_id)
            with disk_errors("make a private copy of", snapshot.path):
                _fill(staged, snapshot.path, files, look, draw)
        except BaseException as error:
            remove_any(staged)
            if isinstance(error, CacheError) and self._is_gone(snapshot_id):
                raise _gone(snapshot_id) from error
            raise
        return staged

    def _is_gone(self, snapshot_id: str) -> bool:
        """Removed, or found damaged: there is another one, or soon will be."""
        snapshot = self._snapshots.get(snapshot_id)
        return snapshot is None or snapshot.damaged

    def adopt(self, staged: Path, lease_id: str, number: int) -> Path:
        """Give a staged copy to a lease, as its ``number``-th. Raises LeaseError if that has ended: the copy stays
        staged then, the caller's to discard."""
        target = self._layout.copy(lease_id, number)
        if staged.parent != self._layout.writable or not staged.name.startswith(STAGING):
            raise InternalError(f"{staged} is not a staged copy of this cache")
        # Inside a transaction, so that the lease can't end between the look and the rename.
        with self._index.write(durable=False) as rows:
            if not rows.execute("SELECT 1 FROM leases WHERE id = ?", (lease_id,)).fetchone():
                raise LeaseError(f"lease {lease_id} ended before its private copy was there")
            if os.path.lexists(target):
                raise InternalError(f"{target} is there already")
            with disk_errors("rename", staged):
                os.rename(staged, target)
        return target

    def discard(self, path: Path) -> None:
        """Remove a copy, staged or adopted. What can't be removed stays under a trash name, which every gc tries."""
        if path.parent != self._layout.writable or not (path.name.startswith(STAGING) or _COPY.fullmatch(path.name)):
            raise InternalError(f"{path} is not a copy of this cache")
        remove(self._layout, path)

    def discard_of(self, lease_id: str) -> None:
        """Remove the copies of a lease whose row is gone."""
        for path in copies(self._layout):
            if lease_of(path) == lease_id:
                remove(self._layout, path)


# --- what removing and measuring needs


def copies(layout: Layout) -> list[Path]:
    """All that were adopted, whether or not their leases live."""
    with disk_errors("look into", layout.writable):
        try:
            names = os.listdir(layout.writable)
        except FileNotFoundError:
            return []  # made by a version that had none
    return [layout.writable / name for name in sorted(names) if _COPY.fullmatch(name)]


def lease_of(path: Path) -> str:
    """The lease that a copy belongs to."""
    return path.name.partition(".")[0]


def ownerless(rows: Rows, found: list[Path]) -> list[Path]:
    """Those whose lease has no row any more. ``found`` is older than this look: a copy gets its name after its lease's
    row is committed, so one that was seen has its row, or had it."""
    return [path for path in found if not rows.execute("SELECT 1 FROM leases WHERE id=?", (lease_of(path),)).fetchone()]


def remove(layout: Layout, path: Path) -> int | None:
    """Bytes freed; None if it is gone. First its name goes: whatever happens then, it is nobody's copy any more."""
    trash = layout.trash(layout.writable)
    try:
        os.rename(path, trash)
    except FileNotFoundError:
        return None
    except OSError:
        return remove_any(path)  # something is mounted on it here; the rest goes
    return remove_any(trash)


# --- filling


def _fill(
    staged: Path, source: Path, files: list[SnapshotFile], look: Callable[[], None], draw: Callable[[int], None]
) -> None:
    """The staged tree is closed to all but us until it is complete; modes are set by chmod, so no umask has a say."""
    draw(allocation.UNIT_BYTES)
    _make_folder(staged, 0o700)
    made: set[str] = set()
    for file in files:
        look()
        if path_fault(file.path):
            raise CacheError(f"the list of files of {source} is damaged", hint="remove this snapshot, fetch it again")
        for folder in _folders(file.path):
            if folder not in made:
                made.add(folder)
                draw(allocation.UNIT_BYTES)
                _make_folder(staged / folder, FOLDER_MODE)
        # A shared extent is nothing new to the disk, but a quota counts what each file has.
        draw(allocation.whole_units(file.size))
        _copy(source / file.path, staged / file.path, file.size, look)
    os.chmod(staged, FOLDER_MODE)


def _make_folder(path: Path, mode: int) -> None:
    os.mkdir(path, 0o700)
    os.chmod(path, mode)


def _folders(path: str) -> Iterator[str]:
    """Of ``a/b/c``: ``a``, then ``a/b``."""
    end = path.find("/")
    while end >= 0:
        yield path[:end]
        end = path.find("/", end + 1)


def _copy(source: Path, target: Path, size: int, look: Callable[[], None]) -> None:
    reading = os.open(source, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        status = os.fstat(reading)
        if not stat.S_ISREG(status.st_mode) or status.st_size != size:
            raise CacheError(
                f"{source} has {status.st_size} bytes, it should have {size}",
                hint="something outside of fetcher changed the cache; remove that snapshot and fetch it again",
            )
        writing = os.open(target, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        try:
            if size:
                durable.clone_into(reading, writing, size, look=look)
            os.fchmod(writing, FILE_MODE)
        finally:
            os.close(writing)
    finally:
        os.close(reading)


def _gone(snapshot_id: str) -> GoneError:
    return GoneError("the snapshot was removed before it could be copied", ids=(snapshot_id,))
