"""``--to``: a Snapshot copied into a directory of the user's. Copies or reflinks, never links: what the user writes
there must not reach the cache. A new directory appears as a whole, by rename; with ``merge`` each file does.
"""

from __future__ import annotations

import errno
import os
import secrets
import shutil
import stat
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from fetcher.cache.durable import COPY_STEP_BYTES, copy_into
from fetcher.cache.durable import reflink as _reflink
from fetcher.errors import CacheError, InterruptedByUser, NoSpaceError, UsageError

if TYPE_CHECKING:
    from fetcher.cache.records import Snapshot, SnapshotFile


def copy_out(
    snapshot: Snapshot,
    files: list[SnapshotFile],
    directory: Path,
    *,
    merge: bool,
    stopped: Callable[[], bool] = lambda: False,
    sound: Callable[[], bool] = lambda: True,
) -> int:
    """Copy the Snapshot's files below ``directory``; returns their number. A worker call.

    ``stopped`` is looked at now and then; once it is true, the copy is given up with InterruptedByUser. ``sound`` is
    asked at the end: a scrub may have found meanwhile that what was copied is damaged.
    Raises UsageError if the directory is there and not empty (unless ``merge``), CacheError for what the disk says.
    """
    try:
        _copy_out(snapshot, files, Path(os.path.realpath(directory)), merge, stopped, sound)
    except OSError as error:
        message = f"can't copy to {str(directory)[:200]}: {error.strerror or error}"
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise NoSpaceError(message, hint="free some space there, or choose another directory") from error
        raise CacheError(message, hint="choose another directory") from error
    return len(files)


def _copy_out(
    snapshot: Snapshot,
    files: list[SnapshotFile],
    directory: Path,
    merge: bool,
    stopped: Callable[[], bool],
    sound: Callable[[], bool],
) -> None:
    if directory.exists() and not directory.is_dir():
        raise UsageError(f"{directory} is a file", hint="--to takes a directory")
    occupied = directory.is_dir() and any(directory.iterdir())
    if occupied and not merge:
        raise UsageError(f"{directory} is not empty", hint="add --merge to put the files among what is there")
    directory.parent.mkdir(parents=True, exist_ok=True)
    if occupied:
        _fill(snapshot, files, directory, stopped)
        _refuse_unsound(sound, "what was copied must not be used")
        return
    staging = directory.parent / f".{directory.name[:200]}.fetcher-{secrets.token_hex(4)}"
    try:
        staging.mkdir()
        _fill(snapshot, files, staging, stopped)
        _refuse_unsound(sound, "nothing was left of the copy")
        if directory.is_dir():
            directory.rmdir()
        staging.rename(directory)
    except BaseException:
        shutil.rmtree(staging, ignore_errors=True)
        raise


def _refuse_unsound(sound: Callable[[], bool], consequence: str) -> None:
    if not sound():
        raise CacheError(
            f"the files were removed, or found damaged, while they were copied: {consequence}",
            hint="run the same command again",
        )


def _fill(snapshot: Snapshot, files: list[SnapshotFile], directory: Path, stopped: Callable[[], bool]) -> None:
    for file in files:
        target = directory / file.path
        _make_folders(directory, target.parent)
        arriving = target.with_name(f".fetcher-{secrets.token_hex(8)}")
        try:
            _copy(snapshot.path / file.path, arriving, stopped)
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


def _copy(source: Path, target: Path, stopped: Callable[[], bool]) -> None:
    def look() -> None:
        if stopped():
            raise InterruptedByUser("stopped")

    look()
    with source.open("rb") as reader, target.open("xb") as writer:
        if not _reflink(writer.fileno(), reader.fileno()):
            size = os.fstat(reader.fileno()).st_size
            copy_into(reader.fileno(), writer.fileno(), size, step_bytes=COPY_STEP_BYTES, look=look)
