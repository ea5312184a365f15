"""Can a stranger tell by the clock that a private repository is in the cache? How long a refusal takes for one of which
the cache has another's copy, and for one of which it has nothing, asked in turn.

Both are asked of the same cache, as a stranger on a node would: one that is empty differs from it by more than what he
wants to know. Every other round it is the other of the two that is there.

Prints a JSON line for each round: medians, 90th percentiles, and the largest distance between the two distributions
(Kolmogorov and Smirnov), beside what that would be by chance once in a hundred times. Everything is on loopback, so
that no network hides a difference; the hub is in a thread of the same process, which hides some.
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

from benchmarks.running.options import at_least
from benchmarks.running.race import room_in
from fetcher import DeniedError, Fetcher, NotFoundError
from fetcher.testing import Synthetic, hub_in_thread
from fetcher.testing.hub import Token
from fetcher.testing.hub.access import Quotas

REPOS = ("bench/one", "bench/two")
ALPHA = 0.01


async def measure(hub: Any, directory: Path, asks: int, *, there: str) -> dict[str, list[float]]:
    """Seconds of each refusal, by repository; the owner has fetched the one that is ``there``."""
    dice = random.Random(1)
    settings = {"hf_endpoint": hub.endpoint, "allow_net": "127.0.0.0/8", "space_floor_bytes": 0}
    taken: dict[str, list[float]] = {repo: [] for repo in REPOS}
    async with Fetcher(environ={}, cache_dir=str(directory / "cache"), **settings) as owner:
        await owner.fetch({"type": "HF", "repo": there, "accessToken": "hf_owner"}, "job")
    async with Fetcher(environ={}, cache_dir=str(directory / "cache"), **settings) as stranger:
        for number in range(asks + 20):
            for repo in dice.sample(REPOS, 2):
                start = time.perf_counter()
                try:
                    await stranger.fetch({"type": "HF", "repo": repo, "accessToken": "hf_stranger"}, "job")
                except (DeniedError, NotFoundError):
                    pass
                else:
                    raise AssertionError("a stranger was let in")
                if number >= 20:  # the first ones warm up
                    taken[repo].append(time.perf_counter() - start)
    return taken


def distance(one: list[float], other: list[float]) -> float:
    """The largest difference of the two empirical distribution functions."""
    first, second = sorted(one), sorted(other)
    return max(
        abs(bisect_right(first, value) / len(first) - bisect_right(second, value) / len(second))
        for value in first + second
    )


def row_of(directory: Path, asks: int, round_number: int) -> dict[str, Any]:
    """One round, with a cache and a hub of its own."""
    many = Quotas(api=10**9, resolvers=10**9, pages=10**9)
    tokens = {"hf_owner": Token("owner"), "hf_stranger": Token("stranger", repos=frozenset(), quotas=many)}
    there, absent = REPOS if round_number % 2 == 0 else REPOS[::-1]
    with room_in(directory) as room, hub_in_thread(tokens=tokens) as hub:
        for repo in REPOS:
            hub.add_repo(repo, files={"config.json": b"{}", "model.bin": Synthetic(4 << 20, 1)}, private=True)
        by_repo = asyncio.run(measure(hub, room, asks, there=there))
    taken = {"cached": by_repo[there], "absent": by_repo[absent]}
    row: dict[str, Any] = {"asks": asks}
    for name, values in taken.items():
        row[f"{name}_median_ms"] = round(1e3 * statistics.median(values), 4)
        row[f"{name}_p90_ms"] = round(1e3 * statistics.quantiles(values, n=10)[-1], 4)
    row["distance"] = round(distance(taken["cached"], taken["absent"]), 4)
    row["by_chance"] = round(math.sqrt(-math.log(ALPHA / 2) / 2) * math.sqrt(2 / asks), 4)
    return row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--asks", type=at_least(2), default=500, help="of each kind, in a round")
    parser.add_argument("--rounds", type=at_least(1), default=1)
    parser.add_argument("--directory", type=Path, default=Path(tempfile.gettempdir()))
    options = parser.parse_args()
    for round_number in range(options.rounds):
        print(json.dumps({"round": round_number} | row_of(options.directory, options.asks, round_number)), flush=True)


if __name__ == "__main__":
    main()
