"""Readable twin of files.pyx, and what runs where there is no compiled core. See files.pyi for the promises."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from typing_extensions import Buffer

_CREATE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


def write_files(folder: int, names: Sequence[bytes], contents: Sequence[Buffer], mode: int) -> None:
    _check(names)
    views = [memoryview(content).cast("B") for content in contents]
    if len(views) != len(names):
        raise ValueError(f"{len(names)} names for {len(views)} contents")
    for name, view in zip(names, views, strict=True):
        try:
            _write(folder, name, view, mode)
        except OSError as error:
            raise OSError(error.errno, error.strerror, os.fsdecode(name)) from None


def _write(folder: int, name: bytes, view: memoryview, mode: int) -> None:
    descriptor = os.open(name, _CREATE, 0o600, dir_fd=folder)
    try:
        try:
            while view:
                view = view[os.write(descriptor, view) :]
            os.fchmod(descriptor, mode)
        finally:
            os.close(descriptor)
    except BaseException:
        os.unlink(name, dir_fd=folder)
        raise


def link_files(source: int, names: Sequence[bytes], target: int, targets: Sequence[bytes]) -> list[int]:
    _check(names)
    _check(targets)
    if len(names) != len(targets):
        raise ValueError(f"{len(names)} names for {len(targets)} targets")
    link = partial(os.link, src_dir_fd=source, dst_dir_fd=target, follow_symlinks=False)
    return [_error_of(partial(link, name, wanted)) for name, wanted in zip(names, targets, strict=True)]


def look_for_files(folder: int, names: Sequence[bytes]) -> list[int]:
    _check(names)
    return [_size_of(folder, name) for name in names]


def unlink_files(folder: int, names: Sequence[bytes]) -> list[int]:
    _check(names)
    return [_error_of(partial(os.unlink, name, dir_fd=folder)) for name in names]


def make_directories(folder: int, names: Sequence[bytes], mode: int, group: int | None = None) -> list[int]:
    _check(names)
    return [_error_of(partial(_make_directory, folder, name, mode, group)) for name in names]


def _make_directory(folder: int, name: bytes, mode: int, group: int | None) -> None:
    os.mkdir(name, 0o700, dir_fd=folder)
    descriptor = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=folder)
    try:
        if group is not None:
            os.fchown(descriptor, -1, group)
        os.fchmod(descriptor, mode)
    finally:
        os.close(descriptor)


def _size_of(folder: int, name: bytes) -> int:
    try:
        status = os.lstat(name, dir_fd=folder)
    except OSError as error:
        return -(error.errno or errno.EIO)
    return status.st_size if stat.S_ISREG(status.st_mode) else -errno.EINVAL


def _error_of(call: Callable[[], object]) -> int:
    try:
        call()
    except OSError as error:
        return error.errno or 0
    return 0


def _check(names: Sequence[bytes]) -> None:
    for name in names:
        if type(name) is not bytes:
            raise TypeError(f"a name must be bytes, not {type(name).__name__}")
        if not name or b"\0" in name:
            raise ValueError("a name is neither empty nor has it a null byte")
