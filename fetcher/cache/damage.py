"""What a scrub looks at and finds, as values: a body, a finding before it is confirmed, damage after, and the sum.
Touches no disk.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from fetcher.cache.records import Snapshot

Reason = Literal["content", "unreadable", "size", "missing", "kind", "extra", "sidecar", "tree", "known"]
"""``content``: other bytes than were verified. ``unreadable``: the disk gives an error instead of bytes. ``size``:
another size. ``missing``: no such file. ``kind``: something else than a plain file (or directory) has its name.
``extra``: a Snapshot holds what is not on its list. ``sidecar``: that list is missing or wrong. ``tree``: the chaining
values of a Blob are missing or wrong, while the Blob itself is right. ``known``: found damaged before, and a lease
holds it still."""

Action = Literal["removed", "in_use", "repaired", "none"]
"""``removed``: out of service, nobody gets it any more. ``in_use``: the same, but a lease holds a Snapshot, which stays
for its job until that has ended. ``repaired``: made anew from what is right. ``none``: a dry run only looks."""

Identity = tuple[int, int, int]
"""Device, inode and time of the last change of its bytes: what tells a body from another that has its name now. The
inode alone does not: that of a file just removed is given to the next one that is made."""


def identity_of(status: os.stat_result) -> Identity:
    return status.st_dev, status.st_ino, status.st_mtime_ns


@dataclass(frozen=True, slots=True)
class Place:
    """Where a body shows in a Snapshot, as it was looked at."""

    snapshot: Snapshot
    path: str
    """Relative to the Snapshot's directory; empty for all of it."""
    verified_by: str = "size"


@dataclass(slots=True, eq=False)
class Body:
    """Bytes on the disk, and what they should be. One for all names of an inode that should be the same content. There
    may be millions: it holds no path."""

    root: str
    size: int
    identity: Identity
    blobs: str | None = None
    """The directory of the Blobs, if the Blob's own name is one of this body."""
    places: list[Place] = field(default_factory=list)
    in_use: bool = False
    """A lease holds a Snapshot that it is in."""

    @property
    def path(self) -> Path:
        """The first of its names."""
        return next(self.paths())

    def paths(self) -> Iterator[Path]:
        """Its names; the Blob's own is the first."""
        if self.blobs is not None:
            yield Path(self.blobs, self.root[:2], self.root)
        for place in self.places:
            yield place.snapshot.path / place.path


@dataclass(frozen=True, slots=True)
class Fault:
    """What is wrong with a Snapshot, or with a Blob's name, and can be seen without reading a file's bytes."""

    reason: Reason
    path: Path
    message: str
    place: Place | None = None
    root: str | None = None
    size: int | None = None


@dataclass(frozen=True, slots=True)
class Suspect:
    """Something that looked wrong without its bytes being read. Whether it still does, and was not just being removed,
    is asked again under the lock."""

    faults: tuple[Fault, ...]
    snapshot: Snapshot | None = None
    root: str | None = None
    """Of a Blob, where it is no Snapshot."""


@dataclass(frozen=True, slots=True)
class Finding:
    """A body whose bytes were twice not what they should be. Whether it still has its names is asked under the lock."""

    reason: Reason
    body: Body
    message: str
    identity: Identity
    """Of the body when it had been read."""
    blocks: tuple[int, ...] | None = None
    chaining_values: bytes = field(default=b"", repr=False)
    """What a new ``.tree`` is made of."""
    tree_path: Path | None = None
    """Where that is, if it is all that is wrong."""


@dataclass(frozen=True, slots=True)
class DamagedFile:
    """A file of a Snapshot that is damaged."""

    resource: str
    """URI."""
    snapshot_id: str
    path: str
    """Relative to the Snapshot's directory; empty for the whole of it."""
    leases: tuple[str, ...]
    """Ids of the leases that hold the Snapshot, oldest first."""

    @property
    def lease(self) -> str | None:
        """The oldest of them."""
        return self.leases[0] if self.leases else None


@dataclass(frozen=True, slots=True)
class Damage:
    """One damaged file of the cache, and what became of it."""

    reason: Reason
    path: Path
    """On the disk."""
    message: str
    root: str | None
    """BLAKE3 root that it should have; None where it is no content."""
    size: int | None
    """Bytes that it should have."""
    blocks: tuple[int, ...] | None
    """Indexes of the damaged blocks of 1 MiB; None where they are not known."""
    files: tuple[DamagedFile, ...]
    """Where it shows. Empty: in no Snapshot."""
    action: Action

    @property
    def leases(self) -> tuple[str, ...]:
        """Ids of leases that hold damaged Snapshots."""
        return tuple(dict.fromkeys(lease for file in self.files for lease in file.leases))

    @property
    def resources(self) -> tuple[str, ...]:
        """URIs that are concerned."""
        return tuple(dict.fromkeys(file.resource for file in self.files))


@dataclass(frozen=True, slots=True)
class VerifyReport:
    """What a scrub looked at and found."""

    snapshots: int
    files: int
    """Files of these Snapshots."""
    blobs: int
    bytes: int
    """Read and hashed; a body with several names is read once."""
    damage: tuple[Damage, ...]
    dry_run: bool
    elapsed_s: float
    hidden: int = 0
    """Snapshots that were found damaged before: nobody gets them, so they are not looked at again."""

    @property
    def sound(self) -> bool:
        return not self.damage
