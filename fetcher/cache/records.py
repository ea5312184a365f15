"""The values of the cache: frozen facts that rooms hand to each other and to the engine. Nothing here touches a disk.

Times are unix seconds, sizes are bytes, ids and roots are lower-case hex. What only fetching, planning and measuring
need is defined in ``fetch_records`` and imported from here when it is first asked for: making the classes would cost a
hit several milliseconds.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from fetcher.errors import CacheError
from fetcher.model.digest import Digest

if TYPE_CHECKING:
    from fetcher.cache.fetch_records import (
        Asked,
        Blob,
        Candidate,
        FlightClaim,
        NewSnapshot,
        PartialHead,
        SmallFile,
        Space,
        Usage,
    )

__all__ = [
    "Asked",
    "Blob",
    "Candidate",
    "FlightClaim",
    "GcReport",
    "GoneError",
    "Lease",
    "LeaseKind",
    "NewSnapshot",
    "OwnerState",
    "PartialHead",
    "Pin",
    "Recovery",
    "SmallFile",
    "Snapshot",
    "SnapshotFile",
    "Space",
    "Usage",
]

OwnerState = Literal["alive", "dead", "lost"]
"""``alive``: lock held and heart beating. ``dead``: the lock is free. ``lost``: lock held, heart silent (stopped)."""

NOBODY = "!nobody"
"""The principal of what is private to nobody in particular, or was public and is no longer; no hash reads so."""

LeaseKind = Literal["timed", "process"]


class GoneError(CacheError):
    """Something that was there a moment ago was removed by another process; the caller starts over from a plan."""

    retryable = True

    def __init__(self, message: str, *, ids: tuple[str, ...] = (), hint: str | None = None) -> None:
        super().__init__(message, hint=hint or "another process cleaned up at the same time; run the command again")
        self.ids = ids
        """Roots of Blobs, or ids of Snapshots, that are no longer there."""


class ReplacedError(CacheError):
    """The index that we have open is the cache's no longer: another process made it anew, or it was removed."""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """One complete directory of one Manifest."""

    id: str
    key: str
    """Key of the Resource that it answers."""
    uri: str
    revision: str | None
    path: Path
    endpoint: str
    bytes: int
    files: int
    """Number of files."""
    verified_by: str
    """The weakest of its files' words."""
    private: bool
    principal: str | None
    """Keyed hash of the credential it was fetched with; who may have it if it is private. See ``Asker.principals``."""
    downloaded_at: float
    validated_at: float
    """When the origin last said that this is current."""
    last_used_at: float
    fresh_until: float | None
    """None: never goes stale."""
    keep_until: float
    """Then an unleased, unpinned Snapshot may be removed."""
    manifest_digest: str
    damaged: bool = False
    """Nobody gets it any more; it stays for whoever leases it, and for what is sound of it."""

    @property
    def withdrawn(self) -> bool:
        """It was public, and its origin says that it is no longer: nobody is given it, leases on it go on."""
        return self.principal == NOBODY

    def fresh(self, now: float) -> bool:
        """Whether a hit may be answered without asking the origin."""
        return self.fresh_until is None or now < self.fresh_until


@dataclass(frozen=True, slots=True)
class SnapshotFile:
    """One file of a Snapshot."""

    path: str
    """Relative to the Snapshot's directory."""
    size: int
    root: str | None
    """BLAKE3 root; None for a file of zero bytes, which has no Blob."""
    digest: Digest | None
    """What the origin claimed."""
    verified_by: str


@dataclass(frozen=True, slots=True)
class Lease:
    """A right of use of some Snapshots."""

    id: str
    kind: LeaseKind
    snapshot_ids: tuple[str, ...]
    expires_at: float | None
    """None for a process lease: until released, or its owner is gone."""
    owner_id: str | None
    """The owner of a process lease."""
    created_at: float
    owner_pid: int | None = None
    """A timed lease may also end with this process."""


@dataclass(frozen=True, slots=True)
class Pin:
    """Snapshots of a Resource are kept until unpinned."""

    name: str
    resource_key: str
    created_at: float
    principal: str | None = None
    """As whom a prefetch asks for it; what of it may be shared, where an operator says so."""


@dataclass(frozen=True, slots=True)
class Recovery:
    """What was found when an index was made anew from what is on the disk."""

    adopted: tuple[str, ...] = ()
    """Ids of Snapshots."""
    refused: tuple[str, ...] = ()
    """Snapshots whose sidecar or directory is not whole."""
    blobs: int = 0
    """Bodies that no Snapshot refers to, adopted because their trees prove them."""
    set_aside: Path | None = None
    """Where the old index is now; None: there was none."""
    outdated: bool = False
    """It was an older version's, and not damaged."""
    pins: int = 0
    """Taken from the old index."""
    leases: int = 0

    def __str__(self) -> str:
        """For people; empty if there is nothing to tell."""
        found = [(len(self.adopted), "resource"), (self.blobs, "file"), (self.pins, "pin"), (self.leases, "lease")]
        kept = ", ".join(f"{count} {word}{'s' if count != 1 else ''}" for count, word in found if count)
        if not kept and not self.refused and self.set_aside is None:
            return ""
        why = "was missing" if self.set_aside is None else "is of an older version" if self.outdated else "was damaged"
        text = f"the index {why} and was made anew from what is in the cache: {kept or 'nothing'} found again"
        if self.refused:
            text += f", {len(self.refused)} left out that {'is' if len(self.refused) == 1 else 'are'} not whole"
        if self.set_aside is None:
            text += "; leases and pins are lost"
        elif not self.outdated:
            text += f"; leases and pins as far as they could be read ({self.set_aside.name} is kept)"
        return text


@dataclass(frozen=True, slots=True)
class GcReport:
    """What was removed (or, dry, what would be)."""

    snapshots: tuple[str, ...] = ()
    """Their ids."""
    blobs: int = 0
    partials: int = 0
    leftovers: int = 0
    """Staging, trash and owner files of crashed processes."""
    leases_ended: int = 0
    copies: int = 0
    """Private copies of leases that have ended."""
    bytes_freed: int = 0
    """Of bodies whose last name went away."""
    dry_run: bool = False

    def __add__(self, other: GcReport) -> GcReport:
        return GcReport(
            self.snapshots + other.snapshots,
            self.blobs + other.blobs,
            self.partials + other.partials,
            self.leftovers + other.leftovers,
            self.leases_ended + other.leases_ended,
            self.copies + other.copies,
            self.bytes_freed + other.bytes_freed,
            self.dry_run or other.dry_run,
        )


def __getattr__(name: str) -> object:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from fetcher.cache import fetch_records

    return getattr(fetch_records, name)
