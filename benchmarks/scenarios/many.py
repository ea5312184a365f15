"""Many small and medium files: by their URLs, transfer layer alone, and whole repositories of a hub, durable."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from benchmarks.origins import contents
from benchmarks.origins.counted import counted
from benchmarks.origins.embedded import regular_files
from benchmarks.origins.nginx import nginx, nginx_here
from benchmarks.running.machine import Conditions, run
from benchmarks.running.options import KIB, MIB, Options
from benchmarks.running.race import (
    Race,
    Row,
    command_of,
    in_turns,
    judge,
    refuse_bytes_from_elsewhere,
    refuse_what_is_there,
    room_for_many,
    room_in,
    those_able,
    touching,
)
from benchmarks.running.work import Way, Work

SMALL_REPO = "bench/small"
REGULAR_BYTES = 16 * KIB


def _many_files(
    scenario: str,
    options: Options,
    count: int,
    size_bytes: int,
    races: Sequence[tuple[str, Way, Sequence[str]]],
    *,
    touch: bool,
    chosen_by: str,
) -> Iterator[Row]:
    nginx_here()
    with room_in(options.memory, 2 * room_for_many(count, size_bytes), chosen_by=chosen_by) as room:
        root = room / "root"
        names = contents.many(root / "small", count, size_bytes)
        with nginx(room / "nginx", root, {SMALL_REPO: "small"}) as server, room_in(room) as sink:
            work = Work(f"{server.plain}/small", names, sink, hub=server.hub, repo=SMALL_REPO)
            conditions = Conditions(options.core, touching(count * size_bytes) if touch else 0)
            for kind, way, entrants in races:
                yield from Race(
                    f"{scenario}-{kind}", options, way, entrants, work, root / "small", conditions, server
                ).rows()


def small(options: Options) -> Iterator[Row]:
    """Thousands of files of 4 KiB: transfer layer by URLs, then whole repositories of a hub, durable."""
    races: list[tuple[str, Way, Sequence[str]]] = [
        ("transfer", "files", ("fetcher engine", "curl --parallel", "wget2", "aria2c -x8", "rclone")),
        ("get", "repo", ("fetcher", "curl --parallel", "huggingface_hub")),
    ]
    yield from _many_files("small", options, options.files, 4 * KIB, races, touch=False, chosen_by="--files")


def medium(options: Options) -> Iterator[Row]:
    """Hundreds of files of 1 MiB: transfer layer by URLs, then whole repositories of a hub."""
    races: list[tuple[str, Way, Sequence[str]]] = [
        ("transfer", "files", ("fetcher engine", "curl --parallel", "wget2", "aria2c -x8", "rclone")),
        ("get", "repo", ("fetcher", "curl --parallel", "huggingface_hub")),
    ]
    yield from _many_files("medium", options, options.medium_files, MIB, races, touch=True, chosen_by="--medium-files")


def requests(options: Options) -> Iterator[Row]:
    """Requests to the hub for each file, in a repository of small ones: hubs refuse who asks too often."""
    count = max(1, options.files // 2)
    needed = 2 * room_for_many(count, REGULAR_BYTES)
    with (
        room_in(options.memory, needed, chosen_by="--files") as room,
        counted(files=count, small_bytes=REGULAR_BYTES) as hub,
    ):
        originals = room / "originals"
        names = _regular(originals, count)
        # Who is told the names, and asks for no list, resolves each all the same.
        whole = Work(f"{hub.endpoint}/{SMALL_REPO}/resolve/main", names, room, hub=hub.endpoint, repo=SMALL_REPO)

        def one(name: str, round_number: int) -> Row:
            with room_in(room) as directory:
                work = replace(whole, directory=directory)
                command = command_of(name, "repo", work)
                refuse_what_is_there(work, command)
                hub.count()
                measured = run(command, Conditions(options.core))
                asked = hub.count()
                refuse_bytes_from_elsewhere(asked["body_bytes"], count * REGULAR_BYTES)
                judge(work, command, originals, compare=round_number == 0)
            # What a CDN is asked for counts for nobody: only the hub itself keeps quotas.
            per_file = sum(number for route, number in asked["requests"].items() if route != "cdn") / count
            row = {"per_file": round(per_file, 4), "by_route": asked["requests"], "connections": asked["connections"]}
            return row | measured.row()

        entrants = options.of(("fetcher", "huggingface_hub"), those_able("repo"))
        yield from in_turns({"files": count}, options.rounds, entrants, one)


def _regular(directory: Path, count: int) -> tuple[str, ...]:
    """Names of the files that the hub has, which are written there; their contents are not kept in memory."""
    some = regular_files(count, REGULAR_BYTES)
    for name, content in some.items():
        (directory / name).parent.mkdir(parents=True, exist_ok=True)
        (directory / name).write_bytes(content)
    return tuple(some)
