"""``--to``: a Snapshot copied into a directory of the user's. Copies or reflinks, never links: what the user writes
there must not reach the cache. A new directory appears as a whole, by rename; with ``merge`` each file does.

The directory that is named may be a symlink, its user's choice. Everything in it is reached by descriptors and through
no symlink: file names are a stranger's, and the directory may be somebody's who could turn them against who copies.
"""

from __future__ import annotations

import errno
import os
import secrets
import shutil
import stat
from collections.abc import Callable
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from fetcher.cache.durable import COPY_STEP_BYTES, copy_into
from fetcher.cache.durable import reflink as _reflink
from fetcher.cache.layout import make_parents
from fetcher.errors import CacheError, InterruptedByUser, NoSpaceError, UsageError

if TYPE_CHECKING:
    from fetcher.cache.records import Snapshot, SnapshotFile

FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


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
    make_parents(directory)
    if occupied:
        top = os.open(directory, FOLDER)
        try:
            _fill(snapshot, files, top, directory, stopped)
        finally:
            os.close(top)
        _refuse_unsound(sound, "what was copied must not be used")
        return
    parent = os.open(directory.parent, FOLDER)
    staging = f".{directory.name[:200]}.fetcher-{secrets.token_hex(4)}"
    try:
        # Where it is to replace a directory that may be closed to others, it is closed until it takes after that.
        os.mkdir(staging, 0o700 if directory.is_dir() else 0o777, dir_fd=parent)
        top = os.open(staging, FOLDER, dir_fd=parent)
        try:
            _fill(snapshot, files, top, directory, stopped)
            _refuse_unsound(sound, "nothing was left of the copy")
            _take_after(top, directory)
        finally:
            os.close(top)
        os.rename(staging, directory.name, src_dir_fd=parent, dst_dir_fd=parent)  # onto an empty one, if it is there
    except BaseException:
        shutil.rmtree(staging, ignore_errors=True, dir_fd=parent)
        raise
    finally:
        os.close(parent)


def _take_after(top: int, directory: Path) -> None:
    """The empty directory that is to be replaced may be closed to others, or another user's: so is ours then."""
    try:
        old = os.lstat(directory)
    except FileNotFoundError:
        return
    if stat.S_ISDIR(old.st_mode):
        if os.geteuid() == 0:
            os.fchown(top, old.st_uid, old.st_gid)
        os.fchmod(top, stat.S_IMODE(old.st_mode))


def _refuse_unsound(sound: Callable[[], bool], consequence: str) -> None:
    if not sound():
        raise CacheError(
            f"the files were removed, or found damaged, while they were copied: {consequence}",
            hint="run the same command again",
        )


def _fill(
    snapshot: Snapshot, files: list[SnapshotFile], top: int, directory: Path, stopped: Callable[[], bool]
) -> None:
    """Copy into the open directory ``top``; ``directory`` is how to call it in messages."""
    for file in files:
        *folders, name = file.path.split("/")
        folder = _open_folder(top, folders, directory)
        arriving = f".fetcher-{secrets.token_hex(8)}"
        try:
            _copy(snapshot.path / file.path, arriving, folder, stopped)
            os.replace(arriving, name, src_dir_fd=folder, dst_dir_fd=folder)
        except BaseException:
            with suppress(OSError):
                os.unlink(arriving, dir_fd=folder)
            raise
        finally:
            os.close(folder)


def _open_folder(top: int, folders: list[str], directory: Path) -> int:
    """A descriptor of a folder below ``top``, made if need be. From one to the next, through no symlink, so that the
    files stay below even where somebody else may write there, too, and does it just now."""
    here = os.dup(top)
    try:
        for depth, name in enumerate(folders, 1):
            with suppress(FileExistsError):
                os.mkdir(name, dir_fd=here)
            try:
                below = os.open(name, FOLDER, dir_fd=here)
            except OSError as error:
                if error.errno not in (errno.ENOTDIR, errno.ELOOP):
                    raise
                raise CacheError(
                    f"{directory.joinpath(*folders[:depth])} is in the way: not a directory",
                    hint="move it away, or choose another directory",
                ) from None
            os.close(here)
            here = below
    except BaseException:
        os.close(here)
        raise
    return here


def _copy(source: Path, name: str, folder: int, stopped: Callable[[], bool]) -> None:
    def look() -> None:
        if stopped():
            raise InterruptedByUser("stopped")

    look()
    with ExitStack() as stack:
        reader = os.open(source, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        stack.callback(os.close, reader)
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        writer = os.open(name, flags, 0o666, dir_fd=folder)
        stack.callback(os.close, writer)
        if not _reflink(writer, reader):
            copy_into(reader, writer, os.fstat(reader).st_size, step_bytes=COPY_STEP_BYTES, look=look)
