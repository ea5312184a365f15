"""Where the space went: allocated bytes by kind, each body counted once however many names it has."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from fetcher.cache.layout import disk_errors
from fetcher.cache.records import Usage

if TYPE_CHECKING:
    from fetcher.cache.store import Cache


def measure(cache: Cache) -> Usage:
    """Walk the cache. What other processes remove meanwhile is simply not counted."""
    layout = cache.layout
    seen: set[tuple[int, int]] = set()
    blob_bytes = _allocated(layout.blobs, seen)
    partial_bytes = _allocated(layout.partials, seen)
    snapshot_bytes = _allocated(layout.snapshots, seen)
    place = layout.cache_dir
    while not place.exists() and place != place.parent:
        place = place.parent
    with disk_errors("look at", place):
        status = os.statvfs(place)
    with cache.index.read() as rows:
        blobs, snapshots, reserved = (
            int(rows.execute(question).fetchone()[0])
            for question in (
                "SELECT COUNT(*) FROM blobs",
                "SELECT COUNT(*) FROM snapshots",
                "SELECT COALESCE(SUM(bytes), 0) FROM reservations",
            )
        )
    try:
        partials = sum(1 for name in os.listdir(layout.partials) if not name.startswith("."))
    except FileNotFoundError:
        partials = 0
    return Usage(
        blob_bytes=blob_bytes,
        partial_bytes=partial_bytes,
        snapshot_bytes=snapshot_bytes,
        index_bytes=cache.index.bytes_on_disk(),
        total_bytes=status.f_blocks * status.f_frsize,
        free_bytes=status.f_bavail * status.f_frsize,
        reserved_bytes=reserved,
        snapshots=snapshots,
        blobs=blobs,
        partials=partials,
        leases=len(cache.leases()),
        pins=len(cache.pins()),
    )


def _allocated(top: Path, seen: set[tuple[int, int]]) -> int:
    total = 0
    pending = [str(top)]
    while pending:
        try:
            with os.scandir(pending.pop()) as entries:
                listed = list(entries)
        except (FileNotFoundError, NotADirectoryError):
            continue
        for entry in listed:
            try:
                status = entry.stat(follow_symlinks=False)
            except FileNotFoundError:
                continue
            if entry.is_dir(follow_symlinks=False):
                pending.append(entry.path)
            elif (status.st_dev, status.st_ino) in seen:
                continue
            elif status.st_nlink > 1:
                seen.add((status.st_dev, status.st_ino))
            total += status.st_blocks * 512
    return total
