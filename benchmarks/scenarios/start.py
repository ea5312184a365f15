"""Start-up: what a person waits for before anything is fetched, against an interpreter that does nothing."""

from __future__ import annotations

import json
import platform
import sys
from collections.abc import Iterator
from pathlib import Path

from benchmarks.origins.counted import counted
from benchmarks.rivals.fetcher import Ours
from benchmarks.running.lines import revision
from benchmarks.running.machine import Conditions, Failed, run
from benchmarks.running.options import Options
from benchmarks.running.race import Row, room_for_many, room_in, there_and_back
from benchmarks.running.work import CHECKOUT, Command, Work

STARTS = 9
"""Start-up is short, and noise is not: so many times in each round."""
LIBRARY_SNAPSHOTS = 100
LATENCY = CHECKOUT / "benchmarks" / "measures" / "latency.py"
BARE = "python -c pass"


def start(options: Options) -> Iterator[Row]:
    """Help, version, completion, a listing and a hit on the command line; and a hit in the library."""
    needed = room_for_many(5 * LIBRARY_SNAPSHOTS, 0)  # two caches: directories, bodies, sidecars
    with room_in(options.memory, needed, chosen_by="") as room, counted(tiny=LIBRARY_SNAPSHOTS) as hub:
        commands = {BARE: Command((sys.executable, "-c", "pass"))}
        versions = {BARE: f"Python {platform.python_version()}"}
        for what, command in _commands(Ours(CHECKOUT), room / "ours", hub.endpoint).items():
            commands[what] = command
            versions[what] = f"fetcher {revision()}"
        if options.base:
            for what, command in _commands(Ours(options.base.checkout), room / "base", hub.endpoint).items():
                twin = options.base.twin_of(what)
                commands[twin] = command
                versions[twin] = f"fetcher {revision(options.base.checkout)}"
        libraries = {what: commands.pop(what) for what in tuple(commands) if what.startswith("hit in the library")}
        hub.count()
        for round_number in range(STARTS * options.rounds):
            for what, command in there_and_back(commands.items(), round_number):
                row = run(command, Conditions(options.core)).row()
                yield {"rival": what, "version": versions[what], "round": round_number} | row
        if asked := hub.count()["requests"]:
            raise Failed(f"a hit asked the hub: {asked}")
        for round_number in range(options.rounds):
            for what, command in there_and_back(libraries.items(), round_number):
                told = json.loads(run(command, Conditions(options.core)).stdout)
                latency = {name: round(value, 4) for name, value in told.items() if name.startswith("hit_")}
                yield {"rival": what, "version": versions[what], "round": round_number, "latency": latency}


def _commands(ours: Ours, room: Path, endpoint: str) -> dict[str, Command]:
    """What one checkout is asked; what is hit has been fetched before."""
    environment = dict(ours.environment(Work("", (), room))) | {"HF_ENDPOINT": endpoint}
    asked = {
        "fetcher --help": ("--help",),
        "fetcher --version": ("--version",),
        "fetcher completion bash": ("completion", "bash"),
        "fetcher ls": ("ls",),
        "fetcher get (hit)": ("get", "hf://bench/tiny-00000"),
    }
    commands = {what: Command((*ours.program(), *arguments), environment) for what, arguments in asked.items()}
    run(commands["fetcher get (hit)"], Conditions())
    library = environment | {"FETCHER_CACHE_DIR": str(room / "library")}
    commands["hit in the library"] = Command((sys.executable, "-P", str(LATENCY), str(LIBRARY_SNAPSHOTS)), library)
    return commands
