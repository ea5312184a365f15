"""Several processes that want the same at the same time, as jobs on one host do."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from benchmarks.origins import contents
from benchmarks.origins.nginx import Nginx, nginx, nginx_here
from benchmarks.rivals import RIVALS
from benchmarks.running.machine import Conditions, file_system, run
from benchmarks.running.options import BIG, Options
from benchmarks.running.race import (
    Row,
    command_of,
    in_turns,
    judge,
    refuse_bytes_from_elsewhere,
    refuse_what_is_there,
    room_in,
    those_able,
    touching,
)
from benchmarks.running.work import CHECKOUT, Command, Work, python

REPO = "bench/wanted"
PROCESSES = 4


def concurrent(options: Options) -> Iterator[Row]:
    """Four processes want one large file of a hub at once: in one cache, where the rival has such a thing."""
    nginx_here()
    size_bytes = max(1, options.size_bytes // PROCESSES)
    with room_in(options.memory, (1 + PROCESSES) * size_bytes) as room:
        root = room / "root"
        original = contents.large(root / "repo" / BIG, size_bytes)
        total = original.stat().st_size
        with nginx(room / "nginx", root, {REPO: "repo"}) as server, room_in(room) as sink:
            work = Work(f"{server.plain}/repo", (BIG,), sink, hub=server.hub, repo=REPO)
            conditions = Conditions(options.core, touching(total * PROCESSES))

            def one(name: str, round_number: int) -> Row:
                return _together(name, work, original.parent, conditions, server, compare=round_number == 0)

            onto = file_system(sink)
            common: Row = {"onto": onto, "bytes": total, "files": 1, "processes": PROCESSES, **conditions.row()}
            entrants = options.of(("fetcher", "huggingface_hub", "hf_transfer"), those_able("repo"))
            yield from in_turns(common, options.rounds, entrants, one)


def _together(name: str, work: Work, originals: Path, conditions: Conditions, server: Nginx, *, compare: bool) -> Row:
    """All at once; those without a cache that processes share have a directory each, and fetch for each."""
    with room_in(work.directory) as directory:
        if RIVALS[name].shares:
            works = [replace(work, directory=directory)]
        else:
            works = [replace(work, directory=directory / str(number)) for number in range(PROCESSES)]
        commands = []
        for each in works:
            each.directory.mkdir(exist_ok=True)
            commands.append(command_of(name, "repo", each))
            refuse_what_is_there(each, commands[-1])
        started = commands * (PROCESSES // len(commands))
        # Some are told by their environment where to put things, so each has its own.
        asked = [["env", *map("=".join, each.environment.items()), *each.arguments] for each in started]
        arguments = python("together", json.dumps(asked))
        sent_before = server.sent_bytes()
        measured = run(Command(arguments, {"PYTHONPATH": str(CHECKOUT)}), conditions, server_cpu_s=server.cpu_s)
        sent = server.sent_bytes() - sent_before
        total = sum((originals / name).stat().st_size for name in work.names)
        refuse_bytes_from_elsewhere(sent, total * len(works))
        for each, command in zip(works, commands, strict=True):
            judge(each, command, originals, compare=compare)
        return measured.row() | {"sent_bytes": sent}
