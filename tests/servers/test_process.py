"""How server processes start and end, with servers made for it: nothing of them may stay."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.support.cli import CHECKOUT
from tests.support.servers.process import (
    ServerError,
    accepts,
    answers_http,
    free_port,
    running,
    server_directory,
)

_LISTEN = "import socket, sys, time; s = socket.create_server(('127.0.0.1', int(sys.argv[1]))); "


def _python(code: str, *arguments: object) -> list[str]:
    return [sys.executable, "-c", code, *map(str, arguments)]


def _group_is_gone(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return True
    return False


def _never() -> bool:
    return False


def test_a_server_is_there_until_the_block_is_left() -> None:
    port = free_port()
    with server_directory("x") as directory:
        with running(
            "listener", _python(_LISTEN + "time.sleep(60)", port), directory=directory, ready=lambda: accepts(port)
        ) as server:
            assert not answers_http(free_port())
        assert not server.running
        assert not accepts(port)
        server.stop()  # once more does nothing
    assert not directory.exists()


def test_one_that_ends_early_is_reported_with_its_log(tmp_path: Path) -> None:
    with pytest.raises(ServerError, match=r"(?s)early ended with 3:.*no such option"):
        with running(
            "early",
            _python("import sys; print('no such option', file=sys.stderr); sys.exit(3)"),
            directory=tmp_path,
            ready=_never,
        ):
            raise AssertionError("it never was ready")


def test_one_that_never_gets_ready_is_ended(tmp_path: Path) -> None:
    began = time.monotonic()
    with pytest.raises(ServerError, match=r"late was not ready within 0\.3 s"):
        with running("late", _python("import time; time.sleep(60)"), directory=tmp_path, ready=_never, ready_s=0.3):
            raise AssertionError("it never was ready")
    assert time.monotonic() - began < 10


def test_what_it_started_ends_with_it_and_what_hears_no_term_is_killed(tmp_path: Path) -> None:
    code = (
        "import os, signal, sys, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); os.fork(); os.fork(); "
        "open(sys.argv[1] + str(os.getpid()), 'w'); time.sleep(60)"
    )
    with running(
        "deaf",
        _python(code, tmp_path / "up-"),
        directory=tmp_path,
        ready=lambda: len(list(tmp_path.glob("up-*"))) == 4,
        stop_s=0.3,
    ) as server:
        assert not _group_is_gone(server.pid)
    assert _group_is_gone(server.pid)


def test_a_killed_server_is_gone_at_once(tmp_path: Path) -> None:
    port = free_port()
    with running(
        "listener", _python(_LISTEN + "time.sleep(60)", port), directory=tmp_path, ready=lambda: accepts(port)
    ) as server:
        server.kill()
        assert _group_is_gone(server.pid)
        assert not accepts(port)


def test_it_ends_when_the_run_that_started_it_is_killed(tmp_path: Path) -> None:
    port = free_port()
    listener = repr(_python(_LISTEN + "time.sleep(60)", port))
    code = (
        "import sys, time; from pathlib import Path; from tests.support.servers.process import accepts, running\n"
        f"with running('x', {listener}, directory=Path(sys.argv[1]), ready=lambda: accepts({port})) as server:\n"
        "    print(server.pid, flush=True); time.sleep(60)"
    )
    with subprocess.Popen(_python(code, tmp_path), cwd=CHECKOUT, stdout=subprocess.PIPE) as run:
        assert run.stdout is not None
        server = int(run.stdout.readline())
        run.kill()
    # It is this process's child now (see adopt_orphans), which learns by waiting that it has ended, and how.
    ended, status = os.waitpid(server, 0)
    assert (ended, os.waitstatus_to_exitcode(status)) == (server, -signal.SIGTERM)
    assert not accepts(port)


def test_its_environment_is_clean_but_for_what_was_given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "of the developer")
    code = "import os, json, sys, time; print(json.dumps(dict(os.environ)), flush=True); time.sleep(60)"
    with running(
        "environment",
        _python(code),
        directory=tmp_path,
        environment={"GIVEN": "yes"},
        ready=lambda: "GIVEN" in (tmp_path / "environment.log").read_text(),
    ) as server:
        assert "of the developer" not in server.log_tail()
        assert f'"HOME": "{tmp_path}"' in server.log_tail()


def test_a_free_port_is_given_once_and_can_be_listened_on() -> None:
    ports = [free_port() for _ in range(50)]
    assert len(set(ports)) == len(ports)
    with socket.create_server(("127.0.0.1", ports[0])):
        assert accepts(ports[0])
