"""Opening a cache: directories, file system, index, key. What is missing is made once, by one process at a time.

On the hit path, so only what a cache that exists already needs is imported at the top.
"""

from __future__ import annotations

import os
import sqlite3
import stat
from collections.abc import Callable
from pathlib import Path

from fetcher.cache import index as index_room
from fetcher.cache import mounts
from fetcher.cache.index import Index
from fetcher.cache.layout import Layout, disk_error, disk_errors
from fetcher.cache.records import Recovery
from fetcher.errors import CacheError


def to_write(layout: Layout, clock: Callable[[], float]) -> tuple[Index, Recovery]:
    """The index, made (or made anew) if need be."""
    mounts.refuse_network(layout.state_dir)
    try:
        version = index_room.version_of(layout.index)
    except sqlite3.Error as error:
        if not index_room.is_damage(error):
            raise index_room.renamed(error, layout.index) from error
        version = None
    if version is None:
        recovery = _make_index(layout, clock)
    else:
        index_room.check_version(layout.index, version)
        recovery = Recovery()
    return Index(layout.index), recovery


def _make_index(layout: Layout, clock: Callable[[], float]) -> Recovery:
    """Create the index, one process at a time; adopt what the sidecars tell."""
    import fcntl

    from fetcher.cache.recovery import adopt_all

    mounts.probe_locks(layout.state_dir, layout.cache_dir)
    with disk_errors("lock", layout.index_lock):
        guard = os.open(layout.index_lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        os.fchmod(guard, 0o600)
    try:
        with disk_errors("lock", layout.index_lock):
            fcntl.flock(guard, fcntl.LOCK_EX)
        try:
            version = index_room.version_of(layout.index)
        except sqlite3.Error as error:
            if not index_room.is_damage(error):
                raise index_room.renamed(error, layout.index) from error
            index_room.set_aside(layout.index, clock())
            version = None
        if version is not None:  # another process was faster
            index_room.check_version(layout.index, version)
            return Recovery()
        unnamed = index_room.create(layout.index)
        index = Index(unnamed)
        try:
            recovery = adopt_all(index, layout, clock())
        finally:
            index.close()
        index_room.give_name(unnamed, layout.index)
        return recovery
    finally:
        os.close(guard)


def to_look(layout: Layout, clock: Callable[[], float]) -> tuple[Index, Recovery]:
    """The index as it is; without one, what the sidecars tell, in memory."""
    if layout.cache_dir.exists() and not layout.cache_dir.is_dir():
        raise CacheError(f"the cache {layout.cache_dir} is a file", hint="use another one with --cache-dir")
    try:
        version = index_room.version_of(layout.index)
    except sqlite3.Error as error:
        raise index_room.renamed(error, layout.index) from error
    if version is not None:
        index_room.check_version(layout.index, version)
        return Index(layout.index, read_only=True), Recovery()
    index = Index(None)
    if not layout.snapshots.is_dir():
        return index, Recovery()
    from fetcher.cache.recovery import adopt_all

    return index, adopt_all(index, layout, clock())


def principal_key(path: Path, *, create: bool) -> bytes:
    """Read the key, or make it; of two processes that make one, the first wins."""
    from fetcher.cache import durable

    for _ in range(2):
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        except FileNotFoundError:
            if not create:
                return os.urandom(32)  # nothing is stored under any principal yet
            unnamed = path.with_name(f".{path.name}.{os.urandom(8).hex()}")
            with disk_errors("write", path):
                try:
                    durable.write_file(unnamed, [os.urandom(32)], 0o600, sync=True)
                    try:
                        os.link(unnamed, path)
                    except FileExistsError:
                        pass
                    except OSError as error:
                        if error.errno not in durable.NOT_LINKABLE:
                            raise
                        os.rename(unnamed, path)
                    durable.sync_directory(path.parent)
                finally:
                    durable.remove_file(unnamed)
            continue
        except OSError as error:
            raise disk_error(error, "read", path) from error
        try:
            key = os.read(descriptor, 64)
            exposed = stat.S_IMODE(os.fstat(descriptor).st_mode) & 0o077
        finally:
            os.close(descriptor)
        if len(key) != 32 or exposed:
            raise CacheError(
                f"{path} is not the 32 secret bytes that it should be",
                hint="remove it: a new one is made, and private resources are fetched once more",
            )
        return key
    raise CacheError(f"{path} can't be made")
