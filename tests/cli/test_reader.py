"""A reader that goes away in the middle ends the program, and what it was doing; one that pauses holds nothing up."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import signal
import time

from fetcher.testing import Synthetic
from fetcher.testing.faults import Trickle
from fetcher.testing.hub import Hub
from tests.support.cli import CommandLine

MIB = 1 << 20


def test_a_reader_that_leaves_in_mid_download_ends_it(run_cli: CommandLine, hub: Hub) -> None:
    hub.add_repo("acme/slow", files={"weights.bin": bytes(40 * MIB)})
    hub.faults.add(Trickle(100_000.0).on("cdn"))
    process = run_cli.start("get", "hf://acme/slow", "--json")
    with process:
        assert process.stdout is not None and process.stderr is not None
        process.stdout.readline()
        began = time.monotonic()
        process.stdout.close()
        process.wait(30)
        told = process.stderr.read()
    assert process.returncode == 128 + signal.SIGPIPE
    assert told == b""
    assert hub.body_bytes_sent() < 30 * MIB, "it went on for nobody"
    assert time.monotonic() - began < 25


def test_a_reader_that_pauses_holds_nothing_up(run_cli: CommandLine, hub: Hub) -> None:
    """What is told in three seconds fills the pipe. The run, for which others may wait, goes on to its end."""
    hub.add_repo("acme/slow", files={"weights.bin": Synthetic(12 * MIB, 1)})
    reader, writer = os.pipe()
    with os.fdopen(reader, "rb") as read:
        try:
            fcntl.fcntl(writer, fcntl.F_SETPIPE_SZ, 4096)
            process = run_cli.start("get", "hf://acme/slow", "--json", "--limit-rate", "2MiB", stdout=writer)
        finally:
            os.close(writer)
        with process:
            try:
                _, told = process.communicate(timeout=30)
            finally:
                process.kill()
        lines = [json.loads(line) for line in read]
    assert (process.returncode, told) == (0, b"")
    *progress, last = lines
    assert {line["event"] for line in progress} == {"progress"}
    assert progress
    assert (last["event"], last["bytes"]) == ("snapshot", 12 * MIB)


def test_a_terminal_that_nobody_reads_holds_nothing_up(run_cli: CommandLine, hub: Hub) -> None:
    """As of a program in a container whose client is suspended. A drawing is so wide that few fill what the kernel
    keeps; before that it calls the terminal writable, and takes the beginning of one more."""
    hub.add_repo("acme/slow", files={"weights.bin": Synthetic(12 * MIB, 1)})
    ours, theirs = pty.openpty()
    try:
        env = {"TERM": "xterm", "COLUMNS": "4000"}
        try:
            process = run_cli.start("get", "hf://acme/slow", "--limit-rate", "2MiB", stderr=theirs, env=env)
        finally:
            os.close(theirs)
        with process:
            try:
                told, _ = process.communicate(timeout=40)
            finally:
                process.kill()
        kept = os.read(ours, 1 << 20)
    finally:
        os.close(ours)
    assert process.returncode == 0
    assert told.decode().rstrip().startswith(str(run_cli.home() / "cache"))
    assert b"acme/slow" in kept, "it was drawn as long as there was room"


def test_an_owner_that_is_not_there_is_told_before_anything_is_fetched(run_cli: CommandLine, hub: Hub) -> None:
    hub.add_repo("acme/tiny", files={"a": b"a"})
    job = '{"ops": [{"id": "x", "args": {"resources": [{"type": "HF", "repo": "acme/tiny", "target": "/d"}]}}]}'
    done = run_cli("job", "-", "--owner-pid", "999999999", input=job)
    assert (done.exit_code, done.stdout) == (60, "")
    assert "no process 999999999" in done.stderr and "hint: " in done.stderr
    assert not hub.requests


def test_a_run_that_got_nothing_is_not_done(run_cli: CommandLine, hub: Hub) -> None:
    done = run_cli("get", "hf://acme/nothing", "--json")
    assert done.exit_code == 21
    assert "done" not in {line["phase"] for line in done.events("progress")}
