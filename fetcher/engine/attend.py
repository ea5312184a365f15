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
from fetcher.plan.transfer import Event, State
from fetcher.plan.tree import BLOCK_BYTES

FOLLOW_BYTES = 8 << 20
"""Read back per worker call: long enough that the call itself does not count, short enough to be waited for."""


def digest_algorithms(claim: Digest | None) -> tuple[str, ...]:
    """What has to be computed in order: the claim's algorithm, and our own where blocks have no chaining values."""
    algorithms = () if claim is None else (claim.algorithm,)
    return algorithms if hashing.HAS_TREE or "blake3" in algorithms else (*algorithms, "blake3")


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

    async def execute(self) -> None:
        """Return when the job has its blob. Raises a typed error when the origin's bytes can't be made right."""
        job = self._job
        while True:
            computed = await self._follow()
            if computed is None:
                await self._drop_changed()
            elif self._right(computed):
                job.transfer.on(Event.DIGEST_RIGHT)
                await self._commit(computed)
                return
            else:
                await self._reject(computed)

    # -- the follower ------------------------------------------------------------------------------------------------

    async def _follow(self) -> dict[str, str] | None:
        """Digests of the whole content, algorithm → hex; None if its blocks have to be dropped."""
        job = self._job
        digests = [hashing.InOrderDigest.new(name, job.size) for name in digest_algorithms(job.digest)]
        offset = 0
        while not (job.transfer.whole and (offset == job.size or not digests)):
            if job.drop is not None:
                return None
            if job.unsynced_bytes >= self._tools.settings.sync_bytes:
                job.unsynced_bytes = 0
                assert job.partial is not None
                await self._tools.workers.slow(job.partial.sync)
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
        if job.drop is not None:
            return None
        job.transfer.on(Event.LAST_BLOCK)
        return {digest.algorithm: digest.hexdigest() for digest in digests}

    def _advance(self, digests: list[hashing.InOrderDigest], start: int, stop: int) -> None:
        """In a worker: feed bytes ``start`` to ``stop`` (exclusive end) of the Partial to all digests."""
        partial = self._job.partial
        assert partial is not None
        if self._buffer is None:
            self._buffer = bytearray(BLOCK_BYTES)
        view = memoryview(self._buffer)
        offset = start
        while offset < stop:
            count = partial.read_into(offset, view[: min(BLOCK_BYTES, stop - offset)])
            for digest in digests:
                digest.update(view[:count])
            offset += count

    # -- verdicts ----------------------------------------------------------------------------------------------------

    def _right(self, computed: dict[str, str]) -> bool:
        claim = self._job.digest
        return claim is None or computed[claim.algorithm] == claim.hex

    async def _commit(self, computed: dict[str, str]) -> None:
        job, tools = self._job, self._tools
        assert job.partial is not None
        claim = job.digest
        job.blob = await tools.workers.slow(
            tools.cache.commit,
            job.partial,
            digests=() if claim is None else (claim,),
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
                f"its bytes twice gave {computed[job.digest.algorithm]}{_where(differing)}",
                hint="nothing of it was published; the origin's copy is damaged, or somebody changes it on the way",
                resource=job.resource,
            )
        job.transfer.wrong_digests += 1
        self._observer.notice(f"{job.entry.path}: wrong {job.digest.algorithm}, fetching it once more")
        await self._tools.workers.slow(job.partial.reject)
        self._start_over(Event.DIGEST_WRONG)

    async def _drop_changed(self) -> None:
        """The origin serves another content under the same name: never a mixture."""
        job = self._job
        assert job.partial is not None
        await self._parts_ended()
        job.transfer.origin_changes += 1
        if job.transfer.origin_changes > job.transfer.RESTARTS_MAX:
            raise TransportError(
                f"{job.entry.path}: origin changed while it was being fetched, twice",
                hint="run the command again once the origin has settled",
                resource=job.resource,
            )
        self._observer.notice(f"{job.entry.path}: origin changed in mid-file, starting this file again")
        await self._tools.workers.slow(job.partial.forget_blocks)
        self._start_over(Event.ORIGIN_CHANGED)

    async def _parts_ended(self) -> None:
        while self._job.transfer.parts_open:
            self._job.progressed.clear()
            await self._job.progressed.wait()

    def _start_over(self, event: Event) -> None:
        job = self._job
        self._observer.bytes_done -= job.transfer.bytes_written
        job.transfer.empty_all()
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
