"""One large file from its first part to its Blob: the in-order digests that trail the parts, the verdict, the commit.

The *follower* trails the first missing block and reads back what was just written from the page cache: an origin's
SHA-256 or git-sha1 can't be computed out of order. It never stops a part that has started; how far it trails decides
which part may start (``plan.transfer``). In plain mode (no native core) our own BLAKE3 root rides with it.
"""

from __future__ import annotations

from collections.abc import Callable

from fetcher import hashing
from fetcher.engine.jobs import FileJob
from fetcher.engine.observe import Observer
from fetcher.engine.tools import Tools
from fetcher.errors import IntegrityError, TransportError
from fetcher.model.digest import Digest
from fetcher.model.manifest import FileEntry
from fetcher.plan.transfer import Event, Outcome, State
from fetcher.plan.tree import BLOCK_BYTES, block_length

FOLLOW_BYTES = 8 << 20
"""Read back per worker call: long enough that the call itself does not count, short enough to be waited for."""


STREAMS_MAX = 5
"""Tries of a file whose bytes must come in one answer, as nothing tells two answers apart."""


def crc_of(entry: FileEntry) -> str | None:
    """The CRC that the origin states of the whole: combined from those of the blocks, in whatever order they come."""
    claim = entry.digest
    return claim.algorithm if claim is not None and claim.whole and claim.algorithm in hashing.CRC_BYTES else None


def in_order(entry: FileEntry) -> tuple[Digest, ...]:
    """What of the origin's claims has to be computed from the first byte to the last."""
    if entry.digest is not None:
        return () if crc_of(entry) else (entry.digest,)
    return entry.guesses


class Attendant:
    """The one task that walks a large file's state machine."""

    def __init__(
        self,
        job: FileJob,
        tools: Tools,
        observer: Observer,
        changed: Callable[[], None],
        progressed: Callable[[], None],
    ) -> None:
        self._job = job
        self._tools = tools
        self._observer = observer
        self._changed = changed
        self._progressed = progressed
        self._buffer: bytearray | None = None
        self._unsummed: list[int] | None = None
        """Blocks that an earlier run left, last first: their CRCs have to be read back. None: not looked for yet."""

    async def execute(self) -> None:
        """Return when the job has its blob, or nobody needs it any more. Raises a typed error when the origin's bytes
        can't be made right."""
        job = self._job
        while True:
            computed = await self._follow()
            if job.abandoned:
                await self._parts_ended()
                return
            if computed is None:
                await self._drop()
            elif self._right(computed):
                job.transfer.on(Event.DIGEST_RIGHT)
                await self._commit(computed)
                return
            else:
                await self._reject(computed)

    # -- the follower ------------------------------------------------------------------------------------------------

    async def _follow(self) -> dict[str, str] | None:
        """Digests of the whole content, name → hex; None if its blocks have to be dropped, or nobody needs them."""
        job = self._job
        digests = [hashing.InOrderDigest.like(claim, job.size) for claim in in_order(job.entry)]
        if not hashing.HAS_TREE and not any(digest.name == "blake3" for digest in digests):
            digests.append(hashing.InOrderDigest.new("blake3", job.size))  # blocks have no chaining values
        offset = 0
        while not (job.transfer.whole and (offset == job.size or not digests) and not self._blocks_to_sum()):
            if job.drop is not None or job.abandoned:
                return None
            if job.unsynced_bytes >= self._tools.settings.sync_bytes:
                job.unsynced_bytes = 0
                assert job.partial is not None
                await self._tools.workers.slow(job.partial.sync)
                continue
            if self._blocks_to_sum():
                await self._tools.workers.slow(self._sum_some, self._blocks_to_sum())
                self._progressed()
                continue
            readable = job.transfer.readable_bytes
            if not digests or readable == offset:
                job.progressed.clear()
                await job.progressed.wait()
                continue
            stop = min(readable, offset + FOLLOW_BYTES)
            await self._tools.workers.slow(self._advance, digests, offset, stop)
            offset = job.transfer.frontier_bytes = stop
            self._progressed()
            self._changed()
        if job.drop is not None or job.abandoned:
            return None
        job.transfer.on(Event.LAST_BLOCK)
        computed = {digest.name: digest.hexdigest() for digest in digests}
        if job.crcs is not None:
            computed[job.crcs.algorithm] = await self._tools.workers.slow(job.crcs.hexdigest)
        return computed

    def _blocks_to_sum(self) -> list[int]:
        """What an earlier run left is read back for its CRCs while the rest comes."""
        job = self._job
        if self._unsummed is None:
            assert job.partial is not None
            missing = job.crcs.missing() if job.crcs is not None else []
            self._unsummed = [block for block in reversed(missing) if block in job.partial.proven]
        return self._unsummed

    def _sum_some(self, blocks: list[int]) -> None:
        """In a worker: read some of ``blocks`` back, and take them off."""
        job = self._job
        assert job.partial is not None and job.crcs is not None
        view = memoryview(self._scratch())
        for _ in range(min(FOLLOW_BYTES // BLOCK_BYTES, len(blocks))):
            block = blocks[-1]
            count = job.partial.read_into(block * BLOCK_BYTES, view[: block_length(job.size, block)])
            job.crcs.add(block, view[:count])
            blocks.pop()

    def _scratch(self) -> bytearray:
        if self._buffer is None:
            self._buffer = bytearray(BLOCK_BYTES)
        return self._buffer

    def _advance(self, digests: list[hashing.InOrderDigest], start: int, stop: int) -> None:
        """In a worker: feed bytes ``start`` to ``stop`` (exclusive end) of the Partial to all digests."""
        partial = self._job.partial
        assert partial is not None
        view = memoryview(self._scratch())
        offset = start
        while offset < stop:
            count = partial.read_into(offset, view[: min(BLOCK_BYTES, stop - offset)])
            for digest in digests:
                digest.update(view[:count])
            offset += count

    # -- verdicts ----------------------------------------------------------------------------------------------------

    def _right(self, computed: dict[str, str]) -> bool:
        job, claim = self._job, self._job.digest
        if claim is not None:
            if computed[claim.name] != claim.hex:
                return False
            job.verified = (claim,)
        else:  # of guesses at most one is meant, and that none is right proves nothing
            job.verified = tuple(guess for guess in job.entry.guesses if computed[guess.name] == guess.hex)[:1]
        return True

    async def _commit(self, computed: dict[str, str]) -> None:
        job, tools = self._job, self._tools
        assert job.partial is not None
        job.blob = await tools.workers.slow(
            tools.cache.commit,
            job.partial,
            digests=job.verified,
            verified_by=job.verified_by,
            private=job.manifest.private,
            principal=job.principal,
            root=computed.get("blake3"),
        )
        job.transfer.on(Event.COMMITTED)

    async def _reject(self, computed: dict[str, str]) -> None:
        """Wrong digest: one refetch of the file, then the error; the first copy is kept apart for the report."""
        job = self._job
        assert job.partial is not None and job.digest is not None
        await self._parts_ended()
        if job.transfer.wrong_digests >= job.transfer.RESTARTS_MAX:
            differing = await self._tools.workers.slow(job.partial.rejected_blocks)
            await self._tools.workers.slow(job.partial.reject)
            raise IntegrityError(
                f"{job.entry.path}: the origin states {job.digest}, "
                f"its bytes twice gave {computed[job.digest.name]}{_where(differing)}",
                hint="nothing of it was published; the origin's copy is damaged, or somebody changes it on the way",
                resource=job.resource,
            )
        job.transfer.wrong_digests += 1
        self._observer.notice(f"{job.entry.path}: wrong {job.digest.algorithm}, fetching it once more")
        await self._tools.workers.slow(job.partial.reject)
        self._start_over(Event.DIGEST_WRONG)

    async def _drop(self) -> None:
        """The origin serves another content under the same name, or might: never a mixture."""
        job = self._job
        assert job.partial is not None
        await self._parts_ended()
        if job.drop is Outcome.CHANGED:
            self._count_change()
        else:
            self._count_stream()
        await self._tools.workers.slow(job.partial.forget_blocks)
        self._start_over(Event.ORIGIN_CHANGED)

    def _count_stream(self) -> None:
        """An answer that may not be continued by another ended early."""
        job = self._job
        job.streams_lost += 1
        if job.streams_lost >= STREAMS_MAX:
            raise TransportError(
                f"{job.entry.path}: the connection was lost {STREAMS_MAX} times, and the origin gives nothing to tell "
                "by whether the file is still the same",
                hint="a host that sends ETag or Last-Modified can be continued where it stopped",
                resource=job.resource,
            )
        self._observer.notice(f"{job.entry.path}: connection lost, nothing to continue by: starting this file again")

    def _count_change(self) -> None:
        job = self._job
        job.transfer.origin_changes += 1
        if job.transfer.origin_changes > job.transfer.RESTARTS_MAX:
            raise TransportError(
                f"{job.entry.path}: origin changed while it was being fetched, twice",
                hint="run the command again once the origin has settled",
                resource=job.resource,
            )
        self._observer.notice(f"{job.entry.path}: origin changed in mid-file, starting this file again")

    async def _parts_ended(self) -> None:
        while self._job.transfer.parts_open:
            self._job.progressed.clear()
            await self._job.progressed.wait()

    def _start_over(self, event: Event) -> None:
        job = self._job
        self._observer.bytes_done -= job.transfer.bytes_written
        job.transfer.empty_all()
        if job.crcs is not None:
            job.crcs.forget()
        job.transfer.on(event)
        assert job.transfer.state is State.FETCHING
        job.source.forget()
        job.drop = None
        job.unsynced_bytes = 0
        self._changed()


def _where(differing: list[int]) -> str:
    if not hashing.HAS_TREE:
        return ""  # plain mode keeps no chaining values to compare
    if not differing:
        return " (both copies are the same: it is the origin's, not the line's)"
    shown = ", ".join(str(block) for block in differing[:5]) + (" …" if len(differing) > 5 else "")
    return f" (the two copies differ in MiB {shown})"
