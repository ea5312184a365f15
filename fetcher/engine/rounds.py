"""One plan and what becomes of it: which resource needs which content, what a failure means to whom, what to publish.

Books only; the engine does the work.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from copy import copy
from dataclasses import dataclass, field, replace

from fetcher import hashing
from fetcher.cache.records import Asked, GoneError
from fetcher.config import Settings
from fetcher.engine.asks import Ask
from fetcher.engine.follow import crc_of, trailing
from fetcher.engine.jobs import FileJob, OriginChangedError
from fetcher.engine.resolve import Prepared
from fetcher.engine.source import Source
from fetcher.errors import FetcherError
from fetcher.model.manifest import FileEntry, Manifest
from fetcher.net.pacing import Pacer
from fetcher.plan.fetch_plan import FetchPlan, PlannedFile
from fetcher.plan.transfer import Transfer

CHANGED_TRIES = 2
"""An origin that changes under our hands is resolved once more; so is what was cleaned away under our hands."""

PublishedRow = tuple[FileEntry, str | None, str]
"""Entry, root of its Blob (None: no bytes), what it was verified by; as ``cache.publish`` takes it."""


@dataclass(slots=True)
class Round:
    """Prepared asks, their plan, its jobs, and which of the asks can't be had."""

    prepared: list[Prepared]
    plan: FetchPlan
    jobs: dict[str, FileJob] = field(default_factory=dict)
    """Content id → job."""
    draw: Callable[[int], None] = lambda _: None
    """Told of bytes about to be written, once there is a reservation."""
    failed: dict[int, FetcherError] = field(default_factory=dict)
    """Index in ``prepared`` → why it can't be had."""
    again: set[int] = field(default_factory=set)
    """Indexes that failed by another's request, and are tried with their own."""

    def make_jobs(self, settings: Settings, pacer: Pacer) -> None:
        """One job per content to fetch; large ones first, largest first: they are the longest way."""
        jobs: dict[str, FileJob] = {}
        for item, planned in zip(self.prepared, self.plan.resources, strict=True):
            if item.manifest is None:
                continue
            digest, uri, asked = item.manifest.digest(), item.ask.resource.uri(), item.asked()
            for content, file in planned.transfers().items():
                if content not in jobs:
                    jobs[content] = _job(item, item.manifest, asked, digest, uri, content, file, settings, pacer)
        self.jobs = dict(sorted(jobs.items(), key=lambda pair: -pair[1].size))

    def needed_by(self) -> dict[str, set[int]]:
        """Content id → indexes of what needs it."""
        needed: dict[str, set[int]] = {content: set() for content in self.jobs}
        for index, planned in enumerate(self.plan.resources):
            for content in planned.transfers():
                needed[content].add(index)
        return needed

    def failing(self) -> Callable[[FileJob, FetcherError], list[FileJob]]:
        """What a run is to do when a job can't be had: book whom it concerns, and tell which jobs are void by that."""
        needed_by = self.needed_by()

        def failed(job: FileJob, error: FetcherError) -> list[FileJob]:
            for index in needed_by[job.content_id]:
                if self.prepared[index].manifest is job.manifest:
                    self.failed.setdefault(index, error)
                else:
                    self.again.add(index)
            # What is to be tried again goes on meanwhile: only this content of it has to be asked for otherwise.
            return [
                other
                for content, other in self.jobs.items()
                if other is job or needed_by[content] <= self.failed.keys()
            ]

        return failed

    def fail_missing(self, error: FetcherError) -> None:
        """The run has ended with ``error`` before everything was here."""
        for content, indexes in self.needed_by().items():
            if self.jobs[content].blob is None:
                for index in indexes - self.again:
                    self.fail(index, error)

    def fail(self, index: int, error: FetcherError) -> None:
        """Book an error that may concern others, too: each is told of its own resource."""
        if index not in self.failed:
            ask, own = self.prepared[index].ask, copy(error)
            own.resource, own.at = ask.resource.uri(), ask.at
            self.failed[index] = own

    @property
    def had(self) -> list[int]:
        """Indexes of what is here."""
        return [index for index in range(len(self.prepared)) if index not in self.failed and index not in self.again]

    @property
    def complete(self) -> list[int]:
        """Indexes of what is here while the run still goes on."""
        return [
            index
            for index in self.had
            if all(self.jobs[content].blob is not None for content in self.plan.resources[index].transfers())
        ]

    def once_more(self, tries: dict[Ask, int]) -> list[Ask]:
        """Asks worth another round; ``tries`` counts those in which each failed by itself, and is kept up to date."""
        found = []
        for index in sorted(self.failed.keys() | self.again):
            ask = self.prepared[index].ask
            if index not in self.failed:  # each such round ends at least one other's asking
                found.append(ask)
                continue
            tries[ask] = tries.get(ask, 0) + 1
            if isinstance(self.failed[index], OriginChangedError | GoneError) and tries[ask] < CHANGED_TRIES:
                found.append(ask)
        return found

    def rows(self, index: int) -> Sequence[PublishedRow]:
        """The files of one ask, to be published."""
        return [_row(file, self.jobs) for file in self.plan.resources[index].files]


def _job(
    item: Prepared,
    manifest: Manifest,
    asked: Asked | None,
    manifest_digest: str,
    uri: str,
    content: str,
    file: PlannedFile,
    settings: Settings,
    pacer: Pacer,
) -> FileJob:
    entry = file.entry
    assert item.origin is not None
    crc = crc_of(entry)
    job = FileJob(
        content_id=content,
        entry=entry,
        manifest=manifest,
        asker=item.ask.asker,
        manifest_digest=manifest_digest,
        principal=item.principal,
        asked=asked,
        resource=uri,
        at=item.ask.at,
        source=Source(item.origin, pacer, manifest, entry, item.ask.asker),
        transfer=_transfer(entry, settings),
        crcs=hashing.BlockCrcs(crc, entry.size) if crc else None,
        direct=hashing.HAS_TREE and not trailing(entry),
    )
    job.transfer.ranges = not job.one_stream
    return job


def _transfer(entry: FileEntry, settings: Settings) -> Transfer:
    window_bytes = max(settings.window_bytes, settings.part_bytes) if trailing(entry) else None
    return Transfer(entry.size, part_bytes=settings.part_bytes, window_bytes=window_bytes)


def _row(file: PlannedFile, jobs: dict[str, FileJob]) -> PublishedRow:
    if file.action == "empty":
        # A file of no bytes is its own proof: its size says all there is to say, and what looked like a digest of it
        # (the ETag of an encrypted object) may be none.
        claim = file.entry.digest
        compared = claim if claim is not None and hashing.matches(claim, b"") else None
        return replace(file.entry, digest=compared), None, compared.algorithm if compared else "size"
    compared, root = file.compared, file.root
    if file.action == "fetch":
        job = jobs[file.content_id]
        assert job.blob is not None
        compared, root = (job.verified[0] if job.verified else None), job.blob.root
    # No new entry where this one says it already, as mostly: of entries there may be very many.
    entry = file.entry if compared is file.entry.digest else replace(file.entry, digest=compared)
    return entry, root, compared.algorithm if compared else "size"
