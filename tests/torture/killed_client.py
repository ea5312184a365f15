"""Clients of a cache that are killed in the middle of what they do: a process that forks one for each line of JSON on
stdin, tells it at which step of ``fetcher/cache/steps.py`` to be gone, and says how far it came.

It opens no cache itself, so what it forks inherits no lock, no descriptor and no connection.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

from fetcher.cache import adoption, blobs, gc, prune, publish, recovery, space, steps, sweep, takeover  # noqa: F401 - before fork
from fetcher.cache.store import Cache
from fetcher.errors import FetcherError
from tests.cache import world
from tests.cache.asking import claimed


def work(order: dict[str, Any], tell: Any) -> None:
    clock = world.Clock()
    clock.now, clock.since_boot, clock.boot_id = order["clock"]
    left = order["steps"]

    def at(step: steps.Step) -> None:
        nonlocal left
        tell(step)
        left -= 1
        if left <= 0:
            os.kill(os.getpid(), signal.SIGKILL)

    with Cache.open(world.settings(Path(order["cache_dir"]), **order["settings"]), clock=clock) as cache:
        steps.listen(at)
        if order["remove"]:
            cache.remove(order["remove"])
        else:
            contents = {path: world.paint(*numbers) for path, numbers in order["contents"].items()}
            reservation = cache.reserve(order["bytes"])
            reservation.draw(order["bytes"])
            if order["partial_blocks"]:
                data = next(data for data in contents.values() if len(data) > world.MIB)
                claimed(cache, world.head_of(data).content_id, len(data))
                partial = cache.partial_open(world.head_of(data))
                for block in range(partial.block_count)[: order["partial_blocks"]]:
                    if block not in partial.proven:
                        partial.write_block(block, world.block_of(data, block))
                os.kill(os.getpid(), signal.SIGKILL)
            world.publish(cache, order["name"], contents, **order["times"])
        tell("done")
        os.kill(os.getpid(), signal.SIGKILL)


def fork(order: dict[str, Any]) -> list[str]:
    """The steps that it took."""
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        try:
            os.close(reading)
            work(order, lambda step: os.write(writing, f"{step}\n".encode()))
        except FetcherError as error:
            os.write(writing, f"{type(error).__name__}\n".encode())
        finally:
            os._exit(1)
    os.close(writing)
    with open(reading) as told:
        reached = told.read().split("\n")[:-1]
    os.waitpid(child, 0)
    return reached


def main() -> None:
    for line in sys.stdin:
        print(json.dumps(fork(json.loads(line))), flush=True)


if __name__ == "__main__":
    main()
