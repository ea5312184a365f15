"""Can a stranger tell by the clock that a private repository is in the cache? How long a refusal takes, with another's
copy there and in an empty cache, asked in turn.

Prints one JSON line: medians, 90th percentiles, and the largest distance between the two distributions (Kolmogorov and
Smirnov), beside what that would be by chance once in a hundred times. Everything is on loopback, so that no network
hides a difference; the hub is in a thread of the same process, which hides some.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import math
import random
import statistics
import tempfile
import time
from bisect import bisect_right
from pathlib import Path
from typing import Any

from benchmarks.running.race import room_in
from fetcher import DeniedError, Fetcher, NotFoundError
from fetcher.testing import Synthetic, hub_in_thread
from fetcher.testing.hub import Token
from fetcher.testing.hub.access import Quotas

REPO = "bench/closed"
ALPHA = 0.01


async def measure(hub: Any, directory: Path, asks: int) -> dict[str, list[float]]:
    """Seconds of each refusal, by what is in the cache."""
    dice = random.Random(1)
    settings = {"hf_endpoint": hub.endpoint, "allow_net": "127.0.0.0/8", "space_floor_bytes": 0}
    places = {name: directory / name for name in ("cached", "empty")}
    async with Fetcher(environ={}, cache_dir=str(places["cached"]), **settings) as owner:
        await owner.fetch({"type": "HF", "repo": REPO, "accessToken": "hf_owner"}, "job")
    taken: dict[str, list[float]] = {name: [] for name in places}
    async with (
        Fetcher(environ={}, cache_dir=str(places["cached"]), **settings) as cached,
        Fetcher(environ={}, cache_dir=str(places["empty"]), **settings) as empty,
    ):
        clients = {"cached": cached, "empty": empty}
        for number in range(asks + 20):
            for name in dice.sample(sorted(clients), 2):
                start = time.perf_counter()
                try:
                    await clients[name].fetch({"type": "HF", "repo": REPO, "accessToken": "hf_stranger"}, "job")
                except (DeniedError, NotFoundError):
                    pass
                else:
                    raise AssertionError("a stranger was let in")
                if number >= 20:  # the first ones warm up
                    taken[name].append(time.perf_counter() - start)
    return taken


def distance(one: list[float], other: list[float]) -> float:
    """The largest difference of the two empirical distribution functions."""
    first, second = sorted(one), sorted(other)
    return max(
        abs(bisect_right(first, value) / len(first) - bisect_right(second, value) / len(second))
        for value in first + second
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--asks", type=int, default=500, help="of each kind")
    parser.add_argument("--directory", type=Path, default=Path(tempfile.gettempdir()))
    options = parser.parse_args()
    many = Quotas(api=10**9, resolvers=10**9, pages=10**9)
    tokens = {"hf_owner": Token("owner"), "hf_stranger": Token("stranger", repos=frozenset(), quotas=many)}
    with room_in(options.directory) as directory, hub_in_thread(tokens=tokens) as hub:
        hub.add_repo(REPO, files={"config.json": b"{}", "model.bin": Synthetic(4 << 20, 1)}, private=True)
        taken = asyncio.run(measure(hub, directory, options.asks))
    count = options.asks
    row: dict[str, Any] = {"asks": count}
    for name, values in taken.items():
        row[f"{name}_median_ms"] = round(1e3 * statistics.median(values), 3)
        row[f"{name}_p90_ms"] = round(1e3 * statistics.quantiles(values, n=10)[-1], 3)
    row["distance"] = round(distance(taken["cached"], taken["empty"]), 4)
    row["by_chance"] = round(math.sqrt(-math.log(ALPHA / 2) / 2) * math.sqrt(2 / count), 4)
    print(json.dumps(row))


if __name__ == "__main__":
    main()
