"""Publishing a Snapshot: its directory is built beside its place from hard links, made durable, and renamed once.

Order: folders and links → durable → sidecar durable → (in one transaction: sidecar named, directory renamed, parent
durable, rows). Before the last step nothing has the final name; after it everything is complete. The transaction is the
lock under which names appear and go.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from fetcher.cache import durable
from fetcher.cache.clearing import remove_any
from fetcher.cache.clock import Clock
from fetcher.cache.index import Index, Rows, insert_many, select_many
from fetcher.cache.layout import Layout, disk_errors
from fetcher.cache.records import NOBODY, Asked, GoneError, NewSnapshot, Snapshot
from fetcher.cache.snapshots import (
    COLUMNS,
    FORMAT,
    IS_HIDDEN,
    discard_names,
    is_there,
    record,
    refresh,
    snapshot_id,
)
from fetcher.cache.staged import PublishedFile, StagedDirectory
from fetcher.cache.steps import taken as step_taken
from fetcher.cache.withdrawal import close_shown, closed_since
from fetcher.errors import CacheError, InternalError
from fetcher.model.digest import weakest
from fetcher.model.paths import check_tree, safe_path

EDITIONS_MAX = 1000
"""Damaged Snapshots of one Manifest that are still there; each was fetched and found damaged again."""


class Publisher:
    """Publishes into one cache. Thread-safe."""

    def __init__(self, index: Index, layout: Layout, clock: Clock, owner_id: Callable[[], str]) -> None:
        self._index = index
        self._layout = layout
        self._clock = clock
        self._owner_id = owner_id

    def publish(
        self,
        new: NewSnapshot,
        files: Sequence[PublishedFile],
        draw: Callable[[int], None] = lambda _: None,
        asked: Asked | None = None,
    ) -> Snapshot:
        """Make the Snapshot of these files visible, or find that it is already there (then its times restart).

        Raises GoneError with the roots that were removed meanwhile (fetch them again), ForbiddenError for names that
        can't live in one directory, CacheError and NoSpaceError for what the disk says. Nothing is visible then.

        ``asked``: what public files came in answer to. If the origin has said since that not everybody may have them,
        the Snapshot is withdrawn as it appears: the caller's to lease, and nobody's to be given.
        """
        ordered = sorted(files, key=lambda file: file[0].path)
        for entry, root, _ in ordered:
            safe_path(entry.path)
            if (root is None) != (entry.size == 0):
                raise InternalError(f"{entry.path} of {entry.size} bytes with root {root}")
        check_tree([entry.path for entry, _, _ in ordered])
        while True:
            try:
                return self._publish(new, ordered, draw, asked)
            except _OutdatedError:
                continue

    def _publish(
        self, new: NewSnapshot, ordered: Sequence[PublishedFile], draw: Callable[[int], None], asked: Asked | None
    ) -> Snapshot:
        """One try. Raises _OutdatedError if meanwhile something was found damaged that we have just linked, or was
        closed."""
        with self._index.read() as rows:
            taken_out = blobs_taken_out(rows)
            wanted, edition = self._free_id(rows, new)
            closed = self._closed(rows, asked)
        present = self._refresh(wanted, new, ordered, asked)
        if present is not None:
            return present
        import msgspec  # as who has asked an origin has done already; its JSON takes a tenth of the time

        owner_id = self._owner_id()
        staged = self._layout.staging(self._layout.snapshots, wanted, owner_id)
        sidecar = self._layout.staging(self._layout.snapshots, wanted, owner_id)
        trash: list[Path] = []
        try:
            with disk_errors("publish", self._layout.snapshot(wanted)):
                filling = StagedDirectory(staged, self._layout, draw)
                filling.fill(ordered)
                step_taken("snapshot:filled")
                durable.barrier(filling.to_sync, self._layout.snapshots)
                step_taken("snapshot:durable")
                text = msgspec.json.encode(sidecar_of(wanted, new, ordered, edition, withdrawn=closed))
                durable.write_file(sidecar, [text], 0o600, sync=True)
                step_taken("snapshot:sidecar-durable")
                look = _Look(taken_out, asked, closed)
                trash = self._make_visible(wanted, new, ordered, staged, sidecar, look, filling)
        finally:
            for path in (staged, sidecar, *trash):
                remove_any(path)
        found = self._get(wanted)
        if found is None:
            raise GoneError("the snapshot was removed as soon as it was published", ids=(wanted,))
        return found

    def _refresh(
        self, wanted: str, new: NewSnapshot, files: Sequence[PublishedFile], asked: Asked | None
    ) -> Snapshot | None:
        """An equal Snapshot that is complete: the origin just confirmed it, unless it has taken that back since."""
        if self._get(wanted) is None:
            return None
        with self._index.write(durable=True) as rows:
            self._refuse_hidden(rows, wanted)
            if is_there(self._layout.snapshot(wanted)):
                if not self._closed(rows, asked):
                    refresh(rows, wanted, self._clock(), new.fresh_for_s, new.keep_for_s)
                self._let_go(rows, files)
        return self._get(wanted)

    def _refuse_hidden(self, rows: Rows, wanted: str) -> None:
        if rows.execute(f"SELECT 1 FROM snapshots WHERE id = ? AND {IS_HIDDEN}", (wanted,)).fetchone():
            raise _OutdatedError

    def _make_visible(
        self,
        wanted: str,
        new: NewSnapshot,
        files: Sequence[PublishedFile],
        staged: Path,
        sidecar: Path,
        before: _Look,
        filled: StagedDirectory,
    ) -> list[Path]:
        """The last step; returns what has to be deleted after it."""
        now = self._clock()
        with self._index.write(durable=True) as rows:
            self._refuse_hidden(rows, wanted)
            closed = self._closed(rows, before.asked)
            if closed != before.closed:
                raise _OutdatedError  # its sidecar says otherwise
            if blobs_taken_out(rows) != before.taken_out and not filled.is_of_these_blobs():
                raise _OutdatedError
            known = rows.execute("SELECT 1 FROM snapshots WHERE id = ?", (wanted,)).fetchone()
            if known and is_there(self._layout.snapshot(wanted)):
                if not closed:
                    refresh(rows, wanted, now, new.fresh_for_s, new.keep_for_s)
                self._let_go(rows, files)
                return []
            # Without a row a directory is a crash's leftover, and a row without a directory is no Snapshot.
            rows.execute("DELETE FROM snapshots WHERE id = ?", (wanted,))
            trash = discard_names(self._layout, wanted)
            os.rename(sidecar, self._layout.sidecar(wanted))
            step_taken("snapshot:sidecar-named")
            os.rename(staged, self._layout.snapshot(wanted))
            step_taken("snapshot:named")
            durable.sync_directory(self._layout.snapshots)
            step_taken("snapshot:names-durable")
            insert_snapshot(rows, wanted, withdrawn(new) if closed else new, files, now=now)
            if closed:
                close_shown(rows, self._layout, wanted, self._owner_id(), NOBODY)
            self._let_go(rows, files)
        step_taken("snapshot:rows")
        return trash

    def _let_go(self, rows: Rows, files: Sequence[PublishedFile]) -> None:
        """The Snapshot refers to the Blobs now; our holds on them are no longer needed."""
        roots = [root for _, root, _ in files if root is not None]
        select_many(rows, "DELETE FROM blob_holds WHERE owner_id = ? AND root IN", roots, self._owner_id())

    def _closed(self, rows: Rows, asked: Asked | None) -> bool:
        """Whether an origin has said since then that not everybody may have what it gave."""
        return asked is not None and closed_since(rows, self._clock, asked)

    def _get(self, wanted: str) -> Snapshot | None:
        with self._index.read() as rows:
            row = rows.execute(f"SELECT {COLUMNS} FROM snapshots WHERE id = ?", (wanted,)).fetchone()
        found = record(row, self._layout) if row and is_there(self._layout.snapshot(wanted)) else None
        return None if found is None or found.damaged else found

    def _free_id(self, rows: Rows, new: NewSnapshot) -> tuple[str, int]:
        """The id for a Snapshot, and its edition: that of an equal one that is there, else the first whose place no
        damaged one has."""
        found = rows.execute(
            f"SELECT id FROM snapshots WHERE key = ? AND manifest_digest = ? AND NOT {IS_HIDDEN}"
            " AND private = ? AND (NOT private OR principal IS ?)",
            (new.key, new.manifest_digest, new.private, new.principal),
        ).fetchall()
        equal = {wanted for (wanted,) in found}
        free: tuple[str, int] | None = None
        for edition in range(EDITIONS_MAX):
            wanted = snapshot_id(
                key=new.key,
                manifest_digest=new.manifest_digest,
                private=new.private,
                principal=new.principal,
                edition=edition,
            )
            if wanted in equal:
                return wanted, edition
            if free is None and not rows.execute("SELECT 1 FROM snapshots WHERE id = ?", (wanted,)).fetchone():
                free = wanted, edition
            if free is not None and not equal:
                return free
        if free is None:
            raise CacheError(
                f"{EDITIONS_MAX} damaged snapshots of {new.uri} are still there", hint="put the cache on a sound disk"
            )
        return free


class _OutdatedError(Exception):
    """What we have linked was found damaged since, or closed; never leaves this room."""


@dataclass(frozen=True, slots=True)
class _Look:
    """What one try has found before it began."""

    taken_out: str
    asked: Asked | None
    closed: bool


def blobs_taken_out(rows: Rows) -> str:
    """How often a Blob lost its name because it was found damaged; see ``condemn``."""
    row = rows.execute("SELECT value FROM meta WHERE name = 'taken_out'").fetchone()
    return "" if row is None else str(row[0])


def sidecar_of(
    wanted: str, new: NewSnapshot, files: Sequence[PublishedFile], edition: int, *, withdrawn: bool = False
) -> dict[str, object]:
    """The JSON beside a Snapshot: enough to make its rows anew."""
    return {
        "format": FORMAT,
        "id": wanted,
        "edition": edition,
        "key": new.key,
        "uri": new.uri,
        "resource": dict(new.resource),
        "endpoint": new.endpoint,
        "revision": new.revision,
        "manifest_digest": new.manifest_digest,
        "private": new.private,
        "principals": [new.principal] if new.principal else [],
        "immutable": new.immutable,
        "downloaded_at": new.downloaded_at,
        "fresh_for_s": new.fresh_for_s,
        "keep_for_s": new.keep_for_s,
        "files": [
            {
                "path": entry.path,
                "size": entry.size,
                "root": root,
                "digest": str(entry.digest) if entry.digest else None,
                "verified_by": verified_by,
            }
            for entry, root, verified_by in files
        ],
        **({"withdrawn": True} if withdrawn else {}),
    }


def withdrawn(new: NewSnapshot) -> NewSnapshot:
    """What a row says of it once nobody is to be given it any more; its id stays."""
    return replace(new, private=True, principal=NOBODY, fresh_for_s=0.0)


def insert_snapshot(
    rows: Rows,
    wanted: str,
    new: NewSnapshot,
    files: Sequence[PublishedFile],
    *,
    now: float,
    keep_from: float | None = None,
) -> None:
    """Rows of a Snapshot whose directory is in place. ``keep_from``: when ``keep_for_s`` starts, if not at download."""
    rows.execute(
        f"INSERT INTO snapshots ({COLUMNS}, keep_for_s) VALUES ({', '.join('?' * 17)})",
        (
            wanted,
            new.key,
            new.uri,
            new.revision,
            new.endpoint,
            sum(entry.size for entry, _, _ in files),
            len(files),
            # An empty directory has nothing that could be wrong; "size" is then the honest word.
            weakest({verified_by for _, _, verified_by in files}),
            new.private,
            new.principal,
            new.downloaded_at,
            new.downloaded_at,
            now,
            # A commit never changes, but who may read it does: a private answer is asked about again.
            None if new.immutable and not new.private else new.downloaded_at + new.fresh_for_s,
            (new.downloaded_at if keep_from is None else keep_from) + new.keep_for_s,
            new.manifest_digest,
            new.keep_for_s,
        ),
    )
    roots = sorted({root for _, root, _ in files if root is not None})
    insert_many(rows, "INSERT OR IGNORE INTO snapshot_blobs", [(wanted, root) for root in roots])
