"""What ties a cache to its one index, and the key of its principals. Both are random and made once.

Leases are in the index alone. Two caches with one index, or two indexes of one cache, would each take the other's
Snapshots for lost or for unused, leased ones included. So the index has an id, the cache says which index is its own
and where that is, and what does not fit is refused.
"""

from __future__ import annotations

import json
import os
import sqlite3
import stat
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from fetcher.cache.index import Index
from fetcher.cache.layout import HEX_32, Layout, disk_error, disk_errors, random_id, read_plain
from fetcher.errors import CacheError

CACHE_ID_BYTES_MAX = 64 << 10
"""Of two ids and a path, which has 4 KiB at most, escaped."""

_QUESTION = "SELECT value FROM meta WHERE name = 'index_id'"


@dataclass(frozen=True, slots=True)
class Tie:
    """What a cache says of its index."""

    index_id: str
    state_dir: str
    """``.``: the cache directory, wherever that is moved to."""


def fits(index: Index, layout: Layout) -> bool:
    """Whether this index and this cache belong together; False if ``bind`` has to write something. Raises CacheError if
    they do not."""
    tie, own = _read(layout), _id_of(index)
    if own is None:
        return False
    if tie is None or tie.index_id != own:
        raise _misfit(layout)
    return tie.state_dir == _place(layout)


def bind(index: Index, layout: Layout) -> None:
    """Tie an index without an id, or one that was moved, to this cache. Callers hold the locks of making."""
    own = _id_of(index)
    tie = _read(layout)
    if own is not None and (tie is None or tie.index_id != own):
        raise _misfit(layout)
    refuse_second(layout)
    if own is not None:
        _write(layout, own)
        return
    with index.write(durable=True) as rows:
        new = random_id()
        _write(layout, new)  # first: an index with an id always has its counterpart
        rows.execute("INSERT INTO meta VALUES ('index_id', ?)", (new,))


def refuse_second(layout: Layout) -> None:
    """Raise CacheError if this cache has an index in another state directory than ours."""
    tie = _read(layout)
    if tie is None or tie.state_dir == _place(layout):
        return
    there = layout.cache_dir / tie.state_dir
    other = there / layout.index.name
    try:
        if os.path.samestat(os.stat(other), os.stat(layout.index)):
            return  # one directory under two names
    except OSError:
        pass
    if not _may_be(other, tie.index_id):
        return
    inside = tie.state_dir == "."
    raise CacheError(
        f"the index of {layout.cache_dir} is in {layout.cache_dir if inside else there}, not in {layout.state_dir}",
        hint=("unset FETCHER_STATE_DIR" if inside else f"set FETCHER_STATE_DIR={there}")
        + f"; to keep it elsewhere, move its {layout.index.name}* files there while nobody uses the cache",
    )


def _may_be(path: Path, index_id: str) -> bool:
    """Whether an index is, for all that we can see, the one with this id."""
    try:
        os.lstat(path)
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError:
        return True
    try:
        with closing(sqlite3.connect(path.as_uri() + "?mode=ro", uri=True)) as rows:
            found = rows.execute(_QUESTION).fetchone()
    except sqlite3.Error:
        return True
    return found is not None and found[0] == index_id


def _misfit(layout: Layout) -> CacheError:
    return CacheError(
        f"the index in {layout.state_dir} is not that of the cache {layout.cache_dir}",
        hint="use the FETCHER_STATE_DIR that belongs to this cache, or another one; if the cache of that index is gone"
        f" for good, move the {layout.index.name}* files away: a new index is made from what is there",
    )


def _id_of(index: Index) -> str | None:
    with index.read() as rows:
        found = rows.execute(_QUESTION).fetchone()
    return str(found[0]) if found else None


def _place(layout: Layout) -> str:
    if layout.state_dir == layout.cache_dir:
        return "."
    place = os.path.realpath(layout.state_dir)
    return "." if place == os.path.realpath(layout.cache_dir) else place


def _read(layout: Layout) -> Tie | None:
    try:
        raw = read_plain(layout.cache_id, CACHE_ID_BYTES_MAX, own=True)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise disk_error(error, "read", layout.cache_id) from error
    try:
        value = json.loads(raw)
        tie = Tie(str(value["index_id"]), str(value["state_dir"]))
        if not HEX_32.fullmatch(tie.index_id):
            raise ValueError("it has no id")
        return tie
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise CacheError(
            f"{layout.cache_id} is damaged: {error}",
            hint=f"move it and the {layout.index.name}* files away: a new index is made from what is there",
        ) from error


def _write(layout: Layout, index_id: str) -> None:
    from fetcher.cache import durable

    unnamed = layout.cache_id.with_name(f".{layout.cache_id.name}.{os.urandom(8).hex()}")
    text = json.dumps({"index_id": index_id, "state_dir": _place(layout)}) + "\n"
    with disk_errors("write", layout.cache_id):
        try:
            durable.write_file(unnamed, [text.encode()], 0o600, sync=True)
            os.rename(unnamed, layout.cache_id)
            durable.sync_directory(layout.cache_dir)
        finally:
            durable.remove_file(unnamed)


def principal_key(path: Path, *, create: bool) -> bytes:
    """Read the key, or make it."""
    found = _read_or_make(path, lambda: os.urandom(32), create=create)
    if found is None:
        return os.urandom(32)  # nothing is stored under any principal yet
    key, status = found
    exposed = stat.S_IMODE(status.st_mode) & 0o077
    trusted = {0, os.geteuid()}
    if os.geteuid() == 0:
        trusted.add(os.stat(path.parent).st_uid)  # root may be told to use anybody's cache
    foreign = create and status.st_uid not in trusted
    if len(key) != 32 or exposed or foreign:
        raise CacheError(
            f"{path} is not the 32 secret bytes of this user that it should be",
            hint="remove it: a new one is made, and private resources are fetched once more",
        )
    return key


def _read_or_make(path: Path, make: Callable[[], bytes], *, create: bool) -> tuple[bytes, os.stat_result] | None:
    """The first bytes of a small file. Of two processes that make it, the first wins."""
    for _ in range(2):
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        except FileNotFoundError:
            if not create:
                return None
            _make(path, make())
            continue
        except OSError as error:
            raise disk_error(error, "read", path) from error
        try:
            with disk_errors("read", path):
                return os.read(descriptor, 64), os.fstat(descriptor)
        finally:
            os.close(descriptor)
    raise CacheError(f"{path} can't be made")


def _make(path: Path, content: bytes) -> None:
    from fetcher.cache import durable

    unnamed = path.with_name(f".{path.name}.{os.urandom(8).hex()}")
    with disk_errors("write", path):
        try:
            durable.write_file(unnamed, [content], 0o600, sync=True)
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
