"""The Hub's dialect keeps the promises of every origin, against the strict embedded hub."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fetcher.model.asker import Asker
from fetcher.model.resource import HF
from fetcher.model.secret import Secret
from fetcher.net.api import ApiClient
from fetcher.net.roads import Roads
from fetcher.origins.hf import HfOrigin
from fetcher.testing import Hub, Token
from tests.origins.conformance import OriginConformance, World
from tests.origins.hubs import FILES, settings_for


class Clock:
    """Unix seconds that can be set forward."""

    def __init__(self) -> None:
        self.now = 1_795_392_000.0

    def __call__(self) -> float:
        return self.now


class TestHf(OriginConformance):
    page_entries = 1000
    resolve_cache_without_query = True

    @asynccontextmanager
    async def world(self) -> AsyncIterator[World]:
        clock = Clock()
        tokens = {"hf_insider": Token("alice"), "hf_outsider": Token("eve", frozenset())}
        hub = Hub(
            tokens=tokens,
            clock=clock,
            page_entries=self.page_entries,
            resolve_cache_without_query=self.resolve_cache_without_query,
        )
        async with hub:
            hub.add_repo("acme/tiny", files=FILES)
            hub.add_repo("acme/secret", files=FILES, private=True)
            settings = settings_for(hub)
            transport = Roads(settings)

            async def change() -> None:
                hub.commit("acme/tiny", {"config.json": b'{"changed": true}'})

            def pass_time() -> None:
                clock.now += 7200

            try:
                yield World(
                    origin=HfOrigin(ApiClient(transport, settings), settings),
                    transport=transport,
                    public=HF("acme/tiny"),
                    files=FILES,
                    private=HF("acme/secret"),
                    missing=HF("acme/missing"),
                    insider=Asker("job", Secret("hf_insider")),
                    outsider=Asker("job", Secret("hf_outsider")),
                    anonymous=Asker("job"),
                    change=change,
                    use_up_urls=pass_time,
                    tokens_seen_elsewhere=lambda: sum(
                        record.authorization for record in hub.requests if record.route == "cdn"
                    ),
                )
            finally:
                await transport.close()


class TestHfInSmallPages(TestHf):
    page_entries = 2


class TestHfOfAnEndpointWithoutResolveCache(TestHf):
    resolve_cache_without_query = False
