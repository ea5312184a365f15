"""The rows: who does what work, from which origin into which sink. What a row must reach stands beside it.

Each function sets up its origin, then lets ``Race`` send everybody through it in turns.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from benchmarks.hotpath import contents, links
from benchmarks.hotpath.machine import Conditions, facts, run
from benchmarks.hotpath.race import BIG, MIB, Options, Race, Row, room_in, touching
from benchmarks.hotpath.refusals import link_refused, linked
from benchmarks.hotpath.servers import Hubs, nginx, rclone_s3
from benchmarks.hotpath.work import CHECKOUT, Command, Way, Work

BIG_REPO = "bench/big"
SHARDS_REPO = "bench/shards"
SMALL_REPO = "bench/small"
SHARDS = 4
HTTP_RIVALS = ("obstore", "hf_transfer", "curl", "aria2c -x8", "wget2", "rclone", "aiohttp", "huggingface_hub")

# --- rows ------------------------------------------------------------------------------------------------------------


def _one_file(
    row: str, options: Options, way: Way, entrants: Sequence[str], *, tls: bool = False, disk: bool = False
) -> Iterator[Row]:
    with room_in(options.memory) as room:
        root, here = room / "root", room / "nginx"
        here.mkdir()
        contents.large(root / "big" / BIG, options.size_bytes)
        hubs = Hubs({BIG_REPO: "big"} if way == "repo" else {})
        with nginx(here, root, hubs) as server, room_in(options.disk if disk else room) as sink:
            base = f"{server.tls if tls else server.plain}/big"
            certificate = server.certificate if tls else None
            work = Work(base, (BIG,), sink, hub=server.hub, repo=BIG_REPO, certificate=certificate)
            touch_bytes = 0 if options.warm else touching(options.size_bytes)
            conditions = Conditions(options.core, touch_bytes, durable=disk)
            yield from Race(row, options, way, entrants, work, root / "big", conditions, server).rows()


def engine(options: Options) -> Iterator[Row]:
    """One large file by HTTP, transfer layer alone: receiving and writing."""
    yield from _one_file("engine", options, "file", ("fetcher engine", "C", *HTTP_RIVALS))


def http(options: Options) -> Iterator[Row]:
    """One large file by HTTP, the whole of `fetcher get`: BLAKE3, journal, durable."""
    entrants = ("fetcher", "C, BLAKE3", "C", *HTTP_RIVALS)
    yield from _one_file("http", options, "file", entrants)


def lfs(options: Options) -> Iterator[Row]:
    """The same as a large file of a hub, which states its SHA-256."""
    entrants = ("fetcher", "C, BLAKE3, SHA-256", "hf_transfer", "hf_transfer, then sha256sum", "huggingface_hub")
    yield from _one_file("lfs", options, "repo", entrants)


def sharded(options: Options) -> Iterator[Row]:
    """Four files of a hub with BLAKE3 and SHA-256, against who fetches and then verifies."""
    shard_bytes = options.size_bytes // SHARDS
    with room_in(options.memory) as room:
        root, here = room / "root", room / "nginx"
        here.mkdir()
        names = tuple(f"model-{number}.bin" for number in range(1, SHARDS + 1))
        for name in names:
            contents.large(root / "shards" / name, shard_bytes)
        with nginx(here, root, Hubs({SHARDS_REPO: "shards"})) as server, room_in(room) as sink:
            work = Work(f"{server.plain}/shards", names, sink, hub=server.hub, repo=SHARDS_REPO)
            conditions = Conditions(options.core, touching(shard_bytes * SHARDS))
            after = ("hf_transfer, then sha256sum", "huggingface_hub, then its verify")
            entrants = ("fetcher", "C, BLAKE3, SHA-256", *after)
            yield from Race("sharded", options, "repo", entrants, work, root / "shards", conditions, server).rows()


def https(options: Options) -> Iterator[Row]:
    """One large file by TLS 1.3; the transfer layer alone and all of fetcher."""
    entrants = ("fetcher", "fetcher engine", "C, BLAKE3", "C", *HTTP_RIVALS)
    yield from _one_file("https", options, "file", entrants, tls=True)


def disk(options: Options) -> Iterator[Row]:
    """One large file to the disk, and nobody is done before it is there."""
    limits = ("C, BLAKE3, O_DIRECT", "C, BLAKE3", "C, O_DIRECT", "C")
    entrants = ("fetcher", *limits, "curl", "aria2c -x8", "wget2", "rclone", "hf_transfer", "obstore")
    yield from _one_file("disk", options, "file", entrants, disk=True)


def link_capped(options: Options) -> Iterator[Row]:
    """40 ms, 1 Gbit/s, 20 MiB/s for a stream: nobody but aria2c is told how many streams that takes."""
    with linked(options) as (server, root, conditions, work):
        work = replace(work, base=server.capped)
        entrants = ("fetcher", "aria2c -x16", "aria2c -x8", "curl")
        yield from Race("link-capped", options, "file", entrants, work, root, conditions, server).rows()


def link_straggler(options: Options) -> Iterator[Row]:
    """40 ms, 1 Gbit/s, one connection in five crawls: what asking twice gains, and what it costs the line."""
    with linked(options) as (server, root, conditions, work):
        work = replace(work, base=server.straggling)
        entrants = ("fetcher", "fetcher, no hedges", "aria2c -x16")
        before = links.line_bytes(conditions.inside)
        for row in Race("link-straggler", options, "file", entrants, work, root, conditions, server).rows():
            after = links.line_bytes(conditions.inside)
            yield row | {"line_bytes": after - before}
            before = after


def _many_files(
    row: str,
    options: Options,
    count: int,
    size_bytes: int,
    races: Sequence[tuple[str, Way, Sequence[str]]],
    *,
    touch: bool,
) -> Iterator[Row]:
    with room_in(options.memory) as room:
        root, here = room / "root", room / "nginx"
        here.mkdir()
        names = contents.many(root / "small", count, size_bytes)
        with nginx(here, root, Hubs({SMALL_REPO: "small"})) as server, room_in(room) as sink:
            work = Work(f"{server.plain}/small", names, sink, hub=server.hub, repo=SMALL_REPO)
            conditions = Conditions(options.core, touching(count * size_bytes) if touch else 0)
            for kind, way, entrants in races:
                yield from Race(
                    f"{row}-{kind}", options, way, entrants, work, root / "small", conditions, server
                ).rows()


def small(options: Options) -> Iterator[Row]:
    """5,000 files of 4 KiB: transfer layer by URLs, then whole repositories of a hub, durable."""
    races: list[tuple[str, Way, Sequence[str]]] = [
        ("transfer", "files", ("fetcher engine", "curl --parallel", "wget2", "aria2c -x8", "rclone")),
        ("get", "repo", ("fetcher", "curl --parallel", "huggingface_hub")),
    ]
    yield from _many_files("small", options, options.files, 4 << 10, races, touch=False)


def medium(options: Options) -> Iterator[Row]:
    """500 files of 1 MiB: transfer layer by URLs, then whole repositories of a hub."""
    races: list[tuple[str, Way, Sequence[str]]] = [
        ("transfer", "files", ("fetcher engine", "curl --parallel", "wget2", "aria2c -x8", "rclone")),
        ("get", "repo", ("fetcher", "curl --parallel", "huggingface_hub")),
    ]
    yield from _many_files("medium", options, options.medium_files, MIB, races, touch=True)


def s3(options: Options) -> Iterator[Row]:
    """`rclone serve s3`: 2,000 objects of 4 KiB, and one large one."""
    entrants = ("fetcher", "s5cmd", "rclone")
    with room_in(options.memory) as room:
        bucket = room / "data" / "bucket"
        names = tuple(f"small/{name}" for name in contents.many(bucket / "small", options.objects, 4 << 10))
        contents.large(bucket / BIG, options.size_bytes)
        with rclone_s3(room / "data", room) as server, room_in(room) as sink:
            server.hash_all(f"bucket/{name}" for name in (*names, BIG))
            work = Work("", names, sink, s3=server.endpoint, bucket="bucket", prefix="small")
            yield from Race("s3-many", options, "s3", entrants, work, bucket, Conditions(options.core), server).rows()
            work = replace(work, names=(BIG,), prefix="")
            conditions = Conditions(options.core, touching(options.size_bytes))
            yield from Race("s3-big", options, "s3", entrants, work, bucket, conditions, server).rows()


STARTS = 9
"""Start-up is short, and noise is not: so many times in each round."""


def start(options: Options) -> Iterator[Row]:
    """Start-up: help, version and a hit, against an interpreter that does nothing; and a hit in the library."""
    with room_in(options.memory) as room:
        root, here = room / "root", room / "nginx"
        here.mkdir()
        contents.many(root / "tiny", 1, 4 << 10)
        with nginx(here, root, Hubs({"bench/tiny": "tiny"})) as server:
            environment = {
                "PYTHONPATH": str(CHECKOUT),
                "HF_ENDPOINT": server.hub,
                "FETCHER_ALLOW_NET": "127.0.0.0/8",
                "FETCHER_CACHE_DIR": str(room / "cache"),
            }
            program = (sys.executable, "-m", "fetcher")
            hit = (*program, "get", "hf://bench/tiny")
            run(Command(hit, environment), Conditions())
            commands = {
                "python -c pass": (sys.executable, "-c", "pass"),
                "fetcher --help": (*program, "--help"),
                "fetcher --version": (*program, "--version"),
                "fetcher get (hit)": hit,
            }
            for round_number in range(STARTS * options.rounds):
                for name, arguments in commands.items():
                    measured = run(Command(arguments, environment), Conditions(options.core))
                    yield {"row": "start", **facts(), "rival": name, "round": round_number} | measured.row()
        for round_number in range(options.rounds):
            yield {"row": "start", **facts(), "rival": "hit in the library", "round": round_number} | _library_hit(room)


def _library_hit(room: Path) -> Row:
    """By the benchmark of that (../latency.py), with a hundred Snapshots in the cache."""
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.compare", "--scenario=hits", "--snapshots=100", f"--directory={room}"],
        cwd=CHECKOUT,
        capture_output=True,
        text=True,
        check=True,
    )
    told: Row = json.loads(done.stdout.partition("\n")[0])
    return {"latency": {name: value for name, value in told.items() if name.startswith("hit_")}}


ROWS: dict[str, Callable[[Options], Iterator[Row]]] = {
    "engine": engine,
    "http": http,
    "lfs": lfs,
    "sharded": sharded,
    "https": https,
    "disk": disk,
    "link-capped": link_capped,
    "link-straggler": link_straggler,
    "link-429": link_refused,
    "small": small,
    "medium": medium,
    "s3": s3,
    "start": start,
}
