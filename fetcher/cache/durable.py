"""Making bytes survive a power cut, and copying them without reading them twice. Knows files, not what they mean.

Every function raises plain OSError; rooms rename it at their border. **An error of fsync is final**: the kernel has
dropped the dirty pages and a second fsync would report success (the lesson of PostgreSQL's fsyncgate, 2018). Whoever
gets one gives the file up.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

NOT_LINKABLE = frozenset({errno.EPERM, errno.EXDEV, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK})
"""Why link(2) may refuse although nothing is wrong: the file system has no hard links, this one has too many, or
``protected_hardlinks`` forbids it."""

_FICLONE = 0x40049409
"""ioctl_ficlone(2): share all extents of another file."""
COPY_STEP_BYTES = 64 << 20
"""Copied between two looks at whether to go on: an eighth of a second on a disk of 500 MB/s."""

BARRIER_FILES_MAX = 8
"""Up to here a file is made durable by its own fsync; beyond, one syncfs(2) costs less than the sum."""

_syncfs: Any = None


@contextmanager
def directory(path: Path | str) -> Iterator[int]:
    """A descriptor of a directory, for the length of a block."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def sync_directory(path: Path | str) -> None:
    """Make names in a directory durable."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_file(path: Path | str) -> None:
    """Make one file's bytes and inode durable."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_file_system(path: Path | str) -> None:
    """One barrier for everything written so far on the file system of ``path`` (syncfs(2))."""
    global _syncfs
    if _syncfs is None:
        import ctypes

        library = ctypes.CDLL(None, use_errno=True)
        _syncfs = (library.syncfs, ctypes.get_errno) if hasattr(library, "syncfs") else (None, None)
    function, get_errno = _syncfs
    if function is None:
        os.sync()
        return
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        while function(descriptor):
            number = get_errno()
            if number != errno.EINTR:  # Python's own calls go on after a signal; ctypes' don't
                raise OSError(number, os.strerror(number), str(path))
    finally:
        os.close(descriptor)


def barrier(paths: Iterable[Path | str], parent: Path | str) -> None:
    """Make these files and directories durable, by whichever way is cheaper. ``parent`` is on their file system."""
    listed = list(paths)
    if len(listed) > BARRIER_FILES_MAX:
        sync_file_system(parent)
        return
    for path in listed:
        sync_file(path)


def write_all(descriptor: int, data: bytes | bytearray | memoryview) -> None:
    """write(2) until everything is written."""
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]


def write_all_at(descriptor: int, data: bytes | bytearray | memoryview, offset: int) -> None:
    """pwrite(2) until everything is written."""
    view = memoryview(data)
    while view:
        count = os.pwrite(descriptor, view, offset)
        offset += count
        view = view[count:]


def write_file(path: Path | str, pieces: Iterable[bytes | bytearray | memoryview], mode: int, *, sync: bool) -> None:
    """Create a file that must not exist yet; durable on return if ``sync``. On any error nothing stays behind."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        try:
            for piece in pieces:
                write_all(descriptor, piece)
            os.fchmod(descriptor, mode)
            if sync:
                os.fsync(descriptor)
        finally:
            os.close(descriptor)
    except BaseException:
        remove_file(path)
        raise


def write_files(
    folder: int, names: Sequence[bytes], contents: Sequence[bytes | bytearray | memoryview], mode: int
) -> None:
    """Create many files in an open directory, none of which may exist yet; nothing is durable by this. Raises OSError
    for the first that can't be made; what was made before it stays."""
    from fetcher._native import many_files

    many_files.write_files(folder, names, contents, mode)


def link_files(source: int, names: Sequence[bytes], target: int, targets: Sequence[bytes]) -> list[int]:
    """Second names for many files, between open directories. The errno of each, 0 where it was made; never replaces
    anything."""
    from fetcher._native import many_files

    return many_files.link_files(source, names, target, targets)


def look_for_files(folder: int, names: Sequence[bytes]) -> list[int]:
    """What has these names in an open directory: the size of each plain file; ``-EINVAL`` for what is none, else minus
    the errno of lstat(2)."""
    from fetcher._native import many_files

    return many_files.look_for_files(folder, names)


def unlink_files(folder: int, names: Sequence[bytes]) -> list[int]:
    """Unlink many files of an open directory; the errno of each."""
    from fetcher._native import many_files

    return many_files.unlink_files(folder, names)


def make_directories(folder: int, names: Sequence[bytes], mode: int, group: int | None) -> list[int]:
    """Make many directories in an open one, with exactly this mode and, if one is given, this group; the errno of each,
    EEXIST where something has its name."""
    from fetcher._native import many_files

    return many_files.make_directories(folder, names, mode, group)


def clone_into(source: int, target: int, length: int, *, look: Callable[[], None] | None = None) -> None:
    """Fill the empty file ``target`` with ``length`` bytes of ``source``: shared extents if possible, else a copy.

    ``look`` is called between the steps of a copy, and may raise to give it up.
    """
    if not reflink(target, source):
        copy_into(source, target, length, look=look)


def reflink(target: int, source: int) -> bool:
    """Let an empty file share all extents of another (ioctl_ficlone(2)); False if these two can't."""
    import fcntl

    try:
        fcntl.ioctl(target, _FICLONE, source)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EIO):
            raise
        return False
    return True


def copy_into(
    source: int,
    target: int,
    length: int,
    *,
    step_bytes: int = COPY_STEP_BYTES,
    look: Callable[[], None] | None = None,
) -> None:
    """Copy ``length`` bytes into an empty file, inside the kernel where it can; ``look`` as for ``clone_into``."""
    done = 0
    while done < length:
        if done and look is not None:
            look()
        step = min(length - done, step_bytes)
        try:
            copied = os.copy_file_range(source, target, step, done, done)
        except OSError as error:
            if error.errno not in (errno.EXDEV, errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP):
                raise
            copied = _copy_step(source, target, done, min(step, 1 << 20))
        if not copied:
            raise OSError(errno.EIO, "file is shorter than it was")
        done += copied


def _copy_step(source: int, target: int, offset: int, length: int) -> int:
    data = os.pread(source, length, offset)
    write_all_at(target, data, offset)
    return len(data)


def remove_file(path: Path | str) -> bool:
    """Unlink; True if it was there."""
    try:
        os.unlink(path)
    except FileNotFoundError:
        return False
    return True
