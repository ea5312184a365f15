"""One file by way of obstore: BASE NAME OUTPUT."""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import obstore
from obstore.store import HTTPStore

if TYPE_CHECKING:
    from obstore.store import ClientConfig

TASKS = 8
RANGE_BYTES = 16 << 20


async def _fetch(base: str, name: str, output: str) -> None:
    trusted = os.environ.get("SSL_CERT_FILE")  # it doesn't read that itself
    options: ClientConfig = {"allow_http": True}
    if trusted:
        options["root_certificate"] = Path(trusted).read_bytes()
    store = HTTPStore.from_url(base, client_options=options)
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
