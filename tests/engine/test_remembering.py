"""What a run finds out about a host is where the next one begins: through a real index, from engine to engine."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path

import pytest

from fetcher.cache.hosts import Hosts
from fetcher.cache.store import Cache
from fetcher.engine.admission import Admission
from fetcher.engine.remembering import BYTES_MIN, REQUESTS_MIN, Remembering
from fetcher.engine.workers import Workers
from fetcher.plan.window import HostWindow, Known
from tests.cache.world import settings

CDN = "https://cdn.example:443"
MIB = 1 << 20

Engine = tuple[Admission, Remembering]


@pytest.fixture
def workers() -> Iterator[Workers]:
    made = Workers()
    yield made
    made.close()


def in_engines(directory: Path, workers: Workers, *uses: Callable[[Engine], Awaitable[None]]) -> None:
    """Each in an engine of its own, with the same cache opened anew."""

    async def all_of_them() -> None:
        for use in uses:
            cache = Cache.open(settings(directory / "cache"))
            try:
                options = replace(settings(directory / "cache"), connections_max=16, connections_per_host_max=16)
                admission = Admission(options, lambda: 100.0, random.Random(1))
                await use((admission, Remembering(cache, workers, admission)))
            finally:
                cache.close()

    asyncio.run(all_of_them())


def found(admission: Admission, connections: int, speed: float, *, much: bool) -> HostWindow:
    """As if a run had met the host and come to rest there."""
    window = admission.host(CDN)
    window.plateau.level, window.plateau.found = connections, True
    window.connection_bytes_per_s = speed
    window.bytes_received = BYTES_MIN if much else BYTES_MIN - 1
    window.requests_done = 0 if much else REQUESTS_MIN - 1
    return window


@pytest.mark.parametrize("much", [True, False])
def test_the_next_run_begins_where_this_one_came_to_rest(tmp_path: Path, workers: Workers, much: bool) -> None:
    async def first(engine: Engine) -> None:
        admission, remembering = engine
        await remembering.recall()
        unknown = admission.host("https://other.example:443")
        assert unknown.plateau.level != 9
        found(admission, 9, 50.0 * MIB, much=much)
        await remembering.keep()

    async def second(engine: Engine) -> None:
        admission, remembering = engine
        await remembering.recall()
        window = admission.host(CDN)
        assert (window.plateau.level == 9) is much, "a host that was hardly met is not remembered"
        assert window.connection_bytes_per_s == (50.0 * MIB if much else 0.0)

    in_engines(tmp_path, workers, first, second)


def test_what_says_nothing_new_is_not_written_again(
    tmp_path: Path, workers: Workers, monkeypatch: pytest.MonkeyPatch
) -> None:
    saved: list[Mapping[str, Known]] = []
    save = Hosts.save

    def noted(hosts: Hosts, known: Mapping[str, Known]) -> None:
        saved.append(known)
        save(hosts, known)

    monkeypatch.setattr(Hosts, "save", noted)

    async def use(engine: Engine) -> None:
        admission, remembering = engine
        for connections, speed, count in [(9, 50, 1), (9, 60, 1), (9, 24, 2), (9, 49, 3), (8, 49, 4)]:
            found(admission, connections, float(speed), much=True)
            await remembering.keep()
            assert len(saved) == count, (connections, speed)

    in_engines(tmp_path, workers, use)
