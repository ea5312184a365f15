"""An embedded S3's content and settings, as the tests of this room use them."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fetcher.config import Settings
from fetcher.model.asker import Asker
from fetcher.model.manifest import FileEntry, Manifest
from fetcher.model.secret import AWSKeys, Secret
from fetcher.net.api import ApiClient
from fetcher.net.roads import Roads
from fetcher.origins.s3 import S3Origin

MIB = 1 << 20
KEY_ID, SECRET = "AKIDEXAMPLE", "s3cr3t+/="
INSIDER = Asker("job", AWSKeys(KEY_ID, Secret(SECRET)))
OUTSIDER = Asker("job", AWSKeys("AKIDOUTSIDER", Secret("0uts1de")))
ANONYMOUS = Asker("job")

FILES = {
    "README.md": b"# Tiny\n",
    "empty.txt": b"",
    "model.safetensors": bytes(range(251)) * 10_000,
    "sub/dir/x.onnx": b"x" * 100,
    "odd/a b+c (1)'~%27#?&=ä!*.txt": b"odd name\n",
}
"""One is larger than a block, so that it is asked for its checksum."""


def settings_for(endpoint: str, **changes: Any) -> Settings:
    values: dict[str, Any] = {
        "cache_dir": Path("/unused"),
        "state_dir": Path("/unused"),
        "s3_endpoint": endpoint,
        "allow_net": ("127.0.0.0/8",),
        "backoff_min_s": 0.001,
        "backoff_max_s": 0.01,
        "api_timeout_s": 5.0,
        "api_tries_max": 4,
    }
    return Settings(**{**values, **changes})


@dataclass(frozen=True)
class Asking:
    """An origin, and what bodies are fetched with."""

    origin: S3Origin
    transport: Roads
    api: ApiClient

    async def body(self, manifest: Manifest, entry: FileEntry, asker: Asker) -> tuple[FileEntry | None, bytes]:
        """What the answer states of ``entry`` (None: that it is another by now), and the body."""
        request = self.origin.locate(manifest, entry, asker)
        response = await self.transport.send(request, idle_timeout_s=5)
        while (following := self.origin.follow(request, response)) is not None:
            await response.release()
            request = following
            response = await self.transport.send(request, idle_timeout_s=5)
        assert response.status == 200, self.origin.refusal(response, entry, signed=False)
        body = await response.read_all(1 << 26)
        await response.release()
        return self.origin.stated(response, entry, whole=True), body


@asynccontextmanager
async def asking(endpoint: str, *, clock: Callable[[], float] = time.time, **changes: Any) -> AsyncIterator[Asking]:
    """An origin with a transport of its own."""
    settings = settings_for(endpoint, **changes)
    transport = Roads(settings)
    api = ApiClient(transport, settings)
    try:
        yield Asking(S3Origin(api, settings, clock), transport, api)
    finally:
        await transport.close()
