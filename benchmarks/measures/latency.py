"""How long a hit takes inside a program, with many snapshots in the cache.

Run by scenarios/start.py, in a process of its own.

Fills a cache through the public face with COUNT repositories of one tiny file, then asks for random ones of them, all
fresh. Prints one JSON line. The endpoint and the cache come from the environment, as for any program.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import resource
import time
from pathlib import Path

import fetcher

AT_ONCE = 32


async def _fill(client: fetcher.Fetcher, uris: list[str]) -> float:
    waiting = iter(uris)

    async def fetch_some() -> None:
        for uri in waiting:
            async with client.lease(uri, asker="operator"):
                pass

    start = time.perf_counter()
    async with asyncio.TaskGroup() as group:
        for _ in range(AT_ONCE):
            group.create_task(fetch_some())
    return time.perf_counter() - start


async def _hits(client: fetcher.Fetcher, uris: list[str]) -> list[float]:
    taken = []
    for uri in uris:
        start = time.perf_counter()
        async with client.lease(uri, asker="operator") as lease:
            assert lease.id
        taken.append(time.perf_counter() - start)
    return sorted(taken)


async def _measure(count: int, hits: int) -> dict[str, float]:
    uris = [f"hf://bench/tiny-{number:05d}" for number in range(count)]
    dice = random.Random(1)
    async with fetcher.Fetcher(cache_dir=Path(os.environ["FETCHER_CACHE_DIR"])) as client:
        fill_s = await _fill(client, uris)
        await _hits(client, dice.choices(uris, k=100))  # warm: pages of the index, code
        taken = await _hits(client, dice.choices(uris, k=hits))
    return {
        "snapshots": count,
        "fill_s": fill_s,
        "hit_ms_p50": 1e3 * taken[len(taken) // 2],
        "hit_ms_p99": 1e3 * taken[len(taken) * 99 // 100],
        "rss_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("count", type=int)
    parser.add_argument("--hits", type=int, default=2000)
    options = parser.parse_args()
    print(json.dumps(asyncio.run(_measure(options.count, options.hits))))


if __name__ == "__main__":
    main()
