"""Room for a plan: whether its bytes fit, waiting for others who have reserved them, and the reservation itself.

Waiting holds neither connection nor slab nor worker.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from fetcher.engine.asks import Ask
from fetcher.engine.observe import Observer
from fetcher.engine.planner import without_room
from fetcher.engine.resolve import Prepared
from fetcher.engine.tools import Tools
from fetcher.engine.workers import finish
from fetcher.errors import FetcherError, NoSpaceError
from fetcher.model.quantities import format_size
from fetcher.plan.fetch_plan import FetchPlan

if TYPE_CHECKING:
    from fetcher.cache.reservation import Reservation

SPACE_EVERY_S = 0.5
TURNS_MAX = 50
"""How often others may reserve between our look and our reservation; each time one of them has got what it wanted."""


class Room:
    """Finds and reserves room for the plans of one engine. ``plan_rows`` makes a plan; a worker call."""

    def __init__(self, tools: Tools, plan_rows: Callable[[Sequence[Prepared]], FetchPlan]) -> None:
        self._tools = tools
        self._cache = tools.cache
        self._settings = tools.settings
        self._plan_rows = plan_rows

    async def that_fit(
        self, prepared: list[Prepared], observer: Observer
    ) -> tuple[list[Prepared], FetchPlan, dict[Ask, FetcherError]]:
        """As many as there is room for, with their plan; and the others, with what they lack."""
        refused: dict[Ask, FetcherError] = {}
        while True:
            plan = await self._tools.workers.slow(self._plan_rows, prepared)
            try:
                return prepared, await self.for_plan(prepared, plan, observer), refused
            except NoSpaceError:
                plan = await self._tools.workers.slow(self._plan_rows, prepared)
                too_large = await self._tools.workers.slow(without_room, self._cache, plan.resources)
                if not too_large:  # it is not the plan that lacks room
                    raise
            for index, alone in too_large.items():
                ask = prepared[index].ask
                refused[ask] = out_of_space(alone).about(resource=ask.resource.uri(), at=ask.at)
            prepared = [item for index, item in enumerate(prepared) if index not in too_large]

    async def for_plan(self, prepared: Sequence[Prepared], plan: FetchPlan, observer: Observer) -> FetchPlan:
        """The plan, once its bytes fit. Raises NoSpaceError if they never will."""
        if not plan.fits or plan.evictions:
            # Garbage goes before anybody's good copy does.
            spared = plan.linked_roots
            await self._tools.workers.slow(lambda: self._cache.gc(at_once=True, spare_roots=spared))
            plan = await self._tools.workers.slow(self._plan_rows, prepared)
        return plan if plan.fits else await self._wait(prepared, plan, observer)

    @asynccontextmanager
    async def reserved(
        self, prepared: Sequence[Prepared], plan: FetchPlan, observer: Observer
    ) -> AsyncIterator[tuple[FetchPlan, Reservation]]:
        """The plan's bytes promised to us, its evictions carried out, its linked Blobs held. Another plan comes out of
        it where others were faster, and perhaps fetch what we want."""
        made: list[Reservation] = []
        try:
            plan = await self._reserve(prepared, plan, made, observer)
            yield plan, made[0]
        finally:
            for reservation in made:
                await finish(asyncio.ensure_future(self._tools.workers.slow(reservation.release)))

    async def _reserve(
        self, prepared: Sequence[Prepared], plan: FetchPlan, made: list[Reservation], observer: Observer
    ) -> FetchPlan:
        """In turn with others: who was faster has taken what the plan saw, and gives it back some time."""

        def reserve(plan: FetchPlan) -> None:
            # Booked in the worker: what is promised is given back, also if we are cancelled meanwhile.
            evict = [item.snapshot_id for item in plan.evictions]
            made.append(self._cache.reserve(plan.bytes_to_reserve, evict=evict, hold=plan.linked_roots))

        for turn in range(TURNS_MAX):
            try:
                await self._tools.workers.slow(reserve, plan)
                break
            except NoSpaceError:
                again = await self._tools.workers.slow(self._plan_rows, prepared)
                if _state(again) == _state(plan) or turn == TURNS_MAX - 1:  # nobody was faster
                    raise
            plan = again if again.fits else await self._wait(prepared, again, observer)
        return plan

    async def _wait(self, prepared: Sequence[Prepared], plan: FetchPlan, observer: Observer) -> FetchPlan:
        """Others under way have the space, perhaps for the very same files: look again until they are through.

        Holds neither connection nor slab nor worker. Raises NoSpaceError if nothing is under way, or gets nowhere.
        """
        changed_at = self._tools.clock()
        if plan.bytes_reserved:
            observer.notice("waiting for space: other downloads have reserved it")
        while not plan.fits:
            if not plan.bytes_reserved:
                raise out_of_space(plan)
            if self._tools.clock() - changed_at >= self._settings.no_progress_timeout_s:
                raise out_of_space(plan)
            await asyncio.sleep(SPACE_EVERY_S)
            before = _state(plan)
            plan = await self._tools.workers.slow(self._plan_rows, prepared)
            if _state(plan) != before:
                changed_at = self._tools.clock()
        return plan


def _state(plan: FetchPlan) -> tuple[object, ...]:
    """What changes as others get on."""
    return plan.bytes_reserved, plan.bytes_to_fetch, plan.bytes_free, plan.evictions


def out_of_space(plan: FetchPlan) -> NoSpaceError:
    """The refusal of a plan that does not fit, with its numbers."""
    parts = [
        f"{format_size(plan.bytes_to_fetch)} are to be fetched and take {format_size(plan.bytes_to_reserve)}, "
        f"{format_size(plan.bytes_free)} can be used"
    ]
    kept = []
    if plan.bytes_quota is not None:
        kept.append(f"the cache may take {format_size(plan.bytes_quota)} in all (quota_bytes)")
    if plan.bytes_floor:
        kept.append(f"{format_size(plan.bytes_floor)} stay free (space_floor_bytes)")
    if plan.bytes_reserved:
        kept.append(f"{format_size(plan.bytes_reserved)} are reserved by other downloads")
    if kept:
        parts.append(f"of what there is, {' and '.join(kept)}")
    freed = f"would free {format_size(plan.bytes_evictable)}" if plan.bytes_evictable else "would free nothing"
    parts.append(f"removing all that is neither leased nor pinned {freed}, which is not enough")
    hint = "free space on the disk, release leases, or use a cache directory on a larger disk"
    if plan.bytes_quota is not None:
        hint = "release leases and pins, or raise quota_bytes (FETCHER_QUOTA_BYTES)"
    return NoSpaceError("; ".join(parts), hint=hint)
