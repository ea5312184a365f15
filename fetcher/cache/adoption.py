"""Blobs without a row: what a crash between naming a body and its row leaves, or the loss of the index. A body is taken
back if its ``.tree`` proves itself: its chaining values, hashed together again, give the Blob's name. The tree became
durable after the body, so the body is whole; whoever reads it as part of a scrub or a resume hashes it anyway.

The tree also says what the bytes were fetched as, and for whom: the row opens them to the same askers and to nobody
else. A body of at most one block has no tree, and one of plain mode no chaining values: gc sweeps those.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path

from fetcher import hashing
from fetcher.cache.blobs import insert_blob
from fetcher.cache.index import Index, Rows
from fetcher.cache.layout import HEX_64, Layout, disk_errors, read_plain
from fetcher.cache.tree_file import TreeFile
from fetcher.cache.withdrawal import any_closed

BATCH = 500


def adopt_blobs(index: Index, layout: Layout, now: float) -> int:
    """Rows for all bodies that have none and prove themselves; how many. Changes no file.

    ``now`` is their last use: what nobody asks for goes after gc's grace.
    """
    adopted = 0
    batch: list[TreeFile] = []
    for root in without_row(index, layout):
        tree = proven_tree(layout, root)
        if tree is not None:
            batch.append(tree)
        if len(batch) == BATCH:
            adopted += _insert(index, layout, batch, now)
            batch = []
    return adopted + (_insert(index, layout, batch, now) if batch else 0)


def _insert(index: Index, layout: Layout, trees: list[TreeFile], now: float) -> int:
    count = 0
    with index.write(durable=True) as rows:
        closed = any_closed(rows)
        for tree in trees:
            # Names go inside transactions only: what is here now was not taken away since we looked.
            if has_row(rows, tree.root) or not _is_whole(layout, tree):
                continue
            if closed and not tree.scope:
                continue  # was it of what is closed? Nothing on the disk tells that: nobody's, and swept in time
            assert tree.scope is not None
            insert_blob(rows, tree.root, tree.size, tree.digests, tree.scope, now)
            rows.execute("INSERT OR IGNORE INTO contents VALUES (?, ?)", (tree.content_id, tree.root))
            count += 1
    return count


def bodies(layout: Layout) -> Iterator[str]:
    """Names of all bodies of Blobs, with a row or without."""
    for folder in sorted(name for name in _names(layout.blobs) if len(name) == 2):
        yield from (
            name for name in _names(layout.blobs / folder) if HEX_64.fullmatch(name) and name.startswith(folder)
        )


def _names(directory: Path) -> list[str]:
    with disk_errors("look into", directory):
        try:
            return os.listdir(directory)
        except (FileNotFoundError, NotADirectoryError):
            return []


def without_row(index: Index, layout: Layout) -> list[str]:
    """Names of bodies that no row speaks of."""
    found = []
    with index.read() as rows:
        for digits, roots in groupby(bodies(layout), key=lambda root: root[:2]):
            known = roots_in(rows, digits)
            found += [root for root in roots if root not in known]
    return found


def roots_in(rows: Rows, digits: str) -> set[str]:
    """Roots of all Blobs whose names begin with two digits."""
    found = rows.execute("SELECT root FROM blobs WHERE root BETWEEN ? AND ?", (digits, f"{digits}g"))
    return {root for (root,) in found}


def has_row(rows: Rows, root: str) -> bool:
    return bool(rows.execute("SELECT 1 FROM blobs WHERE root = ?", (root,)).fetchone())


def proven_tree(layout: Layout, root: str) -> TreeFile | None:
    """The tree of a body, if it is that body's: by its hash, and by the body's size."""
    try:
        tree = TreeFile.decode(read_plain(layout.tree(root)))
    except (OSError, ValueError):
        return None
    known = tree.content_id is not None and tree.scope is not None and HEX_64.fullmatch(tree.content_id)
    if not known or not hashing.HAS_TREE or tree.block_bytes != hashing.BLOCK_BYTES or tree.root != root:
        return None
    if hashing.merge_root(tree.chaining_values, tree.size, block=hashing.BLOCK_BYTES).hex() != root:
        return None
    return tree if _is_whole(layout, tree) else None


def _is_whole(layout: Layout, tree: TreeFile) -> bool:
    try:
        status = os.lstat(layout.blob(tree.root))
    except OSError:
        return False
    return stat.S_ISREG(status.st_mode) and status.st_size == tree.size
