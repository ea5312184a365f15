"""A client of the library in a process of its own: does what the JSON of its first argument says, tells it as JSON.

``{"event": "ready"}`` when the imports are through, then ``{"event": "done", …}`` or ``{"event": "error", …}``. Ends
with the error's exit code. The options are fields of Settings. ``disk_bytes``: the size that the cache's disk seems
to have.
"""

from __future__ import annotations

import json
import os
import resource
import sys
from pathlib import Path
from typing import Any

from fetcher.client import Fetcher, run
from fetcher.engine import fetch as _loaded  # noqa: F401 - before "ready": what follows is the fetch and nothing else
from fetcher.errors import FetcherError
from tests.support.disk import SimulatedDisk


def say(fact: dict[str, Any]) -> None:
    print(json.dumps(fact), flush=True)


def peak_bytes() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10


async def _work(order: dict[str, Any]) -> None:
    asker = order["asker"]
    async with Fetcher(environ={}, **order["options"]) as fetcher:
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
    say({"event": "ready"})
    try:
        run(lambda: _work(order))
    except FetcherError as error:
        say({"event": "error", "kind": error.kind, "message": error.message, "hint": error.hint})
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
