"""fetcher's transfer layer alone, without hashing: what receiving and writing cost. Never a switch of the product.

One file in ranges of 16 MiB over so many connections: ``URL OUTPUT``. Or many small files, a request each, the whole
body and one write: ``--base URL --names LIST --directory D``. Prints its own figures (the transfer alone, without
start-up) as one line of JSON. What it takes of the product is in ``Adapter``: a few lines, to follow where that goes.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import resource
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from queue import SimpleQueue
from threading import Thread

from fetcher.config import load
from fetcher.engine.buffers import Slab
from fetcher.engine.loop import run
from fetcher.net.body.transport import BodyTransport
from fetcher.net.request import Request
from fetcher.net.transport import Response

RANGE_BYTES = 16 << 20
SLAB_BYTES = 1 << 20
INLINE_BYTES_MAX = 64 << 10
"""A small file of up to this comes as pieces, a longer one into a slab: as ``engine/receive.py`` does."""
IDLE_TIMEOUT_S = 60.0


class Disk:
    """One thread that writes, as ``engine/disk.py`` has one on two cores: two writers of one file wait for each other.

    What an executor costs the event loop for each block, the product does not pay.
    """

    def __init__(self) -> None:
        self._calls: SimpleQueue[tuple[int, memoryview, int, Callable[[int], None]] | None] = SimpleQueue()
        self._loop = asyncio.get_running_loop()
        self._thread = Thread(target=self._work, daemon=True)
        self._thread.start()

    def write(self, file: int, view: memoryview, offset: int, written: Callable[[int], None]) -> None:
        """``written`` is told on the loop how much of it was written."""
        self._calls.put((file, view, offset, written))

    def close(self) -> None:
        self._calls.put(None)
        self._thread.join()

    def _work(self) -> None:
        while (call := self._calls.get()) is not None:
            file, view, offset, written = call
            try:
                count = os.pwrite(file, view, offset)
            except OSError:
                count = 0
            self._loop.call_soon_threadsafe(written, count)


class Writer:
    """A body into two slabs in turns; a full one is written by a thread while the other fills."""

    def __init__(self, response: Response, slabs: tuple[Slab, Slab], file: int, disk: Disk) -> None:
        self._response = response
        self._free = list(slabs)
        self._slab: Slab | None = self._free.pop()
        self._file = file
        self._disk = disk
        self._filled = 0
        self._writing = 0
        self._drained = asyncio.Event()

    async def run(self, start: int, stop: int) -> None:
        self._start, self._stop = start, stop
        await self._response.receive(self)
        while self._writing:
            self._drained.clear()
            await self._drained.wait()
        if self._start != stop:
            raise SystemExit(f"the body ended at {self._start} instead of {stop}")

    def get_buffer(self) -> memoryview | None:
        return None if self._slab is None else self._slab.view[self._filled : self._length]

    @property
    def _length(self) -> int:
        return min(SLAB_BYTES, self._stop - self._start)

    def buffer_updated(self, count: int) -> None:
        self._filled += count
        if self._filled < self._length:
            return
        slab = self._slab
        assert slab is not None
        self._writing += 1
        length = self._filled

        def written(count: int) -> None:
            if count != length:
                raise SystemExit(f"only {count} of {length} bytes were written")
            self._written(slab)

        self._disk.write(self._file, slab.view[:length], self._start, written)
        self._start += self._filled
        self._filled = 0
        self._slab = self._free.pop() if self._free else None

    def _written(self, slab: Slab) -> None:
        self._writing -= 1
        if self._slab is None:
            self._slab = slab
            self._response.resume()
        else:
            self._free.append(slab)
        self._drained.set()


class Whole:
    """A body of at most a slab, whole."""

    def __init__(self, slab: Slab) -> None:
        self._slab = slab
        self.filled = 0

    def get_buffer(self) -> memoryview:
        return self._slab.view[self.filled :]

    def buffer_updated(self, count: int) -> None:
        self.filled += count


class Adapter:
    """How the product sends requests and receives bodies."""

    def __init__(self) -> None:
        self._transport = BodyTransport(load())
        self._disk = Disk()

    async def ask(self, method: str, url: str, start: int = 0, stop: int = 0) -> Response:
        headers = (("Range", f"bytes={start}-{stop - 1}"),) if stop else ()
        response = await self._transport.send(Request(method, url, headers), idle_timeout_s=IDLE_TIMEOUT_S)
        if response.status != (206 if stop else 200):
            raise SystemExit(f"{url}: {response.status}")
        return response

    async def receive(self, response: Response, slabs: tuple[Slab, Slab], file: int, start: int, stop: int) -> None:
        await Writer(response, slabs, file, self._disk).run(start, stop)

    async def body(self, response: Response, slab: Slab) -> bytes | memoryview:
        length = response.content_length
        if length is None or not INLINE_BYTES_MAX < length <= SLAB_BYTES:
            return await response.read_all(64 << 20)
        receiver = Whole(slab)
        await response.receive(receiver)
        return slab.view[: receiver.filled]

    async def close(self) -> None:
        await self._transport.close()
        self._disk.close()


async def _one(adapter: Adapter, url: str, output: str, connections: int) -> int:
    head = await adapter.ask("HEAD", url)
    size = int(head.headers["Content-Length"])
    await head.release()
    file = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
    starts = iter(range(0, size, RANGE_BYTES))

    async def take() -> None:
        slabs = Slab(), Slab()
        for start in starts:
            stop = min(start + RANGE_BYTES, size)
            response = await adapter.ask("GET", url, start, stop)
            await adapter.receive(response, slabs, file, start, stop)
            await response.release()

    await asyncio.gather(*(take() for _ in range(connections)))
    os.close(file)
    return size


async def _many(adapter: Adapter, base: str, names: list[str], directory: Path, connections: int) -> int:
    waiting: Iterator[str] = iter(names)

    async def take() -> int:
        count = 0
        slab = Slab()
        for name in waiting:
            response = await adapter.ask("GET", f"{base}/{name}")
            body = await adapter.body(response, slab)
            await response.release()
            file = os.open(f"{directory}/{name}", os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
            count += os.write(file, body)
            os.close(file)
        return count

    return sum(await asyncio.gather(*(take() for _ in range(connections))))


async def _measured(options: argparse.Namespace) -> None:
    adapter = Adapter()
    before = resource.getrusage(resource.RUSAGE_SELF)
    start = time.perf_counter()
    if options.names is None:
        count = await _one(adapter, options.url, options.output, options.connections)
    else:
        names = options.names.read_text().splitlines()
        count = await _many(adapter, options.base, names, options.directory, options.connections)
    wall_s = time.perf_counter() - start
    used = resource.getrusage(resource.RUSAGE_SELF)
    await adapter.close()
    user_s, system_s = used.ru_utime - before.ru_utime, used.ru_stime - before.ru_stime
    print(json.dumps({"bytes": count, "wall_s": wall_s, "user_s": user_s, "system_s": system_s}))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("url", nargs="?")
    parser.add_argument("output", nargs="?")
    parser.add_argument("--connections", type=int, default=8)
    parser.add_argument("--base")
    parser.add_argument("--names", type=Path, help="a file with a path below --base in each line")
    parser.add_argument("--directory", type=Path)
    options = parser.parse_args()
    run(lambda: _measured(options))


if __name__ == "__main__":
    main()
