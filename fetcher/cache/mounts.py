"""Which file system a directory is on, and whether its locks work: SQLite's log needs one machine and honest locks.

Read from /proc/self/mountinfo, which costs nothing to parse and needs no foreign call on the hit path.
"""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path

from fetcher.cache.layout import disk_errors
from fetcher.errors import CacheError

NETWORK_FILE_SYSTEMS = frozenset(
    {"9p", "afs", "beegfs", "ceph", "cifs", "coda", "gfs2", "glusterfs", "gpfs", "lustre", "ncpfs", "nfs", "nfs4"}
    | {"ocfs2", "orangefs", "pvfs2", "smb3", "smbfs"}
)
"""Shared between machines: WAL's shared memory is not, and locks may be anybody's guess."""

_PROBE = """
import fcntl, sys
free = []
for path, lock in zip(sys.argv[1:], (fcntl.lockf, fcntl.flock, fcntl.flock)):
    with open(path, "r+b") as file:
        try:
            lock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            free.append(False)
        else:
            free.append(True)
sys.exit(3 if any(free[:2]) else 4 if free[2] else 0)
"""


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


def probe_locks(state_dir: Path, cache_dir: Path) -> bool:
    """Hold locks and let a second process try: a record lock (SQLite's kind) and a flock in the state directory, which
    must hold against it, and a flock in the cache directory: whether that one holds is the answer.

    Raises CacheError. Done once for each new index; costs one bare interpreter start.
    """
    import fcntl
    import subprocess

    if not sys.executable:
        return True  # embedded: there is no second process that we could start
    places = [(state_dir, fcntl.lockf), (state_dir, fcntl.flock), (cache_dir, fcntl.flock)]
    probes = [directory / f".probe-{os.urandom(8).hex()}" for directory, _ in places]
    files = []
    try:
        with disk_errors("lock files in", state_dir):
            for path, (directory, lock) in zip(probes, places, strict=True):
                file = open(path, "x+b")  # noqa: SIM115 - closed below; closing any earlier would drop the lock
                files.append(file)
                try:
                    lock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except OSError:
                    if directory is state_dir:
                        raise  # in the cache directory: the other process will have it, or not; no lock is none
            answer = subprocess.run(
                [sys.executable, "-I", "-S", "-c", _PROBE, *map(str, probes)],
                stdin=subprocess.DEVNULL,
                capture_output=True,
                check=False,
                timeout=60,
            )
        if answer.returncode == 3:
            raise CacheError(
                f"locks do not hold between processes in {state_dir}",
                hint="put the cache, or at least FETCHER_STATE_DIR, on a local disk",
            )
        return answer.returncode == 0
    except subprocess.TimeoutExpired as error:
        raise CacheError(f"testing locks in {state_dir} took longer than a minute") from error
    finally:
        for file in files:
            file.close()
        for path in probes:
            path.unlink(missing_ok=True)
