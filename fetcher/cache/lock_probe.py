"""Whether the locks of a directory hold between processes: SQLite needs honest ones, and owners are known by theirs.

Asked once for each new index, so nothing that a hit needs is here.
"""

from __future__ import annotations

import fcntl
import os
import struct
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from fetcher.cache.layout import disk_errors
from fetcher.cache.mounts import file_system_type
from fetcher.errors import CacheError

LOCAL_FILE_SYSTEMS = frozenset({"btrfs", "ext2", "ext3", "ext4", "f2fs", "overlay", "tmpfs", "xfs"})
"""Of this kernel alone: it keeps their locks itself, for all processes in one table, and asks nobody else."""

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


def probe_locks(state_dir: Path, cache_dir: Path) -> bool:
    """Hold locks and let another try: a record lock (SQLite's kind) and a flock in the state directory, which must hold
    against it, and a flock in the cache directory: whether that one holds is the answer.

    On the usual local file systems, whose locks the kernel itself keeps, it is enough that another open file is
    refused; anywhere else a second process tries, which costs one bare interpreter start. Raises CacheError. Done once
    for each new index.
    """
    kinds = {file_system_type(directory) for directory in (state_dir, cache_dir)}
    if kinds <= LOCAL_FILE_SYSTEMS:
        with _locked(state_dir, cache_dir) as probes:
            if _refused_here(probes):
                return True
    with _locked(state_dir, cache_dir) as probes:
        return _refused_elsewhere(probes, state_dir)


@contextmanager
def _locked(state_dir: Path, cache_dir: Path) -> Iterator[list[Path]]:
    """Three new files with locks on them, in the order of the question; gone afterwards."""
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
        yield probes
    finally:
        for file in files:
            file.close()
        for path in probes:
            path.unlink(missing_ok=True)


def _refused_here(probes: Sequence[Path]) -> bool:
    """Whether another open file of this very process gets none of the locks. A record lock is a process's, so the other
    one asks for it as an open file's (F_OFD_SETLK), which conflicts all the same (fcntl(2)). False if in doubt."""
    if struct.calcsize("l") != 8:
        return False  # struct flock is another one there
    whole_file = struct.pack("hhqqi4x", fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)
    record, *others = probes
    with ExitStack() as stack:
        try:
            fcntl.fcntl(stack.enter_context(open(record, "r+b")), fcntl.F_OFD_SETLK, whole_file)
            return False
        except (BlockingIOError, PermissionError):
            pass
        except (OSError, AttributeError):
            return False
        for path in others:
            try:
                fcntl.flock(stack.enter_context(open(path, "r+b")), fcntl.LOCK_EX | fcntl.LOCK_NB)
                return False
            except BlockingIOError:
                pass
            except OSError:
                return False
    return True


def _refused_elsewhere(probes: Sequence[Path], state_dir: Path) -> bool:
    """Whether a second process gets none of the locks; raises CacheError if it gets one in the state directory."""
    import subprocess

    if not sys.executable:
        return True  # embedded: there is no second process that we could start
    command = [sys.executable, "-I", "-S", "-c", _PROBE, *map(str, probes)]
    try:
        with disk_errors("lock files in", state_dir):
            answer = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, check=False, timeout=60)
    except subprocess.TimeoutExpired as error:
        raise CacheError(f"testing locks in {state_dir} took longer than a minute") from error
    if answer.returncode == 3:
        raise CacheError(
            f"locks do not hold between processes in {state_dir}",
            hint="put the cache, or at least FETCHER_STATE_DIR, on a local disk",
        )
    return answer.returncode == 0
