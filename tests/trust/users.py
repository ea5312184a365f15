"""Users of one host, for tests that are root: run something as one of them, and the place where they all meet."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.support.cli import CHECKOUT

STRANGER_UID = 1001
"""Neither root nor the ordinary user; in no group but its own."""

_STRANGER = Path(__file__).with_name("stranger.py")
_LAUNCHER = CHECKOUT / "tests" / "support" / "as_user.py"


def command_as(uid: int, command: list[str]) -> list[str]:
    """``command``, wrapped so that it runs as a user; only root can run it."""
    reachable = {str(CHECKOUT), sys.prefix, sys.base_prefix, str(Path(sys.executable).parent)}
    return [sys.executable, "-I", str(_LAUNCHER), str(uid), *sorted(reachable), "--", *command]


def stranger(job: str, *arguments: Any, uid: int = STRANGER_UID, timeout_s: float = 40.0) -> Any:
    """What ``tests/trust/stranger.py`` says of a job, done as another user."""
    done = subprocess.run(
        command_as(uid, [sys.executable, "-I", str(_STRANGER), job]),
        input=json.dumps(arguments),
        capture_output=True,
        text=True,
        timeout=timeout_s,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@contextmanager
def busy_stranger(job: str, *arguments: Any, uid: int = STRANGER_UID) -> Iterator[subprocess.Popen[str]]:
    """The same while the block runs: it has begun when the block does, and is gone when it is left."""
    process = subprocess.Popen(
        command_as(uid, [sys.executable, "-I", str(_STRANGER), job]),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(json.dumps(arguments))
        process.stdin.close()
        assert process.stdout.readline() == "ready\n"
        yield process
    finally:
        process.kill()
        process.wait()
        for stream in (process.stdout, process.stderr):
            if stream is not None:
                stream.close()


@contextmanager
def meeting_place(mode: int) -> Iterator[Path]:
    """A directory of root's that every user can reach, with a mode of its own."""
    with tempfile.TemporaryDirectory(prefix="fetcher-test-") as name:
        Path(name).chmod(0o755)
        place = Path(name) / "place"
        place.mkdir()
        place.chmod(mode)
        yield place
