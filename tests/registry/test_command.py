"""``python -m fetcher.testing.registry``: two JSON lines, the content asked for, and an end when told."""

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

from fetcher.testing.registry.demo import DEMO_IMAGE, DEMO_MODEL, DEMO_PASSWORD, DEMO_PRIVATE_MODEL, DEMO_USER
from tests.hub.raw import fetch
from tests.registry.tools import EVERY_TYPE, basic

CHECKOUT = Path(__file__).resolve().parents[2]


@contextmanager
def serving(*arguments: str) -> Iterator[tuple[subprocess.Popen[str], dict[str, Any]]]:
    command = [sys.executable, "-m", "fetcher.testing.registry", *arguments]
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


def test_it_serves_what_is_named_until_standard_input_closes() -> None:
    arguments = ["--model", "library/mine:7b=1M", "--image", "acme/app=20K", "--dialect", "ollama"]
    with serving(*arguments, "--until-stdin-closes") as (process, listening):
        assert listening["event"] == "listening"
        assert [(each["name"], list(each["tags"]), each["private"]) for each in listening["repositories"]] == [
            ("library/mine", ["7b"], False),
            ("acme/app", ["latest"], False),
        ]
        assert listening["repositories"][0]["bytes"] > 1 << 20
        manifest = fetch(f"{listening['endpoint']}/v2/library/mine/manifests/7b").json
        assert manifest["layers"][0]["size"] == 1 << 20
        blob = fetch(f"{listening['endpoint']}/v2/library/mine/blobs/{manifest['layers'][0]['digest']}")
        assert blob.headers["location"].startswith(listening["cdn_endpoint"])
        assert len(fetch(blob.headers["location"]).body) == 1 << 20
        assert finish(process) == {"event": "stopped", "requests": 3, "body_bytes": 1 << 20}


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_it_serves_the_demo_until_a_signal(number: signal.Signals) -> None:
    with serving("--auth", "basic", "--demo-size", "1K", "--user", "eve:hidden") as (process, listening):
        names = [each["name"] for each in listening["repositories"]]
        assert names == [DEMO_MODEL, DEMO_IMAGE, DEMO_PRIVATE_MODEL]
        url = f"{listening['endpoint']}/v2/{DEMO_PRIVATE_MODEL}/manifests/latest"
        headers = {"Accept": EVERY_TYPE, "Authorization": basic(DEMO_USER, DEMO_PASSWORD)}
        assert fetch(url).status == 401
        assert fetch(url, headers=headers).status == 200
        assert fetch(url, headers={**headers, "Authorization": basic("eve", "hidden")}).status == 200
        assert "hidden" not in json.dumps(listening)
        process.send_signal(number)
        assert finish(process)["requests"] == 3


def test_manners() -> None:
    options = ["--model", "m=300K", "--redirect-blobs", "--url-lifetime", "0", "--pulls", "1", "--delay", "0.1"]
    with serving(*options, "--connection-rate", "1M", "--until-stdin-closes") as (process, listening):
        url = f"{listening['endpoint']}/v2/m/manifests/latest"
        first = fetch(url, headers={"Accept": EVERY_TYPE})
        assert first.status == 200 and first.seconds >= 0.1
        assert fetch(url, headers={"Accept": EVERY_TYPE}).status == 429
        digest = first.json["layers"][0]["digest"]
        location = fetch(f"{listening['endpoint']}/v2/m/blobs/{digest}").headers["location"]
        assert fetch(location).status == 403
        finish(process)
    with serving("--model", "m=300K", "--connection-rate", "1M", "--until-stdin-closes") as (process, listening):
        slow = fetch(f"{listening['endpoint']}/v2/m/blobs/{digest}")
        assert len(slow.body) == 300 << 10 and slow.seconds > 0.2
        finish(process)


@pytest.mark.parametrize(
    "arguments",
    [
        ["--model", "a"],
        ["--model", "=5"],
        ["--model", "a=5X"],
        ["--model", "../a=5"],
        ["--image", "a:-b=5"],
        ["--user", "only-a-secret"],
        ["--port", "70000"],
        ["--private", "--model", "a=5"],
        ["--auth", "none"],
    ],
)
def test_what_makes_no_sense_is_refused(arguments: list[str]) -> None:
    command = [sys.executable, "-m", "fetcher.testing.registry", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, cwd=CHECKOUT, timeout=20, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert "usage:" in done.stderr and "Traceback" not in done.stderr and "only-a-secret" not in done.stderr


def test_help() -> None:
    command = [sys.executable, "-m", "fetcher.testing.registry", "--help"]
    text = subprocess.run(command, capture_output=True, text=True, cwd=CHECKOUT, timeout=20, check=True).stdout
    assert "--model" in text and DEMO_USER in text
