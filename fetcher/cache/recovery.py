"""A new index from the sidecars, when there is none or it is damaged. The index is a cache of what the disk says.

Only Snapshots are adopted whose sidecar is whole and whose every file is there with its size: their directory was
renamed after all of it was durable. One that was found damaged has no sidecar any more. Blobs are adopted as far as
such a Snapshot refers to them. Times of use, leases, pins and revalidations are lost; so ``keep_for`` starts anew,
because somebody may be using what is there. For the same reason a private copy gets a lease of the id that it is named
by, until it would have ended by default. A directory without its sidecar is nobody's any more: its name goes at once,
its bytes after gc's grace. Bodies that no Snapshot refers to are adopted if their trees prove them (``adoption.py``).
"""

from __future__ import annotations

import errno
import os
import sqlite3
import stat
from collections.abc import Sequence
from dataclasses import replace
from math import isfinite
from pathlib import Path
from typing import Any

from fetcher.cache.adoption import adopt_blobs
from fetcher.cache.blobs import insert_blob, scope_of
from fetcher.cache.clock import Clock
from fetcher.cache.index import Index, Rows
from fetcher.cache.layout import (
    HEX_64,
    KIND_ERRNOS,
    MEDIA_ERRNOS,
    MISSING_ERRNOS,
    Layout,
    disk_error,
    disk_errors,
)
from fetcher.cache.leases import insert_lease
from fetcher.cache.publish import insert_snapshot
from fetcher.cache.records import NOBODY, Lease, NewSnapshot, Recovery, SnapshotFile
from fetcher.cache.snapshots import ODD_JSON, SidecarError, files_of, read_sidecar, snapshot_id
from fetcher.cache.writable import copies, lease_of
from fetcher.errors import CacheError
from fetcher.model.manifest import FileEntry
from fetcher.model.paths import path_fault

COPY_LEASE_S = 86_400.0
"""What a job's lease lasts by default: longer than this, most of those that were lost would not have lasted."""

_FAULTS = MISSING_ERRNOS | KIND_ERRNOS | MEDIA_ERRNOS | {errno.ENAMETOOLONG}
"""What the disk says of a file that is not what its sidecar tells. Anything else is no fault of the Snapshot."""

BATCH = 500
"""Snapshots per transaction."""


def adopt_all(index: Index, layout: Layout, clock: Clock) -> Recovery:
    """Fill an empty index. Nothing else on disk is changed."""
    try:
        return _adopt_all(index, layout, clock)
    except CacheError as error:
        denied = error.__cause__
        if isinstance(denied, PermissionError) and isinstance(denied.filename, str):
            folder = _closed_folder(Path(denied.filename))
            if any(bucket in folder.parents for bucket in layout.buckets):  # down there all is ours
                error.hint = (
                    f"let this user into {folder} again (chown, chmod u+rwx), or remove it: what it held is fetched"
                    " again when somebody asks for it"
                )
        raise


def _closed_folder(place: Path) -> Path:
    """The folder at this place, or on the way to it, that we may not look into."""
    while not os.path.lexists(place):
        place = place.parent
    return place


def _adopt_all(index: Index, layout: Layout, clock: Clock) -> Recovery:
    adopted: list[str] = []
    refused: list[str] = []
    now = clock()
    _lease_copies(index, layout, clock)
    with disk_errors("look into", layout.snapshots):
        try:
            names = sorted(name for name in os.listdir(layout.snapshots) if HEX_64.fullmatch(name))
        except FileNotFoundError:
            names = []
    for start in range(0, len(names), BATCH):
        with index.write(durable=True) as rows:
            for name in names[start : start + BATCH]:
                (adopted if _adopt_one(rows, layout, name, now) else refused).append(name)
    blobs = adopt_blobs(index, layout, now)
    return Recovery(tuple(adopted), tuple(refused), blobs)


def _adopt_one(rows: Rows, layout: Layout, name: str, now: float) -> bool:
    """Whether the Snapshot is whole; if it is not, no row of it stays."""
    rows.execute("SAVEPOINT one")
    try:
        whole = _adopt(rows, layout, name, read_sidecar(layout, name), now)
    except (SidecarError, sqlite3.IntegrityError, *ODD_JSON):
        # NaN, for one, is no time. Anything else (no descriptors, a full disk) is no fault of the Snapshot.
        whole = False
    if not whole:
        rows.execute("ROLLBACK TO one")
    rows.execute("RELEASE one")
    return whole


def forget_nameless(index: Index, layout: Layout, refused: Sequence[str], now: float) -> None:
    """Take the names of directories without a sidecar: nothing says what they should hold."""
    for name in refused:
        if not _has_sidecar(layout, name):
            with index.write(durable=False), disk_errors("remove", layout.snapshot(name)):
                os.rename(layout.snapshot(name), layout.condemned(layout.snapshots, now))


def _has_sidecar(layout: Layout, name: str) -> bool:
    place = layout.sidecar(name)
    with disk_errors("look at", place):
        try:
            os.lstat(place)
        except FileNotFoundError:
            return False
    return True


def _lease_copies(index: Index, layout: Layout, clock: Clock) -> None:
    lease_ids = {lease_of(path) for path in copies(layout)}
    if not lease_ids:
        return
    now = clock()
    with index.write(durable=True) as rows:
        for lease_id in sorted(lease_ids):
            lease = Lease(lease_id, "timed", (), now + COPY_LEASE_S, None, now)
            insert_lease(rows, lease, None, clock.boot_s() + COPY_LEASE_S, clock.boot_id)


def _adopt(rows: Rows, layout: Layout, name: str, sidecar: dict[str, Any], now: float) -> bool:
    files = files_of(sidecar)
    principals = sidecar["principals"]
    new = NewSnapshot(
        key=str(sidecar["key"]),
        uri=str(sidecar["uri"]),
        resource=dict(sidecar["resource"]),
        endpoint=str(sidecar["endpoint"]),
        manifest_digest=str(sidecar["manifest_digest"]),
        revision=None if sidecar["revision"] is None else str(sidecar["revision"]),
        private=bool(sidecar["private"]),
        principal=str(principals[0]) if principals else None,
        immutable=bool(sidecar["immutable"]),
        downloaded_at=float(sidecar["downloaded_at"]),
        fresh_for_s=float(sidecar["fresh_for_s"]),
        keep_for_s=float(sidecar["keep_for_s"]),
    )
    if not all(map(isfinite, (new.downloaded_at, new.fresh_for_s, new.keep_for_s))):
        return False
    expected = snapshot_id(
        key=new.key,
        manifest_digest=new.manifest_digest,
        private=new.private,
        principal=new.principal,
        edition=int(sidecar.get("edition", 0)),
    )
    if expected != name or not all(_is_whole(layout, name, file) for file in files):
        return False
    if sidecar.get("withdrawn", False):
        new = replace(new, private=True, principal=NOBODY)
    entries = [(FileEntry(file.path, file.size, file.digest), file.root, file.verified_by) for file in files]
    insert_snapshot(rows, name, new, entries, now=now, keep_from=now)
    scope = scope_of(new.private, new.principal)
    for file in files:
        if file.root is None or not _is_file(layout.blob(file.root), file.size):
            continue
        # `verified_by` names the algorithm that we computed and found equal to the claim.
        computed = file.digest is not None and file.digest.algorithm == file.verified_by
        insert_blob(rows, file.root, file.size, [file.digest] if computed and file.digest else [], scope, now)
    return True


def _is_whole(layout: Layout, name: str, file: SnapshotFile) -> bool:
    return not path_fault(file.path) and _is_file(layout.snapshot(name) / file.path, file.size)


def _is_file(place: Path, size: int) -> bool:
    """Whether there is a plain file of this size. Raises CacheError where the disk does not say."""
    try:
        status = os.lstat(place)
    except OSError as error:
        if error.errno in _FAULTS:
            return False
        raise disk_error(error, "look at", place) from error
    return stat.S_ISREG(status.st_mode) and status.st_size == size
