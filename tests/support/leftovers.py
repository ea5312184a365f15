"""What a test left behind: child processes, threads and listening sockets of this process. Reads /proc, changes nothing
but one thing: orphans of our children become our children (``PR_SET_CHILD_SUBREAPER``), so that none can hide.
"""

from __future__ import annotations

import ctypes
import os
import signal
import threading
import time
from dataclasses import dataclass
from pathlib import Path

_PR_SET_CHILD_SUBREAPER = 36
_TCP_LISTEN = "0A"

# Started once per interpreter by the standard library itself, and ended by it.
_EXPECTED_COMMANDS = ("multiprocessing.resource_tracker", "multiprocessing.forkserver")


def adopt_orphans() -> None:
    """Make this process the parent of whatever its children leave running. Once per process."""
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


@dataclass(frozen=True, slots=True)
class Belongings:
    """What this process owns at one moment."""

    children: frozenset[int]
    zombies: frozenset[int]
    threads: frozenset[threading.Thread]
    listening: frozenset[str]

    @classmethod
    def now(cls) -> Belongings:
        living, zombies = _children()
        return cls(living, zombies, frozenset(threading.enumerate()), _listening())

    def beyond(self, earlier: Belongings) -> list[str]:
        """What is here and was not ``earlier``, in words."""
        found = [f"child process {pid}: {_command(pid)}" for pid in sorted(self.children - earlier.children)]
        found += [f"thread {thread.name!r}" for thread in self.threads - earlier.threads]
        found += [f"listening socket {place}" for place in sorted(self.listening - earlier.listening)]
        return found


def left_behind(before: Belongings, *, grace_s: float) -> list[str]:
    """What is left since ``before``; things that are just ending get ``grace_s`` to do so."""
    deadline = time.monotonic() + grace_s
    while True:
        after = Belongings.now()
        for pid in after.zombies - before.zombies - before.children:
            _reap(pid)
        found = after.beyond(before)
        if not found or time.monotonic() >= deadline:
            return found
        time.sleep(0.02)


def end_children(before: Belongings) -> None:
    """Kill the children that are new since ``before``, so that they can't disturb the next test."""
    for pid in Belongings.now().children - before.children:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


def _children() -> tuple[frozenset[int], frozenset[int]]:
    try:
        os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:  # none at all, as before and after nearly every test: no need to read all of /proc
        return frozenset(), frozenset()
    own = os.getpid()
    living, zombies = set(), set()
    for entry in os.listdir("/proc"):
        if not entry.isdigit():
            continue
        try:
            # "pid (comm) state ppid …"; comm may hold blanks and brackets, so read on from the last bracket.
            state, parent = Path(f"/proc/{entry}/stat").read_text().rpartition(")")[2].split()[:2]
        except OSError:
            continue
        if int(parent) != own:
            continue
        if state == "Z":
            zombies.add(int(entry))
        elif not any(expected in _command(int(entry)) for expected in _EXPECTED_COMMANDS):
            living.add(int(entry))
    return frozenset(living), frozenset(zombies)


def _reap(pid: int) -> None:
    # An adopted orphan that has ended: nobody else waits for it, and as a zombie it would look alive to kill(pid, 0).
    try:
        os.waitpid(pid, os.WNOHANG)
    except ChildProcessError:
        pass


def _command(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
    except OSError:
        return "(gone)"


def _listening() -> frozenset[str]:
    sockets = set()
    for descriptor in os.listdir("/proc/self/fd"):
        try:
            target = os.readlink(f"/proc/self/fd/{descriptor}")
        except OSError:
            continue
        if target.startswith("socket:["):
            sockets.add(target[8:-1])
    if not sockets:
        return frozenset()
    inodes = _listening_inodes()
    return frozenset(f"{inodes[inode]} (socket {inode})" for inode in sockets & inodes.keys())


def _listening_inodes() -> dict[str, str]:
    inodes = {}
    for table in ("tcp", "tcp6"):
        try:
            lines = Path(f"/proc/self/net/{table}").read_text().splitlines()[1:]
        except OSError:
            continue
        for line in lines:
            fields = line.split()
            if fields[3] == _TCP_LISTEN:
                inodes[fields[9]] = f"port {int(fields[1].rpartition(':')[2], 16)}"
    return inodes
