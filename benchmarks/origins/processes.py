"""What all origins have in common: child processes on free ports of loopback, and what the kernel says of them."""

from __future__ import annotations

import ctypes
import json
import os
import random
import shlex
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from benchmarks.running.machine import put_first
from benchmarks.running.work import CHECKOUT, Unusable

READY_S = 20.0
PORTS = 10_000, 32_000
PR_SET_PDEATHSIG = 1
"""prctl(2), linux/prctl.h."""


def cpu_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / 100  # user and system, in ticks of 10 ms (proc(5))


def written_bytes(pid: int) -> int:
    """What a process has handed to write, writev and sendfile until now (proc(5); send is not counted)."""
    lines = Path(f"/proc/{pid}/io").read_text().splitlines()
    return next(int(line.partition(":")[2]) for line in lines if line.startswith("wchar:"))


@contextmanager
def running(command: list[str]) -> Iterator[subprocess.Popen[bytes]]:
    nothing, us, libc = subprocess.DEVNULL, os.getpid(), ctypes.CDLL(None)

    def end_with_us() -> None:
        """Also where we are killed: it would hold gigabytes of memory, files that are removed included."""
        libc.prctl(PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
        if os.getppid() != us:
            os._exit(1)

    process = subprocess.Popen(
        command, stdin=nothing, stdout=nothing, stderr=nothing, start_new_session=True, preexec_fn=end_with_us
    )
    try:
        put_first(process.pid)
        yield process
    finally:
        process.terminate()
        try:
            process.wait(READY_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


@dataclass(frozen=True, slots=True)
class Partner:
    """A child process that is asked by lines, and answers by lines."""

    name: str
    pid: int
    _questions: IO[str]
    _answers: IO[str]

    def line(self) -> str:
        """The next one that it says; unasked only the first, when it is ready."""
        return self._answers.readline()

    def told(self) -> dict[str, Any]:
        """The next line, which is JSON. Raises Unusable where there is none, since it has ended."""
        try:
            told: dict[str, Any] = json.loads(self.line())
        except ValueError:
            raise Unusable(f"{self.name} has ended; what it said of that stands above") from None
        return told

    def ask(self, question: str) -> dict[str, Any]:
        """What it answers. Raises Unusable where it has ended."""
        with suppress(BrokenPipeError):  # there will be no answer, then
            print(question, file=self._questions, flush=True)
        return self.told()


def own_module(name: str, *arguments: str) -> list[str]:
    """Command of one of these modules as a program."""
    return [sys.executable, "-m", f"benchmarks.origins.{name}", *arguments]


@contextmanager
def talking(command: list[str]) -> Iterator[Partner]:
    """One that ends with its standard input: when the block is left, and also where we are killed."""
    pipe = subprocess.PIPE
    process = subprocess.Popen(command, cwd=CHECKOUT, stdin=pipe, stdout=pipe, text=True, start_new_session=True)
    with process:
        assert process.stdin and process.stdout
        try:
            put_first(process.pid)
            yield Partner(shlex.join(command[:3]), process.pid, process.stdin, process.stdout)
        finally:
            with suppress(BrokenPipeError):  # of a question to who had ended
                process.stdin.close()


def free_ports(count: int) -> list[int]:
    """Ports of loopback that nobody has now, below those that the kernel gives to outgoing connections."""
    found: list[int] = []
    while len(found) < count:
        port = random.randrange(*PORTS)
        try:
            socket.create_server(("127.0.0.1", port)).close()
        except OSError:
            continue
        found += [port] if port not in found else []
    return found
