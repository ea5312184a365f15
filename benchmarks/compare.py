"""fetcher beside curl and huggingface_hub: the same files from the same embedded hub, in turns, in one run.

Every measurement is a process of its own; wall time is ours, CPU time and peak memory are the kernel's (wait4). Rounds
go through all rivals in turn, so that a noisy minute hits all of them alike. Prints one JSON line per measurement, then
a table in Markdown: medians, and in brackets the spread. The caveats are in benchmarks/README.md.

This process stays small (standard library only): what a child has from its parent at the start counts into its peak.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.rivals import CHECKOUT, RESUMERS, RIVALS, Command, Work, available, fetcher_environment
from benchmarks.tables import tables

MIB = 1 << 20
START_ROUNDS = 3
"""Start-up is short, and noise is not: it gets so many times the rounds of the others."""


@dataclass(frozen=True, slots=True)
class Measured:
    """One process, as the kernel saw it."""

    wall_s: float
    cpu_s: float
    rss_mib: float
    sync_s: float
    """How long it then took until everything was on the disk: what a rival left for the kernel to do."""
    stdout: str


class Origin:
    """The embedded hub in its own process; see origin.py."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process
        self.endpoint: str = self._read()["endpoint"]

    def count(self) -> dict[str, Any]:
        """Requests by route, connections and body bytes since the last time."""
        return self._ask("count")

    def look(self) -> dict[str, Any]:
        """Body bytes since then, and how many bodies are under way."""
        return self._ask("look")

    def _ask(self, question: str) -> dict[str, Any]:
        assert self._process.stdin
        print(question, file=self._process.stdin, flush=True)
        return self._read()

    def _read(self) -> dict[str, Any]:
        assert self._process.stdout
        answer: dict[str, Any] = json.loads(self._process.stdout.readline())
        return answer


@contextmanager
def origin(**options: int) -> Iterator[Origin]:
    """A running origin, gone when the block is left."""
    arguments = [f"--{name.replace('_', '-')}={value}" for name, value in options.items()]
    process = subprocess.Popen(
        [sys.executable, "-m", "benchmarks.origin", *arguments],
        cwd=CHECKOUT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with process:
        try:
            yield Origin(process)
        finally:
            assert process.stdin
            process.stdin.close()


def run(command: Command, *, sync: bool = False) -> Measured:
    """Run to the end; a rival that fails ends the whole comparison, with what it said."""
    environment = {"PATH": os.environ["PATH"], "HOME": "/nonexistent", "LANG": "C.UTF-8", **command.environment}
    if sync:
        os.sync()  # what an earlier rival left dirty is not this one's burden
    with tempfile.TemporaryFile() as output, tempfile.TemporaryFile() as talk:
        start = time.perf_counter()
        # Waited for with wait4, which Popen does not offer: the object is told the outcome by hand.
        process = subprocess.Popen(
            command.arguments, env=environment, stdin=subprocess.DEVNULL, stdout=output, stderr=talk
        )
        _, status, usage = os.wait4(process.pid, 0)
        wall_s = time.perf_counter() - start
        process.returncode = os.waitstatus_to_exitcode(status)
        output.seek(0)
        talk.seek(0)
        if process.returncode != 0:
            said = (output.read()[-2000:] + talk.read()).decode(errors="replace")
            raise SystemExit(f"{' '.join(command.arguments[:6])} … ended with {process.returncode}:\n{said}")
        start = time.perf_counter()
        if sync:
            os.sync()
        sync_s = time.perf_counter() - start
        cpu_s = usage.ru_utime + usage.ru_stime
        return Measured(wall_s, cpu_s, usage.ru_maxrss / 1024, sync_s, output.read().decode())


def measure(command: Command, *, sync: bool = False, **labels: Any) -> tuple[dict[str, Any], str]:
    """Run and say it as a JSON line; returns the row and the command's output."""
    measured = run(command, sync=sync)
    row = {
        **labels,
        "wall_s": round(measured.wall_s, 4),
        "cpu_s": round(measured.cpu_s, 4),
        "rss_mib": round(measured.rss_mib, 1),
        "sync_s": round(measured.sync_s, 3),
    }
    return row, measured.stdout


def say(row: dict[str, Any]) -> None:
    print(json.dumps(row), flush=True)


@contextmanager
def empty_directory(parent: Path) -> Iterator[Path]:
    """A new directory, removed afterwards."""
    directory = Path(tempfile.mkdtemp(prefix="fetcher-bench-", dir=parent))
    try:
        yield directory
    finally:
        shutil.rmtree(directory, ignore_errors=True)


# --- scenarios: each yields rows -------------------------------------------------------------------------------------


def _race(
    options: argparse.Namespace, scenario: str, repo: str, files: tuple[str, ...], content: dict[str, int]
) -> list[Any]:
    rows = []
    rivals = [name for name in options.rival or RIVALS if name in RIVALS and available(name)]
    if len(files) == 1 and "curl --parallel" in rivals:
        rivals.remove("curl --parallel")  # it fetches one file over one connection: the same as curl
    with origin(**content) as hub:
        for round_number in range(options.rounds):
            for name in rivals:
                with empty_directory(options.directory) as directory:
                    command = RIVALS[name](Work(hub.endpoint, repo, files, directory))
                    row, _ = measure(command, sync=True, scenario=scenario, rival=name, round=round_number)
                    counted = hub.count()
                    row["requests"] = sum(counted["requests"].values())
                    row["connections"] = counted["connections"]
                    say(row)
                    rows.append(row)
    return rows


def big(options: argparse.Namespace) -> list[dict[str, Any]]:
    """One large file."""
    return _race(options, "big", "bench/big", ("model.safetensors",), {"size_bytes": options.size * MIB})


def small(options: argparse.Namespace) -> list[dict[str, Any]]:
    """Many small files."""
    return _race(options, "small", "bench/small", _small_files(options.files), {"files": options.files})


def _small_files(count: int) -> tuple[str, ...]:
    return tuple(f"part-{number // 100:03d}/file-{number:05d}.dat" for number in range(count))


def start(options: argparse.Namespace) -> list[dict[str, Any]]:
    """Start-up: what a person waits for before anything is fetched, against an interpreter that does nothing."""
    rows = []
    with origin(tiny=1) as hub, empty_directory(options.directory) as directory:
        environment = fetcher_environment(hub.endpoint, directory)
        get = (sys.executable, "-m", "fetcher", "get", "hf://bench/tiny-00000")
        run(Command(get, environment))
        commands = {
            "python -c pass": (sys.executable, "-c", "pass"),
            "fetcher --help": (sys.executable, "-m", "fetcher", "--help"),
            "fetcher --version": (sys.executable, "-m", "fetcher", "--version"),
            "fetcher completion bash": (sys.executable, "-m", "fetcher", "completion", "bash"),
            "fetcher ls": (sys.executable, "-m", "fetcher", "ls"),
            "fetcher get (hit)": get,
        }
        hub.count()
        for round_number in range(START_ROUNDS * options.rounds):
            for name, arguments in commands.items():
                row, _ = measure(Command(arguments, environment), scenario="start", what=name, round=round_number)
                rows.append(row)
                say(row)
        if asked := hub.count()["requests"]:
            raise SystemExit(f"a hit asked the hub: {asked}")
    return rows


def requests(options: argparse.Namespace) -> list[dict[str, Any]]:
    """Hub requests per file, for a repository of 2,500 small files."""
    count = 2500
    with origin(files=count) as hub, empty_directory(options.directory) as directory:
        work = Work(hub.endpoint, "bench/small", _small_files(count), directory)
        row, _ = measure(RIVALS["fetcher"](work), sync=True, scenario="requests", rival="fetcher", files=count)
        counted = hub.count()
        per_file = sum(number for route, number in counted["requests"].items() if route != "cdn") / count
        row |= {"per_file": round(per_file, 4), "by_route": counted["requests"], "connections": counted["connections"]}
        say(row)
    return [row]


def hits(options: argparse.Namespace) -> list[dict[str, Any]]:
    """Latency of a hit in the library, with many snapshots."""
    with origin(tiny=options.snapshots) as hub, empty_directory(options.directory) as directory:
        arguments = (sys.executable, "-m", "benchmarks.latency", str(options.snapshots))
        row, output = measure(Command(arguments, fetcher_environment(hub.endpoint, directory)), scenario="hits")
        row |= {name: round(value, 4) for name, value in json.loads(output).items()}
        say(row)
    return [row]


def hashing(options: argparse.Namespace) -> list[dict[str, Any]]:
    """The hashing core against the blake3 package, hashlib and pwrite; see hashing.py."""
    return _module("benchmarks.hashing", options, "rounds", "slices", "file_size")


def cache(options: argparse.Namespace) -> list[dict[str, Any]]:
    """The cache on the local disk: hits, commits, gc, and an index made anew; see cache.py."""
    return _module("benchmarks.cache", options, "rounds", "snapshots", "file_size")


def kill(options: argparse.Namespace) -> list[dict[str, Any]]:
    """kill -9 in the middle of a file, for everybody alike; see kill.py."""
    return _module("benchmarks.kill", options, "rounds", "kill_size", "line", "seed", "rival")


def _module(name: str, options: argparse.Namespace, *choices: str) -> list[dict[str, Any]]:
    """Rows of a scenario that is a module of its own and can run alone."""
    arguments = []
    for choice in choices:
        given = getattr(options, choice)
        for value in given if isinstance(given, list) else () if given is None else (given,):
            arguments.append(f"--{choice.replace('_', '-')}={value}")
    command = (sys.executable, "-m", name, *arguments, "--directory", str(options.directory))
    output = run(Command(command, {"PYTHONPATH": str(CHECKOUT)})).stdout
    rows: list[dict[str, Any]] = [json.loads(line) for line in output.partition("\n\n")[0].splitlines()]
    for row in rows:
        say(row)
    return rows


SCENARIOS: dict[str, Callable[[argparse.Namespace], list[dict[str, Any]]]] = {
    "big": big,
    "small": small,
    "start": start,
    "requests": requests,
    "hits": hits,
    "hashing": hashing,
    "cache": cache,
    "kill": kill,
}


def main() -> None:
    parser = argparse.ArgumentParser(prog="benchmarks.compare", description=(__doc__ or "").partition("\n\n")[0])
    parser.add_argument("--scenario", action="append", choices=SCENARIOS, help="default: all, in this order")
    parser.add_argument(
        "--rival",
        action="append",
        choices=list(dict.fromkeys((*RIVALS, *RESUMERS))),
        help="default: all that there are",
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--size", type=int, default=2048, metavar="MIB", help="of the large file (2048)")
    parser.add_argument("--files", type=int, default=2000, help="how many small files (2000)")
    parser.add_argument("--snapshots", type=int, default=10_000, help="in the cache, for `hits` and `cache` (10000)")
    parser.add_argument("--slices", type=int, default=200, help="of each side in a round, for `hashing` (200)")
    parser.add_argument(
        "--file-size",
        type=int,
        default=1024,
        metavar="MIB",
        help="of 4 files, for `hashing`; of one, for `cache` (1024)",
    )
    parser.add_argument("--kill-size", type=int, default=320, metavar="MIB", help="of the file, for `kill` (320)")
    parser.add_argument("--line", type=int, default=8, metavar="MIB", help="a second and connection, for `kill` (8)")
    parser.add_argument("--seed", type=int, default=1, help="of the moments of killing (1)")
    parser.add_argument(
        "--directory", type=Path, default=Path(tempfile.gettempdir()), help="where rivals write (the temporary one)"
    )
    options = parser.parse_args()
    rows = []
    for name in options.scenario or SCENARIOS:
        rows += SCENARIOS[name](options)
    print()
    print(tables(rows))


if __name__ == "__main__":
    main()
