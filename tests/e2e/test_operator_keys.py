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

from fetcher import Fetcher, UsageError
from fetcher.client.keys import THREAD_NAME
from fetcher.testing import S3, s3_in_thread
from fetcher.testing.s3 import Key
from tests.e2e.support import HURRIED

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


def client(s3: S3, cache_dir: Path, tmp_path: Path, program: str, **more: Any) -> Fetcher:
    config = tmp_path / "aws-config"
    config.write_text(f"[default]\ncredential_process = {program}\n")
    environ = {"HOME": str(tmp_path), "AWS_CONFIG_FILE": str(config), "AWS_REGION": "us-east-1"}
    options = {**HURRIED, "cache_dir": str(cache_dir), "s3_endpoint": s3.endpoint, **more}
    return Fetcher(environ=environ, **options)


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
    script, times = tmp_path / "give.sh", tmp_path / "times"
    script.write_text(f"echo asked >> {times}\necho '{GIVEN}'\n")

    async def main() -> None:
        async with client(s3, cache_dir, tmp_path, f"/bin/sh {script}") as fetcher:
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
    waiting = [thread for thread in threading.enumerate() if thread.name == THREAD_NAME]
    assert len(waiting) == 1
    os.close(os.open(fifo, os.O_WRONLY))  # the program ends
    waiting[0].join(20)
    assert not waiting[0].is_alive()
