"""An operator's AWS keys that a program of his gives: asked for beside all else that goes on, once, not for ever."""

from __future__ import annotations

import asyncio
import json
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import fetcher as library
from fetcher import Fetcher, UsageError
from fetcher.client.keys import ASKING_MAX, THREAD_NAME
from fetcher.testing import S3, s3_in_thread
from fetcher.testing.s3 import Key
from tests.e2e.support import HURRIED
from tests.support.cli import CommandLine

KEY_ID, SECRET = "AKIDCHAIN", "CanarySecretOfTheChain"
GIVEN = json.dumps({"Version": 1, "AccessKeyId": KEY_ID, "SecretAccessKey": SECRET})


@pytest.fixture(autouse=True)
def _clean(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.startswith("AWS_"):
            monkeypatch.delenv(name)


@pytest.fixture
def s3() -> Iterator[S3]:
    with s3_in_thread(keys={KEY_ID: Key(SECRET, "alice")}) as running:
        running.add_bucket("closed", {"one/a": b"a", "two/b": b"b"})
        yield running


@pytest.fixture
def fifo(tmp_path: Path) -> Path:
    made = tmp_path / "fifo"
    os.mkfifo(made)
    return made


def asking() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == THREAD_NAME]


def ended(fifo: Path) -> None:
    """Let all programs end that read ``fifo``, and those that are about to."""
    writer = os.open(fifo, os.O_RDWR)
    os.unlink(fifo)
    os.close(writer)


def environ_of(tmp_path: Path, program: str) -> dict[str, str]:
    """Where the keys are those that ``program`` gives."""
    config = tmp_path / "aws-config"
    config.write_text(f"[default]\ncredential_process = {program}\n")
    return {"HOME": str(tmp_path), "AWS_CONFIG_FILE": str(config), "AWS_REGION": "us-east-1"}


def giving(tmp_path: Path) -> tuple[str, Path]:
    """A program that gives keys, and the file that it adds a line to each time."""
    script, times = tmp_path / "give.sh", tmp_path / "times"
    script.write_text(f"echo asked >> {times}\necho '{GIVEN}'\n")
    return f"/bin/sh {script}", times


def options_of(s3: S3, cache_dir: Path, **more: Any) -> dict[str, Any]:
    return {**HURRIED, "cache_dir": str(cache_dir), "s3_endpoint": s3.endpoint, **more}


def client(s3: S3, cache_dir: Path, tmp_path: Path, program: str, **more: Any) -> Fetcher:
    return Fetcher(environ=environ_of(tmp_path, program), **options_of(s3, cache_dir, **more))


def test_all_else_goes_on_while_a_program_is_asked_for_keys(
    s3: S3, cache_dir: Path, tmp_path: Path, fifo: Path
) -> None:
    went_on = threading.Event()
    seen: list[bool] = []

    def give() -> None:
        seen.append(went_on.wait(10))
        fifo.write_text(GIVEN)

    async def main() -> None:
        async with client(s3, cache_dir, tmp_path, f"cat {fifo}") as fetcher:
            fetching = asyncio.create_task(fetcher.fetch("s3://closed/one/", "operator"))
            for _ in range(5):
                await asyncio.sleep(0.01)
            went_on.set()
            snapshot = (await fetching).snapshot
            assert (snapshot.private, (snapshot.path / "a").read_bytes()) == (True, b"a")

    giver = threading.Thread(target=give)
    giver.start()
    try:
        asyncio.run(main())
    finally:
        reader = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)  # or nobody may ever take what is given
        went_on.set()
        giver.join()
        os.close(reader)
    assert seen == [True]


def test_a_program_is_asked_for_keys_once_for_all_resources_of_a_call(s3: S3, cache_dir: Path, tmp_path: Path) -> None:
    program, times = giving(tmp_path)

    async def main() -> None:
        async with client(s3, cache_dir, tmp_path, program) as fetcher:
            one, two = await fetcher.fetch_all([("s3://closed/one/", "operator"), ("s3://closed/two/", "operator")])
            assert (one.snapshot.path / "a").read_bytes() + (two.snapshot.path / "b").read_bytes() == b"ab"

    asyncio.run(main())
    assert times.read_text() == "asked\n"


def test_a_program_that_does_not_end_is_not_waited_for_for_ever(
    s3: S3, cache_dir: Path, tmp_path: Path, fifo: Path
) -> None:
    """Neither by who asks for the resource, nor at the end of the event loop."""
    time_is_short = {"api_timeout_s": 0.7, "api_time_max_s": 1.0}

    async def main() -> None:
        async with client(s3, cache_dir, tmp_path, f"cat {fifo}", **time_is_short) as fetcher:
            with pytest.raises(UsageError, match="no AWS keys came within 1 s") as caught:
                await fetcher.fetch("s3://closed/one/", "operator")
            assert caught.value.hint

    asyncio.run(main())
    waiting = asking()
    assert len(waiting) == 1
    ended(fifo)
    waiting[0].join(20)
    assert not waiting[0].is_alive()


def at(s3: S3, tmp_path: Path, program: str) -> dict[str, str]:
    """The environment of a command that asks ``program`` for its keys."""
    of_command = {"AWS_ENDPOINT_URL_S3": s3.endpoint, "FETCHER_SPACE_FLOOR_BYTES": "0"}
    return {**environ_of(tmp_path, program), **of_command}


def test_calls_for_which_keys_never_come_leave_few_threads_and_programs(
    s3: S3, cache_dir: Path, tmp_path: Path, fifo: Path
) -> None:
    """Later ones wait for a place as long as they would wait for keys, and get both as soon as the programs end."""
    time_is_short = {"api_timeout_s": 0.7, "api_time_max_s": 1.0}

    async def main() -> None:
        program = f"cat {fifo}"
        async with client(s3, cache_dir, tmp_path, program, **time_is_short) as fetcher:
            asks = [fetcher.fetch("s3://closed/one/", "operator") for _ in range(ASKING_MAX + 3)]
            errors = await asyncio.gather(*asks, return_exceptions=True)
            told = [str(error) for error in errors if isinstance(error, UsageError)]
            assert len(told) == len(asks)
            assert sum("4 earlier calls still ask" in text for text in told) == 3
            assert len(asking()) == ASKING_MAX
        ended(fifo)
        program, times = giving(tmp_path)
        async with client(s3, cache_dir, tmp_path, program) as fetcher:
            asks = [fetcher.fetch("s3://closed/one/", "operator") for _ in range(ASKING_MAX + 3)]
            assert {(outcome.snapshot.path / "a").read_bytes() for outcome in await asyncio.gather(*asks)} == {b"a"}
            assert times.read_text() == "asked\n" * len(asks)

    assert not asking()
    asyncio.run(main())
    for thread in asking():
        thread.join(20)
    assert not asking()


def test_a_command_asks_for_keys_once_for_all_its_resources(run_cli: CommandLine, s3: S3, tmp_path: Path) -> None:
    """Whether they are to be fetched, or are hits."""
    program, times = giving(tmp_path)
    command = ("get", "s3://closed/one/", "s3://closed/two/", "--json")
    done = run_cli(*command, env=at(s3, tmp_path, program))
    assert (done.exit_code, [line["hit"] for line in done.events("snapshot")]) == (0, [False, False])
    assert times.read_text() == "asked\n"

    before = len(s3.requests)
    done = run_cli(*command, env=at(s3, tmp_path, program))
    assert (done.exit_code, [line["hit"] for line in done.events("snapshot")]) == (0, [True, True])
    assert len(s3.requests) == before, "a hit asks nobody but who has the keys"
    assert times.read_text() == "asked\nasked\n"


def test_a_command_does_not_wait_for_ever_for_keys(run_cli: CommandLine, s3: S3, tmp_path: Path, fifo: Path) -> None:
    in_time = {"FETCHER_API_TIMEOUT_S": "0.7", "FETCHER_API_TIME_MAX_S": "1"}
    try:
        done = run_cli("get", "s3://closed/one/", env={**at(s3, tmp_path, f"cat {fifo}"), **in_time}, timeout_s=30)
    finally:
        ended(fifo)
    assert (done.exit_code, done.stdout) == (2, "")
    assert "no AWS keys came within 1 s" in done.stderr and "hint: " in done.stderr


def test_get_in_one_line_asks_for_keys_once_and_not_for_ever(
    s3: S3, cache_dir: Path, tmp_path: Path, fifo: Path
) -> None:
    program, times = giving(tmp_path)
    options = options_of(s3, cache_dir, environ=environ_of(tmp_path, program))
    for asked in (1, 2):
        assert (library.get("s3://closed/one/", asker="operator", **options) / "a").read_bytes() == b"a"
        assert times.read_text() == "asked\n" * asked

    in_time = {"api_timeout_s": 0.7, "api_time_max_s": 1.0}
    options = options_of(s3, cache_dir, environ=environ_of(tmp_path, f"cat {fifo}"), **in_time)
    try:
        with pytest.raises(UsageError, match="no AWS keys came within 1 s"):
            library.get("s3://closed/one/", asker="operator", **options)
    finally:
        ended(fifo)
