"""``python -m fetcher.testing.hub``: two JSON lines, the content asked for, and an end when told."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from fetcher.testing import Hub, hub_in_thread
from fetcher.testing.demo import (
    DEMO_DATASET,
    DEMO_GATED_MODEL,
    DEMO_MODEL,
    DEMO_PRIVATE_MODEL,
    DEMO_TOKEN,
    add_demo_repos,
)
from tests.hub.raw import fetch

CHECKOUT = Path(__file__).resolve().parents[2]


@contextmanager
def serving(*arguments: str) -> Iterator[tuple[subprocess.Popen[str], dict[str, Any]]]:
    command = [sys.executable, "-m", "fetcher.testing.hub", *arguments]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=CHECKOUT
    ) as process:
        try:
            assert process.stdout is not None
            line = process.stdout.readline()
            assert line, process.stderr.read() if process.stderr else ""
            yield process, json.loads(line)
        finally:
            process.kill()


def finish(process: subprocess.Popen[str]) -> dict[str, Any]:
    rest, errors = process.communicate(timeout=10)
    assert (process.returncode, errors) == (0, "")
    last: dict[str, Any] = json.loads(rest)
    return last


def test_it_serves_a_directory_until_standard_input_closes(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "weights.bin").write_bytes(b"w" * 1000)
    (tmp_path / ".git").mkdir()
    (tmp_path / ".git" / "config").write_text("not served")
    arguments = ["--directory", str(tmp_path), "--id", "me/mine", "--file", "big.bin=3M", "--small-files", "5x10"]
    with serving(*arguments, "--until-stdin-closes") as (process, listening):
        assert listening["event"] == "listening"
        (repo,) = listening["repos"]
        assert (repo["id"], repo["files"], repo["bytes"]) == ("me/mine", 7, 1000 + (3 << 20) + 50)
        tree = fetch(f"{listening['endpoint']}/api/models/me/mine/tree/{repo['revision']}?recursive=true").json
        assert {"sub/weights.bin", "big.bin"} < {row["path"] for row in tree}
        url = fetch(f"{listening['endpoint']}/me/mine/resolve/main/sub/weights.bin").headers["location"]
        assert url.startswith(listening["cdn_endpoint"])
        assert fetch(url).body == b"w" * 1000
        assert finish(process) == {"event": "stopped", "requests": 3, "body_bytes": 1000}


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_it_stops_on_signals(number: signal.Signals) -> None:
    with serving("--demo-size", "1M", "--token", "hf_x=me", "--quota", "7") as (process, listening):
        assert {repo["id"] for repo in listening["repos"]} >= {DEMO_MODEL, DEMO_PRIVATE_MODEL}
        url = f"{listening['endpoint']}/api/models/{DEMO_PRIVATE_MODEL}"
        for token in (DEMO_TOKEN, "hf_x"):
            answer = fetch(url, headers={"Authorization": f"Bearer {token}"})
            assert answer.status == 200
            assert ";q=7;" in answer.headers["ratelimit-policy"]
        process.send_signal(number)
        assert finish(process)["requests"] == 2


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--file", "x"], "not NAME=SIZE"),
        (["--file", "x=1T"], "not a size"),
        (["--directory", "/none/such"], "not a directory"),
        (["--small-files", "3"], "not a size"),
        (["--small-files", "mx3"], "not COUNTxSIZE"),
        (["--token", "x"], "not TOKEN=USER"),
        (["--kind", "kernels"], "invalid choice"),
        (["--file", "../x=1"], "git has no such path"),
        (["--port", "70000"], "not a port"),
        (["--host", "192.0.2.1"], "assign"),
    ],
)
def test_wrong_arguments_are_one_sentence(arguments: list[str], complaint: str) -> None:
    command = [sys.executable, "-m", "fetcher.testing.hub", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False, cwd=CHECKOUT)
    assert (done.returncode, done.stdout) == (2, "")
    assert complaint in done.stderr
    assert "Traceback" not in done.stderr


def test_help_names_every_option_and_the_demo_token() -> None:
    command = [sys.executable, "-m", "fetcher.testing.hub", "--help"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True, cwd=CHECKOUT)
    assert DEMO_TOKEN in done.stdout
    assert "--until-stdin-closes" in done.stdout


def test_the_demo_repositories() -> None:
    with hub_in_thread(tokens={DEMO_TOKEN: "demo"}) as hub:
        add_demo_repos(hub, model_bytes=9_999_999)
        assert isinstance(hub, Hub)
        model = hub.repo(DEMO_MODEL)
        entries = model.commits[model.head].entries
        shards = [entry for path, entry in entries.items() if path.startswith("model-")]
        assert sum(entry.content.size for entry in shards) == 9_999_999
        assert all(entry.lfs for entry in shards)
        assert len([entry for entry in entries.values() if not entry.lfs]) >= 15
        assert sum(entry.content.size for entry in entries.values() if entry not in shards) < 10 << 20
        assert model.resolve("v1.0") is not None
        assert model.tags["v1.0"] != model.head
        assert hub.repo(DEMO_DATASET, "datasets").kind == "datasets"
        assert hub.repo(DEMO_PRIVATE_MODEL).private
        assert hub.repo(DEMO_GATED_MODEL).gated
