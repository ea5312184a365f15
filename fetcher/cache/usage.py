"""Where the space went: allocated bytes by kind, each body counted once however many names it has."""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from fetcher.cache.layout import Layout, disk_errors
from fetcher.cache.records import Usage
from fetcher.cache.writable import copies

if TYPE_CHECKING:
    from fetcher.cache.store import Cache

_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


@dataclass(frozen=True, slots=True)
class _Parts:
    """Allocated bytes by kind."""

    blobs: int
    partials: int
    snapshots: int
    copies: int
    index: int
    other: int


def used_bytes(layout: Layout) -> int:
    """All that the cache takes: what a quota is about. Walks it, like ``du``, and nothing but it."""
    parts = _measure(layout)
    return parts.blobs + parts.partials + parts.snapshots + parts.copies + parts.index + parts.other


def _measure(layout: Layout) -> _Parts:
    seen: set[tuple[int, int]] = set()
    ours = (
        layout.cache_dir,
        layout.cache_dir / "CACHEDIR.TAG",
        layout.cache_id,
        layout.cache_lock,
        layout.blobs,
        layout.partials,
        layout.snapshots,
        layout.writable,
        layout.owners,
        layout.markets,
        layout.index_lock,
        layout.principal_key,
        layout.spare,
    )
    # In the order in which bytes move: what gets its next name while we walk is met again, and counted once.
    partials = allocated(layout.partials, seen)
    blobs = allocated(layout.blobs, seen)
    snapshots = allocated(layout.snapshots, seen)
    return _Parts(
        blobs=blobs,
        partials=partials,
        snapshots=snapshots,
        copies=allocated(layout.writable, seen),
        index=_index_bytes(layout),
        other=sum(map(_own_bytes, ours)) + allocated(layout.owners, seen) + allocated(layout.markets, seen),
    )


def _index_bytes(layout: Layout) -> int:
    """The database, its log, one that is being made, and those that were set aside."""
    try:
        names = os.listdir(layout.state_dir)
    except OSError:
        return 0
    return sum(_own_bytes(layout.state_dir / name) for name in names if name.startswith(layout.index.name))


def _own_bytes(path: Path) -> int:
    try:
        return os.lstat(path).st_blocks * 512
    except OSError:
        return 0


def measure(cache: Cache) -> Usage:
    """Walk the cache. What other processes remove meanwhile is simply not counted."""
    layout = cache.layout
    parts = _measure(layout)
    place = layout.cache_dir
    while not place.exists() and place != place.parent:
        place = place.parent
    with disk_errors("look at", place):
        status = os.statvfs(place)
    with cache.index.read() as rows:
        blobs, snapshots = (
            int(rows.execute(f"SELECT COUNT(*) FROM {table}").fetchone()[0]) for table in ("blobs", "snapshots")
        )
    with disk_errors("look into", layout.partials):
        try:
            partials = sum(1 for name in os.listdir(layout.partials) if not name.startswith("."))
        except FileNotFoundError:
            partials = 0
    return Usage(
        blob_bytes=parts.blobs,
        partial_bytes=parts.partials,
        snapshot_bytes=parts.snapshots,
        copy_bytes=parts.copies,
        index_bytes=parts.index,
        other_bytes=parts.other,
        quota_bytes=cache.settings.quota_bytes,
        total_bytes=status.f_blocks * status.f_frsize,
        free_bytes=status.f_bavail * status.f_frsize,
        reserved_bytes=cache.undrawn_bytes(),
        snapshots=snapshots,
        blobs=blobs,
        partials=partials,
        copies=len(copies(layout)),
        leases=len(cache.leases()),
        pins=len(cache.pins()),
    )


def allocated(top: Path, seen: set[tuple[int, int]], *, last_names_only: bool = False) -> int:
    """Bytes below a directory. ``seen`` holds the bodies that were met, so that each counts once;
    ``last_names_only``: they count for nothing, because they stay under their other names, nor do folders.

    Jobs write into private copies, so a folder is opened by its name in its parent, never through a symlink, and may
    lie deeper than paths and descriptors reach: one is open at a time, and the way back is ``..``, if that is still
    where we came from. What is gone, closed to us or moved meanwhile is not counted.
    """
    try:
        here = os.open(top, _FOLDER)
    except OSError:
        return 0
    total = 0
    way: list[tuple[tuple[int, int], list[str]]] = []
    """From the top to where we are: which folder that is, and the names in it still to be entered."""
    try:
        total += _enter(here, seen, way, last_names_only)
        while way:
            if way[-1][1]:
                try:
                    below = os.open(way[-1][1].pop(), _FOLDER, dir_fd=here)
                except OSError:
                    continue
                os.close(here)
                here = below
                total += _enter(here, seen, way, last_names_only)
                continue
            way.pop()
            if way:
                above = os.open("..", _FOLDER, dir_fd=here)
                os.close(here)
                here = above
                if _identity(os.fstat(here)) != way[-1][0]:
                    break
    except OSError:
        pass
    finally:
        os.close(here)
    return total


def _enter(
    here: int, seen: set[tuple[int, int]], way: list[tuple[tuple[int, int], list[str]]], last_names_only: bool
) -> int:
    """Bytes of what is in a folder; its own folders are left for later."""
    total = 0
    folders: list[str] = []
    way.append((_identity(os.fstat(here)), folders))
    with os.scandir(here) as entries:
        for entry in entries:
            try:
                status = entry.stat(follow_symlinks=False)
            except FileNotFoundError:
                continue
            if stat.S_ISDIR(status.st_mode):
                folders.append(entry.name)
                if last_names_only:
                    continue
            elif _identity(status) in seen or (last_names_only and status.st_nlink > 1):
                continue
            else:
                seen.add(_identity(status))
            total += status.st_blocks * 512
    return total


def _identity(status: os.stat_result) -> tuple[int, int]:
    return status.st_dev, status.st_ino
