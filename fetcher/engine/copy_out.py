"""``--to``: a Snapshot copied into a directory of the user's. Copies or reflinks, never links: what the user writes
there must not reach the cache. A new directory appears as a whole, by rename; with ``merge`` each file does.
"""

from __future__ import annotations

import os
import secrets
import shutil
import stat
from pathlib import Path
from typing import TYPE_CHECKING

from fetcher.errors import CacheError, UsageError

if TYPE_CHECKING:
    from fetcher.cache.records import Snapshot, SnapshotFile


def copy_out(snapshot: Snapshot, files: list[SnapshotFile], directory: Path, *, merge: bool) -> int:
    """Copy the Snapshot's files below ``directory``; returns their number. A worker call.

    Raises UsageError if the directory is there and not empty (unless ``merge``), CacheError for what the disk says.
    """
    try:
        _copy_out(snapshot, files, Path(os.path.realpath(directory)), merge=merge)
    except OSError as error:
        raise CacheError(f"can't copy to {str(directory)[:200]}: {error.strerror or error}") from error
    return len(files)


def _copy_out(snapshot: Snapshot, files: list[SnapshotFile], directory: Path, *, merge: bool) -> None:
    if directory.exists() and not directory.is_dir():
        raise UsageError(f"{directory} is a file", hint="--to takes a directory")
    occupied = directory.is_dir() and any(directory.iterdir())
    if occupied and not merge:
        raise UsageError(f"{directory} is not empty", hint="add --merge to put the files among what is there")
    directory.parent.mkdir(parents=True, exist_ok=True)
    if occupied:
        _fill(snapshot, files, directory)
        return
    staging = directory.parent / f".{directory.name[:200]}.fetcher-{secrets.token_hex(4)}"
    try:
        staging.mkdir()
        _fill(snapshot, files, staging)
        if directory.is_dir():
            directory.rmdir()
        staging.rename(directory)
    except BaseException:
        shutil.rmtree(staging, ignore_errors=True)
        raise


def _fill(snapshot: Snapshot, files: list[SnapshotFile], directory: Path) -> None:
    for file in files:
        target = directory / file.path
        _make_folders(directory, target.parent)
        arriving = target.with_name(f".fetcher-{secrets.token_hex(8)}")
        try:
            _copy(snapshot.path / file.path, arriving)
            arriving.replace(target)
        except BaseException:
            arriving.unlink(missing_ok=True)
            raise


def _make_folders(directory: Path, folder: Path) -> None:
    """Make ``folder`` below ``directory``, one by one, through no symlink: the files stay below ``directory``."""
    if folder == directory:
        return
    _make_folders(directory, folder.parent)
    try:
        folder.mkdir()
    except FileExistsError:
        if not stat.S_ISDIR(folder.lstat().st_mode):
            raise CacheError(
                f"{folder} is in the way: not a directory", hint="move it away, or choose another directory"
            ) from None


def _copy(source: Path, target: Path) -> None:
    with source.open("rb") as reader, target.open("xb") as writer:
        if not _reflink(writer.fileno(), reader.fileno()):
            remaining = os.fstat(reader.fileno()).st_size
            while remaining:
                count = os.sendfile(writer.fileno(), reader.fileno(), None, min(remaining, 1 << 30))
                if count == 0:
                    raise OSError(f"{source} ended early")
                remaining -= count


def _reflink(target: int, source: int) -> bool:
    import fcntl

    FICLONE = 0x40049409  # linux/fs.h
    try:
        fcntl.ioctl(target, FICLONE, source)
    except OSError:
        return False
    return True
