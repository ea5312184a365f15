"""Snapshots as rows: looking up, touching, revalidating, removing. On the hit path; publishing is in ``publish.py``.

A row is a promise that the directory is complete; one lstat proves that it is still there. Directories appear and go
only inside a transaction, so the two can differ only after a crash or by a user's own hand.
"""

from __future__ import annotations

import json
import os
import sqlite3
import stat
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from sys import intern
from typing import Any

from fetcher.cache.index import Index
from fetcher.cache.layout import (
    HEX_64,
    KIND_ERRNOS,
    MEDIA_ERRNOS,
    MISSING_ERRNOS,
    Layout,
    disk_error,
    disk_errors,
    fields_digest,
    read_plain,
)
from fetcher.cache.records import GoneError, Snapshot, SnapshotFile
from fetcher.errors import CacheError
from fetcher.model.digest import Digest

COLUMNS = (
    "id, key, uri, revision, endpoint, bytes, files, verified_by, private, principal,"
    " downloaded_at, validated_at, last_used_at, fresh_until, keep_until, manifest_digest"
)
HANDED_OUT_S = 3600.0
"""How long a path that was just told stays, whatever its time."""
PRINCIPALS_MAX = 3
TOUCH_INTERVAL_S = 60.0
"""Last use is written at most this often: eviction needs an order, not a log."""

LOOKUP = (
    f"SELECT {COLUMNS} FROM snapshots WHERE key = ? AND private = 0"
    f" UNION ALL SELECT {COLUMNS} FROM snapshots WHERE key = ? AND private = 1 AND principal IN (?, ?, ?)"
    " ORDER BY validated_at DESC, id"
)

FORMAT = "fetcher-snapshot-1"
ODD_JSON = (ValueError, KeyError, TypeError, AttributeError, IndexError, OverflowError, RecursionError)
"""What taking values out of a foreign JSON document may raise: 1e999 is no int, brackets may nest too deep."""

_HIDDEN = "damaged:"
"""What the key of a hidden Snapshot starts with: nobody asks for such a key, so nobody is given it. Its row stays, so
that what is sound of it stays referenced, until a sound one has taken its place or its time is over."""
IS_HIDDEN = f"substr(snapshots.key, 1, {len(_HIDDEN)}) = '{_HIDDEN}'"
"""SQL of a row of ``snapshots``."""
TRUE_KEY = f"CASE WHEN {IS_HIDDEN} THEN substr(snapshots.key, {len(_HIDDEN) + 1}) ELSE snapshots.key END"
"""SQL: the key of its Resource."""
HIDDEN_KEYS = (_HIDDEN, _HIDDEN[:-1] + chr(ord(_HIDDEN[-1]) + 1))
"""Of the keys of hidden Snapshots, in the order of the index: not before the first, and before the second."""
SUPERSEDED = (
    f"({IS_HIDDEN} AND EXISTS (SELECT 1 FROM snapshots AS sound"
    f" WHERE sound.key = substr(snapshots.key, {len(_HIDDEN) + 1}) AND sound.private = snapshots.private"
    " AND (NOT sound.private OR sound.principal IS snapshots.principal)"
    " AND sound.validated_at >= snapshots.validated_at))"
)
"""SQL: it is hidden, and a sound Snapshot of its Resource, for the same eyes, is as new."""


class SidecarError(CacheError):
    """The list of a Snapshot's files is missing, or is not what was written. Whatever else keeps us from reading it (no
    descriptors, no memory, no rights) is another CacheError, and says nothing of the Snapshot."""


def snapshot_id(*, key: str, manifest_digest: str, private: bool, principal: str | None, edition: int = 0) -> str:
    """Identity of a Snapshot: the same answer, for the same eyes, has the same directory.

    ``edition``: counted from 0; the next one where a damaged Snapshot has the place.
    """
    scope = ("private", principal or "") if private else ("public", "")
    editions = (str(edition),) if edition else ()
    return fields_digest("fetcher-snapshot-v1", key, manifest_digest, *scope, *editions)


class Snapshots:
    """The snapshot rows of one cache. Thread-safe."""

    def __init__(self, index: Index, layout: Layout, clock: Callable[[], float], *, keep_from: str) -> None:
        self._index = index
        self._layout = layout
        self._clock = clock
        self._keep_from = keep_from
        self._directory = str(layout.snapshots)
        self._touched: dict[str, float] = {}

    def lookup(self, key: str, *principals: str | None) -> Snapshot | None:
        """The newest Snapshot of this Resource that is public or of one of these principals (three at most), fresh or
        not. No network, one lstat. Rows of others are not even looked at: how long this takes tells nothing of them."""
        with self._index.read() as rows:
            found = rows.execute(
                LOOKUP, (key, key, *principals, *(None,) * (PRINCIPALS_MAX - len(principals)))
            ).fetchall()
        return self._first(found)

    def shared(self, key: str, pin: str) -> Snapshot | None:
        """The newest private Snapshot of this Resource that was fetched for this pin by whoever made it."""
        with self._index.read() as rows:
            found = rows.execute(
                f"SELECT {COLUMNS} FROM snapshots WHERE key = ? AND private AND principal ="
                " (SELECT principal FROM pins WHERE name = ? AND resource_key = ?) ORDER BY validated_at DESC, id",
                (key, pin, key),
            ).fetchall()
        return self._first(found)

    def _first(self, found: Sequence[Sequence[Any]]) -> Snapshot | None:
        for row in found:
            if self._is_there(row[0]):
                return self._record(row)
            self.forget(row[0])
        return None

    def get(self, wanted: str) -> Snapshot | None:
        """The Snapshot with this id, if it is there."""
        with self._index.read() as rows:
            row = rows.execute(f"SELECT {COLUMNS} FROM snapshots WHERE id = ?", (wanted,)).fetchone()
        return self._record(row) if row and self._is_there(wanted) else None

    def all(self) -> list[Snapshot]:
        """All of them, the one validated last first."""
        with self._index.read() as rows:
            found = rows.execute(f"SELECT {COLUMNS} FROM snapshots ORDER BY validated_at DESC, id").fetchall()
        return [self._record(row) for row in found]

    def at(self, path: Path) -> Snapshot | None:
        """The Snapshot whose directory is, or holds, this path."""
        root = os.path.realpath(self._directory) + os.sep
        place = os.path.realpath(path)
        return self.get(place[len(root) :].partition(os.sep)[0]) if place.startswith(root) else None

    def touch(self, wanted: str) -> None:
        """Remember that it was used just now. Best effort: a failure to write this must not fail a hit.

        What was handed out stays for the grace time at least, also when its time is over (a full commit is fresh for
        ever; with ``offline`` anything is).
        """
        now = self._clock()
        if 0 <= now - self._touched.get(wanted, float("-inf")) < TOUCH_INTERVAL_S:
            return
        self._touched[wanted] = now
        kept_s = "keep_for_s" if self._keep_from == "use" else str(float(HANDED_OUT_S))
        try:
            with self._index.write(durable=False, wait=False) as rows:
                rows.execute(
                    "UPDATE snapshots SET last_used_at = MAX(last_used_at, ?),"
                    f" keep_until = MAX(keep_until, ? + {kept_s}) WHERE id = ?",
                    (now, now, wanted),
                )
        except CacheError:
            pass

    def revalidate(self, wanted: str, fresh_for_s: float, keep_for_s: float) -> Snapshot:
        """The origin says that it is unchanged: fresh again, ``keep_for`` restarts, ``downloaded_at`` stays.

        Raises GoneError if it was removed meanwhile.
        """
        now = self._clock()
        with self._index.write(durable=True) as rows:
            refreshed = refresh(rows, wanted, now, fresh_for_s, keep_for_s)
        found = self.get(wanted) if refreshed else None
        if found is None:
            raise GoneError("the snapshot was removed while it was revalidated", ids=(wanted,))
        return found

    def files(self, wanted: str) -> list[SnapshotFile]:
        """What a Snapshot consists of, from its sidecar. Raises SidecarError if that is missing or damaged."""
        return files_of(read_sidecar(self._layout, wanted))

    def forget(self, wanted: str) -> None:
        """Drop the row of a Snapshot whose directory is gone; what is left of it is gc's."""
        if self._index.read_only:
            return
        with self._index.write(durable=True) as rows:
            if not self._is_there(wanted):
                refuse_without_any(self._layout)
                rows.execute("DELETE FROM snapshots WHERE id = ?", (wanted,))

    def _is_there(self, wanted: str) -> bool:
        return is_there(f"{self._directory}/{wanted}")

    def _record(self, row: Sequence[Any]) -> Snapshot:
        return record(row, self._layout)


def is_there(place: Path | str) -> bool:
    """Whether a Snapshot's directory is there. Raises CacheError where the disk does not say: a share that is out of
    reach for a minute has lost nothing, and with the row would go the rights of whoever has leased it."""
    try:
        return stat.S_ISDIR(os.lstat(place).st_mode)
    except OSError as error:
        if error.errno in MISSING_ERRNOS | KIND_ERRNOS:
            return False
        raise disk_error(error, "look at", place) from error


def refuse_without_any(layout: Layout) -> None:
    """Raise CacheError if the directory of all Snapshots is gone, before rows go for want of theirs: its disk was taken
    away under an open cache, and may be back in a moment."""
    try:
        os.stat(layout.snapshots)
    except OSError as error:
        trouble = disk_error(error, "look at", layout.snapshots)
        trouble.hint = trouble.hint or "mount its disk again; if the cache was removed, end what has it open"
        raise trouble from error


def record(row: Sequence[Any], layout: Layout) -> Snapshot:
    """A row of COLUMNS as a value."""
    return Snapshot(
        id=row[0],
        key=row[1].removeprefix(_HIDDEN),
        uri=row[2],
        revision=row[3],
        path=layout.snapshot(row[0]),
        endpoint=row[4],
        bytes=row[5],
        files=row[6],
        verified_by=row[7],
        private=bool(row[8]),
        principal=row[9],
        downloaded_at=row[10],
        validated_at=row[11],
        last_used_at=row[12],
        fresh_until=row[13],
        keep_until=row[14],
        manifest_digest=row[15],
        damaged=row[1].startswith(_HIDDEN),
    )


def hide(rows: sqlite3.Connection, wanted: str, now: float, keep_until: float) -> bool:
    """Let nobody find a damaged Snapshot any more. False: there is none of this id, or it is hidden already."""
    return bool(
        rows.execute(
            "UPDATE snapshots SET key = ? || key, fresh_until = MIN(COALESCE(fresh_until, ?), ?),"
            f" keep_until = MAX(keep_until, ?) WHERE id = ? AND NOT {IS_HIDDEN}",
            (_HIDDEN, now, now, keep_until, wanted),
        ).rowcount
    )


def refresh(rows: sqlite3.Connection, wanted: str, now: float, fresh_for_s: float, keep_for_s: float) -> bool:
    """Restart both clocks of a row; an immutable public one stays without an end of freshness. False: no such row, or
    one that nobody may get any more."""
    return bool(
        rows.execute(
            "UPDATE snapshots SET validated_at = ?, last_used_at = ?, keep_until = ?, keep_for_s = ?,"
            " fresh_until = CASE WHEN fresh_until IS NULL AND NOT private THEN NULL ELSE ? END"
            f" WHERE id = ? AND NOT {IS_HIDDEN}",
            (now, now, now + keep_for_s, keep_for_s, now + fresh_for_s, wanted),
        ).rowcount
    )


def take_away(rows: sqlite3.Connection, layout: Layout, ids: Iterable[str]) -> list[Path]:
    """Inside a transaction: drop rows, move directories and sidecars under trash names; returns what to delete *after*
    the commit.

    Undone by a rollback they would be rows without a directory, which a lookup drops: nothing wrong is ever visible.
    """
    trash: list[Path] = []
    for wanted in ids:
        rows.execute("DELETE FROM snapshots WHERE id = ?", (wanted,))
        trash += discard_names(layout, wanted)
    return trash


def discard_names(layout: Layout, wanted: str, target_name: Callable[[], Path] | None = None) -> list[Path]:
    """Move a Snapshot's directory and sidecar under trash names, or those that ``target_name`` gives; returns those."""
    trash: list[Path] = []
    for place in (layout.snapshot(wanted), layout.sidecar(wanted)):
        target = layout.trash(layout.snapshots) if target_name is None else target_name()
        with disk_errors("remove", place):
            try:
                os.rename(place, target)
            except FileNotFoundError:
                continue
        trash.append(target)
    return trash


def read_sidecar(layout: Layout, wanted: str) -> dict[str, Any]:
    """The JSON beside a Snapshot. Raises SidecarError if it is missing, damaged, or somebody else's."""
    place = layout.sidecar(wanted)
    try:
        raw = read_plain(place)
    except OSError as error:
        trouble = disk_error(error, "read", place)
        if error.errno in MISSING_ERRNOS | KIND_ERRNOS | MEDIA_ERRNOS:
            raise SidecarError(trouble.message, hint=trouble.hint) from error
        raise trouble from error
    try:
        value = json.loads(raw)
        if value["format"] != FORMAT or value["id"] != wanted:
            raise ValueError("it describes something else")
        files_of(value)
    except ODD_JSON as error:
        raise SidecarError(f"{place} is damaged: {error}", hint="remove this snapshot and fetch it again") from error
    return dict(value)


def files_of(sidecar: dict[str, Any]) -> list[SnapshotFile]:
    """The files listed in a sidecar."""
    return [
        SnapshotFile(
            path=str(entry["path"]),
            size=int(entry["size"]),
            root=None if entry["root"] is None else _hex_64(entry["root"]),
            digest=None if entry["digest"] is None else Digest.parse(entry["digest"]),
            verified_by=intern(str(entry["verified_by"])),  # a few words, of a hundred thousand files
        )
        for entry in sidecar["files"]
    ]


def _hex_64(root: object) -> str:
    if not isinstance(root, str) or not HEX_64.fullmatch(root):
        raise ValueError(f"not a root: {str(root)[:80]!r}")
    return root
