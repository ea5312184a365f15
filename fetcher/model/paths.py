"""File names from origins are hostile until they have been here.

Pure string rules; nothing here looks at a disk. What passes can be created below a directory on any Linux file system
and can neither leave it, nor collide with another name of the same Manifest.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable

from fetcher.errors import ForbiddenError

NAME_BYTES_MAX = 255
"""NAME_MAX of Linux file systems."""
PATH_BYTES_MAX = 2048
"""Half of PATH_MAX: the other half belongs to the cache directory in front."""
DEPTH_MAX = 64

_DEVICES = frozenset(
    {"CON", "PRN", "AUX", "NUL", "CONIN$", "CONOUT$"}
    | {f"{port}{number}" for port in ("COM", "LPT") for number in "0123456789\u00b9\u00b2\u00b3"}
)
"""Names that Windows keeps for devices, in any folder and whatever follows a dot (Microsoft: Naming Files, Paths, and
Namespaces). A share or a disk of such a system can't hold them; as a drive or a backslash they are another's syntax."""


_PLAIN = re.compile(
    r"(?:(?!(?:CON|PRN|AUX|NUL|COM[0-9]|LPT[0-9])(?:[./]|\Z))[A-Z0-9_][A-Z0-9_.-]*/){0,15}"
    r"(?!(?:CON|PRN|AUX|NUL|COM[0-9]|LPT[0-9])(?:[./]|\Z))[A-Z0-9_][A-Z0-9_.-]*",
    re.ASCII | re.IGNORECASE,
)
"""Paths that none of the rules below has to look at, if they are not longer than a name may be: nearly all."""


def path_fault(path: str) -> str | None:
    """Why ``path`` is not a safe relative file path, or None."""
    if len(path) <= NAME_BYTES_MAX and _PLAIN.fullmatch(path):
        return None
    if not path:
        return "empty name"
    try:
        raw = path.encode()
    except UnicodeEncodeError:
        return "not encodable as UTF-8"
    if any(character < " " or "\x7f" <= character <= "\x9f" for character in path):
        return "control character in name"
    if "\\" in path:
        return "backslash in name"
    if path.startswith("/"):
        return "absolute path"
    if len(path) > 1 and path[1] == ":" and path[0].isascii() and path[0].isalpha():
        return "drive letter"
    if len(raw) > PATH_BYTES_MAX:
        return f"path longer than {PATH_BYTES_MAX} bytes"
    parts = path.split("/")
    if len(parts) > DEPTH_MAX:
        return f"more than {DEPTH_MAX} folders deep"
    for part in parts:
        if part in ("", ".", ".."):
            return f"path segment {part!r}"
        if len(part.encode()) > NAME_BYTES_MAX:
            return f"name longer than {NAME_BYTES_MAX} bytes"
        if part.partition(".")[0].rstrip(" ").upper() in _DEVICES:
            return f"reserved name {part!r}"
    return None


def safe_path(path: str) -> str:
    """``path`` itself if it is safe; raises ForbiddenError that names it otherwise."""
    fault = path_fault(path)
    if fault:
        raise ForbiddenError(f"the origin lists a file with an unsafe name ({fault}): {path[:120]!r}")
    return path


def _folded(path: str) -> str:
    """The same for all spellings that a file system without case takes for one (Unicode 3.13, canonical caseless
    matching: folding may leave what has to be decomposed once more)."""
    if path.isascii():
        return path.lower()
    return unicodedata.normalize("NFD", unicodedata.normalize("NFD", path).casefold())


def check_tree(paths: Iterable[str], folders_max: int = 1_000_000) -> None:
    """Refuse a list of safe paths that can't live in one directory: doubles, a file where a folder is, names that
    differ only in case or in Unicode form (they collide on some file systems, and invite confusion on all).

    Raises ForbiddenError that names both.
    """
    files: dict[str, str] = {}
    folders: dict[str, str] = {}
    for path in paths:
        folded = _folded(path)
        if folded in files:
            other = files[folded]
            word = "twice" if other == path else f"beside {other[:120]!r}, which differs only in case or Unicode form"
            raise ForbiddenError(f"the origin lists {path[:120]!r} {word}")
        files[folded] = path
        end = path.rfind("/")
        while end > 0:
            folder = path[:end]
            if len(folders) > folders_max:
                raise ForbiddenError(f"the origin's files lie in more than {folders_max} folders")
            folded_folder = _folded(folder)
            known = folders.setdefault(folded_folder, folder)
            if known != folder:
                raise ForbiddenError(
                    f"the origin lists folders {known[:120]!r} and {folder[:120]!r}, "
                    "which differ only in case or Unicode form"
                )
            if known is not folder:
                break  # this folder, and so all above it, was seen before
            end = path.rfind("/", 0, end)
    for folded, folder in folders.items():
        if folded in files:
            raise ForbiddenError(f"the origin lists {files[folded][:120]!r} as a file and {folder[:120]!r} as a folder")
