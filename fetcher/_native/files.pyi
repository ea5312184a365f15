"""Promises of the compiled calls on many files and of their twin (pure_files.py).

A folder is a descriptor of a directory; names are bytes, relative to it. One call drops the GIL once, not once for each
system call of each file. Wrong values raise ValueError, wrong types TypeError or BufferError.
"""

from collections.abc import Sequence

from typing_extensions import Buffer

def write_files(folder: int, names: Sequence[bytes], contents: Sequence[Buffer], mode: int) -> None:
    """Create files that must not exist yet, with exactly this mode; nothing is synced. Raises OSError for the first
    that can't be made, of which nothing stays; those before it stay, and those after it were not tried."""

def link_files(source: int, names: Sequence[bytes], target: int, targets: Sequence[bytes]) -> list[int]:
    """link(2) each name below ``source`` to its target below ``target``, never through a symlink and never replacing
    anything. One errno for each, 0 where it was made; all are tried."""

def look_for_files(folder: int, names: Sequence[bytes]) -> list[int]:
    """lstat(2) each. The size of each plain file; ``-EINVAL`` for what is none, else minus errno."""

def unlink_files(folder: int, names: Sequence[bytes]) -> list[int]:
    """unlink(2) each. One errno for each, 0 where it is gone; all are tried."""

def make_directories(folder: int, names: Sequence[bytes], mode: int, group: int | None = None) -> list[int]:
    """mkdir(2) each, with exactly this mode and, if one is given, this group. One errno for each, 0 where it was made,
    EEXIST where something has the name; all are tried."""
