"""One file content that a run has to get: what it is, where it comes from, how far it is. Lanes act on it."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from fetcher.errors import FetcherError
from fetcher.model.asker import Asker
from fetcher.model.digest import Digest
from fetcher.model.manifest import FileEntry, Manifest
from fetcher.plan.transfer import Outcome, Part, State, Transfer
from fetcher.plan.tree import BLOCK_BYTES
from fetcher.plan.watch import Pulse

if TYPE_CHECKING:
    from fetcher.cache.partials import Partial
    from fetcher.cache.records import Blob, PartialHead
    from fetcher.engine.source import Source


class PartEnded(Exception):
    """A part's request ended early; never leaves the engine."""

    def __init__(self, outcome: Outcome, reason: str, *, retry_after_s: float | None = None) -> None:
        super().__init__(reason)
        self.outcome = outcome
        self.reason = reason
        self.retry_after_s = retry_after_s


@dataclass(slots=True, eq=False)
class Active:
    """A request under way."""

    part: Part | None
    """None for a small file."""
    pulse: Pulse
    verdict: Outcome | None = None
    """Why the watchdog ended it."""
    deadline: asyncio.Timeout | None = None
    """Around all that the request awaits."""

    def end_with(self, verdict: Outcome, now: float) -> None:
        """End the request at its next await; ``now`` is the loop's time."""
        if self.verdict is None and self.deadline is not None:
            self.verdict = verdict
            self.deadline.reschedule(now)


@dataclass(slots=True, eq=False)
class FileJob:
    """One content of a run."""

    content_id: str
    entry: FileEntry
    manifest: Manifest
    asker: Asker
    manifest_digest: str
    principal: str | None
    resource: str
    source: Source
    transfer: Transfer
    at: str | None = None
    """JSON path of the resource in its document."""
    fetched: bool = False
    """Its bytes came through this run."""
    mine: bool = False
    """We hold the flight; otherwise another process, or another run of this one, does."""
    previous_owner: str | None = None
    """Whose Partial to take over."""
    others_bytes: int = 0
    """What the flight's owner has proven so far."""
    partial: Partial | None = None
    blob: Blob | None = None
    active: set[Active] = field(default_factory=set)
    drop: Outcome | None = None
    """All blocks must go once the open parts have ended: why."""
    not_before: float = 0.0
    failures: int = 0
    """Early ends in a row without a block between."""
    bytes_adopted: int = 0
    unsynced_bytes: int = 0
    progressed: asyncio.Event = field(default_factory=asyncio.Event)
    """Blocks came, or the end of the parts: the follower looks again."""

    @property
    def size(self) -> int:
        return self.entry.size

    @property
    def small(self) -> bool:
        """At most one block: one request, hashed at once, published in batches, no journal."""
        return self.entry.size <= BLOCK_BYTES

    @property
    def digest(self) -> Digest | None:
        return self.entry.digest

    @property
    def done(self) -> bool:
        return self.transfer.state is State.DONE

    @property
    def bytes_fetched(self) -> int:
        """What this run brought over the network for it, as far as it was kept."""
        return self.size - self.bytes_adopted if self.fetched else 0

    @property
    def bytes_done(self) -> int:
        if self.done:
            return self.size
        return self.transfer.bytes_written if self.mine else min(self.size, self.others_bytes)

    @property
    def verified_by(self) -> str:
        """What the content is checked with before it is published."""
        return self.entry.digest.algorithm if self.entry.digest else "size"

    def wake(self) -> None:
        """Blocks came or a part ended: the attendant looks again."""
        self.progressed.set()

    @contextmanager
    def named(self) -> Iterator[None]:
        """Typed errors that pass here say which resource they are about."""
        try:
            yield
        except FetcherError as error:
            error.about(resource=self.resource, at=self.at)
            raise

    def head(self) -> PartialHead:
        """What the journal says of whose bytes it collects."""
        from fetcher.cache.records import PartialHead

        return PartialHead(
            content_id=self.content_id,
            url=content_url(self.manifest, self.entry),
            size=self.size,
            validator=str(self.entry.digest or self.manifest.revision or ""),
            manifest_digest=self.manifest_digest,
            private=self.manifest.private,
            principal=self.principal if self.manifest.private else None,
            proof="origin" if self.manifest.private else "none",
        )


def content_url(manifest: Manifest, entry: FileEntry) -> str:
    """Pinned address without query. A git blob is the same under every path of its commit; it is named without one."""
    base = f"{manifest.endpoint}/{manifest.repository}@{manifest.revision or ''}"
    git_blob = entry.digest is not None and entry.digest.algorithm == "git-sha1"
    return base if git_blob else f"{base}/{entry.path}"
