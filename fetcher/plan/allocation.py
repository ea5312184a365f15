"""What things take of a disk: whole units of allocation, and what stands beside the bytes themselves. Pure arithmetic;
errs upwards, because it is what is reserved.
"""

from __future__ import annotations

from fetcher.plan.tree import BLOCK_BYTES

UNIT_BYTES = 4096
"""Of allocation, on all file systems that a GPU host has."""
TREE_HEAD_BYTES = 1024
"""Header, magic and check of a ``.tree``."""
JOURNAL_HEAD_BYTES = 4096
ROWS_BYTES = 3072
"""What a file's rows and their indexes take in the index and, until it is folded in, once more in its log."""
NAMES_BYTES = 512
"""A file's line in a sidecar, and its name in a directory; twice, of Blobs and of the Snapshot."""
SNAPSHOT_BYTES = 8 * UNIT_BYTES
"""A Snapshot's directory, its sidecar, the staging directories of its files."""


def whole_units(byte_count: int) -> int:
    """Rounded up to what is allocated."""
    return -(-byte_count // UNIT_BYTES) * UNIT_BYTES


def blob_bytes(size: int) -> int:
    """A Blob: body, and tree if it has more than one block."""
    tree = whole_units(TREE_HEAD_BYTES + 32 * -(-size // BLOCK_BYTES)) if size > BLOCK_BYTES else 0
    return whole_units(size) + tree


def beside_bytes(size: int) -> int:
    """What fetching one file takes besides its bytes: rounding, tree, journal, rows, names."""
    journal = whole_units(JOURNAL_HEAD_BYTES + 50 * -(-size // BLOCK_BYTES)) if size > BLOCK_BYTES else 0
    return blob_bytes(size) - size + journal + ROWS_BYTES + NAMES_BYTES


def snapshot_bytes(folders: int, files: int) -> int:
    """A Snapshot with so many folders and files, besides their bodies: directories, sidecar, rows."""
    return SNAPSHOT_BYTES + folders * UNIT_BYTES + files * (NAMES_BYTES + ROWS_BYTES // 4)
