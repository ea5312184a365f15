"""What an origin says a resource consists of, pinned to one revision.

Paths in a Manifest have been judged by ``model.paths``: relative, no ``..``, no two that collide. Sizes and digests are
the origin's claims until the engine has checked them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Literal

from fetcher.model.digest import Digest


@dataclass(frozen=True, slots=True)
class Validator:
    """What tells one state of an object from another, where its address does not (RFC 9110, 8.8).

    *Strong*: equal values mean equal bytes, so parts of different connections and runs belong together. *Weak* (a weak
    ETag, or Last-Modified and size): parts within one run, every answer compared. *None*: one stream in one run.
    """

    kind: Literal["strong", "weak", "none"]
    etag: str | None = None
    """As in the header: quoted, with ``W/`` if it is weak."""
    last_modified: str | None = None
    """As in the header."""
    version: str | None = None
    """Version id of an object in a bucket with versions; as strong as an ETag."""

    def __str__(self) -> str:
        return f"{self.kind}:{self.version or ''}:{self.etag or ''}:{'' if self.etag else self.last_modified or ''}"


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
    url: str | None = None
    """Exact address of the body without secrets, where repository, revision and path do not give it (S3)."""
    validator: Validator | None = None
    """What every answer for it is compared with; None where the address or the digest names the bytes for ever."""
    guesses: tuple[Digest, ...] = ()
    """Composite digests of which at most one is meant: the origin does not say where the parts ended. One that is right
    verifies the file; that none is right proves nothing."""

    @property
    def resumable(self) -> bool:
        """Whether bytes of another run, or another flight, are known to be bytes of this content."""
        named = self.digest is not None and self.digest.algorithm in ("sha256", "sha512", "git-sha1")
        return self.validator is None or self.validator.kind == "strong" or (named and self.digest.whole)  # type: ignore[union-attr]

    @property
    def pin(self) -> str:
        """What the bytes are held to be, as the origin says it: validator where there is one, else digest."""
        if self.validator is not None and self.validator.kind == "none":
            return f"{self.validator} {self.digest or ''}"
        return str(self.validator or self.digest or "")

    @property
    def telling(self) -> bool:
        """Whether equal pins mean that nothing has changed, as far as the origin lets anybody tell."""
        return bool(self.validator is None or self.validator.kind != "none" or self.digest)


@dataclass(frozen=True, slots=True)
class Manifest:
    """A pinned revision and its files, ordered by path."""

    origin: str
    """Which dialect made it: ``"hf"``, ``"s3"``, ``"ollama"``."""
    endpoint: str
    """``scheme://host:port`` that answered; of several, the first."""
    repository: str
    """Name at the origin, as ``models/acme/tiny``."""
    revision: str | None
    """Commit or other immutable name that all requests are pinned to; None if the origin has none."""
    private: bool
    """False only if fetched without a credential, or the origin says that anyone may read it."""
    files: tuple[FileEntry, ...]
    closed: bool = False
    """The origin says, or has shown, that not everybody may read it; where False, that is not known."""
    bytes_total: int = field(init=False)
    _told: list[str] = field(init=False, repr=False, compare=False, default_factory=list)
    """What ``digest()`` has found out; of entries there may be very many."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "bytes_total", sum(entry.size for entry in self.files))

    @property
    def folders(self) -> int:
        """How many folders its files lie in, without the top."""
        found: set[str] = set()
        for entry in self.files:
            folder = entry.path.rpartition("/")[0]
            while folder and folder not in found:
                found.add(folder)
                folder = folder.rpartition("/")[0]
        return len(found)

    @property
    def telling(self) -> bool:
        """Whether an equal ``digest()`` means that nothing has changed."""
        return all(entry.telling for entry in self.files)

    def digest(self, found: Iterable[str] = ()) -> str:
        """Hex digest over revision, paths, sizes and pins: equal if and only if the content asked for is the same.

        Of a file with a validator its digests are left out: they may be learned later than its validator. ``found``:
        names of the bytes that came, where nothing tells (see ``telling``): other bytes are then other content.
        """
        telling = self.telling
        if telling and self._told:
            return self._told[0]
        hasher = hashlib.sha256()
        for part in (self.origin, self.endpoint, self.repository, self.revision or ""):
            hasher.update(f"{len(part.encode())}:{part}".encode())
        for entry in self.files:
            row = f"{entry.path}\0{entry.size}\0{entry.pin}"
            hasher.update(f"{len(row.encode())}:{row}".encode())
        for name in () if telling else found:
            hasher.update(f"found {len(name)}:{name}".encode())
        if telling:
            self._told.append(hasher.hexdigest())
        return hasher.hexdigest()
