"""Blobs: immutable files under the names of their contents. Finding them, and their rows; how one is made is in
``commit.py``.

A claimed digest is not possession: ``find`` answers only for a sha256 that we computed ourselves, over a public Blob or
one that this principal has fetched.
"""

from __future__ import annotations

import os
import sqlite3
import stat
from collections.abc import Iterable

from fetcher.cache.index import Index
from fetcher.cache.layout import Layout
from fetcher.cache.records import NOBODY, Blob
from fetcher.model.digest import Digest


class Blobs:
    """The Blobs of one cache. Thread-safe."""

    def __init__(self, index: Index, layout: Layout) -> None:
        self._index = index
        self._layout = layout

    def get(self, root: str) -> Blob | None:
        """The Blob of this name, if it is there."""
        with self._index.read() as rows:
            row = rows.execute("SELECT size FROM blobs WHERE root = ?", (root,)).fetchone()
        return self.proven(root, row[0]) if row else None

    def find(self, digest: Digest, size: int, *, principal: str | None) -> Blob | None:
        """A Blob that has this sha256 and that this principal may have."""
        if digest.algorithm != "sha256" or not digest.whole:
            return None
        with self._index.read() as rows:
            row = rows.execute(
                "SELECT blobs.root FROM blob_digests JOIN blobs USING (root) JOIN blob_access USING (root)"
                " WHERE algorithm = 'sha256' AND hex = ? AND size = ? AND blob_access.principal IN ('', ?) LIMIT 1",
                (digest.hex, size, principal or ""),
            ).fetchone()
        return self.proven(row[0], size) if row else None

    def of_content(self, content: str, digest: Digest | None, size: int, *, principal: str | None) -> Blob | None:
        """The Blob that a flight of this content has published; else one with the stated sha256.

        A content id names its scope (everybody, or one principal), so a row under it is for whoever can form the id.
        """
        with self._index.read() as rows:
            row = rows.execute(
                "SELECT root FROM contents JOIN blobs USING (root) WHERE content_id = ? AND size = ?", (content, size)
            ).fetchone()
        found = self.proven(row[0], size) if row else None
        if found is None and digest is not None:
            found = self.find(digest, size, principal=principal)
        return found

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
        path = self._layout.blob(root)
        try:
            status = os.lstat(path)
        except OSError:
            return None
        if not stat.S_ISREG(status.st_mode) or status.st_size != size:
            return None
        return Blob(root, size, path)


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
    rows.execute(
        "INSERT INTO blobs (root, size, used_at) VALUES (?, ?, ?)"
        " ON CONFLICT (root) DO UPDATE SET used_at = excluded.used_at, size = excluded.size",
        (root, size, now),
    )
    for digest in digests:
        rows.execute("INSERT OR IGNORE INTO blob_digests VALUES (?, ?, ?)", (digest.name, digest.hex, root))
    rows.execute("INSERT OR IGNORE INTO blob_access VALUES (?, ?)", (root, scope))
