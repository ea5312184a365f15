"""What was public and is no longer: once its origin has said so, what it said before gives it to nobody.

The directory stays for whoever leases it. Its bytes are his to whom the origin has just said so, and everybody's only
if something else that is public has them: who merely names their digest has not got them. Its sidecar and the trees of
its Blobs say it too, so that an index made anew does not make it public.

Whoever began to fetch it before that, as somebody whom it was public to, ends his download after it. When it was said
is remembered for him: in each transaction that would make something everybody's he looks for it. So either he finds it,
or whoever was told so finds what he has made.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from dataclasses import replace

from fetcher.cache import durable
from fetcher.cache.clock import Clock
from fetcher.cache.index import Index, Rows
from fetcher.cache.layout import (
    KIND_ERRNOS,
    MEDIA_ERRNOS,
    MISSING_ERRNOS,
    Layout,
    disk_errors,
    fields_digest,
    read_plain,
)
from fetcher.cache.records import NOBODY, Asked
from fetcher.cache.small_files import BODY_MODE
from fetcher.cache.snapshots import SidecarError, read_sidecar
from fetcher.cache.tree_file import TreeFile
from fetcher.plan.tree import BLOCK_BYTES

REMEMBERED_S = 7 * 86_400.0
"""How long it is remembered when something was said to be closed: longer than any download takes."""
_CLOSED = "closed:"
"""What the names of those rows in ``meta`` start with; then boot and place."""
CLOSED_NAMES = (_CLOSED, f"{_CLOSED[:-1]};")
"""All of them, in the order of ``meta``: not before the first, and before the second."""

_PUBLIC = (
    "SELECT id FROM snapshots WHERE NOT private"
    " AND (key = ? OR (? != '' AND endpoint = ? AND substr(uri, 1, length(?)) = ?))"
)
_LARGE = (
    f"SELECT DISTINCT root FROM snapshot_blobs JOIN blobs USING (root) WHERE size > ? AND snapshot_id IN ({_PUBLIC})"
    " AND root NOT IN (SELECT root FROM snapshot_blobs JOIN snapshots ON id = snapshot_id"
    f" WHERE NOT private AND snapshot_id NOT IN ({_PUBLIC}))"
)
"""Of these, what has a tree, and nothing else that is public shows."""


def withdraw(
    index: Index,
    layout: Layout,
    clock: Clock,
    key: str,
    owner_id: str,
    principal: str | None = None,
    endpoint: str = "",
    stem: str = "",
) -> tuple[str, ...]:
    """Make nobody's what is public of this Resource, and of all of ``endpoint`` whose URI begins with ``stem`` (other
    revisions, and other choices of files); the ids. What is public of it later is another Snapshot.

    ``principal``: whom the origin lets have it still, by the answer that says so; he need not fetch the bytes again.
    """
    which = (key, stem, endpoint, stem, stem)
    _remember(index, clock, _place(key, endpoint, stem))
    with index.read() as rows:
        if rows.execute(f"{_PUBLIC} LIMIT 1", which).fetchone() is None:
            return ()
        roots = [root for (root,) in rows.execute(_LARGE, (BLOCK_BYTES, *which, *which))]
    _close_trees(index, layout, owner_id, roots)
    with index.write(durable=True) as rows:
        found = [wanted for (wanted,) in rows.execute(_PUBLIC, which)]
        for wanted in found:
            _mark(layout, wanted, owner_id)
        rows.executemany(
            "UPDATE snapshots SET private = 1, principal = ?, fresh_until = 0 WHERE id = ?",
            [(NOBODY, wanted) for wanted in found],
        )
        for wanted in found:
            close_shown(rows, layout, wanted, owner_id, principal or NOBODY)
    return tuple(found)


def close_digests(index: Index, layout: Layout, owner_id: str, sha256: Iterable[str], principal: str | None) -> None:
    """Let nobody but ``principal`` link what has one of these digests and came in public, unless something that is
    public shows it: it is left of a Snapshot whose time is over, or of a download that was cut off."""
    left = (
        "SELECT root FROM blob_digests JOIN blob_access USING (root) WHERE algorithm = 'sha256' AND hex = ?"
        " AND blob_access.principal = '' AND NOT EXISTS (SELECT 1 FROM snapshot_blobs JOIN snapshots"
        " ON snapshots.id = snapshot_blobs.snapshot_id WHERE snapshot_blobs.root = blob_digests.root AND NOT private)"
    )
    with index.read() as rows:
        found = [(digits, root) for digits in sha256 for (root,) in rows.execute(left, (digits,)).fetchall()]
    if not found:
        return
    _close_trees(index, layout, owner_id, [root for _, root in found])
    with index.write(durable=True) as rows:
        for digits in dict.fromkeys(digits for digits, _ in found):
            for (root,) in rows.execute(left, (digits,)).fetchall():
                close_tree(layout, root, owner_id)
                rows.execute("INSERT OR IGNORE INTO blob_access VALUES (?, ?)", (root, principal or NOBODY))
                rows.execute("DELETE FROM contents WHERE root = ?", (root,))
                rows.execute("DELETE FROM blob_access WHERE root = ? AND principal = ''", (root,))


def closed_since(rows: Rows, clock: Clock, asked: Asked) -> bool:
    """Whether an origin has said, since it was asked this, that not everybody may have it."""
    name = _name(clock, _place(asked.key, asked.endpoint, asked.stem))
    row = rows.execute("SELECT CAST(value AS REAL) FROM meta WHERE name = ?", (name,)).fetchone()
    return row is not None and row[0] >= asked.at_s


def any_closed(rows: Rows) -> bool:
    """Whether it is remembered of anything at all."""
    return bool(rows.execute("SELECT 1 FROM meta WHERE name >= ? AND name < ? LIMIT 1", CLOSED_NAMES).fetchone())


def close_shown(rows: Rows, layout: Layout, wanted: str, owner_id: str, scope: str) -> None:
    """What a Snapshot shows and no other one shows to everybody is no longer had by naming its digest either: whoever
    may have it still (``scope``) asks his origin for the bytes. Under their content ids, too, everybody could ask for
    them."""
    closing = (
        "root IN (SELECT root FROM snapshot_blobs WHERE snapshot_id = ?) AND root NOT IN (SELECT root FROM"
        " snapshot_blobs JOIN snapshots ON snapshots.id = snapshot_blobs.snapshot_id WHERE NOT private)"
    )
    for (root,) in rows.execute(
        f"SELECT root FROM blobs WHERE size > ? AND {closing}", (BLOCK_BYTES, wanted)
    ).fetchall():
        close_tree(layout, root, owner_id)
    rows.execute(
        f"INSERT OR IGNORE INTO blob_access SELECT root, ? FROM blob_access WHERE principal = '' AND {closing}",
        (scope, wanted),
    )
    rows.execute(f"DELETE FROM contents WHERE {closing}", (wanted,))
    rows.execute(f"DELETE FROM blob_access WHERE principal = '' AND {closing}", (wanted,))


def close_tree(layout: Layout, root: str, owner_id: str) -> None:
    """Let the ``.tree`` of a Blob say no longer that everybody may have it: it says of nobody that he may, and no new
    index adopts the body by it. First on the disk, as ``_mark``; inside a transaction, as for all names."""
    place = layout.tree(root)
    with disk_errors("read", place):
        try:
            tree = TreeFile.decode(read_plain(place))
        except ValueError:
            return  # damaged: nothing is adopted by it
        except OSError as error:
            if error.errno in MISSING_ERRNOS | KIND_ERRNOS | MEDIA_ERRNOS:
                return
            raise
    if tree.scope != "":
        return
    staged = layout.staging(layout.blobs, "tree", owner_id)
    with disk_errors("write", place):
        try:
            closed = replace(tree, content_id=None, scope=None)
            durable.write_file(staged, [closed.encode()], BODY_MODE, sync=True)
            os.rename(staged, place)
            durable.sync_directory(place.parent)
        finally:
            durable.remove_file(staged)


def _close_trees(index: Index, layout: Layout, owner_id: str, roots: Iterable[str]) -> None:
    """One after another, before the transaction that closes them all: they may be many, and each is made durable."""
    for root in roots:
        with index.write(durable=False):
            close_tree(layout, root, owner_id)


def _remember(index: Index, clock: Clock, place: str) -> None:
    """Before anything is withdrawn: what is made everybody's after that look finds this."""
    boots = _name(clock, "")
    with index.write(durable=False) as rows:
        boot_s = clock.boot_s()  # under the lock: never replaced by an earlier time
        rows.execute(
            "DELETE FROM meta WHERE name >= ? AND name < ? AND (substr(name, 1, ?) != ? OR CAST(value AS REAL) < ?)",
            (*CLOSED_NAMES, len(boots), boots, boot_s - REMEMBERED_S),
        )
        rows.execute("INSERT OR REPLACE INTO meta VALUES (?, ?)", (_name(clock, place), repr(boot_s)))


def _place(key: str, endpoint: str, stem: str) -> str:
    return fields_digest(endpoint, stem) if stem else fields_digest(key)


def _name(clock: Clock, place: str) -> str:
    return f"{_CLOSED}{clock.boot_id}:{place}"


def _mark(layout: Layout, wanted: str, owner_id: str) -> None:
    """First on the disk: a crash before the rows are changed leaves what the next answer of the origin mends."""
    try:
        value = read_sidecar(layout, wanted)
    except SidecarError:
        return  # damaged: no new index adopts it
    text = json.dumps({**value, "withdrawn": True}, ensure_ascii=False, separators=(",", ":"))
    staged = layout.staging(layout.snapshots, wanted, owner_id)
    with disk_errors("write", staged):
        durable.write_file(staged, [text.encode()], 0o600, sync=True)
        os.rename(staged, layout.sidecar(wanted))
        durable.sync_directory(layout.snapshots)
