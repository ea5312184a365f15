"""Everything that a market requires: resources and images in one plan, one run and one set of numbers.

Items are independent: what can't be had is told with its reason, and fails none of the others.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from copy import copy
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

from fetcher.config import Settings, resource_key
from fetcher.engine.asks import Ask, Outcome
from fetcher.engine.fetch import Engine
from fetcher.engine.market_lists import MarketSource
from fetcher.engine.pulls import ImageOutcome, Pulls
from fetcher.engine.workers import first_error
from fetcher.errors import DeniedError, FetcherError, ResourceError
from fetcher.model.asker import Asker
from fetcher.model.image import Image
from fetcher.model.market import MarketImage, MarketItem, MarketList
from fetcher.model.resource import Resource
from fetcher.plan.fetch_plan import FetchPlan, PlannedImage

if TYPE_CHECKING:
    from fetcher.cache.store import Cache

Status = Literal["done", "hit", "failed", "skipped"]
Listed = str | Resource | Mapping[str, Any]
"""An item of a program's own list: a URI, a value, or a resource object."""
CREDENTIAL_GONE = "its credential came with the list and is not kept"


@dataclass(frozen=True, slots=True)
class PrefetchItem:
    """What became of one item of the list."""

    resource: str
    """URI, or what the list calls it where it can't be read."""
    kind: str
    """``HF``, ``S3``, ``Ollama`` or ``image``."""
    status: Status
    bytes: int | None
    reason: str | None
    """Why it failed or was skipped."""
    at: str
    """JSON path in the list."""
    error: FetcherError | None = None
    private: bool = False
    """It is here, and it took a credential: not every job is given it."""


@dataclass(frozen=True, slots=True)
class PrefetchReport:
    """What became of a list, in its order: resources, then images."""

    items: tuple[PrefetchItem, ...]
    plan: FetchPlan
    unpinned: int = 0
    """Items that the market has dropped, and that its pin does no longer keep."""
    holds_on: str | None = None
    """Why the pin still keeps items that are not on this list, where it does."""

    @property
    def failed(self) -> tuple[PrefetchItem, ...]:
        return tuple(item for item in self.items if item.status == "failed")


class Prefetch:
    """One list, to be planned or fetched."""

    def __init__(
        self,
        engine: Engine,
        cache: Cache,
        settings: Settings,
        environ: Mapping[str, str],
        source: MarketSource,
        asker_of: Callable[[MarketItem], Asker],
    ) -> None:
        self._engine = engine
        self._cache = cache
        self._settings = settings
        self._environ = environ
        self._source = source
        self._asker_of = asker_of
        self._told: dict[str, PrefetchItem] = {}
        """JSON path → what is known of an item without asking anybody."""
        self._asks: dict[str, Ask] = {}
        for item in source.list.resources:
            self._sort(item)
        self._images: dict[str, Image] = {}
        self._withheld: set[str] = set()
        """Of images: those whose login is not known any more."""
        for image in source.list.images:
            if image.image is None:
                self._told[image.at] = _unreadable(image, "image")
                continue
            self._images[image.at] = image.image
            if source.kept_since is not None and image.had_credential:
                self._withheld.add(image.at)

    def _sort(self, item: MarketItem) -> None:
        if item.resource is None:
            self._told[item.at] = _unreadable(item, item.kind)
        elif self._source.kept_since is not None and item.had_credential:
            self._told[item.at] = self._without_credential(item)
        else:
            try:
                self._asks[item.at] = Ask(item.resource, self._asker_of(item), at=item.at)
            except FetcherError as error:  # a credential that can't be sent
                self._told[item.at] = _failed(item.resource.uri(), item.kind, item.at, error)

    def _without_credential(self, item: MarketItem) -> PrefetchItem:
        """An item of a kept list whose credential is not kept: all that can be told is whether it is here."""
        assert item.resource is not None
        key = resource_key(item.resource, self._settings)
        snapshot = self._cache.lookup(key, self._source.principals.get(key))
        if snapshot is not None:
            return PrefetchItem(item.resource.uri(), item.kind, "hit", snapshot.bytes, None, item.at)
        return _failed(item.resource.uri(), item.kind, item.at, _credential_gone())

    # -- the plan alone ----------------------------------------------------------------------------------------------

    async def plan(self, *, images: bool) -> PrefetchReport:
        """What ``fetch`` would do; pulls, fetches and pins nothing."""
        pulls = Pulls(self._settings, self._environ, self._engine.api)
        try:
            planned = await self._plan_images(pulls, wanted=images)
            asks = list(self._asks.values())
            plan, answers = await self._engine.plan_each(asks)
        finally:
            await pulls.close()
        status: Status
        for (at, ask), answer in zip(self._asks.items(), answers, strict=True):
            uri, kind = ask.resource.uri(), type(ask.resource).__name__
            if isinstance(answer, FetcherError):
                self._told[at] = _failed(uri, kind, at, answer)
                continue
            status, reason = ("hit", None) if answer.hit else ("skipped", DRY)
            self._told[at] = PrefetchItem(uri, kind, status, answer.bytes_total, reason, at)
        for (at, image), made in zip(self._images.items(), planned, strict=True):
            error = self._image_error(at, made, pulls)
            if error is not None:
                self._told[at] = _failed(image.uri(), "image", at, error)
                continue
            status = "hit" if made.action == "present" else "skipped"
            reason = DRY if made.action == "pull" else made.reason
            self._told[at] = PrefetchItem(image.uri(), "image", status, made.bytes, reason, at)
        return PrefetchReport(self._in_order(), replace(plan, images=tuple(planned)))

    async def _plan_images(self, pulls: Pulls, *, wanted: bool) -> list[PlannedImage]:
        planned = await pulls.plan(list(self._images.values()), wanted=wanted)
        return [
            replace(made, action="skip", reason=CREDENTIAL_GONE)
            if at in self._withheld and made.action == "pull"
            else made
            for at, made in zip(self._images, planned, strict=True)
        ]

    def _image_error(self, at: str, made: PlannedImage, pulls: Pulls) -> FetcherError | None:
        """Why an image that the plan leaves out has failed; None where it is only skipped, or not left out."""
        if made.action != "skip" or pulls.refusal is not None:
            return pulls.refusal
        return _credential_gone() if at in self._withheld and made.reason == CREDENTIAL_GONE else None

    # -- doing it ----------------------------------------------------------------------------------------------------

    async def fetch(
        self, *, images: bool, pin: str | None = None, on_plan: Callable[[FetchPlan], None] | None = None
    ) -> PrefetchReport:
        """Make true what can be made true.

        ``pin``: keeps all items of the list until unpinned, and lets go of what the list no longer has; a list that is
        not current lets go of nothing. ``on_plan`` is called once, before the first byte.
        """
        resources = [item.resource for item in self._source.list.resources if item.resource]
        keys = list(dict.fromkeys(resource_key(resource, self._settings) for resource in resources))
        if pin is not None:  # first, so that nothing of it is tidied away meanwhile
            self._cache.pin(pin, *keys, principals=self._principals())
        pulls = Pulls(self._settings, self._environ, self._engine.api)
        try:
            planned = await self._plan_images(pulls, wanted=images)
            plan, outcomes, pulled = await self._fetch(pulls, planned, on_plan)
        finally:
            await pulls.close()
        for (at, ask), outcome in zip(self._asks.items(), outcomes, strict=True):
            self._told[at] = _told(at, ask, outcome)
        for (at, image), made, came in zip(self._images.items(), planned, pulled, strict=True):
            error = came.error or self._image_error(at, made, pulls)
            if error is not None:
                self._told[at] = _failed(image.uri(), "image", at, error)
            else:
                self._told[at] = PrefetchItem(image.uri(), "image", came.status, came.bytes, came.reason, at)
        unpinned, holds_on = (0, None) if pin is None else self._let_go(pin, keys)
        return PrefetchReport(self._in_order(), replace(plan, images=tuple(planned)), unpinned, holds_on)

    def _principals(self) -> dict[str, str]:
        """As whom each item is asked for with a credential, by its resource's key."""
        secret = self._cache.principal_key
        found = dict(self._source.principals)
        for ask in self._asks.values():
            principal = ask.asker.principal(secret)
            if principal is not None:
                found[resource_key(ask.resource, self._settings)] = principal
        return found

    def _let_go(self, pin: str, keys: Sequence[str]) -> tuple[int, str | None]:
        """Unpin what the list no longer has: how many, or why not. Only a list that is current and can be read to its
        end says what is no longer on it."""
        reason = None
        if self._source.kept_since is not None:
            reason = "the list is not current"
        elif any(item.resource is None for item in self._source.list.resources):
            reason = "not all items of the list can be read"
        elif not self._source.list.speaks_of_resources:
            reason = "the list does not say which resources are required"
        if reason is None:
            return self._cache.pin_exactly(pin, keys), None
        dropped = any(kept.name == pin and kept.resource_key not in keys for kept in self._cache.pins())
        return 0, reason if dropped else None

    async def _fetch(
        self, pulls: Pulls, planned: Sequence[PlannedImage], on_plan: Callable[[FetchPlan], None] | None
    ) -> tuple[FetchPlan, list[Outcome | FetcherError], list[ImageOutcome]]:
        """Resources and images side by side: unpacking takes the processor while models take the line."""
        asks = list(self._asks.values())
        observer = self._engine.observe(asks)
        observer.resource = self._source.name
        plans: list[FetchPlan] = []
        begun = asyncio.Event()

        def shown(plan: FetchPlan) -> None:
            plans.append(plan)
            if on_plan is not None:
                on_plan(replace(plan, images=tuple(planned)))
            begun.set()

        async def fetch() -> list[Outcome | FetcherError]:
            outcomes = await self._engine.fetch_each(asks, shown, observer=observer)
            if not pulling.done():
                observer.enter("fetch")  # the resources are here, images are still coming
            return outcomes

        async def pull() -> list[ImageOutcome]:
            await begun.wait()
            return await pulls.pull_all(list(self._images.values()), planned, observer)

        try:
            async with asyncio.TaskGroup() as group:
                pulling = group.create_task(pull())
                fetching = group.create_task(fetch())
        except BaseExceptionGroup as errors:
            raise first_error(errors) from None
        if any(isinstance(result, Outcome) for result in fetching.result()) or self._images:
            observer.enter("done")
        return plans[0], fetching.result(), pulling.result()

    def _in_order(self) -> tuple[PrefetchItem, ...]:
        places = [item.at for item in self._source.list.resources] + [image.at for image in self._source.list.images]
        return tuple(self._told[at] for at in places)


DRY = "to be fetched; this was a dry run"


def listed(items: Sequence[Listed], resource_of: Callable[[Listed], Resource]) -> MarketList:
    """A list of a program's own making, of whatever ``resource_of`` takes for a resource; each for itself."""
    found = []
    for index, item in enumerate(items):
        at = f"$[{index}]"
        try:
            resource = resource_of(item)
        except FetcherError as error:
            fault = error if isinstance(error, ResourceError) else ResourceError(error.message, hint=error.hint, at=at)
            found.append(MarketItem(at, "unknown", at, None, fault))
        else:
            found.append(MarketItem(at, type(resource).__name__, resource.uri(), resource))
    return MarketList(tuple(found))


def _told(at: str, ask: Ask, outcome: Outcome | FetcherError) -> PrefetchItem:
    uri, kind = ask.resource.uri(), type(ask.resource).__name__
    if isinstance(outcome, FetcherError):
        return _failed(uri, kind, at, outcome)
    snapshot = outcome.snapshot
    status: Status = "hit" if outcome.hit else "done"
    return PrefetchItem(uri, kind, status, snapshot.bytes, None, at, private=snapshot.private)


def _failed(resource: str, kind: str, at: str, error: FetcherError) -> PrefetchItem:
    own = copy(error)  # one error may be that of several items
    own.resource, own.at = resource, error.at or at
    return PrefetchItem(resource, kind, "failed", None, error.message, at, own)


def _credential_gone() -> DeniedError:
    return DeniedError(CREDENTIAL_GONE, hint="run it again once the market's endpoint answers")


def _unreadable(item: MarketItem | MarketImage, kind: str) -> PrefetchItem:
    assert item.fault is not None
    return _failed(item.label, kind, item.at, item.fault)
