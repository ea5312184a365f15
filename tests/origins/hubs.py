"""A hub's content and settings, as the tests of this room use them."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from fetcher.config import Settings
from fetcher.net.api import ApiClient
from fetcher.net.roads import Roads
from fetcher.origins.hf import HfOrigin
from fetcher.testing import Hub

FILES = {
    "README.md": b"# Tiny\n",
    "config.json": b'{"hidden": 1}\n',
    "empty.txt": b"",
    "model-00001-of-00002.safetensors": bytes(range(251)) * 500,
    "model-00002-of-00002.safetensors": b"\x00" * 70_000,
    "onnx/model.onnx": b"onnx" * 100,
    "onnx/sub/x.onnx": b"x" * 100,
    "odd/a b (1)'~%27#?&=+ä.txt": b"odd name\n",
    "odd/[1].txt": b"brackets\n",
}


def settings_for(hub: Hub, **changes: Any) -> Settings:
    values: dict[str, Any] = {
        "cache_dir": Path("/unused"),
        "state_dir": Path("/unused"),
        "hf_endpoint": hub.endpoint,
        "allow_net": ("127.0.0.0/8",),
        "backoff_min_s": 0.001,
        "backoff_max_s": 0.01,
        "api_timeout_s": 5.0,
    }
    return Settings(**{**values, **changes})


@asynccontextmanager
async def origin_at(hub: Hub, **changes: Any) -> AsyncIterator[HfOrigin]:
    """An origin with a transport of its own."""
    settings = settings_for(hub, **changes)
    transport = Roads(settings)
    try:
        yield HfOrigin(ApiClient(transport, settings), settings)
    finally:
        await transport.close()
