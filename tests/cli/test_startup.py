"""What is not needed is not loaded: a hit of the command line costs no event loop."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import IO

import pytest

from fetcher.cache.records import Snapshot
from fetcher.cli.app import COMMANDS
from fetcher.cli.completion import SHELLS
from fetcher.model.resource import HF
from tests.cli.support import Program, stock

HEAVY = {
    *(
        "asyncio",
        "aiohttp",
        "msgspec",
        "rich",
        "uvloop",
        "ssl",
        "tomllib",
        "yarl",
        "concurrent.futures",
        "multiprocessing",
    ),
    *(
        "yaml",
        "botocore",
        "awscrt",
        "aiofiles",
        "socket",
        "subprocess",
        "logging",
        "email",
        "http",
        "importlib.metadata",
    ),
}
NOT_FOR_A_HIT = {
    *("fetcher.cache.gc", "fetcher.cache.removal", "fetcher.cache.fetch_records", "fetcher.hashing", "fetcher._native"),
    *("fetcher.model.job", "fetcher.model.image", "fetcher.credentials.aws", "fetcher.model.s3_address"),
    *("fetcher.engine.fetch", "fetcher.net"),
}
"""Of our own: each costs a millisecond or more, and a hit of a public resource needs none of it."""
CHECKOUT = Path(__file__).resolve().parents[2]


def _run(*arguments: str) -> tuple[set[str], str, int]:
    """Modules loaded, stdout, exit code of a run in an interpreter of its own."""
    script = (
        "import sys\nfrom fetcher.cli.app import main\ncode = main(sys.argv[1:])\n"
        "sys.stderr.write('\\n' + '\\n'.join(sys.modules))\nraise SystemExit(code)"
    )
    command = [sys.executable, "-c", script, *arguments]
    done = subprocess.run(command, cwd=CHECKOUT, capture_output=True, text=True, check=False, timeout=30)
    return set(done.stderr.splitlines()), done.stdout, done.returncode


@pytest.mark.parametrize(
    "arguments",
    [
        *(["--help"], ["--version"], ["get", "--help"], ["job", "--help"], ["cache", "dir"]),
        *([command, "--help"] for command in COMMANDS),
        *(["completion", shell] for shell in SHELLS),
    ],
    ids=" ".join,
)
def test_talking_about_itself(program: Program, arguments: list[str]) -> None:
    modules, out, code = _run(*arguments)
    assert code == 0
    assert out
    assert not modules & HEAVY


@pytest.mark.parametrize("options", [[], ["--json"], ["--lease", "1h"], ["--offline"]])
def test_a_hit(program: Program, tiny: Snapshot, options: list[str]) -> None:
    assert program("get", "hf://acme/tiny").exit_code == 0  # collects, as nobody has lately; then it is not due
    modules, out, code = _run("get", "hf://acme/tiny", *options)
    assert code == 0
    assert str(tiny.path) in out
    assert not modules & HEAVY
    assert not modules & NOT_FOR_A_HIT


def test_a_hit_of_the_library(tiny: Snapshot) -> None:
    script = "import fetcher, sys; print(fetcher.get('hf://acme/tiny')); sys.stderr.write('\\n'.join(sys.modules))"
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=CHECKOUT, capture_output=True, text=True, check=True, timeout=30
    )
    assert done.stdout.strip() == str(tiny.path)
    assert not set(done.stderr.splitlines()) & (HEAVY | NOT_FOR_A_HIT | {"argparse"})


def test_what_is_due_is_collected_all_the_same(program: Program) -> None:
    """A hit looks lightly whether there is something to remove; where there is, the collector comes."""
    stock(HF("acme/old"), age_s=90_000.0, keep_for_s=80_000.0)
    kept = stock(HF("acme/tiny"))
    modules, out, code = _run("get", "hf://acme/tiny")
    assert code == 0
    assert str(kept.path) in out
    assert "fetcher.cache.gc" in modules
    assert [line["resource"] for line in program("ls", "--json").json] == [kept.uri]


def test_a_job_of_hits(tiny: Snapshot, tmp_path: Path) -> None:
    job = tmp_path / "job.json"
    resource = {"type": "HF", "repo": "acme/tiny", "target": "/data"}
    job.write_text(json.dumps({"ops": [{"id": "run", "args": {"resources": [resource]}}]}))
    modules, out, code = _run("job", str(job), "--json")
    assert code == 0
    assert str(tiny.path) in out
    assert not modules & HEAVY


@pytest.mark.parametrize("command", ["ls", "df"])
def test_looking(tiny: Snapshot, command: str) -> None:
    modules, out, code = _run(command)
    assert code == 0
    assert out
    assert not modules & HEAVY


def test_other_commands_are_not_loaded(program: Program) -> None:
    modules, _, _ = _run("cache", "dir")
    rooms = {name.removeprefix("fetcher.cli.") for name in modules if name.startswith("fetcher.cli.")}
    assert rooms == {"app", "cache", "context", "output"}


NOT_FOR_A_MISS = {"aiohttp", "rich", "yaml", "botocore", "awscrt", "email", "http", "multiprocessing", "urllib.request"}
NOT_FOR_A_MISS |= {"shutil", "fetcher.engine.copy_out"}


def test_what_fetches_loads_no_more_than_it_needs() -> None:
    script = (
        "import sys, fetcher.cli.fetching, fetcher.engine.fetch, fetcher.origins.hf, fetcher.origins.s3\n"
        "print('\\n'.join(sys.modules))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=CHECKOUT, capture_output=True, text=True, check=True, timeout=30
    )
    assert not set(done.stdout.splitlines()) & NOT_FOR_A_MISS


def _ended(script: str, *options: str, stdout: int | IO[bytes] = subprocess.PIPE) -> tuple[int, str]:
    """Exit code and stderr of ``program`` with another ``main``; ``print`` there is not flushed."""
    before = "import atexit, os, sys, threading, time\nfrom fetcher.cli import app\n"
    command = [sys.executable, *options, "-c", f"{before}{script}\napp.main = main\napp.program()"]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    done = subprocess.run(
        command, cwd=CHECKOUT, env=environment, stdout=stdout, stderr=subprocess.PIPE, check=False, timeout=30
    )
    return done.returncode, done.stderr.decode() + (done.stdout or b"").decode()


AT_EXIT = "atexit.register(lambda: sys.stderr.write('taken apart'))\n"


def test_the_program_ends_without_taking_the_interpreter_apart() -> None:
    code, said = _ended(f"{AT_EXIT}def main():\n    sys.stdout.write('all of it')\n    return 7")
    assert (code, said) == (7, "all of it")


def test_it_waits_for_a_thread_that_still_runs() -> None:
    late = "def late():\n    time.sleep(0.2)\n    print('late')\n"
    main = "def main():\n    threading.Thread(target=late).start()\n    return 3"
    code, said = _ended(f"{AT_EXIT}{late}{main}")
    assert code == 3
    assert "late" in said and "taken apart" in said


@pytest.mark.parametrize("options", [("-X", "dev"), ("-W", "error::ResourceWarning")], ids=" ".join)
def test_whoever_looks_for_what_was_left_open_finds_it(options: tuple[str, ...]) -> None:
    code, said = _ended(f"{AT_EXIT}left = open(os.devnull)\ndef main():\n    return 0", *options)
    assert code == 0
    assert "taken apart" in said and "ResourceWarning: unclosed file" in said


def test_last_lines_that_cannot_be_written_are_no_success() -> None:
    with open("/dev/full", "wb") as full:
        code, said = _ended("def main():\n    sys.stdout.write('lost')\n    return 0", stdout=full)
    assert code == 120, said
    assert "No space left" in said
