"""The loop of a command: Ctrl-C once stops cleanly, twice leaves. Seen from outside, on real signals."""

from __future__ import annotations

import asyncio
import re
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from fetcher.engine.loop import run

CHECKOUT = Path(__file__).resolve().parents[2]

PROGRAM = """
import asyncio, sys
from fetcher.engine.loop import run
from fetcher.errors import InterruptedByUser

def say(text):
    print(text, flush=True)

async def main():
    say("ready")
    try:
        await asyncio.sleep(60)
    finally:
        say("cleaning up")
        if sys.argv[1] == "slow":
            await asyncio.sleep(60)
        say("cleaned up")

try:
    run(main)
except InterruptedByUser as error:
    say(f"{type(error).__name__}: {error.hint}")
    sys.exit(error.exit_code)
"""


class Program:
    """The program under way, with its lines as they come."""

    def __init__(self, cleaning: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", PROGRAM, cleaning],
            cwd=CHECKOUT,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def line(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().rstrip("\n")

    def end(self) -> tuple[int, str, str]:
        stdout, stderr = self.process.communicate(timeout=30)
        return self.process.returncode, stdout, stderr

    def __enter__(self) -> Program:
        assert self.line() == "ready"
        return self

    def __exit__(self, *exc_info: object) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.communicate()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_once_stops_cleanly(number: signal.Signals) -> None:
    with Program("quick") as program:
        program.process.send_signal(number)
        code, stdout, stderr = program.end()
    assert code == 130
    assert stdout.splitlines()[:2] == ["cleaning up", "cleaned up"]
    assert re.match(r"InterruptedByUser: whole (blocks|files) are kept", stdout.splitlines()[2])
    assert stderr == ""


@pytest.mark.parametrize(
    ("first", "second", "code"),
    [
        (signal.SIGINT, signal.SIGINT, 130),
        (signal.SIGTERM, signal.SIGTERM, 143),
        (signal.SIGTERM, signal.SIGINT, 130),
    ],
    ids=lambda value: value.name if isinstance(value, signal.Signals) else str(value),
)
def test_twice_leaves(first: signal.Signals, second: signal.Signals, code: int) -> None:
    with Program("slow") as program:
        program.process.send_signal(first)
        assert program.line() == "cleaning up"
        program.process.send_signal(second)
        assert program.end() == (code, "", "")


def test_results_and_errors_come_through() -> None:
    async def good() -> int:
        await asyncio.sleep(0)
        return 7

    async def bad() -> None:
        raise ValueError("of the program's own")

    assert run(good) == 7
    with pytest.raises(ValueError, match="of the program's own"):
        run(bad)


def test_a_cancellation_that_no_signal_made_is_none_of_ours() -> None:
    async def main() -> None:
        raise asyncio.CancelledError

    with pytest.raises(asyncio.CancelledError):
        run(main)


def test_the_signal_handlers_of_the_caller_are_back_afterwards() -> None:
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]

    async def main() -> None:
        pass

    run(main)
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before


def test_it_runs_in_any_thread() -> None:
    """A library may be called from anywhere; signals are the main thread's business."""
    results: list[object] = []

    async def main() -> str:
        return "through"

    def call() -> None:
        try:
            results.append(run(main))
        except BaseException as error:
            results.append(error)

    thread = threading.Thread(target=call)
    thread.start()
    thread.join(20)
    assert results == ["through"]


def test_uvloop_is_used_where_it_is_installed() -> None:
    async def main() -> str:
        return type(asyncio.get_running_loop()).__module__

    assert run(main).startswith("uvloop")
