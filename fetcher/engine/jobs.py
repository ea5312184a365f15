"""One file content that a run has to get: what it is, where it comes from, how far it is. Lanes act on it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from fetcher import hashing
from fetcher.errors import FetcherError, TransportError
from fetcher.model.asker import Asker
from fetcher.model.digest import STRENGTH, Digest
from fetcher.model.manifest import FileEntry, Manifest
from fetcher.plan.transfer import Outcome, Part, State, Transfer
from fetcher.plan.tree import BLOCK_BYTES, block_count
from fetcher.plan.watch import Pulse

if TYPE_CHECKING:
    from fetcher.cache.partials import Partial
    from fetcher.cache.records import Asked, Blob, PartialHead
    from fetcher.cache.store import Cache
    from fetcher.engine.admission import Place
    from fetcher.engine.source import Source


WITH_BODY = ("crc32", "crc32c", "crc64nvme", "sha1", "md5")
"""Digests that an answer with a body may have added to what the listing stated."""


class PartEnded(Exception):
    """A part's request ended early; never leaves the engine."""

    def __init__(self, outcome: Outcome, reason: str, *, retry_after_s: float | None = None) -> None:
        super().__init__(reason)
        self.outcome = outcome
        self.reason = reason
        self.retry_after_s = retry_after_s


class OriginChangedError(TransportError):
    """Other bytes are under a name than those that were resolved: the resource has to be resolved once more."""


@dataclass(slots=True, eq=False)
class Active:
    """A request under way."""

    part: Part | None
    """None for a small file."""
    pulse: Pulse
    place: Place | None = None
    """Where it is admitted."""
    job: FileJob | None = None
    """Whose bytes it brings, once it is begun."""
    booked_bytes: int = 0
    """Of what it received, what its host's window knows of."""
    answered_s: float = 0.0
    """From the request to the head of its answer."""
    leaves_after_block: bool = False
    """It is given up for being slow, once the block under way is whole."""
    verdict: Outcome | None = None
    """Why the watchdog ended it."""
    _task: asyncio.Task[Any] | None = None
    """Who awaits its answer."""
    _cancelling: int = 0
    """Cancellations of that task that were under way before."""
    _ending: asyncio.Handle | None = None
    _ended: bool = False

    def begin(self) -> None:
        """The task that calls this awaits the answer, until ``leave``."""
        self._task = asyncio.current_task()
        assert self._task is not None
        self._cancelling = self._task.cancelling()

    def end_with(self, verdict: Outcome) -> None:
        """End the request at its next await."""
        if self.verdict is None and self._task is not None:
            self.verdict = verdict
            self._ending = self._task.get_loop().call_soon(self._end)

    def _end(self) -> None:
        assert self._task is not None
        self._ended = True
        self._task.cancel()

    def leave(self, error: BaseException | None) -> bool:
        """Nothing of it is awaited any more, as ``error`` has ended it, or None. True: that was ``end_with``, and not
        somebody who cancels the task (the same bookkeeping as that of ``asyncio.timeout``)."""
        task, self._task = self._task, None
        if self._ending is None or task is None:
            return False
        self._ending.cancel()
        if not self._ended:
            return False
        return task.uncancel() <= self._cancelling and isinstance(error, asyncio.CancelledError)


@dataclass(slots=True, eq=False)
class FileJob:
    """One content of a run."""

    content_id: str
    entry: FileEntry
    manifest: Manifest
    asker: Asker
    manifest_digest: str
    principal: str | None
    asked: Asked | None
    """What is looked up before its bytes are made everybody's; None: they are private anyway."""
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
    bytes_counted: int = 0
    """Of that, what the run's numbers have in them: who waits sees how far the owner is."""
    partial: Partial | None = None
    crcs: hashing.BlockCrcs | None = None
    """CRCs of the blocks as they come, where the origin states one of the whole."""
    verified: tuple[Digest, ...] = ()
    """What the origin claims and the bytes were found to be."""
    blob: Blob | None = None
    handed_over: bool = False
    """A small file that is verified and waits for the disk."""
    abandoned: bool = False
    """Nobody needs it any more: its resource has failed elsewhere."""
    ended: bool = False
    """The run is through with it, one way or the other."""
    active: set[Active] = field(default_factory=set)
    drop: Outcome | None = None
    """All blocks must go once the open parts have ended: why."""
    moves: int = 0
    """How often it was moved because it was slow, where it is small; larger ones count it for each block."""
    distrusted: bool = False
    """The origin denied what its blocks were collected under: no other run may go on from them."""
    draw: Callable[[int], None] = lambda _: None
    """Told of bytes about to be written: they are reserved, or NoSpaceError."""
    draw_beside: Callable[[int], None] = lambda _: None
    """The same of bytes that another request may write as well; NoSpaceError where there is room for them once only."""
    wrote: Callable[[int], None] = lambda _: None
    """Told that they are."""
    undraw: Callable[[int], None] = lambda _: None
    """Told that they are not, after all."""
    no_room_for_hedges: bool = False
    """What is asked for twice is promised twice, and there was no room for that."""
    refused: bool = False
    """Who asked for some of it a second time was refused, and who asks next may be: what comes is left alone."""
    direct: bool = False
    """Blocks bypass the page cache: nothing reads them back."""
    not_before: float = 0.0
    streams_lost: int = 0
    """Of a file that must come in one answer: how often that ended early."""
    failures: int = 0
    """Early ends in a row without a block between."""
    bytes_adopted: int = 0
    progressed: asyncio.Event = field(default_factory=asyncio.Event)
    """What somebody waits for may be there: blocks to read back, the last block, the end of a part."""
    hungry: bool = False
    """Somebody waits for blocks to read back."""

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
        """What the content was compared with."""
        return self.verified[0].algorithm if self.verified else "size"

    @property
    def one_stream(self) -> bool:
        """Nothing tells two answers for it apart: its bytes must come in one."""
        return self.entry.validator is not None and self.entry.validator.kind == "none" and not self.entry.resumable

    def draw_ahead(self, start: int, byte_count: int, hedge: bool) -> None:
        """A worker call: bytes from ``start``, the start of a block, are about to be written, by a second request
        (``hedge``) or by the first. Raises NoSpaceError."""
        (self.draw_beside if hedge else self.draw)(byte_count)
        if not self.direct or self.partial is None:
            return
        try:
            self.partial.preallocate(start // BLOCK_BYTES, block_count(start + byte_count))
        except BaseException:
            self.undraw(byte_count)
            raise

    def wake(self) -> None:
        """Something came or ended: the attendant and the feeders of digests look again."""
        self.progressed.set()

    def block_came(self) -> None:
        """One more block is written. Most say nothing to anybody, and a task that wakes costs as much as all else that
        is done for a block on the loop; what is due to be synced ``unsynced`` says."""
        if self.hungry or self.transfer.whole:
            self.hungry = False
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
            validator=content_pin(self.manifest, self.entry) if self.entry.resumable else "",
            manifest_digest=self.manifest_digest,
            private=self.manifest.private,
            principal=self.principal if self.manifest.private else None,
            proof="origin" if self.manifest.private else "none",
        )


def compared(cache: Cache, entry: FileEntry, root: str) -> Digest | None:
    """What the bytes of a Blob were compared with when they came, as far as it is what the origin states now."""
    if entry.validator is None:
        return entry.digest
    # The validator says that it is the same content; which of its digests was looked at then, the Blob knows. Others
    # that it is known by may be another origin's word, except those that only an S3 gives, and with the body itself.
    known = cache.blobs.digests(root)
    stated = [digest for digest in known if digest == entry.digest or digest in entry.guesses]
    with_body = [digest for digest in known if digest.algorithm in WITH_BODY]
    return max(stated or with_body, key=lambda digest: STRENGTH.index(digest.algorithm), default=None)


def content_pin(manifest: Manifest, entry: FileEntry) -> str:
    """What the bytes are held to be."""
    return entry.pin or manifest.revision or ""


def content_url(manifest: Manifest, entry: FileEntry) -> str:
    """Address without query. A git blob is the same under every path of its commit; it is named without one."""
    if entry.url is not None:
        return entry.url
    base = f"{manifest.endpoint}/{manifest.repository}@{manifest.revision or ''}"
    git_blob = entry.digest is not None and entry.digest.algorithm == "git-sha1"
    return base if git_blob else f"{base}/{entry.path}"
