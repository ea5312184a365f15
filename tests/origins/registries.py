"""Settings for embedded registries, and what a store filled from one must hold."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Protocol

from fetcher.config import Settings
from fetcher.net.api import ApiClient
from fetcher.net.roads import Roads
from fetcher.origins.ollama import OllamaOrigin
from fetcher.testing.registry import Registry


class Endpoint(Protocol):
    @property
    def endpoint(self) -> str: ...


def settings_for(registry: Endpoint, **changes: Any) -> Settings:
    values: dict[str, Any] = {
        "cache_dir": Path("/unused"),
        "state_dir": Path("/unused"),
        "ollama_url": registry.endpoint,
        "allow_net": ("127.0.0.0/8",),
        "backoff_min_s": 0.001,
        "backoff_max_s": 0.01,
        "api_timeout_s": 5.0,
        "api_tries_max": 2,
    }
    return Settings(**{**values, **changes})


@asynccontextmanager
async def origin_at(registry: Endpoint, **changes: Any) -> AsyncIterator[tuple[OllamaOrigin, Roads]]:
    """An origin with a transport of its own."""
    settings = settings_for(registry, **changes)
    transport = Roads(settings)
    try:
        yield OllamaOrigin(ApiClient(transport, settings), settings), transport
    finally:
        await transport.close()


def store_of(registry: Registry, *repositories: str, tag: str = "latest") -> dict[str, bytes]:
    """Path → content of the store with these models, put together from what the registry holds."""
    files: dict[str, bytes] = {}
    for name in repositories:
        repository = registry.repository(name)
        manifest = repository[tag]
        files[f"manifests/registry.ollama.ai/{name}/{tag}"] = manifest.body
        for row in (manifest.document["config"], *manifest.document["layers"]):
            files[f"blobs/{row['digest'].replace(':', '-')}"] = repository.blobs[row["digest"]].read()
    return files
