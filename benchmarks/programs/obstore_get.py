"""One file by way of obstore: BASE NAME OUTPUT."""

from __future__ import annotations

import asyncio
import os
import sys

import obstore
from obstore.store import HTTPStore

TASKS = 8
RANGE_BYTES = 16 << 20


async def _fetch(base: str, name: str, output: str) -> None:
    # Certificates are looked for in a list of its own, so a private one can't be given.
    store = HTTPStore.from_url(base, client_options={"allow_http": True, "allow_invalid_certificates": True})
    size = (await obstore.head_async(store, name))["size"]
    starts = iter(range(0, size, RANGE_BYTES))
    file = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)

    async def take() -> None:
        for start in starts:
            data = await obstore.get_range_async(store, name, start=start, end=min(start + RANGE_BYTES, size))
            view = memoryview(data)
            while view:
                written = os.pwrite(file, view, start)
                start += written
                view = view[written:]

    await asyncio.gather(*(take() for _ in range(TASKS)))
    os.close(file)


if __name__ == "__main__":
    asyncio.run(_fetch(*sys.argv[1:]))
