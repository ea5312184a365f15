"""The index: SQLite in WAL mode, its connections and its transactions. Knows durability and locks, not what rows mean.

Three rules for callers:

- A write is ``with index.write(durable=…) as rows:`` and is one ``BEGIN IMMEDIATE``. It is also the cache's mutex:
  names that rows speak of (a Snapshot's directory, a Blob) appear and go only inside one, so that no two processes ever
  disagree on them.
- ``durable=True`` (publish, pin, reserve, condemn) survives a power cut when the block is left; otherwise (leases, last
  use) only a crash.
- Never open a second transaction inside one; hand the connection on.
"""

from __future__ import annotations

import os
import sqlite3
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from fetcher.cache.layout import NO_SPACE_ERRNOS, disk_error, disk_errors, newer_format
from fetcher.cache.records import ReplacedError
from fetcher.cache.schema import APPLICATION_ID, SCHEMA, SCHEMA_VERSION
from fetcher.errors import CacheError, FetcherError, NoSpaceError

BUSY_TIMEOUT_S = 30.0
"""How long a writer waits for others. Transactions take milliseconds; longer means that a process is frozen in one."""

NEEDED_BYTES = 64 << 10
"""With less free space SQLite can't grow the smallest of its files."""

BULK_PLACEHOLDERS = 999
"""Of one statement that inserts: any SQLite takes so many."""
BULK_VALUES = 512
"""Looked for with one statement."""

READY = ".ready"
"""After the name of a database: complete, and about to get that name."""
SUSPECT = ".suspect"
"""After the name of a database: somebody has met damage in it."""
INDEX_FILES = "files index-v1.sqlite, index-v1.sqlite-wal and index-v1.sqlite-shm"


class Rows(sqlite3.Connection):
    """A connection that remembers how durable its commits are."""

    durable: bool | None = None


class Index:
    """A pool of connections to one database. Thread-safe; a connection is used by one thread at a time."""

    def __init__(self, path: Path | None, *, read_only: bool = False) -> None:
        """``path`` must hold a database of our schema; None: an empty one in memory (to look, not to keep)."""
        self.read_only = read_only
        self._path = path
        self._file = None if path is None else _file_at(path)
        self._idle: list[Rows] = []
        self._all: list[Rows] = []
        self._lock = threading.Lock()
        self._closed = False
        self._process_id = os.getpid()
        if path is None:
            # All connections to this name see one database, which lives as long as one of them is open.
            self._target = f"file:fetcher-{os.urandom(8).hex()}?mode=memory&cache=shared"
            with self.read() as rows:
                rows.executescript(SCHEMA)
        else:
            self._target = path.as_uri() + ("?mode=ro" if read_only else "?mode=rw")

    def _connect(self) -> Rows:
        rows = sqlite3.connect(
            self._target,
            uri=True,
            timeout=BUSY_TIMEOUT_S,
            isolation_level=None,  # transactions begin where we say, never by themselves
            check_same_thread=False,  # the pool hands a connection to one thread at a time
            factory=Rows,
        )
        rows.execute("PRAGMA foreign_keys=ON")
        return rows

    def _take(self) -> Rows:
        with self._lock:
            if self._closed:
                raise CacheError("the cache was closed")
            if self._process_id != os.getpid():
                # A connection must not cross fork(): both sides would share locks and file offsets.
                raise CacheError("this cache was opened before a fork; open it again in the new process")
            if self._idle:
                return self._idle.pop()
        rows = self._connect()
        with self._lock:
            self._all.append(rows)
        return rows

    def _give(self, rows: Rows) -> None:
        with self._lock:
            if not self._closed:
                self._idle.append(rows)
                return
        rows.close()

    @contextmanager
    def read(self) -> Iterator[Rows]:
        """A connection for SELECTs outside any transaction: each sees the latest committed state."""
        try:
            rows = self._take()
            try:
                self._refuse_replaced()
                yield rows
            finally:
                self._give(rows)
        except sqlite3.Error as error:
            raise self._renamed(error) from error

    @contextmanager
    def write(self, *, durable: bool, wait: bool = True, references_hold: bool = False) -> Iterator[Rows]:
        """One transaction: committed when the block is left, rolled back when it is left by an exception.

        Without ``wait`` it raises CacheError at once where another writer is at work. ``references_hold``: it only
        inserts, and what its rows refer to it has inserted itself before; SQLite need not look for each of them.
        """
        try:
            rows = self._take()
            try:
                if rows.durable is not durable:
                    rows.execute(f"PRAGMA synchronous={'FULL' if durable else 'NORMAL'}")
                    rows.durable = durable
                if not wait:
                    rows.execute("PRAGMA busy_timeout=0")
                if references_hold:
                    rows.execute("PRAGMA foreign_keys=OFF")
                try:
                    rows.execute("BEGIN IMMEDIATE")
                finally:
                    if not wait:
                        rows.execute(f"PRAGMA busy_timeout={int(BUSY_TIMEOUT_S * 1000)}")
                try:
                    self._refuse_replaced()  # now that nobody can replace it: see ``opening``
                    yield rows
                    rows.execute("COMMIT")
                except BaseException:
                    if rows.in_transaction:
                        rows.rollback()
                    raise
            finally:
                if references_hold:
                    rows.execute("PRAGMA foreign_keys=ON")  # of no effect within a transaction, so after it
                self._give(rows)
        except sqlite3.Error as error:
            raise self._renamed(error) from error

    def _refuse_replaced(self) -> None:
        """Raise ReplacedError if what we have open is the index no longer: nobody would know of our leases."""
        if self._path is not None and _file_at(self._path) != self._file:
            raise ReplacedError(
                f"the index {self._path} was made anew by another process, or removed",
                hint="end this program and start it again; jobs and resources are in the new index",
            )

    def heir(self) -> Index | None:
        """After ReplacedError: what has the name now, to be closed; None if it is nothing that we may write to."""
        assert self._path is not None
        try:
            version = version_of(self._path)
        except (CacheError, sqlite3.Error):
            return None
        return Index(self._path, read_only=self.read_only) if version == SCHEMA_VERSION else None

    def close(self) -> None:
        """Close all idle connections; one still in use closes when it is given back. May be called again."""
        with self._lock:
            self._closed = True
            idle, self._idle, self._all = self._idle, [], []
        if self._process_id == os.getpid():
            for rows in idle:
                rows.close()

    def is_sound(self) -> bool:
        """SQLite's own check, over all of it."""
        try:
            with self.read() as rows:
                sound = bool(rows.execute("PRAGMA integrity_check(1)").fetchone() == ("ok",))
        except CacheError as error:
            if isinstance(error.__cause__, sqlite3.Error) and is_damage(error.__cause__):
                return False
            raise
        if not sound and self._path is not None and not self.read_only:
            suspect(self._path)
        return sound

    def _renamed(self, error: sqlite3.Error) -> FetcherError:
        if is_damage(error) and self._path is not None and not self.read_only:
            suspect(self._path)
        return renamed(error, self._path or "the index in memory")


def _file_at(path: Path) -> tuple[int, int] | None:
    """Which file has this name."""
    try:
        status = os.stat(path)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise disk_error(error, "look at", path) from error
    return status.st_dev, status.st_ino


def insert_many(
    rows: Rows | sqlite3.Connection, into: str, values: Sequence[tuple[object, ...]], then: str = ""
) -> None:
    """``INSERT … INTO table (…) VALUES`` of many rows with few statements: sqlite3 gives the GIL away for each one, and
    beside a busy event loop it is long in coming back. ``then``: what follows the rows, as ``ON CONFLICT …``."""
    if not values:
        return
    row = f"({', '.join('?' * len(values[0]))})"
    at_once = BULK_PLACEHOLDERS // len(values[0])
    for start in range(0, len(values), at_once):
        part = values[start : start + at_once]
        rows.execute(f"{into} VALUES {', '.join([row] * len(part))} {then}", [value for one in part for value in one])


def select_many(
    rows: Rows | sqlite3.Connection, select: str, wanted: Sequence[str], *arguments: object
) -> list[tuple[Any, ...]]:
    """All rows of a SELECT, or of a DELETE, that ends with ``… IN``, for any number of values; ``arguments`` are those
    of the placeholders before."""
    found: list[tuple[Any, ...]] = []
    for start in range(0, len(wanted), BULK_VALUES):
        part = wanted[start : start + BULK_VALUES]
        found += rows.execute(f"{select} ({', '.join('?' * len(part))})", (*arguments, *part)).fetchall()
    return found


def renamed(error: sqlite3.Error, place: Path | str) -> FetcherError:
    """SQLite's error as one of ours."""
    code = (getattr(error, "sqlite_errorcode", None) or 0) & 0xFF
    message = f"the index {place} can't be used: {error}"
    unclear = code in (sqlite3.SQLITE_IOERR, sqlite3.SQLITE_CANTOPEN)
    full = unclear and isinstance(place, Path) and is_full(place.parent)
    if code == sqlite3.SQLITE_FULL or full:
        # The spare is gone by now, so prune alone would meet the same wall.
        return NoSpaceError(
            message,
            hint="remove something else from that file system, a megabyte will do; then `fetcher prune` can free more",
        )
    if is_busy(error):
        return CacheError(message, hint="another process is frozen while it writes to the index; find and end it")
    if code in (sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_PERM, sqlite3.SQLITE_AUTH):
        return CacheError(message, hint="the state directory must be writable by this user (FETCHER_STATE_DIR)")
    if is_damage(error):
        return CacheError(message, hint="run the command again: the index is made anew from what is in the cache")
    return CacheError(message)


def is_full(directory: Path) -> bool:
    """No byte is left for us. SQLite calls it an I/O error when it can't grow its shared memory file, and whenever a
    quota refuses a write."""
    try:
        room = os.statvfs(directory)
    except OSError:
        return False
    return room.f_bavail * room.f_frsize < NEEDED_BYTES or _refuses_bytes(directory)


def _refuses_bytes(directory: Path) -> bool:
    """Try it: statvfs(2) knows nothing of users' quotas. The file has no name and is gone when it is closed."""
    try:
        descriptor = os.open(directory, os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, 0o600)
    except OSError as error:
        return error.errno in NO_SPACE_ERRNOS
    try:
        os.posix_fallocate(descriptor, 0, NEEDED_BYTES)
    except OSError as error:
        return error.errno in NO_SPACE_ERRNOS
    finally:
        os.close(descriptor)
    return False


def is_damage(error: sqlite3.Error) -> bool:
    """Whether the file is not (or no longer) a database."""
    code = (getattr(error, "sqlite_errorcode", None) or 0) & 0xFF
    return code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_FORMAT)


def is_busy(error: sqlite3.Error) -> bool:
    """Whether somebody else has it, and had it for as long as we wait."""
    code = (getattr(error, "sqlite_errorcode", None) or 0) & 0xFF
    return code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)


def version_of(path: Path) -> int | None:
    """Schema version of a database file; None if there is none yet. Raises sqlite3.Error for a damaged one."""
    try:
        if not path.stat().st_size:
            return None
    except FileNotFoundError:
        return None
    rows = sqlite3.connect(path.as_uri() + "?mode=rw", uri=True, timeout=BUSY_TIMEOUT_S, isolation_level=None)
    try:
        version = int(rows.execute("PRAGMA user_version").fetchone()[0])
        if version and not rows.execute("SELECT 1 FROM sqlite_master WHERE name='snapshots'").fetchone():
            raise CacheError(f"{path} is not an index of fetcher", hint=f"move the {INDEX_FILES} away")
        return version or None
    finally:
        rows.close()


def suspect(path: Path) -> None:
    """Leave word that this database was found damaged in use: whoever opens it next looks at all of it. Under our feet
    it can't be made anew."""
    try:
        os.close(os.open(f"{path}{SUSPECT}", os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600))
    except OSError:
        pass  # the next one meets the same damage


def is_sound(path: Path) -> bool:
    """Look at all of a database that is suspected; only a sound one is cleared of it."""
    try:
        rows = sqlite3.connect(path.as_uri() + "?mode=rw", uri=True, timeout=BUSY_TIMEOUT_S, isolation_level=None)
        try:
            sound = bool(rows.execute("PRAGMA integrity_check(1)").fetchone() == ("ok",))
        finally:
            rows.close()
    except sqlite3.Error as error:
        if not is_damage(error):
            raise
        return False
    if sound:
        forget_suspicion(path)
    return sound


def forget_suspicion(path: Path) -> None:
    try:
        os.unlink(f"{path}{SUSPECT}")
    except FileNotFoundError:
        pass


def create(path: Path) -> Path:
    """Make an empty database of our schema beside ``path`` and return its place; ``replace`` moves it there.

    Whoever opens ``path`` finds nothing, or all of it. Callers hold the lock of making.
    """
    unnamed = path.with_name(f"{path.name}.new")
    with disk_errors("create", path):
        for suffix in ("", "-wal", "-shm", "-journal"):
            try:
                os.unlink(f"{unnamed}{suffix}")
            except FileNotFoundError:
                pass
        descriptor = os.open(unnamed, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        os.fchmod(descriptor, 0o600)  # SQLite gives its -wal and -shm files the same mode
        os.close(descriptor)
    try:
        rows = sqlite3.connect(unnamed, isolation_level=None)
        try:
            rows.execute("PRAGMA journal_mode=WAL")
            rows.execute("PRAGMA synchronous=FULL")
            rows.executescript(
                f"BEGIN;{SCHEMA};PRAGMA application_id={APPLICATION_ID};PRAGMA user_version={SCHEMA_VERSION};COMMIT;"
            )
        finally:
            rows.close()
    except sqlite3.Error as error:
        raise renamed(error, path) from error
    return unnamed


def replace(unnamed: Path, path: Path, now: float) -> Path | None:
    """Name a database that ``create`` made, once all connections to it are closed: the last folds its log into it. What
    has the name now is set aside; returns its new name, if there was one.

    Whoever is killed between leaves the complete one as ``.ready``, for ``finish``. Callers hold the lock of making.
    """
    from fetcher.cache.durable import sync_directory

    ready = path.with_name(f"{path.name}{READY}")
    with disk_errors("create", path):
        if os.path.exists(f"{unnamed}-wal"):
            raise CacheError(f"{unnamed} is still open")
        os.rename(unnamed, ready)
        sync_directory(path.parent)
        set_aside = _set_aside(path, now)
        os.rename(ready, path)
        sync_directory(path.parent)
    return set_aside


def finish(path: Path, now: float) -> bool:
    """Name what ``replace`` left, if it came as far as to set the old one aside. True: there is an index now."""
    from fetcher.cache.durable import sync_directory

    ready = path.with_name(f"{path.name}{READY}")
    with disk_errors("create", path):
        if not os.path.lexists(ready):
            return False
        if os.path.lexists(path):  # that one may have been written to since
            os.unlink(ready)
            return False
        _set_aside(path, now)  # its log may be there still
        os.rename(ready, path)
        sync_directory(path.parent)
    return True


def is_outdated(path: Path, version: int) -> bool:
    """Whether an older version wrote it: it is made anew then. Raises CacheError for what a newer one wrote."""
    if version > SCHEMA_VERSION:
        raise newer_format(path)
    return version < SCHEMA_VERSION


def _set_aside(path: Path, now: float) -> Path | None:
    """Move a database that can't be used, with its log or what is left of it, out of the way; nothing is deleted.
    Returns its new name, if there was one.

    The log goes last: without its database it is never read, the other way round it would be missed. Also where only
    the log is left: SQLite would replay it into whatever has the name next.
    """
    target = path.with_name(f"{path.name}.aside-{int(now)}-{os.urandom(4).hex()}")
    moved = False
    for suffix in ("", "-shm", "-wal"):
        try:
            os.rename(f"{path}{suffix}", f"{target}{suffix}")
            moved = moved or not suffix
        except FileNotFoundError:
            continue
    forget_suspicion(path)
    return target if moved else None
