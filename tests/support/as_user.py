"""Run a command as an ordinary user: ``python as_user.py UID REACHABLE… -- COMMAND…``, as root.

REACHABLE are paths that the user must be able to reach (the interpreter, the checkout). Where one lies below a
directory closed to others (say /root), the command runs in a mount namespace of its own, in which that directory is an
empty, open one that holds only the paths asked for. Nothing changes outside of it. Standard library only, no import of
the product.
"""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

_CLONE_NEWNS = 0x00020000


def closed_ancestor(path: Path) -> Path | None:
    """The outermost directory above ``path`` that other users can't enter; None when the way is open."""
    for directory in reversed(path.parents):
        if not directory.stat().st_mode & 0o001:
            return directory
    return None


def _open_the_way(paths: list[Path]) -> None:
    """In a new mount namespace, replace each closed directory by an open one with only ``paths`` in it."""
    closed = {path: directory for path in paths if (directory := closed_ancestor(path))}
    if not closed:
        return
    if ctypes.CDLL(None, use_errno=True).unshare(_CLONE_NEWNS) != 0:
        raise SystemExit(f"no new mount namespace: {os.strerror(ctypes.get_errno())}")

    def mount(*arguments: str) -> None:
        subprocess.run(["mount", *arguments], check=True)

    mount("--make-rprivate", "/")
    stage = Path(tempfile.mkdtemp(prefix="fetcher-stage-"))
    mount("-t", "tmpfs", "-o", "mode=0755", "fetcher-stage", str(stage))
    for index, path in enumerate(closed):
        (stage / str(index)).mkdir()
        mount("--rbind", str(path), str(stage / str(index)))
    for directory in sorted(set(closed.values())):
        mount("-t", "tmpfs", "-o", "mode=0755", "fetcher-open", str(directory))
    for index, path in enumerate(closed):
        path.mkdir(parents=True, mode=0o755)
        mount("--rbind", str(stage / str(index)), str(path))
    subprocess.run(["umount", "--lazy", str(stage)], check=True)
    stage.rmdir()


def main(arguments: list[str]) -> None:
    end = arguments.index("--")
    user_id = int(arguments[0])
    reachable = sorted({Path(path).resolve() for path in arguments[1:end]})
    command = arguments[end + 1 :]
    outermost = [path for path in reachable if not any(other in path.parents for other in reachable)]
    _open_the_way(outermost)
    os.setgroups([])
    os.setresgid(user_id, user_id, user_id)
    os.setresuid(user_id, user_id, user_id)
    program = shutil.which(command[0]) or command[0]
    os.execv(program, command)


if __name__ == "__main__":
    main(sys.argv[1:])
