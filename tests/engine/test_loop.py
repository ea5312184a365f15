"""The loop of a command: Ctrl-C once stops cleanly, twice leaves. Seen from outside, on real signals."""

from __future__ import annotations

import asyncio
import fcntl
import re
import signal
import subprocess
import sys
import termios
import threading
import time
from pathlib import Path

import pytest

from fetcher.engine.loop import run

CHECKOUT = Path(__file__).resolve().parents[2]

LOOPS = ("uvloop", "asyncio")

PIPE_BYTES = 4096

PROGRAM = """
import asyncio, sys
if sys.argv[2] == "asyncio":
    sys.modules["uvloop"] = None
from fetcher.engine.loop import run
from fetcher.errors import InterruptedByUser

def say(text):
    print(text, flush=True)

async def main():
    say("ready")
    assert type(asyncio.get_running_loop()).__module__.startswith(sys.argv[2])
    if sys.argv[1] == "deaf":
        say("x" * 1_000_000)
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

    def __init__(self, kind: str, loop: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", PROGRAM, kind, loop],
            cwd=CHECKOUT,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            pipesize=PIPE_BYTES,
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


@pytest.mark.parametrize("loop", LOOPS)
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_once_stops_cleanly(number: signal.Signals, loop: str) -> None:
    with Program("quick", loop) as program:
        program.process.send_signal(number)
        code, stdout, stderr = program.end()
    assert code == 130
    assert stdout.splitlines()[:2] == ["cleaning up", "cleaned up"]
    assert re.match(r"InterruptedByUser: whole (blocks|files) are kept", stdout.splitlines()[2])
    assert stderr == ""


@pytest.mark.parametrize("loop", LOOPS)
@pytest.mark.parametrize(
    ("first", "second", "code"),
    [
        (signal.SIGINT, signal.SIGINT, 130),
        (signal.SIGTERM, signal.SIGTERM, 143),
        (signal.SIGTERM, signal.SIGINT, 130),
    ],
    ids=lambda value: value.name if isinstance(value, signal.Signals) else str(value),
)
def test_twice_leaves(first: signal.Signals, second: signal.Signals, code: int, loop: str) -> None:
    with Program("slow", loop) as program:
        program.process.send_signal(first)
        assert program.line() == "cleaning up"
        program.process.send_signal(second)
        assert program.end() == (code, "", "")


@pytest.mark.parametrize("loop", LOOPS)
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_twice_leaves_also_while_the_loop_waits_for_a_reader(number: signal.Signals, loop: str) -> None:
    with Program("deaf", loop) as program:
        assert program.process.stdout is not None
        deadline = time.monotonic() + 30
        while held_bytes(program.process.stdout.fileno()) < PIPE_BYTES and time.monotonic() < deadline:
            time.sleep(0.01)
        while program.process.poll() is None and time.monotonic() < deadline:
            program.process.send_signal(number)  # two that come before the process runs again are one
            time.sleep(0.05)
        assert program.process.poll() == 128 + number


@pytest.mark.parametrize("loop", LOOPS)
def test_once_is_heard_when_the_reader_goes_on(loop: str) -> None:
    with Program("deaf", loop) as program:
        assert program.process.stdout is not None
        deadline = time.monotonic() + 30
        while held_bytes(program.process.stdout.fileno()) < PIPE_BYTES and time.monotonic() < deadline:
            time.sleep(0.01)
        program.process.send_signal(signal.SIGTERM)
        code, stdout, stderr = program.end()
    assert (code, stderr) == (130, "")
    long, *others = stdout.splitlines()
    assert set(long) == {"x"} and others[:2] == ["cleaning up", "cleaned up"]


def held_bytes(pipe: int) -> int:
    """What was written to it and is not read yet."""
    return int.from_bytes(fcntl.ioctl(pipe, termios.FIONREAD, bytes(4)), sys.byteorder)


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
    def own(number: int, frame: object) -> None:
        pass

    async def main() -> None:
        pass

    for handler in (None, signal.SIG_IGN, own):
        replaced = [(number, signal.getsignal(number)) for number in (signal.SIGINT, signal.SIGTERM)]
        try:
            for number, _ in replaced if handler is not None else ():
                signal.signal(number, handler)
            before = [signal.getsignal(number) for number, _ in replaced]
            run(main)
            assert [signal.getsignal(number) for number, _ in replaced] == before
        finally:
            for number, was in replaced:
                signal.signal(number, was)


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
