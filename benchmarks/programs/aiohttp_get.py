"""One file by way of aiohttp on uvloop: URL OUTPUT. What a careful user would write; verifies and retries nothing."""

from __future__ import annotations

import asyncio
import os
import sys

import aiohttp
import uvloop

TASKS = 8
RANGE_BYTES = 16 << 20


async def _fetch(url: str, output: str) -> None:
    file = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(connector=connector, auto_decompress=False) as session:
        async with session.head(url) as head:
            size = int(head.headers["Content-Length"])
        starts = iter(range(0, size, RANGE_BYTES))

        async def take() -> None:
            for start in starts:
                stop = min(start + RANGE_BYTES, size)
                async with session.get(url, headers={"Range": f"bytes={start}-{stop - 1}"}) as response:
                    if response.status != 206:
                        raise SystemExit(f"{url}: {response.status}")
                    async for piece in response.content.iter_any():
                        start += os.pwrite(file, piece, start)
                if start != stop:
                    raise SystemExit(f"{url}: ended at {start} instead of {stop}")

        await asyncio.gather(*(take() for _ in range(TASKS)))
    os.close(file)


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_fetch(*sys.argv[1:]))
