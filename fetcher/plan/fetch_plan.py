"""All that will be done, decided before the first body byte. ``--dry-run`` prints this same object."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from fetcher.model.digest import Digest
from fetcher.model.manifest import FileEntry, Manifest
from fetcher.plan import allocation

LINKS_UNRESERVED_BYTES = 1 << 20
"""Directories of links up to here are always had, on a full disk too: what is kept for the index has room for them."""

Action = Literal["empty", "link", "fetch"]


@dataclass(frozen=True, slots=True)
class PlannedFile:
    """What happens to one file of a Manifest."""

    entry: FileEntry
    action: Action
    """``empty``: made; ``link``: its Blob is here and this asker may have it; ``fetch``: transferred."""
    content_id: str
    """Identity of the content for flights and Partials; "" for an empty file."""
    root: str | None = None
    """BLAKE3 root of the Blob to link."""
    bytes_present: int = 0
    """Of a file to fetch: what a Partial of it holds already."""
    compared: Digest | None = None
    """Of a file to link: what its Blob was compared with when it came."""
    elsewhere: bool = False
    """Of a file to fetch: somebody else is at it, and has reserved its space."""

    @property
    def bytes_to_fetch(self) -> int:
        return max(0, self.entry.size - self.bytes_present) if self.action == "fetch" else 0

    @property
    def bytes_to_reserve(self) -> int:
        """With what stands beside them."""
        if self.action != "fetch" or self.elsewhere:
            return 0
        return self.bytes_to_fetch + allocation.beside_bytes(self.entry.size)


@dataclass(frozen=True, slots=True)
class PlannedResource:
    """One resource: a hit, or a manifest to make true."""

    resource: str
    manifest: Manifest | None
    """None for a hit."""
    files: tuple[PlannedFile, ...]
    snapshot_id: str | None = None
    """The Snapshot of a hit."""
    bytes_total: int = 0
    hit_revision: str | None = None
    hit_files: int = 0
    copies: int = 0
    """Private copies that jobs may write to."""

    @property
    def revision(self) -> str | None:
        """Commit that it is pinned to."""
        return self.manifest.revision if self.manifest else self.hit_revision

    @property
    def files_count(self) -> int:
        return len(self.files) if self.manifest else self.hit_files

    @property
    def hit(self) -> bool:
        return self.snapshot_id is not None

    @property
    def bytes_to_fetch(self) -> int:
        return sum(planned.bytes_to_fetch for planned in self.transfers().values())

    @property
    def bytes_of_snapshot(self) -> int:
        """What its directory will take, if it is to be made."""
        return allocation.snapshot_bytes(self.manifest.folders, len(self.files)) if self.manifest is not None else 0

    @property
    def bytes_to_copy(self) -> int:
        """Most that the copies will take; nothing where the file system can share blocks."""
        return self.copies * self.bytes_total

    @property
    def bytes_of_copies(self) -> int:
        """The same with the rounding of each file, and the folders as far as they are known."""
        folders = self.manifest.folders if self.manifest is not None else 0
        return self.bytes_to_copy + self.copies * allocation.UNIT_BYTES * (self.files_count + folders + 1)

    def transfers(self) -> Mapping[str, PlannedFile]:
        """Content id → file, one per content: two paths with the same bytes are one transfer."""
        return {planned.content_id: planned for planned in self.files if planned.action == "fetch"}


@dataclass(frozen=True, slots=True)
class Eviction:
    """A Snapshot that makes room."""

    snapshot_id: str
    resource: str
    bytes: int


@dataclass(frozen=True, slots=True)
class PlannedImage:
    """A container image that a market requires; its bytes go into the store of a container engine, not into ours."""

    name: str
    """The exact name required."""
    action: Literal["present", "pull", "skip"]
    bytes: int | None = None
    """Present: what the engine counts, unpacked. To pull: compressed, as the registry says; None if it does not."""
    reason: str | None = None
    """Why it is skipped."""


@dataclass(frozen=True, slots=True)
class FetchPlan:
    """Everything that one call will do."""

    resources: tuple[PlannedResource, ...]
    bytes_free: int
    """On the file system, minus what others have reserved."""
    evictions: tuple[Eviction, ...] = ()
    fits: bool = True
    bytes_floor: int = 0
    """Must stay free."""
    bytes_reserved: int = 0
    """Promised to other downloads that are under way, and not yet written."""
    bytes_quota: int | None = None
    """What the cache may take in all."""
    bytes_evictable: int = 0
    """Of a plan that does not fit: what removing all that is neither leased nor pinned would free."""
    images: tuple[PlannedImage, ...] = ()

    @property
    def transfers(self) -> dict[str, PlannedFile]:
        """Content id → file over all resources: what is shared is fetched once."""
        return {content: planned for item in self.resources for content, planned in item.transfers().items()}

    @property
    def bytes_to_fetch(self) -> int:
        return sum(planned.bytes_to_fetch for planned in self.transfers.values())

    @property
    def bytes_to_copy(self) -> int:
        return sum(item.bytes_to_copy for item in self.resources)

    @property
    def bytes_to_reserve(self) -> int:
        """All that this plan will write, without what others have promised; 0 for small directories of links alone."""
        transfers = self.transfers
        files = sum(planned.bytes_to_reserve for planned in transfers.values())
        beside = sum(item.bytes_of_snapshot for item in self.resources)
        copies = sum(item.bytes_of_copies for item in self.resources)
        if not transfers and not copies and beside <= LINKS_UNRESERVED_BYTES:
            return 0
        return files + beside + copies

    @property
    def linked_roots(self) -> tuple[str, ...]:
        """Blobs that the plan relies on; they must stay until it is carried out."""
        return tuple(dict.fromkeys(file.root for item in self.resources for file in item.files if file.root))

    @property
    def bytes_total(self) -> int:
        return sum(item.bytes_total for item in self.resources)

    def as_json(self) -> dict[str, Any]:
        """The ``plan`` event of the machine interface."""
        return {
            "event": "plan",
            "resources": [
                {
                    "resource": item.resource,
                    "revision": item.revision,
                    "hit": item.hit,
                    "files": item.files_count,
                    "files_to_fetch": len(item.transfers()),
                    "bytes": item.bytes_total,
                    "bytes_to_fetch": item.bytes_to_fetch,
                    "bytes_to_copy": item.bytes_to_copy,
                }
                for item in self.resources
            ],
            "bytes_to_fetch": self.bytes_to_fetch,
            "bytes_to_copy": self.bytes_to_copy,
            "bytes_to_reserve": self.bytes_to_reserve,
            "bytes_free": self.bytes_free,
            "bytes_quota": self.bytes_quota,
            "fits": self.fits,
            "evictions": [
                {"resource": item.resource, "snapshot": item.snapshot_id, "bytes": item.bytes}
                for item in self.evictions
            ],
            "images": [
                {"name": image.name, "action": image.action, "bytes": image.bytes, "reason": image.reason}
                for image in self.images
            ],
        }


STRONG_ENOUGH_TO_LINK = ("sha256",)
"""A claimed digest is not possession: only a sha256 that we computed ourselves over bytes this asker may have replaces
a download; MD5, ETag, CRC and git-sha1 verify one."""


def may_link(digest: Digest | None) -> bool:
    return digest is not None and digest.whole and digest.algorithm in STRONG_ENOUGH_TO_LINK
