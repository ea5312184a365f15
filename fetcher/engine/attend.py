"""One large file from its first part to its Blob: what its follower found, the verdict, the commit."""

from __future__ import annotations

import threading
from collections.abc import Callable

from fetcher import hashing
from fetcher.engine.follow import Follower
from fetcher.engine.jobs import FileJob
from fetcher.engine.observe import Observer
from fetcher.engine.tools import Tools
from fetcher.errors import IntegrityError, InterruptedByUser, TransportError
from fetcher.plan.transfer import Event, Outcome, State

STREAMS_MAX = 5
"""Tries of a file whose bytes must come in one answer, as nothing tells two answers apart."""


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

    async def execute(self) -> None:
        """Return when the job has its blob, or nobody needs it any more. Raises a typed error when the origin's bytes
        can't be made right."""
        job = self._job
        while True:
            computed = await Follower(job, self._tools, self._changed, self._progressed).execute()
            if job.abandoned:
                await self._parts_ended()
                return
            if computed is None:
                await self._drop()
                continue
            job.transfer.on(Event.LAST_BLOCK)
            await self._requests_over()
            if self._right(computed):
                job.transfer.on(Event.DIGEST_RIGHT)
                await self._commit(computed)
                return
            else:
                await self._reject(computed)

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
        stop = threading.Event()

        def step() -> None:
            """While a body that is here already is hashed: it is progress, and may be given up."""
            self._progressed()
            if stop.is_set():
                raise InterruptedByUser("stopped")

        job.blob = await tools.workers.slow_until(
            stop,
            tools.cache.commit,
            job.partial,
            digests=job.verified,
            verified_by=job.verified_by,
            private=job.manifest.private,
            principal=job.principal,
            root=computed.get("blake3"),
            asked=job.asked,
            step=step,
        )
        job.transfer.on(Event.COMMITTED)

    async def _reject(self, computed: dict[str, str]) -> None:
        """Wrong digest: one refetch of the file, then the error; the first copy is kept apart for the report."""
        job = self._job
        assert job.partial is not None and job.digest is not None
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

    async def _requests_over(self) -> None:
        """Everything is here. What brings some of it a second time is not needed any more, and a worker may still be
        making room for that: the Partial has to be quiet before it is published, or begun anew."""
        for active in self._job.active:
            if active.part is not None and active.pulse.bytes_received < active.part.span.length:
                active.end_with(Outcome.SHED)
        await self._parts_ended()

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
        self._tools.unsynced.forget(job)
        self._changed()


def _where(differing: list[int]) -> str:
    if not hashing.HAS_TREE:
        return ""  # plain mode keeps no chaining values to compare
    if not differing:
        return " (both copies are the same: it is the origin's, not the line's)"
    shown = ", ".join(str(block) for block in differing[:5]) + (" …" if len(differing) > 5 else "")
    return f" (the two copies differ in MiB {shown})"
