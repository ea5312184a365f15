"""Requests that are given up at each moment at which they wait for something: neither a socket nor a task is left.

Turns of the event loop are no moments: how many of them a handshake takes is a matter of the loop and of luck. So the
asking is driven by hand, and is cancelled as it is suspended for the n-th time, for each n that there is.
"""

from __future__ import annotations

import asyncio
import os
import traceback
import types
from collections.abc import Coroutine, Generator
from typing import Any

import pytest

from fetcher.net.request import Request
from fetcher.net.transport import Transport
from tests.net.raw_server import body_reply, serving
from tests.net.test_receiving import Memory, without_end
from tests.net.wiring import IDLE_S, body_of, contexts, loops, run, tls, transport

pytestmark = pytest.mark.usefixtures("both")

BODY = bytes(range(251)) * 1200
MOMENTS_MAX = 200
"""Far more than any asking has; without it, one that never ends would be asked for ever."""


async def origin_test(host: str, port: int) -> list[str]:
    await asyncio.sleep(0)
    return ["127.0.0.1"]


def sockets_open() -> int:
    found = 0
    for name in os.listdir("/proc/self/fd"):
        try:
            found += os.readlink(f"/proc/self/fd/{name}").startswith("socket:")
        except OSError:
            continue
    return found


@types.coroutine
def cancelled_at(
    moment: int, later: bool, asking: Coroutine[Any, Any, bytes], seen: list[set[str]]
) -> Generator[Any, Any, bytes]:
    """``asking``, whose task is cancelled as it is suspended for the ``moment``-th time, counted from 1, or one turn of
    the loop ``later``; ``seen`` is told the functions that the cancellation came through, nothing if there is no such
    moment."""
    task = asyncio.current_task()
    assert task is not None
    count = 0
    value: Any = None
    error: BaseException | None = None
    while True:
        try:
            waited_for = asking.send(value) if error is None else asking.throw(error)
        except StopIteration as end:
            body: bytes = end.value
            return body
        except asyncio.CancelledError as cancelled:
            seen.append({frame.name for frame in traceback.extract_tb(cancelled.__traceback__)})
            raise
        count += 1
        if count == moment:
            seen.append(set())
            if later:
                asyncio.get_running_loop().call_soon(task.cancel)
            else:
                task.cancel()
        value = error = None
        try:
            value = yield waited_for
        except BaseException as raised:  # whatever it is, it is for the asking to see
            error = raised


async def received(made: Transport, request: Request, *, fresh_connection: bool) -> bytes:
    """The body by way of ``receive``, into rooms that there are not always."""
    response = await made.send(request, idle_timeout_s=IDLE_S, fresh_connection=fresh_connection)
    try:
        memory = Memory(without_end(0, 70_000), response)
        await response.receive(memory)
        await response.release()
        return bytes(memory.got)
    except BaseException:
        response.abort()
        raise


TAKEN = {"read": body_of, "received": received}


@loops
@tls
@pytest.mark.parametrize("taken", TAKEN)
def test_given_up_at_any_moment_nothing_is_left(taken: str, secure: bool, uv: bool) -> None:
    async def main() -> None:
        server_tls, options = contexts(secure)
        seen: set[str] = set()

        async def give_up(made: Transport, request: Request, moment: int, later: bool, fresh: bool) -> bool:
            """Whether there was such a moment."""
            here: list[set[str]] = []

            async def driven() -> bytes:
                asking = TAKEN[taken](made, request, fresh_connection=fresh)
                return await cancelled_at(moment, later, asking, here)

            if not fresh:
                assert await body_of(made, request) == BODY  # there is a connection that is kept
            task = asyncio.create_task(driven())
            await asyncio.wait_for(asyncio.wait([task]), 20)
            assert task.cancelled() or task.result() == BODY
            assert later or task.cancelled() == bool(here), "who is cancelled as it waits hears of it"
            seen.update(*here)
            return bool(here)

        async with serving(body_reply(BODY), tls=server_tls) as server:
            await asyncio.sleep(0)
            before, tasks = sockets_open(), len(asyncio.all_tasks())
            async with transport(lookup=origin_test, **options) as made:
                request = Request("GET", f"{server.scheme}://origin.test:{server.port}/")
                for later in (False, True):
                    for fresh in (False, True):
                        moments = 1
                        while await give_up(made, request, moments, later, fresh):
                            moments += 1
                            assert moments < MOMENTS_MAX
                assert await body_of(made, request) == BODY
            async with asyncio.timeout(20):
                while sockets_open() > before or len(asyncio.all_tasks()) > tasks:  # noqa: ASYNC110 - nobody tells
                    await asyncio.sleep(0.01)
        assert {"create_connection", "send", "receive" if taken == "received" else "read_all"} <= seen, seen

    run(main, uv=uv)
