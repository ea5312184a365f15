"""What an origin says a resource consists of, pinned to one revision.

Paths in a Manifest have been judged by ``model.paths``: relative, no ``..``, no two that collide. Sizes and digests are
the origin's claims until the engine has checked them.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field

from fetcher.model.digest import Digest


@dataclass(frozen=True, slots=True)
class FileEntry:
    """One file of a Manifest."""

    path: str
    """Relative, ``/`` between folders, safe on a POSIX file system."""
    size: int
    """Bytes of content."""
    digest: Digest | None
    """The strongest digest that the origin states; None if it states none."""
    inline: bool = False
    """True where the origin serves the body itself, without a signed URL on another host (Hub: regular git files)."""


@dataclass(frozen=True, slots=True)
class Manifest:
    """A pinned revision and its files, ordered by path."""

    origin: str
    """Which dialect made it: ``"hf"``."""
    endpoint: str
    """``scheme://host:port`` that answered."""
    repository: str
    """Name at the origin, as ``models/acme/tiny``."""
    revision: str | None
    """Commit or other immutable name that all requests are pinned to; None if the origin has none."""
    private: bool
    """False only if fetched without a credential, or the origin says that anyone may read it."""
    files: tuple[FileEntry, ...]
    bytes_total: int = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "bytes_total", sum(entry.size for entry in self.files))

    def digest(self) -> str:
        """Hex digest over revision, paths, sizes and claims: equal if and only if the content asked for is the same."""
        hasher = hashlib.sha256()
        for part in (self.origin, self.endpoint, self.repository, self.revision or ""):
            hasher.update(f"{len(part.encode())}:{part}".encode())
        for entry in self.files:
            row = f"{entry.path}\0{entry.size}\0{entry.digest or ''}"
            hasher.update(f"{len(row.encode())}:{row}".encode())
        return hasher.hexdigest()
