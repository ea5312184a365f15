"""Removing directories in which strangers may have written: a job leaves in its private copy whatever it likes, and may
still be at work on it. Knows nothing of what the files mean.

- Nothing below the top is reached by its path. A folder is opened by its name in its parent, never through a symlink
  and never where something else is mounted; so whoever swaps names meanwhile leads us nowhere.
- Depth costs neither stack nor descriptors: what is deeper than one folder is moved up to the top, and emptied there.
- Modes and flags that stand in the way are taken off, as far as we may. What can't be removed is left, all else goes.
"""

from __future__ import annotations

import errno
import fcntl
import os
import stat
import struct
from collections.abc import Callable
from pathlib import Path

ENTRIES_MAX = 10_000_000
"""Removed and moved by one call: ten times what a Manifest may list. Whoever makes new files as fast as we remove them
does not keep us for ever."""

_GETFLAGS = 0x80086601
_SETFLAGS = 0x40086602
"""ioctl_iflags(2): FS_IOC_GETFLAGS and FS_IOC_SETFLAGS."""
_LOCKING_FLAGS = 0x10 | 0x20
"""FS_IMMUTABLE_FL and FS_APPEND_FL: what has one of them can be neither removed nor emptied, not even by root."""
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


def remove_tree(path: Path | str) -> int:
    """Remove a directory; returns the bytes of bodies that lost their last name.

    What is already gone is not missed. Raises OSError, the first, if something could not be removed; all else is gone.
    """
    freed, error = clear(path)
    if error is not None:
        raise error
    return freed


def remove_any(path: Path) -> int:
    """Delete a file or a directory under a staging or trash name; bytes freed.

    An error is not the caller's: what matters is that the real name is free, and gc comes by again.
    """
    try:
        status = os.lstat(path)
        if stat.S_ISDIR(status.st_mode):
            return clear(path)[0]
        os.unlink(path)
    except OSError:
        return 0
    return status.st_blocks * 512 if status.st_nlink <= 1 else 0


def clear(path: Path | str) -> tuple[int, OSError | None]:
    """Remove what can be removed of a directory, and itself if nothing is left in it. Bytes freed, and why not all."""
    try:
        top = _open_folder(path, None)
    except FileNotFoundError:
        return 0, None
    except OSError as error:
        return 0, error
    try:
        clearing = _Clearing(top)
        clearing.run()
    finally:
        os.close(top)
    try:
        os.rmdir(path)
    except FileNotFoundError:
        pass
    except OSError as error:
        return clearing.freed, clearing.error or error
    return clearing.freed, None


class _Clearing:
    """The work on one directory, which is open."""

    def __init__(self, top: int) -> None:
        self._top = top
        self._mount = _mount_of(top)
        self._left = ENTRIES_MAX
        self.freed = 0
        self.error: OSError | None = None
        """The first of the last pass: what an earlier pass stumbled over may be gone."""

    def run(self) -> None:
        """Passes over the top, as long as one achieves something. The last one moves nothing and removes nothing."""
        before = -1
        while self._left > 0 and self._left != before:
            before, self.error = self._left, None
            self._pass(self._top, self._empty_folder)
        if self._left <= 0:
            self.error = OSError(errno.EBUSY, "something is still being written there")

    def _pass(self, folder: int, on_folder: Callable[[str], None]) -> None:
        """Once over a folder's names: files are removed, folders handed on."""
        try:
            with os.scandir(folder) as entries:
                for entry in entries:
                    if self._left <= 0:
                        return
                    self._take(entry, folder, on_folder)
        except OSError as error:
            self.error = self.error or error

    def _take(self, entry: os.DirEntry[str], folder: int, on_folder: Callable[[str], None]) -> None:
        try:
            if entry.is_dir(follow_symlinks=False):
                on_folder(entry.name)
            else:
                self._unlink(entry, folder)
        except FileNotFoundError:
            pass
        except OSError as error:
            self.error = self.error or error

    def _unlink(self, entry: os.DirEntry[str], folder: int) -> None:
        status = entry.stat(follow_symlinks=False)
        self._forced(entry.name, folder, lambda: os.unlink(entry.name, dir_fd=folder))
        if status.st_nlink <= 1:
            self.freed += status.st_blocks * 512

    def _empty_folder(self, name: str) -> None:
        """A folder at the top: its files go, its folders come up to the top, then it goes."""
        try:
            folder = _open_folder(name, self._top)
        except PermissionError:
            self._forced(name, self._top, lambda: os.rmdir(name, dir_fd=self._top))  # closed to us, but perhaps empty
            return
        try:
            if _mount_of(folder) != self._mount:
                raise OSError(errno.EXDEV, "something is mounted there", name)
            self._pass(folder, lambda inner: self._bring_up(inner, folder))
        finally:
            os.close(folder)
        self._forced(name, self._top, lambda: os.rmdir(name, dir_fd=self._top))

    def _bring_up(self, name: str, folder: int) -> None:
        fresh = os.urandom(12).hex()  # a name that was there already would be another one's
        try:
            self._forced(
                name, folder, lambda: os.rename(name, fresh, src_dir_fd=folder, dst_dir_fd=self._top)
            )  # fmt: skip
        except FileNotFoundError:
            raise
        except OSError:
            # Moving needs a right to write to it, removing an empty one does not.
            self._forced(name, folder, lambda: os.rmdir(name, dir_fd=folder))

    def _forced(self, name: str, folder: int, change: Callable[[], None]) -> None:
        """Make a change of ``name`` in ``folder``, and once more after taking off what forbids it."""
        try:
            change()
        except PermissionError as error:
            unlocked = [_unlock_name(name, folder), _unlock_flags(folder), _unlock_flags(self._top)]
            if not any(unlocked):
                raise error
            change()
        self._left -= 1


def _open_folder(name: Path | str, parent: int | None) -> int:
    """Open a folder, and make sure that we may change it, if it is ours to say so."""
    try:
        folder = os.open(name, _FOLDER, dir_fd=parent)
    except PermissionError:
        if not _unlock_name(name, parent):
            raise
        folder = os.open(name, _FOLDER, dir_fd=parent)
    try:
        _unlock_mode(folder)
    except BaseException:
        os.close(folder)
        raise
    return folder


def _unlock_name(name: Path | str, parent: int | None) -> bool:
    """Take off what forbids us to change a file or folder; True if there was anything. Never opens a device: that would
    have effects."""
    try:
        handle = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=parent)
    except OSError:
        return False
    try:
        kind = os.fstat(handle).st_mode
        if not (stat.S_ISREG(kind) or stat.S_ISDIR(kind)):
            return False
        opened = stat.S_ISDIR(kind) and _unlock_mode(handle)
        descriptor = os.open(f"/proc/self/fd/{handle}", os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            return _unlock_flags(descriptor) or opened
        finally:
            os.close(descriptor)
    except OSError:
        return False
    finally:
        os.close(handle)


def _unlock_mode(folder: int) -> bool:
    """Let us read, write and enter a folder of ours; its descriptor may be one that only names it (O_PATH)."""
    mode = stat.S_IMODE(os.fstat(folder).st_mode)
    if mode & 0o700 == 0o700:
        return False
    try:
        os.chmod(f"/proc/self/fd/{folder}", mode | 0o700)
    except OSError:
        return False  # somebody else's; the next call says what is not allowed
    return True


def _unlock_flags(descriptor: int) -> bool:
    try:
        (flags,) = struct.unpack("i4x", fcntl.ioctl(descriptor, _GETFLAGS, bytes(8)))
        if not flags & _LOCKING_FLAGS:
            return False
        fcntl.ioctl(descriptor, _SETFLAGS, struct.pack("i4x", flags & ~_LOCKING_FLAGS))
    except OSError:
        return False
    return True


def _mount_of(descriptor: int) -> str:
    """What tells one mount from another, also where both show the same file system."""
    try:
        with open(f"/proc/self/fdinfo/{descriptor}") as file:
            for line in file:
                if line.startswith("mnt_id:"):
                    return line
    except OSError:
        pass
    return f"device {os.fstat(descriptor).st_dev}"
