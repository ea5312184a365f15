"""Secrets that are looked for afterwards: their forms, where they may go on the wire, and every place where they must
not be.

A *canary* is a secret with a name. A ``Watch`` runs the program as child processes and remembers all that they say, the
command lines of them and their children, and all bytes that embedded origins receive, by port.
"""

from __future__ import annotations

import base64
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote, quote_plus

from fetcher.testing import wire
from tests.support.cli import CHECKOUT, CommandLine

SITE = """
import logging, os, sys
logging.basicConfig(level=1, filename=os.environ["CANARY_LOG"], format="%(name)s %(levelname)s %(message)s")
logging.captureWarnings(True)
def _look(event, arguments, _log=os.open(os.environ["CANARY_LOG"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)):
    if event == "open" and os.path.basename(str(arguments[0])) in (".netrc", "_netrc"):
        os.write(_log, b"OPENED-NETRC %r\\n" % str(arguments[0]).encode())
    if event == "subprocess.Popen":
        os.write(_log, b"CHILD %r\\n" % repr(arguments[1]).encode())
sys.addaudithook(_look)
"""
"""What every child begins with: all logging there is, in a file, and an eye on what it opens and starts."""


@dataclass(frozen=True)
class Canary:
    """One secret."""

    name: str
    text: str
    ports: frozenset[int] = frozenset()
    """Of the origins that it is for."""
    typed: bool = False
    """A user wrote it into a command line himself."""


def forms(text: str) -> set[bytes]:
    """How a secret may be written: as it is, quoted for URLs and JSON, base64 at each alignment, hex, backwards."""
    raw = text.encode()
    found = {raw, raw[::-1], raw.hex().encode(), raw.hex().upper().encode()}
    for quoted in (
        quote(text, safe=""),
        quote(text),
        quote_plus(text),
        json.dumps(text)[1:-1],
        text.replace("/", "\\/"),
    ):
        found |= {quoted.encode(), re.sub(r"%[0-9A-F]{2}", lambda match: match[0].lower(), quoted).encode()}
    found.add("".join(f"\\u{ord(character):04x}" for character in text).encode())
    found.add("".join(f"%{byte:02X}" for byte in raw).encode())
    for lead in range(3):
        # The first and the last characters depend on what stands beside.
        encoded = base64.b64encode(b"\0" * lead + raw)[(0, 2, 3)[lead] :].rstrip(b"=")[:-1]
        found |= {encoded, encoded.translate(bytes.maketrans(b"+/", b"-_"))}
    return found


def found_in(data: bytes, canaries: list[Canary]) -> list[str]:
    """Names of the canaries that ``data`` holds, in whatever form."""
    return [canary.name for canary in canaries if any(form in data for form in forms(canary.text))]


@dataclass
class Watch:
    """Everything that was said, written, run and sent."""

    run_cli: CommandLine
    canaries: list[Canary] = field(default_factory=list)
    planted: set[Path] = field(default_factory=set)
    """Files that are there to hold a secret."""
    said: list[tuple[str, bytes]] = field(default_factory=list)
    command_lines: set[bytes] = field(default_factory=set)
    received: dict[int, bytearray] = field(default_factory=dict)
    """Port → all bytes that came there, connections mixed."""
    exit_codes: list[tuple[str, int]] = field(default_factory=list)

    @property
    def home(self) -> Path:
        return self.run_cli.home()

    @property
    def log(self) -> Path:
        return self.home.parent / "canary.log"

    def plant(self, path: Path, text: str) -> Path:
        """Write a file that holds a secret by right."""
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        path.chmod(0o600)
        self.planted.add(path)
        return path

    def add(self, name: str, text: str, *endpoints: str, typed: bool = False) -> str:
        """A canary that may go to these origins; returns it."""
        ports = frozenset(int(endpoint.rpartition(":")[2]) for endpoint in endpoints)
        self.canaries.append(Canary(name, text, ports, typed))
        return text

    # --- running

    def run(
        self,
        *arguments: str | Path,
        env: Mapping[str, str | None],
        document: object = None,
        cut: tuple[int, Callable[[], bool]] | None = None,
        timeout_s: float = 40.0,
    ) -> int:
        """One run of the program at its most talkative. ``cut``: a signal, and when to send it."""
        site = self.home.parent / "site"
        site.mkdir(exist_ok=True)
        (site / "sitecustomize.py").write_text(SITE)
        (self.home / "tmp").mkdir(parents=True, exist_ok=True)
        loud = {
            "PYTHONPATH": f"{site}{os.pathsep}{CHECKOUT}",
            "PYTHONDEVMODE": "1",
            "PYTHONASYNCIODEBUG": "1",
            "CANARY_LOG": str(self.log),
            "TMPDIR": str(self.home / "tmp"),
            **env,
        }
        given = (
            b""
            if document is None
            else document.encode()
            if isinstance(document, str)
            else json.dumps(document).encode()
        )
        process = self.run_cli.start(*arguments, env=loud, stdin=subprocess.PIPE)
        done = threading.Event()
        sampler = threading.Thread(target=self._sample, args=(process.pid, done, process, cut))
        sampler.start()
        try:
            stdout, stderr = process.communicate(given, timeout=timeout_s)
        finally:
            if process.poll() is None:
                process.kill()
                process.communicate()
            done.set()
            sampler.join()
        title = " ".join(str(argument).partition("?")[0] for argument in arguments)
        self.said += [(f"stdout of {title}", stdout), (f"stderr of {title}", stderr)]
        self.exit_codes.append((title, process.returncode))
        return process.returncode

    def _sample(
        self,
        pid: int,
        done: threading.Event,
        process: subprocess.Popen[bytes],
        cut: tuple[int, Callable[[], bool]] | None,
    ) -> None:
        while not done.is_set():
            self.command_lines |= _command_lines(pid)
            if cut is not None and cut[1]():
                process.send_signal(cut[0])
                cut = None
            time.sleep(0.005)

    # --- judging

    def sinks(self) -> Iterator[tuple[str, bytes]]:
        """All places that must hold no secret."""
        yield from self.said
        yield from (("a command line", line) for line in self.command_lines)
        places = [self.home, self.log] if self.log.exists() else [self.home]
        for place in places:
            for path in (place, *place.rglob("*")):
                yield "a name", os.fsencode(path.name)
                if path.is_symlink():
                    yield f"symlink {path}", os.fsencode(os.readlink(path))
                elif path.is_file() and path not in self.planted:
                    yield f"file {path}", path.read_bytes()

    def leaks(self) -> list[str]:
        """Every secret that is where it must not be, sinks and wire."""
        found = []
        not_typed = [canary for canary in self.canaries if not canary.typed]
        for place, data in self.sinks():
            hidden = not_typed if place == "a command line" else self.canaries
            found += [f"{name} in {place}" for name in found_in(data, hidden)]
        for port, data in self.received.items():
            strange = [canary for canary in self.canaries if port not in canary.ports]
            found += [f"{name} sent to port {port}" for name in found_in(bytes(data), strange)]
        if self.log.exists() and b"OPENED-NETRC" in self.log.read_bytes():
            found.append("a netrc file was opened")
        return sorted(set(found))

    def used(self, name: str) -> bool:
        """Whether this canary came to an origin that it is for, in whatever form."""
        canary = next(each for each in self.canaries if each.name == name)
        return any(found_in(bytes(self.received.get(port, b"")), [canary]) for port in canary.ports)

    @contextmanager
    def tapped(self) -> Iterator[None]:
        """Keep all bytes that embedded origins of this process receive, while the block runs."""
        original = wire._Connection._receive_more

        async def receive_more(connection: Any) -> None:
            before = len(connection._received)
            await original(connection)
            port = connection._socket.getsockname()[1]
            self.received.setdefault(port, bytearray()).extend(connection._received[before:])

        wire._Connection._receive_more = receive_more  # type: ignore[method-assign]
        try:
            yield
        finally:
            wire._Connection._receive_more = original  # type: ignore[method-assign]

    def add_signatures(self, name: str, pattern: str, endpoint: str) -> int:
        """Make a canary of each signature in URLs that came to an origin: they may be nowhere else. Their number."""
        port = int(endpoint.rpartition(":")[2])
        texts = set(re.findall(pattern.encode(), bytes(self.received.get(port, b""))))
        for text in texts:
            self.canaries.append(Canary(name, text.decode(), frozenset({port})))
        return len(texts)


def _command_lines(pid: int) -> set[bytes]:
    """Of a process and all below it, as far as they are there."""
    found, waiting = set(), [pid]
    while waiting:
        one = waiting.pop()
        try:
            found.add(Path(f"/proc/{one}/cmdline").read_bytes())
            for task in os.listdir(f"/proc/{one}/task"):
                waiting += [int(child) for child in Path(f"/proc/{one}/task/{task}/children").read_text().split()]
        except OSError:
            pass
    return found


def file_appears(directory: Path, pattern: str, bytes_min: int = 1) -> Callable[[], bool]:
    """Whether there is a file of that name with something in it, for ``cut``."""
    return lambda: any(_size(path) >= bytes_min for path in directory.glob(pattern))


def _size(path: Path) -> int:
    try:
        return path.stat().st_blocks * 512
    except OSError:
        return 0


INTERRUPT, KILL = int(signal.SIGINT), int(signal.SIGKILL)
PYTHON = sys.executable
