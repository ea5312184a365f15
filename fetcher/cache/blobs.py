"""Blobs: immutable files under the names of their contents. Finding them, and their rows; how one is made is in
``commit.py``.

A claimed digest is not possession: a Blob is found by it only if it is a sha256 that we computed ourselves, over a
public Blob or one that this principal has fetched.
"""

from __future__ import annotations

import os
import sqlite3
import stat
from collections.abc import Collection, Iterable, Sequence

from fetcher.cache.index import Index, insert_many, select_many
from fetcher.cache.layout import Layout
from fetcher.cache.records import NOBODY, Blob
from fetcher.model.digest import Digest


class Blobs:
    """The Blobs of one cache. Thread-safe."""

    def __init__(self, index: Index, layout: Layout) -> None:
        self._index = index
        self._layout = layout

    def of_contents(
        self, wanted: Sequence[tuple[str, Digest | None, int]], *, principal: str | None
    ) -> list[Blob | None]:
        """For each ``(content id, stated digest, size)``, in their order, the Blob that a flight of this content has
        published; else one with the stated sha256, computed by us, that this principal may have.

        A content id names its scope (everybody, or one principal), so a row under it is for whoever can form the id.
        """
        with self._index.read() as rows:
            published = select_many(
                rows,
                "SELECT content_id, root, size FROM contents JOIN blobs USING (root) WHERE content_id IN",
                [content for content, _, _ in wanted],
            )
        known = {content: (root, size) for content, root, size in published}
        found: list[Blob | None] = []
        for content, _, size in wanted:
            root, of_size = known.get(content, ("", -1))
            found.append(self.proven(root, size) if of_size == size else None)
        missing = {
            index: (digest.hex, size)
            for index, (blob, (_, digest, size)) in enumerate(zip(found, wanted, strict=True))
            if blob is None and digest is not None and digest.algorithm == "sha256" and digest.whole
        }
        roots = self._linkable(set(missing.values()), principal) if missing else {}
        for index, asked in missing.items():
            if asked in roots:
                found[index] = self.proven(roots[asked], asked[1])
        return found

    def _linkable(self, wanted: Collection[tuple[str, int]], principal: str | None) -> dict[tuple[str, int], str]:
        """Of ``(sha256, size)`` those that are here and that this principal may have, and the roots of their Blobs."""
        with self._index.read() as rows:
            found = select_many(
                rows,
                "SELECT hex, size, root FROM blob_digests JOIN blobs USING (root) JOIN blob_access USING (root)"
                " WHERE algorithm = 'sha256' AND blob_access.principal IN ('', ?) AND hex IN",
                [digits for digits, _ in wanted],
                principal or "",
            )
        return {(digits, size): root for digits, size, root in found}

    def digests(self, root: str) -> tuple[Digest, ...]:
        """What we computed over this Blob and found to be what an origin claimed."""
        with self._index.read() as rows:
            found = rows.execute("SELECT algorithm, hex FROM blob_digests WHERE root = ?", (root,)).fetchall()
        return tuple(Digest.parse(f"{name}:{digits}") for name, digits in found)

    def known_as(self, root: str) -> tuple[str | None, str | None]:
        """One content that this Blob is, and the widest scope that may have it."""
        with self._index.read() as rows:
            content = rows.execute("SELECT MIN(content_id) FROM contents WHERE root = ?", (root,)).fetchone()[0]
            scope = rows.execute("SELECT MIN(principal) FROM blob_access WHERE root = ?", (root,)).fetchone()[0]
        return (content, scope) if content is not None and scope is not None else (None, None)

    def proven(self, root: str, size: int) -> Blob | None:
        """A row's Blob if its body is there with the right size."""
        place = self._layout.blob_place(root)
        try:
            status = os.lstat(place)
        except OSError:
            return None
        if not stat.S_ISREG(status.st_mode) or status.st_size != size:
            return None
        return Blob(root, size, place)


def taken_out(rows: sqlite3.Connection) -> None:
    """Count that a body lost its Blob's name because it is damaged: whoever is about to publish it looks again."""
    rows.execute(
        "INSERT INTO meta VALUES ('taken_out', '1') ON CONFLICT (name) DO UPDATE SET value = CAST(value AS INTEGER) + 1"
    )


def scope_of(private: bool, principal: str | None) -> str:
    """Whom bytes may be given to, as ``blob_access`` says it. Private bytes of nobody in particular are nobody's."""
    return (principal or NOBODY) if private else ""


def insert_blob(
    rows: sqlite3.Connection, root: str, size: int, digests: Iterable[Digest], scope: str, now: float
) -> None:
    """Rows of one Blob; ``scope`` is who may have it: a principal, or ``""`` for everybody."""
    insert_blobs(rows, [(root, size, tuple(digests))], scope, now)


def insert_blobs(
    rows: sqlite3.Connection, blobs: Sequence[tuple[str, int, Sequence[Digest]]], scope: str, now: float
) -> None:
    """The same for many ``(root, size, digests)``."""
    insert_many(
        rows,
        "INSERT INTO blobs (root, size, used_at)",
        [(root, size, now) for root, size, _ in blobs],
        "ON CONFLICT (root) DO UPDATE SET used_at = excluded.used_at, size = excluded.size",
    )
    digests = sorted((digest.name, digest.hex, root) for root, _, known in blobs for digest in known)
    insert_many(rows, "INSERT OR IGNORE INTO blob_digests", digests)
    insert_many(rows, "INSERT OR IGNORE INTO blob_access", [(root, scope) for root, _, _ in blobs])
