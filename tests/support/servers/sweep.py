"""Takes away what a container engine left: processes, mounts and cgroups, found by the name of the engine's directory.

That name is random and the engine's alone, so that nothing of another engine, or of the machine, can match.
"""

from __future__ import annotations

import ctypes
import os
import re
import signal
import time
from collections.abc import Iterable
from pathlib import Path

_LIBC = ctypes.CDLL(None, use_errno=True)
_MNT_DETACH = 2
_GONE_S = 10.0
_SHIM_SOCKETS = "/run/containerd/s/"


def sweep(directory: Path) -> None:
    """Kill the processes and undo the mounts of the engine in ``directory``, whose own process has ended."""
    deadline = time.monotonic() + _GONE_S
    while found := processes_of(directory):
        sockets = [place for pid in found for place in shim_sockets(pid)]
        for pid in found:
            _kill(pid)
        for shim_socket in sockets:
            shim_socket.unlink(missing_ok=True)
        if time.monotonic() >= deadline:
            raise RuntimeError(f"processes of {directory} outlive a KILL: {found}")
        time.sleep(0.02)
    for place in reversed(mounts_below(directory)):
        if _LIBC.umount2(os.fsencode(place), 0) != 0:
            _LIBC.umount2(os.fsencode(place), _MNT_DETACH)


def processes_of(directory: Path) -> list[int]:
    """Those that name ``directory`` on their command line (shims, monitors) or have their root on a mount made of it
    (what runs in its containers)."""
    name = str(directory)
    found = []
    for entry in os.listdir("/proc"):
        if not entry.isdigit() or int(entry) == os.getpid():
            continue
        try:
            command = Path(f"/proc/{entry}/cmdline").read_bytes()
            if not command:  # of the kernel, or a zombie
                continue
            roots = [line for line in _mountinfo(entry) if line.split(" ", 5)[4] == "/"]
        except OSError:
            continue
        if name.encode() in command or any(name in line for line in roots):
            found.append(int(entry))
    return found


def mounts_below(directory: Path) -> list[str]:
    """Mount points below ``directory``, oldest first."""
    start = f"{os.path.realpath(directory)}/"
    places = [_unescaped(line.split(" ", 5)[4]) for line in _mountinfo("self")]
    return [place for place in places if place.startswith(start)]


def cgroups_named(name: str) -> list[Path]:
    """Cgroups of this name at the top of each hierarchy."""
    top = Path("/sys/fs/cgroup")
    return sorted({*top.glob(f"*/{name}"), *top.glob(name)})


def remove_cgroups(groups: Iterable[Path]) -> None:
    """Remove empty cgroups, with the empty ones in them; one that is in use stays."""
    for group in groups:
        for directory, _, _ in os.walk(group, topdown=False):
            try:
                os.rmdir(directory)
            except OSError:
                pass


def shim_sockets(pid: int) -> list[Path]:
    """Where a shim of containerd listens: outside of the engine's directories, whatever it is told."""
    try:
        held = {os.readlink(entry)[8:-1] for entry in Path(f"/proc/{pid}/fd").iterdir()}
    except OSError:
        return []
    lines = [line.split() for line in Path("/proc/net/unix").read_text().splitlines()[1:]]
    return [Path(line[7]) for line in lines if len(line) > 7 and line[6] in held and line[7].startswith(_SHIM_SOCKETS)]


def _mountinfo(process: str) -> list[str]:
    return Path(f"/proc/{process}/mountinfo").read_text(errors="replace").splitlines()


def _unescaped(place: str) -> str:
    return re.sub(r"\\([0-7]{3})", lambda found: chr(int(found[1], 8)), place)


def _kill(pid: int) -> None:
    try:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, os.WNOHANG)  # ours, where this process adopts orphans
    except (ProcessLookupError, ChildProcessError):
        pass
