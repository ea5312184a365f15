"""Where a file's bytes come from: when its address is found anew."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any, cast

import pytest

from fetcher.engine import source as source_room
from fetcher.engine.jobs import PartEnded
from fetcher.engine.source import LOCATED_S, REFRESHES_MAX, Source
from fetcher.errors import DeniedError, NotFoundError, TransportError
from fetcher.model.asker import Asker
from fetcher.model.manifest import FileEntry, Manifest
from fetcher.model.ranges import ByteRange
from fetcher.net.pacing import Pacer
from fetcher.net.request import Request
from fetcher.origins.base import Refusal
from fetcher.plan.transfer import Outcome

ENTRY = FileEntry("a.bin", 10, None)
MANIFEST = Manifest("hf", "https://hub.example:443", "models/acme/tiny", "f" * 40, False, (ENTRY,))


class CountingOrigin:
    """Says another address each time."""

    def __init__(self) -> None:
        self.located = 0

    def locate(self, manifest: Manifest, entry: FileEntry, asker: Asker) -> Request:
        self.located += 1
        return Request("GET", f"https://hub.example/{self.located}")


class DeadTransport:
    """Takes note of what it is asked, and fails."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    async def send(self, request: Request, **_: Any) -> Any:
        self.asked.append(request.url.rpartition("/")[2])
        raise TransportError("dead")


class World:
    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 100.0
        monkeypatch.setattr(source_room, "monotonic", lambda: self.now)
        self.origin = CountingOrigin()
        self.transport = DeadTransport()
        self.source = Source(cast(Any, self.origin), Pacer(), MANIFEST, ENTRY, Asker("job"))

    def ask(self) -> str:
        async def main() -> None:
            with pytest.raises(PartEnded):
                await self.source.open(
                    cast(Any, self.transport), cast(Any, None), ByteRange(0, 10), fresh=False, idle_timeout_s=1.0
                )

        asyncio.run(main())
        return self.transport.asked[-1]


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> World:
    return World(monkeypatch)


def test_nobody_is_asked_where_a_file_is_that_nobody_looks_at(world: World) -> None:
    assert world.origin.located == 0


def test_what_was_found_to_see_whose_turn_it_is_serves_for_the_request(world: World) -> None:
    assert world.source.host == "https://hub.example:443"
    assert world.source.pause_s() == 0.0
    assert world.ask() == "1"
    assert world.origin.located == 1


def test_each_request_after_that_is_located_anew(world: World) -> None:
    """What the origin has learned by then, as the region of a bucket, is in it."""
    assert [world.ask(), world.ask()] == ["1", "2"]
    assert world.source.host == "https://hub.example:443"
    assert world.ask() == "3"


def test_an_address_found_long_ago_is_found_again(world: World) -> None:
    assert world.source.host
    world.now += LOCATED_S + 0.1
    assert world.ask() == "2"


def test_who_starts_again_believes_no_address(world: World) -> None:
    assert world.source.host
    world.source.forget()
    assert world.ask() == "2"


class Refused:
    """An answer without the bytes."""

    def __init__(self, url: str) -> None:
        self.status = 404
        self.url = url
        self.headers: dict[str, str] = {}

    def abort(self) -> None:
        pass

    async def release(self) -> None:
        pass


class LearningOrigin:
    """Knows from the first refusal under the old address, whose ever, that there is a better one."""

    def __init__(self) -> None:
        self.place = "old"

    def locate(self, manifest: Manifest, entry: FileEntry, asker: Asker) -> Request:
        return Request("GET", f"https://hub.example/{self.place}")

    def follow(self, request: Request, response: Refused) -> None:
        return None

    def refusal(self, response: Refused, entry: FileEntry, *, signed: bool, text: bytes = b"") -> Refusal:
        if self.place == "old":
            self.place = "new"
            return Refusal("expired")
        return Refusal("final", NotFoundError("not there"))


class RefusingTransport:
    async def send(self, request: Request, **_: Any) -> Refused:
        return Refused(request.url)


def test_an_address_that_another_was_refused_under_meanwhile_says_nothing_final() -> None:
    origin = LearningOrigin()
    first, second = (Source(cast(Any, origin), Pacer(), MANIFEST, ENTRY, Asker("job")) for _ in range(2))

    async def ask(source: Source) -> None:
        transport, place = cast(Any, RefusingTransport()), cast(Any, None)
        await source.open(transport, place, ByteRange(0, 10), fresh=False, idle_timeout_s=1.0)

    async def main() -> None:
        assert first.host == second.host  # both are located now
        for source in (first, second):
            with pytest.raises(PartEnded) as ended:
                await ask(source)
            assert ended.value.outcome is Outcome.EXPIRED
        for source in (first, second):
            with pytest.raises(NotFoundError):
                await ask(source)

    asyncio.run(main())


class RefusingOrigin(CountingOrigin):
    """Of which nothing helps; perhaps it first leads elsewhere."""

    def __init__(self, leads_to: str | None = None) -> None:
        super().__init__()
        self.leads_to = leads_to

    def follow(self, request: Request, response: Refused) -> Request | None:
        elsewhere, self.leads_to = self.leads_to, None
        return Request("GET", elsewhere) if elsewhere is not None else None

    def refusal(self, response: Refused, entry: FileEntry, *, signed: bool, text: bytes = b"") -> Refusal:
        return Refusal("final", NotFoundError("not there"))


async def ask_in_vain(source: Source) -> PartEnded | NotFoundError:
    place = SimpleNamespace(move=lambda host: True)
    try:
        if source.is_outdated:
            await source.renew()
        await source.open(
            cast(Any, RefusingTransport()), cast(Any, place), ByteRange(0, 10), fresh=False, idle_timeout_s=1.0
        )
    except (PartEnded, NotFoundError) as error:
        return error
    raise AssertionError("it was refused")


def test_an_address_that_is_another_each_time_is_not_asked_for_ever() -> None:
    async def main() -> None:
        source = Source(cast(Any, RefusingOrigin()), Pacer(), MANIFEST, ENTRY, Asker("job"))
        for _ in range(REFRESHES_MAX):
            ended = await ask_in_vain(source)
            assert isinstance(ended, PartEnded) and ended.outcome is Outcome.EXPIRED
        assert isinstance(await ask_in_vain(source), NotFoundError)

    asyncio.run(main())


def test_what_is_refused_where_an_address_led_is_final_at_once() -> None:
    """That it is not the pinned address is no news."""
    origin = RefusingOrigin("https://hub.example/elsewhere")
    source = Source(cast(Any, origin), Pacer(), MANIFEST, ENTRY, Asker("job"))
    assert isinstance(asyncio.run(ask_in_vain(source)), NotFoundError)


class ExpiringOrigin(RefusingOrigin):
    """Whose token is checked only where it leads, and is never good."""

    def __init__(self, *leads_to: str) -> None:
        super().__init__()
        self.ways = leads_to
        self.renewed = 0

    def locate(self, manifest: Manifest, entry: FileEntry, asker: Asker) -> Request:
        return Request("GET", f"https://hub.example/{self.renewed}")

    def follow(self, request: Request, response: Refused) -> Request | None:
        done = self.ways.index(request.url) + 1 if request.url in self.ways else 0
        return Request("GET", self.ways[done]) if done < len(self.ways) else None

    def refusal(self, response: Refused, entry: FileEntry, *, signed: bool, text: bytes = b"") -> Refusal:
        return Refusal("expired")

    async def renew(self, manifest: Manifest, entry: FileEntry, asker: Asker) -> None:
        self.renewed += 1


@pytest.mark.parametrize(
    ("ways", "renewed"),
    [
        ((), REFRESHES_MAX),
        (("https://hub.example/elsewhere",), REFRESHES_MAX),
        (("https://cdn.example/signed",), 0),
        (("https://cdn.example/signed", "https://cdn.example/elsewhere"), 0),
        (("https://hub.example/elsewhere", "https://cdn.example/signed", "https://cdn.example/elsewhere"), 0),
    ],
)
def test_what_has_expired_where_an_address_led_within_its_host_is_renewed_and_counted(
    ways: tuple[str, ...], renewed: int
) -> None:
    origin = ExpiringOrigin(*ways)
    source = Source(cast(Any, origin), Pacer(), MANIFEST, ENTRY, Asker("job"))

    async def main() -> None:
        for _ in range(REFRESHES_MAX):
            ended = await ask_in_vain(source)
            assert isinstance(ended, PartEnded) and ended.outcome is Outcome.EXPIRED
        with pytest.raises(DeniedError, match=f"{REFRESHES_MAX + 1} fresh"):
            await ask_in_vain(source)

    asyncio.run(main())
    assert origin.renewed == renewed


def test_where_it_was_led_is_asked_from_then_on_at_the_pace_of_that_place() -> None:
    pacer = SimpleNamespace(delay_of=lambda key: 7.0, sent_of=lambda key: None, observe_of=lambda key, response: None)
    origin = RefusingOrigin("https://cdn.example/signed")
    source = Source(cast(Any, origin), cast(Any, pacer), MANIFEST, ENTRY, Asker("job"))
    assert (source.host, source.pause_s()) == ("https://hub.example:443", 7.0)
    asyncio.run(ask_in_vain(source))
    assert (source.host, source.pause_s()) == ("https://cdn.example:443", 0.0)


def test_what_has_expired_is_renewed_once_for_all_who_wait_for_it() -> None:
    class SlowOrigin(ExpiringOrigin):
        async def renew(self, manifest: Manifest, entry: FileEntry, asker: Asker) -> None:
            await super().renew(manifest, entry, asker)
            await asyncio.sleep(0.01)

    origin = SlowOrigin()
    source = Source(cast(Any, origin), Pacer(), MANIFEST, ENTRY, Asker("job"))

    async def main() -> None:
        assert not source.is_outdated
        await ask_in_vain(source)
        assert source.is_outdated
        renewing = [asyncio.create_task(source.renew()) for _ in range(3)]
        await asyncio.sleep(0)
        assert source.is_outdated, "who comes now waits, too"
        await asyncio.gather(*renewing)
        assert not source.is_outdated

    asyncio.run(main())
    assert origin.renewed == 1
