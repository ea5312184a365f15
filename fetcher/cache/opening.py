"""Opening a cache: file system, index, and whether the index is of this cache. What is missing is made once, by one
process at a time.

On the hit path, so only what a cache that exists already needs is imported at the top.
"""

from __future__ import annotations

import errno
import os
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from time import sleep

from fetcher.cache import identity, mounts, spare, timekeeping
from fetcher.cache import index as index_room
from fetcher.cache.clock import Clock
from fetcher.cache.index import Index
from fetcher.cache.layout import Layout, disk_errors, refuse_foreign, refuse_foreign_file
from fetcher.cache.records import Recovery
from fetcher.errors import CacheError

LOOK_EVERY_S = 0.05
"""How often whoever waits for a lock of making tries to have it."""
BEAT_EVERY_S = 5.0
"""How often whoever has it shows that he is at work: making an index anew may take minutes."""
FROZEN_AFTER_S = 120.0
"""Without such a sign for so long he is stopped. Network file systems may show times a minute late."""


def to_write(layout: Layout, clock: Clock) -> tuple[Index, Recovery]:
    """The index, made (or made anew) if need be."""
    mounts.refuse_network(layout.state_dir)
    spare.keep(layout)
    for suffix in ("", "-wal", "-shm"):
        refuse_foreign_file(f"{layout.index}{suffix}")
    version = _version(layout)
    if version is None or index_room.is_outdated(layout.index, version):
        recovery = _make_index(layout, clock)
    else:
        recovery = Recovery()
    index = Index(layout.index)
    try:
        if not identity.fits(index, layout):  # moved, or made before there were ids
            with _locks_of_making(layout):
                identity.bind(index, layout)
        timekeeping.settle(index, clock)
    except BaseException:
        index.close()
        raise
    return index, recovery


def _version(layout: Layout) -> int | None:
    """Schema version of the index; None if there is no usable one."""
    try:
        version = index_room.version_of(layout.index)
        suspected = version is not None and os.path.lexists(f"{layout.index}{index_room.SUSPECT}")
        return None if suspected and not index_room.is_sound(layout.index) else version
    except sqlite3.Error as error:
        if not index_room.is_damage(error):
            raise index_room.renamed(error, layout.index) from error
        return None


def _make_index(layout: Layout, clock: Clock) -> Recovery:
    """Create the index, one process at a time; adopt what the sidecars tell."""
    from fetcher.cache import due, lock_probe
    from fetcher.cache.recovery import adopt_all, forget_nameless
    from fetcher.cache.salvage import carry_closed, carry_over

    locks_hold = lock_probe.probe_locks(layout.state_dir, layout.cache_dir)
    with _locks_of_making(layout), ExitStack() as stack:
        version = _version(layout)
        outdated = version is not None and index_room.is_outdated(layout.index, version)
        if version is not None and not outdated:  # another process was faster
            return Recovery()
        identity.refuse_second(layout)
        if version is None and index_room.finish(layout.index, clock()):  # somebody came as far as to set the old aside
            return Recovery()
        old = layout.index if os.path.lexists(layout.index) else None
        if old is not None:
            stack.enter_context(_kept_still(old))
        unnamed = index_room.create(layout.index)
        index = Index(unnamed)
        try:
            identity.bind(index, layout)
            if not locks_hold:
                with index.write(durable=True) as rows:
                    rows.execute("INSERT OR REPLACE INTO meta VALUES ('locks', 'untrusted')")
            if old is None and _holds_nothing(layout):
                with index.write(durable=False) as rows:
                    due.collected(rows, clock())
            if old is not None:
                carry_closed(old, index)
            recovery = adopt_all(index, layout, clock)
            if old is not None:
                pins, leases, hidden = carry_over(old, index, layout, clock)
                recovery = replace(recovery, outdated=outdated, pins=pins, leases=leases)
                recovery = replace(recovery, refused=tuple(one for one in recovery.refused if one not in hidden))
            forget_nameless(index, layout, recovery.refused, clock())
        finally:
            index.close()
        # Only now does the old one go, so that whoever is killed before leaves it to be read once more.
        set_aside = index_room.replace(unnamed, layout.index, clock())
        return replace(recovery, set_aside=set_aside)


@contextmanager
def _kept_still(old: Path) -> Iterator[None]:
    """Inside, nobody writes to an index that is about to be set aside, as far as it can be locked at all. What was
    written before is taken over; who waits to write finds that it is the index no longer."""
    rows = sqlite3.connect(old.as_uri() + "?mode=rw", uri=True, timeout=index_room.BUSY_TIMEOUT_S, isolation_level=None)
    try:
        try:
            rows.execute("BEGIN IMMEDIATE")
        except sqlite3.Error as error:
            if index_room.is_busy(error):
                raise index_room.renamed(error, old) from error
        yield
    finally:
        rows.close()


def _holds_nothing(layout: Layout) -> bool:
    """Whether nobody has left anything here that could be garbage: a cache that is made now."""
    with disk_errors("look into", layout.cache_dir):
        return not any(os.listdir(bucket) for bucket in layout.buckets if os.path.isdir(bucket))


def locks_trusted(index: Index, layout: Layout) -> bool:
    """Whether a flock in the cache directory proves that its holder lives: it did when the index was made, and this is
    no file system that other machines see."""
    with index.read() as rows:
        found = rows.execute("SELECT value FROM meta WHERE name = 'locks'").fetchone()
    return (found is None or found[0] != "untrusted") and not mounts.is_network(layout.cache_dir)


@contextmanager
def _locks_of_making(layout: Layout) -> Iterator[None]:
    """Against those who would make this index, and those who would make another one for this cache."""
    with ExitStack() as stack:
        for place in (layout.index_lock, layout.cache_lock):
            refuse_foreign_file(place)
            with disk_errors("lock", place):
                guard = os.open(place, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
                stack.callback(os.close, guard)
                refuse_foreign(place, os.fstat(guard))  # made between that look and ours, in a directory like /tmp
                os.fchmod(guard, 0o600)
                _lock(guard, place)
            stack.enter_context(_beating(guard))
        yield


def _lock(guard: int, place: Path) -> None:
    """Wait as long as the holder is at work. Raises CacheError for one that is stopped: it would keep us for ever."""
    import fcntl

    beat_ns, looks = os.fstat(guard).st_mtime_ns, 0
    # Looks are counted, not seconds: whoever was stopped together with the holder has not waited.
    while looks <= FROZEN_AFTER_S / LOOK_EVERY_S:
        try:
            fcntl.flock(guard, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except OSError as error:
            if error.errno not in (errno.EWOULDBLOCK, errno.EACCES):
                raise
        sleep(LOOK_EVERY_S)
        before, beat_ns = beat_ns, os.fstat(guard).st_mtime_ns
        looks = looks + 1 if beat_ns == before else 0
    raise CacheError(
        f"another process makes the index and is frozen: it has {place} locked",
        hint="find that process and let it go on, or end it",
    )


@contextmanager
def _beating(guard: int) -> Iterator[None]:
    """Inside, the time of a locked file moves, for those who wait."""
    ended = threading.Event()

    def beat() -> None:
        while not ended.wait(BEAT_EVERY_S):
            try:
                os.utime(guard)
            except OSError:
                continue  # a full or failing disk; we try again

    thread = threading.Thread(target=beat, name="fetcher-making", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def to_look(layout: Layout, clock: Clock) -> tuple[Index, Recovery]:
    """The index as it is; without one, what the sidecars tell, in memory."""
    if layout.cache_dir.exists() and not layout.cache_dir.is_dir():
        raise CacheError(f"the cache {layout.cache_dir} is a file", hint="use another one with --cache-dir")
    spare.give_up_if_full(layout)
    try:
        version = index_room.version_of(layout.index)
    except sqlite3.Error as error:
        raise index_room.renamed(error, layout.index) from error
    if version is not None and not index_room.is_outdated(layout.index, version):
        index = Index(layout.index, read_only=True)
        try:
            identity.fits(index, layout)
        except BaseException:
            index.close()
            raise
        return index, Recovery()
    identity.refuse_second(layout)
    index = Index(None)
    if not layout.snapshots.is_dir():
        return index, Recovery()
    from fetcher.cache.recovery import adopt_all

    return index, adopt_all(index, layout, clock)
