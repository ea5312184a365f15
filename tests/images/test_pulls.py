"""The images of one call: how many are pulled at once, and what asking for their sizes may cost. The engine is a stub,
the registry the embedded one."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import pytest
from aiohttp import web

from fetcher.engine.observe import Observer
from fetcher.engine.pulls import Pulls
from fetcher.model.image import Image
from fetcher.net.api import ApiClient
from fetcher.net.roads import Roads
from fetcher.plan.fetch_plan import PlannedImage
from fetcher.testing.registry import PullLimit, registry_in_thread
from tests.images.stub import StubEngine, line, settings, stub_engine


@asynccontextmanager
async def pulls_of(**engine: Any) -> AsyncIterator[tuple[StubEngine, Pulls]]:
    """Those of one call."""
    known = settings(allow_net=("127.0.0.0/8",))
    transport = Roads(known)
    async with stub_engine(**engine) as stub:
        pulls = Pulls(known, {"DOCKER_HOST": f"unix://{stub.socket}"}, ApiClient(transport, known))
        try:
            yield stub, pulls
        finally:
            await pulls.close()
            await transport.close()


@pytest.mark.parametrize(("cores", "most"), [(1, 1), (8, 4), (256, 8)])
def test_so_many_are_pulled_at_once(cores: int, most: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """An engine has connections for more, so that it can be asked about the others meanwhile."""
    monkeypatch.setattr(os, "cpu_count", lambda: cores)
    images = [Image(f"127.0.0.1:9/acme/app:{number}") for number in range(24)]
    now = reached = 0
    enough = asyncio.Event()

    async def say(response: web.StreamResponse) -> None:
        nonlocal now, reached
        now += 1
        reached = max(reached, now)
        if now == most:
            enough.set()
        await enough.wait()
        await asyncio.sleep(0.05)  # for one too many
        await response.write(line(status="Status: done"))
        now -= 1

    async def main() -> None:
        async with pulls_of(pull_says=say) as (_, pulls):
            await pulls._find()
            planned = [PlannedImage(image.name, "pull") for image in images]
            outcomes = await pulls.pull_all(images, planned, Observer(None, "", asyncio.get_running_loop().time))
            assert [outcome.status for outcome in outcomes] == ["done"] * len(images)

    asyncio.run(main())
    assert reached == most


@pytest.mark.parametrize("pulls_left", [8, 100, None])
def test_sizes_are_not_asked_for_with_the_pulls_that_the_engine_needs(pulls_left: int | None) -> None:
    limit = None if pulls_left is None else PullLimit(pulls=pulls_left)
    with registry_in_thread(pull_limit=limit) as registry:
        for name in ("acme/one", "acme/two"):
            registry.add_image(name, platforms=("linux/amd64", "linux/arm64"))

        async def main() -> Sequence[PlannedImage]:
            async with pulls_of() as (_, pulls):
                return await pulls.plan([Image(f"{registry.host}/acme/{name}:latest") for name in ("one", "two")])

        planned = asyncio.run(main())
        methods = [record.method for record in registry.requests if record.route == "manifest"]
    assert [image.action for image in planned] == ["pull", "pull"]
    if pulls_left == 8:
        assert [image.bytes for image in planned] == [None, None]
        assert methods == ["HEAD", "HEAD"]
    else:
        assert all(image.bytes for image in planned)
        assert sorted(methods) == ["GET"] * 4 + ["HEAD"] * 2
