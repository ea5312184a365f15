"""What a scrub finds, as values: a finding before it is confirmed, damage after, and the sum. Touches no disk."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from fetcher.cache.records import Snapshot

Reason = Literal["content", "unreadable", "size", "missing", "kind", "extra", "sidecar", "tree"]
"""``content``: other bytes than were verified. ``unreadable``: the disk gives an error instead of bytes. ``size``:
another size. ``missing``: no such file. ``kind``: something else than a plain file (or directory) has its name.
``extra``: a Snapshot holds what is not on its list. ``sidecar``: that list is missing or wrong. ``tree``: the chaining
values of a Blob are missing or wrong, while the Blob itself is right."""

Action = Literal["removed", "in_use", "repaired", "none"]
"""``removed``: out of service, nobody gets it any more. ``in_use``: the same, but a lease holds a Snapshot, which stays
for its job until that has ended. ``repaired``: made anew from what is right. ``none``: a dry run only looks."""

Identity = tuple[int, int, int]
"""Device, inode and time of the last change of its bytes: what tells a body from another that has its name now. The
inode alone does not: that of a file just removed is given to the next one that is made."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where a body shows in a Snapshot, as it was looked at."""

    snapshot: Snapshot
    path: str
    """Relative to the Snapshot's directory; empty for all of it."""
    verified_by: str = "size"


@dataclass(frozen=True, slots=True)
class Finding:
    """Something that looked damaged. Whether it still is, and was not just being removed, is asked under the lock."""

    reason: Reason
    path: Path
    message: str
    noticed_at: float
    """Monotonic seconds."""
    places: tuple[Place, ...] = ()
    root: str | None = None
    size: int | None = None
    identity: Identity | None = None
    """The body whose bytes are wrong; None where it is not about bytes."""
    of_blob: bool = False
    """What is damaged has, or had, the Blob's own name."""
    blocks: tuple[int, ...] | None = None
    chaining_values: bytes = field(default=b"", repr=False)
    """What a new ``.tree`` is made of."""


@dataclass(frozen=True, slots=True)
class DamagedFile:
    """A file of a Snapshot that is damaged."""

    resource: str
    """URI."""
    snapshot_id: str
    path: str
    """Relative to the Snapshot's directory; empty for the whole of it."""
    lease: str | None
    """Id of a lease that holds the Snapshot."""


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
        return tuple(dict.fromkeys(file.lease for file in self.files if file.lease is not None))

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

    @property
    def sound(self) -> bool:
        return not self.damage
