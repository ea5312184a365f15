"""A server as a process of its own: started in its own group with its log in a file, waited for, and gone afterwards.

Knows no server in particular. Whoever opens one closes it (``with``); what is left of its process group by then is
killed, and should the test run itself be killed, the server is told to end.
"""

from __future__ import annotations

import http.client
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.support.cli import ORDINARY_UID, User, as_ordinary_user
from tests.support.servers.places import find_program, program_path

READY_S = 30.0
"""A server that has not answered by then has failed; the slowest takes 3 s on two busy cores."""

STOP_S = 10.0
"""From TERM to KILL."""

_POLL_S = 0.02

# TERM to the server when the process that started it is gone, however it went. By a program, not by code run between
# fork and exec, which Python warns of where there are threads.
_END_WITH_PARENT = ("setpriv", "--pdeathsig", "TERM", "--") if find_program("setpriv") else ()


class ServerError(RuntimeError):
    """A server did not start, or did not end as asked. Holds the end of its log."""


@dataclass(slots=True)
class Server:
    """A server process. Ends once, by ``stop`` or by ``kill``; asking again does nothing."""

    name: str
    process: subprocess.Popen[bytes]
    log: Path
    """Everything it wrote to stdout and stderr."""

    @property
    def pid(self) -> int:
        """The process, and its group."""
        return self.process.pid

    @property
    def running(self) -> bool:
        """Whether the process itself is there."""
        return self.process.poll() is None

    def stop(self, grace_s: float = STOP_S) -> None:
        """TERM to the server, ``grace_s`` to end in; then KILL to whatever of its group is left."""
        self._end(signal.SIGTERM, grace_s)

    def kill(self) -> None:
        """KILL to the whole group at once: the power cut."""
        self._end(signal.SIGKILL, STOP_S)

    def log_tail(self, lines_max: int = 30) -> str:
        """The last lines of the log, for a message."""
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines_max:])

    def _end(self, number: int, grace_s: float) -> None:
        if self.running:
            if number == signal.SIGKILL:
                _signal_group(self.pid, number)
            else:
                self.process.send_signal(number)
        try:
            self.process.wait(grace_s)
        except subprocess.TimeoutExpired:
            pass
        deadline = time.monotonic() + STOP_S
        while _signal_group(self.pid, signal.SIGKILL):
            self.process.poll()
            _reap_group(self.pid)
            if time.monotonic() >= deadline:
                raise ServerError(f"{self.name}: processes of group {self.pid} outlive a KILL")
            time.sleep(_POLL_S)
        self.process.wait()


@contextmanager
def running(
    name: str,
    command: Sequence[str | Path],
    *,
    directory: Path,
    ready: Callable[[], bool],
    environment: Mapping[str, str] | None = None,
    user: User = "current",
    ready_s: float = READY_S,
    stop_s: float = STOP_S,
) -> Iterator[Server]:
    """``command``, run in ``directory`` with ``<name>.log`` in it, from when ``ready`` says so. The environment is
    clean but for ``environment``. Raises ServerError, with the end of the log, when it ends early or never gets ready.
    """
    log = directory / f"{name}.log"
    words = [*_END_WITH_PARENT, *(str(word) for word in command)]
    temporary = directory / "tmp"
    temporary.mkdir(exist_ok=True)
    if user == "ordinary":
        os.chown(temporary, ORDINARY_UID, ORDINARY_UID)
        words = as_ordinary_user(words)
    clean = {"PATH": program_path(), "HOME": str(directory), "TMPDIR": str(temporary), "LANG": "C.UTF-8"}
    with log.open("wb") as sink:
        process = subprocess.Popen(
            words,
            cwd=directory,
            env={**clean, **(environment or {})},
            stdin=subprocess.DEVNULL,
            stdout=sink,
            stderr=subprocess.STDOUT,
            process_group=0,
        )
    server = Server(name, process, log)
    try:
        _wait(server, ready, ready_s)
        yield server
    finally:
        server.stop(stop_s)


@contextmanager
def server_directory(name: str, *, parent: Path | None = None, user: User = "current") -> Iterator[Path]:
    """A directory for one server, with a short path (a unix socket's has room for 107 bytes); removed at the end."""
    directory = Path(tempfile.mkdtemp(prefix=f"fetcher-{name}-", dir=parent))
    try:
        directory.chmod(0o755)
        if user == "ordinary":
            os.chown(directory, ORDINARY_UID, ORDINARY_UID)
        yield directory
    finally:
        shutil.rmtree(directory)


def free_port() -> int:
    """A loopback port that nobody else is given for a minute: the pair of connections ended here keeps it in TIME_WAIT,
    where a listener may take it (SO_REUSEADDR, as every server sets) but the kernel does not hand it out again."""
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(("127.0.0.1", 0))
        listener.listen(1)
        port: int = listener.getsockname()[1]
        with socket.create_connection(("127.0.0.1", port)) as client:
            accepted, _ = listener.accept()
            accepted.close()  # first, so that it is the server's side that stays in TIME_WAIT
            client.recv(1)
    return port


def answers_http(port: int, path: str = "/", *, status: int | None = None) -> bool:
    """Whether a request on loopback gets an answer, of ``status`` if given."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        connection.request("GET", path)
        answered = connection.getresponse().status
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()
    return status is None or answered == status


def accepts(port: int) -> bool:
    """Whether somebody listens on this loopback port."""
    try:
        socket.create_connection(("127.0.0.1", port), timeout=5).close()
    except OSError:
        return False
    return True


def _wait(server: Server, ready: Callable[[], bool], ready_s: float) -> None:
    deadline = time.monotonic() + ready_s
    while not ready():
        if not server.running:
            raise ServerError(f"{server.name} ended with {server.process.returncode}:\n{server.log_tail()}")
        if time.monotonic() >= deadline:
            raise ServerError(f"{server.name} was not ready within {ready_s} s:\n{server.log_tail()}")
        time.sleep(_POLL_S)


def _signal_group(group: int, number: int) -> bool:
    try:
        os.killpg(group, number)
    except ProcessLookupError:
        return False
    return True


def _reap_group(group: int) -> None:
    # Orphans of the group are this process's children where it adopts them; as zombies they would count as alive.
    try:
        while os.waitpid(-group, os.WNOHANG)[0]:
            pass
    except ChildProcessError:
        pass
