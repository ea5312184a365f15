"""The dialect of Ollama's registry keeps the promises of every origin, against the strict embedded registry."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any, ClassVar

from fetcher.model.asker import Asker
from fetcher.model.ollama import Ollama
from fetcher.model.secret import Login, Secret
from fetcher.net.api import ApiClient
from fetcher.net.roads import Roads
from fetcher.origins.ollama import OllamaOrigin
from fetcher.testing import Synthetic
from fetcher.testing.contents import ContentLike
from fetcher.testing.registry import Registry, User
from tests.origins.conformance import OriginConformance, World
from tests.origins.registries import settings_for, store_of
from tests.origins.test_hf_conformance import Clock

LAYERS: Mapping[str, ContentLike] = {
    "model": Synthetic(70_000, 1),
    "system": b"",
    "license": b"Public domain.\n",
    "params": b'{"num_ctx":4096}',
}


class TestOllama(OriginConformance):
    """As registry.ollama.ai answers, with tokens on top: blobs behind signed URLs, manifests of no declared type."""

    manners: ClassVar[Mapping[str, Any]] = {"dialect": "ollama", "auth": "bearer"}
    models: tuple[str, ...] = ("tiny",)

    @asynccontextmanager
    async def world(self) -> AsyncIterator[World]:
        clock = Clock()
        users = {"alice": User("insider-secret"), "eve": User("outsider-secret", frozenset())}
        async with Registry(users=users, clock=clock, **self.manners) as registry:
            for model in self.models:
                registry.add_model(f"library/{model}", layers=LAYERS, config={"model_type": model})
            registry.add_model("acme/secret", layers=LAYERS, private=True)
            settings = settings_for(registry)
            transport = Roads(settings)
            files = store_of(registry, *(f"library/{model}" for model in self.models))

            async def change() -> None:
                registry.add_model(f"library/{self.models[0]}", layers={**LAYERS, "params": b'{"num_ctx":8192}'})

            def pass_time() -> None:
                clock.now += 7200

            try:
                yield World(
                    origin=OllamaOrigin(ApiClient(transport, settings), settings),
                    transport=transport,
                    public=Ollama.of(*self.models),
                    files=files,
                    private=Ollama.of("acme/secret"),
                    missing=Ollama.of("acme/missing"),
                    insider=Asker("job", Login("alice", Secret("insider-secret"))),
                    outsider=Asker("job", Login("eve", Secret("outsider-secret"))),
                    anonymous=Asker("job"),
                    change=change,
                    use_up_urls=pass_time,
                    tokens_seen_elsewhere=lambda: sum(
                        record.authorization for record in registry.requests if record.route == "cdn"
                    ),
                    never_in_parts=frozenset(path for path in files if path.startswith("manifests/")),
                )
            finally:
                await transport.close()


class TestSeveralModels(TestOllama):
    """In one store, with blobs in common."""

    models = ("other", "tiny")


class TestDistribution(TestOllama):
    """As the distribution project's registry answers, its blobs redirected, its tokens given elsewhere."""

    manners: ClassVar[Mapping[str, Any]] = {
        "dialect": "distribution",
        "auth": "bearer",
        "redirect_blobs": True,
        "separate_token_service": True,
        "token_fields": ("access_token",),
    }
