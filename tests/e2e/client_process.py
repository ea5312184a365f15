"""A client of the library in a process of its own: does what the JSON of its first argument says, tells it as JSON.

``{"event": "ready"}`` when the imports are through, then ``{"event": "done", …}`` or ``{"event": "error", …}``. Ends
with the error's exit code. The options are fields of Settings. ``disk_bytes``: the size that the cache's disk seems
to have. ``job``: a Job Definition whose mounts are made, under a timed lease. ``tell``: with ``{"event": "progress",
…}`` before. ``plant``: a fault of ours, that a test must see.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import threading
from contextlib import suppress
from pathlib import Path
from typing import Any

from fetcher.cache import steps
from fetcher.cache.flights import Flights
from fetcher.cache.records import FlightClaim
from fetcher.cache.removal import Removal, Removed
from fetcher.cache.reservation import Reservation
from fetcher.cache.space import Room as SpaceRoom
from fetcher.client import Fetcher, run
from fetcher.engine import fetch as _loaded  # noqa: F401 - before "ready": what follows is the fetch and nothing else
from fetcher.engine.flights import Flights as EngineFlights
from fetcher.engine.run import Run
from fetcher.errors import CacheError, FetcherError
from fetcher.model.events import Progress
from tests.support import locks
from tests.support.disk import SimulatedDisk


def say(fact: dict[str, Any]) -> None:
    print(json.dumps(fact), flush=True)


def peak_bytes() -> int:
    """Of this program alone: what ``getrusage`` tells begins at the peak of the process that started it."""
    with open("/proc/self/status") as file:
        (line,) = [line for line in file if line.startswith("VmHWM:")]
    return int(line.split()[1]) << 10


def tell(event: object) -> None:
    if isinstance(event, Progress):
        say({"event": "progress", "bytes_done": event.bytes_done, "bytes_downloaded": event.bytes_downloaded})


def plant(fault: str) -> None:
    if fault == "everybody-fetches":

        def mine(self: Flights, contents: Any) -> list[FlightClaim]:
            return [FlightClaim(content, True, self._owner_id, 0, "alive") for content, _ in contents]

        Flights.claim = mine  # type: ignore[method-assign]
    if fault == "pauses-with-its-first-flight":  # no fault, but how a race is made to be one
        claim, turn, paused = EngineFlights.claim, asyncio.Lock(), False

        async def pausing(self: EngineFlights, jobs: Any) -> None:
            nonlocal paused
            async with turn:
                await claim(self, jobs)
                if not paused:
                    paused = True
                    say({"event": "holding"})
                    await asyncio.to_thread(sys.stdin.readline)

        EngineFlights.claim = pausing  # type: ignore[method-assign]
    if fault == "holds-up-its-loop":  # a caller's fault: what it does with the first block's numbers takes its time
        held_up, plain = False, tell

        def holding(event: object) -> None:
            nonlocal held_up
            plain(event)
            if isinstance(event, Progress) and event.bytes_downloaded >= 1 << 20 and not held_up:
                held_up = True
                say({"event": "holding"})
                sys.stdin.readline()

        globals()["tell"] = holding
    if fault == "holds-and-waits":
        execute = Run.execute

        async def greedy(self: Run) -> None:
            """Take the flights one after the other, and wait for each with those before in hand."""
            for job in self._jobs:
                await self._flights.claim([job])
                while not (job.mine or job.blob):
                    await asyncio.sleep(0.05)
                    await self._flights.claim([job])
                say({"event": "holding"})
                await asyncio.to_thread(sys.stdin.readline)
            await execute(self)

        Run.execute = greedy  # type: ignore[method-assign]
    if fault.startswith("gone-at "):  # no fault either: as if it were killed there

        def leave(step: str) -> None:
            if step == fault.removeprefix("gone-at "):
                os._exit(9)

        steps.listen(leave)
    if fault == "draws-nothing":  # its reservation counts to the end, and what is written counts as well
        Reservation.draw = lambda self, byte_count: None  # type: ignore[method-assign]
    if fault == "evicts-later":  # others' bytes are promised while those that make room are still there
        finish = Removal.finish

        def later(self: Removal, removed: Removed) -> int:
            def finally_finish() -> None:
                with suppress(CacheError):  # closed meanwhile
                    finish(self, removed)

            threading.Timer(0.5, finally_finish).start()
            return 0

        Removal.finish = later  # type: ignore[method-assign]
        SpaceRoom._refuse_excess = lambda *_, **__: None  # type: ignore[method-assign]


async def _work(order: dict[str, Any]) -> None:
    asker = order["asker"]
    async with Fetcher(environ={}, on_event=tell if order["tell"] else None, **order["options"]) as fetcher:
        if order["hold"]:
            async with fetcher.lease(order["items"][0], asker) as lease:
                say({"event": "leased", "path": str(lease.path), "lease": lease.id})
                sys.stdin.read()
            say({"event": "done"})
            return
        if order["plan_only"]:
            plan = await fetcher.plan(order["items"][0], asker)
            say({"event": "done", "peak_bytes": peak_bytes(), **plan.as_json()["resources"][0]})
            return
        if order["job"] is not None:
            found = await fetcher.mount_all(order["job"], lease_s=600.0, asker=asker)
            assert found.lease is not None
            say({"event": "done", "paths": [str(mount.source) for mount in found.mounts], "lease": found.lease.id})
            return
        if order["each"]:
            results = await fetcher.fetch_each([(item, asker) for item in order["items"]])
            say({"event": "done", "kinds": [getattr(result, "kind", None) for result in results]})
            return
        outcomes = await fetcher.fetch_all([(item, asker) for item in order["items"]])
        say(
            {
                "event": "done",
                "paths": [str(outcome.snapshot.path) for outcome in outcomes],
                "snapshots": [outcome.snapshot.id for outcome in outcomes],
                "downloaded": sum(outcome.downloaded for outcome in outcomes),
                "hits": [outcome.hit for outcome in outcomes],
                "peak_bytes": peak_bytes(),
            }
        )


def main() -> int:
    order = json.loads(sys.argv[1])
    if order["disk_bytes"] is not None:
        os.statvfs = SimulatedDisk(Path(order["options"]["cache_dir"]), order["disk_bytes"]).statvfs
    locks.obey()
    plant(order["plant"])
    say({"event": "ready", "pid": os.getpid(), "host": os.uname().nodename})
    try:
        run(lambda: _work(order))
    except FetcherError as error:
        fact = {"kind": error.kind, "message": error.message, "hint": error.hint, "peak_bytes": peak_bytes()}
        say({"event": "error", **fact})
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
