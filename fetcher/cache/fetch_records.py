"""The values of fetching, planning and measuring: what ``records`` leaves out because a hit needs none of it.

Times are unix seconds, sizes are bytes, ids and roots are lower-case hex.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fetcher.cache.records import OwnerState
from fetcher.model.digest import Digest


@dataclass(frozen=True, slots=True)
class NewSnapshot:
    """What the engine knows of a Snapshot about to be published."""

    key: str
    uri: str
    resource: Mapping[str, Any]
    """The Resource as JSON values, without secrets."""
    endpoint: str
    manifest_digest: str
    revision: str | None
    private: bool
    principal: str | None
    immutable: bool
    """Named by a full commit or digest: never stale, whatever ``fresh_for_s`` says."""
    downloaded_at: float
    fresh_for_s: float
    keep_for_s: float


@dataclass(frozen=True, slots=True, eq=False)
class Asked:
    """That an origin was asked for what it gives to everybody. Before the cache makes anything of that everybody's, it
    looks whether the origin has said otherwise since. One value for all that one answer brings."""

    at_s: float
    """When, by the boot's clock."""
    key: str
    """Of the Resource."""
    endpoint: str = ""
    stem: str = ""
    """What the URIs of all that is open or closed together begin with; see ``stem_of``."""


@dataclass(frozen=True, slots=True)
class Blob:
    """Immutable verified bytes, named by their BLAKE3 root."""

    root: str
    size: int
    place: str
    """Its path; as text, because thousands of them are made that nobody asks for theirs."""

    @property
    def path(self) -> Path:
        return Path(self.place)


@dataclass(frozen=True, slots=True)
class SmallFile:
    """Content of at most one block, in memory or written already, and compared with what the origin claims."""

    content_id: str
    data: bytes | bytearray | memoryview
    digests: tuple[Digest, ...]
    """Computed by us over ``data``."""
    verified_by: str
    root: str | None = None
    """BLAKE3 root if the caller has it; computed otherwise."""
    staged: str | None = None
    """What was written already is no longer in ``data``: its name in the ``SmallStaging`` that is given with it."""
    staged_bytes: int = 0
    asked: Asked | None = None
    """What it came in answer to; None: it is private anyway, or nobody can close it."""

    @property
    def size(self) -> int:
        return len(self.data) if self.staged is None else self.staged_bytes


@dataclass(frozen=True, slots=True)
class PartialHead:
    """Whose bytes a Partial collects; the first thing in its journal."""

    content_id: str
    """See ``layout.content_id``; equal ids ask for the same bytes in the same scope."""
    url: str
    """Without query: signatures are secrets."""
    size: int
    validator: str
    """Strong validator or stated digest that the bytes belong to; empty: to one run alone, nobody goes on from them."""
    manifest_digest: str
    private: bool
    principal: str | None
    proof: str = "none"
    """Kind of proof that the principal had access: ``none`` (public), ``origin`` (it answered this credential)."""

    def takes(self, other: PartialHead) -> bool:
        """Whether blocks collected under ``other`` are blocks of this content, for the same eyes."""
        return (self.content_id, self.size, self.private, self.principal) == (
            other.content_id,
            other.size,
            other.private,
            other.principal,
        )


@dataclass(frozen=True, slots=True)
class FlightClaim:
    """Who fetches one content now."""

    content_id: str
    mine: bool
    owner_id: str
    """The owner after this call."""
    bytes_proven: int
    """What that owner last said."""
    owner_state: OwnerState
    """State of the owner found; of a former owner if the flight was taken over."""
    previous_owner: str | None = None
    """Whose flight this was, if it was taken over."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """A Snapshot that may be evicted."""

    snapshot_id: str
    resource: str
    """Its URI."""
    bytes: int
    """Freed by removing it, once those before it in its list are gone: what several share goes with the last."""
    last_used_at: float
    blobs: int = 0
    """How many go with it; known where it was worked out what each frees in order."""


@dataclass(frozen=True, slots=True)
class Space:
    """What is left, and what could be made."""

    free_bytes: int
    """What the file system would give us (``f_bavail``)."""
    reserved_bytes: int
    """Promised to transfers under way, ours and others', and not yet written."""
    floor_bytes: int
    """Must stay free."""
    evictable: tuple[Candidate, ...]
    """Least recently used first; neither leased nor pinned."""
    quota_bytes: int | None = None
    """What the cache may take in all; None: the disk is the limit."""
    used_bytes: int = 0
    """What it takes now, with room for its index; not known without a quota."""

    @property
    def disk_bytes(self) -> int:
        """What the disk has for a new Plan; negative if too much is promised already."""
        return self.free_bytes - self.reserved_bytes - self.floor_bytes

    @property
    def quota_left_bytes(self) -> int:
        """What the quota leaves for one."""
        if self.quota_bytes is None:
            return 1 << 62
        return self.quota_bytes - self.used_bytes - self.reserved_bytes

    @property
    def left_bytes(self) -> int:
        """What a new Plan may take without evicting; negative if even less must be taken first, as where a quota was
        lowered."""
        return min(self.disk_bytes, self.quota_left_bytes)

    @property
    def available_bytes(self) -> int:
        """The same for people."""
        return max(0, self.left_bytes)


@dataclass(frozen=True, slots=True)
class Usage:
    """Where the space went; allocated bytes, each body counted once."""

    blob_bytes: int
    partial_bytes: int
    snapshot_bytes: int
    """Directories, sidecars, and bodies that are no Blob's (second bodies)."""
    copy_bytes: int
    """Private copies of Snapshots, with what jobs wrote into them."""
    index_bytes: int
    other_bytes: int
    """Life signs, lists of markets, what is set aside for a full disk, and the directories themselves."""
    quota_bytes: int | None
    total_bytes: int
    """Of the file system."""
    free_bytes: int
    reserved_bytes: int
    """Promised to living downloads, and not yet drawn by them."""
    snapshots: int
    blobs: int
    partials: int
    copies: int
    leases: int
    pins: int

    @property
    def cache_bytes(self) -> int:
        """All of it."""
        parts = (self.blob_bytes, self.partial_bytes, self.snapshot_bytes, self.copy_bytes)
        return sum(parts) + self.index_bytes + self.other_bytes
