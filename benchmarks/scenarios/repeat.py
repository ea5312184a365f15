"""The same again: all of it is there already. What a node does most often."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from benchmarks.origins import contents
from benchmarks.origins.nginx import nginx, nginx_here
from benchmarks.origins.s3 import rclone_here, rclone_s3
from benchmarks.running.machine import Conditions, file_system, run
from benchmarks.running.options import KIB, MIB, Options
from benchmarks.running.race import (
    EACH_FILE_BYTES,
    Row,
    Server,
    command_of,
    in_turns,
    judge,
    output_of,
    refuse_bytes_from_elsewhere,
    refuse_too_little_room,
    refuse_what_is_there,
    room_for_many,
    room_in,
    those_able,
)
from benchmarks.running.work import Command, Way, Work

REPO = "bench/repeated"


def repeat(options: Options) -> Iterator[Row]:
    """A repository, and an S3 prefix, that have been fetched before and have not changed."""
    nginx_here()
    needed = 2 * room_for_many(options.medium_files, MIB)  # more where more take part, which is looked at then
    with room_in(options.memory, needed, chosen_by="--medium-files") as room:
        root = room / "root"
        names = contents.many(root / "repo", options.medium_files, MIB)
        with nginx(room / "nginx", root, {REPO: "repo"}) as server, room_in(room) as sink:
            work = Work(f"{server.plain}/repo", names, sink, hub=server.hub, repo=REPO)
            hub_clients = ("fetcher", "fetcher --refresh", "huggingface_hub")
            yield from repeated("repeat-repo", options, "repo", hub_clients, work, root / "repo", server)
    rclone_here()
    needed = 2 * room_for_many(options.objects, 4 * KIB)
    with room_in(options.memory, needed, chosen_by="--objects") as room:
        bucket = room / "data" / "bucket"
        names = tuple(f"small/{name}" for name in contents.many(bucket / "small", options.objects, 4 * KIB))
        with rclone_s3(room / "data", room) as s3, room_in(room) as sink:
            s3.hash_all(f"bucket/{name}" for name in names)
            work = Work("", names, sink, s3=s3.endpoint, bucket="bucket", prefix="small")
            s3_clients = ("fetcher", "fetcher --refresh", "rclone", "s5cmd sync", "aws s3 sync")
            yield from repeated("repeat-s3", options, "s3", s3_clients, work, bucket, s3)


def repeated(
    scenario: str, options: Options, way: Way, rivals: Sequence[str], work: Work, originals: Path, server: Server
) -> Iterator[Row]:
    """Everybody once without being measured, as a race has it; then in turns into what they have left."""
    total = sum((originals / name).stat().st_size for name in work.names)
    entrants = options.of(rivals, those_able(way))
    needed = len(entrants) * (total + len(work.names) * EACH_FILE_BYTES)
    refuse_too_little_room(work.directory, needed, chosen_by="--medium-files or --objects")
    left: dict[str, tuple[Work, Command]] = {}

    def first(name: str, round_number: int) -> Row:
        own = replace(work, directory=work.directory / name.replace(" ", "-"))
        own.directory.mkdir()
        command = command_of(name, way, own)
        refuse_what_is_there(own, command)
        sent_before = server.sent_bytes()
        run(command, Conditions(options.core))
        refuse_bytes_from_elsewhere(server.sent_bytes() - sent_before, total)
        judge(own, command, originals, compare=True)
        left[name] = own, command
        return {}

    def again(name: str, round_number: int) -> Row:
        own, command = left[name]
        before = _written(own, command)
        sent_before = server.sent_bytes()
        measured = run(command, Conditions(options.core), server_cpu_s=server.cpu_s)
        sent = server.sent_bytes() - sent_before
        judge(own, command, originals, compare=round_number == 0)
        # Who finds all as it is needs nothing of it; what somebody has written anew he must have asked for.
        anew = [path for path, written in _written(own, command).items() if before.get(path) != written]
        refuse_bytes_from_elsewhere(sent, sum(path.stat().st_size for path in anew))
        return measured.row() | {"sent_bytes": sent}

    onto = file_system(work.directory)
    common: Row = {"scenario": scenario, "onto": onto, "bytes": total, "files": len(work.names)}
    for row in in_turns(common, 1, entrants, first):
        if "missing" in row or "failed" in row:
            yield row
    yield from in_turns(common, options.rounds, list(left), again)


def _written(work: Work, command: Command) -> dict[Path, tuple[int, int]]:
    """Which file each output is, and when it was written."""
    states = {path: path.stat() for path in (output_of(work.directory, command, name) for name in work.names)}
    return {path: (state.st_ino, state.st_mtime_ns) for path, state in states.items()}
