"""Git object ids and LFS pointers, computed as git computes them.

Hashing of given values only: no repository on disk, no git program.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

EMPTY_TREE_ID = "4b825dc642cb6eb9a060e54bf8d69288fbee4904"


def object_id(kind: str, payload: bytes) -> str:
    """Return the SHA-1 id of a loose object of ``kind`` (``blob``, ``tree`` or ``commit``)."""
    return hashlib.sha1(b"%s %d\0" % (kind.encode(), len(payload)) + payload, usedforsecurity=False).hexdigest()


def lfs_pointer(sha256: str, size: int) -> bytes:
    """Return the text that git stores in place of a large file (git-lfs specification, version 1)."""
    return f"version https://git-lfs.github.com/spec/v1\noid sha256:{sha256}\nsize {size}\n".encode()


def tree_ids(blobs: Iterable[tuple[str, str]]) -> dict[str, str]:
    """Return the tree id of every directory of a file tree, the root under ``""``.

    ``blobs`` are pairs of path and blob id; all files get mode 100644. Paths must already be sane.
    """
    children: dict[str, list[tuple[bytes, bytes, str]]] = {"": []}  # directory → (name, mode, id)
    for path, blob in blobs:
        parent, _, name = path.rpartition("/")
        missing = parent
        while missing not in children:
            children[missing] = []
            missing = missing.rpartition("/")[0]
        children[parent].append((name.encode(), b"100644", blob))
    ids: dict[str, str] = {}
    # Deepest first: when a directory's turn comes, all that it holds has its id.
    for directory in sorted(children, key=lambda path: path.count("/") + (path != ""), reverse=True):
        # Git sorts a directory as if its name ended in a slash.
        entries = sorted(children[directory], key=lambda entry: entry[0] + (b"/" if entry[1] == b"40000" else b""))
        payload = b"".join(b"%s %s\0%s" % (mode, name, bytes.fromhex(id_)) for name, mode, id_ in entries)
        ids[directory] = object_id("tree", payload)
        if directory:
            parent, _, name = directory.rpartition("/")
            children[parent].append((name.encode(), b"40000", ids[directory]))
    return ids


def commit_id(*, tree: str, parent: str | None, author: str, time_s: int, message: str) -> str:
    """Return the id of a commit; author and committer are the same, in UTC.

    ``author`` is ``Name <mail>``; ``time_s`` unix seconds; ``message`` without its closing newline.
    """
    parents = f"parent {parent}\n" if parent else ""
    text = f"tree {tree}\n{parents}author {author} {time_s} +0000\ncommitter {author} {time_s} +0000\n\n{message}\n"
    return object_id("commit", text.encode())
