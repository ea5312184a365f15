"""The origin of all measurements: an embedded hub in a process of its own, steered by lines on stdin.

Says where it is as one JSON line, then answers ``count`` (requests and body bytes since the last time) and ``look``
(body bytes since then, and how many bodies are under way; forgets nothing) until stdin closes.
Its CPU time is nobody's: only the rivals' processes are measured. On few cores it takes its share of them.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import Counter
from random import Random

from fetcher.testing.contents import Synthetic
from fetcher.testing.faults import Trickle
from fetcher.testing.hub import Hub, Quotas, hub_in_thread

BIG = "bench/big"
BIG_SEED = 1
SMALL = "bench/small"
TINY = "bench/tiny-{:05d}"

_UNLIMITED = Quotas(api=10**9, resolvers=10**9, pages=10**9)


def regular_files(count: int, size_bytes: int) -> dict[str, bytes]:
    """Regular files, as configurations and tokenizers are: each costs a resolve request and its redirect."""
    return {f"part-{n // 100:03d}/file-{n:05d}.dat": Random(n).randbytes(size_bytes) for n in range(count)}


def _fill(hub: Hub, *, size_bytes: int, files: int, small_bytes: int, tiny: int) -> None:
    if size_bytes:
        hub.add_repo(BIG, files={"model.safetensors": Synthetic(size_bytes, seed=BIG_SEED)})
    if files:
        hub.add_repo(SMALL, files=regular_files(files, small_bytes), lfs=())
    for number in range(tiny):
        hub.add_repo(TINY.format(number), files={"config.json": f'{{"number": {number}}}'.encode()})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size-bytes", type=int, default=0)
    parser.add_argument("--files", type=int, default=0)
    parser.add_argument("--small-bytes", type=int, default=16 << 10)
    parser.add_argument("--tiny", type=int, default=0, help="repositories of one file of a few bytes")
    parser.add_argument("--bytes-per-s", type=int, default=0, help="of one body of a large file; 0: no limit")
    options = parser.parse_args()
    hub = Hub(quotas=_UNLIMITED)
    if options.bytes_per_s:
        hub.faults.add(Trickle(options.bytes_per_s).on("cdn"))
    _fill(hub, size_bytes=options.size_bytes, files=options.files, small_bytes=options.small_bytes, tiny=options.tiny)
    with hub_in_thread(hub):
        print(json.dumps({"endpoint": hub.endpoint}), flush=True)
        for line in sys.stdin:
            if line.strip() == "look":
                look = {"body_bytes": hub.body_bytes_sent(), "open": hub.open_bodies("cdn")}
                print(json.dumps(look), flush=True)
                continue
            routes = Counter(record.route for record in hub.requests)
            connections = len({(record.route == "cdn", record.connection) for record in hub.requests})
            answer = {"requests": dict(routes), "connections": connections, "body_bytes": hub.body_bytes_sent()}
            hub.requests.clear()
            print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
