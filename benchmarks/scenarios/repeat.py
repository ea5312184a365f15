"""The same again: all of it is there already. What a node does most often."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from benchmarks.origins import contents
from benchmarks.origins.nginx import Hubs, nginx
from benchmarks.origins.processes import Server
from benchmarks.origins.s3 import rclone_s3
from benchmarks.rivals import RIVALS
from benchmarks.running.machine import Conditions, Failed, run
from benchmarks.running.options import KIB, MIB, Options
from benchmarks.running.race import Row, judge, room_in, there_and_back
from benchmarks.running.work import Way, Work

REPO = "bench/repeated"


def repeat(options: Options) -> Iterator[Row]:
    """A repository, and an S3 prefix, that have been fetched before and have not changed."""
    with room_in(options.memory) as room:
        root, here = room / "root", room / "nginx"
        here.mkdir()
        names = contents.many(root / "repo", options.medium_files, MIB)
        with nginx(here, root, Hubs({REPO: "repo"})) as server, room_in(room) as sink:
            work = Work(f"{server.plain}/repo", names, sink, hub=server.hub, repo=REPO)
            hub_clients = ("fetcher", "huggingface_hub")
            yield from _again("repeat-repo", options, "repo", hub_clients, work, root / "repo", server)
    with room_in(options.memory) as room:
        bucket = room / "data" / "bucket"
        names = tuple(f"small/{name}" for name in contents.many(bucket / "small", options.objects, 4 * KIB))
        with rclone_s3(room / "data", room) as s3, room_in(room) as sink:
            s3.hash_all(f"bucket/{name}" for name in names)
            work = Work("", names, sink, s3=s3.endpoint, bucket="bucket", prefix="small")
            s3_clients = ("fetcher", "rclone", "s5cmd sync", "aws s3 sync")
            yield from _again("repeat-s3", options, "s3", s3_clients, work, bucket, s3)


def _again(
    scenario: str, options: Options, way: Way, rivals: Sequence[str], work: Work, originals: Path, server: Server
) -> Iterator[Row]:
    """Everybody once without being measured, then in turns into what they have left."""
    commands = {}
    for name in options.of(rivals):
        rival = RIVALS[name]
        if rival.missing:
            yield {"scenario": scenario, "rival": name, "missing": rival.missing}
            continue
        own = replace(work, directory=work.directory / name.replace(" ", "-"))
        own.directory.mkdir()
        command = rival.ways[way](own)
        try:
            run(command, Conditions(options.core))
            judge(own, command, originals, compare=True)
        except Failed as failed:
            yield {"scenario": scenario, "rival": name, "failed": str(failed)}
            continue
        commands[name] = own, command
    total = sum((originals / name).stat().st_size for name in work.names)
    for round_number in range(options.rounds):
        for name, (own, command) in there_and_back(commands.items(), round_number):
            rival = RIVALS[name]
            row: Row = {"scenario": scenario, "rival": name, "version": rival.version(), "verifies": rival.verifies}
            row |= {"round": round_number, "bytes": total, "files": len(work.names)}
            sent_before = server.sent_bytes()
            try:
                measured = run(command, Conditions(options.core), server_cpu_s=server.cpu_s)
                judge(own, command, originals, compare=False)
            except Failed as failed:
                yield row | {"failed": str(failed)}
                del commands[name]
                continue
            yield row | measured.row() | {"sent_bytes": server.sent_bytes() - sent_before}
