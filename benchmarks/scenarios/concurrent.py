"""Several processes that want the same at the same time, as jobs on one host do."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from benchmarks.origins import contents
from benchmarks.origins.nginx import Hubs, nginx
from benchmarks.rivals import RIVALS
from benchmarks.running.machine import Conditions, Failed, run
from benchmarks.running.options import BIG, Options
from benchmarks.running.race import Row, judge, room_in, there_and_back, touching
from benchmarks.running.work import Command, Work, python

REPO = "bench/wanted"
PROCESSES = 4


def concurrent(options: Options) -> Iterator[Row]:
    """Four processes want one large file of a hub at once: in one cache, where the rival has such a thing."""
    with room_in(options.memory) as room:
        root, here = room / "root", room / "nginx"
        here.mkdir()
        contents.large(root / "repo" / BIG, options.size_bytes // PROCESSES)
        with nginx(here, root, Hubs({REPO: "repo"})) as server, room_in(room) as sink:
            work = Work(f"{server.plain}/repo", (BIG,), sink, hub=server.hub, repo=REPO)
            total = (root / "repo" / BIG).stat().st_size
            conditions = Conditions(options.core, touching(total * PROCESSES))
            entrants = options.of(("fetcher", "huggingface_hub", "hf_transfer"))
            for name in entrants:
                if RIVALS[name].missing:
                    yield {"rival": name, "missing": RIVALS[name].missing}
            for round_number in range(options.rounds):
                for name in there_and_back(entrants, round_number):
                    rival = RIVALS[name]
                    if rival.missing:
                        continue
                    row: Row = {"rival": name, "version": rival.version(), "verifies": rival.verifies}
                    row |= {"round": round_number, "bytes": total, "files": 1, "processes": PROCESSES}
                    sent_before = server.sent_bytes()
                    try:
                        figures = _together(name, work, root / "repo", conditions, compare=round_number == 0)
                    except Failed as failed:
                        yield row | {"failed": str(failed)}
                        continue
                    yield row | figures | {"sent_bytes": server.sent_bytes() - sent_before}


def _together(name: str, work: Work, originals: Path, conditions: Conditions, *, compare: bool) -> Row:
    """All at once; those without a cache that processes share have a directory each."""
    rival = RIVALS[name]
    with room_in(work.directory) as directory:
        if rival.shares:
            works = [replace(work, directory=directory)] * PROCESSES
        else:
            works = [replace(work, directory=directory / str(number)) for number in range(PROCESSES)]
        for each in works:
            each.directory.mkdir(exist_ok=True)
        commands = [rival.ways["repo"](each) for each in works]
        arguments = python("together", json.dumps([command.arguments for command in commands]))
        measured = run(Command(arguments, commands[0].environment), conditions)
        for each, command in zip(works, commands, strict=True):
            judge(each, command, originals, compare=compare)
        return measured.row()
