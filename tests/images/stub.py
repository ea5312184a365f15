"""A container engine that says what a test wants said: HTTP over a real unix socket, scripted. It has no images, only
answers; the real engines are asked in test_real_engines.py.
"""

from __future__ import annotations

import asyncio
import io
import json
import shutil
import tarfile
import tempfile
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from aiohttp import web

from fetcher.config import Settings

SHA = "sha256:" + "ab" * 32

Say = Callable[[web.StreamResponse], Awaitable[None]]
"""Writes the body of a pull."""


def line(**fields: Any) -> bytes:
    """One line as Docker writes it."""
    return json.dumps(fields).encode() + b"\r\n"


def says(*pieces: bytes) -> Say:
    """A pull that is told in these pieces and ends well, as HTTP goes."""

    async def say(response: web.StreamResponse) -> None:
        for piece in pieces:
            await response.write(piece)

    return say


def layer(status: str, name: str = "aaaaaaaaaaaa", current: int | None = None, total: int | None = None) -> bytes:
    """A line about one layer."""
    detail = {} if current is None else {"current": current, "total": total}
    return line(status=status, progressDetail=detail, id=name)


@dataclass
class StubEngine:
    """What it is and what it will say; change it as the test goes."""

    socket: Path
    api_newest: str = "1.41"
    api_oldest: str | None = "1.12"
    libpod: str | None = None
    version: str = "20.10.24"
    ping_status: int = 200
    tags: dict[str, str] = field(default_factory=dict)
    """Name asked for → name under which it is listed."""
    pulled_as: str | None = None
    """What a pull that ends well adds to ``tags``; None: the name it was asked for."""
    pull_status: int = 200
    pull_says: Say = field(default_factory=lambda: says(line(status="Status: done")))
    pull_delay_s: float = 0.0
    """Before the first byte of the answer to a pull."""
    inspect_status: int = 200
    may_tag: bool = True
    requests: list[str] = field(default_factory=list)
    """``METHOD /path?query``, in order."""
    auth: list[str | None] = field(default_factory=list)
    """``X-Registry-Auth`` of the pulls."""
    images: list[dict[str, Any]] = field(default_factory=list)
    """All that is listed: ``Id`` and ``Size`` count."""
    sees: dict[str, Path] = field(default_factory=dict)
    """Directory as the engine has it → as this host has it. Others it does not have."""
    create_refusals: dict[str, str] = field(default_factory=dict)
    """Id of an image → why no container can be made of it."""
    archive_says: bytes | None = None
    """Instead of an archive."""
    archive_delay_s: float = 0.0
    may_remove: bool = True
    containers: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Name → what was ordered; those that were not removed."""
    hung_up: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when the client of a pull went away before its end."""

    def app(self) -> web.Application:
        app = web.Application(middlewares=[self._record])
        app.router.add_get("/_ping", self._ping)
        app.router.add_get("/version", self._version)
        app.router.add_get("/{version:v[0-9.]+}/images/{name:.+}/json", self._inspect)
        app.router.add_post("/{version:v[0-9.]+}/images/create", self._pull)
        app.router.add_post("/{version:v[0-9.]+}/libpod/images/pull", self._pull)
        app.router.add_post("/{version:v[0-9.]+}/images/{name:.+}/tag", self._tag)
        app.router.add_get("/{version:v[0-9.]+}/images/json", self._list)
        app.router.add_post("/{version:v[0-9.]+}/containers/create", self._create)
        app.router.add_post("/{version:v[0-9.]+}/libpod/containers/create", self._create)
        app.router.add_get("/{version:v[0-9.]+}/containers/{name}/archive", self._archive)
        app.router.add_delete("/{version:v[0-9.]+}/containers/{name}", self._remove)
        return app

    @web.middleware
    async def _record(
        self, request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
    ) -> web.StreamResponse:
        self.requests.append(f"{request.method} {unquote(str(request.rel_url))}")
        return await handler(request)

    async def _ping(self, request: web.Request) -> web.Response:
        headers = {"Api-Version": self.api_newest}
        if self.libpod:
            headers["Libpod-Api-Version"] = self.libpod
        return web.Response(text="OK", status=self.ping_status, headers=headers if self.api_newest else {})

    async def _version(self, request: web.Request) -> web.Response:
        about = {"Version": self.version, "ApiVersion": self.api_newest}
        if self.api_oldest is not None:
            about["MinAPIVersion"] = self.api_oldest
        return web.json_response(about)

    async def _inspect(self, request: web.Request) -> web.Response:
        name = request.match_info["name"]
        if self.inspect_status != 200:
            return web.json_response({"message": "storage is broken"}, status=self.inspect_status)
        if name not in self.tags:
            return web.json_response({"message": f"No such image: {name}"}, status=404)
        listed = self.tags[name]
        kind = "RepoDigests" if "@" in listed else "RepoTags"
        return web.json_response({"Id": SHA, "Size": 42, "RepoTags": None, "RepoDigests": None, kind: [listed]})

    async def _pull(self, request: web.Request) -> web.StreamResponse:
        self.auth.append(request.headers.get("X-Registry-Auth"))
        await asyncio.sleep(self.pull_delay_s)
        if self.pull_status != 200:
            return web.json_response({"message": "pull access denied for x"}, status=self.pull_status)
        response = web.StreamResponse()
        response.enable_chunked_encoding()
        await response.prepare(request)
        try:
            await self.pull_says(response)
            await response.write_eof()
        except (ConnectionError, asyncio.CancelledError):
            self.hung_up.set()
            raise
        query = request.query
        tag = query.get("tag", "")
        name = query.get("reference") or f"{query['fromImage']}{'@' if ':' in tag else ':'}{tag}"
        self.tags[name] = self.pulled_as or name
        return response

    async def _list(self, request: web.Request) -> web.Response:
        return web.json_response(self.images)

    async def _create(self, request: web.Request) -> web.Response:
        order = await request.json()
        name = request.query.get("name") or order["name"]
        image = order.get("Image") or order["image"]
        if image in self.create_refusals:
            return web.json_response({"message": self.create_refusals[image]}, status=500)
        source = self._source(order)
        if self._real(source) is None:
            said = f"statfs {source}: no such file or directory" if self.libpod else f"path does not exist: {source}"
            return web.json_response({"message": said}, status=500 if self.libpod else 400)
        self.containers[name] = order
        return web.json_response({"Id": "c" * 64, "Warnings": []}, status=201)

    def _source(self, order: dict[str, Any]) -> str:
        mount = order["mounts"][0] if self.libpod else order["HostConfig"]["Mounts"][0]
        return str(mount.get("source") or mount["Source"])

    def _real(self, source: str) -> Path | None:
        """A directory of the engine's, as this host has it."""
        for theirs, ours in self.sees.items():
            if source == theirs or source.startswith(f"{theirs}/"):
                return Path(f"{ours}{source.removeprefix(theirs)}")
        return None

    async def _archive(self, request: web.Request) -> web.Response:
        await asyncio.sleep(self.archive_delay_s)
        real = self._real(self._source(self.containers[request.match_info["name"]]))
        file = None if real is None else real / request.query["path"].rpartition("/")[2]
        if file is None or not file.exists():
            return web.json_response({"message": "Could not find the file"}, status=404)
        made = io.BytesIO()
        with tarfile.open(fileobj=made, mode="w") as archive:
            archive.add(file, file.name)
        return web.Response(body=self.archive_says if self.archive_says is not None else made.getvalue())

    async def _remove(self, request: web.Request) -> web.Response:
        if not self.may_remove:
            return web.json_response({"message": "device or resource busy"}, status=500)
        found = self.containers.pop(request.match_info["name"], None)
        return web.Response(status=404 if found is None else 204)

    async def _tag(self, request: web.Request) -> web.Response:
        if not self.may_tag:
            return web.json_response({"message": "tagging is not allowed"}, status=500)
        name = f"{request.query['repo']}:{request.query['tag']}"
        self.tags[name] = name
        return web.Response(status=201)


@asynccontextmanager
async def stub_engine(**fields: Any) -> AsyncIterator[StubEngine]:
    """A running stub. Its socket lies in a directory with a short path: a socket's has room for 107 bytes."""
    directory = Path(tempfile.mkdtemp(prefix="fetcher-stub-"))
    stub = StubEngine(directory / "engine.sock", **fields)
    # With this, a handler is cancelled when its client hangs up.
    runner = web.AppRunner(stub.app(), handler_cancellation=True, shutdown_timeout=1.0)
    await runner.setup()
    try:
        await web.UnixSite(runner, str(stub.socket)).start()
        yield stub
    finally:
        await runner.cleanup()
        shutil.rmtree(directory)


@contextmanager
def engine_in_thread(**fields: Any) -> Iterator[StubEngine]:
    """A container engine of a test's own making, beside the program."""
    ready, stop = threading.Event(), asyncio.Event()
    made: list[StubEngine] = []
    loop = asyncio.new_event_loop()

    async def serve() -> None:
        async with stub_engine(**fields) as engine:
            made.append(engine)
            ready.set()
            await stop.wait()

    thread = threading.Thread(target=loop.run_until_complete, args=(serve(),))
    thread.start()
    try:
        assert ready.wait(30)
        yield made[0]
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join()
        loop.close()


def settings(**fields: Any) -> Settings:
    """Settings that never touch a disk."""
    return Settings(cache_dir=Path("/nowhere"), state_dir=Path("/nowhere"), **fields)
