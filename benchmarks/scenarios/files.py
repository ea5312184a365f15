"""Large files: by HTTP and TLS, into memory and to the disk, alone and four at once, from a plain server and a hub."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from benchmarks.origins import contents
from benchmarks.origins.nginx import nginx, nginx_here
from benchmarks.running.machine import Conditions
from benchmarks.running.options import BIG, Options
from benchmarks.running.race import Race, Row, room_in, touching
from benchmarks.running.work import Way, Work

BIG_REPO = "bench/big"
SHARDS_REPO = "bench/shards"
SHARDS = 4
HTTP_RIVALS = ("obstore", "hf_transfer", "curl", "aria2c -x8", "wget2", "rclone", "aiohttp", "huggingface_hub")


def _one_file(
    scenario: str, options: Options, way: Way, entrants: Sequence[str], *, tls: bool = False, disk: bool = False
) -> Iterator[Row]:
    nginx_here()
    with room_in(options.memory, _room_for(options.size_bytes, disk=disk)) as room:
        root = room / "root"
        contents.large(root / "big" / BIG, options.size_bytes)
        repos = {BIG_REPO: "big"} if way == "repo" else {}
        with (
            nginx(room / "nginx", root, repos) as server,
            room_in(options.disk if disk else room, _room_for(options.size_bytes, disk=True)) as sink,
        ):
            base = f"{server.tls if tls else server.plain}/big"
            certificate = server.certificate if tls else None
            work = Work(base, (BIG,), sink, hub=server.hub, repo=BIG_REPO, certificate=certificate)
            conditions = Conditions(options.core, touching(options.size_bytes), durable=disk)
            yield from Race(scenario, options, way, entrants, work, root / "big", conditions, server).rows()


def _room_for(size_bytes: int, *, disk: bool) -> int:
    """What is taken of one place: by the origin's files, and by outputs too unless those go to the disk."""
    return size_bytes if disk else 2 * size_bytes


def engine(options: Options) -> Iterator[Row]:
    """One large file by HTTP, transfer layer alone: receiving and writing."""
    yield from _one_file("engine", options, "file", ("fetcher engine", "C", *HTTP_RIVALS))


def http(options: Options) -> Iterator[Row]:
    """One large file by HTTP, the whole of `fetcher get`: BLAKE3, journal, durable."""
    entrants = ("fetcher", "C, BLAKE3", "C", *HTTP_RIVALS)
    yield from _one_file("http", options, "file", entrants)


def lfs(options: Options) -> Iterator[Row]:
    """The same as a large file of a hub, which states its SHA-256."""
    entrants = (
        "fetcher",
        "C, BLAKE3, SHA-256",
        "hf_transfer",
        "hf_transfer, then sha256sum",
        "hf_transfer, then openssl",
        "huggingface_hub",
        "huggingface_hub with hf_xet",
    )
    yield from _one_file("lfs", options, "repo", entrants)


def sharded(options: Options) -> Iterator[Row]:
    """Four files of a hub with BLAKE3 and SHA-256, against who fetches and then verifies."""
    nginx_here()
    shard_bytes = max(1, options.size_bytes // SHARDS)
    with room_in(options.memory, _room_for(shard_bytes * SHARDS, disk=False)) as room:
        root = room / "root"
        names = tuple(f"model-{number}.bin" for number in range(1, SHARDS + 1))
        for name in names:
            contents.large(root / "shards" / name, shard_bytes)
        with nginx(room / "nginx", root, {SHARDS_REPO: "shards"}) as server, room_in(room) as sink:
            work = Work(f"{server.plain}/shards", names, sink, hub=server.hub, repo=SHARDS_REPO)
            conditions = Conditions(options.core, touching(shard_bytes * SHARDS))
            summed = ("hf_transfer, then sha256sum", "hf_transfer, then openssl")
            entrants = ("fetcher", "C, BLAKE3, SHA-256", *summed, "huggingface_hub, then its verify")
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
