"""The origin of all measurements: an embedded hub in a process of its own, steered by lines on stdin.

Says where it is as one JSON line, then answers ``count`` (requests and body bytes since the last time) until stdin
closes. Its CPU time is nobody's: only the rivals' processes are measured. On few cores it takes its share of them.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import Counter
from random import Random

from fetcher.testing.contents import Synthetic
from fetcher.testing.hub import Hub, Quotas, hub_in_thread

BIG = "bench/big"
SMALL = "bench/small"
TINY = "bench/tiny-{:05d}"

_UNLIMITED = Quotas(api=10**9, resolvers=10**9, pages=10**9)


def _fill(hub: Hub, *, size_bytes: int, files: int, small_bytes: int, tiny: int) -> None:
    if size_bytes:
        hub.add_repo(BIG, files={"model.safetensors": Synthetic(size_bytes, seed=1)})
    if files:
        # Regular files, as configurations and tokenizers are: each costs a resolve request and its redirect.
        contents = {f"part-{n // 100:03d}/file-{n:05d}.dat": Random(n).randbytes(small_bytes) for n in range(files)}
        hub.add_repo(SMALL, files=contents, lfs=())
    for number in range(tiny):
        hub.add_repo(TINY.format(number), files={"config.json": f'{{"number": {number}}}'.encode()})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size-bytes", type=int, default=0)
    parser.add_argument("--files", type=int, default=0)
    parser.add_argument("--small-bytes", type=int, default=16 << 10)
    parser.add_argument("--tiny", type=int, default=0, help="repositories of one file of a few bytes")
    options = parser.parse_args()
    hub = Hub(quotas=_UNLIMITED)
    _fill(hub, size_bytes=options.size_bytes, files=options.files, small_bytes=options.small_bytes, tiny=options.tiny)
    with hub_in_thread(hub):
        print(json.dumps({"endpoint": hub.endpoint}), flush=True)
        for _ in sys.stdin:
            routes = Counter(record.route for record in hub.requests)
            connections = len({(record.route == "cdn", record.connection) for record in hub.requests})
            answer = {"requests": dict(routes), "connections": connections, "body_bytes": hub.body_bytes_sent()}
            hub.requests.clear()
            print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
