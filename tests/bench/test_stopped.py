"""Whoever stops a run gets his machine back, and keeps what was measured until then."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from benchmarks.origins import processes
from benchmarks.running import machine
from benchmarks.running.machine import Conditions
from benchmarks.running.race import room_in
from benchmarks.running.work import Command, Unusable
from benchmarks.scenarios import kill

CHECKOUT = Path(__file__).resolve().parents[2]
RUN = """
from benchmarks.__main__ import main
from benchmarks.rivals import RIVALS
from benchmarks.running.work import Command, Rival

sleeps = Command(("sh", "-c", "sleep 55; exit"))
RIVALS["sleeper"] = Rival("sleeper", {"file": lambda work: sleeps}, lambda: "1")
main()
"""
"""The suite, with a rival that is at work for as long as nobody ends it."""


def _descendants(pid: int) -> set[int]:
    """Of a process, all that live."""
    found: set[int] = set()
    for task in Path(f"/proc/{pid}/task").glob("*"):
        try:
            children = {int(child) for child in (task / "children").read_text().split()}
        except OSError:  # it has just ended
            continue
        found |= children.union(*map(_descendants, children))
    return found


def _arguments(pid: int) -> list[str]:
    try:
        return Path(f"/proc/{pid}/cmdline").read_text().split("\0")
    except OSError:
        return []


def _lives(pid: int) -> bool:
    try:
        return ") Z " not in Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False


@pytest.mark.needs("reference", "debian:curl")
@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130), (signal.SIGHUP, 129)])
def test_a_run_that_is_stopped_ends_all_it_started_and_keeps_its_lines(
    tmp_path: Path, number: signal.Signals, code: int
) -> None:
    place, temporary, output = tmp_path / "place", tmp_path / "temporary", tmp_path / "lines.jsonl"
    place.mkdir()
    temporary.mkdir()
    chosen = ("--scenario=http", "--rival=curl", "--rival=sleeper", "--size=3MiB")
    command = [sys.executable, "-c", RUN, *chosen, f"--memory={place}", f"--output={output}"]
    # As a shell starts what runs in the background: there an interrupt is ignored until somebody wants it.
    command = ["sh", "-c", "trap '' INT; exec \"$@\"", "sh", *command]
    environment = os.environ | {"TMPDIR": str(temporary)}
    with subprocess.Popen(
        command, cwd=CHECKOUT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            deadline = time.monotonic() + 30
            started: set[int] = set()
            while not any("sleep" in _arguments(pid) for pid in started):
                assert process.poll() is None and time.monotonic() < deadline
                time.sleep(0.02)
                started = _descendants(process.pid)
            assert len(started) >= 4  # nginx, its worker, a shell and what it waits for
            process.send_signal(number)
            said, talk = process.communicate(timeout=30)
        finally:
            for pid in _descendants(process.pid):
                os.kill(pid, signal.SIGKILL)
            process.kill()
    assert process.returncode == code, talk
    deadline = time.monotonic() + 10  # who is killed is gone a little later
    while any(map(_lives, started)):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert not list(place.iterdir()) and not list(temporary.iterdir())
    rows = [json.loads(line) for line in output.read_text().splitlines()]
    assert [row["rival"] for row in rows] == ["curl"]
    if number == signal.SIGINT:  # a person, who wants to see what there is
        assert "| curl |" in said and "Interrupted" in talk


def _measure(command: Command) -> None:
    machine.run(command, Conditions())


def _start_an_origin(command: Command) -> None:
    with processes.running(list(command.arguments)):
        pass


def _start_whom_to_kill(command: Command) -> None:
    with kill.started(command):
        pass


@pytest.mark.parametrize("start", [_measure, _start_an_origin, _start_whom_to_kill])
def test_who_has_just_been_started_when_a_run_is_stopped_is_ended_too(
    start: Callable[[Command], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    started = []

    def stopped(pid: int) -> None:
        started.append(pid)
        raise SystemExit(143)

    for module in (machine, processes, kill):
        monkeypatch.setattr(module, "put_first", stopped)
    with pytest.raises(SystemExit):
        start(Command(("sleep", "55")))
    (pid,) = started
    assert not _lives(pid)


def test_an_origin_ends_with_a_run_that_is_killed() -> None:
    code = """
import sys, time
from benchmarks.origins.processes import running

with running(["sleep", "55"]) as process:
    print(process.pid, flush=True)
    time.sleep(55)
"""
    with subprocess.Popen([sys.executable, "-c", code], cwd=CHECKOUT, stdout=subprocess.PIPE, text=True) as run:
        assert run.stdout is not None
        origin = int(run.stdout.readline())
        assert _lives(origin)
        run.kill()
    deadline = time.monotonic() + 10
    while _lives(origin):
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_where_there_is_no_room_it_is_said_what_killed_runs_have_left(tmp_path: Path) -> None:
    (tmp_path / "fetcher-bench-abc").mkdir()
    with pytest.raises(Unusable, match=r"removing what killed runs have left \(fetcher-bench-abc\), or a smaller"):
        with room_in(tmp_path, 1 << 60):
            pass
