"""What the tests of the transport share: settings that allow the loopback, a transport that is closed, a loop of
either kind."""

from __future__ import annotations

import asyncio
import gc
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import uvloop

from fetcher.config import Settings
from fetcher.net.aiohttp_transport import AiohttpTransport
from fetcher.net.body.transport import BodyTransport
from fetcher.net.request import Request
from fetcher.net.transport import Transport
from tests.net.raw_server import RawServer

CERTIFICATE = Path(__file__).with_name("certificate.pem")
"""Self-signed, for origin.test and 127.0.0.1; its key is no secret."""
IDLE_S = 15.0
"""For origins that answer: a busy machine may stand still for seconds."""
SILENCE_S = 0.3
"""For those that fall silent."""

loops = pytest.mark.parametrize("uv", [False, True], ids=["asyncio", "uvloop"])
tls = pytest.mark.parametrize("secure", [False, True], ids=["http", "https"])


def contexts(secure: bool) -> tuple[ssl.SSLContext | None, dict[str, Any]]:
    """What the server and what the transport is given."""
    if not secure:
        return None, {}
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(CERTIFICATE)
    return server, {"ssl_context": ssl.create_default_context(cafile=str(CERTIFICATE))}


def settings(**changes: Any) -> Settings:
    values: dict[str, Any] = {"cache_dir": Path("/unused"), "state_dir": Path("/unused"), "allow_net": ("127.0.0.0/8",)}
    return Settings(**{**values, "connect_timeout_s": 15.0, **changes})


BOTH: dict[str, Callable[..., Transport]] = {"aiohttp": AiohttpTransport, "bodies": BodyTransport}
"""The two transports: one contract, one suite."""
under_test: Callable[..., Transport] = AiohttpTransport
"""What ``transport`` makes."""


@asynccontextmanager
async def transport(**changes: Any) -> AsyncIterator[Any]:
    options = {name: changes.pop(name) for name in ("lookup", "ssl_context") if name in changes}
    made = under_test(settings(**changes), **options)
    try:
        yield made
    finally:
        await made.close()


def run(main: Callable[[], Awaitable[None]], *, uv: bool = False) -> None:
    gc.freeze()  # what was there before is none of this test's, and going through it took longer than most tests
    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop if uv else None) as runner:
            runner.run(main())  # type: ignore[arg-type]
        gc.collect()  # an answer that was forgotten would warn now, in this test
    finally:
        gc.unfreeze()


def get(server: RawServer, path: str = "/", **more: Any) -> Request:
    return Request("GET", server.origin + path, **more)


async def body_of(made: AiohttpTransport, request: Request, *, idle_timeout_s: float = IDLE_S, **more: Any) -> bytes:
    response = await made.send(request, idle_timeout_s=idle_timeout_s, **more)
    try:
        data = await response.read_all(1 << 24)
        await response.release()
        return data
    except BaseException:
        response.abort()
        raise
