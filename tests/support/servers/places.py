"""Where programs and directories for servers are found. Knows no server."""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from pathlib import Path

from tests.support.cli import CHECKOUT


def find_program(name: str) -> Path | None:
    """A program: of this Python environment first, then of PATH and the administrator's directories."""
    ours = Path(sys.prefix) / "bin" / name
    if os.access(ours, os.X_OK):
        return ours
    found = shutil.which(name, path=program_path())
    return None if found is None else Path(found)


def program_path() -> str:
    """PATH, and where engines and their helpers lie, which an ordinary user's PATH may lack."""
    return os.pathsep.join([os.environ.get("PATH", os.defpath), "/usr/local/sbin", "/usr/sbin", "/sbin"])


def program(name: str) -> Path:
    """The same, where it must be there (tests/support/needs.py has been asked before)."""
    found = find_program(name)
    if found is None:
        raise FileNotFoundError(f"{name} is not installed")
    return found


def parent_with_xattrs() -> Path | None:
    """A directory for temporary things whose file system keeps extended attributes of users; None: there is none.
    The checkout's build directory stands last; it is the one place that is no tmpfs on any machine."""
    for place in (Path(tempfile.gettempdir()), Path("/var/tmp"), CHECKOUT / "build"):
        if place.is_dir() and _keeps_xattrs(place):
            return place
    return None


def is_static(path: Path) -> bool:
    """Whether an ELF program runs alone, without a loader and libraries beside it (no PT_INTERP)."""
    head = path.read_bytes()
    if head[:6] != b"\x7fELF\x02\x01":
        return False
    offset = int.from_bytes(head[32:40], "little")
    size = int.from_bytes(head[54:56], "little")
    count = int.from_bytes(head[56:58], "little")
    kinds = [int.from_bytes(head[offset + size * index :][:4], "little") for index in range(count)]
    return 3 not in kinds


def _keeps_xattrs(place: Path) -> bool:
    try:
        with tempfile.NamedTemporaryFile(prefix="fetcher-xattr-", dir=place) as probe:
            os.setxattr(probe.fileno(), "user.fetcher", b"x" * 2048)
    except OSError:
        return False
    return True
