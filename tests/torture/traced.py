"""A client process under strace: killed at, or refused, the n-th system call of a kind.

strace counts per thread: ``when=n`` hits each thread's n-th call of that kind. What it did is read from its log.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

from tests.support.cli import CHECKOUT

KINDS = (
    *("openat", "mkdir", "mkdirat", "link", "linkat", "rename", "renameat2", "unlink", "unlinkat", "rmdir"),
    *("fsync", "fdatasync", "syncfs", "fchmod", "fchmodat", "utimensat", "write", "pwrite64", "pwritev", "ftruncate"),
    *("fallocate", "copy_file_range", "flock", "fcntl", "ioctl"),
)
"""Everything by which a client changes a disk, and the locks that say who may."""
_CALL = re.compile(r"^(\d+) +(\w+)\((.*)$")
_INJECTED = "(INJECTED)"


@dataclass(frozen=True, slots=True)
class Call:
    """One system call of a log."""

    thread: int
    kind: str
    text: str
    """Arguments and result, with the paths of descriptors."""

    @property
    def injected(self) -> bool:
        return _INJECTED in self.text

    def concerns(self, directory: Path) -> bool:
        """Whether a file below ``directory`` is named, by path or descriptor."""
        return str(directory) in self.text


def read_log(path: Path) -> list[Call]:
    """The calls of a log. A call that another thread's call interrupts is put together again."""
    pending: dict[int, str] = {}
    found = []
    for line in path.read_text(errors="replace").splitlines():
        thread, _, rest = line.partition(" ")
        rest = rest.strip()
        if rest.startswith("<... "):
            rest = pending.pop(int(thread), "") + rest.partition(" resumed>")[2]
        elif rest.endswith("<unfinished ...>"):
            pending[int(thread)] = rest.removesuffix("<unfinished ...>")
            continue
        if match := _CALL.match(f"{thread} {rest}"):
            found.append(Call(int(match[1]), match[2], match[3]))
    found += [Call(thread, text.partition("(")[0], text.partition("(")[2]) for thread, text in pending.items()]
    return found


def counts(calls: Sequence[Call]) -> dict[str, int]:
    """Kind → the most calls that one thread made. Programs that were started from there are left out."""
    started = {call.thread for call in calls if call.kind == "execve"}
    each = Counter((call.kind, call.thread) for call in calls if call.thread not in started)
    most: dict[str, int] = {}
    for (kind, _), number in each.items():
        most[kind] = max(most.get(kind, 0), number)
    return {kind: number for kind, number in sorted(most.items()) if kind in KINDS}


@dataclass(slots=True)
class Ended:
    """How an order ended."""

    status: int
    """Exit code; negative: the signal."""
    facts: list[dict[str, Any]] = field(default_factory=list)
    calls: list[Call] = field(default_factory=list)

    @property
    def killed(self) -> bool:
        return self.status == -signal.SIGKILL

    @property
    def hit(self) -> list[Call]:
        """Calls that were refused."""
        return [call for call in self.calls if call.injected]

    def told(self, event: str) -> list[dict[str, Any]]:
        return [fact for fact in self.facts if fact.get("event") == event]


class Client:
    """The process of client_process.py. Leave the ``with`` block and it, and what it has forked, are gone."""

    def __init__(self) -> None:
        environ = {name: value for name, value in os.environ.items() if name == "FETCHER_NATIVE"}
        environ |= {"PATH": os.environ["PATH"], "HOME": "/nonexistent", "LANG": "C.UTF-8"}
        environ |= {"PYTHONPATH": str(CHECKOUT), "PYTHONDONTWRITEBYTECODE": "1", "PYTHONWARNINGS": "error"}
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.torture.client_process"],
            cwd=CHECKOUT,
            env=environ,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            bufsize=0,
        )
        self._buffer = b""
        self.pid = 0
        """Of the child at work; 0 between orders."""
        try:
            assert self._line() == {"event": "loaded"}
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        self.kill()
        self._process.kill()
        self._process.wait()
        for stream in (self._process.stdin, self._process.stdout):
            if stream is not None:
                stream.close()

    def kill(self) -> None:
        """kill -9 for the child at work, if there is one. Its parent has not waited for it before it says so."""
        if self.pid:
            try:
                os.kill(self.pid, signal.SIGKILL)
            except ProcessLookupError:
                pass

    def begin(self, order: Mapping[str, Any]) -> None:
        """Let a child get ready for an order; ``go`` lets it begin."""
        self._send(json.dumps(order))
        self.pid = int(self._line()["pid"])

    def go(self) -> None:
        self._send("go")

    def end(self) -> Ended:
        """Wait for it."""
        facts = []
        while (fact := self._line()).get("event") != "ended":
            facts.append(fact)
        self.pid = 0
        return Ended(int(fact["status"]), facts)

    def work(self, order: Mapping[str, Any]) -> Ended:
        """Carry out an order, not traced."""
        self.begin(order)
        self.go()
        return self.end()

    def traced(self, order: Mapping[str, Any], log: Path, *injections: str, kinds: Sequence[str] = KINDS) -> Ended:
        """Carry out an order under strace, which does as the injections say (``fsync:error=EIO:when=2``)."""
        self.begin(order)
        with _strace(self.pid, log, kinds, injections):
            self.go()
            ended = self.end()
        ended.calls = read_log(log)
        return ended

    def _send(self, text: str) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(text.encode() + b"\n")

    def _line(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        while b"\n" not in self._buffer:
            piece = self._process.stdout.read(65536)
            assert piece, f"the client process ended with {self._process.wait()}"
            self._buffer += piece
        line, _, self._buffer = self._buffer.partition(b"\n")
        fact = json.loads(line)
        assert isinstance(fact, dict)
        return fact


@contextmanager
def _strace(pid: int, log: Path, kinds: Sequence[str], injections: Sequence[str]) -> Iterator[None]:
    """strace at work on a process; it ends with it."""
    named = "?" + ",?".join((*kinds, "execve"))  # kinds that this architecture does not have are no error
    command = ["strace", "-f", "-y", "-s", "0", "-o", str(log), "-e", f"trace={named}", "-e", "signal=none"]
    for injection in injections:
        command += ["-e", f"inject={injection}"]
    process = subprocess.Popen([*command, "-p", str(pid)], stderr=subprocess.PIPE, text=True)
    try:
        assert process.stderr is not None
        said = process.stderr.readline()
        assert "attached" in said, said + process.stderr.read()
        yield
        process.communicate(timeout=20)
    finally:
        process.kill()
        process.communicate()
