"""Where a resource appears inside a container: pure rules about absolute POSIX paths, no look at any disk."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final, TypeVar

from fetcher.model.mount import MountRequest
from fetcher.model.paths import DEPTH_MAX, NAME_BYTES_MAX, PATH_BYTES_MAX
from fetcher.model.text import shown, unencodable

RESERVED: Final = ("/proc", "/sys", "/dev")
"""The kernel's own trees: a mount there breaks the container or fools the programs in it."""

Placed = TypeVar("Placed", bound=MountRequest)


def target_fault(target: str) -> str | None:
    """Why ``target`` can't be a mount point in a container, or None."""
    if not target:
        return "target is empty"
    if unencodable(target) or not target.isprintable():
        return f"target has characters that can't be printed: {shown(target)}"
    if not target.startswith("/"):
        return f"target is not an absolute path: {shown(target)}"
    parts = target.split("/")
    if ".." in parts:
        return f"target has a '..' in it: {shown(target)}"
    if len(target.encode()) > PATH_BYTES_MAX or len(parts) > DEPTH_MAX:
        return f"target is longer than {PATH_BYTES_MAX} bytes or deeper than {DEPTH_MAX} folders"
    if any(len(part.encode()) > NAME_BYTES_MAX for part in parts):
        return f"target has a name longer than {NAME_BYTES_MAX} bytes"
    normal = normalise_target(target)
    if normal == "/":
        return "target is the container's root"
    for reserved in RESERVED:
        if normal == reserved or normal.startswith(f"{reserved}/"):
            return f"target is in {reserved}, which belongs to the kernel"
    return None


def normalise_target(target: str) -> str:
    """``//data/./models/`` → ``/data/models``. For targets that ``target_fault`` has passed."""
    return "/" + "/".join(part for part in target.split("/") if part not in ("", "."))


def outermost_first(mounts: Iterable[Placed]) -> list[Placed]:
    """Sorted by depth, else as they came: an inner mount must be made after the one around it, or it is hidden."""
    return sorted(mounts, key=lambda mount: mount.target.count("/"))
