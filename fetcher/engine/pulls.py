"""The images of a market's list, beside its resources: planned in the same plan, shown in the same numbers.

The container engine does the pulling and keeps what it pulled; here it is only found, asked and counted.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from fetcher.config import Settings
from fetcher.engine.observe import Observer
from fetcher.errors import FetcherError
from fetcher.images.engines import NoEngine, find_engine
from fetcher.images.progress import PullProgress
from fetcher.images.pull import ContainerEngine, is_loopback
from fetcher.model.image import Image
from fetcher.net.api import ApiClient
from fetcher.net.registry import RegistryClient
from fetcher.plan.fetch_plan import PlannedImage

SIZE_TIME_MAX_S = 5.0
"""For asking a registry what an image will cost: good to know, no reason to wait."""
ASKED_AT_ONCE_MAX = 4
PULLS_MAX = 8
"""At once, however many cores there are."""
PULLS_SPARED = 50
"""Of those that a registry which counts them still allows an asker: with fewer left they are the engine's, and no size
is asked for."""


@dataclass(frozen=True, slots=True)
class ImageOutcome:
    """What became of one image."""

    image: Image
    status: Literal["done", "hit", "failed", "skipped"]
    bytes: int | None = None
    """Unpacked, as the engine counts."""
    error: FetcherError | None = None
    reason: str | None = None
    """Why it failed or was skipped, in a sentence."""


class Pulls:
    """The images of one call. ``plan``, then ``pull_all``, then ``close``."""

    def __init__(self, settings: Settings, environ: Mapping[str, str], api: ApiClient) -> None:
        self._settings = settings
        self._environ = environ
        self._registry = RegistryClient(api)
        self._engine: ContainerEngine | None = None
        self._reason: str | None = None
        self._refusal: FetcherError | None = None
        self._gate = asyncio.Semaphore(ASKED_AT_ONCE_MAX)

    @property
    def refusal(self) -> FetcherError | None:
        """Why no image can be had, where an engine was named that can't be used; known after ``plan``."""
        return self._refusal

    async def close(self) -> None:
        """Let go of the engine."""
        if self._engine is not None:
            await self._engine.close()

    async def plan(self, images: Sequence[Image], *, wanted: bool = True) -> list[PlannedImage]:
        """What is present and what has to be pulled, with what that will cost as far as registries say.

        ``wanted``: False where the user wants no images. No engine is no error: the images are skipped.
        """
        if not images:
            return []
        if not wanted:
            self._reason = "--no-images was given"
        elif self._settings.offline:
            self._reason = "no network is to be used"
        else:
            await self._find()
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(self._plan_one(image)) for image in images]
        return [task.result() for task in tasks]

    async def _find(self) -> None:
        try:
            found = await find_engine(self._environ, self._settings)
        except FetcherError as error:  # an engine was named and can't be used: every image fails by that
            self._refusal = error
            self._reason = error.message
            return
        if isinstance(found, NoEngine):
            self._reason = found.reason
        else:
            self._engine = found

    async def _plan_one(self, image: Image) -> PlannedImage:
        if self._engine is None:
            return PlannedImage(image.name, "skip", reason=self._reason)
        async with self._gate:
            try:
                state = await self._engine.present(image.name)
            except FetcherError:  # told when it is pulled
                state = None
            if state is not None:
                return PlannedImage(image.name, "present", state.bytes)
            return PlannedImage(image.name, "pull", await self._size(image))

    async def _size(self, image: Image) -> int | None:
        """Compressed bytes of a pull, asked by the rules of a job; None where the registry does not tell in time, or
        where asking would use up what the pull needs.

        One on the loopback is asked over plain http, as engines do."""
        reference = image.reference
        scheme = "http" if is_loopback(reference.host) else "https"
        try:
            async with asyncio.timeout(SIZE_TIME_MAX_S):
                size = await self._registry.image_size(
                    f"{scheme}://{reference.fetch_host}",
                    reference.repository,
                    reference.reference,
                    credential=image.login,
                    pulls_spared=PULLS_SPARED,
                )
            return size.size_bytes
        except (FetcherError, TimeoutError):
            return None

    async def pull_all(
        self, images: Sequence[Image], planned: Sequence[PlannedImage], observer: Observer
    ) -> list[ImageOutcome]:
        """Pull what is missing; one image's failure is no other's. In the order of ``images``."""
        beside = observer.beside
        beside.files_total = sum(plan.action == "pull" for plan in planned)
        beside.bytes_total = sum(plan.bytes or 0 for plan in planned if plan.action == "pull")
        # An engine works on several layers of one image already; more at once than half the cores only share them, and
        # each holds one of the connections to the engine.
        gate = asyncio.Semaphore(max(1, min(PULLS_MAX, (os.cpu_count() or 2) // 2)))

        async def one(image: Image, plan: PlannedImage) -> ImageOutcome:
            if plan.action == "present":
                return ImageOutcome(image, "hit", plan.bytes)
            if plan.action == "skip" or self._engine is None:
                if self._refusal is not None:
                    return ImageOutcome(image, "failed", error=self._refusal, reason=self._refusal.message)
                return ImageOutcome(image, "skipped", reason=plan.reason)
            async with gate:
                return await self._pull(self._engine, image, plan, observer)

        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(one(image, plan)) for image, plan in zip(images, planned, strict=True)]
        return [task.result() for task in tasks]

    async def _pull(
        self, engine: ContainerEngine, image: Image, plan: PlannedImage, observer: Observer
    ) -> ImageOutcome:
        beside = observer.beside
        counted = _Counted(plan.bytes or 0)

        def show(progress: PullProgress) -> None:
            done = max(counted.done, progress.bytes_done)  # a layer that is begun again is no step back
            total = max(plan.bytes or 0, progress.bytes_total or 0, done)
            beside.bytes_done += done - counted.done
            beside.bytes_downloaded += done - counted.done
            beside.bytes_total += total - counted.total
            counted.done, counted.total = done, total
            observer.tick()

        try:
            pulled = await engine.pull(image, show)
        except FetcherError as error:
            beside.bytes_done -= counted.done
            beside.bytes_total -= counted.total
            beside.files_total -= 1
            return ImageOutcome(image, "failed", error=error, reason=error.message)
        beside.bytes_done += counted.total - counted.done
        beside.files_done += 1
        observer.tick()
        return ImageOutcome(image, "hit" if pulled.already_present else "done", pulled.bytes)


@dataclass(slots=True)
class _Counted:
    """What of one pull is in the tally."""

    total: int
    done: int = 0
