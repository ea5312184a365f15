"""``python -m fetcher.testing.s3``: two JSON lines, the content asked for, and an end when told."""

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

from tests.hub.raw import fetch
from tests.s3.judge import client, element, keys

CHECKOUT = Path(__file__).resolve().parents[2]
COMMAND = [sys.executable, "-m", "fetcher.testing.s3"]


@contextmanager
def serving(*arguments: str) -> Iterator[tuple[subprocess.Popen[str], dict[str, Any]]]:
    with subprocess.Popen(
        [*COMMAND, *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=CHECKOUT,
    ) as process:
        try:
            assert process.stdout is not None and process.stderr is not None
            line = process.stdout.readline()
            assert line, process.stderr.read()
            yield process, json.loads(line)
        finally:
            process.kill()


def finish(process: subprocess.Popen[str]) -> dict[str, Any]:
    rest, errors = process.communicate(timeout=10)
    assert (process.returncode, errors) == (0, "")
    last: dict[str, Any] = json.loads(rest)
    return last


def test_it_serves_the_directories_of_a_directory_until_standard_input_closes(tmp_path: Path) -> None:
    (tmp_path / "models" / "tiny").mkdir(parents=True)
    (tmp_path / "models" / "tiny" / "weights.bin").write_bytes(b"w" * 3000)
    (tmp_path / "models" / "note").write_bytes(b"note")
    (tmp_path / "other").mkdir()
    (tmp_path / "a file").write_bytes(b"is no bucket")
    arguments = ["--directory", str(tmp_path), "--part-bytes", "1K", "--bucket", "generated", "--object", "big=3M"]
    with serving(*arguments, "--small-objects", "5x10", "--until-stdin-closes") as (process, listening):
        assert listening["event"] == "listening"
        found = {bucket["name"]: (bucket["objects"], bucket["bytes"]) for bucket in listening["buckets"]}
        assert found == {"models": (2, 3004), "other": (0, 0), "generated": (6, (3 << 20) + 50)}
        listing = fetch(f"{listening['endpoint']}/models?list-type=2")
        assert keys(listing) == ["note", "tiny/weights.bin"]
        answer = fetch(f"{listening['endpoint']}/models/tiny/weights.bin")
        assert (answer.body, answer.headers["etag"][-3:]) == (b"w" * 3000, '-3"')
        assert finish(process) == {"event": "stopped", "requests": 2, "body_bytes": 3000}


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_it_stops_on_signals_and_asks_for_keys(number: signal.Signals) -> None:
    arguments = ["--private", "--key", "AKIDONE:se:cret", "--region", "eu-west-1", "--page-keys", "4"]
    with serving(*arguments) as (process, listening):
        endpoint = listening["endpoint"]
        assert fetch(f"{endpoint}/models").status == 403
        with client(endpoint, key_id="AKIDONE", secret="se", token="cret", region="eu-west-1") as sdk:
            assert len(sdk.list_objects_v2(Bucket="models")["Contents"]) == 4
        process.send_signal(number)
        assert finish(process)["requests"] == 2


def test_the_demo_key_and_the_right_to_list() -> None:
    with serving("--no-list") as (_, listening):
        endpoint = listening["endpoint"]
        assert fetch(f"{endpoint}/models/tiny-llama/config.json").status == 200
        assert fetch(f"{endpoint}/models").status == 403
        secret = "demo-secret-only-good-for-the-embedded-s3"
        with client(endpoint, key_id="AKIAEMBEDDEDDEMO", secret=secret) as sdk:
            assert sdk.list_objects_v2(Bucket="models")["KeyCount"] > 10


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--object", "x"], "not KEY=SIZE"),
        (["--object", "x=1T"], "not a size"),
        (["--directory", "/none/such"], "not a directory"),
        (["--small-objects", "3"], "not a size"),
        (["--small-objects", "mx3"], "not COUNTxSIZE"),
        (["--key", "only-secret"], "not ID:SECRET"),
        (["--bucket", "no/bucket"], "no bucket can be called"),
        (["--port", "70000"], "not a port"),
        (["--host", "192.0.2.1"], "assign"),
    ],
)
def test_wrong_arguments_are_one_sentence(arguments: list[str], complaint: str) -> None:
    done = subprocess.run([*COMMAND, *arguments], capture_output=True, text=True, timeout=20, check=False, cwd=CHECKOUT)
    assert (done.returncode, done.stdout) == (2, "")
    assert complaint in done.stderr
    assert "Traceback" not in done.stderr and "only-secret" not in done.stderr


def test_help_names_every_option_and_the_demo_key() -> None:
    done = subprocess.run([*COMMAND, "--help"], capture_output=True, text=True, timeout=20, check=True, cwd=CHECKOUT)
    assert "AKIAEMBEDDEDDEMO" in done.stdout
    assert "--until-stdin-closes" in done.stdout


def test_delays_and_rates() -> None:
    with serving("--delay", "0.1", "--connection-rate", "1K", "--object", "a=300") as (_, listening):
        answer = fetch(f"{listening['endpoint']}/models/a")
        assert (len(answer.body), answer.seconds >= 0.3) == (300, True)
        assert element(fetch(f"{listening['endpoint']}/models"), "Key") == "a"
