"""Which file system a directory is on: SQLite's log needs one machine.

Read from /proc/self/mountinfo, which costs nothing to parse and needs no foreign call on the hit path.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

from fetcher.errors import CacheError

NETWORK_FILE_SYSTEMS = frozenset(
    {"9p", "afs", "beegfs", "ceph", "cifs", "coda", "gfs2", "glusterfs", "gpfs", "lustre", "ncpfs", "nfs", "nfs4"}
    | {"ocfs2", "orangefs", "pvfs2", "smb3", "smbfs"}
)
"""Shared between machines: WAL's shared memory is not, and locks may be anybody's guess."""


def file_system_type(path: Path) -> str:
    """The kernel's name of the file system that holds ``path``; ``""`` where the kernel does not tell."""
    try:
        lines = Path("/proc/self/mountinfo").read_text(encoding="utf-8", errors="surrogateescape").splitlines()
    except OSError:
        return ""
    place = os.path.realpath(path)
    best, found = -1, ""
    for line in lines:
        left, separator, right = line.partition(" - ")
        fields = left.split(" ")
        if not separator or len(fields) < 5:
            continue
        mount = re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), fields[4])
        inside = place == mount or place.startswith(mount.rstrip("/") + "/")
        if inside and len(mount) >= best:  # the last of several mounts on one place is the visible one
            best, found = len(mount), right.split(" ")[0]
    return found


def is_network(directory: Path) -> bool:
    """Whether a directory is, for all that the kernel tells, on other machines, too."""
    kind = file_system_type(directory)
    # fuseblk is a local disk (NTFS, exFAT); plain fuse is somebody's program, mostly around a network.
    return kind in NETWORK_FILE_SYSTEMS or kind == "fuse" or kind.startswith("fuse.")


def refuse_network(directory: Path) -> None:
    """Raise CacheError, with the cure, if the index would be on a file system that other machines share."""
    if is_network(directory):
        raise CacheError(
            f"the index can't be kept in {directory}: {file_system_type(directory)} is no local file system",
            hint="set FETCHER_STATE_DIR to a directory on a local disk; the bytes may stay where they are",
        )
