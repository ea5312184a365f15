"""A host with several addresses: a whole fetch spreads its connections over all of them."""

from __future__ import annotations

import asyncio
import functools
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from fetcher import Fetcher
from fetcher.engine import fetch
from fetcher.net.roads import Roads
from fetcher.testing import Synthetic, s3_in_thread
from tests.e2e.support import HURRIED, MIB, run_fetch, tree_of

ADDRESSES = ("127.0.0.2", "127.0.0.3", "127.0.0.4")
SIZE = 40 * MIB


@contextmanager
def doors_to(port: int, seen: Counter[str]) -> Iterator[int]:
    """Listens at all addresses, on one port, and hands each connection on to ``port`` of 127.0.0.1."""
    ready, loop = threading.Event(), asyncio.new_event_loop()
    stop = asyncio.Event()
    ports: list[int] = []

    async def copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while piece := await reader.read(1 << 16):
                writer.write(piece)
                await writer.drain()
        except OSError:
            pass
        finally:
            writer.transport.abort()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        seen[writer.get_extra_info("sockname")[0]] += 1
        inner_reader, inner_writer = await asyncio.open_connection("127.0.0.1", port)
        await asyncio.gather(copy(reader, inner_writer), copy(inner_reader, writer))

    async def main() -> None:
        first = await asyncio.start_server(serve, ADDRESSES[0], 0)
        ports.append(first.sockets[0].getsockname()[1])
        others = [await asyncio.start_server(serve, address, ports[0]) for address in ADDRESSES[1:]]
        ready.set()
        await stop.wait()
        for server in (first, *others):
            server.close()
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    thread = threading.Thread(target=loop.run_until_complete, args=(main(),))
    thread.start()
    try:
        assert ready.wait(20.0)
        yield ports[0]
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join(20.0)
        loop.close()


def test_all_addresses_of_a_host_are_used(cache_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def lookup(host: str, port: int) -> list[str]:
        assert host == "many.test"
        return list(ADDRESSES)

    monkeypatch.setattr(fetch, "Roads", functools.partial(Roads, lookup=lookup))
    seen: Counter[str] = Counter()
    with s3_in_thread() as s3:
        s3.add_bucket("models", public=True).put("weights.bin", Synthetic(SIZE, 1))
        address = urlsplit(s3.url("models", "weights.bin"))
        assert address.port is not None
        with doors_to(address.port, seen) as port:
            url = f"http://many.test:{port}{address.path}"
            settings = {**HURRIED, "cache_dir": str(cache_dir)}
            outcome = run_fetch(lambda: Fetcher(environ={}, **settings), url)
    assert tree_of(outcome.snapshot.path)["weights.bin"] == (SIZE, Synthetic(SIZE, 1).sha256)
    assert set(seen) == set(ADDRESSES)
    assert max(seen.values()) - min(seen.values()) <= 1, "in turn"
