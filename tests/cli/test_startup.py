"""What is not needed is not loaded: a hit of the command line costs no event loop."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from fetcher.cache.records import Snapshot
from tests.cli.support import Program

HEAVY = {"asyncio", "aiohttp", "msgspec", "rich", "uvloop", "ssl", "tomllib", "yarl", "concurrent.futures"}
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
    "arguments", [["--help"], ["--version"], ["get", "--help"], ["job", "--help"], ["cache", "dir"]]
)
def test_talking_about_itself(program: Program, arguments: list[str]) -> None:
    modules, out, code = _run(*arguments)
    assert code == 0
    assert out
    assert not modules & HEAVY


@pytest.mark.parametrize("options", [[], ["--json"], ["--lease", "1h"], ["--offline"]])
def test_a_hit(tiny: Snapshot, options: list[str]) -> None:
    modules, out, code = _run("get", "hf://acme/tiny", *options)
    assert code == 0
    assert str(tiny.path) in out
    assert not modules & HEAVY


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
